"""Weighted sums of the messages of cells, all at once: a sparse product of whole numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from spikformer_deploy.simulate.run import Activity

Int: TypeAlias = NDArray[np.int64]
Int32: TypeAlias = NDArray[np.int32]

LANES = 8
"""Steps that are summed side by side, in one vector register of 64-bit integers; two images of four steps."""
TASKS = 64
"""Parts of about equal work that the rows are cut into."""


@dataclass(frozen=True, slots=True, eq=False)
class Messages:
    """How many messages the cells of a network sent: (groups, cells, LANES) int32, the populations one after another.

    Step t of image n is lane (n * steps + t) % LANES of group (n * steps + t) // LANES; lanes left over are zero.
    """

    values: Int32
    images: int
    steps: int

    def apart(self, sums: Int) -> Int:
        """(images, T, ...) from (groups, LANES, ...)."""
        flat = sums.reshape(len(sums) * LANES, *sums.shape[2:])[: self.images * self.steps]
        return flat.reshape(self.images, self.steps, *sums.shape[2:])

    def between(self, first: Sequence[int]) -> Int:
        """(images, T, populations) the messages of all cells from each of `first` to the next one."""
        return self.apart(np.add.reduceat(self.values, first, axis=1, dtype=np.int64).swapaxes(1, 2))


def packed(activity: Mapping[str, Activity], first: Mapping[str, int]) -> Messages:
    """The messages of all populations side by side; `first` says where those of each one begin."""
    images, steps = next(iter(activity.values())).messages.shape[:2]
    lanes = images * steps
    groups, rest = divmod(lanes, LANES)
    cells = sum(int(np.prod(activity[name].cells.shape)) for name in first)
    values = np.zeros((groups + (rest > 0), cells, LANES), np.int32)
    for name, start in first.items():
        size = int(np.prod(activity[name].cells.shape))
        sent, here = activity[name].messages.reshape(lanes, size), slice(start, start + size)
        values[:groups, here] = sent[: lanes - rest].reshape(groups, LANES, size).swapaxes(1, 2)
        if rest:
            values[groups, here, :rest] = sent[lanes - rest :].T
    return Messages(values, images, steps)


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

    def of(self, messages: Messages) -> tuple[Int, Int]:
        """The messages of the cells, weighted by `first` and by `second`: (images, T, rows) each."""
        shape = (len(messages.values), LANES, len(self.starts) - 1)
        out = np.empty(shape, np.int64), np.empty(shape, np.int64)
        _products(self.starts, self.edges, self.cell, self.first, self.second, messages.values, *out)
        return messages.apart(out[0]), messages.apart(out[1])


def sparse_sums(rows: int, entries: Entries) -> SparseSums:
    """The entries in the order of their rows."""
    order = np.argsort(entries.row, kind="stable")
    starts = np.concatenate([[0], np.bincount(entries.row, minlength=rows).cumsum()])
    edges = np.searchsorted(starts, np.linspace(0, starts[-1], TASKS + 1).astype(np.int64))
    edges[0], edges[-1] = 0, rows
    return SparseSums(starts, edges, entries.cell[order], entries.first[order], entries.second[order])


@njit(parallel=True, cache=True, nogil=True)
def _products(
    starts: Int, edges: Int, cell: Int32, first: Int32, second: Int32, values: Int32, out: Int, other: Int
) -> None:
    """out[g, lane, r] = sum over the entries of row r of first * values[g, cell, lane]; `other` of second."""
    tasks = len(edges) - 1
    for task in prange(len(values) * tasks):
        group, part = values[task // tasks], task % tasks
        total = np.zeros((2, LANES), np.int64)
        for row in range(edges[part], edges[part + 1]):
            total[:] = 0
            for i in range(starts[row], starts[row + 1]):
                sent, a, b = group[cell[i]], np.int64(first[i]), np.int64(second[i])
                for k in range(LANES):
                    total[0, k] += a * sent[k]
                    total[1, k] += b * sent[k]
            for k in range(LANES):
                out[task // tasks, k, row] = total[0, k]
                other[task // tasks, k, row] = total[1, k]
