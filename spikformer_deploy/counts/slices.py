"""Event counts of each slice of a mapping: one sparse product of the messages of all cells of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.counts.dense import Described, described
from spikformer_deploy.counts.inlets import Inlet, cells_of, inlets, own_inlet
from spikformer_deploy.counts.sums import Entries, Layout, SparseSums, joined, layout_of, sparse_sums, weighted
from spikformer_deploy.executors.execution import Activity, Cells
from spikformer_deploy.network.mapping import Mapping, Site
from spikformer_deploy.network.network import Network, graded_spikes
from spikformer_deploy.network.neurons import may_idle
from spikformer_deploy.network.reach import Segment, whole_reach
from spikformer_deploy.network.synapses import Attention, DualSpike

MOST_COUNTED = 2**31
"""Of messages, and of what they carry, in a step: cells are counted in 32 bits."""
PER_IMAGE = ("spikes", "messages_out", "messages_in", "synops", "idle")
"""The fields of SliceEvents that have an axis of images."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceEvents:
    """Events of each slice of the mapping, in the order of Mapping.boxes; events.condensed makes one image of all.

    sites         (slices,) index of the site, as in the mapping
    cores         (slices,) global core, as in the mapping
    neurons       (slices,) neurons (or attention counters) of the slice, each visited once a step
    spikes        (images, T, slices) non-zero outputs; of attention counters: graded values sent, at most;
                  of partial sums of a split fan-in, and of what copies of counters send each other, too
    messages_out  (images, T, slices) one for each spike and destination core
    messages_in   (images, T, slices); a message that serves several slices of a core counts at the first of them
    synops        (images, T, slices) synaptic operations; an attention's both at its counters and at its target;
                  partial sums at their neurons: their sum is that of Events.synops
    idle          (images, T, slices) visits that find nothing to do (network.neurons.idle); all others are updates.
                  0 at attention counters, which work in sub-steps, and at partial sums, which send in every step
    """

    sites: Int
    cores: Int
    neurons: Int
    spikes: Int
    messages_out: Int
    messages_in: Int
    synops: Int
    idle: Int

    def by_core(self, values: NDArray[Any], chosen: NDArray[np.bool_] | None = None) -> tuple[Int, NDArray[Any]]:
        """The cores in use, ascending, and `values` (..., slices) summed over the slices of each: (..., cores).

        chosen  (slices,) those that count, with their cores; None: all
        """
        index = np.arange(len(self.cores)) if chosen is None else np.flatnonzero(chosen)
        order = index[np.argsort(self.cores[index], kind="stable")]
        cores, starts = np.unique(self.cores[order], return_index=True)
        taken = values[..., order]
        # reduceat refuses to sum nothing
        return cores, np.add.reduceat(taken, starts, axis=-1) if cores.size else taken


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """An Inlet on the cells of its source: operations of a message are channels * rows * columns of its cell.

    channels  (k, ranges of channels) the different ones of Inlet.channels
    rows      (i, classes of rows) those of Inlet.rows; of a flat inlet every token is a class
    columns   (j, classes of columns) likewise
    """

    inlet: Inlet
    channels: Int
    rows: Int
    columns: Int

    def synops(self, number: int) -> Int:
        """(ranges, rows, columns) operations of a message of each cell at the slice of that number in the inlet."""
        channels = self.channels[self.inlet.channels.which[number]]
        rows = self.rows[self.inlet.rows.which[number]]
        columns = self.columns[self.inlet.columns.which[number]]
        return np.einsum("s,r,q->srq", channels, rows, columns)

    def entries(self) -> Entries:
        """Every pair of a slice and a cell that reaches it, slice by slice.

        first is 1, and second the operations of a message.
        """
        parts: list[Entries] = []
        for number, slice_ in enumerate(self.inlet.slices.tolist()):
            operations = self.synops(number).ravel()
            cell = np.flatnonzero(operations).astype(np.int32)
            ones = np.ones(cell.size, np.int32)
            parts.append(Entries(slice_ * ones, cell, ones, operations[cell].astype(np.int32)))
        return joined(parts)


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """What a mapping says of its slices whatever is sent, (slices,) each; and what they send in every step.

    That are the partial sums of split fan-ins, each of which goes on to its neuron (at most: zeros stay at home), and
    the sums that copies of counters send each other, at most too.

    neurons    as of SliceEvents
    silent     whether neurons are idle where they send nothing
    counters   whether these are attention counters
    spikes, messages_out, messages_in, synops  of every step, as of SliceEvents
    exchanged  (sites,) messages of every step from copies of counters to each other
    """

    neurons: Int
    silent: NDArray[np.bool_]
    counters: NDArray[np.bool_]
    spikes: Int
    messages_out: Int
    messages_in: Int
    synops: Int
    exchanged: Int


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """All that counting needs to know of a network on a mapping, worked out once.

    cells     by population: pass them to the executor
    layout    where the cells of each population stand among those of all
    wholes    rows: the projections of the network, in its order; (messages of the source, synaptic operations), none
              of an attention and of a dual spike transformation
    described of each projection, in the network's order
    wholes_of_graded  as wholes, on the cells of those populations only whose messages are numbers of spikes
    layout_of_graded  where the cells of these stand
    arriving  by population: its messages at the slices that it sends to; none where there is no mapping
    sent      rows: slices; (spikes, messages sent): see SliceEvents
    received  rows: slices; (messages received, synaptic operations)
    resting   rows: slices; (idle neurons, the same), on the cells of those populations only that `may_idle`
    layout_of_resting  where the cells of these stand
    standing  what is the same in every step; None where there is no mapping
    """

    network: Network
    mapping: Mapping | None
    cells: dict[str, Cells]
    layout: Layout
    wholes: SparseSums
    described: tuple[Described, ...]
    wholes_of_graded: SparseSums
    layout_of_graded: Layout
    arriving: dict[str, tuple[Weights, ...]]
    sent: SparseSums
    received: SparseSums
    resting: SparseSums
    layout_of_resting: Layout
    standing: Standing | None


