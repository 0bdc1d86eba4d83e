"""Compiled loops of the engine: neuron updates, windows and attention (numba, integers only).

Arrays are (images, T, P, C), P = Y * X positions, C contiguous: the layout in which convolutions read and write.
A population that is constant over the time steps has T = 1.  executors/reference.py is the plain twin of each loop.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.network.neurons import STOCK_SHIFT

BLOCK = 64
"""Positions at most that one task updates over all time steps: their potentials stay in the nearest cache."""


@njit(parallel=True, cache=True, nogil=True)
def lif_any(
    sums: Array,
    stock: bool,
    decay: int,
    current: int,
    shift: int,
    threshold: Array,
    bias: Array,
    bias_of: Array,
    out: Array,
    first: int,
    membrane: Array,
    peak: Array,
    soft: bool,
    strict: bool,
) -> None:
    """Both kinds of LIF, any decay, in 64-bit integers; after a spike v is 0, or v - threshold (soft).

    programmable  v = (v * decay >> 12) + (sums << shift) + bias, fire at v >= threshold
    strict        v = (v * decay + 4095 >> 12) + (sums << shift) + bias, fire at v > threshold
    stock         u = sign(u) * (|u| * current >> 12) + (sums << shift << 6)
                  v = sign(v) * (|v| * decay >> 12) + u + (bias << 6), fire at v > threshold << 6
    Arrays as in halving.lif_halving, threshold and bias int64.
    """
    images, steps, _, channels = out.shape
    given, positions = sums.shape[1], sums.shape[2]
    blocks = peak.shape[1]
    extra = STOCK_SHIFT if stock else 0
    above, round_up = stock or strict, 4095 if strict else 0
    for index in prange(images * blocks):
        n, start = index // blocks, index % blocks * positions // blocks
        size = (index % blocks + 1) * positions // blocks - start
        v = np.zeros((size, channels), np.int64)
        u = np.zeros((size if current else 0, channels), np.int64)
        largest = np.int64(0)
        for t in range(steps):
            step = min(t, given - 1)
            for i in range(size):
                place = first + start + i
                for c in range(channels):
                    total = np.int64(sums[n, step, start + i, c])
                    drive = ((total << shift) + bias[bias_of[place], c]) << extra
                    if current:
                        before = u[i, c]
                        carried = -((-before * current) >> 12) if before < 0 else (before * current) >> 12
                        u[i, c] = carried + (total << shift << extra)
                        drive += carried
                        largest = max(largest, abs(u[i, c]))
                    old = v[i, c]
                    kept = -((-old * decay) >> 12) if stock and old < 0 else (old * decay + round_up) >> 12
                    h = kept + drive
                    largest = max(largest, max(abs(h), abs(drive)))
                    fires = h > (threshold[c] << extra) if above else h >= threshold[c]
                    out[n, t, place, c] = fires
                    v[i, c] = (h - threshold[c] if soft else 0) if fires else h
            if membrane.size:
                membrane[n, t, first + start : first + start + size] = v
        peak[n, index % blocks] = largest


@njit(parallel=True, cache=True, nogil=True)
def add_shifted(total: Array, part: Array, shift: int) -> None:
    """total += part << shift; (N, T, p, C) integers in any type, part with T = 1 for all steps."""
    images, steps, positions, channels = total.shape
    given = part.shape[1]
    for index in prange(images * steps):
        n, t = index // steps, index % steps
        for p in range(positions):
            row, more = total[n, t, p], part[n, min(t, given - 1), p]
            for c in range(channels):
                row[c] += np.int64(more[c]) << shift


@njit(parallel=True, cache=True, nogil=True)
def send_current(sums: Array, bias: Array, bias_of: Array, drop: int, out: Array, first: int, peak: Array) -> None:
    """out = (sums + bias) >> drop, rounded to the nearest, of positions from `first`; arrays as in lif_any.

    out  (N, T, P, C) int32, of as many steps as sums; peak (N, T) int64: largest |sums + bias|
    """
    images, steps, positions, channels = sums.shape
    half = 1 << drop >> 1
    for index in prange(images * steps):
        n, t = index // steps, index % steps
        largest = np.int64(0)
        for p in range(positions):
            row, offset, sent = sums[n, t, p], bias[bias_of[first + p]], out[n, t, first + p]
            for c in range(channels):
                current = np.int64(row[c]) + offset[c]
                largest = max(largest, abs(current))
                sent[c] = (current + half) >> drop
        peak[n, t] = largest


@njit(parallel=True, cache=True, nogil=True)
def fire_where_all(sums: Array, inputs: int, out: Array, first: int, peak: Array) -> None:
    """out = sums >= inputs, of positions from `first`; arrays as in send_current, out uint8."""
    images, steps, positions, channels = sums.shape
    for index in prange(images * steps):
        n, t = index // steps, index % steps
        largest = np.int64(0)
        for p in range(positions):
            row, sent = sums[n, t, p], out[n, t, first + p]
            for c in range(channels):
                total = np.int64(row[c])
                largest = max(largest, abs(total))
                sent[c] = total >= inputs
        peak[n, t] = largest


@njit(parallel=True, cache=True, nogil=True)
def window_max(
    sent: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], out: Array, peak: Array
) -> None:
    """out[m, y, x, c] = largest of sent over the window at (y, x); maps (M, Y, X, C), nothing beyond the border.

    peak  (M,) int64: largest magnitude
    """
    maps, height, width, channels = out.shape
    for m in prange(maps):
        largest = np.int64(0)
        for y in range(height):
            first_y = y * stride[0] - padding[0]
            for x in range(width):
                first_x = x * stride[1] - padding[1]
                best = out[m, y, x]
                best[:] = np.iinfo(np.int32).min
                for ky in range(max(0, first_y), min(sent.shape[1], first_y + kernel[0])):
                    for kx in range(max(0, first_x), min(sent.shape[2], first_x + kernel[1])):
                        row = sent[m, ky, kx]
                        for c in range(channels):
                            best[c] = max(best[c], np.int32(row[c]))
                for c in range(channels):
                    largest = max(largest, abs(np.int64(best[c])))
        peak[m] = largest


@njit(parallel=True, cache=True, nogil=True)
def window_sum(
    sent: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], out: Array
) -> None:
    """out[m, y, x, c] += sum of sent over the window at (y, x); maps (M, Y, X, C), zero padding.

    out  uint8 where no sum exceeds 255, else int32
    """
    maps, height, width, channels = out.shape
    for index in prange(maps * height):
        m, y = index // height, index % height
        first_y = y * stride[0] - padding[0]
        for x in range(width):
            first_x = x * stride[1] - padding[1]
            total = out[m, y, x]
            for ky in range(max(0, first_y), min(sent.shape[1], first_y + kernel[0])):
                for kx in range(max(0, first_x), min(sent.shape[2], first_x + kernel[1])):
                    row = sent[m, ky, kx]
                    for c in range(channels):
                        total[c] += row[c]


@njit(parallel=True, cache=True, nogil=True)
def fire_where_any(values: Array, peak: Array) -> None:
    """values (M, P, C) -> 1 where not zero, in place; peak (M,) int64 is the largest value of each map."""
    for m in prange(values.shape[0]):
        flat = values[m].reshape(-1)
        largest = values.dtype.type(0)
        for i in range(flat.size):
            largest = max(largest, flat[i])
            flat[i] = flat[i] != 0
        peak[m] = largest


@njit(parallel=True, cache=True, nogil=True)
def attend(q: Array, k: Array, v: Array, heads: int, weight: int, out: Array, pairs: Array) -> None:
    """out = weight * q (k^T v), head by head: (M, P, C) messages of any integer type -> (M, P, C) int32 or int64.

    pairs  (M, heads) int64: how often a channel of k and one of v sent something at one position
    Only channels that sent something cost time: rows of v are added where k is not zero, rows of k^T v where q is not.
    """
    maps, positions, channels = q.shape
    depth = channels // heads
    for index in prange(maps * heads):
        m, low = index // heads, index % heads * depth
        table = np.zeros((depth, depth), out.dtype)
        active = np.empty(depth, np.int64)
        met = 0
        for p in range(positions):
            keys, values = k[m, p, low : low + depth], v[m, p, low : low + depth]
            count = _nonzero(keys, active)
            for c in range(depth * (count > 0)):
                met += count * (values[c] != 0)
            for i in range(count):
                factor, row = out.dtype.type(keys[active[i]]), table[active[i]]
                for c in range(depth):
                    row[c] += factor * values[c]
        pairs[m, index % heads] = met
        for p in range(positions):
            queries, total = q[m, p, low : low + depth], out[m, p, low : low + depth]
            total[:] = 0
            for i in range(_nonzero(queries, active)):
                factor, row = out.dtype.type(queries[active[i]]) * out.dtype.type(weight), table[active[i]]
                for c in range(depth):
                    total[c] += factor * row[c]


@njit(cache=True, nogil=True)
def _nonzero(values: Array, where: Array) -> int:
    """Write the indices of values that are not zero to `where`; return how many there are."""
    count = 0
    for c in range(values.size):
        where[count] = c
        count += values[c] != 0
    return count


@njit(parallel=True, cache=True, nogil=True)
def sum_over_positions(sent: Array, out: Array) -> None:
    """out[m, c] = sum over the positions of sent (M, P, C), int64."""
    for m in prange(sent.shape[0]):
        total = np.zeros(sent.shape[2], np.int64)
        for p in range(sent.shape[1]):
            row = sent[m, p]
            for c in range(total.size):
                total[c] += row[c]
        out[m] = total
