"""Which neurons of a box a message reaches: the geometry of every synapse, separable in channel, row and column.

For each receiving slice a source neuron (c, y, x) makes fan[c] * rows[y] * columns[x] synaptic operations,
where fan is constant over a few ranges of channels (Segment): group, head and box boundaries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.mapping.mapping import Mapping
from spikformer_deploy.quantize.network import Attention, Conv, Network, Projection, Readout, Shape, Window

Int: TypeAlias = NDArray[np.int64]
Segment: TypeAlias = tuple[int, int, int]
"""(first source channel, end, targets that a message from there reaches in channel direction)."""


@dataclass(frozen=True, slots=True, eq=False)
class Inlet:
    """How the messages of one source population reach the slices of one site.

    slices    (S,) indices into the mapping
    segments  (S,) ranges of source channels and their fan
    rows      (S, Y) targets reached in row direction; columns (S, X)
    flat      the source's positions count as one row of tokens: rows (S, 1), columns (S, Y * X)
    unicast   every synaptic operation is a message of its own (the graded values that attention counters send)
    replay    every synaptic operation makes the attention counter send a graded value, if it holds one
    """

    source: str
    slices: Int
    segments: tuple[tuple[Segment, ...], ...]
    rows: Int
    columns: Int
    flat: bool = False
    unicast: bool = False
    replay: bool = False


def fan_of_channels(synapse: Conv | Window | Readout, source: Shape, first: int, end: int) -> tuple[Segment, ...]:
    """Source channels that reach the target channels [first, end), and how many of those each of them reaches."""
    match synapse:
        case Conv():
            per_group = len(synapse.weight) // synapse.groups
            return grouped(per_group, source[0] // synapse.groups, first, end)
        case Window():
            return ((first, end, 1),)
        case Readout():
            return ((0, source[0], end - first),)
        case _:
            assert_never(synapse)


def grouped(targets: int, sources: int, first: int, end: int) -> tuple[Segment, ...]:
    """As fan_of_channels, for groups of `targets` target and `sources` source channels; equal neighbours merged."""
    out: list[Segment] = []
    for group in range(first // targets, -(-end // targets)):
        fan = min(end, (group + 1) * targets) - max(first, group * targets)
        if out and out[-1][2] == fan:
            out[-1] = (out[-1][0], (group + 1) * sources, fan)
        else:
            out.append((group * sources, (group + 1) * sources, fan))
    return tuple(out)


def reached(extent: int, first: Int, end: Int, kernel: int = 1, stride: int = 1, padding: int = 0) -> Int:
    """(boxes, extent) how many of the target positions [first, end) of one axis each source position reaches.

    first, end  (boxes,); source position p lies in the windows of the targets ceil((p + padding - kernel + 1) / stride)
    to floor((p + padding) / stride)
    """
    shifted = np.arange(extent) + padding
    lowest, highest = -(-(shifted - kernel + 1) // stride), shifted // stride
    return np.clip(np.minimum(highest, end[:, None] - 1) - np.maximum(lowest, first[:, None]) + 1, 0, None)


def axes_of(synapse: Conv | Window | Readout, source: Shape) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(kernel, stride, padding) of rows and of columns; a Readout is a kernel over the whole map."""
    match synapse:
        case Conv():
            kernel = synapse.weight.shape[2:]
        case Window():
            kernel = synapse.kernel
        case Readout():
            return (source[1], 1, 0), (source[2], 1, 0)
        case _:
            assert_never(synapse)
    (sy, sx), (py, px) = synapse.stride, synapse.padding
    return (kernel[0], sy, py), (kernel[1], sx, px)


def inlets(network: Network, mapping: Mapping) -> Iterator[Inlet]:
    """Everything that arrives at the slices of `mapping`, in the order of the network's projections."""
    sites = {(site.kind, site.population): index for index, site in enumerate(mapping.sites)}
    partial: dict[str, list[int]] = {}
    for index, site in enumerate(mapping.sites):
        if site.kind == "partial":
            partial.setdefault(site.population, []).append(index)
    for projection in network.projections:
        own = sites["population", projection.target]
        slices = mapping.slices_of(own)
        match projection.synapse:
            case Attention() as attention:
                index = sites["attention", projection.target]
                yield from _attention(network, mapping, projection, attention, index, slices)
            case synapse:
                for index in (*partial.get(projection.target, ()), own):
                    yield _ordinary(network, mapping, projection, synapse, index)