def geometry(network: Network, mapping: Mapping | None) -> Geometry:
    """The geometry of `network` on `mapping`, or of the network only.

    Raises InputError where a population could send more in a step than is counted.
    """
    graded = graded_spikes(network)
    _check_numbers(network, graded)
    reaching: dict[str, list[Inlet]] = {}
    own_slices: dict[str, Inlet] = {}
    if mapping is not None:
        for inlet in inlets(network, mapping):
            reaching.setdefault(inlet.source, []).append(inlet)
        own_slices = {p.name: own_inlet(network, mapping, p.name) for p in network if p is not network.output}
    cells = cells_of(network, {name: [own, *reaching.get(name, [])] for name, own in own_slices.items()})
    layout = _layout(cells)
    layout_of_graded = _layout({name: grid for name, grid in cells.items() if name in graded})
    layout_of_resting = _layout({name: cells[name] for name in own_slices if may_idle(network[name].neuron)})
    arriving = {name: tuple(_weights(inlet, cells[name]) for inlet in ways) for name, ways in reaching.items()}
    sent: list[Entries] = []
    received: list[Entries] = []
    resting: list[Entries] = []
    slices = 0
    if mapping is not None:
        slices = len(mapping.boxes)
        for name, own in own_slices.items():
            neurons = _weights(own, cells[name]).entries()
            sent_by, received_from = _of_population(neurons, arriving.get(name, ()), mapping)
            sent.append(sent_by.moved(layout.first[name]))
            received.append(received_from.moved(layout.first[name]))
            if name in layout_of_resting.first:
                resting.append(neurons.moved(layout_of_resting.first[name]))
    return Geometry(
        network=network,
        mapping=mapping,
        cells=cells,
        layout=layout,
        wholes=sparse_sums(len(network.projections), _wholes(network, cells, layout.first)),
        described=tuple(described(network, projection) for projection in network.projections),
        wholes_of_graded=sparse_sums(len(network.projections), _wholes(network, cells, layout_of_graded.first)),
        layout_of_graded=layout_of_graded,
        arriving=arriving,
        sent=sparse_sums(slices, joined(sent)),
        received=sparse_sums(slices, joined(received)),
        resting=sparse_sums(slices, joined(resting)),
        layout_of_resting=layout_of_resting,
        standing=None if mapping is None else _standing(network, mapping),
    )


