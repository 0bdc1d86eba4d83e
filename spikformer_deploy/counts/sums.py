"""Weighted sums of the messages of cells, all at once: a sparse product of whole numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.vectors import SINGLE, WORD, address, four_bytes, read, splat, write
from spikformer_deploy.executors.execution import Activity

Int32: TypeAlias = NDArray[np.int32]

CHUNK = 1024
"""Cells that are packed at once: what is written stays in the nearest cache until all lanes are there."""
TASKS = 64
"""Parts of about equal work that the rows are cut into."""


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
    if not parts:
        return Entries(*(np.zeros(0, np.int32) for _ in range(4)))
    return Entries(*(np.concatenate([getattr(e, f) for e in parts]) for f in ("row", "cell", "first", "second")))


@dataclass(frozen=True, slots=True, eq=False)
class SparseSums:
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
    edges = np.searchsorted(starts, np.linspace(0, starts[-1], TASKS + 1).astype(np.int64))
    edges[0], edges[-1] = 0, rows
    return SparseSums(starts, edges, entries.cell[order], entries.first[order], entries.second[order])


def weighted(
    tables: Sequence[SparseSums], activity: Mapping[str, Activity], first: Mapping[str, int]
) -> tuple[dict[str, Int], list[tuple[Int, Int]]]:
    """((images, T) messages of each population, for each table the sums by `first` and by `second` (images, T, rows)).

    first  where the cells of each population begin in the tables; populations stand side by side in this order

    LANES steps are summed at once: step t of image n is one of lane n * T + t.
    """
    images, steps = next(iter(activity.values())).messages.shape[:2]
    sent = [np.ascontiguousarray(activity[name].messages) for name in first]
    sizes = np.array([np.prod(activity[name].cells.shape) for name in first])
    chunks = _chunks(np.array(list(first.values())), sizes)
    totals = np.zeros((len(chunks), images * steps), np.int64)
    values = np.zeros((sizes.sum(), LANES), np.int32)  # of all populations, and small enough for a cache
    outs = [np.empty((2, images * steps + LANES, len(table.starts) - 1), np.int64) for table in tables]
    for lane in range(0, images * steps, LANES):
        _pack(np.array([s.ctypes.data for s in sent]), sizes, chunks, lane, values, totals[:, lane : lane + LANES])
        for table, out in zip(tables, outs, strict=True):
            arguments = table.starts, table.edges, table.cell, table.first, table.second
            _products(*arguments, values, out[0, lane : lane + LANES], out[1, lane : lane + LANES])
    edges = np.searchsorted(chunks[:, 0], np.arange(len(sent)))
    of_each = np.add.reduceat(totals, edges, 0).reshape(len(sent), images, steps)
    shaped = [out[:, : images * steps].reshape(2, images, steps, out.shape[2]) for out in outs]
    return dict(zip(first, of_each, strict=True)), [(out[0], out[1]) for out in shaped]


def _chunks(first: Int, sizes: Int) -> Int:
    """(chunks, 4): population, its cells from and to which, and where they stand among all cells."""
    rows = [
        (number, start, min(size, start + CHUNK), place + start)
        for number, (place, size) in enumerate(zip(first.tolist(), sizes.tolist(), strict=True))
        for start in range(0, size, CHUNK)
    ]
    return np.array(rows, np.int64).reshape(-1, 4)


@njit(parallel=True, cache=True, nogil=True)
def _pack(sent: Int, sizes: Int, chunks: Int, lane: int, values: Int32, totals: Int) -> None:
    """values[cell, k] = messages of the cell in step `lane` + k, totals[chunk, k] those of the cells of a chunk.

    sent  addresses of the (steps, cells) int32 of each population
    """
    for index in prange(len(chunks)):
        population, start, end, place = chunks[index]
        for k in range(totals.shape[1]):
            source, total = sent[population] + 4 * (lane + k) * sizes[population], np.int64(0)
            for cell in range(start, end):
                number = four_bytes(source + 4 * cell)
                values[place + cell - start, k] = number
                total += number
            totals[index, k] = total


@njit(parallel=True, cache=True, nogil=True)
def _products(
    starts: Int, edges: Int, cell: Int32, first: Int32, second: Int32, values: Int32, out: Int, other: Int
) -> None:
    """out[lane, r] = sum over the entries of row r of first * values[cell, lane]; `other` of second."""
    for part in prange(len(edges) - 1):
        tables = address(cell), address(first), address(second), address(values)
        sums = np.empty((2, LANES), np.int64)
        for row in range(edges[part], edges[part + 1]):
            add_rows(tables, (starts[row], starts[row + 1]), (address(sums), address(sums) + 8 * LANES))
            for k in range(LANES):
                out[k, row], other[k, row] = sums[0, k], sums[1, k]


LANES = 8
"""Sums that `add_rows` makes side by side: 64-bit integers that fill a register of 512 bits."""


def _add_rows(typing: Any, tables: Any, span: Any, out: Any) -> Any:
    """out[k] = sum over i of first[i] * rows[cell[i], k], other[k] of second; LANES lanes k of 64 bits.

    tables  addresses of cell, first and second (int32), and of rows (cells, LANES) int32
    span    from and to which i
    out     addresses of out and other (LANES,) int64
    """
    numbers = (types.UniTuple(types.int64, count) for count in (4, 2, 2))
    return types.void(*numbers), _emit_add_rows


add_rows: Any = intrinsic(_add_rows)


def _emit_add_rows(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
    cells, *weights, rows = (build.extract_value(arguments[0], i) for i in range(4))
    start, end = (build.extract_value(arguments[1], i) for i in range(2))
    wide = ir.VectorType(WORD, LANES)
    zero, before = ir.Constant(wide, [0] * LANES), build.block
    head, body, done = (build.append_basic_block(name) for name in ("row", "add", "added"))
    build.branch(head)
    build.position_at_end(head)
    index, sums = build.phi(WORD), [build.phi(wide), build.phi(wide)]
    build.cbranch(build.icmp_signed("<", index, end), body, done)
    build.position_at_end(body)
    offset = build.mul(index, WORD(4))
    cell = build.zext(read(build, build.add(cells, offset), SINGLE), WORD)
    row = build.add(rows, build.mul(cell, WORD(4 * LANES)))
    sent = build.sext(read(build, row, ir.VectorType(SINGLE, LANES)), wide)
    added = []
    for total, weight in zip(sums, weights, strict=True):
        factor = build.sext(read(build, build.add(weight, offset), SINGLE), WORD)
        added.append(build.add(total, build.mul(splat(build, factor, LANES), sent)))
    following, last = build.add(index, WORD(1)), build.block
    for phi, first, after in zip((index, *sums), (start, zero, zero), (following, *added), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(after, last)
    build.branch(head)
    build.position_at_end(done)
    for total, place in zip(sums, (build.extract_value(arguments[2], i) for i in range(2)), strict=True):
        write(build, total, place)
    return context.get_dummy_value()
