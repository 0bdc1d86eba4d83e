"""Compiled loops of the engine: neuron updates, windows and attention (numba, integers only).

Arrays are (images, T, P, C), P = Y * X positions, C contiguous: the layout in which convolutions read and write.
A population that is constant over the time steps has T = 1.  Plain twins are `step` of network/neurons.py and
`synaptic_sum` of network/synapses.py.

All loops run over tasks that write to places of their own, and release Python's lock, so that several Python threads
can run them at once; base/compiled.py says how they are compiled and where they are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.base.compiled import part, shared
from spikformer_deploy.network.neurons import DECAY_BITS

BLOCK = 64
"""Positions at most that one task updates: with more of them a few small images would leave threads without work."""


class LifParameters(NamedTuple):
    """A LIF population as its loops read it: both kinds of LIF and both comparisons are one equation.

        u = decayed(u, current) + (sums << shift)       without a current: u = sums << shift
        v = decayed(v, decay) + u + bias ;  fires where v >= fires_from ;  then v = 0, or v - threshold (soft)
        decayed(x, d) = x * d + round_up >> 12          toward_zero: sign(x) * (|x| * d >> 12)

    decay, current          numerators of a fraction of 2^12; current 0: none is kept
    fires_from, threshold   (C,) int32 for lif_halving, int64 for lif_any; the biases too
    bias                    (K, C): each different one once, as most populations have the same at every position
    bias_of                 (P,) int64: the row of `bias` of each position
    Stock neurons count in units of 2^-6: their shift, bias and thresholds are given in these.
    """

    decay: int
    current: int
    shift: int
    toward_zero: bool
    round_up: int
    soft: bool
    fires_from: Array
    threshold: Array
    bias: Array
    bias_of: Array


class StreamParameters(NamedTuple):
    """A Stream as its loop reads it: (sums + bias) >> drop, rounded to the nearest; biases as of LifParameters."""

    drop: int
    bias: Array
    bias_of: Array


class Geometry(NamedTuple):
    """A window: its size, the steps that it takes, and the border before the map; a negative one is none of the map.

    Numbers side by side, as a parallel loop takes no tuple inside a tuple.
    """

    kernel_y: int
    kernel_x: int
    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int


@shared
def lif_halving(
    sums: Array, lif: LifParameters, first: int, before: Array, out: Array, membrane: Array, peak: Array
) -> None:
    """The LIF of a Spikformer, decay 1/2 with a hard reset, in 32-bit integers: twice as many in a vector.

    sums      (N, T or 1, p, C) of p positions from `first`, integers in any type; drives stay below 2^30
    before    (N, P, C) int32 the potentials that the first step finds, or an empty array: all are at rest
    out       (N, T, P, C) uint8: the spikes of all positions, those of this call are written
    membrane  (N, T, P, C) int32 to keep the potentials after the reset, or an empty array
    peak      (N, blocks) int64: largest magnitude of drive and potential met; positions are cut into that many tasks
    """
    images, steps, _, channels = out.shape
    sums_steps = sums.shape[1]
    positions = sums.shape[2]
    blocks = peak.shape[1]
    shift = np.int32(lif.shift)
    for task in prange(images * blocks):
        n = task // blocks
        block = task % blocks
        v = np.empty(channels, np.int32)
        largest = np.int32(0)
        # one position through all steps, then the next: its potentials never leave the nearest cache
        for i in range(block * positions // blocks, (block + 1) * positions // blocks):
            place = first + i
            bias = lif.bias[lif.bias_of[place]]
            v[:] = 0
            if before.size:
                copy_row(before[n, place], v)
            for t in range(steps):
                arriving = sums[n, min(t, sums_steps - 1), i]
                spikes = out[n, t, place]
                for c in range(channels):
                    # numba's sum of two 32-bit integers has 64 bits: a cast after every operation keeps vectors narrow
                    drive = np.int32((np.int32(arriving[c]) << shift) + bias[c])
                    reached = np.int32((v[c] >> np.int32(1)) + drive)
                    fires = reached >= lif.fires_from[c]
                    spikes[c] = fires
                    v[c] = np.int32(0) if fires else reached
                    largest = np.int32(max(largest, max(np.int32(abs(reached)), np.int32(abs(drive)))))
                if membrane.size:
                    copy_row(v, membrane[n, t, place])
        peak[n, block] = largest


@shared
def lif_any(
    sums: Array, lif: LifParameters, first: int, before: Array, out: Array, membrane: Array, peak: Array
) -> None:
    """Any LIF, in 64-bit integers; arrays as in lif_halving.  A current is at rest before the first step."""
    images, steps, _, channels = out.shape
    sums_steps = sums.shape[1]
    positions = sums.shape[2]
    blocks = peak.shape[1]
    for task in prange(images * blocks):
        n = task // blocks
        block = task % blocks
        v = np.empty(channels, np.int64)
        u = np.empty(channels if lif.current else 0, np.int64)
        largest = np.int64(0)
        for i in range(block * positions // blocks, (block + 1) * positions // blocks):
            place = first + i
            bias = lif.bias[lif.bias_of[place]]
            v[:] = 0
            if before.size:
                copy_row(before[n, place], v)
            u[:] = 0
            for t in range(steps):
                for c in range(channels):
                    arriving = np.int64(sums[n, min(t, sums_steps - 1), i, c]) << lif.shift
                    if lif.current:
                        arriving += _decayed(u[c], lif.current, lif.toward_zero, 0)
                        u[c] = arriving
                        largest = max(largest, abs(arriving))
                    drive = arriving + bias[c]
                    reached = _decayed(v[c], lif.decay, lif.toward_zero, lif.round_up) + drive
                    largest = max(largest, max(abs(reached), abs(drive)))
                    fires = reached >= lif.fires_from[c]
                    out[n, t, place, c] = fires
                    reset = reached - lif.threshold[c] if lif.soft else 0
                    v[c] = reset if fires else reached
                if membrane.size:
                    copy_row(v, membrane[n, t, place])
        peak[n, block] = largest


@shared
def find_idle(
    bias: Array, bias_of: Array, forgets: bool, before: Array, sent: Array, membrane: Array, idle: Array
) -> None:
    """idle = 1 where a neuron has nothing to do in a step, else 0: see `idle` of network/neurons.py.

    bias, bias_of  as of LifParameters
    forgets        the potential before a step does not count
    before         as of lif_halving
    sent           (N, T, P, C) uint8
    membrane       (N, T, P, C) int32, after the reset
    idle           (N, T, P, C) uint8
    """
    images, steps, positions, channels = sent.shape
    for task in prange(images * positions):
        n = task // positions
        place = task % positions
        bias_here = bias[bias_of[place]]
        forgotten = np.uint8(forgets)
        # at rest all potentials are empty; a neuron with a bias is never called so
        empty_before = np.ones(channels, np.uint8)
        if before.size and not forgets:
            held = before[n, place]
            for c in range(channels):
                empty_before[c] = np.uint8(np.uint8(held[c] == 0) & np.uint8(bias_here[c] == 0))
        for t in range(steps):
            fired = sent[n, t, place]
            potential = membrane[n, t, place]
            out = idle[n, t, place]
            for c in range(channels):
                # casts, as in lif_halving
                empty = np.uint8(np.uint8(potential[c] == 0) & np.uint8(bias_here[c] == 0))
                out[c] = np.uint8(np.uint8(empty & empty_before[c]) & np.uint8(fired[c] == 0))
                empty_before[c] = np.uint8(empty | forgotten)


LIF_LOOPS = {np.dtype(np.int32): lif_halving, np.dtype(np.int64): lif_any}
"""The loop of a LIF by the type of its parameters."""


@part
def copy_row(row: Array, to: Array) -> None:
    """to[:] = row, of as many channels; what numba compiles for that takes a second longer, for its error message."""
    for c in range(row.size):
        to[c] = row[c]


@part
def _decayed(state: int, decay: int, toward_zero: bool, round_up: int) -> int:
    """state * decay / 2^12, rounded toward zero, down, or up (round_up 4095)."""
    if toward_zero and state < 0:
        return -((-state * decay) >> DECAY_BITS)
    return (state * decay + round_up) >> DECAY_BITS


@shared
def add_shifted(total: Array, part: Array, shift: int) -> None:
    """total += part << shift; (N, T, p, C) integers in any type, part with T = 1 for all steps."""
    images, steps, positions, channels = total.shape
    part_steps = part.shape[1]
    for task in prange(images * steps):
        n = task // steps
        t = task % steps
        for p in range(positions):
            row = total[n, t, p]
            more = part[n, min(t, part_steps - 1), p]
            for c in range(channels):
                row[c] += np.int64(more[c]) << shift


@shared
def send_current(sums: Array, stream: StreamParameters, first: int, out: Array, peak: Array) -> None:
    """out = what a Stream sends, at positions from `first`; sums as in lif_halving.

    out   (N, T, P, C) int32, of as many steps as sums
    peak  (N, T) int64: largest |sums + bias|
    """
    images, steps, positions, channels = sums.shape
    half = 1 << stream.drop >> 1
    for task in prange(images * steps):
        n = task // steps
        t = task % steps
        largest = np.int64(0)
        for p in range(positions):
            row = sums[n, t, p]
            offset = stream.bias[stream.bias_of[first + p]]
            sent = out[n, t, first + p]
            for c in range(channels):
                current = np.int64(row[c]) + offset[c]
                largest = max(largest, abs(current))
                sent[c] = (current + half) >> stream.drop
        peak[n, t] = largest


@shared
def fire_where_all(sums: Array, inputs: int, first: int, out: Array, peak: Array) -> None:
    """out = sums >= inputs, of positions from `first`; arrays as in send_current, out uint8."""
    images, steps, positions, channels = sums.shape
    for task in prange(images * steps):
        n = task // steps
        t = task % steps
        largest = np.int64(0)
        for p in range(positions):
            row = sums[n, t, p]
            sent = out[n, t, first + p]
            for c in range(channels):
                total = np.int64(row[c])
                largest = max(largest, abs(total))
                sent[c] = total >= inputs
        peak[n, t] = largest


@shared
def window_max(sent: Array, window: Geometry, out: Array, peak: Array) -> None:
    """out[m, y, x, c] = largest of sent over the window at (y, x); maps (M, Y, X, C), nothing beyond the border.

    out   int32
    peak  (M,) int64: largest magnitude
    """
    maps, height, width, channels = out.shape
    for m in prange(maps):
        largest = np.int64(0)
        for y in range(height):
            top = y * window.stride_y - window.padding_y
            for x in range(width):
                left = x * window.stride_x - window.padding_x
                best = out[m, y, x]
                best[:] = np.iinfo(np.int32).min
                for ky in range(max(0, top), min(sent.shape[1], top + window.kernel_y)):
                    for kx in range(max(0, left), min(sent.shape[2], left + window.kernel_x)):
                        row = sent[m, ky, kx]
                        for c in range(channels):
                            best[c] = max(best[c], np.int32(row[c]))
                for c in range(channels):
                    # in 64 bits, where the least 32-bit integer has a magnitude too
                    largest = max(largest, abs(np.int64(best[c])))
        peak[m] = largest


@shared
def window_sum(sent: Array, window: Geometry, out: Array) -> None:
    """out[m, y, x, c] += sum of sent over the window at (y, x); maps (M, Y, X, C), zero padding.

    out  uint8 where no sum exceeds 255, else int32 or int64
    """
    maps, height, width, channels = out.shape
    for task in prange(maps * height):
        m = task // height
        y = task % height
        top = y * window.stride_y - window.padding_y
        for x in range(width):
            left = x * window.stride_x - window.padding_x
            total = out[m, y, x]
            for ky in range(max(0, top), min(sent.shape[1], top + window.kernel_y)):
                for kx in range(max(0, left), min(sent.shape[2], left + window.kernel_x)):
                    row = sent[m, ky, kx]
                    for c in range(channels):
                        total[c] += row[c]


@shared
def fire_where_any(values: Array, peak: Array) -> None:
    """values (M, P, C) -> 1 where not zero, in place; peak (M,) int64 is the largest value of each map."""
    for m in prange(values.shape[0]):
        flat = values[m].reshape(-1)
        # in the narrow type of the values: more of them fit a vector
        largest = values.dtype.type(0)
        for i in range(flat.size):
            largest = max(largest, flat[i])
            flat[i] = flat[i] != 0
        peak[m] = largest


@shared
def attend(q: Array, k: Array, v: Array, heads: int, weight: int, out: Array, pairs: Array) -> None:
    """out = weight * q (k^T v), head by head: (M, P, C) messages of any integer type -> (M, P, C) int32 or int64.

    q and k have as many channels; v and out may have another number.
    pairs  (M, heads) int64: how often a channel of k and one of v sent something at one position
    Only channels that sent something cost time: rows of v are added where k is not zero, rows of k^T v where q is not.
    """
    maps, positions, channels = q.shape
    depth = channels // heads
    width = v.shape[2] // heads
    for task in prange(maps * heads):
        m = task // heads
        low = task % heads * depth
        first = task % heads * width
        table = np.zeros((depth, width), out.dtype)
        active = np.empty(depth, np.int64)
        met = 0
        for p in range(positions):
            keys = k[m, p, low : low + depth]
            values = v[m, p, first : first + width]
            count = _nonzero(keys, active)
            # where no key was sent, no value is looked at
            for c in range(width * (count > 0)):
                met += count * (values[c] != 0)
            for i in range(count):
                factor = out.dtype.type(keys[active[i]])
                row = table[active[i]]
                for c in range(width):
                    row[c] += factor * values[c]
        pairs[m, task % heads] = met
        for p in range(positions):
            queries = q[m, p, low : low + depth]
            total = out[m, p, first : first + width]
            total[:] = 0
            for i in range(_nonzero(queries, active)):
                factor = out.dtype.type(queries[active[i]]) * out.dtype.type(weight)
                row = table[active[i]]
                for c in range(width):
                    total[c] += factor * row[c]


@shared
def add_rows_of_spikes(y: Array, spikes: Array, heads: int, over_tokens: bool, out: Array) -> None:
    """out = the dual spike transformation of y (M, P', C) and spikes (M, P, D), head by head.

    out  (M, P, C') int32 or int64
    Each spike adds a row of y: over channels, what its channel of y has at all positions of y; over tokens, all
    channels of the head at the position that the spike stands for.
    """
    maps, positions, read = spikes.shape
    depth = read // heads
    width = out.shape[2] // heads
    of_head = y.shape[2] // heads
    for task in prange(maps * heads):
        m = task // heads
        head = task % heads
        values = y[m, :, head * of_head : (head + 1) * of_head]
        rows = np.empty((depth, width), out.dtype)
        for i in range(depth):
            for c in range(width):
                rows[i, c] = values[i, c] if over_tokens else values[c, i]
        active = np.empty(depth, np.int64)
        for p in range(positions):
            sent = spikes[m, p, head * depth : (head + 1) * depth]
            total = out[m, p, head * width : (head + 1) * width]
            total[:] = 0
            for i in range(_nonzero(sent, active)):
                factor = out.dtype.type(sent[active[i]])
                row = rows[active[i]]
                for c in range(width):
                    total[c] += factor * row[c]


@part
def _nonzero(values: Array, where: Array) -> int:
    """Write the indices of values that are not zero to `where`; return how many there are."""
    count = 0
    for c in range(values.size):
        # written whether or not it counts: an addition is cheaper than a branch that nobody can predict
        where[count] = c
        count += values[c] != 0
    return count


@shared
def sum_over_positions(sent: Array, out: Array) -> None:
    """out[m, c] = sum over the positions of sent (M, P, C), int64."""
    for m in prange(sent.shape[0]):
        total = out[m]
        total[:] = 0
        for p in range(sent.shape[1]):
            row = sent[m, p]
            for c in range(total.size):
                total[c] += row[c]
