"""Compiled loops of Levels, one narrow and one for all; see kernels.py for the layout of arrays and how loops run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.base.compiled import inlined, part, shared
from spikformer_deploy.executors.fast.kernels import copy_row
from spikformer_deploy.network.neurons import DECAY_BITS, DECAY_ONE

LEVELS_AT_ONCE = 4
"""Levels that one pass over the channels compares with: the 4 of most models, so that potentials are read once."""
BELOW_32 = np.int32(31)
"""Shifts are masked with it: only where a compiler knows them to be below 32 does it shift vectors of 32 bits."""


class LevelsParameters(NamedTuple):
    """A population of Levels as its loops read it; see Levels of network/neurons.py for the equation.

    decay   numerator of a fraction of 2^12; of levels_narrow 0 or a power of two
    levels  (D', C) int32 for levels_narrow, int64 for levels_any; reset (C,) and biases too.  D' is a multiple of
            LEVELS_AT_ONCE: beyond the D of the neurons stand levels that nothing reaches
    bias, bias_of  as of LifParameters
    """

    decay: int
    shift: int
    levels: Array
    reset: Array
    bias: Array
    bias_of: Array


@shared
def levels_narrow(sums: Array, neurons: LevelsParameters, first: int, out: Array, membrane: Array, peak: Array) -> None:
    """Levels in 32-bit integers, of a decay of 0 or 2^-k; arrays as in lif_halving, out is what they send.

    Neither a potential nor what is taken off it leaves 2^30.
    """
    images, steps, _, channels = out.shape
    sums_steps = sums.shape[1]
    positions = sums.shape[2]
    blocks = peak.shape[1]
    shift = np.int32(neurons.shift)
    halvings = np.int32(_halvings(neurons.decay))
    for task in prange(images * blocks):
        n = task // blocks
        block = task % blocks
        v = np.empty(channels, np.int32)
        reached = np.empty(channels, np.int32)
        largest = np.int32(0)
        for i in range(block * positions // blocks, (block + 1) * positions // blocks):
            place = first + i
            bias = neurons.bias[neurons.bias_of[place]]
            v[:] = 0
            for t in range(steps):
                arriving = sums[n, min(t, sums_steps - 1), i]
                for c in range(channels):
                    # casts, as in lif_halving
                    drive = np.int32((np.int32(arriving[c]) << (shift & BELOW_32)) + bias[c])
                    v[c] = np.int32((v[c] >> (halvings & BELOW_32)) + drive)
                    largest = np.int32(max(largest, max(np.int32(abs(v[c])), np.int32(abs(drive)))))
                    reached[c] = 0
                for j in range(0, len(neurons.levels), LEVELS_AT_ONCE):
                    _count_levels(v, neurons.levels[j : j + LEVELS_AT_ONCE], reached)
                sent = out[n, t, place]
                for c in range(channels):
                    sent[c] = reached[c]
                    v[c] = np.int32(v[c] - np.int32(reached[c] * neurons.reset[c]))
                if membrane.size:
                    copy_row(v, membrane[n, t, place])
                if not neurons.decay:
                    v[:] = 0
        peak[n, block] = largest


@part
def _halvings(decay: int) -> int:
    """k of a decay of 2^12 / 2^k; 0 for a decay of 0."""
    halvings = 0
    while 0 < decay << halvings < DECAY_ONE:
        halvings += 1
    return halvings


@inlined
def _count_levels(v: Array, levels: Array, reached: Array) -> None:
    """reached[c] += how many of LEVELS_AT_ONCE levels (., C) v[c] reaches, all int32."""
    for c in range(v.size):
        low = np.int32(np.int32(v[c] >= levels[0, c]) + np.int32(v[c] >= levels[1, c]))
        high = np.int32(np.int32(v[c] >= levels[2, c]) + np.int32(v[c] >= levels[3, c]))
        reached[c] = np.int32(reached[c] + np.int32(low + high))


@shared
def levels_any(sums: Array, neurons: LevelsParameters, first: int, out: Array, membrane: Array, peak: Array) -> None:
    """Any Levels, in 64-bit integers; arrays as in levels_narrow."""
    images, steps, _, channels = out.shape
    sums_steps = sums.shape[1]
    positions = sums.shape[2]
    blocks = peak.shape[1]
    for task in prange(images * blocks):
        n = task // blocks
        block = task % blocks
        v = np.empty(channels, np.int64)
        largest = np.int64(0)
        for i in range(block * positions // blocks, (block + 1) * positions // blocks):
            place = first + i
            bias = neurons.bias[neurons.bias_of[place]]
            v[:] = 0
            for t in range(steps):
                for c in range(channels):
                    drive = (np.int64(sums[n, min(t, sums_steps - 1), i, c]) << neurons.shift) + bias[c]
                    potential = ((v[c] * neurons.decay) >> DECAY_BITS) + drive
                    largest = max(largest, max(abs(potential), abs(drive)))
                    reached = 0
                    for j in range(len(neurons.levels)):
                        reached += potential >= neurons.levels[j, c]
                    out[n, t, place, c] = reached
                    v[c] = potential - reached * neurons.reset[c]
                if membrane.size:
                    copy_row(v, membrane[n, t, place])
        peak[n, block] = largest


LEVELS_LOOPS = {np.dtype(np.int32): levels_narrow, np.dtype(np.int64): levels_any}
"""The loop of Levels by the type of their parameters."""
