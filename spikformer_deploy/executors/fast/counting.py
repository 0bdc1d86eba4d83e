"""Counting of messages cell by cell (see run.Cells), in vector instructions (lanes.py); its plain twin is
reference.engine.observe."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.base.vectors import BYTE, address, eight_bytes, read, write

MANY = 16
"""Channels of a slice from which on eight of them are added at once; fewer are differences of running sums."""


@njit(parallel=True, cache=True, nogil=True)
def observe(
    sent: Array,
    binary: bool,
    row_order: Array,
    row_starts: Array,
    column_of: Array,
    channel_cuts: Array,
    slabs: Array,
    messages: Array,
    active: Array,
    total: Array,
) -> None:
    """What maps (M, Y, X, C) hold, cell by cell (see run.Cells); a task takes one class of rows and one slab.

    binary     no value exceeds 1: messages are their own sum
    row_order, row_starts  the rows of class r are row_order[row_starts[r] : row_starts[r + 1]]
    column_of  (X,) the class of every column
    slabs      (b + 1,) edges of ranges of slices
    messages   (M, slices, rows, columns) int32: non-zero values of each cell
    active     (Y, X, C) uint8: becomes 1 where any map is not zero
    total      (M, rows, b) int64: sum of the values
    """
    maps, _, width, _ = sent.shape
    _, _, rows, columns = messages.shape
    parts = len(slabs) - 1
    widest = np.bincount(column_of).max()
    for task in prange(rows * parts):
        r, b = task // parts, task % parts
        low, high = channel_cuts[slabs[b]], channel_cuts[slabs[b + 1]]
        few = (row_starts[r + 1] - row_starts[r]) * widest < 256  # no byte overflows
        recent = np.zeros((TOGETHER, columns, high - low + 7), np.uint8)  # four times as many in a register
        count = np.zeros((0 if few else TOGETHER, columns, high - low + 7), np.int32)
        running = np.zeros(high - low + 1, np.int32)
        for start in range(0, maps, TOGETHER):
            size, met = min(TOGETHER, maps - start), 0
            for index in range(row_starts[r], row_starts[r + 1]):
                y = row_order[index]
                for x in range(width):
                    _note_fired(sent[start:, y, x, low:high], recent[:size, column_of[x]], active[y, x, low:high])
                    met += 1
                    if met % 255 == 0 and not few:
                        _move(recent, count)
            if not few:
                _move(recent, count)
            for k in range(size):
                values = np.int64(0)
                for column in range(columns):
                    cells = messages[start + k, slabs[b] : slabs[b + 1], r, column]
                    if few:
                        values += _sum_bytes(recent[k, column], channel_cuts[slabs[b] :], cells, running)
                    else:
                        values += _sum_words(count[k, column], channel_cuts[slabs[b] :], cells)
                if not binary:
                    values = _sum_values(sent[start + k, :, :, low:high], row_order[row_starts[r] : row_starts[r + 1]])
                total[start + k, r, b] = values
            recent[:] = 0
            count[:] = 0


@njit(cache=True, nogil=True)
def _note_fired(sent: Array, number: Array, mark: Array) -> None:
    """number[m, c] += sent[m, c] != 0, in bytes, and mark[c] becomes 1 where any of them is; len(number) maps."""
    maps, channels = len(number), sent.shape[1]
    wide, narrow, few = channels // 64 * 64, channels // 16 * 16, channels // 4 * 4
    strides = (sent.strides[0], number.strides[0])
    places, size = (address(sent), address(number), address(mark)), sent.itemsize
    if maps == TOGETHER:
        for c in range(0, wide, 64):
            note_fired_64x4(sent, (places[0] + c * size, places[1] + c, places[2] + c), strides)
        for c in range(wide, narrow, 16):
            note_fired_16x4(sent, (places[0] + c * size, places[1] + c, places[2] + c), strides)
        for c in range(narrow, few, 4):
            note_fired_4x4(sent, (places[0] + c * size, places[1] + c, places[2] + c), strides)
    else:
        for m in range(maps):
            own = (places[0] + m * strides[0], places[1] + m * strides[1], places[2])
            for c in range(0, wide, 64):
                note_fired_64(sent, (own[0] + c * size, own[1] + c, own[2] + c), strides)
            for c in range(wide, narrow, 16):
                note_fired_16(sent, (own[0] + c * size, own[1] + c, own[2] + c), strides)
            for c in range(narrow, few, 4):
                note_fired_4(sent, (own[0] + c * size, own[1] + c, own[2] + c), strides)
    for m in range(maps):
        for c in range(few, channels):
            fired = np.uint8(sent[m, c] != 0)
            number[m, c] += fired
            mark[c] |= fired


@njit(cache=True, nogil=True)
def _sum_bytes(count: Array, cuts: Array, cells: Array, running: Array) -> np.int64:
    """cells[s] = sum of count from cuts[s] - cuts[0] to the next one; the value is the sum of all.

    running  int32, one longer than count: room for its running sums
    """
    slices, values, start, place = len(cells), np.int64(0), cuts[0], address(count) - cuts[0]
    channels = cuts[slices] - start
    if channels > MANY * slices:
        for s in range(slices):
            of_slice = sum_bytes(place + cuts[s], cuts[s + 1] - cuts[s])
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


@njit(cache=True, nogil=True)
def _sum_words(count: Array, cuts: Array, cells: Array) -> np.int64:
    """As _sum_bytes, of 32-bit counts."""
    values = np.int64(0)
    for s in range(len(cells)):
        of_slice = _sum(count[cuts[s] - cuts[0] : cuts[s + 1] - cuts[0]])
        cells[s] = of_slice
        values += of_slice
    return values


@njit(cache=True, nogil=True)
def _move(recent: Array, count: Array) -> None:
    """Add counts of bytes to those of 32 bits before they are full."""
    few, many = recent.reshape(-1), count.reshape(-1)
    for i in range(few.size):
        many[i] += few[i]
        few[i] = 0


@njit(cache=True, nogil=True)
def _sum_values(sent: Array, rows: Array) -> np.int64:
    """The sum of some rows of a map (Y, X, C)."""
    out = np.int64(0)
    for y in rows:
        for x in range(sent.shape[1]):
            out += _wide_sum(sent[y, x]) if sent.itemsize == 4 else _sum(sent[y, x])
    return out


@njit(cache=True, nogil=True)
def _wide_sum(row: Array) -> np.int64:
    """For streams, whose values need 24 bits each."""
    out = np.int64(0)
    for c in range(row.size):
        out += row[c]
    return out


@njit(cache=True, nogil=True)
def _sum(row: Array) -> np.int32:
    """In 32 bits, which vectors hold more of."""
    out = np.int32(0)
    for c in range(row.size):
        out += row[c]
    return out


def _fired(lanes: int, maps: int) -> Any:
    """A function that notes which of `lanes` neighbouring values of `maps` maps are not zero."""

    @intrinsic
    def note(typing: Any, sent: Any, places: Any, strides: Any) -> Any:
        """places   addresses of values of the type of `sent`, of bytes to add 1 to, and of the bytes to set to 1
        strides  bytes from the values of one map to those of the next, and between the bytes to add to
        """

        def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            value, number, mark = (build.extract_value(arguments[1], i) for i in range(3))
            along = [build.extract_value(arguments[2], i) for i in range(2)]
            given = ir.VectorType(context.get_data_type(sent.dtype), lanes)
            bytes_ = ir.VectorType(BYTE, lanes)
            met = read(build, mark, bytes_)
            for _ in range(maps):
                differs = build.icmp_unsigned("!=", read(build, value, given), ir.Constant(given, [0] * lanes))
                fired = build.zext(differs, bytes_)
                write(build, build.add(read(build, number, bytes_), fired), number)
                met = build.or_(met, fired)
                value, number = build.add(value, along[0]), build.add(number, along[1])
            write(build, met, mark)
            return context.get_dummy_value()

        return types.void(sent, types.UniTuple(types.int64, 3), types.UniTuple(types.int64, 2)), emit

    return note


TOGETHER = 4
"""Maps that are looked at together: the time steps of most networks."""


note_fired_64x4, note_fired_64, note_fired_16x4, note_fired_16, note_fired_4x4, note_fired_4 = (
    _fired(lanes, maps) for lanes in (64, 16, 4) for maps in (TOGETHER, 1)
)


@njit(cache=True, nogil=True, inline="always")
def sum_bytes(place: np.int64, count: np.int64) -> np.int64:
    """The sum of `count` bytes from an address on; seven bytes behind them are read too."""
    odd, total = np.uint64(0x00FF00FF00FF00FF), np.int64(0)
    for start in range(0, count, 8):
        left = 8 * (count - start)
        kept = np.uint64(left if left < 64 else 64)
        word = eight_bytes(place + start) << (np.uint64(64) - kept)
        pairs = (word & odd) + ((word >> np.uint64(8)) & odd)
        total += np.int64((pairs * np.uint64(0x0001000100010001)) >> np.uint64(48))
    return total
