"""Event counts of each slice of a mapping: sums of message maps over boxes, all slices of a site at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.mapping.mapping import Mapping
from spikformer_deploy.quantize.network import Network
from spikformer_deploy.simulate.reach import Inlet, inlets, reached
from spikformer_deploy.simulate.run import Activity, Execution

Int: TypeAlias = NDArray[np.int64]

BATCH_BYTES = 2**27
"""Message maps are worked on for so many images at once that they stay below this, as doubles."""


@dataclass(frozen=True, slots=True, eq=False)
class SliceEvents:
    """Events of each slice of the mapping, in the order of Mapping.boxes.

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


def count_slices(network: Network, mapping: Mapping, execution: Execution) -> SliceEvents:
    """Events of every slice; the Activity must have (at least) the channel cuts of reach.channel_cuts."""
    images = len(execution.accumulators)
    shape = (images, network.time_steps, len(mapping.boxes))
    spikes, out, arrived, synops = (np.zeros(shape, np.int64) for _ in range(4))
    by_source: dict[str, list[Inlet]] = {}
    for inlet in inlets(network, mapping):
        by_source.setdefault(inlet.source, []).append(inlet)
    sites = {site.population: i for i, site in enumerate(mapping.sites) if site.kind == "population"}
    for name, arriving in by_source.items():
        own = _own_boxes(network, mapping, name, sites[name])
        for part in _batches(execution.activity[name]):
            maps = _Maps(execution.activity[name].messages[part], execution.activity[name].channel_cuts)
            fan_out = _receive(maps, arriving, mapping.cores, arrived[part], synops[part], spikes[part])
            spikes[part, :, own.slices] = _sums(maps, own)[0]
            sent = _sums(_Maps(maps.messages * fan_out, maps.cuts), own)[0]
            out[part, :, own.slices] = sent
    counters = np.isin(mapping.boxes[:, 0], [i for i, s in enumerate(mapping.sites) if s.kind == "attention"])
    out[..., counters] = spikes[..., counters]
    edges = mapping.boxes[:, 1:].reshape(-1, 3, 2)
    neurons = np.prod(edges[:, :, 1] - edges[:, :, 0], 1)
    _gather(mapping, sites, neurons, spikes, out, arrived, synops)
    return SliceEvents(mapping.boxes[:, 0], mapping.cores, neurons, spikes, out, arrived, synops)


def _gather(
    mapping: Mapping, own: dict[str, int], neurons: Int, spikes: Int, out: Int, arrived: Int, synops: Int
) -> None:
    """Add the partial sums of split fan-ins: each goes on to its neuron in every step (at most: zeros stay at home)."""
    for index, site in enumerate(mapping.sites):
        if site.kind == "partial":
            senders, receivers = mapping.slices_of(index), mapping.slices_of(own[site.population])
            spikes[..., senders] = out[..., senders] = neurons[senders]
            arrived[..., receivers] += neurons[receivers]
            synops[..., receivers] += neurons[receivers]


def _own_boxes(network: Network, mapping: Mapping, name: str, site: int) -> Inlet:
    """The slices of the population itself, as if each received what it sends."""
    slices, (_, height, width) = mapping.slices_of(site), network[name].shape
    c0, c1, y0, y1, x0, x1 = mapping.boxes[slices, 1:].T
    segments = tuple(((int(first), int(end), 1),) for first, end in zip(c0, c1, strict=True))
    return Inlet(name, slices, segments, reached(height, y0, y1), reached(width, x0, x1))


