"""Worst cases: what the sum and the state of a neuron can be in any run, from weights and largest inputs alone."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.quantize.network import DECAY_ONE, Attention, Conv, Network, Projection, Window

Int: TypeAlias = NDArray[np.int64]


def weighted_range(weight: NDArray[np.integer], max_out: int) -> tuple[Int, Int]:
    """Least and largest sum of each output channel, (C,): the inputs of one sign of weight at `max_out`."""
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    return np.minimum(flat, 0).sum(1) * max_out, np.maximum(flat, 0).sum(1) * max_out


def membrane_range(
    low: Int, high: Int, threshold: Int, decay: int, time_steps: int, soft: bool = False, strict: bool = False
) -> tuple[Int, Int]:
    """Range of a LIF's potential before the reset, (C,), from the range of its drive in one step.

    Above, only one step counts with a hard reset: after the comparison the potential is below the threshold, or zero;
    with a soft one, what stays above it piles up.
    Strict neurons stay at their threshold without firing, and round up.
    Below, `time_steps` steps of the lowest drive pile up, decaying by floor (the worst of both kinds).
    """
    silent, up = (threshold, DECAY_ONE - 1) if strict else (threshold - 1, 0)
    rest = np.maximum(silent, 0) * decay + up >> 12
    highest = np.maximum(rest, 0) + np.maximum(high, 0)
    for _ in range(time_steps - 1 if soft else 0):
        after = np.maximum(silent, highest - threshold)
        highest = (np.maximum(after, 0) * decay + up >> 12) + np.maximum(high, 0)
    lowest = np.zeros_like(low)
    for _ in range(time_steps):
        lowest = (lowest * decay >> 12) + np.minimum(low, 0)
    return lowest, highest


def largest_sum(network: Network, projection: Projection) -> int:
    """A bound of every partial sum of one projection, whatever the order of summation, before a Conv's shift."""
    source = network[projection.sources[0]]
    match projection.synapse:
        case Conv(weight):
            return int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1).max()) * source.max_out
        case Attention(heads, weight):
            channels, height, width = source.shape
            most = int(np.prod([network[s].max_out for s in projection.sources]))
            return channels // heads * height * width * most * weight
        case Window(kernel):
            _, height, width = source.shape
            return min(kernel[0], height) * min(kernel[1], width) * source.max_out
        case synapse:
            raise TypeError(f"the sums of a {type(synapse).__name__} have no bound here")


def shift_of(projection: Projection) -> int:
    """The exponent of the weights of a projection."""
    return projection.synapse.shift if isinstance(projection.synapse, Conv) else 0
