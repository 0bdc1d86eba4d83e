"""From recorded spikes to the messages of every chip-wide step: which core sends what, when in its sweep, and where to.

A time step is one chip-wide step in which all neurons are visited, and then the sub-steps of its attentions.  Routing
tables are kept by cell (see run.Cells): all neurons of a cell send the same messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.loihi.latencies import NOMINAL, latencies
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.slices import Geometry
from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.network.mapping import Mapping as CoreMapping
from spikformer_deploy.network.mapping import Site
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Attention
from spikformer_deploy.timing.layout import SliceLayout, depths, slice_layout
from spikformer_deploy.timing.machine import ticks
from spikformer_deploy.timing.routing import Table, TableBuilder
from spikformer_deploy.timing.wave import Routes, Wave

Spikes: TypeAlias = Mapping[str, NDArray[np.integer]]
"""By population name: (T, C, Y, X), what one image made it send."""


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Ticks of a sweep: a visit that finds nothing to do, one that updates the neuron, and what a spike adds."""

    idle: int
    update: int
    spike: int


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """In which order cores visit their neurons: slice after slice in the order of the mapping, each channel by channel.

    rank     by site number: (C, Y, X) the place of each neuron in the visits of all cores, core after core
    slice    (visits,) the slice of each place; first (slices,) the place of a slice's first neuron
    core     (slices,) index into Machine.cores; neurons (slices,)
    order    (slices,) all slices in the order of their places
    """

    rank: tuple[Int, ...]
    slice: NDArray[np.int32]
    first: Int
    core: Int
    neurons: Int
    order: Int


@dataclass(frozen=True, slots=True, eq=False)
class Sender:
    """The messages that the spikes of a population cause, one kind of them.

    rank    (..., n) n neurons that send something for each spike, as places in the sweeps: the neuron itself, or the
            attention counters that answer to it; row (..., n) of `table`: their messages.  All axes but the last are
            the population's neurons
    wave    (neurons,) when: in the chip-wide step of its level (0), or in a sub-step after it (1, 2, ...)
    always  in every step, spikes or not: the partial sums of a split fan-in
    """

    population: str
    rank: Int
    row: Int
    table: Table
    level: int
    wave: Int
    always: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """All that is needed to turn spikes into messages.

    layout    of each slice: its level, the kind of its synapses
    counters  (slices,) whether it is a slice of attention counters
    sub_steps by level: the sub-steps that follow its chip-wide step
    message_in  ticks of the axon-in unit for a message
    """

    network: Network
    sweep: Sweep
    routes: Routes
    senders: tuple[Sender, ...]
    layout: SliceLayout
    counters: NDArray[np.bool_]
    sub_steps: dict[int, int]
    costs: Costs
    message_in: int
    cores: int

    @property
    def levels(self) -> int:
        """Layers from the Source to the Accumulator, both counted."""
        return self.layout.depth + 1


@dataclass(frozen=True, slots=True, eq=False)
class Firings:
    """Neurons that send something: (firings,) of the wave, the place in the sweeps, and (firings, 2) entries in Routes;
    in the order of wave and place."""

    wave: Int
    rank: Int
    routes: Int


def traffic(geometry: Geometry, profile: Profile) -> Traffic:
    """The traffic of `geometry`, which must have a mapping, on `profile`, durations at their nominal values."""
    network, mapping = geometry.network, geometry.mapping
    assert mapping is not None
    table = latencies(profile)
    layout = slice_layout(network, mapping)
    synop = np.array([ticks(ns) for ns in table.synop[NOMINAL]])[layout.synapse]
    builder = TableBuilder(mapping, synop, ticks(table.message_in[NOMINAL]))
    sweep, level = _sweep(mapping), depths(network)
    senders: list[Sender] = []
    sub_steps: dict[int, int] = {}
    for site in mapping.sites:
        if site.kind == "attention":
            follows = level[site.population] - 1
            sub_steps[follows] = max(sub_steps.get(follows, 0), site.sub_steps + 1)
    for index, site in enumerate(mapping.sites):
        if site.kind == "population" and site.population in geometry.arriving:
            senders += _senders(geometry, mapping, sweep, builder, index, level)
        elif site.kind == "partial":
            senders.append(_partial(mapping, sweep, builder, index, level[site.population]))
    costs = Costs(*(ticks(t[NOMINAL]) for t in (table.idle_neuron, table.neuron, table.spike_out)))
    counters = np.array([site.kind == "attention" for site in mapping.sites])[mapping.boxes[:, 0]]
    return Traffic(
        network, sweep, builder.routes(), tuple(senders), layout, counters, sub_steps, costs,
        ticks(table.message_in[NOMINAL]), len(np.unique(mapping.cores)),
    )  # fmt: skip


def check_spatial(mapping: CoreMapping) -> None:
    """Raise InputError where tokens come in series: which message waits for which is not modelled there."""
    if any(site.token_serial for site in mapping.sites):
        problem = "a token-serial program is not timed message by message"
        raise InputError("--timing", problem, "Use --timing estimate, or compile with --schedule spatial.")


