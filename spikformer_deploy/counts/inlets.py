"""Which neurons of a box a message reaches: the geometry of every synapse, separable in channel, row and column.

For each receiving slice a source neuron (c, y, x) makes fan[c] * rows[y] * columns[x] synaptic operations,
where fan is constant over a few ranges of channels (Segment): group, head and box boundaries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from spikformer_deploy.base.arrays import Int, Shape
from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.network.heads import Heads, factors_of, heads_of
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.reach import Segment, axes_of, fan_of_channels, grouped, reached, whole_reach
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window


@dataclass(frozen=True, slots=True, eq=False)
class Fans:
    """Channels: which ranges of source channels reach a slice, and how many of its channels each.

    distinct  the different ones: boxes of the same channels share one
    which     (S,) which of them a slice has
    """

    distinct: tuple[tuple[Segment, ...], ...]
    which: Int


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """Rows, or columns: how many rows of a slice each source row reaches.

    distinct  (k, rows of the source) the different ones
    which     (S,) which of them a slice has
    """

    distinct: Int
    which: Int


@dataclass(frozen=True, slots=True, eq=False)
class Inlet:
    """How the messages of one source population reach the slices of one site.

    slices   (S,) indices into the mapping
    flat     the source's positions count as one row of tokens: rows have one source row, columns Y * X source columns
    unicast  every synaptic operation is a message of its own (the graded values that attention counters send)
    replay   every synaptic operation makes the attention counter send a graded value, if it holds one
    """

    source: str
    slices: Int
    channels: Fans
    rows: Reach
    columns: Reach
    flat: bool = False
    unicast: bool = False
    replay: bool = False


def inlets(network: Network, mapping: Mapping) -> Iterator[Inlet]:
    """Everything that arrives at the slices of `mapping`, in the order of the network's projections."""
    # a population can have several sites of partial sums, one for each part of its fan-in, and copies of its counters
    sites: dict[tuple[str, str], list[int]] = {}
    for index, site in enumerate(mapping.sites):
        sites.setdefault((site.kind, site.population), []).append(index)
    for projection in network.projections:
        (target,) = sites["population", projection.target]
        match projection.synapse:
            case Attention():
                copies = sites["attention", projection.target]
                counters = [_counters(network, mapping, projection, index, target) for index in copies]
                in_series = mapping.sites[copies[0]].serial == "tokens"
                for copy in counters:
                    yield from _tokens_in_series(copy) if in_series else _channels_in_series(copy)
                # whichever copy answers: each spike that is replayed has one answer for each counter of its line
                yield _answers_by_token(counters[0]) if in_series else _answers_by_channel(counters[0])
            case DualSpike():
                yield from _factors(network, mapping, projection, target)
            case synapse:
                for index in (*sites.get(("partial", projection.target), ()), target):
                    yield _ordinary(network, mapping, projection, synapse, index)


def own_inlet(network: Network, mapping: Mapping, name: str) -> Inlet:
    """The slices of the population itself, as if each received what it sends."""
    index = next(i for i, s in enumerate(mapping.sites) if s.kind == "population" and s.population == name)
    _, height, width = network[name].shape
    slices = mapping.slices_of(index)
    boxes = mapping.boxes[slices, 1:]
    channels = _fans(boxes[:, :2], lambda first, end: ((first, end, 1),))
    return Inlet(name, slices, channels, _reached(height, boxes[:, 2:4]), _reached(width, boxes[:, 4:]))


def _fans(keys: Int, build: Callable[..., tuple[Segment, ...]]) -> Fans:
    """`build` of every different row of `keys`, the numbers of a row as its arguments."""
    distinct, which = np.unique(keys, axis=0, return_inverse=True)
    return Fans(tuple(build(*key) for key in distinct.tolist()), which.ravel())


