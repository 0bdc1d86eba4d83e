"""Traffic between slices, and what it costs on the mesh: X first, then Y; chips side by side in one large mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.network.mapping import Site
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Window

Part: TypeAlias = tuple[Int, Int, Float]
"""(source slices, target slices, messages a step)."""


@dataclass(frozen=True, slots=True, eq=False)
class Nets:
    """Expected messages a step from slice `source` to slice `target`; arrays (nets,)."""

    source: Int
    target: Int
    messages: Float


def nets_of(network: Network, sites: tuple[Site, ...], boxes: Int, rates: dict[str, float]) -> Nets:
    """All pairs of slices that talk, with the messages that the firing rates let expect.

    rates  messages a neuron and step, by population; 1 where not given
    """
    place = {(site.kind, site.population): i for i, site in enumerate(sites) if site.kind != "partial"}
    parts: list[Part] = []
    for projection in network.projections:
        target = place["population", projection.target]
        sources = [place["population", name] for name in projection.sources]
        sent = [rates.get(name, 1.0) for name in projection.sources]
        if isinstance(projection.synapse, Attention):
            counters = place["attention", projection.target]
            shape, heads = network[projection.target].shape, projection.synapse.heads
            into, onto = (
                (_at_counters, _from_counters) if sites[counters].serial == "tokens" else (_at_pairs, _from_pairs)
            )
            parts += into(boxes, sources, counters, sent, shape, heads)
            parts.append(onto(boxes, counters, target, sent, shape, heads))
            continue
        parts.append(_ordinary(network, projection, boxes, sources[0], target, sent[0], sites[target]))
        for index, site in enumerate(sites):
            if site.kind == "partial" and site.population == projection.target:
                parts.append(_ordinary(network, projection, boxes, sources[0], index, sent[0], site))
                parts.append(_overlapping(boxes, index, target, *_edges(boxes[boxes[:, 0] == target]), 1.0))
    source, target_, messages = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Nets(source.astype(np.int64), target_.astype(np.int64), messages.astype(np.float64))


def _edges(boxes: Int) -> tuple[Int, Int]:
    """First and end (boxes, 3) of channels, rows and columns."""
    edges = boxes[:, 1:].reshape(-1, 3, 2)
    return edges[:, :, 0].copy(), edges[:, :, 1].copy()


def _ordinary(
    network: Network, projection: Projection, boxes: Int, source: int, target: int, rate: float, site: Site
) -> Part:
    """Convolutions, windows and readouts: what each receiver sees are intervals of the source's axes."""
    shape = network[projection.sources[0]].shape
    low, high = _edges(boxes[boxes[:, 0] == target])
    match projection.synapse:
        case Conv(weight=weight, stride=stride, padding=padding, groups=groups):
            per_group, inside = len(weight) // groups, weight.shape[1]
            low[:, 0], high[:, 0] = low[:, 0] // per_group * inside, ((high[:, 0] - 1) // per_group + 1) * inside
            first, end = site.channels(shape[0])
            low[:, 0], high[:, 0] = np.maximum(low[:, 0], first), np.minimum(high[:, 0], end)
            kernel = weight.shape[2:]
        case Window(kernel=kernel, stride=stride, padding=padding):
            pass
        case Readout():
            return _overlapping(boxes, source, target, 0 * low, np.broadcast_to(np.array(shape), high.shape), rate)
        case Attention():
            raise TypeError("an attention is no ordinary projection")
        case _:
            assert_never(projection.synapse)
    for axis in (0, 1):
        low[:, 1 + axis] = low[:, 1 + axis] * stride[axis] - padding[axis]
        high[:, 1 + axis] = (high[:, 1 + axis] - 1) * stride[axis] - padding[axis] + kernel[axis]
    return _overlapping(boxes, source, target, low, high, rate)


def _overlapping(boxes: Int, source: int, target: int, low: Int, high: Int, rate: float) -> Part:
    """Slices of site `source` that have neurons in the intervals [low, high) (receivers, 3) of slices of `target`."""
    senders, receivers = np.flatnonzero(boxes[:, 0] == source), np.flatnonzero(boxes[:, 0] == target)
    first, end = _edges(boxes[senders])
    origin, to, shared = _overlaps(first, end, np.ascontiguousarray(low), np.ascontiguousarray(high))
    return senders[origin], receivers[to], np.multiply(rate, shared, dtype=np.float64)


