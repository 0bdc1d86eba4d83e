"""Event counts of each slice of a mapping: one sparse product of the messages of all cells of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.counts.inlets import Inlet, cells_of, inlets, own_inlet
from spikformer_deploy.counts.sums import Entries, SparseSums, joined, sparse_sums
from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.reach import whole_reach
from spikformer_deploy.network.synapses import Attention

PER_IMAGE = ("spikes", "messages_out", "messages_in", "synops")
"""The fields of SliceEvents that images have one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceEvents:
    """Events of each slice of the mapping, in the order of Mapping.boxes; events.condensed makes one image of all.

    sites         (slices,) index of the site; cores (slices,) global core: as in the mapping
    neurons       (slices,) neurons (or attention counters) of the slice, each updated once a step
    spikes        (images, T, slices) non-zero outputs; of attention counters: graded values sent, at most;
                  of partial sums of a split fan-in too
    messages_out  (images, T, slices) one for each spike and destination core
    messages_in   (images, T, slices); a message that serves several slices of a core counts at the first of them
    synops        (images, T, slices) synaptic operations; an attention's both at its counters and at its target;
                  partial sums at their neurons: their sum is that of Events.synops
    """

    sites: Int
    cores: Int
    neurons: Int
    spikes: Int
    messages_out: Int
    messages_in: Int
    synops: Int

    def by_core(self, values: NDArray[Any]) -> tuple[Int, NDArray[Any]]:
        """The cores in use, ascending, and `values` (..., slices) summed over the slices of each: (..., cores)."""
        order = np.argsort(self.cores, kind="stable")
        cores, starts = np.unique(self.cores[order], return_index=True)
        if not cores.size:
            return cores, values
        return cores, np.add.reduceat(values[..., order], starts, axis=-1)

    def of(self, chosen: NDArray[Any]) -> SliceEvents:
        """The chosen slices alone (indices or a mask)."""
        return SliceEvents(*(getattr(self, f.name)[..., chosen] for f in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """An Inlet on the cells of its source: operations of a message are channels * rows * columns of its cell.

    channels (k, slices), rows (i, R), columns (j, Q); at: which of each a slice of the inlet has, three (S,)
    """

    inlet: Inlet
    channels: Int
    rows: Int
    columns: Int
    at: tuple[Int, Int, Int]

    def synops(self, number: int) -> Int:
        """(slices, R, Q) operations of a message of each cell at the slice of that number in the inlet."""
        channels, rows, columns = (
            w[which[number]] for w, which in zip((self.channels, self.rows, self.columns), self.at, strict=True)
        )
        return np.einsum("s,r,q->srq", channels, rows, columns)

    def entries(self) -> Entries:
        """Every pair of a slice and a cell that reaches it, slice by slice, first 1 and second the
        operations of a message."""
        parts = []
        for number, slice_ in enumerate(self.inlet.slices.tolist()):
            fan = self.synops(number).ravel()
            cell = np.flatnonzero(fan).astype(np.int32)
            ones = np.ones(cell.size, np.int32)
            parts.append(Entries(slice_ * ones, cell, ones, fan[cell].astype(np.int32)))
        return joined(parts)


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """All that counting needs to know of a network on a mapping, worked out once.

    cells     by population: pass them to the executor
    first     by population: where its cells begin among those of all populations, side by side in this order
    wholes    rows: the projections of the network, in its order; (messages of the source, synaptic operations), none
              of an attention
    arriving  by population: its messages at the slices that it sends to; none where there is no mapping
    sent      rows: slices; (spikes, messages sent): see SliceEvents
    received  rows: slices; (messages received, synaptic operations)
    """

    network: Network
    mapping: Mapping | None
    cells: dict[str, Cells]
    first: dict[str, int]
    wholes: SparseSums
    arriving: dict[str, tuple[Weights, ...]]
    sent: SparseSums
    received: SparseSums


def geometry(network: Network, mapping: Mapping | None) -> Geometry:
    """The geometry of `network` on `mapping`, or of the network alone."""
    coming: dict[str, list[Inlet]] = {}
    own: dict[str, Inlet] = {}
    if mapping is not None:
        for inlet in inlets(network, mapping):
            coming.setdefault(inlet.source, []).append(inlet)
        own = {name: own_inlet(network, mapping, name) for name in coming}
    cells = cells_of(network, {name: [own[name], *found] for name, found in coming.items()})
    sizes = [int(np.prod(grid.shape)) for grid in cells.values()]
    first = dict(zip(cells, np.cumsum([0, *sizes]).tolist(), strict=False))
    arriving = {name: tuple(_weights(inlet, cells[name]) for inlet in found) for name, found in coming.items()}
    sent, received, slices = [], [], 0
    if mapping is not None:
        slices = len(mapping.boxes)
        for name, reached in arriving.items():
            here, there = _of_population(_weights(own[name], cells[name]), reached, mapping)
            sent.append(here.moved(first[name]))
            received.append(there.moved(first[name]))
    tables = sparse_sums(slices, joined(sent)), sparse_sums(slices, joined(received))
    wholes = sparse_sums(len(network.projections), _wholes(network, cells, first))
    return Geometry(network, mapping, cells, first, wholes, arriving, *tables)


def _wholes(network: Network, cells: dict[str, Cells], first: dict[str, int]) -> Entries:
    parts = []
    for number, projection in enumerate(network.projections):
        if isinstance(projection.synapse, Attention):
            continue
        name = projection.sources[0]
        segments, rows, columns = whole_reach(network, projection, projection.synapse)
        fan = _by_range(cells[name], segments)
        at_rows, at_columns = (np.unique(c, return_index=True)[1] for c in (cells[name].rows, cells[name].columns))
        weights = np.einsum("s,r,q->srq", fan, rows[0, at_rows], columns[0, at_columns]).ravel()
        ones, cell = np.ones(weights.size, np.int32), np.arange(weights.size, dtype=np.int32)
        parts.append(Entries(number * ones, cell, ones, weights.astype(np.int32)).moved(first[name]))
    return joined(parts)


def _weights(inlet: Inlet, cells: Cells) -> Weights:
    channels = np.stack([_by_range(cells, segments) for segments in inlet.segments])
    rows, columns = inlet.rows, inlet.columns
    if not inlet.flat:
        rows = rows[:, np.unique(cells.rows, return_index=True)[1]]
        columns = columns[:, np.unique(cells.columns, return_index=True)[1]]
    return Weights(inlet, channels, rows, columns, (inlet.segments_of, inlet.rows_of, inlet.columns_of))


def _by_range(cells: Cells, segments: Sequence[tuple[int, int, int]]) -> Int:
    """(slices,) the targets that a message reaches in channel direction, from each range of channels."""
    fan = np.zeros(cells.shape[0], np.int64)
    for first, end, targets in segments:
        low, high = np.searchsorted(cells.channels, (first, end))
        fan[low:high] += targets
    return fan


def _of_population(own: Weights, arriving: Sequence[Weights], mapping: Mapping) -> tuple[Entries, Entries]:
    """What `Geometry.sent` and `Geometry.received` hold of one population, cells counted from its first."""
    found = [(weights.inlet, weights.entries()) for weights in arriving]
    each = joined([entries for inlet, entries in found if not inlet.unicast])
    visited = [inlet.slices for inlet, _ in found if not inlet.unicast]
    delivered = _once_a_core(each, mapping, np.concatenate([np.zeros(0, np.int64), *visited]))
    home = own.entries()
    fan_out = np.bincount(each.cell[delivered], minlength=len(home.cell)).astype(np.int32)
    sent = [replace(home, second=fan_out[home.cell])]
    sent += [
        replace(entries, first=entries.second, second=np.zeros_like(entries.cell))
        for inlet, entries in found
        if inlet.replay
    ]
    received = [replace(each, first=delivered.astype(np.int32))]
    received += [replace(entries, first=entries.second) for inlet, entries in found if inlet.unicast]
    return joined(sent), joined(received)


def _once_a_core(entries: Entries, mapping: Mapping, visited: Int) -> NDArray[np.bool_]:
    """Which entries a message is sent for: it goes to a core once, and counts at the first of the slices there.

    visited  the slices that anything arrives at, as often as an inlet leads there
    """
    out = np.ones(len(entries.row), bool)
    core, times = np.unique(mapping.cores[visited], return_counts=True)
    several = np.flatnonzero(np.isin(mapping.cores[entries.row], core[times > 1]))
    if several.size:
        cell = entries.cell[several]
        _, first = np.unique(mapping.cores[entries.row[several]] * (int(cell.max()) + 1) + cell, return_index=True)
        out[several] = False
        out[several[first]] = True
    return out


def slice_events(mapping: Mapping, sent: tuple[Int, Int], received: tuple[Int, Int]) -> SliceEvents:
    """Events of every slice from the sums by the tables Geometry.sent and Geometry.received."""
    (spikes, out), (arrived, synops) = sent, received
    counters = np.isin(mapping.boxes[:, 0], [i for i, s in enumerate(mapping.sites) if s.kind == "attention"])
    out[..., counters] = spikes[..., counters]
    edges = mapping.boxes[:, 1:].reshape(-1, 3, 2)
    neurons = np.prod(edges[:, :, 1] - edges[:, :, 0], 1)
    _gather(mapping, neurons, spikes, out, arrived, synops)
    return SliceEvents(mapping.boxes[:, 0], mapping.cores, neurons, spikes, out, arrived, synops)


def _gather(mapping: Mapping, neurons: Int, spikes: Int, out: Int, arrived: Int, synops: Int) -> None:
    """Add the partial sums of split fan-ins: each goes on to its neuron in every step (at most: zeros stay at home)."""
    own = {site.population: i for i, site in enumerate(mapping.sites) if site.kind == "population"}
    for index, site in enumerate(mapping.sites):
        if site.kind == "partial":
            senders, receivers = mapping.slices_of(index), mapping.slices_of(own[site.population])
            spikes[..., senders] = out[..., senders] = neurons[senders]
            arrived[..., receivers] += neurons[receivers]
            synops[..., receivers] += neurons[receivers]
