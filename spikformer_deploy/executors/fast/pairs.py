"""Dense convolutions of small messages, for processors whose widest fast products are pairs of bytes (AVX2).

An instruction multiplies 32 bytes and adds neighbours to 16 sums of 16 bits, so that it does four times the work of one
on fp32.  oneDNN widens each of these sums at once, which takes a second multiplication.  Here they are added up in 16
bits for as long as the weights of the layer and its largest message let no sum leave them: most layers need no more
than one widening, at the end.  What a chunk of inputs may bring is worked out from the weights when they are packed, so
every sum is exact by proof, and no weights are packed that a pair of them could saturate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import prange, types
from numba.core import config
from numba.extending import intrinsic

from spikformer_deploy.base.arrays import Array, Int
from spikformer_deploy.base.compiled import part, shared
from spikformer_deploy.base.vectors import BYTE, FLOAT, HALF, SINGLE, WORD, address, read, splat, write
from spikformer_deploy.executors.fast.kernels import Geometry
from spikformer_deploy.network.synapses import Conv

ROWS = 4
"""Output positions at once: with two vectors of outputs their sums fill 8 of the 16 registers."""
COLUMNS = 16
"""Output channels at once; weights are padded to a multiple of it."""
QUAD = 4
"""Input channels that are read at once."""
STEP = 2 * QUAD
"""Input channels of a turn of the inner loop; maps are padded to a multiple of it."""
POSITIONS = 24 * ROWS
"""Output positions about that a task works on: its part of the map stays in the nearest caches."""
LOWEST, HIGHEST = np.iinfo(np.int16).min, np.iinfo(np.int16).max


class Segment(NamedTuple):
    """Inputs whose products are added up in 16 bits: in `rows` kernel rows from `top`, `steps` from `left`."""

    top: int
    left: int
    rows: int
    steps: int


def pair_convolution(conv: Conv, channels: int, segments: Sequence[Segment]) -> Callable[[Array, int, int], Array]:
    """The function from uint8 messages (M, Y, X, C_in), first row, end row to fp32 sums (M, end - first, X', C_out).

    Messages are at most as large as `segments_of` was told.
    """
    outputs, _, height, width = conv.weight.shape
    padded = -(-outputs // COLUMNS) * COLUMNS
    weights = _packed(conv.weight)
    cuts = np.array(segments, np.int64)
    geometry = Geometry(height, width, *conv.stride, *conv.padding)
    flat = geometry == (1, 1, 1, 1, 0, 0)

    def convolve(maps: Array, first: int, end: int) -> Array:
        across = (maps.shape[2] + 2 * conv.padding[1] - width) // conv.stride[1] + 1
        out = np.empty((len(maps), end - first, across, padded), np.float32)
        if flat and end - first == maps.shape[1]:
            # a product of matrices: all positions are alike
            _multiply(maps.reshape(1, -1, 1, channels), weights, cuts, geometry, 0, out.reshape(1, -1, 1, padded))
        else:
            _multiply(maps, weights, cuts, geometry, first, out)
        return out if padded == outputs else np.ascontiguousarray(out[..., :outputs])

    return convolve


def processor_has_pairs() -> bool:
    """Whether compiled loops may use the instruction; what numba is told by its own settings is respected."""
    name, features = numba_target()
    if features is not None:
        return "+avx2" in features.split(",")
    return name in (None, "host") and bool(binding.get_host_cpu_features().get("avx2"))


def widest_are_pairs() -> bool:
    """Whether the processor has no wider products of bytes, for which oneDNN has kernels: then these are wanted."""
    features = binding.get_host_cpu_features()
    return processor_has_pairs() and not (features.get("avx512vnni") or features.get("avxvnni"))


def numba_target() -> tuple[str | None, str | None]:
    """The processor and its features that numba is told to compile for; None where it is not."""
    return getattr(config, "CPU_NAME", None), getattr(config, "CPU_FEATURES", None)


def _steps(weight: Array) -> Array:
    """(C_out, KY, steps of a kernel row, STEP) of weights (C_out, C_in, KY, KX), zeros where channels are missing."""
    outputs, channels, height, width = weight.shape
    filled = np.zeros((outputs, height, width, -(-channels // STEP) * STEP), np.int8)
    filled[..., :channels] = weight.transpose(0, 2, 3, 1)
    return filled.reshape(outputs, height, -1, STEP)


def _packed(weight: Array) -> Array:
    """(C_out / COLUMNS, KY, steps of a kernel row, quads of a step, COLUMNS, QUAD), in the order of reading."""
    steps = _steps(weight)
    outputs, height, count, _ = steps.shape
    filled = np.zeros((-(-outputs // COLUMNS) * COLUMNS, height, count, STEP), np.int8)
    filled[:outputs] = steps
    apart = filled.reshape(-1, COLUMNS, height, count, STEP // QUAD, QUAD)
    return np.ascontiguousarray(apart.transpose(0, 2, 3, 4, 1, 5))


def segments_of(conv: Conv, max_in: int) -> list[Segment] | None:
    """Inputs in order, in pieces of which no sum of 16 bits leaves its type, for messages up to `max_in`.

    A sum is largest where all inputs of positive weights send `max_in` and the others nothing, and smallest where it is
    the other way round.  On the way it may wrap, as additions do so in both directions alike.
    None where the weights are wider than int8, in groups, or so large that two products leave 16 bits, which saturates,
    or those of a step.
    """
    if conv.weight.dtype != np.int8 or conv.groups != 1:
        return None
    steps = _steps(conv.weight)
    high = max_in * _by_sum(np.maximum(steps, 0))
    low = max_in * _by_sum(np.minimum(steps, 0))
    if high.max(initial=0) > HIGHEST or low.min(initial=0) < LOWEST:
        return None
    _, height, count, _ = high.shape
    if _fits(high, low):
        return [Segment(0, 0, height, count)]
    segments = []
    for row in range(height):
        start = 0
        while start < count:
            end = _end(high[:, row, start:], low[:, row, start:])
            segments.append(Segment(row, start, 1, end))
            start += end
    return segments


def _by_sum(weights: Array) -> Int:
    """What a step adds to each sum of 16 bits, (C_out, KY, steps, 2), of weights (C_out, KY, steps, STEP).

    Of four inputs the first two go to one, and the others to the next.
    """
    total = np.zeros((*weights.shape[:3], 2), np.int64)
    for first in range(0, STEP, QUAD):
        for i in range(2):
            total += weights[..., first + i : first + i + 3 : 2]
    return total


def _fits(high: Int, low: Int) -> bool:
    """Whether the sums of all bounds (C_out, KY, steps, 2) stay in 16 bits."""
    return high.sum((1, 2)).max() <= HIGHEST and low.sum((1, 2)).min() >= LOWEST


def _end(high: Int, low: Int) -> int:
    """How many steps of bounds (C_out, steps, 2) may be added up in 16 bits, one at least."""
    inside = (high.cumsum(1).max((0, 2)) <= HIGHEST) & (low.cumsum(1).min((0, 2)) >= LOWEST)
    return int(inside.sum())


@shared
def _multiply(maps: Array, weights: Array, segments: Array, geometry: Geometry, first: int, out: Array) -> None:
    """Sums of products of the messages in the window of each output position with all weights.

    maps      (M, Y, X, C) uint8
    weights   as _packed, int8
    segments  (n, 4) int64 as Segment
    out       (M, R, X', C_out) fp32, rows from `first`
    """
    count, height, _width, channels = maps.shape
    rows, across, outputs = out.shape[1:]
    rows_at_once = max(1, POSITIONS // across)
    bands = (rows + rows_at_once - 1) // rows_at_once
    wide = (channels + STEP - 1) // STEP * STEP
    for task in prange(count * bands):
        image = task // bands
        low = task % bands * rows_at_once
        high = min(low + rows_at_once, rows)
        top = (first + low) * geometry.stride_y - geometry.padding_y
        tall = (high - 1 - low) * geometry.stride_y + geometry.kernel_y
        if top >= 0 and top + tall <= height and geometry.padding_x == 0 and wide == channels:
            part = maps[image, top : top + tall]
        else:
            part = _bordered(maps[image], top, tall, geometry.padding_x, wide)
        starts = np.empty((high - low) * across, np.int64)
        for position in range(len(starts)):
            y = position // across * geometry.stride_y
            x = position % across * geometry.stride_x
            starts[position] = (y * part.shape[1] + x) * wide
        _add_products(part, starts, weights, segments, address(out[image, low:high]), outputs)


@part
def _bordered(maps: Array, top: int, tall: int, border: int, wide: int) -> Array:
    """Rows from `top` of a map (Y, X, C), zeros beyond it and `border` at both sides, channels padded to `wide`."""
    height, width, channels = maps.shape
    out = np.zeros((tall, width + 2 * border, wide), np.uint8)
    for y in range(max(0, -top), min(tall, height - top)):
        if wide == channels:
            out[y, border : border + width] = maps[top + y]
        else:
            for x in range(width):
                out[y, border + x, :channels] = maps[top + y, x]
    return out


@part
def _add_products(part: Array, starts: Array, weights: Array, segments: Array, target: np.int64, outputs: int) -> None:
    """Write the sums of all positions to (positions, outputs) of fp32 at the address `target`.

    part    (Y, X, C) uint8, in which the windows of the positions begin at the bytes `starts`
    """
    positions = len(starts)
    row_bytes = part.shape[1] * part.shape[2]
    sources = np.empty(ROWS, np.int64)
    targets = np.empty(ROWS, np.int64)
    nowhere = np.empty((ROWS, COLUMNS), np.float32)
    for column in range(len(weights)):
        for at in range(0, positions, ROWS):
            for r in range(ROWS):
                # a block that is not full computes its first position again
                missing = at + r >= positions
                sources[r] = address(part) + starts[at if missing else at + r]
                place = target + 4 * ((at + r) * outputs + column * COLUMNS)
                targets[r] = address(nowhere) + 4 * r * COLUMNS if missing else place
            for s in range(len(segments)):
                top, left, rows, steps = segments[s]
                begin = (
                    address(weights) + ((column * weights.shape[1] + top) * weights.shape[2] + left) * STEP * COLUMNS
                )
                skipped = top * row_bytes + left * STEP
                _sum_pairs(address(sources), skipped, begin, rows, steps, row_bytes, address(targets), s == 0)


def _typed_sum(
    typing: Any, sources: Any, skipped: Any, weights: Any, rows: Any, steps: Any, row: Any, targets: Any, fresh: Any
) -> Any:
    """Sums of ROWS positions and COLUMNS outputs over `rows` kernel rows of `steps`, kept in registers.

    Addresses: of ROWS addresses of messages, which begin `skipped` bytes later, kernel rows `row` bytes apart; of
    weights, all side by side; of ROWS addresses of fp32 sums, which are set (fresh) or added to.
    """
    word = types.int64
    return types.void(word, word, word, word, word, word, word, types.boolean), _emit_sum


_sum_pairs: Any = intrinsic(_typed_sum)


def _emit_sum(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
    """What _sum_pairs does, as instructions."""
    sources, skipped, weights, rows, steps, row_bytes, targets, fresh = arguments
    halves = ir.VectorType(HALF, 16)
    bytes_32 = ir.VectorType(BYTE, 32)
    multiply = build.module.declare_intrinsic(
        "llvm.x86.avx2.pmadd.ub.sw", (), ir.FunctionType(halves, [bytes_32, bytes_32])
    )
    nothing = ir.Constant(halves, [0] * 16)
    fence = ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), "", "~{memory}", side_effect=True)
    begin = [build.add(read(build, build.add(sources, WORD(8 * r)), WORD), skipped) for r in range(ROWS)]
    apart = [build.sub(b, begin[0]) for b in begin]
    before = build.block
    row_loop = build.append_basic_block("kernel_row")
    loop = build.append_basic_block("step")
    row_end = build.append_basic_block("kernel_row_end")
    done = build.append_basic_block("sum")
    build.branch(row_loop)

    build.position_at_end(row_loop)
    row = build.phi(WORD)
    offset = build.phi(WORD)
    row_weights = build.phi(WORD)
    row_totals = [build.phi(halves) for _ in range(2 * ROWS)]
    row_place = build.add(begin[0], offset)
    build.branch(loop)

    build.position_at_end(loop)
    left = build.phi(WORD)
    at = build.phi(WORD)
    place = build.phi(WORD)
    totals = [build.phi(halves) for _ in range(2 * ROWS)]
    sums = list(totals)
    for quad in range(STEP // QUAD):
        both = [read(build, build.add(place, WORD(64 * quad + 32 * h)), bytes_32) for h in range(2)]
        for r in range(ROWS):
            four = read(build, build.add(build.add(at, apart[r]), WORD(QUAD * quad)), SINGLE)
            messages = build.bitcast(splat(build, four, 8), bytes_32)
            for h in range(2):
                sums[2 * r + h] = build.add(sums[2 * r + h], build.call(multiply, [messages, both[h]]))
            # without it all messages are read first, and sums leave the registers for them
            build.call(fence, [])
    fewer = build.sub(left, WORD(1))
    following = build.add(at, WORD(STEP))
    further = build.add(place, WORD(STEP * COLUMNS))
    for phi, start, after in zip(
        (left, at, place, *totals),
        (steps, row_place, row_weights, *row_totals),
        (fewer, following, further, *sums),
        strict=True,
    ):
        phi.add_incoming(start, row_loop)
        phi.add_incoming(after, loop)
    build.cbranch(build.icmp_signed("!=", fewer, WORD(0)), loop, row_end)

    build.position_at_end(row_end)
    next_row = build.add(row, WORD(1))
    next_offset = build.add(offset, row_bytes)
    for phi, start, after in zip(
        (row, offset, row_weights, *row_totals),
        (WORD(0), WORD(0), weights, *[nothing] * (2 * ROWS)),
        (next_row, next_offset, further, *sums),
        strict=True,
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(after, row_end)
    build.cbranch(build.icmp_signed("<", next_row, rows), row_loop, done)

    build.position_at_end(done)
    _emit_store(build, sums, targets, fresh)
    return context.get_dummy_value()


def _emit_store(build: ir.IRBuilder, sums: list[ir.Value], targets: ir.Value, fresh: ir.Value) -> None:
    """Both sums of 16 bits of each output are added to one, which is set or added at its target."""
    halves = ir.VectorType(HALF, 16)
    singles = ir.VectorType(SINGLE, 8)
    reals = ir.VectorType(FLOAT, 8)
    widen = build.module.declare_intrinsic("llvm.x86.avx2.pmadd.wd", (), ir.FunctionType(singles, [halves, halves]))
    ones = ir.Constant(halves, [1] * 16)
    places = [read(build, build.add(targets, WORD(8 * r)), WORD) for r in range(ROWS)]
    values = [build.sitofp(build.call(widen, [s, ones]), reals) for s in sums]
    to = [build.add(places[i // 2], WORD(32 * (i % 2))) for i in range(2 * ROWS)]
    with build.if_else(fresh) as (set_it, add_it):
        with set_it:
            for value, place in zip(values, to, strict=True):
                write(build, value, place)
        with add_it:
            for value, place in zip(values, to, strict=True):
                write(build, build.fadd(read(build, place, reals), value), place)