@njit(cache=True, nogil=True)
def _overlaps(first: Int, end: Int, low: Int, high: Int) -> tuple[Int, Int, Int]:
    """(sender, receiver, neurons) of all boxes [first, end) that meet intervals [low, high); receivers in order."""
    found = 0
    for fill in range(2):
        if fill:
            origin, to, shared = np.empty(found, np.int64), np.empty(found, np.int64), np.empty(found, np.int64)
            found = 0
        for r in range(len(low)):
            for s in range(len(first)):
                size = 1
                for axis in range(3):
                    size *= max(0, min(end[s, axis], high[r, axis]) - max(first[s, axis], low[r, axis]))
                if size:
                    if fill:
                        origin[found], to[found], shared[found] = s, r, size
                    found += 1
    return origin, to, shared


def _at_counters(
    boxes: Int, sources: list[int], counters: int, rates: list[float], shape: tuple[int, int, int], heads: int
) -> list[Part]:
    """q, k and v at the counters (channel of k, -, channel of v within the head) of tokens in series."""
    q, k, v = sources
    depth = shape[0] // heads
    low, high = _edges(boxes[boxes[:, 0] == counters])
    rows_low, rows_high = np.zeros_like(low), high.copy()
    rows_low[:, 0], rows_high[:, 1:] = low[:, 0], shape[1:]
    senders, receivers = np.flatnonzero(boxes[:, 0] == v), np.flatnonzero(boxes[:, 0] == counters)
    sent, seen = boxes[senders], np.zeros((len(senders), len(receivers)))
    for head in range(heads):
        here = np.flatnonzero((low[:, 0] < (head + 1) * depth) & (high[:, 0] > head * depth))
        columns = head * depth + low[here, 2], head * depth + high[here, 2]
        seen[:, here] += _shared(sent[:, 1], sent[:, 2], *columns)
    positions = (sent[:, 4] - sent[:, 3]) * (sent[:, 6] - sent[:, 5])
    return [
        _overlapping(boxes, q, counters, rows_low, rows_high, rates[0]),
        _overlapping(boxes, k, counters, rows_low, rows_high, rates[1]),
        _nonzero(senders, receivers, seen * positions[:, None] * rates[2]),
    ]


def _from_counters(
    boxes: Int, counters: int, target: int, rates: list[float], shape: tuple[int, int, int], heads: int
) -> Part:
    """Each spike of q makes its row of counters send: a value a column, to the position where q fired."""
    depth = shape[0] // heads
    senders, receivers = np.flatnonzero(boxes[:, 0] == counters), np.flatnonzero(boxes[:, 0] == target)
    sent, got = boxes[senders], boxes[receivers]
    starts = np.arange(heads) * depth
    rows = _shared(sent[:, 1], sent[:, 2], starts, starts + depth)
    columns = np.stack([_shared(got[:, 1], got[:, 2], starts + c0, starts + c1) for c0, c1 in sent[:, 5:7]])
    positions = (got[:, 4] - got[:, 3]) * (got[:, 6] - got[:, 5])
    return _nonzero(senders, receivers, rates[0] * np.einsum("sh,srh,r->sr", rows, columns, positions))


def _at_pairs(
    boxes: Int, sources: list[int], counters: int, rates: list[float], shape: tuple[int, int, int], heads: int
) -> list[Part]:
    """q, k and v at the counters (head, token of q, token of k) of channels in series."""
    depth, receivers = shape[0] // heads, np.flatnonzero(boxes[:, 0] == counters)
    got, out = boxes[receivers], []
    for source, rate, (first, end) in zip(sources, rates, ((3, 4), (5, 6), (5, 6)), strict=True):
        senders = np.flatnonzero(boxes[:, 0] == source)
        sent = boxes[senders]
        channels = _shared(sent[:, 1], sent[:, 2], got[:, 1] * depth, got[:, 2] * depth)
        out.append(_nonzero(senders, receivers, rate * channels * _tokens(sent, got[:, first], got[:, end], shape[2])))
    return out


