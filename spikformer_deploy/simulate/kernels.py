"""Compiled loops of the engine: neuron updates, windows and the counting of messages (numba, parallel, integers only).

Arrays are (images, T, P, C), P = Y * X positions, C contiguous: the layout in which convolutions read and write.
A population that is constant over the time steps has T = 1.  reference/engine.py is the plain twin of each loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from spikformer_deploy.quantize.network import STOCK_SHIFT

Array = NDArray[Any]

BLOCK = 64
"""Positions that one task updates together over all time steps: their potentials stay in the nearest cache."""


@njit(parallel=True, cache=True, nogil=True)
def lif_halving(
    sums: Array, shift: int, threshold: Array, bias: Array, out: Array, membrane: Array, peak: Array
) -> None:
    """Programmable LIF with decay 1/2 in 32 bits: v = (v >> 1) + (sums << shift) + bias, fire at v >= threshold.

    sums       (N, T or 1, P, C) integers in any number type, |sums << shift| + |bias| < 2^30
    threshold  (C,) int32; bias (1 or P, C) int32
    membrane   (N, T, P, C) int32 to keep the potentials after the reset, or an empty array
    peak       (N, blocks) int64: largest magnitude of drive and potential met
    """
    images, steps, positions, channels = out.shape
    blocks = peak.shape[1]
    for index in prange(images * blocks):
        n, first = index // blocks, index % blocks * BLOCK
        v = np.zeros((min(BLOCK, positions - first), channels), np.int32)
        largest = np.int32(0)
        for t in range(steps):
            step = t % sums.shape[1]
            for i in range(v.shape[0]):
                p = first + i
                row = bias[p % bias.shape[0]]
                for c in range(channels):
                    drive = (np.int32(sums[n, step, p, c]) << np.int32(shift)) + row[c]
                    h = (v[i, c] >> np.int32(1)) + drive
                    largest = max(largest, max(abs(h), abs(drive)))
                    fires = h >= threshold[c]
                    out[n, t, p, c] = fires
                    v[i, c] = np.int32(0) if fires else h
            if membrane.size:
                membrane[n, t, first : first + v.shape[0]] = v
        peak[n, index % blocks] = largest


@njit(parallel=True, cache=True, nogil=True)
def lif_any(
    sums: Array,
    stock: bool,
    decay: int,
    shift: int,
    threshold: Array,
    bias: Array,
    out: Array,
    membrane: Array,
    peak: Array,
) -> None:
    """Both kinds of LIF, any decay, in 64-bit integers.

    programmable  v = (v * decay >> 12) + (sums << shift) + bias, fire at v >= threshold
    stock         v = sign(v) * (|v| * decay >> 12) + (sums << shift << 6) + (bias << 6), fire at v > threshold << 6
    Arrays as in lif_halving, threshold and bias int64.
    """
    images, steps, positions, channels = out.shape
    blocks = peak.shape[1]
    extra = STOCK_SHIFT if stock else 0
    for index in prange(images * blocks):
        n, first = index // blocks, index % blocks * BLOCK
        v = np.zeros((min(BLOCK, positions - first), channels), np.int64)
        largest = np.int64(0)
        for t in range(steps):
            step = t % sums.shape[1]
            for i in range(v.shape[0]):
                p = first + i
                for c in range(channels):
                    drive = ((np.int64(sums[n, step, p, c]) << shift) + bias[p % bias.shape[0], c]) << extra
                    old = v[i, c]
                    kept = -((-old * decay) >> 12) if stock and old < 0 else (old * decay) >> 12
                    h = kept + drive
                    largest = max(largest, max(abs(h), abs(drive)))
                    fires = h > (threshold[c] << extra) if stock else h >= threshold[c]
                    out[n, t, p, c] = fires
                    v[i, c] = 0 if fires else h
            if membrane.size:
                membrane[n, t, first : first + v.shape[0]] = v
        peak[n, index % blocks] = largest


@njit(parallel=True, cache=True, nogil=True)
def window_sum(
    sent: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], out: Array
) -> None:
    """out[m, y, x, c] += sum of sent over the window at (y, x); maps (M, Y, X, C), zero padding, out int32."""
    maps, height, width, channels = out.shape
    for index in prange(maps * height):
        m, y = index // height, index % height
        first_y = y * stride[0] - padding[0]
        for x in range(width):
            first_x = x * stride[1] - padding[1]
            for ky in range(max(0, first_y), min(sent.shape[1], first_y + kernel[0])):
                for kx in range(max(0, first_x), min(sent.shape[2], first_x + kernel[1])):
                    for c in range(channels):
                        out[m, y, x, c] += sent[m, ky, kx, c]


@njit(parallel=True, cache=True, nogil=True)
def count_messages(sent: Array, cuts: Array, messages: Array, fired: Array) -> None:
    """Non-zero outputs: messages[n, t, s, p] over the channels cuts[s]..cuts[s + 1], fired[t, p, c] over the images."""
    images, steps, slices, positions = messages.shape
    for index in prange(steps * positions):
        t, p = index // positions, index % positions
        step = t % sent.shape[1]
        for n in range(images):
            for s in range(slices):
                count = np.int32(0)
                for c in range(cuts[s], cuts[s + 1]):
                    one = np.int32(sent[n, step, p, c] != 0)
                    count += one
                    fired[t, p, c] += one
                messages[n, t, s, p] = count
