"""Traffic between slices, and what it costs on the mesh: X first, then Y; chips side by side in one large mesh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np

from spikformer_deploy.base.arrays import Array, Float, Int, Shape
from spikformer_deploy.base.compiled import single
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.network.heads import Factors, Heads, factors_of, heads_of
from spikformer_deploy.network.mapping import SITE, Site, columns_at_home, edges_of
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.reach import axes_of, channels_read, read_by
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window

CHANNEL, ROW, COLUMN = 0, 1, 2
"""The axes of a box."""


@dataclass(frozen=True, slots=True, eq=False)
class Nets:
    """Expected messages a step from slice `source` to slice `target`; arrays (nets,).

    middles  (slices, 3) where each slice lies in its site, along channels, rows and columns, from 0 to 1; None where
             nobody knows
    """

    source: Int
    target: Int
    messages: Float
    middles: Float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Slices:
    """The slices of one site: their indices (n,) in the mapping, first and end (n, 3) of channels, rows, columns."""

    index: Int
    first: Int
    end: Int

    @property
    def positions(self) -> Int:
        """(n,) positions of each."""
        sizes = self.end - self.first
        return sizes[:, ROW] * sizes[:, COLUMN]


def _slices_of(boxes: Int, site: int) -> _Slices:
    """Those of site number `site`."""
    index = np.flatnonzero(boxes[:, SITE] == site)
    return _Slices(index, *edges_of(boxes[index]))


def nets_of(network: Network, sites: tuple[Site, ...], boxes: Int, rates: dict[str, float]) -> Nets:
    """All pairs of slices that talk, with the messages that the firing rates let expect.

    rates  messages a neuron and step, by population; 1 where not given
    """
    slices = [_slices_of(boxes, index) for index in range(len(sites))]
    site_of = {(site.kind, site.population): i for i, site in enumerate(sites) if site.kind != "partial"}
    parts: list[Nets] = []
    for projection in network.projections:
        if _is_one_of_several(network, projection):
            continue
        receiver = site_of["population", projection.target]
        target = slices[receiver]
        sources = tuple(slices[site_of["population", name]] for name in projection.sources)
        sent = tuple(rates.get(name, 1.0) for name in projection.sources)
        shape = network[projection.sources[0]].shape
        match projection.synapse:
            case Attention():
                heads = heads_of(network, projection)
                copies = _sites_of(sites, "attention", projection.target)
                for site in (sites[index] for index in copies):
                    shares = heads.shares(site.serial, site.copy, site.copies)
                    attention = _Attention(sources, sent, slices[copies[site.copy]], target, shape, heads, shares)
                    parts += _through_counters(attention, site.serial)
                parts += _exchanged([slices[index] for index in copies])
            case DualSpike():
                parts += _factors(factors_of(network, projection), sources, target, sent, shape)
            case _:
                alike = _from_the_same(network, projection)
                parts.append(_ordinary(shape, alike, sources[0], target, sites[receiver], sent[0]))
                for index in _sites_of(sites, "partial", projection.target):
                    parts.append(_ordinary(shape, alike, sources[0], slices[index], sites[index], sent[0]))
    for part, site in zip(slices, sites, strict=True):
        if site.kind == "partial":
            # a partial sum goes on to the neuron of the same place, in every step
            target = slices[site_of["population", site.population]]
            parts.append(_overlapping(part, target, target.first, target.end, 1.0))
    return replace(_joined(parts), middles=_middles(sites, boxes))


def _middles(sites: tuple[Site, ...], boxes: Int) -> Float:
    """(slices, 3) where each slice lies in its site, as shares of its channels, rows and columns."""
    first, end = edges_of(boxes)
    shapes = np.array([site.shape for site in sites])[boxes[:, SITE]]
    return np.asarray((first + end) / (2 * shapes), np.float64)


def _from_the_same(network: Network, projection: Projection) -> list[Conv | Window | Readout]:
    """The synapses of all projections with the source and the target of this one: a message serves them all."""
    return [
        other.synapse
        for other in network.into(projection.target)
        if other.sources == projection.sources and not isinstance(other.synapse, Attention | DualSpike)
    ]


def _is_one_of_several(network: Network, projection: Projection) -> bool:
    """Whether an earlier projection has the same source and target, and stands for this one."""
    return projection.synapse is not next(
        other.synapse for other in network.into(projection.target) if other.sources == projection.sources
    )


def _sites_of(sites: tuple[Site, ...], kind: str, population: str) -> list[int]:
    """The sites of a kind: the partial sums of a population's split fan-in, or the copies of its counters, in order."""
    return [i for i, site in enumerate(sites) if site.kind == kind and site.population == population]