def _check_numbers(network: Network, graded: frozenset[str]) -> None:
    """Raise InputError where the numbers that a population sends might not fit the 32 bits of a cell's sum."""
    for population in network:
        if population.name in graded and population.max_out * population.size >= MOST_COUNTED:
            raise InputError(
                population.name,
                f"its {population.size:,} neurons send up to {population.max_out:,} each, "
                f"and sums of a step are counted up to {MOST_COUNTED:,}",
                "Train with fewer levels.",
            )


def _layout(cells: dict[str, Cells]) -> Layout:
    """The cells of all populations, one after the other."""
    return layout_of({name: math.prod(grid.shape) for name, grid in cells.items()})


def by_site(values: Int, mapping: Mapping) -> Int:
    """(k, sites) sums of `values` (k, slices)."""
    sums = np.zeros((len(values), len(mapping.sites)), np.int64)
    for of_sites, of_slices in zip(sums, values, strict=True):
        # numpy is three times as fast row by row
        np.add.at(of_sites, mapping.boxes[:, 0], of_slices)
    return sums


def _idle_if_silent(network: Network, site: Site) -> bool:
    """Whether the neurons of a site are idle where they send nothing."""
    return site.kind == "population" and network[site.population].neuron.idle_if_silent


def _standing(network: Network, mapping: Mapping) -> Standing:
    site_of = mapping.boxes[:, 0]
    edges = mapping.boxes[:, 1:].reshape(-1, 3, 2)
    neurons = np.prod(edges[:, :, 1] - edges[:, :, 0], 1)
    exchanged = mapping.exchanged
    # what copies send each other
    spikes = np.array([site.copies > 1 for site in mapping.sites])[site_of] * neurons
    messages_out = exchanged.copy()
    arriving = exchanged.copy()
    home = {site.population: i for i, site in enumerate(mapping.sites) if site.kind == "population"}
    for index, site in enumerate(mapping.sites):
        if site.kind == "partial":
            senders = mapping.slices_of(index)
            receivers = mapping.slices_of(home[site.population])
            spikes[senders] += neurons[senders]
            messages_out[senders] += neurons[senders]
            arriving[receivers] += neurons[receivers]
    return Standing(
        neurons=neurons,
        silent=np.array([_idle_if_silent(network, site) for site in mapping.sites])[site_of],
        counters=np.array([site.kind == "attention" for site in mapping.sites])[site_of],
        spikes=spikes,
        messages_out=messages_out,
        messages_in=arriving,
        # an operation for each
        synops=arriving,
        exchanged=by_site(exchanged[None], mapping)[0],
    )


def _wholes(network: Network, cells: dict[str, Cells], first: dict[str, int]) -> Entries:
    """A row for every projection but products of messages, entries for those from the populations of `first`.

    Each cell of its source, 1, and the operations in the whole target.
    """
    parts: list[Entries] = []
    for number, projection in enumerate(network.projections):
        name = projection.sources[0]
        if isinstance(projection.synapse, Attention | DualSpike) or name not in first:
            continue
        grid = cells[name]
        segments, rows, columns = whole_reach(network, projection, projection.synapse)
        channels = _by_range(grid, segments)
        of_rows = rows[0, _one_of_each(grid.rows)]
        of_columns = columns[0, _one_of_each(grid.columns)]
        operations = np.einsum("s,r,q->srq", channels, of_rows, of_columns).ravel()
        ones = np.ones(operations.size, np.int32)
        cell = np.arange(operations.size, dtype=np.int32)
        parts.append(Entries(number * ones, cell, ones, operations.astype(np.int32)).moved(first[name]))
    return joined(parts)


def _weights(inlet: Inlet, cells: Cells) -> Weights:
    """An inlet on a grid of cells: what holds for one neuron of a cell holds for all."""
    channels = np.stack([_by_range(cells, segments) for segments in inlet.channels.distinct])
    rows = inlet.rows.distinct
    columns = inlet.columns.distinct
    if not inlet.flat:
        rows = rows[:, _one_of_each(cells.rows)]
        columns = columns[:, _one_of_each(cells.columns)]
    return Weights(inlet, channels, rows, columns)


