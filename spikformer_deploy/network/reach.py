"""Which neurons a synapse reaches from where: the geometry of windows and groups, said once."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int, Shape
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Conv, Readout, Window

Segment: TypeAlias = tuple[int, int, int]
"""(first source channel, end, targets that a message from there reaches in channel direction)."""


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


def whole_reach(
    network: Network, projection: Projection, synapse: Conv | Window | Readout
) -> tuple[tuple[Segment, ...], Int, Int]:
    """(fans, rows (1, Y), columns (1, X)) of a source neuron into the whole target."""
    source, target = network[projection.sources[0]].shape, network[projection.target].shape
    rows, columns = axes_of(synapse, source)
    start, height, width = (np.array([extent]) for extent in (0, *target[1:]))
    fans = fan_of_channels(synapse, source, 0, target[0])
    return fans, reached(source[1], start, height, *rows), reached(source[2], start, width, *columns)
