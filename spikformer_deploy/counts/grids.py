"""One execution for several geometries: cells as fine as all of them need, and sums over the cells of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Activity, Cells, Execution

CELL_AXES = (2, 3, 4)
"""Of the counts of an Activity: ranges of channels, classes of rows, classes of columns."""


def common_cells(grids: Sequence[dict[str, Cells]]) -> dict[str, Cells]:
    """By population, the coarsest cells each of which lies within one cell of every grid."""
    return {name: _common([grid[name] for grid in grids]) for name in grids[0]}


def _common(cells: Sequence[Cells]) -> Cells:
    first = cells[0]
    if all(other is first for other in cells):
        return first
    return Cells(
        np.unique(np.concatenate([grid.channels for grid in cells])),
        _common_classes([grid.rows for grid in cells]),
        _common_classes([grid.columns for grid in cells]),
    )


def _common_classes(classes: Sequence[Int]) -> Int:
    """(positions,) a class for each combination of classes."""
    return np.unique(np.stack(classes, 1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def in_cells(execution: Execution, cells: dict[str, Cells]) -> Execution:
    """The execution as if it had been asked for `cells`, each of which is several of its own."""
    activity = {name: _activity(counted, cells[name]) for name, counted in execution.activity.items()}
    return replace(execution, activity=activity)


def _activity(counted: Activity, cells: Cells) -> Activity:
    if counted.cells is cells:
        return counted
    messages = _summed(counted.messages, counted.cells, cells)
    values, idle = (
        None if some is None else _summed(some, counted.cells, cells) for some in (counted.values, counted.idle)
    )
    return replace(counted, messages=messages, cells=cells, values=values, idle=idle)


def _summed(counts: NDArray[np.int32], own: Cells, cells: Cells) -> NDArray[np.int32]:
    """(images, T, slices, rows, columns) counts over the cells that those of `own` lie in."""
    within = (
        np.searchsorted(cells.channels, own.channels[:-1], "right") - 1,
        _class_of_class(own.rows, cells.rows),
        _class_of_class(own.columns, cells.columns),
    )
    for axis, belongs_to, number in zip(CELL_AXES, within, cells.shape, strict=True):
        counts = _along(counts, axis, belongs_to, number)
    return counts


def _class_of_class(own: Int, classes: Int) -> Int:
    """The class that each own class lies in: that of any of its positions."""
    return classes[np.unique(own, return_index=True)[1]]


def _along(counts: NDArray[np.int32], axis: int, belongs_to: Int, number: int) -> NDArray[np.int32]:
    """The sums along one axis over what belongs together, `number` of them."""
    if len(belongs_to) == number and bool((belongs_to == np.arange(number)).all()):
        return counts
    shape = (*counts.shape[:axis], number, *counts.shape[axis + 1 :])
    out = np.zeros(shape, np.int32)
    ours, theirs = np.moveaxis(out, axis, 0), np.moveaxis(counts, axis, 0)
    for cell, part in zip(belongs_to, theirs, strict=True):
        ours[cell] += part
    return out
