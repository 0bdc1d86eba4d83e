"""Routing tables: for every cell of neurons, the cores that its messages go to and what they make there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class _Entries:
    """Some entries of Routes: (entries,) cores, synaptic operations, ticks of service."""

    core: Int
    synops: Int
    service: Int


class TableBuilder:
    """Collects the tables of a mapping into one set of Routes, entries of a row in the order of their cores.

    synop       (slices,) ticks of one synaptic operation there
    message_in  ticks of a message at the core that it comes to
    """

    def __init__(self, mapping: Mapping, synop: Int, message_in: int) -> None:
        self._core = np.unique(mapping.cores, return_inverse=True)[1].ravel()
        self._synop = synop
        self._message_in = message_in
        none = np.zeros(0, np.int64)
        self._parts = [_Entries(none, none, none)]
        self._length = 0

    def table(self, cells: Cells, reaches: Sequence[Weights]) -> Table:
        """A row for each cell: a message for each core that any of `reaches` leads to."""
        cell_parts: list[Int] = []
        slice_parts: list[Int] = []
        synop_parts: list[Int] = []
        for weights in reaches:
            for number, slice_ in enumerate(weights.inlet.slices.tolist()):
                operations = weights.synops(number).reshape(-1)
                reached = np.flatnonzero(operations)
                cell_parts.append(reached)
                slice_parts.append(np.full(len(reached), slice_))
                synop_parts.append(operations[reached])
        cell = np.concatenate(cell_parts)
        slices = np.concatenate(slice_parts)
        synops = np.concatenate(synop_parts)
        # one message serves all slices of a core: what it does there is added up
        key, entry = np.unique(cell * len(self._core) + self._core[slices], return_inverse=True)
        row, core = np.divmod(key, len(self._core))
        total = np.zeros(len(key), np.int64)
        service = np.full(len(key), self._message_in)
        np.add.at(total, entry, synops)
        np.add.at(service, entry, synops * self._synop[slices])
        rows = int(np.prod(cells.shape))
        return self._append(np.searchsorted(row, np.arange(rows + 1)), _Entries(core, total, service))

    def one_each(self, slices: Int) -> Table:
        """A row for each slice: one message to it, for one synapse."""
        return self.each(slices[:, None])

    def each(self, groups: Int) -> Table:
        """A row for each of `groups` (rows, n) of slices: one message to each of them, for one synapse."""
        rows, size = groups.shape
        # to cores in their order
        slices = np.take_along_axis(groups, np.argsort(self._core[groups], 1, kind="stable"), 1).ravel()
        ones = np.ones(len(slices), np.int64)
        service = self._synop[slices] + self._message_in
        return self._append(size * np.arange(rows + 1), _Entries(self._core[slices], ones, service))

    def routes(self) -> Routes:
        """All entries so far."""
        core = np.concatenate([part.core for part in self._parts])
        synops = np.concatenate([part.synops for part in self._parts])
        service = np.concatenate([part.service for part in self._parts])
        # a service of no ticks would begin and end at once, in no order
        return Routes(core.astype(np.int32), synops, np.maximum(service, 1))

    def _append(self, starts: Int, entries: _Entries) -> Table:
        """Put the entries behind those of the tables before."""
        table = self._length + starts
        self._parts.append(entries)
        self._length += len(entries.core)
        return table
