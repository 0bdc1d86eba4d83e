"""Routing tables: for every cell of neurons, the cores that its messages go to and what they make there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.counts.slices import Weights
from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.timing.wave import Routes

Table: TypeAlias = NDArray[np.int64]
"""(rows + 1,): the entries of row r are table[r] to table[r + 1]."""


class TableBuilder:
    """Collects the tables of a mapping into one set of Routes, entries of a row in the order of their cores.

    synop       (slices,) ticks of one synaptic operation there
    message_in  ticks of a message at the core that it comes to
    """

    def __init__(self, mapping: Mapping, synop: Int, message_in: int) -> None:
        self._core = np.unique(mapping.cores, return_inverse=True)[1].ravel()
        self._synop, self._message_in = synop, message_in
        self._parts: list[tuple[Int, Int, Int]] = [(np.zeros(0, np.int64),) * 3]
        self._length = 0

    def table(self, cells: Cells, reaches: Sequence[Weights]) -> Table:
        """A row for each cell: a message for each core that any of `reaches` leads to."""
        found: list[tuple[Int, Int, Int]] = []
        for weights in reaches:
            for number, slice_ in enumerate(weights.inlet.slices.tolist()):
                synops = weights.synops(number).reshape(-1)
                cell = np.flatnonzero(synops)
                found.append((cell, np.full(len(cell), slice_), synops[cell]))
        cell, slices, synops = (np.concatenate(columns) for columns in zip(*found, strict=True))
        # a message serves all slices of a core
        key, which = np.unique(cell * len(self._core) + self._core[slices], return_inverse=True)
        row, core = np.divmod(key, len(self._core))
        total, service = np.zeros(len(key), np.int64), np.full(len(key), self._message_in)
        np.add.at(total, which, synops)
        np.add.at(service, which, synops * self._synop[slices])
        return self._append(np.searchsorted(row, np.arange(int(np.prod(cells.shape)) + 1)), core, total, service)

    def one_each(self, slices: Int) -> Table:
        """A row for each slice: one message to it, for one synapse."""
        ones = np.ones(len(slices), np.int64)
        return self._append(
            np.arange(len(slices) + 1), self._core[slices], ones, self._synop[slices] + self._message_in
        )

    def routes(self) -> Routes:
        """All entries so far."""
        target, synops, service = (np.concatenate(columns) for columns in zip(*self._parts, strict=True))
        return Routes(target.astype(np.int32), synops, np.maximum(service, 1))

    def _append(self, starts: Int, core: Int, synops: Int, service: Int) -> Table:
        table = self._length + starts
        self._parts.append((core, synops, service))
        self._length += len(core)
        return table