def _sweep(mapping: CoreMapping) -> Sweep:
    edges = mapping.boxes[:, 1:].reshape(-1, 3, 2)
    sizes = edges[:, :, 1] - edges[:, :, 0]
    neurons = sizes.prod(1)
    core = np.unique(mapping.cores, return_inverse=True)[1].ravel()
    order = np.argsort(core, kind="stable")
    first = np.empty(len(order), np.int64)
    first[order] = np.concatenate([[0], neurons[order].cumsum()[:-1]])
    ranks = tuple(np.empty(site.shape, np.int64) for site in mapping.sites)
    for number, (site, c0, c1, y0, y1, x0, x1) in enumerate(mapping.boxes.tolist()):
        places = first[number] + np.arange(neurons[number])
        ranks[site][c0:c1, y0:y1, x0:x1] = places.reshape(sizes[number])
    return Sweep(ranks, np.repeat(order, neurons[order]).astype(np.int32), first, core, neurons, order)


def _senders(
    geometry: Geometry, mapping: CoreMapping, sweep: Sweep, builder: TableBuilder, index: int, level: dict[str, int]
) -> Iterator[Sender]:
    """All that the population of site `index` sends: to other populations, to counters, and what these answer."""
    site = mapping.sites[index]
    name, rank = site.population, sweep.rank[index].reshape(-1, 1)
    cells, arriving = geometry.cells[name], geometry.arriving[name]
    row = rows_of_cells(cells).reshape(-1, 1)
    ordinary, to_counters = [], []
    for weights in arriving:
        at = mapping.sites[mapping.boxes[weights.inlet.slices[0], 0]]
        if at.kind == "attention":
            to_counters.append((at, weights))
        elif not weights.inlet.unicast:
            ordinary.append(weights)
    if ordinary:
        table = builder.table(cells, ordinary)
        yield Sender(name, rank, row, table, level[name], np.zeros(len(rank), np.int64))
    for at, weights in to_counters:
        follows, turn = level[at.population] - 1, _turns(at, site.shape)
        wave = 1 + turn + at.sub_steps // 2 * weights.inlet.replay
        yield Sender(name, rank, row, builder.table(cells, [weights]), follows, wave.ravel())
        if weights.inlet.replay:
            yield _answers(geometry.network, mapping, sweep, builder, at, name, wave + 1)


