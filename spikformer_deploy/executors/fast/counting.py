"""Counting of messages cell by cell (see execution.Cells), in vector instructions; its plain twin is reference.observe.

Most neurons are silent, so a comparison with zero says nearly all that is to be counted.  Its outcomes are added up
as bytes, 64 in a register, and move on to wider integers before a byte can be full.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.base.compiled import inlined, part, shared
from spikformer_deploy.base.vectors import BYTE, address, eight_bytes, read, write

TOGETHER = 4
"""Maps that are looked at together: the time steps of most networks.  What they have in common is read once."""
BYTE_FULL = 255
"""Ones that a byte counts."""
MANY = 16
"""Channels of a slice from which on eight of them are added at once; fewer are differences of running sums."""


class CellTable(NamedTuple):
    """The cells of a population as the loops read them.

    row_order, row_starts  the rows of class r are row_order[row_starts[r] : row_starts[r + 1]]
    column_of              (X,) the class of every column
    widest                 columns of the largest class
    channel_cuts           (slices + 1,) edges of the slices of channels
    slabs                  (b + 1,) edges of ranges of slices: a task takes one of them
    """

    row_order: Array
    row_starts: Array
    column_of: Array
    widest: int
    channel_cuts: Array
    slabs: Array


@shared
def observe(sent: Array, binary: bool, table: CellTable, messages: Array, active: Array, total: Array) -> None:
    """Count what maps (M, Y, X, C) of any integer type hold; a task takes one class of rows and one slab.

    binary    no value exceeds 1: messages are their own sum
    messages  (M, slices, rows, columns) int32: non-zero values of each cell
    active    (Y, X, C) uint8: becomes 1 where any map is not zero
    total     (M, rows, b) int64: sum of the values
    """
    # what is written are arguments, not fields: numba takes a store to an array of a tuple for one that nobody reads
    maps, _, width, _ = sent.shape
    _, _, rows, columns = messages.shape
    parts = len(table.slabs) - 1
    for task in prange(rows * parts):
        r = task // parts
        b = task % parts
        cuts = table.channel_cuts[table.slabs[b] : table.slabs[b + 1] + 1]
        low = cuts[0]
        high = cuts[-1]
        chosen = table.row_order[table.row_starts[r] : table.row_starts[r + 1]]
        few = len(chosen) * table.widest <= BYTE_FULL  # no byte overflows
        # seven bytes more than there are channels: sums of bytes read whole words
        recent = np.zeros((TOGETHER, columns, high - low + 7), np.uint8)
        count = np.zeros((0 if few else TOGETHER, columns, high - low + 7), np.int32)
        running = np.zeros(high - low + 1, np.int32)
        for start in range(0, maps, TOGETHER):
            size = min(TOGETHER, maps - start)
            met = 0
            for y in chosen:
                for x in range(width):
                    mark = active[y, x, low:high]
                    _note_fired(sent[start:, y, x, low:high], recent[:size, table.column_of[x]], mark)
                    met += 1
                    if met % BYTE_FULL == 0 and not few:
                        _move(recent, count)
            if not few:
                _move(recent, count)
            for k in range(size):
                values = np.int64(0)
                for column in range(columns):
                    cells = messages[start + k, table.slabs[b] : table.slabs[b + 1], r, column]
                    if few:
                        values += _sum_bytes(recent[k, column], cuts, cells, running)
                    else:
                        values += _sum_words(count[k, column], cuts, cells)
                if not binary:
                    values = _sum_values(sent[start + k, :, :, low:high], chosen)
                total[start + k, r, b] = values
            recent[:] = 0
            count[:] = 0


@part
def _note_fired(sent: Array, number: Array, mark: Array) -> None:
    """number[m, c] += sent[m, c] != 0, in bytes, and mark[c] becomes 1 where any of them is; len(number) maps."""
    maps = len(number)
    channels = sent.shape[1]
    strides = (sent.strides[0], number.strides[0])
    if maps == TOGETHER:
        done = _note_vectors(sent, (address(sent), address(number), address(mark)), strides, TOGETHER)
    else:
        done = 0
        for m in range(maps):
            done = _note_vectors(sent, (address(sent[m]), address(number[m]), address(mark)), strides, 1)
    for m in range(maps):
        for c in range(done, channels):
            fired = np.uint8(sent[m, c] != 0)
            number[m, c] += fired
            mark[c] |= fired


@inlined
def _note_vectors(sent: Array, places: tuple[np.int64, np.int64, np.int64], strides: tuple[int, int], maps: int) -> int:
    """_note_fired by vectors of 64, 16 and 4 channels; returns how many channels these take.  Arguments as of _note."""
    channels = sent.shape[1]
    size = sent.itemsize
    wide = channels - channels % 64
    narrow = channels - channels % 16
    few = channels - channels % 4
    for c in range(0, wide, 64):
        _note(sent, (places[0] + c * size, places[1] + c, places[2] + c), strides, 64, maps)
    for c in range(wide, narrow, 16):
        _note(sent, (places[0] + c * size, places[1] + c, places[2] + c), strides, 16, maps)
    for c in range(narrow, few, 4):
        _note(sent, (places[0] + c * size, places[1] + c, places[2] + c), strides, 4, maps)
    return few


def _typed_note(typing: Any, sent: Any, places: Any, strides: Any, lanes: Any, maps: Any) -> Any:
    """Note which of `lanes` neighbouring values of `maps` maps are not zero; both are constants of the caller.

    places   addresses of values of the type of `sent`, of bytes to add 1 to, and of the bytes to set to 1
    strides  bytes from the values of one map to those of the next, and between the bytes to add to
    """
    if not isinstance(lanes, types.IntegerLiteral) or not isinstance(maps, types.IntegerLiteral):
        return None
    width = lanes.literal_value
    together = maps.literal_value

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        value, number, mark = (build.extract_value(arguments[1], i) for i in range(3))
        next_value, next_number = (build.extract_value(arguments[2], i) for i in range(2))
        values = ir.VectorType(context.get_data_type(sent.dtype), width)
        silent = ir.Constant(values, [0] * width)
        bytes_ = ir.VectorType(BYTE, width)
        met = read(build, mark, bytes_)
        for _ in range(together):
            differs = build.icmp_unsigned("!=", read(build, value, values), silent)
            fired = build.zext(differs, bytes_)
            write(build, build.add(read(build, number, bytes_), fired), number)
            met = build.or_(met, fired)
            value = build.add(value, next_value)
            number = build.add(number, next_number)
        write(build, met, mark)
        return context.get_dummy_value()

    addresses = types.UniTuple(types.int64, 3)
    return types.void(sent, addresses, types.UniTuple(types.int64, 2), lanes, maps), emit


_note: Any = intrinsic(prefer_literal=True)(_typed_note)


@part
def _sum_bytes(count: Array, cuts: Array, cells: Array, running: Array) -> np.int64:
    """cells[s] = sum of count from cuts[s] - cuts[0] to the next one; the value is the sum of all.

    running  int32, one longer than count: room for its running sums
    """
    slices = len(cells)
    start = cuts[0]
    channels = cuts[slices] - start
    if channels > MANY * slices:
        values = np.int64(0)
        for s in range(slices):
            of_slice = sum_bytes(address(count) + cuts[s] - start, cuts[s + 1] - cuts[s])
            cells[s] = of_slice
            values += of_slice
        return values
    total = np.int32(0)
    for c in range(channels):
        total += np.int32(count[c])
        running[c + 1] = total
    for s in range(slices):
        cells[s] = running[cuts[s + 1] - start] - running[cuts[s] - start]
    return np.int64(total)


@part
def _sum_words(count: Array, cuts: Array, cells: Array) -> np.int64:
    """As _sum_bytes, of 32-bit counts."""
    values = np.int64(0)
    for s in range(len(cells)):
        of_slice = _sum(count[cuts[s] - cuts[0] : cuts[s + 1] - cuts[0]])
        cells[s] = of_slice
        values += of_slice
    return values


@part
def _move(recent: Array, count: Array) -> None:
    """Add counts of bytes to those of 32 bits before they are full."""
    bytes_ = recent.reshape(-1)
    words = count.reshape(-1)
    for i in range(bytes_.size):
        words[i] += bytes_[i]
        bytes_[i] = 0


@shared
def add_up(sent: Array, table: CellTable, values: Array, total: Array) -> None:
    """The sums of what maps (M, Y, X, C) hold; a task takes one class of rows and one slab.

    values  (M, slices, rows, columns) int32: of each cell
    total   (M, rows, b) int64
    """
    rows = values.shape[2]
    parts = len(table.slabs) - 1
    for task in prange(rows * parts):
        r = task // parts
        b = task % parts
        first = table.slabs[b]
        cuts = table.channel_cuts[first : table.slabs[b + 1] + 1]
        chosen = table.row_order[table.row_starts[r] : table.row_starts[r + 1]]
        for m in range(len(sent)):
            values[m, first : first + len(cuts) - 1, r] = 0
            everything = np.int64(0)
            for y in chosen:
                for x in range(sent.shape[2]):
                    column = table.column_of[x]
                    for s in range(len(cuts) - 1):
                        of_slice = _sum(sent[m, y, x, cuts[s] : cuts[s + 1]])
                        values[m, first + s, r, column] += of_slice
                        everything += of_slice
            total[m, r, b] = everything


@part
def _sum_values(sent: Array, rows: Array) -> np.int64:
    """The sum of some rows of a map (Y, X, C)."""
    out = np.int64(0)
    for y in rows:
        for x in range(sent.shape[1]):
            out += _wide_sum(sent[y, x]) if sent.itemsize == 4 else _sum(sent[y, x])
    return out


@part
def _wide_sum(row: Array) -> np.int64:
    """For streams, whose values need 24 bits each."""
    out = np.int64(0)
    for c in range(row.size):
        out += row[c]
    return out


@part
def _sum(row: Array) -> np.int32:
    """In 32 bits, which vectors hold more of."""
    out = np.int32(0)
    for c in range(row.size):
        out += row[c]
    return out


@inlined
def sum_bytes(place: np.int64, count: np.int64) -> np.int64:
    """The sum of `count` bytes from an address on; seven bytes behind them are read too.

    Eight bytes a step: neighbours are added to four sums of 16 bits, and a multiplication adds up these four in its
    highest 16 bits.  The last step shifts out what lies behind the end.
    """
    odd = np.uint64(0x00FF00FF00FF00FF)
    total = np.int64(0)
    for start in range(0, count, 8):
        left = 8 * (count - start)
        kept = np.uint64(left if left < 64 else 64)
        word = eight_bytes(place + start) << (np.uint64(64) - kept)
        pairs = (word & odd) + ((word >> np.uint64(8)) & odd)
        total += np.int64((pairs * np.uint64(0x0001000100010001)) >> np.uint64(48))
    return total
