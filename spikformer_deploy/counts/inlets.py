"""Which neurons of a box a message reaches: the geometry of every synapse, separable in channel, row and column.

For each receiving slice a source neuron (c, y, x) makes fan[c] * rows[y] * columns[x] synaptic operations,
where fan is constant over a few ranges of channels (Segment): group, head and box boundaries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.reach import Segment, axes_of, fan_of_channels, grouped, reached, whole_reach
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Window


@dataclass(frozen=True, slots=True, eq=False)
class Inlet:
    """How the messages of one source population reach the slices of one site.

    slices    (S,) indices into the mapping
    segments  the different ranges of source channels with their fan; segments_of (S,) says which a slice has
    rows      (i, Y) the different numbers of targets reached in row direction; rows_of (S,)
    columns   (j, X) likewise; columns_of (S,)
    flat      the source's positions count as one row of tokens: rows (i, 1), columns (j, Y * X)
    unicast   every synaptic operation is a message of its own (the graded values that attention counters send)
    replay    every synaptic operation makes the attention counter send a graded value, if it holds one
    """

    source: str
    slices: Int
    segments: tuple[tuple[Segment, ...], ...]
    segments_of: Int
    rows: Int
    rows_of: Int
    columns: Int
    columns_of: Int
    flat: bool = False
    unicast: bool = False
    replay: bool = False


def inlets(network: Network, mapping: Mapping) -> Iterator[Inlet]:
    """Everything that arrives at the slices of `mapping`, in the order of the network's projections."""
    sites = {(site.kind, site.population): index for index, site in enumerate(mapping.sites)}
    partial: dict[str, list[int]] = {}
    for index, site in enumerate(mapping.sites):
        if site.kind == "partial":
            partial.setdefault(site.population, []).append(index)
    for projection in network.projections:
        own = sites["population", projection.target]
        match projection.synapse:
            case Attention() as attention:
                index = sites["attention", projection.target]
                yield from _attention(network, mapping, projection, attention, index, mapping.slices_of(own))
            case synapse:
                for index in (*partial.get(projection.target, ()), own):
                    yield _ordinary(network, mapping, projection, synapse, index)


def own_inlet(network: Network, mapping: Mapping, name: str) -> Inlet:
    """The slices of the population itself, as if each received what it sends."""
    index = next(i for i, s in enumerate(mapping.sites) if s.kind == "population" and s.population == name)
    slices, (_, height, width) = mapping.slices_of(index), network[name].shape
    boxes = mapping.boxes[slices, 1:]
    return Inlet(
        name,
        slices,
        *_segments(boxes[:, :2], lambda first, end: ((first, end, 1),)),
        *_reached(height, boxes[:, 2:4]),
        *_reached(width, boxes[:, 4:]),
    )


def _segments(keys: Int, build: Callable[..., tuple[Segment, ...]]) -> tuple[tuple[tuple[Segment, ...], ...], Int]:
    """`build` of every different row of `keys`, and which each row has."""
    distinct, which = np.unique(keys, axis=0, return_inverse=True)
    return tuple(build(*key) for key in distinct.tolist()), which.ravel()


def _reached(extent: int, edges: Int, axis: tuple[int, int, int] = (1, 1, 0)) -> tuple[Int, Int]:
    """`reached` of every different row of `edges` (boxes, 2), and which each box has."""
    distinct, which = np.unique(edges, axis=0, return_inverse=True)
    return reached(extent, distinct[:, 0], distinct[:, 1], *axis), which.ravel()


def _ordinary(
    network: Network, mapping: Mapping, projection: Projection, synapse: Conv | Window | Readout, index: int
) -> Inlet:
    name = projection.sources[0]
    source = network[name].shape
    site, slices = mapping.sites[index], mapping.slices_of(index)
    first, end = site.channels(source[0])
    rows, columns = axes_of(synapse, source)
    boxes = mapping.boxes[slices, 1:]

    def fan(c0: int, c1: int) -> tuple[Segment, ...]:
        ranges = fan_of_channels(synapse, source, c0, c1)
        return tuple((max(low, first), min(high, end), targets) for low, high, targets in ranges)

    return Inlet(
        name,
        slices,
        *_segments(boxes[:, :2], fan),
        *_reached(source[1], boxes[:, 2:4], rows),
        *_reached(source[2], boxes[:, 4:], columns),
    )


