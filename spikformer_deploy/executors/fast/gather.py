"""Event-driven convolution: for every output position the weight rows of the spikes in its window are added up.

The work is one row of weights a synaptic message, as on the chip, instead of one multiplication a weight.  Rows are
int8 and are added as vectors of 16-bit integers, 256 at most before the sum moves on to fp32.  There it stays below
2^24, so every sum is exact.  A message of value n counts as n spikes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.network.synapses import Conv

LANES = (128, 64, 32, 16)
"""Output channels that are added at once, widest first; weights are padded to a multiple of the last."""
CHUNK = 256
"""Rows of int8 that a sum of 16 bits always holds."""
POSITIONS = 128
"""Output positions about that a task works on: their lists of spikes stay in the nearest caches."""
INDEX = np.uint16
"""Of a row of weights: kernel positions * input channels must not be more than this counts."""


def event_convolution(conv: Conv, channels: int) -> Callable[[Array, int, int], Array] | None:
    """The function from uint8 messages (M, Y, X, C_in), first row, end row to fp32 sums (M, end - first, X', C_out).

    None where the weights are wider than int8, in groups, or have too many rows.
    """
    outputs, _, height, width = conv.weight.shape
    rows = height * width * channels
    if conv.weight.dtype != np.int8 or conv.groups != 1 or rows > np.iinfo(INDEX).max:
        return None
    padded = -(-outputs // LANES[-1]) * LANES[-1]
    weights = np.zeros((rows, padded), np.int8)
    weights[:, :outputs] = conv.weight.transpose(2, 3, 1, 0).reshape(rows, outputs)
    geometry = np.array([(height, width), conv.stride, conv.padding], np.int64)

    def convolve(maps: Array, first: int, end: int) -> Array:
        across = (maps.shape[2] + 2 * conv.padding[1] - width) // conv.stride[1] + 1
        out = np.empty((len(maps), end - first, across, padded), np.float32)
        gather(maps, weights, geometry, first, out)
        return out if padded == outputs else np.ascontiguousarray(out[..., :outputs])

    return convolve


@njit(parallel=True, cache=True, nogil=True)
def gather(maps: Array, weights: Array, geometry: Array, first: int, out: Array) -> None:
    """Sums of weight rows over the spikes in the window of each output position.

    maps      (M, Y, X, C) uint8; weights (kernel positions * C, C_out) int8
    geometry  ((height, width) of the kernel, stride, padding)
    out       (M, R, X', C_out) fp32, rows from `first`; C_out a multiple of LANES[-1]
    """
    count, height, _, _ = maps.shape
    rows, across, outputs = out.shape[1:]
    band = max(1, POSITIONS // across)
    bands = (rows + band - 1) // band
    for task in prange(count * bands):
        image, low = task // bands, task % bands * band
        high = min(low + band, rows)
        top = max(0, (first + low) * geometry[1, 0] - geometry[2, 0])
        bottom = min(height, (first + high - 1) * geometry[1, 0] - geometry[2, 0] + geometry[0, 0])
        spikes, starts = _spikes(maps[image, top : max(top, bottom)])
        if geometry[0, 0] * geometry[0, 1] > 1 or geometry[1].max() > 1 or geometry[2].max() > 0:
            spikes, starts = _windows(
                spikes, starts, maps.shape[1:], geometry, (first + low, first + high), top, across
            )
        target = out[image, low:high].ctypes.data
        _add_rows(weights, spikes, starts, target, outputs)


@njit(cache=True, nogil=True)
def _spikes(maps: Array) -> tuple[Array, Array]:
    """(channels of all spikes, position by position; (positions + 1,) where each position's start)."""
    channels = maps.shape[2]
    positions = maps.shape[0] * maps.shape[1]
    flat = maps.reshape(-1)
    total, largest = 0, np.uint8(0)
    for value in flat:
        total += value
        largest = max(largest, value)
    found, starts, n = np.empty(total, INDEX), np.empty(positions + 1, np.int64), 0
    wide = channels - channels % 64
    for position in range(positions):
        starts[position] = n
        base = position * channels
        for c in range(0, wide, 64):
            mask = _non_zero(flat.ctypes.data + base + c)  # type: ignore  # numba adds the first one
            while mask:
                channel = c + _lowest_bit(mask)
                mask &= mask - np.uint64(1)
                found[n] = channel
                n += 1
                if largest > 1:
                    for _ in range(flat[base + channel] - 1):
                        found[n] = channel
                        n += 1
        for c in range(wide, channels):
            for _ in range(flat[base + c]):
                found[n] = c
                n += 1
    starts[positions] = n
    return found, starts


@njit(cache=True, nogil=True)
def _windows(
    spikes: Array,
    starts: Array,
    shape: tuple[int, int, int],
    geometry: Array,
    rows: tuple[int, int],
    top: int,
    across: int,
) -> tuple[Array, Array]:
    """The same for the window of each output position of some rows: rows of weights instead of channels."""
    height, width, channels = shape
    positions = (rows[1] - rows[0]) * across
    found = np.empty(len(spikes) * geometry[0, 0] * geometry[0, 1], INDEX)
    first, n = np.empty(positions + 1, np.int64), 0
    for position in range(positions):
        first[position] = n
        y = (rows[0] + position // across) * geometry[1, 0] - geometry[2, 0]
        x = position % across * geometry[1, 1] - geometry[2, 1]
        for i in range(max(0, -y), min(geometry[0, 0], height - y)):
            for j in range(max(0, -x), min(geometry[0, 1], width - x)):
                source = (y + i - top) * width + x + j
                offset = INDEX((i * geometry[0, 1] + j) * channels)
                for k in range(starts[source], starts[source + 1]):
                    found[n] = spikes[k] + offset
                    n += 1
    first[positions] = n
    return found, first


@njit(cache=True, nogil=True)
def _add_rows(weights: Array, rows: Array, starts: Array, target: int, outputs: int) -> None:
    """Write the sum of each position's rows to (positions, outputs) of fp32 at the address `target`."""
    at = 0
    while at < outputs:
        left = outputs - at
        lanes = 128 if left >= 128 else 64 if left >= 64 else 32 if left >= 32 else 16
        source = weights.ctypes.data + at
        for position in range(len(starts) - 1):
            start, end, to = starts[position], starts[position + 1], target + 4 * (position * outputs + at)
            fresh = True
            while fresh or start < end:
                size = min(end - start, CHUNK)
                index = rows.ctypes.data + 2 * start
                if lanes == 128:
                    _sum_128(source, outputs, index, size, to, fresh)
                elif lanes == 64:
                    _sum_64(source, outputs, index, size, to, fresh)
                elif lanes == 32:
                    _sum_32(source, outputs, index, size, to, fresh)
                else:
                    _sum_16(source, outputs, index, size, to, fresh)
                start += size
                fresh = False
        at += lanes


def _row_sum(lanes: int) -> Any:
    """A function that adds rows of `lanes` weights in registers, which numba's own loops would not keep them in."""

    @intrinsic
    def add(typing: Any, source: Any, width: Any, index: Any, count: Any, target: Any, fresh: Any) -> Any:
        """Addresses of weights, of `count` row numbers and of fp32 sums, which are set (fresh) or added to."""
        word = types.int64
        return types.void(word, word, word, word, word, types.boolean), _emit_sum(lanes)

    return add


def _emit_sum(lanes: int) -> Callable[..., Any]:
    word, half = ir.IntType(64), ir.IntType(16)
    row_type, sum_type = ir.VectorType(ir.IntType(8), lanes), ir.VectorType(half, lanes)
    out_type = ir.VectorType(ir.FloatType(), lanes)
    nothing = ir.Constant(sum_type, [0] * lanes)

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, width, index, count, target, fresh = arguments
        rows = build.inttoptr(index, half.as_pointer())
        out = build.inttoptr(target, out_type.as_pointer())
        before = build.block
        loop, done = build.append_basic_block("row"), build.append_basic_block("sum")
        build.cbranch(build.icmp_signed(">", count, word(0)), loop, done)

        build.position_at_end(loop)
        i, total = build.phi(word), build.phi(sum_type)
        row = build.zext(build.load(build.gep(rows, [i])), word)
        place = build.inttoptr(build.add(source, build.mul(row, width)), row_type.as_pointer())
        added = build.add(total, build.sext(build.load(place, align=1), sum_type))
        following = build.add(i, word(1))
        for phi, start, step in ((i, word(0), following), (total, nothing, added)):
            phi.add_incoming(start, before)
            phi.add_incoming(step, loop)
        build.cbranch(build.icmp_signed("<", following, count), loop, done)

        build.position_at_end(done)
        final = build.phi(sum_type)
        final.add_incoming(nothing, before)
        final.add_incoming(added, loop)
        real = build.sitofp(final, out_type)
        with build.if_else(fresh) as (set_it, add_it):
            with set_it:
                build.store(real, out, align=4)
            with add_it:
                build.store(build.fadd(build.load(out, align=4), real), out, align=4)
        return context.get_dummy_value()

    return emit


_sum_128, _sum_64, _sum_32, _sum_16 = (_row_sum(lanes) for lanes in LANES)


@intrinsic
def _non_zero(typing: Any, address: Any) -> Any:
    """A bit for each of 64 bytes: set where the byte is not zero."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 64)
        found = build.load(build.inttoptr(arguments[0], kind.as_pointer()), align=1)
        return build.bitcast(build.icmp_unsigned("!=", found, ir.Constant(kind, [0] * 64)), ir.IntType(64))

    return types.uint64(types.int64), emit


@intrinsic
def _lowest_bit(typing: Any, mask: Any) -> Any:
    """The number of the lowest set bit; the mask must not be zero."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return build.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), emit
