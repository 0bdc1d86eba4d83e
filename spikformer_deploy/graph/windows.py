"""Where the windows of convolutions and pools stand: dilation, unequal padding, and means over any ranges.

The integer network knows kernels of any size with equal padding on both sides, and windows of one size.  All else is
written in those: a dilated kernel is filled up with zeros, unequal padding is rows of zeros in the kernel.

Here and in all of graph/, a pair is (y, x), and a range is (first, end) with the end left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spikformer_deploy.base.arrays import Float, Int, Pair
from spikformer_deploy.graph.ir import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, Pool


def widened(kernel: Pair, dilation: Pair) -> Pair:
    """The extent of a kernel from its first value to its last, with the gaps of `dilation` in between."""
    return ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)


def framed(weight: Float, dilation: Pair, before: Pair, after: Pair) -> tuple[Float, Pair]:
    """(weights, padding) of the same convolution with dilation 1 and equal padding on both sides.

    weight          (O, I, KY, KX)
    before, after   padding (y, x) at the low and the high end; where they differ, the kernel grows by rows of zeros
    """
    filled = np.zeros((*weight.shape[:2], *widened((weight.shape[2], weight.shape[3]), dilation)))
    filled[:, :, :: dilation[0], :: dilation[1]] = weight
    # The map gets the larger number of zeros on both sides.  Zeros in front of the weights then keep the first window
    # where it was, and zeros behind them the last one.
    zeros = [(max(0, high - low), max(0, low - high)) for low, high in zip(before, after, strict=True)]
    padding = (max(before[0], after[0]), max(before[1], after[1]))
    return np.pad(filled, ((0, 0), (0, 0), *zeros)), padding


# --- pools ----------------------------------------------------------------------------------------------------


def pooled_size(extent: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Number of windows along an axis, as torch counts them: each starts in the input, or in the padding before it."""
    room = extent + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0 and not ceil_mode:
        return 0
    steps = -(-room // stride) if ceil_mode else room // stride
    # a window that ceil_mode adds, and that would start in the padding behind the input
    starts_behind = ceil_mode and steps * stride >= extent + padding
    return steps + 1 - starts_behind


def pool_shape(op: Pool, extents: Pair) -> Pair:
    """The size (Y', X') of what a pool makes of a map of `extents` (Y, X)."""
    if isinstance(op, AdaptiveAvgPool2d):
        return op.size
    dilation = op.dilation if isinstance(op, MaxPool2d) else (1, 1)
    sizes = [
        pooled_size(extents[axis], op.kernel[axis], op.stride[axis], op.padding[axis], dilation[axis], op.ceil_mode)
        for axis in (0, 1)
    ]
    return sizes[0], sizes[1]


def overhang(op: MaxPool2d | AvgPool2d, extents: Pair) -> Pair:
    """How far the last window reaches beyond the padding at the high end: padding that ceil_mode adds there."""
    sizes = pool_shape(op, extents)
    kernel = widened(op.kernel, op.dilation if isinstance(op, MaxPool2d) else (1, 1))
    beyond = []
    for axis in (0, 1):
        end_of_last = (sizes[axis] - 1) * op.stride[axis] + kernel[axis]
        beyond.append(max(0, end_of_last - (extents[axis] + 2 * op.padding[axis])))
    return beyond[0], beyond[1]


# --- averages -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """What an average pool computes.

        out[c, i, j] = sum of x[c, rows[i], columns[j]] / divisors[i, j]

    rows, columns   ranges (first, end) of positions
    divisors        (Y', X') int64
    """

    rows: tuple[Pair, ...]
    columns: tuple[Pair, ...]
    divisors: Int

    def in_units(self, extents: Pair) -> tuple[int, Int]:
        """(n, weights (Y', X', Y, X)): every output is the sum of whole weights times positions, over n.

        n is the least common multiple of all divisors, so that every weight n / divisor is whole.
        """
        rows = _covered(self.rows, extents[0])
        columns = _covered(self.columns, extents[1])
        units = int(np.lcm.reduce(self.divisors.reshape(-1)))
        # (Y', X', Y, X)
        seen = rows[:, None, :, None] * columns[None, :, None, :]
        return units, seen * (units // self.divisors)[:, :, None, None]


def _covered(ranges: tuple[Pair, ...], extent: int) -> Int:
    """(ranges, positions): 1 where a position lies in a range, else 0."""
    return np.array([[first <= position < end for position in range(extent)] for first, end in ranges], np.int64)


def means_of(op: AvgPool2d | AdaptiveAvgPool2d, extents: Pair) -> Means:
    """The ranges and divisors of an average pool of a map of `extents` (Y, X), as torch takes them."""
    if isinstance(op, AdaptiveAvgPool2d):
        rows = _adaptive_ranges(extents[0], op.size[0])
        columns = _adaptive_ranges(extents[1], op.size[1])
        return Means(rows, columns, np.outer(_lengths(rows), _lengths(columns)))
    sizes = pool_shape(op, extents)
    windows = [_windows(op, axis, extents[axis], sizes[axis]) for axis in (0, 1)]
    inside = [_clipped(ranges, extent) for ranges, extent in zip(windows, extents, strict=True)]
    if op.divisor is None:
        counted = windows if op.count_include_pad else inside
        divisors = np.outer(_lengths(counted[0]), _lengths(counted[1]))
    else:
        divisors = np.full(sizes, op.divisor, np.int64)
    return Means(inside[0], inside[1], divisors)


def _adaptive_ranges(extent: int, size: int) -> tuple[Pair, ...]:
    """`size` ranges that cover `extent` positions: range i from floor(i * extent / size) to ceil of the next."""
    return tuple((i * extent // size, -(-(i + 1) * extent // size)) for i in range(size))


def _windows(op: AvgPool2d, axis: int, extent: int, size: int) -> tuple[Pair, ...]:
    """The ranges of `size` windows along an axis, those parts of them that lie in the map or in its padding."""
    kernel = op.kernel[axis]
    stride = op.stride[axis]
    padding = op.padding[axis]
    starts = [i * stride - padding for i in range(size)]
    return tuple((start, min(start + kernel, extent + padding)) for start in starts)


def _clipped(ranges: tuple[Pair, ...], extent: int) -> tuple[Pair, ...]:
    """The parts of ranges that lie in the map."""
    return tuple((max(first, 0), min(end, extent)) for first, end in ranges)


def _lengths(ranges: tuple[Pair, ...]) -> Int:
    return np.array([end - first for first, end in ranges], np.int64)


def one_window(op: AvgPool2d | AdaptiveAvgPool2d, extents: Pair) -> tuple[Pair, Pair, Pair, int] | None:
    """(kernel, stride, padding, divisor) of an average pool whose outputs all see a window of one size; else None."""
    means = means_of(op, extents)
    divisor = int(means.divisors[0, 0])
    if np.ptp(means.divisors):
        return None
    if isinstance(op, AvgPool2d):
        return (op.kernel, op.stride, op.padding, divisor) if overhang(op, extents) == (0, 0) else None
    rows = _steps(means.rows)
    columns = _steps(means.columns)
    if rows is None or columns is None:
        return None
    kernel = (rows[0], columns[0])
    stride = (rows[1], columns[1])
    return kernel, stride, (0, 0), divisor


def _steps(ranges: tuple[Pair, ...]) -> tuple[int, int] | None:
    """(length, stride) of ranges of one length that follow each other in equal steps; None where they do not."""
    lengths = {end - first for first, end in ranges}
    # a single range has no next one, and any stride
    strides = {after[0] - before[0] for before, after in pairwise(ranges)} or {1}
    if len(lengths) > 1 or len(strides) > 1 or min(strides) < 1:
        return None
    return lengths.pop(), strides.pop()