def _joined(parts: list[Nets]) -> Nets:
    """All of them, one after the other: sums of messages depend on their order in the last bit."""
    return Nets(
        np.concatenate([part.source for part in parts]).astype(np.int64),
        np.concatenate([part.target for part in parts]).astype(np.int64),
        np.concatenate([part.messages for part in parts]).astype(np.float64),
    )


def _ordinary(
    shape: Shape, synapses: list[Conv | Window | Readout], source: _Slices, target: _Slices, site: Site, rate: float
) -> Nets:
    """Convolutions, windows and readouts: what each receiver sees are intervals of the source's axes.

    A message is sent once to a receiver, whichever of the synapses read it: the size of a union of intervals is that of
    all, less what two share, and so on.
    shape  of the source; site: that of the target's slices
    """
    seen: list[tuple[Int, Int]] = []
    for synapse in synapses:
        low, high = _seen(shape, synapse, target, site)
        # the digits of one weight are several synapses that see the same
        if not any(np.array_equal(low, other[0]) and np.array_equal(high, other[1]) for other in seen):
            seen.append((low, high))
    if len(seen) == 1:
        return _overlapping(source, target, *seen[0], rate)
    parts = []
    for count in range(1, len(seen) + 1):
        for chosen in combinations(seen, count):
            low = np.maximum.reduce([low for low, _ in chosen])
            high = np.minimum.reduce([high for _, high in chosen])
            parts.append(_overlapping(source, target, low, high, rate if count % 2 else -rate))
    return _summed(_joined(parts))


def _summed(nets: Nets) -> Nets:
    """The same with the messages of each pair of slices in one net."""
    pairs, which = np.unique(np.stack([nets.target, nets.source]), axis=1, return_inverse=True)
    messages = np.bincount(which.ravel(), nets.messages, minlength=pairs.shape[1]).astype(np.float64)
    return Nets(pairs[1], pairs[0], messages)


def _seen(shape: Shape, synapse: Conv | Window | Readout, target: _Slices, site: Site) -> tuple[Int, Int]:
    """(first, end) (receivers, 3) of the source's channels, rows and columns that each receiver sees."""
    low = np.empty_like(target.first)
    high = np.empty_like(target.end)
    low[:, CHANNEL], high[:, CHANNEL] = channels_read(synapse, shape, target.first[:, CHANNEL], target.end[:, CHANNEL])
    # a fan-in that is split has some channels in each part
    first, end = site.channels(shape[CHANNEL])
    low[:, CHANNEL] = np.maximum(low[:, CHANNEL], first)
    high[:, CHANNEL] = np.minimum(high[:, CHANNEL], end)
    rows, columns = axes_of(synapse, shape)
    low[:, ROW], high[:, ROW] = read_by(target.first[:, ROW], target.end[:, ROW], rows)
    low[:, COLUMN], high[:, COLUMN] = read_by(target.first[:, COLUMN], target.end[:, COLUMN], columns)
    return low, high


def _overlapping(senders: _Slices, receivers: _Slices, low: Int, high: Int, rate: float) -> Nets:
    """The senders that have neurons in the intervals [low, high) (receivers, 3) of each receiver."""
    origin, to, shared = _overlaps(senders.first, senders.end, np.ascontiguousarray(low), np.ascontiguousarray(high))
    return Nets(senders.index[origin], receivers.index[to], np.multiply(rate, shared, dtype=np.float64))


