"""Event-driven convolution: for every output position the weight rows of the spikes in its window are added up.

The work is one row of weights a synaptic message, as on the chip, instead of one multiplication a weight.  Rows are
int8 and are added as vectors of 16-bit integers, 256 at most before the sum moves on to fp32.  There it stays below
2^24, so every sum is exact.  A message of value n counts as n spikes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.base.compiled import inlined, part, shared
from spikformer_deploy.base.vectors import BYTE, FLOAT, HALF, WORD, address, lowest_bit, read, write
from spikformer_deploy.executors.fast.kernels import Geometry
from spikformer_deploy.network.synapses import Conv

MULTIPLE = 16
"""Output channels of the narrowest vectors; weights are padded to a multiple of it."""
CHUNK = 256
"""Rows of int8 that a sum of 16 bits always holds."""
POSITIONS = 128
"""Output positions about that a task works on: their lists of spikes stay in the nearest caches."""
INDEX = np.uint16
"""Of a row of weights: kernel positions * input channels must not be more than this counts."""


class Band(NamedTuple):
    """Output rows of a map from `low` to `high`, `across` positions in each; their spikes stand in rows from `top`."""

    low: int
    high: int
    across: int
    top: int


def event_convolution(conv: Conv, channels: int) -> Callable[[Array, int, int], Array] | None:
    """The function from uint8 messages (M, Y, X, C_in), first row, end row to fp32 sums (M, end - first, X', C_out).

    None where the weights are wider than int8, in groups, or have too many rows.
    """
    outputs, _, height, width = conv.weight.shape
    rows = height * width * channels
    if conv.weight.dtype != np.int8 or conv.groups != 1 or rows > np.iinfo(INDEX).max:
        return None
    padded = -(-outputs // MULTIPLE) * MULTIPLE
    weights = np.zeros((rows, padded), np.int8)
    # the weights that one spike adds stand side by side
    weights[:, :outputs] = conv.weight.transpose(2, 3, 1, 0).reshape(rows, outputs)
    geometry = Geometry(height, width, *conv.stride, *conv.padding)

    def convolve(maps: Array, first: int, end: int) -> Array:
        across = (maps.shape[2] + 2 * conv.padding[1] - width) // conv.stride[1] + 1
        out = np.empty((len(maps), end - first, across, padded), np.float32)
        gather(maps, weights, geometry, first, out)
        return out if padded == outputs else np.ascontiguousarray(out[..., :outputs])

    return convolve


@shared
def gather(maps: Array, weights: Array, geometry: Geometry, first: int, out: Array) -> None:
    """Sums of weight rows over the spikes in the window of each output position.

    maps     (M, Y, X, C) uint8
    weights  (kernel positions * C, C_out) int8
    out      (M, R, X', C_out) fp32, rows from `first`; C_out a multiple of MULTIPLE
    """
    count, height, _, _ = maps.shape
    rows, across, outputs = out.shape[1:]
    rows_at_once = max(1, POSITIONS // across)
    bands = (rows + rows_at_once - 1) // rows_at_once
    # a product of matrices: each position reads itself
    identity = geometry == (1, 1, 1, 1, 0, 0)
    for task in prange(count * bands):
        image = task // bands
        low = task % bands * rows_at_once
        high = min(low + rows_at_once, rows)
        top = max(0, (first + low) * geometry.stride_y - geometry.padding_y)
        bottom = min(height, (first + high - 1) * geometry.stride_y - geometry.padding_y + geometry.kernel_y)
        spikes, starts = _spikes(maps[image, top : max(top, bottom)])
        if not identity:
            band = Band(first + low, first + high, across, top)
            spikes, starts = _windows(spikes, starts, maps.shape[1:], geometry, band)
        _add_rows(weights, spikes, starts, address(out[image, low:high]), outputs)


@part
def _spikes(maps: Array) -> tuple[Array, Array]:
    """(channels of all spikes, position by position; (positions + 1,) where each position's start)."""
    channels = maps.shape[2]
    positions = maps.shape[0] * maps.shape[1]
    flat = maps.reshape(-1)
    total = 0
    largest = np.uint8(0)
    for value in flat:
        total += value
        largest = max(largest, value)
    spikes = np.empty(total, INDEX)
    starts = np.empty(positions + 1, np.int64)
    n = 0
    wide = channels - channels % 64
    for position in range(positions):
        starts[position] = n
        base = position * channels
        for c in range(0, wide, 64):
            # most neurons are silent: one comparison passes over 64 of them, and only bits that are set take time
            mask = _non_zero(address(flat) + base + c)
            while mask:
                channel = c + lowest_bit(mask)  # type: ignore  # numba adds the first argument
                mask &= mask - np.uint64(1)
                spikes[n] = channel
                n += 1
                if largest > 1:
                    for _ in range(flat[base + channel] - 1):
                        spikes[n] = channel
                        n += 1
        for c in range(wide, channels):
            for _ in range(flat[base + c]):
                spikes[n] = c
                n += 1
    starts[positions] = n
    return spikes, starts


@part
def _windows(
    spikes: Array, starts: Array, shape: tuple[int, int, int], geometry: Geometry, band: Band
) -> tuple[Array, Array]:
    """The same for the window of each output position of a band: rows of weights instead of channels.

    shape  (Y, X, C) of the map that the spikes are of
    """
    height, width, channels = shape
    positions = (band.high - band.low) * band.across
    rows = np.empty(len(spikes) * geometry.kernel_y * geometry.kernel_x, INDEX)
    first = np.empty(positions + 1, np.int64)
    n = 0
    for position in range(positions):
        first[position] = n
        y = (band.low + position // band.across) * geometry.stride_y - geometry.padding_y
        x = position % band.across * geometry.stride_x - geometry.padding_x
        for i in range(max(0, -y), min(geometry.kernel_y, height - y)):
            for j in range(max(0, -x), min(geometry.kernel_x, width - x)):
                source = (y + i - band.top) * width + x + j
                offset = INDEX((i * geometry.kernel_x + j) * channels)
                for k in range(starts[source], starts[source + 1]):
                    rows[n] = spikes[k] + offset
                    n += 1
    first[positions] = n
    return rows, first


@part
def _add_rows(weights: Array, rows: Array, starts: Array, target: np.int64, outputs: int) -> None:
    """Write the sum of each position's rows to (positions, outputs) of fp32 at the address `target`.

    By vectors of 128, 64, 32 and 16 output channels, widest first.
    """
    at = 0
    while outputs - at >= 128:
        _add_columns(weights, rows, starts, (target, outputs, at), 128)
        at += 128
    if outputs - at >= 64:
        _add_columns(weights, rows, starts, (target, outputs, at), 64)
        at += 64
    if outputs - at >= 32:
        _add_columns(weights, rows, starts, (target, outputs, at), 32)
        at += 32
    if outputs - at >= 16:
        _add_columns(weights, rows, starts, (target, outputs, at), 16)


@inlined
def _add_columns(weights: Array, rows: Array, starts: Array, place: tuple[np.int64, int, int], lanes: int) -> None:
    """_add_rows of `lanes` output channels, a constant of the caller; place: (target, outputs, first channel)."""
    target, outputs, at = place
    for position in range(len(starts) - 1):
        start = starts[position]
        end = starts[position + 1]
        to = target + 4 * (position * outputs + at)
        fresh = True
        # once at least: a position without spikes has sums too
        while fresh or start < end:
            size = min(end - start, CHUNK)
            _sum_rows(address(weights) + at, outputs, address(rows) + 2 * start, size, to, fresh, lanes)
            start += size
            fresh = False


def _typed_sum(
    typing: Any, source: Any, width: Any, index: Any, count: Any, target: Any, fresh: Any, lanes: Any
) -> Any:
    """Add rows of `lanes` weights in registers, which numba's own loops would not keep them in.

    Addresses of the weights, `width` bytes a row, of `count` row numbers and of fp32 sums, which are set (fresh) or
    added to.
    """
    if not isinstance(lanes, types.IntegerLiteral):
        return None
    word = types.int64
    return types.void(word, word, word, word, word, types.boolean, lanes), _emit_sum(lanes.literal_value)


_sum_rows: Any = intrinsic(prefer_literal=True)(_typed_sum)


def _emit_sum(lanes: int) -> Callable[..., Any]:
    """What _sum_rows does, as instructions:

    total = 0                                   16 bits a lane
    for i in range(count): total += weights[row[i]]
    out = total, or out + total                 fp32
    """
    row_type = ir.VectorType(BYTE, lanes)
    sum_type = ir.VectorType(HALF, lanes)
    out_type = ir.VectorType(FLOAT, lanes)
    nothing = ir.Constant(sum_type, [0] * lanes)

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source, width, index, count, target, fresh, _ = arguments
        before = build.block
        loop = build.append_basic_block("row")
        done = build.append_basic_block("sum")
        build.cbranch(build.icmp_signed(">", count, WORD(0)), loop, done)

        build.position_at_end(loop)
        i = build.phi(WORD)
        total = build.phi(sum_type)
        number = read(build, build.add(index, build.shl(i, WORD(1))), HALF)
        row = read(build, build.add(source, build.mul(build.zext(number, WORD), width)), row_type)
        added = build.add(total, build.sext(row, sum_type))
        following = build.add(i, WORD(1))
        i.add_incoming(WORD(0), before)
        i.add_incoming(following, loop)
        total.add_incoming(nothing, before)
        total.add_incoming(added, loop)
        build.cbranch(build.icmp_signed("<", following, count), loop, done)

        build.position_at_end(done)
        final = build.phi(sum_type)
        final.add_incoming(nothing, before)
        final.add_incoming(added, loop)
        real = build.sitofp(final, out_type)
        with build.if_else(fresh) as (set_it, add_it):
            with set_it:
                write(build, real, target)
            with add_it:
                write(build, build.fadd(read(build, target, out_type), real), target)
        return context.get_dummy_value()

    return emit


def _typed_non_zero(typing: Any, place: Any) -> Any:
    """A bit for each of 64 bytes from an address on: set where the byte is not zero."""

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(BYTE, 64)
        differs = build.icmp_unsigned("!=", read(build, arguments[0], kind), ir.Constant(kind, [0] * 64))
        return build.bitcast(differs, WORD)

    return types.uint64(types.int64), emit


_non_zero: Any = intrinsic(_typed_non_zero)
