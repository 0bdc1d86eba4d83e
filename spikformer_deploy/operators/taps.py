"""Which inputs of a window meet which outputs: the geometry of convolutions and pooling, one dimension at a time.

A tap is one position of a kernel.  The inputs that a tap meets lie at regular distances, and a dimension is as good as
the next: a pair of an input element and a weight exists where it does in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from spikformer_deploy.base.arrays import Int


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of a window operation.

    inputs, outputs  positions
    kernel           taps
    transposed       an input is spread over outputs; else an output gathers inputs
    """

    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    transposed: bool = False


def met(axis: Axis) -> list[slice]:
    """For each tap, the inputs that meet an output through it; those in the padding are no inputs."""
    gathered, spread = (axis.inputs, axis.outputs) if axis.transposed else (axis.outputs, axis.inputs)
    taps = []
    for tap in range(axis.kernel):
        # gathered position g meets spread position g * stride + shift, of an output or of an input
        shift = tap * axis.dilation - axis.padding
        first = max(0, -(shift // axis.stride))
        count = max(0, min(gathered - 1, (spread - 1 - shift) // axis.stride) - first + 1)
        # the inputs are the gathered positions of a transposed one, else the spread ones
        start, step = (first, 1) if axis.transposed else (first * axis.stride + shift, axis.stride)
        taps.append(slice(start, start + (count - 1) * step + 1, step) if count else slice(0, 0))
    return taps


@cache
def reach(axis: Axis) -> Int:
    """(inputs,) how many outputs each input meets."""
    counts = np.zeros(axis.inputs, np.int64)
    for tap in met(axis):
        counts[tap] += 1
    counts.setflags(write=False)
    return counts


def adaptive_reach(inputs: int, outputs: int) -> Int:
    """(inputs,) the same of adaptive pooling: output o sees floor(o n / m) to ceil((o + 1) n / m)."""
    counts = np.zeros(inputs, np.int64)
    for output in range(outputs):
        counts[output * inputs // outputs : -(-(output + 1) * inputs // outputs)] += 1
    return counts


def by_tap(counts: Int, axes: list[Axis]) -> Int:
    """(C, taps...) how often each tap of each channel meets what `counts` (C, positions...) has."""
    for dimension, axis in enumerate(axes, 1):
        before = (slice(None),) * dimension
        counts = np.stack([counts[(*before, tap)].sum(dimension) for tap in met(axis)], dimension)
    return counts