def _one_of_each(classes: Int) -> Int:
    """A position of each class, in the order of the classes."""
    return np.unique(classes, return_index=True)[1]


def _by_range(cells: Cells, segments: Sequence[Segment]) -> Int:
    """(ranges,) the targets that a message reaches in channel direction, from each range of channels."""
    fan = np.zeros(cells.shape[0], np.int64)
    for first, end, targets in segments:
        low, high = np.searchsorted(cells.channels, (first, end))
        fan[low:high] += targets
    return fan


def _of_population(neurons: Entries, arriving: Sequence[Weights], mapping: Mapping) -> tuple[Entries, Entries]:
    """What `Geometry.sent` and `Geometry.received` hold of one population, cells counted from its first.

    neurons  its cells at its own slices; arriving: its messages at all others
    """
    entries = [(weights.inlet, weights.entries()) for weights in arriving]
    spikes = joined([part for inlet, part in entries if not inlet.unicast])
    visited = [inlet.slices for inlet, _ in entries if not inlet.unicast]
    delivered = _once_a_core(spikes, mapping, np.concatenate([np.zeros(0, np.int64), *visited]))
    fan_out = np.bincount(spikes.cell[delivered], minlength=len(neurons.cell)).astype(np.int32)
    sent = [replace(neurons, second=fan_out[neurons.cell])]
    # what counters send on counts as their spikes; its messages are added by slice_events
    sent += [
        replace(part, first=part.second, second=np.zeros_like(part.cell)) for inlet, part in entries if inlet.replay
    ]
    received = [replace(spikes, first=delivered.astype(np.int32))]
    # a message of its own for every operation
    received += [replace(part, first=part.second) for inlet, part in entries if inlet.unicast]
    return joined(sent), joined(received)


def _once_a_core(entries: Entries, mapping: Mapping, visited: Int) -> NDArray[np.bool_]:
    """Which entries a message is sent for: it goes to a core once, and counts at the first of the slices there.

    visited  the slices that anything arrives at, as often as an inlet leads there
    """
    sends = np.ones(len(entries.row), bool)
    # most cores hold one slice that one inlet leads to: there is nothing to sort out there
    core, times = np.unique(mapping.cores[visited], return_counts=True)
    several = np.flatnonzero(np.isin(mapping.cores[entries.row], core[times > 1]))
    if several.size:
        cell = entries.cell[several]
        core_and_cell = mapping.cores[entries.row[several]] * (int(cell.max()) + 1) + cell
        _, first = np.unique(core_and_cell, return_index=True)
        sends[several] = False
        sends[several[first]] = True
    return sends


def slice_events(
    geometry: Geometry, sent: tuple[Int, Int], received: tuple[Int, Int], activity: dict[str, Activity]
) -> SliceEvents:
    """Events of every slice from the sums by the tables Geometry.sent and Geometry.received, which needs a mapping."""
    mapping = geometry.mapping
    standing = geometry.standing
    assert mapping is not None
    assert standing is not None
    spikes, messages_out = sent
    messages_in, synops = received
    # a counter's values go to one core each
    messages_out[..., standing.counters] = spikes[..., standing.counters]
    idle = _resting(geometry, activity, spikes.shape)
    silent = standing.silent
    idle[..., silent] = standing.neurons[silent] - spikes[..., silent]
    return SliceEvents(
        sites=mapping.boxes[:, 0],
        cores=mapping.cores,
        neurons=standing.neurons,
        spikes=spikes + standing.spikes,
        messages_out=messages_out + standing.messages_out,
        messages_in=messages_in + standing.messages_in,
        synops=synops + standing.synops,
        idle=idle,
    )


def _resting(geometry: Geometry, activity: dict[str, Activity], shape: tuple[int, ...]) -> Int:
    """(images, T, slices), which is `shape`: neurons of each slice that are idle by their potentials."""
    resting = geometry.layout_of_resting
    if not resting.first:
        return np.zeros(shape, np.int64)
    numbers: dict[str, NDArray[np.int32]] = {}
    for name in resting.first:
        idle = activity[name].idle
        assert idle is not None
        numbers[name] = idle
    return weighted((geometry.resting,), numbers, resting)[1][0][0]
