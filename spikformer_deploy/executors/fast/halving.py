"""The neuron of a Spikformer, tau = 2 in 32 bits, as a vector loop: potentials stay in registers over all time steps.

numba's own loop over channels reaches a third of this speed: it stores every potential at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.base.vectors import address, read, splat, write

LANES = (64, 16)
"""Channels that are updated at once, widest first; the rest of them go one by one."""


@njit(parallel=True, cache=True, nogil=True)
def lif_halving(
    sums: Array,
    shift: int,
    threshold: Array,
    bias: Array,
    bias_of: Array,
    out: Array,
    first: int,
    membrane: Array,
    peak: Array,
) -> None:
    """Programmable LIF with decay 1/2 in 32 bits: v = (v >> 1) + (sums << shift) + bias, fire at v >= threshold.

    sums       (N, T or 1, p, C) of p positions from `first`, integers in any type, |sums << shift| + |bias| < 2^30
    threshold  (C,) int32; bias (K, C) int32, its row at position p is bias_of[p]
    out        (N, T, P, C) uint8: the spikes of all positions, those of this call are written
    membrane   (N, T, P, C) int32 to keep the potentials after the reset, or an empty array
    peak       (N, blocks) int64: largest magnitude of drive and potential met; positions are cut into so many tasks
    """
    images, steps, _, channels = out.shape
    positions, blocks = sums.shape[2], peak.shape[1]
    wide, narrow = channels - channels % 64, channels - channels % 16
    # bytes from one time step to the next
    along = np.array([sums.strides[1] * (sums.shape[1] > 1), out.strides[1], 0], np.int64)
    if membrane.size:
        along[2] = membrane.strides[1]
    for index in prange(images * blocks):
        n, block = index // blocks, index % blocks
        largest = np.zeros(64, np.int32)
        for i in range(block * positions // blocks, (block + 1) * positions // blocks):
            offset, place = bias[bias_of[first + i]], first + i
            source, target = address(sums[n, 0, i]), address(out[n, 0, place])
            kept = address(membrane[n, 0, place]) if membrane.size else 0
            parameters = (address(offset), address(threshold))
            fixed = (steps, shift, address(along), address(largest))
            for c in range(0, wide, 64):
                addresses = (source + c * sums.itemsize, target + c, kept + 4 * c if kept else 0)
                _update_64(sums, addresses, (parameters[0] + 4 * c, parameters[1] + 4 * c), fixed)
            for c in range(wide, narrow, 16):
                addresses = (source + c * sums.itemsize, target + c, kept + 4 * c if kept else 0)
                _update_16(sums, addresses, (parameters[0] + 4 * c, parameters[1] + 4 * c), fixed)
            for c in range(narrow, channels):
                state = np.int32(0)
                for t in range(steps):
                    drive = (np.int32(sums[n, min(t, sums.shape[1] - 1), i, c]) << np.int32(shift)) + offset[c]
                    state = (state >> np.int32(1)) + drive
                    largest[0] = max(largest[0], max(abs(state), abs(drive)))
                    fires = state >= threshold[c]
                    out[n, t, place, c] = fires
                    state = np.int32(0) if fires else state
                    if membrane.size:
                        membrane[n, t, place, c] = state
        peak[n, block] = largest.max()


def _update(lanes: int) -> Any:
    """A function that runs `lanes` neurons of one position through all time steps."""

    @intrinsic
    def update(typing: Any, sums: Any, addresses: Any, parameters: Any, fixed: Any) -> Any:
        """Addresses of sums, spikes and potentials (0: not kept) of the first step; of bias and threshold; and
        (steps, shift, address of the three strides, address of the largest magnitudes, one a lane).
        """
        numbers = (types.UniTuple(types.int64, count) for count in (3, 2, 4))
        return types.void(sums, *numbers), _emit(lanes, sums.dtype)

    return update


def _emit(lanes: int, dtype: Any) -> Callable[..., Any]:
    word, single = ir.IntType(64), ir.IntType(32)
    vector = ir.VectorType(single, lanes)
    spike_type = ir.VectorType(ir.IntType(8), lanes)

    def emit(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        _, addresses, parameters, fixed = arguments
        source, target, kept = (build.extract_value(addresses, i) for i in range(3))
        steps, shift, strides, peaks = (build.extract_value(fixed, i) for i in range(4))

        def larger(a: ir.Value, b: ir.Value) -> ir.Value:
            return build.select(build.icmp_signed(">", a, b), a, b)

        def size(a: ir.Value) -> ir.Value:
            return larger(a, build.neg(a))

        offset, limit = (read(build, build.extract_value(parameters, i), vector) for i in range(2))
        strides_of = [read(build, build.add(strides, word(8 * i)), word) for i in range(3)]
        shifts = splat(build, build.trunc(shift, single), lanes)
        highest, zero = read(build, peaks, vector), ir.Constant(vector, [0] * lanes)
        given = ir.VectorType(context.get_data_type(dtype), lanes)

        before = build.block
        loop, done = build.append_basic_block("step"), build.append_basic_block("stepped")
        build.branch(loop)
        build.position_at_end(loop)
        t, state, most = build.phi(word), build.phi(vector), build.phi(vector)
        places = [build.phi(word) for _ in range(3)]
        drive = build.add(build.shl(_as_int32(build, read(build, places[0], given), vector), shifts), offset)
        reached = build.add(build.ashr(state, ir.Constant(vector, [1] * lanes)), drive)
        fires = build.icmp_signed(">=", reached, limit)
        write(build, build.zext(fires, spike_type), places[1])
        left, peak = build.select(fires, zero, reached), larger(most, larger(size(reached), size(drive)))
        with build.if_then(build.icmp_signed("!=", places[2], word(0))):
            write(build, left, places[2])
        following = build.add(t, word(1))
        onward = [build.add(place, stride) for place, stride in zip(places, strides_of, strict=True)]
        end = build.block
        for phi, start, after in zip(
            (t, state, most, *places),
            (word(0), zero, highest, source, target, kept),
            (following, left, peak, *onward),
            strict=True,
        ):
            phi.add_incoming(start, before)
            phi.add_incoming(after, end)
        build.cbranch(build.icmp_signed("<", following, steps), loop, done)
        build.position_at_end(done)
        write(build, peak, peaks)
        return context.get_dummy_value()

    return emit


def _as_int32(build: ir.IRBuilder, values: ir.Value, kind: ir.Type) -> ir.Value:
    """Integers in any type as 32-bit ones; they fit."""
    element = values.type.element
    if isinstance(element, ir.FloatType | ir.DoubleType):
        return build.fptosi(values, kind)
    return values if element.width == 32 else build.trunc(values, kind)


_update_64, _update_16 = (_update(lanes) for lanes in LANES)
