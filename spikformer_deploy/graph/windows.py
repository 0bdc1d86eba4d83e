"""Where the windows of convolutions and pools stand: dilation, unequal padding, and means over any ranges.

The integer network knows kernels of any size with equal padding on both sides, and windows of one size.  All else is
written in those: a dilated kernel is filled up with zeros, unequal padding is rows of zeros in the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spikformer_deploy.base.arrays import Float, Int, Pair
from spikformer_deploy.graph.ir import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d


def widened(kernel: Pair, dilation: Pair) -> Pair:
    """The extent of a kernel from its first tap to its last."""
    return ((kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1)


def framed(weight: Float, dilation: Pair, before: Pair, after: Pair) -> tuple[Float, Pair]:
    """(weights, padding) of the same convolution with dilation 1 and equal padding on both sides.

    weight         (O, I, KY, KX)
    before, after  padding (y, x) at the low and the high end; where they differ, the kernel grows by rows of zeros
    """
    out = np.zeros((*weight.shape[:2], *widened((weight.shape[2], weight.shape[3]), dilation)))
    out[:, :, :: dilation[0], :: dilation[1]] = weight
    rows, columns = ((max(0, b - a), max(0, a - b)) for a, b in zip(before, after, strict=True))
    padding = (max(before[0], after[0]), max(before[1], after[1]))
    return np.pad(out, ((0, 0), (0, 0), rows, columns)), padding


def pooled_size(extent: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Number of windows along an axis, as torch counts them: each starts in the input, or in the padding before it."""
    room = extent + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0 and not ceil_mode:
        return 0
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    return count - (ceil_mode and (count - 1) * stride >= extent + padding)


def pool_shape(op: MaxPool2d | AvgPool2d | AdaptiveAvgPool2d, extents: Pair) -> Pair:
    """The size of what a pool makes of a map."""
    if isinstance(op, AdaptiveAvgPool2d):
        return op.size
    dilation = op.dilation if isinstance(op, MaxPool2d) else (1, 1)
    sizes = [
        pooled_size(*axis, op.ceil_mode)
        for axis in zip(extents, op.kernel, op.stride, op.padding, dilation, strict=True)
    ]
    return sizes[0], sizes[1]


def overhang(op: MaxPool2d | AvgPool2d, extents: Pair) -> Pair:
    """How far the last window reaches beyond the padding at the high end: padding that ceil_mode adds there."""
    dilation = op.dilation if isinstance(op, MaxPool2d) else (1, 1)
    sizes, kernel = pool_shape(op, extents), widened(op.kernel, dilation)
    beyond = [
        max(0, (n - 1) * s + k - (e + 2 * p))
        for n, s, k, e, p in zip(sizes, op.stride, kernel, extents, op.padding, strict=True)
    ]
    return beyond[0], beyond[1]


@dataclass(frozen=True, slots=True, eq=False)
class Means:
    """out[c, i, j] = sum of x[c, rows[i], columns[j]] / divisors[i, j], with rows[i] as (first, end).

    divisors (Y', X') int64
    """

    rows: tuple[Pair, ...]
    columns: tuple[Pair, ...]
    divisors: Int

    def in_units(self, extents: Pair) -> tuple[int, Int]:
        """(n, weights (Y', X', Y, X)): every output is the sum of whole weights times positions, over n."""
        rows, columns = (
            np.array([[first <= position < end for position in range(extent)] for first, end in ranges], np.int64)
            for ranges, extent in zip((self.rows, self.columns), extents, strict=True)
        )
        units = int(np.lcm.reduce(self.divisors.reshape(-1)))
        seen = rows[:, None, :, None] * columns[None, :, None, :]
        return units, seen * (units // self.divisors)[:, :, None, None]


def means_of(op: AvgPool2d | AdaptiveAvgPool2d, extents: Pair) -> Means:
    """The ranges and divisors of an average pool of a map, as torch takes them."""
    if isinstance(op, AdaptiveAvgPool2d):
        ranges = [_adaptive(extent, size) for extent, size in zip(extents, op.size, strict=True)]
        lengths = [np.array([end - first for first, end in axis], np.int64) for axis in ranges]
        return Means(ranges[0], ranges[1], np.outer(*lengths))
    sizes = pool_shape(op, extents)
    axes = list(zip(extents, sizes, op.kernel, op.stride, op.padding, strict=True))
    padded = [[(i * s - p, min(i * s - p + k, e + p)) for i in range(n)] for e, n, k, s, p in axes]
    inside = [
        tuple((max(first, 0), min(end, e)) for first, end in axis) for axis, e in zip(padded, extents, strict=True)
    ]
    counted = padded if op.count_include_pad else inside
    lengths = [np.array([end - first for first, end in axis], np.int64) for axis in counted]
    divisors = np.outer(*lengths) if op.divisor is None else np.full(sizes, op.divisor, np.int64)
    return Means(inside[0], inside[1], divisors)


def _adaptive(extent: int, size: int) -> tuple[Pair, ...]:
    return tuple((i * extent // size, -(-(i + 1) * extent // size)) for i in range(size))


def one_window(op: AvgPool2d | AdaptiveAvgPool2d, extents: Pair) -> tuple[Pair, Pair, Pair, int] | None:
    """(kernel, stride, padding, divisor) of an average pool whose outputs all see a window of one size; else None."""
    means = means_of(op, extents)
    divisor = int(means.divisors[0, 0])
    if np.ptp(means.divisors):
        return None
    if isinstance(op, AvgPool2d):
        return (op.kernel, op.stride, op.padding, divisor) if overhang(op, extents) == (0, 0) else None
    rows, columns = _steps(means.rows), _steps(means.columns)
    if rows is None or columns is None:
        return None
    return (rows[0], columns[0]), (rows[1], columns[1]), (0, 0), divisor


def _steps(ranges: tuple[Pair, ...]) -> tuple[int, int] | None:
    """(length, stride) of ranges of one length that follow each other in equal steps; None where they do not."""
    lengths = {end - first for first, end in ranges}
    strides = {after[0] - before[0] for before, after in pairwise(ranges)} or {1}
    if len(lengths) > 1 or len(strides) > 1 or min(strides) < 1:
        return None
    return lengths.pop(), strides.pop()