def _ordinary(
    network: Network, mapping: Mapping, projection: Projection, synapse: Conv | Window | Readout, index: int
) -> Inlet:
    name = projection.sources[0]
    source = network[name].shape
    site, slices = mapping.sites[index], mapping.slices_of(index)
    first, end = site.channels(source[0])
    rows, columns = axes_of(synapse, source)
    c0, c1, y0, y1, x0, x1 = mapping.boxes[slices, 1:].T
    return Inlet(
        name,
        slices,
        tuple(
            tuple((max(low, first), min(high, end), fan) for low, high, fan in segments)
            for segments in (fan_of_channels(synapse, source, int(a), int(b)) for a, b in zip(c0, c1, strict=True))
        ),
        reached(source[1], y0, y1, *rows),
        reached(source[2], x0, x1, *columns),
    )


def _attention(
    network: Network, mapping: Mapping, projection: Projection, attention: Attention, index: int, target: Int
) -> Iterator[Inlet]:
    """q, k and v at the counters of site `index`, and what the counters send on to the target's slices."""
    q, k, v = projection.sources
    shape, counters = network[projection.target].shape, mapping.slices_of(index)
    boxes, targets = mapping.boxes[counters, 1:].tolist(), mapping.boxes[target, 1:].tolist()
    depth = shape[0] // attention.heads
    if mapping.sites[index].serial == "tokens":
        lines = tuple(((box[0], box[1], box[5] - box[4]),) for box in boxes)
        crossings = tuple(_crossings(depth, box) for box in boxes)
        whole = np.ones((len(boxes), shape[1]), np.int64), np.ones((len(boxes), shape[2]), np.int64)
        yield Inlet(k, counters, lines, *whole)
        yield Inlet(v, counters, crossings, *whole)
        yield Inlet(q, counters, lines, *whole, replay=True)
        fans = tuple(grouped(depth, depth, box[0], box[1]) for box in targets)
        y0, y1, x0, x1 = mapping.boxes[target, 3:].T
        yield Inlet(q, target, fans, reached(shape[1], y0, y1), reached(shape[2], x0, x1), unicast=True)
    else:
        tokens = shape[1] * shape[2]
        one = np.ones((len(boxes), 1), np.int64)
        y0, y1, x0, x1 = mapping.boxes[counters, 3:].T
        queries, keys = reached(tokens, y0, y1), reached(tokens, x0, x1)
        across = tuple(((box[0] * depth, box[1] * depth, box[5] - box[4]),) for box in boxes)
        down = tuple(((box[0] * depth, box[1] * depth, box[3] - box[2]),) for box in boxes)
        yield Inlet(q, counters, across, one, queries, flat=True)
        yield Inlet(k, counters, down, one, keys, flat=True)
        yield Inlet(v, counters, down, one, keys, flat=True, replay=True)
        fans = tuple(((box[0], box[1], (box[3] - box[2]) * (box[5] - box[4])),) for box in targets)
        whole = np.ones((len(targets), shape[1]), np.int64), np.ones((len(targets), shape[2]), np.int64)
        yield Inlet(v, target, fans, *whole, unicast=True)


def _crossings(depth: int, box: list[int]) -> tuple[Segment, ...]:
    """Channels of v that cross the counter rows [c0, c1) of a box, head by head, in its columns [x0, x1)."""
    c0, c1, _, _, x0, x1 = box
    heads = range(c0 // depth, -(-c1 // depth))
    return tuple((h * depth + x0, h * depth + x1, min(c1, (h + 1) * depth) - max(c0, h * depth)) for h in heads)


def channel_cuts(network: Network, mapping: Mapping | None) -> dict[str, Int]:
    """The ranges of channels that `count` needs of each population's Activity: pass them as `cuts` to the executor."""
    edges: dict[str, set[int]] = {p.name: {0, p.shape[0]} for p in network if p is not network.output}
    for projection in network.projections:
        if isinstance(projection.synapse, Attention):
            for name in projection.sources:
                channels = network[name].shape[0]
                edges[name].update(range(0, channels, channels // projection.synapse.heads))
    if mapping is not None:
        for index, site in enumerate(mapping.sites):
            if site.kind == "population" and site.population in edges:
                edges[site.population].update(mapping.boxes[mapping.slices_of(index), 1:3].ravel().tolist())
        for inlet in inlets(network, mapping):
            for segments in set(inlet.segments):
                edges[inlet.source].update(edge for segment in segments for edge in segment[:2])
    return {name: np.array(sorted(values), np.int64) for name, values in edges.items()}
