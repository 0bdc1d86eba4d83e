"""Event counts of each slice of a mapping: sums of messages over cells, all slices of a site at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.mapping.mapping import Mapping
from spikformer_deploy.quantize.network import Attention, Network
from spikformer_deploy.simulate.reach import Inlet, cells_of, inlets, own_inlet, whole_reach
from spikformer_deploy.simulate.run import Activity, Cells

Int: TypeAlias = NDArray[np.int64]
Real: TypeAlias = NDArray[np.float64]
"""Integers held exactly: every sum of counts stays below 2^53."""

BATCH_BYTES = 2**27
"""Message maps are worked on for so many images at once that they stay below this, as doubles."""
WHOLE = 2**14
"""Weights of cells for slices are multiplied out where there are no more of them."""

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
    synops        (images, T, slices) synaptic operations; an attention's both at its counters and at its target
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

    channels (k, slices), rows (i, R), columns (j, Q) of doubles; at: which of each a slice has, three (S,)
    whole  (slices * R * Q, S) the product, where it is small: one multiplication then instead of three
    """

    inlet: Inlet
    channels: Real
    rows: Real
    columns: Real
    at: tuple[Int, Int, Int]
    whole: Real | None = None

    def reach(self) -> Weights:
        """Ones where a message makes any operations: who gets it."""
        channels, rows, columns = ((w > 0).astype(np.float64) for w in (self.channels, self.rows, self.columns))
        return _with_whole(Weights(self.inlet, channels, rows, columns, self.at))

    def synops(self, number: int) -> Int:
        """(slices, R, Q) operations of a message of each cell at the slice of that number in the inlet."""
        channels, rows, columns = (
            w[which[number]] for w, which in zip((self.channels, self.rows, self.columns), self.at, strict=True)
        )
        return np.einsum("s,r,q->srq", channels, rows, columns).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Arrival:
    """Synaptic operations at the slices of an inlet, and the messages that reach them.

    alone        (S,) slices that share their core with no other one
    per_message  (S,) operations of every message; None where messages differ
    """

    operations: Weights
    reach: Weights
    alone: NDArray[np.bool_]
    per_message: Int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Outlet:
    """What happens with the messages of one population.

    own      its own slices
    arriving  where it sends to
    fan_out  (slices, R, Q) cores that a message of each cell goes to
    seen     for each slice that shares its core with another one, by index into the mapping: the cells (slices, R, Q)
             whose messages no earlier slice of that core has taken
    """

    own: Weights
    arriving: tuple[_Arrival, ...]
    fan_out: Real
    seen: dict[int, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """All that counting needs to know of a network on a mapping, worked out once.

    cells    by population: pass them to the executor
    wholes   by projection, in the order of the network's: (fan (slices,), rows (R,), columns (Q,)) whose product says
             how many synaptic operations a message of each cell makes in all; None for an attention
    outlets  by population; none where there is no mapping
    """

    network: Network
    mapping: Mapping | None
    cells: dict[str, Cells]
    wholes: tuple[tuple[Int, Int, Int] | None, ...]
    outlets: dict[str, _Outlet]


def geometry(network: Network, mapping: Mapping | None) -> Geometry:
    """The geometry of `network` on `mapping`, or of the network alone."""
    if mapping is None:
        cells = cells_of(network, {})
        return Geometry(network, None, cells, _wholes(network, cells), {})
    arriving: dict[str, list[Inlet]] = {}
    for inlet in inlets(network, mapping):
        arriving.setdefault(inlet.source, []).append(inlet)
    own = {name: own_inlet(network, mapping, name) for name in arriving}
    cells = cells_of(network, {name: [own[name], *found] for name, found in arriving.items()})
    outlets = {name: _outlet(own[name], found, cells[name], mapping) for name, found in arriving.items()}
    return Geometry(network, mapping, cells, _wholes(network, cells), outlets)


def _wholes(network: Network, cells: dict[str, Cells]) -> tuple[tuple[Int, Int, Int] | None, ...]:
    out: list[tuple[Int, Int, Int] | None] = []
    for projection in network.projections:
        if isinstance(projection.synapse, Attention):
            out.append(None)
            continue
        grid = cells[projection.sources[0]]
        segments, rows, columns = whole_reach(network, projection, projection.synapse)
        fan = np.zeros(grid.shape[0], np.int64)
        for first, end, targets in segments:
            low, high = np.searchsorted(grid.channels, (first, end))
            fan[low:high] = targets
        at_rows, at_columns = (np.unique(classes, return_index=True)[1] for classes in (grid.rows, grid.columns))
        out.append((fan, rows[0, at_rows], columns[0, at_columns]))
    return tuple(out)


def _outlet(own: Inlet, arriving: list[Inlet], cells: Cells, mapping: Mapping) -> _Outlet:
    weights = tuple(_weights(inlet, cells) for inlet in arriving)
    multicast = [w for w in weights if not w.inlet.unicast]
    targets = mapping.cores[np.concatenate([w.inlet.slices for w in multicast])] if multicast else np.zeros(0, np.int64)
    core, times = np.unique(targets, return_counts=True)
    shared = {int(c): np.zeros(cells.shape, bool) for c in core[times > 1]}
    fan_out = np.zeros(cells.shape)
    seen: dict[int, NDArray[np.bool_]] = {}
    for w in multicast:
        alone = ~np.isin(mapping.cores[w.inlet.slices], list(shared))
        fan_out += _fan_out(w, np.flatnonzero(alone), cells)
        for i in np.flatnonzero(~alone).tolist():
            slice_ = int(w.inlet.slices[i])
            taken, mask = shared[int(mapping.cores[slice_])], _fan_out(w, np.array([i]), cells) > 0
            seen[slice_] = seen.get(slice_, np.zeros(cells.shape, bool)) | (mask & ~taken)
            taken |= mask
    arrivals = tuple(_arrival(w, seen) for w in weights)
    return _Outlet(_weights(own, cells), arrivals, fan_out + sum(shared.values(), np.zeros(cells.shape)), seen)


def _arrival(weights: Weights, seen: dict[int, NDArray[np.bool_]]) -> _Arrival:
    alone = np.array([s not in seen for s in weights.inlet.slices.tolist()], bool)
    fans = weights.channels.max(1, initial=0)
    even = ((weights.channels == 0) | (weights.channels == fans[:, None])).all() and fans.min(initial=1) > 0
    if even and max(weights.rows.max(initial=0), weights.columns.max(initial=0)) <= 1:
        return _Arrival(weights, weights.reach(), alone, fans[weights.at[0]].astype(np.int64))
    return _Arrival(weights, weights.reach(), alone, None)


def _weights(inlet: Inlet, cells: Cells) -> Weights:
    channels = np.zeros((len(inlet.segments), cells.shape[0]))
    for k, segments in enumerate(inlet.segments):
        for first, end, fan in segments:
            low, high = np.searchsorted(cells.channels, (first, end))
            channels[k, low:high] += fan
    rows, columns = inlet.rows, inlet.columns
    if not inlet.flat:
        rows = rows[:, np.unique(cells.rows, return_index=True)[1]]
        columns = columns[:, np.unique(cells.columns, return_index=True)[1]]
    at = inlet.segments_of, inlet.rows_of, inlet.columns_of
    return _with_whole(Weights(inlet, channels, rows.astype(np.float64), columns.astype(np.float64), at))


def _with_whole(weights: Weights) -> Weights:
    parts = [w[which] for w, which in zip((weights.channels, weights.rows, weights.columns), weights.at, strict=True)]
    size = len(weights.inlet.slices)
    if size * int(np.prod([w.shape[1] for w in parts])) > WHOLE:
        return weights
    return replace(weights, whole=np.ascontiguousarray(np.einsum("as,ar,aq->asrq", *parts).reshape(size, -1).T))


def _fan_out(weights: Weights, chosen: Int, cells: Cells) -> Real:
    """(slices, R, Q) how many of the chosen slices a message of each cell reaches."""
    reach = np.zeros((len(weights.channels), len(weights.rows), len(weights.columns)))
    np.add.at(reach, tuple(which[chosen] for which in weights.at), 1.0)
    axes = (weights.channels > 0, weights.rows > 0, weights.columns > 0)
    return np.einsum("kij,ks,ir,jq->srq", reach, *axes, optimize=True).reshape(cells.shape)


def count_slices(geometry: Geometry, activity: dict[str, Activity], images: int) -> SliceEvents:
    """Events of every slice; the Activity must be that of geometry.cells."""
    network, mapping = geometry.network, geometry.mapping
    assert mapping is not None
    shape = (images, network.time_steps, len(mapping.boxes))
    spikes, out, arrived, synops = (np.zeros(shape, np.int64) for _ in range(4))
    for name, outlet in geometry.outlets.items():
        for part in _batches(activity[name]):
            messages = activity[name].messages[part].astype(np.float64)
            own = outlet.own.inlet.slices
            spikes[part, :, own] = _sums(messages, outlet.own)
            out[part, :, own] = _sums(messages * outlet.fan_out, outlet.own)
            _receive(messages, outlet, arrived[part], synops[part], spikes[part])
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


def _batches(activity: Activity) -> Iterator[slice]:
    """Ranges of images whose message maps stay below BATCH_BYTES in double precision."""
    images = len(activity.messages)
    size = max(1, BATCH_BYTES // (8 * max(1, activity.messages[:1].size)))
    return (slice(start, start + size) for start in range(0, images, size))


def _receive(messages: Real, outlet: _Outlet, arrived: Int, synops: Int, spikes: Int) -> None:
    """Add what one population's messages (images, T, slices, R, Q) cause at all slices."""
    for arrival in outlet.arriving:
        inlet = arrival.operations.inlet
        work = _sums(messages, arrival.operations)
        synops[..., inlet.slices] += work
        if inlet.replay:
            spikes[..., inlet.slices] += work
        if inlet.unicast:
            arrived[..., inlet.slices] += work
            continue
        came = _sums(messages, arrival.reach) if arrival.per_message is None else work // arrival.per_message
        arrived[..., inlet.slices[arrival.alone]] += came[..., arrival.alone]
    for slice_, mask in outlet.seen.items():
        arrived[..., slice_] += (messages * mask).sum((2, 3, 4)).astype(np.int64)


def _sums(messages: Real, weights: Weights) -> Int:
    """(images, T, S) the weighted sum of the messages (images, T, slices, R, Q) for each slice of the inlet."""
    images, steps, slices = messages.shape[:3]
    if weights.whole is not None:
        return (messages.reshape(images, steps, -1) @ weights.whole).astype(np.int64)
    maps = messages.reshape(images * steps, slices, -1)
    seen = (weights.channels @ maps).reshape(-1, weights.rows.shape[1], weights.columns.shape[1])
    summed = (weights.rows @ seen) @ weights.columns.T
    summed = summed.reshape(images, steps, len(weights.channels), *summed.shape[1:])
    return summed[(..., *weights.at)].astype(np.int64)