@single
def _overlaps(first: Int, end: Int, low: Int, high: Int) -> tuple[Int, Int, Int]:
    """(sender, receiver, neurons) of all boxes [first, end) that meet intervals [low, high); receivers in order."""
    pairs = 0
    # the first pass counts, the second fills: a table of all of them would take gigabytes for thousands of slices
    for fill in range(2):
        if fill:
            origin = np.empty(pairs, np.int64)
            to = np.empty(pairs, np.int64)
            shared = np.empty(pairs, np.int64)
            pairs = 0
        for r in range(len(low)):
            for s in range(len(first)):
                size = 1
                for axis in range(3):
                    size *= max(0, min(end[s, axis], high[r, axis]) - max(first[s, axis], low[r, axis]))
                if size:
                    if fill:
                        origin[pairs] = s
                        to[pairs] = r
                        shared[pairs] = size
                    pairs += 1
    return origin, to, shared


def _factors(
    factors: Factors, sources: tuple[_Slices, ...], target: _Slices, rates: tuple[float, ...], shape: Shape
) -> Iterator[Nets]:
    """y and the spikes of a dual spike transformation at its target; shape: (C, Y, X) of y."""
    y, spikes = sources
    rate_y, rate_s = rates
    low, high = target.first.copy(), target.end.copy()
    # a spike reaches the channels of its head, at its own position
    first = low[:, CHANNEL] // factors.reached
    end = (high[:, CHANNEL] - 1) // factors.reached + 1
    low[:, CHANNEL], high[:, CHANNEL] = first * factors.addends, end * factors.addends
    yield _overlapping(spikes, target, low, high, rate_s)
    if factors.over_tokens:
        low[:], high[:] = 0, shape
        low[:, CHANNEL], high[:, CHANNEL] = target.first[:, CHANNEL], target.end[:, CHANNEL]
        yield _overlapping(y, target, low, high, rate_y)
        return
    # the channels of a box are positions of y: some of one head, or all of some heads
    whole = end - first > 1
    start = np.where(whole, 0, target.first[:, CHANNEL] - first * factors.at_y)
    stop = np.where(whole, factors.at_y, target.end[:, CHANNEL] - first * factors.at_y)
    channels = _shared(y.first[:, CHANNEL], y.end[:, CHANNEL], first * factors.width, end * factors.width)
    yield _nonzero(y, target, rate_y * channels * _tokens(y, start, stop, shape[COLUMN]))


@dataclass(frozen=True, slots=True, eq=False)
class _Attention:
    """Who talks to whom in an attention.

    operands          slices of q, k and v; rates: their messages a neuron and step
    counters, target  slices of the counters, and of the neurons that they send to
    shape             (C, Y, X) of q and of k; v and the target may have another number of channels
    shares            [first, end) of the tokens, or channels of a head, that these counters take in both rounds
    """

    operands: tuple[_Slices, ...]
    rates: tuple[float, ...]
    counters: _Slices
    target: _Slices
    shape: Shape
    heads: Heads
    shares: tuple[tuple[int, int], tuple[int, int]]


def _exchanged(copies: list[_Slices]) -> Iterator[Nets]:
    """What copies of counters send each other: each sum to the counter at home, and from there to all others.

    The home of a counter is the copy whose number is that of its column, modulo the copies.
    """
    for sender, receiver in permutations(range(len(copies)), 2):
        source, target = copies[sender], copies[receiver]
        pair = _overlapping(source, target, target.first, target.end, 1.0)
        of = [np.searchsorted(slices.index, index) for slices, index in ((source, pair.source), (target, pair.target))]
        low = np.maximum(source.first[of[0], COLUMN], target.first[of[1], COLUMN])
        high = np.minimum(source.end[of[0], COLUMN], target.end[of[1], COLUMN])
        # lines of counters that both slices have, and of their columns those with a home in either
        lines = pair.messages / (high - low)
        homes = sum(
            columns_at_home(high, home, len(copies)) - columns_at_home(low, home, len(copies))
            for home in (sender, receiver)
        )
        sends = np.flatnonzero(homes)
        yield Nets(pair.source[sends], pair.target[sends], (lines * homes)[sends])


def _through_counters(attention: _Attention, serial: str) -> Iterator[Nets]:
    """q, k and v to the counters, and the counters to the target."""
    if serial == "tokens":
        yield from _at_counters(attention)
        yield _from_counters(attention)
    else:
        yield from _at_pairs(attention)
        yield _from_pairs(attention)


