"""Weighted sums of the messages of cells, all at once: a sparse product of whole numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.compiled import shared
from spikformer_deploy.base.vectors import SINGLE, WORD, address, four_bytes, read, splat, write

Int32: TypeAlias = NDArray[np.int32]

CHUNK = 1024
"""Cells that are packed at once: what is written stays in the nearest cache until all lanes are there."""
TASKS = 64
"""Parts of about equal work that the rows are cut into."""
LANES = 8
"""Sums that `add_rows` makes side by side: 64-bit integers that fill a register of 512 bits."""
INT32_BYTES = 4
INT64_BYTES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Cells that count in a row of a table, and two weights of their messages; all (entries,) int32."""

    row: Int32
    cell: Int32
    first: Int32
    second: Int32

    def moved(self, by: int) -> Entries:
        """The same with cells counted from `by`."""
        return Entries(self.row, self.cell + np.int32(by), self.first, self.second)


def joined(parts: Sequence[Entries]) -> Entries:
    """All entries, in order."""
    # np.concatenate refuses to join nothing
    none = np.zeros(0, np.int32)
    parts = [Entries(none, none, none, none), *parts]
    return Entries(
        row=np.concatenate([part.row for part in parts]),
        cell=np.concatenate([part.cell for part in parts]),
        first=np.concatenate([part.first for part in parts]),
        second=np.concatenate([part.second for part in parts]),
    )


class SparseSums(NamedTuple):
    """Two tables of weights on the same cells, row by row: entries starts[r] to starts[r + 1] belong to row r.

    edges  (TASKS + 1,) rows at which the work is cut
    """

    starts: Int
    edges: Int
    cell: Int32
    first: Int32
    second: Int32


