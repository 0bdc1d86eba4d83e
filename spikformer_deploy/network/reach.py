"""Which neurons a synapse reaches from where: the geometry of windows and groups, said once.

Counting asks how many targets each source neuron reaches; the mapping asks which source neurons a box of targets reads.
Channels, rows and columns are independent of each other, so every answer is one of a single axis.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int, Shape
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Conv, Readout, Window

Segment: TypeAlias = tuple[int, int, int]
"""(first source channel, end, targets that a message from there reaches in channel direction)."""


class Axis(NamedTuple):
    """A window along the rows or along the columns.

    Target position t reads the source positions t * stride - padding + tap, for tap = 0, ..., kernel - 1.  Those that
    lie outside the source are padding: nothing comes from there.  Of windows that are moved, padding is what is left
    of it before the source, and may be negative.
    """

    kernel: int = 1
    stride: int = 1
    padding: int = 0


def axes_of(synapse: Conv | Window | Readout, source: Shape) -> tuple[Axis, Axis]:
    """The windows along rows and columns; a Readout is a kernel over the whole map."""
    match synapse:
        case Conv(stride=stride, padding=padding):
            kernel = synapse.weight.shape[2:]
        case Window(kernel, stride, padding, offset):
            padding = (padding[0] - offset[0], padding[1] - offset[1])
        case Readout():
            return Axis(source[1]), Axis(source[2])
        case _:
            assert_never(synapse)
    return Axis(kernel[0], stride[0], padding[0]), Axis(kernel[1], stride[1], padding[1])


def reached(extent: int, first: Int, end: Int, kernel: int = 1, stride: int = 1, padding: int = 0) -> Int:
    """(boxes, extent) how many of the target positions [first, end) of one axis each source position reaches.

    first, end  (boxes,); source position p lies in the windows of the targets ceil((p + padding - kernel + 1) / stride)
    to floor((p + padding) / stride)
    """
    shifted = np.arange(extent) + padding
    lowest = -(-(shifted - kernel + 1) // stride)
    highest = shifted // stride
    return np.clip(np.minimum(highest, end[:, None] - 1) - np.maximum(lowest, first[:, None]) + 1, 0, None)


def read_by(first: Int, end: Int, axis: Axis) -> tuple[Int, Int]:
    """(first, end) of the source positions that the target positions [first, end) read, padding included.

    From the first tap of the first target to the last tap of the last one.  Positions below 0 or beyond the source are
    padding.  Where the stride exceeds the kernel, some positions between belong to no window.
    """
    lowest = first * axis.stride - axis.padding
    highest = (end - 1) * axis.stride - axis.padding + axis.kernel
    return lowest, highest


def most_read(size: Int, axis: Axis, extent: int) -> Int:
    """The most positions of a source of `extent` that `size` neighbouring targets read, wherever they lie."""
    lowest, highest = read_by(np.zeros_like(size), size, axis)
    return np.minimum(highest - lowest, extent)


def most_taps(size: Int, axis: Axis, extent: int) -> Int:
    """The most taps of a kernel through which `size` neighbouring targets read a source of `extent` positions.

    Source position p and target t meet in the tap p + padding - t * stride, which takes (size - 1) * stride + extent
    values at most.  Fewer than the kernel has, where it is wider than its source.
    """
    return np.minimum(axis.kernel, (size - 1) * axis.stride + extent)


def channels_read(synapse: Conv | Window | Readout, source: Shape, first: Int, end: Int) -> tuple[Int, Int]:
    """(first, end) of the source channels that the target channels [first, end) read."""
    match synapse:
        case Conv():
            targets = len(synapse.weight) // synapse.groups
            sources = source[0] // synapse.groups
            return first // targets * sources, ((end - 1) // targets + 1) * sources
        case Window():
            return first, end
        case Readout():
            return np.zeros_like(first), np.full_like(end, source[0])
        case _:
            assert_never(synapse)


def groups_met(channels: Int, targets: int) -> Int:
    """Groups of `targets` channels in which `channels` neighbouring ones lie, the first of them at a group's start."""
    return -(-channels // targets)


def most_groups(size: Int, targets: int) -> Int:
    """The most groups of `targets` channels that a box of a grid meets, whose boxes of `size` channels start at 0.

    A box begins at a multiple of `size`: behind a group's start at most by `targets` less their common divisor.
    """
    return groups_met(size + targets - np.gcd(size, targets), targets)


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


def whole_reach(
    network: Network, projection: Projection, synapse: Conv | Window | Readout
) -> tuple[tuple[Segment, ...], Int, Int]:
    """(fans, rows (1, Y), columns (1, X)) of a source neuron into the whole target."""
    source = network[projection.sources[0]].shape
    channels, height, width = network[projection.target].shape
    rows, columns = axes_of(synapse, source)
    start = np.array([0])
    fans = fan_of_channels(synapse, source, 0, channels)
    return (
        fans,
        reached(source[1], start, np.array([height]), *rows),
        reached(source[2], start, np.array([width]), *columns),
    )
