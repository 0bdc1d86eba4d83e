"""Worst cases: what the sum and the state of a neuron can be in any run, from weights and largest inputs alone."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.quantize.network import Attention, Conv, Network, Projection

Int: TypeAlias = NDArray[np.int64]


def weighted_range(weight: NDArray[np.integer], max_out: int) -> tuple[Int, Int]:
    """Least and largest sum of each output channel, (C,): the inputs of one sign of weight at `max_out`."""
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    return np.minimum(flat, 0).sum(1) * max_out, np.maximum(flat, 0).sum(1) * max_out


def membrane_range(low: Int, high: Int, threshold: Int, decay: int, time_steps: int) -> tuple[Int, Int]:
    """Range of a hard-reset LIF's potential before the reset, (C,), from the range of its drive in one step.

    Above, only one step counts: after the comparison the potential is below the threshold, or reset.
    Below, `time_steps` steps of the lowest drive pile up, decaying by floor (the worst of both kinds).
    """
    rest = np.maximum(threshold - 1, 0) * decay >> 12
    highest = np.maximum(rest, 0) + np.maximum(high, 0)
    lowest = np.zeros_like(low)
    for _ in range(time_steps):
        lowest = (lowest * decay >> 12) + np.minimum(low, 0)
    return lowest, highest


def largest_sum(network: Network, projection: Projection) -> int:
    """A bound of every partial sum of one projection, whatever the order of summation."""
    source = network[projection.sources[0]]
    match projection.synapse:
        case Conv(weight):
            return int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1).max()) * source.max_out
        case Attention(heads, weight):
            channels, height, width = source.shape
            most = int(np.prod([network[s].max_out for s in projection.sources]))
            return channels // heads * height * width * most * weight
        case synapse:
            raise TypeError(f"{type(synapse).__name__} does not reach a LIF")
