"""Hops of all messages, exact, from the counts by cell: neurons of a cell send the same messages from the same core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Activity, Cells
from spikformer_deploy.timing.machine import Mesh
from spikformer_deploy.timing.traffic import Sender, Sweep, Traffic, rows_of_cells
from spikformer_deploy.timing.wave import Routes


@dataclass(frozen=True, slots=True, eq=False)
class HopTable:
    """Hops that spikes cause, east-west and north-south.

    of_cell  by population: (2, cells) of one spike of each cell
    always   (2,) of an image and time step, spikes or not
    """

    of_cell: dict[str, Int]
    always: Int


def hop_table(traffic: Traffic, mesh: Mesh, cells: Mapping[str, Cells]) -> HopTable:
    """The hops of the messages of `traffic` between the cores of `mesh`; cells: those of the counts."""
    of_cell: dict[str, Int] = {}
    always = np.zeros(2, np.int64)
    for sender in traffic.senders:
        if sender.always:
            always = always + _hops(sender, traffic.sweep, traffic.routes, mesh, np.arange(len(sender.wave))).sum(1)
            continue
        name = sender.population
        _, first = np.unique(rows_of_cells(cells[name]), return_index=True)
        of_cell[name] = of_cell.get(name, 0) + _hops(sender, traffic.sweep, traffic.routes, mesh, first)
    return HopTable(of_cell, always)


def mean_hops(table: HopTable, activity: Mapping[str, Activity]) -> tuple[float, float]:
    """Messages * hops of an image, east-west and north-south, mean over the images of an execution."""
    counts = {name: activity[name].messages for name in table.of_cell}
    images, steps = next(iter(counts.values())).shape[:2]
    total = table.always * images * steps
    for name, hops in table.of_cell.items():
        total = total + hops @ counts[name].sum((0, 1), dtype=np.int64).ravel()
    across, along = (total / images).tolist()
    return across, along


def _hops(sender: Sender, sweep: Sweep, routes: Routes, mesh: Mesh, neurons: Int) -> Int:
    """(2, neurons) hops of all messages that a spike of each of some neurons causes."""
    at = np.unravel_index(neurons, sender.rank.shape[:-1])
    source = sweep.core[sweep.slice[sender.rank[at]]]
    start, end = sender.table[sender.row[at]], sender.table[sender.row[at] + 1]
    counts = (end - start).ravel()
    entry = np.repeat(start.ravel() - np.concatenate([[0], counts.cumsum()[:-1]]), counts) + np.arange(counts.sum())
    origin, goal = mesh.tile[np.repeat(source.ravel(), counts)], mesh.tile[routes.target[entry]]
    of = np.repeat(np.repeat(np.arange(len(neurons)), source.shape[1]), counts)
    distances = np.abs(origin % mesh.width - goal % mesh.width), np.abs(origin // mesh.width - goal // mesh.width)
    return np.stack([np.bincount(of, d, len(neurons)).astype(np.int64) for d in distances])