def _from_pairs(
    boxes: Int, counters: int, target: int, rates: list[float], shape: tuple[int, int, int], heads: int
) -> Part:
    """Each spike of v makes its column of counters send: a value a token of q, to the channel where v fired."""
    depth = shape[0] // heads
    senders, receivers = np.flatnonzero(boxes[:, 0] == counters), np.flatnonzero(boxes[:, 0] == target)
    sent, got = boxes[senders], boxes[receivers]
    channels = _shared(sent[:, 1] * depth, sent[:, 2] * depth, got[:, 1], got[:, 2])
    queries = _tokens(got, sent[:, 3], sent[:, 4], shape[2]).T
    keys = (sent[:, 6] - sent[:, 5])[:, None]
    return _nonzero(senders, receivers, rates[2] * channels * queries * keys)


def _shared(first: Int, end: Int, low: Int, high: Int) -> Int:
    """(a, b) sizes of the intersections of intervals [first, end) (a,) and [low, high) (b,)."""
    return np.clip(np.minimum(end[:, None], high) - np.maximum(first[:, None], low), 0, None)


def _tokens(boxes: Int, low: Int, high: Int, width: int) -> Int:
    """(boxes, ranges) positions of each box, counted row by row through a map of `width` columns, in [low, high)."""
    out = np.zeros((len(boxes), len(low)), np.int64)
    for i, (y0, y1, x0, x1) in enumerate(boxes[:, 3:7]):
        rows = np.arange(y0, y1) * width
        out[i] = _shared(rows + x0, rows + x1, low, high).sum(0)
    return out


def _nonzero(senders: Int, receivers: Int, messages: NDArray[Any]) -> Part:
    origin, to = np.nonzero(messages)
    return senders[origin], receivers[to], messages[origin, to].astype(np.float64)


def destinations(nets: Nets, slices: int) -> Int:
    """(slices,) destination slices of each slice: its words of axon memory."""
    return np.bincount(nets.source, minlength=slices)


def metrics(nets: Nets, cores: Int, profile: Profile) -> dict[str, float]:
    """What a placement costs: hops a message, messages * hops, mean and maximal load of a link, in messages a step.

    max_chip_link_load  of a link between chips, which takes all messages over that side of the chip
    """
    x, y = coordinates(profile, cores)
    across = np.abs(x[nets.source] - x[nets.target])
    along = np.abs(y[nets.source] - y[nets.target])
    loads = link_loads(nets, x, y)
    # a side of a chip is one link for all its rows or columns
    between = link_loads(nets, x // int(profile.chip.tiles_x), y // int(profile.chip.tiles_y))
    used = loads[loads > 0]
    messages = float(nets.messages.sum())
    packet_hops = float((nets.messages * (across + along)).sum())
    return {
        "messages": messages,
        "packet_hops": packet_hops,
        "packet_hops_east_west": float((nets.messages * across).sum()),
        "packet_hops_north_south": float((nets.messages * along).sum()),
        "mean_hops": packet_hops / messages if messages else 0.0,
        "mean_link_load": float(used.mean()) if used.size else 0.0,
        "max_link_load": float(used.max()) if used.size else 0.0,
        "max_chip_link_load": float(between.max(initial=0.0)),
    }


def link_loads(nets: Nets, x: Int, y: Int) -> Float:
    """Messages a step on every directed link, east, west, north and south of every tile, as one flat array.

    A message goes along its source's row to the target's column, then along that column.
    """
    width, height = int(x.max()) + 1, int(y.max()) + 1
    x0, y0, x1, y1 = x[nets.source], y[nets.source], x[nets.target], y[nets.target]
    loads = []
    for start, end, line, size, lines in ((x0, x1, y0, width, height), (y0, y1, x1, height, width)):
        for forward in (True, False):
            chosen = (end > start) if forward else (end < start)
            low, high = np.minimum(start, end)[chosen], np.maximum(start, end)[chosen]
            change = np.zeros((lines, size + 1))
            np.add.at(change, (line[chosen], low), nets.messages[chosen])
            np.subtract.at(change, (line[chosen], high), nets.messages[chosen])
            loads.append(change.cumsum(1)[:, :-1].ravel())
    return np.concatenate(loads)
