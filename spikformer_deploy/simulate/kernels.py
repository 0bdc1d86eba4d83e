"""Compiled loops of the engine: neuron updates, windows and the counting of messages (numba, parallel, integers only).

Arrays are (images, T, C, P) with P = Y * X positions, contiguous.  reference/engine.py is the plain twin of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from spikformer_deploy.quantize.network import STOCK_SHIFT

Array = NDArray[Any]


@njit(parallel=True, cache=True, nogil=True)
def lif_programmable(
    sums: Array, decay: int, shift: int, threshold: Array, bias: Array, out: Array, membrane: Array, peak: Array
) -> None:
    """out[n, t, c, p] = 1 where v = (v * decay >> 12) + (sums << shift) + bias reaches the threshold; then v = 0.

    sums      (N, T or 1, C, P) integers in any number type; one step serves all T where the input is constant
    bias      (C, 1) or (C, P) int64; threshold (C,) int64
    membrane  (N, T, C, P) int32 to keep the potentials after the reset, or an empty array
    peak      (N, C) int64: largest magnitude of drive and potential met
    """
    images, steps, channels, positions = out.shape
    for index in prange(images * channels):
        n, c = index // channels, index % channels
        v = np.zeros(positions, np.int64)
        largest = np.int64(0)
        for t in range(steps):
            step = t % sums.shape[1]
            for p in range(positions):
                drive = (np.int64(sums[n, step, c, p]) << shift) + bias[c, p % bias.shape[1]]
                h = ((v[p] * decay) >> 12) + drive
                largest = max(largest, abs(h), abs(drive))
                fires = h >= threshold[c]
                out[n, t, c, p] = fires
                v[p] = 0 if fires else h
            if membrane.size:
                membrane[n, t, c, :] = v
        peak[n, c] = largest


@njit(parallel=True, cache=True, nogil=True)
def lif_stock(
    sums: Array, decay: int, shift: int, threshold: Array, bias: Array, out: Array, membrane: Array, peak: Array
) -> None:
    """lava.proc.lif's rule: decay toward zero, a strict comparison, everything << 6.  Arrays as in lif_programmable."""
    images, steps, channels, positions = out.shape
    for index in prange(images * channels):
        n, c = index // channels, index % channels
        v = np.zeros(positions, np.int64)
        largest = np.int64(0)
        limit = threshold[c] << STOCK_SHIFT
        for t in range(steps):
            step = t % sums.shape[1]
            for p in range(positions):
                drive = (np.int64(sums[n, step, c, p]) << (shift + STOCK_SHIFT)) + (
                    bias[c, p % bias.shape[1]] << STOCK_SHIFT
                )
                kept = (abs(v[p]) * decay) >> 12
                h = (kept if v[p] >= 0 else -kept) + drive
                largest = max(largest, abs(h), abs(drive))
                fires = h > limit
                out[n, t, c, p] = fires
                v[p] = 0 if fires else h
            if membrane.size:
                membrane[n, t, c, :] = v
        peak[n, c] = largest


@njit(parallel=True, cache=True, nogil=True)
def window_sum(
    sent: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], out: Array
) -> None:
    """out[m, y, x] += sum of sent over the window at (y, x); maps (M, Y, X), zero padding."""
    maps, height, width = out.shape
    for m in prange(maps):
        for y in range(height):
            first_y = y * stride[0] - padding[0]
            for x in range(width):
                first_x = x * stride[1] - padding[1]
                total = np.int32(0)
                for ky in range(max(0, first_y), min(sent.shape[1], first_y + kernel[0])):
                    for kx in range(max(0, first_x), min(sent.shape[2], first_x + kernel[1])):
                        total += sent[m, ky, kx]
                out[m, y, x] += total


@njit(parallel=True, cache=True, nogil=True)
def count_messages(sent: Array, cuts: Array, messages: Array, fired: Array) -> None:
    """Non-zero outputs: messages[n, t, s, p] over the channels cuts[s]..cuts[s + 1], fired[t, c, p] over the images.

    sent (N, T or 1, C, P): one step serves all T where the input is constant
    """
    images, steps, slices, positions = messages.shape
    for index in prange(steps * slices):
        t, s = index // slices, index % slices
        step = t % sent.shape[1]
        for n in range(images):
            for c in range(cuts[s], cuts[s + 1]):
                for p in range(positions):
                    one = sent[n, step, c, p] != 0
                    messages[n, t, s, p] += one
                    fired[t, c, p] += one