def _batches(activity: Activity) -> Iterator[slice]:
    """Ranges of images whose message maps stay below BATCH_BYTES in double precision."""
    images = len(activity.messages)
    size = max(1, BATCH_BYTES // (8 * max(1, activity.messages[:1].size)))
    return (slice(start, start + size) for start in range(0, images, size))


@dataclass(frozen=True, slots=True, eq=False)
class _Maps:
    """Message maps of one population, (images, T, slices of channels, Y, X); `cuts` are the slices' ends."""

    messages: NDArray[np.integer[Any]]
    cuts: Int

    def of_channels(self, first: int, end: int) -> NDArray[np.float64]:
        """(images, T, Y, X) messages of the channels [first, end), both of them cuts; doubles hold them exactly."""
        low, high = np.searchsorted(self.cuts, (first, end))
        return self.messages[:, :, low:high].sum(2, dtype=np.float64)


def _receive(maps: _Maps, inlets_of: list[Inlet], cores: Int, arrived: Int, synops: Int, spikes: Int) -> Int:
    """Add what one population's messages cause at all slices; return (slices of channels, Y, X) cores reached."""
    multicast = [inlet for inlet in inlets_of if not inlet.unicast]
    targets = cores[np.concatenate([inlet.slices for inlet in multicast])] if multicast else np.zeros(0, np.int64)
    core, times = np.unique(targets, return_counts=True)
    shared = {int(c): np.zeros(maps.messages.shape[2:], bool) for c in core[times > 1]}
    fan_out = np.zeros(maps.messages.shape[2:], np.int64)
    for inlet in inlets_of:
        work, messages = _sums(maps, inlet)
        synops[..., inlet.slices] += work
        if inlet.replay:
            spikes[..., inlet.slices] += work
        if inlet.unicast:
            arrived[..., inlet.slices] += work
            continue
        alone = ~np.isin(cores[inlet.slices], list(shared))
        arrived[..., inlet.slices[alone]] += messages[..., alone]
        fan_out += _fan_out(maps, inlet, np.flatnonzero(alone))
        for i in np.flatnonzero(~alone).tolist():
            seen, mask = shared[int(cores[inlet.slices[i]])], _mask(maps, inlet, i)
            arrived[..., inlet.slices[i]] += (maps.messages * (mask & ~seen)).sum((2, 3, 4))
            seen |= mask
    return sum(shared.values(), fan_out)


def _sums(maps: _Maps, inlet: Inlet) -> tuple[Int, Int]:
    """(images, T, S) synaptic operations at each slice of `inlet`, and messages that reach it."""
    rows, row_of = np.unique(inlet.rows, axis=0, return_inverse=True)
    columns, column_of = np.unique(inlet.columns, axis=0, return_inverse=True)
    once = rows.max() <= 1 and columns.max() <= 1
    work = np.zeros((*maps.messages.shape[:2], len(inlet.slices)), np.int64)
    messages = np.zeros_like(work)
    users: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, segments in enumerate(inlet.segments):
        for first, end, fan in segments:
            users.setdefault((first, end), []).append((i, fan))
    for (first, end), slices in users.items():
        chosen = np.array([i for i, _ in slices])
        fans = np.array([fan for _, fan in slices])
        seen = maps.of_channels(first, end)
        seen = seen.reshape(*seen.shape[:2], rows.shape[1], columns.shape[1])
        at = (..., row_of.ravel()[chosen], column_of.ravel()[chosen])
        operations = _separable(rows, seen, columns)[at]
        work[..., chosen] += fans * operations
        messages[..., chosen] += operations if once else _separable(rows > 0, seen, columns > 0)[at]
    return work, messages


def _separable(rows: NDArray[Any], maps: NDArray[np.float64], columns: NDArray[Any]) -> Int:
    """rows @ map @ columns^T of every map; exact, as all sums stay below 2^53."""
    return np.rint(rows.astype(np.float64) @ maps @ columns.T.astype(np.float64)).astype(np.int64)


def _channels(maps: _Maps, segments: tuple[tuple[int, int, int], ...]) -> NDArray[np.bool_]:
    """(slices of channels,) whether the segments hold it."""
    held = np.zeros(len(maps.cuts) - 1, bool)
    for first, end, _ in segments:
        low, high = np.searchsorted(maps.cuts, (first, end))
        held[low:high] = True
    return held


def _mask(maps: _Maps, inlet: Inlet, i: int) -> NDArray[np.bool_]:
    """(slices of channels, Y, X) whose messages reach slice number `i` of the inlet."""
    positions = (inlet.rows[i][:, None] > 0) & (inlet.columns[i] > 0)
    shape = maps.messages.shape[3:]
    return _channels(maps, inlet.segments[i])[:, None, None] & positions.reshape(shape)


def _fan_out(maps: _Maps, inlet: Inlet, chosen: Int) -> Int:
    """(slices of channels, Y, X) how many of the chosen slices a message from there reaches."""
    if not chosen.size:
        return np.zeros(maps.messages.shape[2:], np.int64)
    held = np.stack([_channels(maps, inlet.segments[i]) for i in chosen]).astype(np.float64)
    rows, columns = (inlet.rows[chosen] > 0).astype(np.float64), (inlet.columns[chosen] > 0).astype(np.float64)
    counts = np.einsum("sc,sy,sx->cyx", held, rows, columns, optimize=True)
    return np.rint(counts).astype(np.int64).reshape(maps.messages.shape[2:])