def _turns(counters: Site, shape: tuple[int, int, int]) -> Int:
    """(C, Y, X) whose turn it is in which sub-step of a half: tokens in series, or channels of a head."""
    channels, height, width = shape
    if counters.serial == "tokens":
        turn = np.arange(height * width).reshape(1, height, width)
    else:
        turn = (np.arange(channels) % (counters.sub_steps // 2))[:, None, None]
    return np.broadcast_to(turn, shape).astype(np.int64)


def _answers(
    network: Network, mapping: CoreMapping, sweep: Sweep, builder: TableBuilder, counters: Site, name: str, wave: Int
) -> Sender:
    """What the counters of an attention answer to the spikes of population `name`; wave (C, Y, X) of the answers."""
    index, own = mapping.sites.index(counters), _own(mapping, counters.population)
    attention = next(p.synapse for p in network.into(counters.population) if isinstance(p.synapse, Attention))
    channels, height, width = network[counters.population].shape
    depth, tokens = channels // attention.heads, height * width
    slices = mapping.slices_of(own)
    row = _row_of_slice(mapping, slices)[sweep.slice[sweep.rank[own]]].reshape(attention.heads, depth, tokens)
    if counters.serial == "tokens":
        # the counters of a row, one for each channel of the head: to that channel of the same token
        shape = (attention.heads, depth, tokens, depth)
        rank = sweep.rank[index].reshape(attention.heads, depth, 1, depth)
        rows = row.transpose(0, 2, 1)[:, None]
    else:
        # the counters of a column, one for each token: to that token of the same channel
        shape = (attention.heads, depth, tokens, tokens)
        rank = sweep.rank[index].transpose(0, 2, 1)[:, None]
        rows = row[:, :, None]
    return Sender(
        name, np.broadcast_to(rank, shape), np.broadcast_to(rows, shape), builder.one_each(slices),
        depths(network)[counters.population] - 1, wave.ravel(),
    )  # fmt: skip


def _own(mapping: CoreMapping, population: str) -> int:
    """The site of a population's own neurons."""
    return next(i for i, s in enumerate(mapping.sites) if s.kind == "population" and s.population == population)


def _row_of_slice(mapping: CoreMapping, slices: Int) -> Int:
    """(slices of the mapping,) which of the chosen slices each is, in their order."""
    out = np.zeros(len(mapping.boxes), np.int64)
    out[slices] = np.arange(len(slices))
    return out


def _partial(mapping: CoreMapping, sweep: Sweep, builder: TableBuilder, index: int, level: int) -> Sender:
    """The partial sums of site `index`, each on its way to its neuron."""
    name, rank = mapping.sites[index].population, sweep.rank[index].reshape(-1, 1)
    own = _own(mapping, name)
    slices = mapping.slices_of(own)
    row = _row_of_slice(mapping, slices)[sweep.slice[sweep.rank[own]]].reshape(-1, 1)
    return Sender(name, rank, row, builder.one_each(slices), level, np.zeros(len(rank), np.int64), always=True)


def rows_of_cells(cells: Cells) -> Int:
    """(neurons,) the cell of each neuron."""
    _, rows, columns = cells.shape
    channels = np.repeat(np.arange(len(cells.channels) - 1), np.diff(cells.channels))
    return ((channels[:, None, None] * rows + cells.rows[:, None]) * columns + cells.columns).ravel()


def pipelined(traffic: Traffic, spikes: Spikes, step: int) -> list[Wave]:
    """The waves of chip-wide step `step` of a pipeline that one image after the other, all like this one, runs through.

    A layer at level l works on what the Source sent l steps before.
    """
    steps = traffic.network.time_steps
    firings = _firings(traffic, spikes, range(traffic.levels), lambda level: (step - level) % steps)
    busy = ~traffic.counters
    return _waves(traffic, firings, busy, max(traffic.sub_steps.values(), default=0))


def alone(traffic: Traffic, spikes: Spikes, level: int, step: int) -> list[Wave]:
    """The waves in which the layer at `level` works on time step `step`, and all others find nothing to do."""
    firings = _firings(traffic, spikes, [level], lambda _: step)
    busy = (traffic.layout.level == level) & ~traffic.counters
    return _waves(traffic, firings, busy, traffic.sub_steps.get(level, 0))


def _firings(traffic: Traffic, spikes: Spikes, levels: Collection[int], time_of: Callable[[int], int]) -> Firings:
    """What the layers at `levels`, each at a time step of its own, send in a chip-wide step and its sub-steps."""
    found: list[tuple[Int, Int, Int]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64))]
    for sender in traffic.senders:
        if sender.level not in levels:
            continue
        if sender.always:
            fired = np.arange(len(sender.wave))
        else:
            fired = np.flatnonzero(spikes[sender.population][time_of(sender.level)])
        at = np.unravel_index(fired, sender.rank.shape[:-1])
        rank, row = sender.rank[at], sender.row[at]
        wave = np.broadcast_to(sender.wave[fired][:, None], rank.shape)
        routes = np.stack([sender.table[row], sender.table[row + 1]], -1)
        sends = routes[..., 1] > routes[..., 0]
        found.append((wave[sends], rank[sends], routes[sends]))
    wave, rank, routes = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.argsort(wave * len(traffic.sweep.slice) + rank, kind="stable")
    return Firings(wave[order], rank[order], routes[order])


def _waves(traffic: Traffic, firings: Firings, busy: NDArray[np.bool_], sub_steps: int) -> list[Wave]:
    """The chip-wide step, in which the neurons of `busy` slices are updated, and its sub-steps.

    In a sub-step nothing is updated but the neurons that send.
    """
    costs = traffic.costs
    edges = np.searchsorted(firings.wave, np.arange(sub_steps + 2))
    parts = [slice(*edge) for edge in pairwise(edges.tolist())]
    idle = np.full(len(busy), costs.idle)
    quiet = _wave(traffic, firings, slice(0, 0), idle, 0)
    return [
        _wave(traffic, firings, parts[0], np.where(busy, costs.update, costs.idle), costs.spike),
        *(
            _wave(traffic, firings, part, idle, costs.spike + costs.update - costs.idle)
            if part.stop > part.start
            else quiet
            for part in parts[1:]
        ),
    ]


def _wave(traffic: Traffic, firings: Firings, part: slice, visit: Int, sends: int) -> Wave:
    """One of them; visit (slices,) ticks of a visit, `sends` what a neuron that sends adds."""
    sweep, rank = traffic.sweep, firings.rank[part]
    # all sweeps one after the other, as one long one
    ends = np.cumsum((sweep.neurons * visit)[sweep.order])
    start = np.empty(len(visit), np.int64)
    start[sweep.order] = ends - (sweep.neurons * visit)[sweep.order]
    slices = sweep.slice[rank]
    when = start[slices] + (rank - sweep.first[slices] + 1) * visit[slices]
    edges = np.searchsorted(sweep.core[sweep.order], np.arange(traffic.cores + 1))
    begin = np.concatenate([[0], ends])[edges]
    first = np.searchsorted(sweep.core[slices], np.arange(traffic.cores + 1))
    sending = np.flatnonzero(first[1:] > first[:-1])
    before = np.concatenate([[0], when])[:-1]
    before[first[sending]] = begin[sending]
    last = begin[:-1].copy()
    last[sending] = when[first[sending + 1] - 1]
    return Wave(first, when - before + sends, firings.routes[part], begin[1:] - last)
