"""Slices onto cores: along a Hilbert curve through the tiles of each chip, so that slices that talk stand close."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.hardware import Profile

Int: TypeAlias = NDArray[np.int64]
Placer: TypeAlias = Callable[[int, Profile], Int]
"""(number of slices, profile) -> (slices,) global cores, all different; slices come in the order of the network."""


def hilbert(slices: int, profile: Profile) -> Int:
    """Chips along a Hilbert curve over the board, and tiles along one over each chip."""
    tiles = hilbert_order(int(profile.chip.tiles_x), int(profile.chip.tiles_y))
    columns = int(profile.board.columns)
    chips = hilbert_order(columns, -(-int(profile.board.chips) // columns))
    chips = chips[chips < int(profile.board.chips)]
    within = _cores_of_tiles(tiles, profile)
    return (chips[:, None] * profile.cores_per_chip + within).ravel()[:slices]


def row_major(slices: int, profile: Profile) -> Int:
    """Cores in the order of their numbers: the baseline."""
    return np.arange(slices)


def random(slices: int, profile: Profile, seed: int = 0) -> Int:
    """Any cores of as few chips as hold them: the other baseline."""
    per_chip = profile.cores_per_chip
    return np.random.default_rng(seed).permutation(-(-slices // per_chip) * per_chip)[:slices]


def hilbert_order(width: int, height: int) -> Int:
    """Cells y * width + x of a grid along a Hilbert curve over the smallest square of a power of two around it."""
    side = 1 << max(width - 1, height - 1).bit_length()
    cells = [_cell(side, d) for d in range(side * side)]
    return np.array([y * width + x for x, y in cells if x < width and y < height], np.int64)


def _cell(side: int, distance: int) -> tuple[int, int]:
    """(x, y) at `distance` along the curve.  Source: Hilbert 1891, in the usual bitwise form."""
    x = y = 0
    scale = 1
    while scale < side:
        right = 1 & (distance // 2)
        up = 1 & (distance ^ right)
        if not up:
            if right:
                x, y = scale - 1 - x, scale - 1 - y
            x, y = y, x
        x, y = x + scale * right, y + scale * up
        distance //= 4
        scale *= 2
    return x, y


def _cores_of_tiles(tiles: Int, profile: Profile) -> Int:
    """Cores of one chip in the order of its tiles; the reserved ones, those with the highest numbers, left out."""
    per_tile = int(profile.chip.cores_per_tile)
    cores = (tiles[:, None] * per_tile + np.arange(per_tile)).ravel()
    return cores[cores < profile.cores_per_chip]
