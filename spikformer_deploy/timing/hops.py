"""Hops of all messages, exact, from the counts by cell: neurons of a cell send the same messages from the same core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Activity, Cells
from spikformer_deploy.timing.machine import Mesh
from spikformer_deploy.timing.ranges import numbers_in
from spikformer_deploy.timing.senders import Sender, rows_of_cells
from spikformer_deploy.timing.traffic import Traffic


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
            always = always + _hops(sender, traffic, mesh, np.arange(len(sender.sub_step))).sum(1)
            continue
        name = sender.population
        # any neuron of a cell speaks for all: the first one
        _, first = np.unique(rows_of_cells(cells[name]), return_index=True)
        of_cell[name] = of_cell.get(name, 0) + _hops(sender, traffic, mesh, first)
    return HopTable(of_cell, always)


def hops_of_images(table: HopTable, activity: Mapping[str, Activity], steps: int | None = None) -> Int:
    """(images, 2) messages * hops of each image of an execution, east-west and north-south.

    steps  of its first `steps` time steps; None: of all
    """
    counts = {name: activity[name].messages[:, :steps] for name in table.of_cell}
    images, counted = next(iter(counts.values())).shape[:2]
    total = np.tile(table.always * counted, (images, 1))
    for name, hops in table.of_cell.items():
        total += counts[name].sum(1, dtype=np.int64).reshape(images, -1) @ hops.T
    return total


def _hops(sender: Sender, traffic: Traffic, mesh: Mesh, neurons: Int) -> Int:
    """(2, neurons) hops of all messages that a spike of each of some neurons causes."""
    sweep = traffic.sweep
    neuron = np.unravel_index(neurons, sender.place.shape[:-1])
    # (neurons, n) by who answers to the spike, then message by message
    source = sweep.core[sweep.slice_at[sender.place[neuron]]]
    row = sender.row[neuron]
    start = sender.table[row].ravel()
    messages = sender.table[row + 1].ravel() - start
    entry = numbers_in(start, messages)
    origin = mesh.tile[np.repeat(source.ravel(), messages)]
    goal = mesh.tile[traffic.routes.target[entry]]
    caused_by = np.repeat(np.repeat(np.arange(len(neurons)), source.shape[1]), messages)
    across = np.abs(origin % mesh.width - goal % mesh.width)
    along = np.abs(origin // mesh.width - goal // mesh.width)
    return np.stack([np.bincount(caused_by, hops, len(neurons)).astype(np.int64) for hops in (across, along)])