def _reached(extent: int, edges: Int, axis: tuple[int, int, int] = (1, 1, 0)) -> Reach:
    """What each of `extent` source positions reaches of the target positions `edges` (boxes, 2).

    axis  (kernel, stride, padding); that of neurons that reach their own position where nothing is said
    """
    distinct, which = np.unique(edges, axis=0, return_inverse=True)
    return Reach(reached(extent, distinct[:, 0], distinct[:, 1], *axis), which.ravel())


def _everywhere(extent: int, slices: Int) -> Reach:
    """Every source position counts once, for each of the slices."""
    return Reach(np.ones((1, extent), np.int64), np.zeros(len(slices), np.int64))


def _ordinary(
    network: Network, mapping: Mapping, projection: Projection, synapse: Conv | Window | Readout, index: int
) -> Inlet:
    """What a projection without counters sends to site `index`: the target itself, or partial sums of it."""
    name = projection.sources[0]
    source = network[name].shape
    slices = mapping.slices_of(index)
    boxes = mapping.boxes[slices, 1:]
    # a site of partial sums holds the synapses of some source channels
    first, end = mapping.sites[index].channels(source[0])

    def fan(c0: int, c1: int) -> tuple[Segment, ...]:
        cut = ((max(low, first), min(high, end), n) for low, high, n in fan_of_channels(synapse, source, c0, c1))
        # segments that a part has nothing of are none: their edges would cut cells beyond the channels
        return tuple(segment for segment in cut if segment[0] < segment[1])

    along_rows, along_columns = axes_of(synapse, source)
    return Inlet(
        source=name,
        slices=slices,
        channels=_fans(boxes[:, :2], fan),
        rows=_reached(source[1], boxes[:, 2:4], along_rows),
        columns=_reached(source[2], boxes[:, 4:], along_columns),
    )