def sparse_sums(rows: int, entries: Entries) -> SparseSums:
    """The entries in the order of their rows."""
    order = np.argsort(entries.row, kind="stable")
    starts = np.concatenate([[0], np.bincount(entries.row, minlength=rows).cumsum()])
    # rows differ in length: the work is cut by entries, not by rows
    edges = np.searchsorted(starts, np.linspace(0, starts[-1], TASKS + 1).astype(np.int64))
    edges[0] = 0
    edges[-1] = rows
    return SparseSums(starts, edges, entries.cell[order], entries.first[order], entries.second[order])


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The cells of several populations side by side, as tables count them.

    first        by population, in order: where its cells begin
    sizes        (populations,) cells of each
    chunks       (chunks, 4) population, its cells from and to which, and where they stand among all cells
    first_chunk  (populations,) of each
    """

    first: dict[str, int]
    sizes: Int
    chunks: Int
    first_chunk: Int


def layout_of(sizes: Mapping[str, int]) -> Layout:
    """The layout of populations of so many cells, in this order."""
    counts = list(sizes.values())
    places = np.cumsum([0, *counts])[:-1].tolist()
    chunks = np.array(
        [
            (population, start, min(size, start + CHUNK), place + start)
            for population, (place, size) in enumerate(zip(places, counts, strict=True))
            for start in range(0, size, CHUNK)
        ],
        np.int64,
    ).reshape(-1, 4)
    first_chunk = np.searchsorted(chunks[:, 0], np.arange(len(counts)))
    return Layout(dict(zip(sizes, places, strict=True)), np.array(counts, np.int64), chunks, first_chunk)


class _Packing(NamedTuple):
    """Where the messages of all populations are, and where they go.

    sent           (populations,) address of the (images * T, cells) int32 messages of each
    sizes, chunks  as of Layout
    """

    sent: Int
    sizes: Int
    chunks: Int


def weighted(
    tables: Sequence[SparseSums], numbers: Mapping[str, Int32], layout: Layout
) -> tuple[Int, list[tuple[Int, Int]]]:
    """Messages (populations, images, T), and for each table the sums by `first` and by `second` (images, T, rows).

    numbers  (images, T, slices, rows, columns) messages of each cell, or whatever is counted, by population
    layout   where the cells of each population stand in the tables

    LANES steps are summed at once: step t of image n is one of lane n * T + t.
    """
    images, steps = next(iter(numbers.values())).shape[:2]
    lanes = images * steps
    # kept by name to the end: compiled code has their addresses only
    sent = [np.ascontiguousarray(numbers[name]) for name in layout.first]
    chunks = layout.chunks
    packing = _Packing(np.array([messages.ctypes.data for messages in sent]), layout.sizes, chunks)
    totals = np.zeros((len(chunks), lanes), np.int64)
    values = np.zeros((layout.sizes.sum(), LANES), np.int32)  # of all populations, and small enough for a cache
    # LANES too many: the last round writes all of its lanes, used or not
    sums = [np.empty((2, lanes + LANES, len(table.starts) - 1), np.int64) for table in tables]
    for lane in range(0, lanes, LANES):
        _pack(packing, lane, values, totals)
        for table, both in zip(tables, sums, strict=True):
            _products(table, values, both[0, lane : lane + LANES], both[1, lane : lane + LANES])
    messages = np.add.reduceat(totals, layout.first_chunk, 0).reshape(len(sent), images, steps)
    shaped = [both[:, :lanes].reshape(2, images, steps, both.shape[2]) for both in sums]
    return messages, [(both[0], both[1]) for both in shaped]


@shared
def _pack(packing: _Packing, lane: int, values: Int32, totals: Int) -> None:
    """values[cell, k] = messages of the cell in step `lane` + k, totals[chunk, lane + k] those of the cells of a chunk.

    Steps lie far apart in memory, and the lanes of a cell side by side: `add_rows` takes them with one instruction.
    """
    sent = packing.sent
    sizes = packing.sizes
    chunks = packing.chunks
    for index in prange(len(chunks)):
        population, start, end, place = chunks[index]
        for k in range(min(LANES, totals.shape[1] - lane)):
            source = sent[population] + INT32_BYTES * (lane + k) * sizes[population]
            total = np.int64(0)
            for cell in range(start, end):
                number = four_bytes(source + INT32_BYTES * cell)
                values[place + cell - start, k] = number
                total += number
            totals[index, lane + k] = total


@shared
def _products(table: SparseSums, values: Int32, by_first: Int, by_second: Int) -> None:
    """by_first[k, r] = sum over the entries of row r of first * values[cell, k]; by_second of second."""
    starts = table.starts
    edges = table.edges
    cell = table.cell
    first = table.first
    second = table.second
    for part in prange(len(edges) - 1):
        tables = address(cell), address(first), address(second), address(values)
        sums = np.empty((2, LANES), np.int64)
        outs = address(sums), address(sums) + INT64_BYTES * LANES
        for row in range(edges[part], edges[part + 1]):
            add_rows(tables, (starts[row], starts[row + 1]), outs)
            for k in range(LANES):
                by_first[k, row] = sums[0, k]
                by_second[k, row] = sums[1, k]


def _add_rows(typing: Any, tables: Any, span: Any, out: Any) -> Any:
    """out[k] = sum over i of first[i] * rows[cell[i], k], other[k] of second; LANES lanes k of 64 bits.

    tables  addresses of cell, first and second (int32), and of rows (cells, LANES) int32
    span    from and to which i
    out     addresses of out and other (LANES,) int64

    Written out, since numba does not find these vectors by itself.
    """
    addresses = types.UniTuple(types.int64, 4)
    pair = types.UniTuple(types.int64, 2)
    return types.void(addresses, pair, pair), _emit_add_rows


add_rows: Any = intrinsic(_add_rows)


def _emit_add_rows(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
    """The loop over i, its sums in registers: blocks row (go on or stop), add, and added."""
    tables, span, out = arguments
    cells = build.extract_value(tables, 0)
    first = build.extract_value(tables, 1)
    second = build.extract_value(tables, 2)
    rows = build.extract_value(tables, 3)
    start = build.extract_value(span, 0)
    end = build.extract_value(span, 1)
    wide = ir.VectorType(WORD, LANES)
    zero = ir.Constant(wide, [0] * LANES)
    before = build.block
    head = build.append_basic_block("row")
    body = build.append_basic_block("add")
    done = build.append_basic_block("added")
    build.branch(head)

    build.position_at_end(head)
    index = build.phi(WORD)
    sums = [build.phi(wide), build.phi(wide)]
    build.cbranch(build.icmp_signed("<", index, end), body, done)

    build.position_at_end(body)
    offset = build.mul(index, WORD(INT32_BYTES))
    cell = build.zext(read(build, build.add(cells, offset), SINGLE), WORD)
    row = build.add(rows, build.mul(cell, WORD(INT32_BYTES * LANES)))
    sent = build.sext(read(build, row, ir.VectorType(SINGLE, LANES)), wide)
    added = []
    for total, weight in zip(sums, (first, second), strict=True):
        factor = build.sext(read(build, build.add(weight, offset), SINGLE), WORD)
        added.append(build.add(total, build.mul(splat(build, factor, LANES), sent)))
    following = build.add(index, WORD(1))
    last = build.block
    # what each variable of the loop is when it is entered, and after a round
    for phi, entered, after in zip((index, *sums), (start, zero, zero), (following, *added), strict=True):
        phi.add_incoming(entered, before)
        phi.add_incoming(after, last)
    build.branch(head)

    build.position_at_end(done)
    for number, total in enumerate(sums):
        write(build, total, build.extract_value(out, number))
    return context.get_dummy_value()