def _at_counters(attention: _Attention) -> Iterator[Nets]:
    """q, k and v at the counters (channel of k, -, channel of v within the head) of tokens in series."""
    counters = attention.counters
    q, k, v = attention.operands
    rate_q, rate_k, rate_v = attention.rates
    # a spike of q or k reaches the counters of its channel, from whatever position
    low = np.zeros_like(counters.first)
    low[:, CHANNEL] = counters.first[:, CHANNEL]
    high = np.empty_like(counters.end)
    high[:] = attention.shape
    high[:, CHANNEL] = counters.end[:, CHANNEL]
    counted, answered = attention.shares
    yield _of_tokens(_overlapping(q, counters, low, high, rate_q), q, answered, attention)
    yield _of_tokens(_overlapping(k, counters, low, high, rate_k), k, counted, attention)
    # a spike of v reaches the counters of its column, in all boxes that have rows of its head
    seen = np.zeros((len(v.index), len(counters.index)))
    depth = attention.heads.depth
    for head in range(attention.heads.heads):
        rows_of_head = (counters.first[:, CHANNEL] < (head + 1) * depth) & (counters.end[:, CHANNEL] > head * depth)
        boxes = np.flatnonzero(rows_of_head)
        start = head * attention.heads.width
        columns = start + counters.first[boxes, COLUMN], start + counters.end[boxes, COLUMN]
        seen[:, boxes] += _shared(v.first[:, CHANNEL], v.end[:, CHANNEL], *columns)
    yield _nonzero(v, counters, seen * _positions_of(v, counted, attention)[:, None] * rate_v)


def _positions_of(slices: _Slices, tokens: tuple[int, int], attention: _Attention) -> Int:
    """(n,) positions of each slice that are among the tokens [first, end)."""
    first, end = tokens
    return _tokens(slices, np.array([first]), np.array([end]), attention.shape[COLUMN])[:, 0]


def _of_tokens(nets: Nets, senders: _Slices, tokens: tuple[int, int], attention: _Attention) -> Nets:
    """The same messages, of some tokens only; all positions of the senders' boxes had sent some."""
    if tokens == (0, attention.heads.tokens):
        return nets
    share = _positions_of(senders, tokens, attention) / senders.positions
    messages = nets.messages * share[np.searchsorted(senders.index, nets.source)]
    sends = np.flatnonzero(messages)
    return Nets(nets.source[sends], nets.target[sends], messages[sends])


def _from_counters(attention: _Attention) -> Nets:
    """Each spike of q makes its row of counters send: a value a column, to the position where q fired."""
    counters = attention.counters
    target = attention.target
    heads = np.arange(attention.heads.heads)
    depth = attention.heads.depth
    starts = heads * attention.heads.width
    # (counters, heads) rows, and (counters, targets, heads) columns, that a pair of slices shares in each head
    rows = _shared(counters.first[:, CHANNEL], counters.end[:, CHANNEL], heads * depth, (heads + 1) * depth)
    columns = np.stack(
        [
            _shared(target.first[:, CHANNEL], target.end[:, CHANNEL], starts + first, starts + end)
            for first, end in zip(counters.first[:, COLUMN], counters.end[:, COLUMN], strict=True)
        ]
    )
    _, answered = attention.shares
    values = np.einsum("sh,srh,r->sr", rows, columns, _positions_of(target, answered, attention))
    rate_q, _, _ = attention.rates
    return _nonzero(counters, target, rate_q * values)


def _at_pairs(attention: _Attention) -> Iterator[Nets]:
    """q, k and v at the counters (head, token of q, token of k) of channels in series."""
    counters = attention.counters
    depth, width = attention.heads.depth, attention.heads.width
    counted, answered = attention.shares
    # q chooses a row of counters, k and v a column
    channels_of = ((depth, counted), (depth, counted), (width, answered))
    chosen = zip(attention.operands, attention.rates, (ROW, COLUMN, COLUMN), channels_of, strict=True)
    for senders, rate, axis, of_head in chosen:
        channels = _channels_of_heads(senders, counters, *of_head)
        tokens = _tokens(senders, counters.first[:, axis], counters.end[:, axis], attention.shape[COLUMN])
        yield _nonzero(senders, counters, rate * channels * tokens)