def _attention(
    network: Network, mapping: Mapping, projection: Projection, attention: Attention, index: int, target: Int
) -> Iterator[Inlet]:
    """q, k and v at the counters of site `index`, and what the counters send on to the target's slices."""
    q, k, v = projection.sources
    shape, counters = network[projection.target].shape, mapping.slices_of(index)
    boxes, targets = mapping.boxes[counters, 1:], mapping.boxes[target, 1:]
    depth, tokens = shape[0] // attention.heads, shape[1] * shape[2]
    none = np.zeros(len(boxes), np.int64)
    if mapping.sites[index].serial == "tokens":
        whole = np.ones((1, shape[1]), np.int64), none, np.ones((1, shape[2]), np.int64), none
        lines = _segments(boxes, lambda c0, c1, y0, y1, x0, x1: ((c0, c1, x1 - x0),))
        yield Inlet(k, counters, *lines, *whole)
        yield Inlet(v, counters, *_segments(boxes, lambda *box: _crossings(depth, box)), *whole)
        yield Inlet(q, counters, *lines, *whole, replay=True)
        fans = _segments(targets[:, :2], lambda c0, c1: grouped(depth, depth, c0, c1))
        places = *_reached(shape[1], targets[:, 2:4]), *_reached(shape[2], targets[:, 4:])
        yield Inlet(q, target, *fans, *places, unicast=True)
        return
    row = np.ones((1, 1), np.int64), none
    queries, keys = _reached(tokens, boxes[:, 2:4]), _reached(tokens, boxes[:, 4:])
    across = _segments(boxes, lambda c0, c1, y0, y1, x0, x1: ((c0 * depth, c1 * depth, x1 - x0),))
    down = _segments(boxes, lambda c0, c1, y0, y1, x0, x1: ((c0 * depth, c1 * depth, y1 - y0),))
    yield Inlet(q, counters, *across, *row, *queries, flat=True)
    yield Inlet(k, counters, *down, *row, *keys, flat=True)
    yield Inlet(v, counters, *down, *row, *keys, flat=True, replay=True)
    fans = _segments(targets, lambda c0, c1, y0, y1, x0, x1: ((c0, c1, (y1 - y0) * (x1 - x0)),))
    here = np.zeros(len(targets), np.int64)
    whole = np.ones((1, shape[1]), np.int64), here, np.ones((1, shape[2]), np.int64), here
    yield Inlet(v, target, *fans, *whole, unicast=True)


def _crossings(depth: int, box: tuple[int, ...]) -> tuple[Segment, ...]:
    """Channels of v that cross the counter rows [c0, c1) of a box, head by head, in its columns [x0, x1)."""
    c0, c1, _, _, x0, x1 = box
    heads = range(c0 // depth, -(-c1 // depth))
    return tuple((h * depth + x0, h * depth + x1, min(c1, (h + 1) * depth) - max(c0, h * depth)) for h in heads)


def cells_of(network: Network, arriving: dict[str, list[Inlet]]) -> dict[str, Cells]:
    """The coarsest grid of each population that counting needs: all neurons of a cell reach the same synapses.

    arriving  everything that arrives somewhere, by source; the population's own slices among it
    """
    out = {}
    for population in network:
        if population is network.output:
            continue
        channels, height, width = population.shape
        edges, rows, columns = {0, channels}, [np.zeros((1, height), np.int64)], [np.zeros((1, width), np.int64)]
        for projection in network.out_of(population.name):
            if not isinstance(projection.synapse, Attention):
                fans, seen_rows, seen_columns = whole_reach(network, projection, projection.synapse)
                edges.update(edge for segment in fans for edge in segment[:2])
                rows.append(seen_rows)
                columns.append(seen_columns)
        for inlet in arriving.get(population.name, ()):
            edges.update(edge for segments in inlet.segments for segment in segments for edge in segment[:2])
            # boxes of tokens do not respect rows: every position is apart
            rows.append(np.arange(height)[None] if inlet.flat else inlet.rows)
            columns.append(np.arange(width)[None] if inlet.flat else inlet.columns)
        cuts = np.array(sorted(edges), np.int64)
        out[population.name] = Cells(cuts, _classes(np.concatenate(rows)), _classes(np.concatenate(columns)))
    return out


def _classes(weights: Int) -> Int:
    """(extent,) the class of each position, in order of appearance: equal where all `weights` (n, extent) are."""
    _, first, which = np.unique(weights, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return order[which.ravel()].astype(np.int64)