def _factors(network: Network, mapping: Mapping, projection: Projection, index: int) -> Iterator[Inlet]:
    """The spikes and the currents of a dual spike transformation at site `index`, its target."""
    y, spikes = projection.sources
    factors = factors_of(network, projection)
    slices = mapping.slices_of(index)
    boxes = mapping.boxes[slices, 1:]
    _, height, width = network[spikes].shape
    yield Inlet(
        source=spikes,
        slices=slices,
        channels=_fans(boxes[:, :2], lambda c0, c1: grouped(factors.reached, factors.addends, c0, c1)),
        rows=_reached(height, boxes[:, 2:4]),
        columns=_reached(width, boxes[:, 4:]),
    )
    # whatever its own position, a current reaches all positions of the box
    if factors.over_tokens:
        fans = _fans(boxes, lambda c0, c1, y0, y1, x0, x1: ((c0, c1, (y1 - y0) * (x1 - x0)),))
        _, height, width = network[y].shape
        yield Inlet(y, slices, fans, _everywhere(height, slices), _everywhere(width, slices))
        return
    # the channels of a box are positions of y: some of one head, or all of some heads (partition.py)
    whole = (boxes[:, :2] % factors.at_y == 0).all(1, keepdims=True)
    within = boxes[:, :2] - boxes[:, :1] // factors.at_y * factors.at_y
    seen = np.where(whole, [0, factors.at_y], within)
    deep = factors.width

    def of_heads(c0: int, c1: int, y0: int, y1: int, x0: int, x1: int) -> tuple[Segment, ...]:
        first, end = c0 // factors.at_y, -(-c1 // factors.at_y)
        return ((first * deep, end * deep, (y1 - y0) * (x1 - x0)),)

    row = _everywhere(1, slices)
    yield Inlet(y, slices, _fans(boxes, of_heads), row, _reached(factors.at_y, seen), flat=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Counters:
    """An attention on its cores.

    sources       names of q, k and v
    shape         (C, Y, X) of the target and of v; q and k have its rows and columns
    shares        [first, end) of the tokens, or the channels of a head, that these counters take in both rounds
    slices        of the counters; boxes (S, 6) their c0, c1, y0, y1, x0, x1
    target        slices of the target; target_boxes likewise
    """

    sources: tuple[str, ...]
    shape: Shape
    heads: Heads
    shares: tuple[tuple[int, int], tuple[int, int]]
    slices: Int
    boxes: Int
    target: Int
    target_boxes: Int


def _counters(network: Network, mapping: Mapping, projection: Projection, index: int, target: int) -> _Counters:
    """The attention whose counters are site `index`, and whose target is site `target`."""
    shape = network[projection.target].shape
    slices = mapping.slices_of(index)
    targets = mapping.slices_of(target)
    boxes = mapping.boxes[:, 1:]
    heads = heads_of(network, projection)
    site = mapping.sites[index]
    shares = heads.shares(site.serial, site.copy, site.copies)
    return _Counters(projection.sources, shape, heads, shares, slices, boxes[slices], targets, boxes[targets])


def _tokens_in_series(counters: _Counters) -> Iterator[Inlet]:
    """KV first.  Counter (c, 0, j) sums, over the tokens, channel c of k times channel j of v, of one head.

    A spike of q in channel c then has the counters of row c send what they hold, each to its channel of the target.
    """
    q, k, v = counters.sources
    heads = counters.heads
    counted, answered = counters.shares
    lines = _fans(counters.boxes, lambda c0, c1, y0, y1, x0, x1: ((c0, c1, x1 - x0),))
    crossings = _fans(counters.boxes, lambda c0, c1, y0, y1, x0, x1: _crossings(heads, (c0, c1), (x0, x1)))
    yield _of_tokens(Inlet(k, counters.slices, lines, *_wherever(counters)), heads.tokens, counted)
    yield _of_tokens(Inlet(v, counters.slices, crossings, *_wherever(counters)), heads.tokens, counted)
    replayed = Inlet(q, counters.slices, lines, *_wherever(counters), replay=True)
    yield _of_tokens(replayed, heads.tokens, answered)


def _wherever(counters: _Counters) -> tuple[Reach, Reach]:
    """The token of a spike plays no part in where it goes."""
    _, height, width = counters.shape
    return _everywhere(height, counters.slices), _everywhere(width, counters.slices)


def _of_tokens(inlet: Inlet, tokens: int, share: tuple[int, int]) -> Inlet:
    """The same, of the spikes of some tokens only."""
    if share == (0, tokens):
        return inlet
    first, end = share
    token = np.arange(tokens)[None]
    columns = Reach(((token >= first) & (token < end)).astype(np.int64), np.zeros(len(inlet.slices), np.int64))
    return replace(inlet, rows=_everywhere(1, inlet.slices), columns=columns, flat=True)


def _answers_by_token(counters: _Counters) -> Inlet:
    """What counters with tokens in series send on: to the position where q fired."""
    q, _, _ = counters.sources
    _, height, width = counters.shape
    heads = counters.heads
    boxes = counters.target_boxes
    return Inlet(
        source=q,
        slices=counters.target,
        channels=_fans(boxes[:, :2], lambda c0, c1: grouped(heads.width, heads.depth, c0, c1)),
        rows=_reached(height, boxes[:, 2:4]),
        columns=_reached(width, boxes[:, 4:]),
        unicast=True,
    )


def _channels_in_series(counters: _Counters) -> Iterator[Inlet]:
    """QK first.  Counter (h, n, m) sums, over the channels of head h, token n of q times token m of k.

    A spike of v in token m then has the counters of column m send what they hold, each to its token of the target.
    """
    q, k, v = counters.sources
    depth, of_v, tokens = counters.heads.depth, counters.heads.width, counters.heads.tokens
    counted, answered = counters.shares
    row = _everywhere(1, counters.slices)
    queries = _reached(tokens, counters.boxes[:, 2:4])
    keys = _reached(tokens, counters.boxes[:, 4:])
    across = _fans(counters.boxes, lambda c0, c1, y0, y1, x0, x1: _of_heads(c0, c1, depth, counted, x1 - x0))
    down = _fans(counters.boxes, lambda c0, c1, y0, y1, x0, x1: _of_heads(c0, c1, depth, counted, y1 - y0))
    yield Inlet(q, counters.slices, across, row, queries, flat=True)
    yield Inlet(k, counters.slices, down, row, keys, flat=True)
    answering = _fans(counters.boxes, lambda c0, c1, y0, y1, x0, x1: _of_heads(c0, c1, of_v, answered, y1 - y0))
    yield Inlet(v, counters.slices, answering, row, keys, flat=True, replay=True)


def _of_heads(first: int, end: int, channels: int, share: tuple[int, int], targets: int) -> tuple[Segment, ...]:
    """Some of the `channels` channels of each of the heads [first, end), each of which reaches `targets` counters."""
    if share == (0, channels):
        return ((first * channels, end * channels, targets),)
    low, high = share
    return tuple((head * channels + low, head * channels + high, targets) for head in range(first, end))


def _answers_by_channel(counters: _Counters) -> Inlet:
    """What counters with channels in series send on: to the channel where v fired."""
    _, _, v = counters.sources
    _, height, width = counters.shape
    return Inlet(
        source=v,
        slices=counters.target,
        # whatever its token, a spike of a channel reaches all tokens of that channel
        channels=_fans(counters.target_boxes, lambda c0, c1, y0, y1, x0, x1: ((c0, c1, (y1 - y0) * (x1 - x0)),)),
        rows=_everywhere(height, counters.target),
        columns=_everywhere(width, counters.target),
        unicast=True,
    )


def _crossings(heads: Heads, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Segment, ...]:
    """Channels of v that cross the counter rows of a box, head by head, in its columns; both half-open."""
    first, end = rows
    left, right = columns
    depth, width = heads.depth, heads.width
    return tuple(
        (head * width + left, head * width + right, min(end, (head + 1) * depth) - max(first, head * depth))
        for head in range(first // depth, -(-end // depth))
    )


def cells_of(network: Network, arriving: dict[str, list[Inlet]]) -> dict[str, Cells]:
    """The coarsest grid of each population that counting needs: all neurons of a cell reach the same synapses.

    arriving  everything that arrives somewhere, by source; the population's own slices among it
    """
    cells: dict[str, Cells] = {}
    for population in network:
        if population is network.output:
            continue
        channels, height, width = population.shape
        edges = {0, channels}
        rows = [np.zeros((1, height), np.int64)]
        columns = [np.zeros((1, width), np.int64)]
        for projection in network.out_of(population.name):
            if not isinstance(projection.synapse, Attention | DualSpike):
                segments, reached_rows, reached_columns = whole_reach(network, projection, projection.synapse)
                edges |= _edges(segments)
                rows.append(reached_rows)
                columns.append(reached_columns)
        for inlet in arriving.get(population.name, ()):
            for segments in inlet.channels.distinct:
                edges |= _edges(segments)
            # boxes of tokens do not respect rows: every position is apart
            rows.append(np.arange(height)[None] if inlet.flat else inlet.rows.distinct)
            columns.append(np.arange(width)[None] if inlet.flat else inlet.columns.distinct)
        cuts = np.array(sorted(edges), np.int64)
        cells[population.name] = Cells(cuts, _classes(np.concatenate(rows)), _classes(np.concatenate(columns)))
    return cells


def _edges(segments: tuple[Segment, ...]) -> set[int]:
    """Channels at which a segment begins or ends."""
    return {edge for first, end, _ in segments for edge in (first, end)}


def _classes(weights: Int) -> Int:
    """(extent,) the class of each position, in order of appearance: equal where all `weights` (n, extent) are."""
    _, first, which = np.unique(weights, axis=1, return_index=True, return_inverse=True)
    # np.unique numbers classes by value: number them by their first position instead
    order = np.argsort(np.argsort(first))
    return order[which.ravel()].astype(np.int64)