def _from_pairs(attention: _Attention) -> Nets:
    """Each spike of v makes its column of counters send: a value a token of q, to the channel where v fired."""
    counters = attention.counters
    target = attention.target
    _, answered = attention.shares
    channels = _channels_of_heads(target, counters, attention.heads.width, answered).T
    queries = _tokens(target, counters.first[:, ROW], counters.end[:, ROW], attention.shape[COLUMN]).T
    keys = (counters.end[:, COLUMN] - counters.first[:, COLUMN])[:, None]
    _, _, rate_v = attention.rates
    return _nonzero(counters, target, rate_v * channels * queries * keys)


def _channels_of_heads(slices: _Slices, counters: _Slices, of_head: int, share: tuple[int, int]) -> Int:
    """(slices, counters) channels of each slice in a share of the `of_head` channels of the counters' heads."""
    first, end = slices.first[:, CHANNEL], slices.end[:, CHANNEL]
    low, high = share
    out = np.zeros((len(slices.index), len(counters.index)), np.int64)
    for head in range(int(counters.end[:, CHANNEL].max())):
        held = (counters.first[:, CHANNEL] <= head) & (head < counters.end[:, CHANNEL])
        out += held * _shared(first, end, np.array([head * of_head + low]), np.array([head * of_head + high]))
    return out


def _shared(first: Int, end: Int, low: Int, high: Int) -> Int:
    """(a, b) sizes of the intersections of intervals [first, end) (a,) and [low, high) (b,)."""
    return np.clip(np.minimum(end[:, None], high) - np.maximum(first[:, None], low), 0, None)


def _tokens(slices: _Slices, low: Int, high: Int, width: int) -> Int:
    """(slices, ranges) positions of each, counted row by row through a map of `width` columns, in [low, high)."""
    return _tokens_before(slices, high, width) - _tokens_before(slices, low, width)


def _tokens_before(slices: _Slices, token: Int, width: int) -> Int:
    """(slices, tokens) positions of each with a smaller number than each of some tokens."""
    first, end = slices.first[:, :, None], slices.end[:, :, None]
    row, column = np.divmod(token, width)
    columns = end[:, COLUMN] - first[:, COLUMN]
    whole = np.clip(row, first[:, ROW], end[:, ROW]) - first[:, ROW]
    begun = (first[:, ROW] <= row) & (row < end[:, ROW])
    return whole * columns + begun * np.clip(column - first[:, COLUMN], 0, columns)


def _nonzero(senders: _Slices, receivers: _Slices, messages: Array) -> Nets:
    """The pairs of slices between which there are any of `messages` (senders, receivers)."""
    origin, to = np.nonzero(messages)
    return Nets(senders.index[origin], receivers.index[to], messages[origin, to].astype(np.float64))


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
    # a side of a chip is one link for all its rows or columns: the mesh of chips has the same law as that of tiles
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
    from_x = x[nets.source]
    from_y = y[nets.source]
    to_x = x[nets.target]
    to_y = y[nets.target]
    rows = (int(y.max()) + 1, int(x.max()) + 1)
    columns = rows[::-1]
    ways = (
        _loads_one_way(from_x, to_x, from_y, nets.messages, rows),
        _loads_one_way(to_x, from_x, from_y, nets.messages, rows),
        _loads_one_way(from_y, to_y, to_x, nets.messages, columns),
        _loads_one_way(to_y, from_y, to_x, nets.messages, columns),
    )
    return np.concatenate(ways)


def _loads_one_way(low: Int, high: Int, line: Int, messages: Float, shape: tuple[int, int]) -> Float:
    """Loads of the links along lines of tiles, of the messages between `low` and `high` where low < high.

    line   (messages,) the row or the column that each goes along; shape: (lines, tiles of a line)
    """
    ways = high > low
    # a message adds to the load where it enters a line and takes that away where it leaves: the sum so far is the load
    change = np.zeros((shape[0], shape[1] + 1))
    np.add.at(change, (line[ways], low[ways]), messages[ways])
    np.subtract.at(change, (line[ways], high[ways]), messages[ways])
    return change.cumsum(1)[:, :-1].ravel()
