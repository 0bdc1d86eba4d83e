"""The geometry of windows, as all formats have it: padding on both sides, and no window that is cut off."""

from __future__ import annotations

from collections.abc import Sequence

from spikformer_deploy.base.arrays import Pair


def window_counts(extents: Sequence[int], kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Pair:
    """How many windows there are along Y and X, all arguments (along Y, along X); below 1 where none fits in."""
    axes = zip(extents, kernel, stride, padding, strict=True)
    rows, columns = [(extent + 2 * border - size) // step + 1 for extent, size, step, border in axes]
    return rows, columns
