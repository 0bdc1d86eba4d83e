"""Where in their ranges the constants of a profile stand: all at their ends at once, or each drawn by itself.

A *point* is a number in [0, 1]: 0 is the low end of a constant's range, 1/2 its value, 1 its high end (Quantity.at).
Every figure is computed for several points at once, along the first axis of its array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeAlias
from zlib import crc32

import numpy as np

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.chips.quantity import Quantity

Points: TypeAlias = Callable[[str], Float]
"""From the path of a constant ("time.synapse_conv") to its points, (K,)."""

COUNT = 2000
"""Draws: the ends of most likely intervals then move by one to three per cent with the seed."""
SEED = 2026
LIKELY = (5.0, 95.0)
"""Percentiles of the draws: the ends of the likely interval."""
CORNERS = ("low", "nominal", "high")
"""The first axis of what is computed at `corners`: all constants at their low end, value, high end."""
NOMINAL = CORNERS.index("nominal")


def corners(path: str) -> Float:
    """(3,) CORNERS: the same for every constant, but for rates, of which the highest gives the lowest time."""
    low_to_high = np.array([0.0, 0.5, 1.0])
    return low_to_high[::-1] if is_rate(path) else low_to_high


def nominal(path: str) -> Float:
    """(1,) every constant at its value."""
    return np.array([0.5])


@cache
def drawn(path: str) -> Float:
    """(COUNT,) independent and uniform, a stream for each constant: others that come or go change nothing."""
    draws = np.random.default_rng((SEED, crc32(path.encode()))).random(COUNT)
    draws.setflags(write=False)
    return draws


def some(chosen: slice) -> Points:
    """The chosen ones of `drawn`."""
    return lambda path: drawn(path)[chosen]


def is_rate(path: str) -> bool:
    """Whether a constant is a number of events in a time, and not a time."""
    return path.endswith("_rate")


def values(path: str, quantity: Quantity, points: Points) -> Float:
    """(K,) values of a constant at its points."""
    return quantity.at(points(path))


def likely(draws: Float) -> tuple[float, float]:
    """The interval that holds all draws (K,) but the lowest and the highest twentieth."""
    low, high = np.percentile(draws, LIKELY)
    return float(low), float(high)


def shares(draws: Float, paths: Sequence[str]) -> dict[str, float]:
    """Which constants rule a figure: by path, the share of what its draws (K,) vary by, largest first.

    The share of a constant is the squared rank correlation of its draws with the figure's, of the sum of all: the
    constants are independent, and the figure rises or falls with each.  What is no more than chance is left out.
    """
    if np.ptp(draws) == 0:
        return {}
    ranks = _ranks(draws)
    squares = {path: float(np.corrcoef(_ranks(drawn(path)), ranks)[0, 1]) ** 2 for path in paths}
    # a correlation of independent draws has the variance 1 / COUNT: three sigma, squared
    kept = {path: square for path, square in squares.items() if square > 9 / COUNT}
    total = sum(kept.values())
    return {path: square / total for path, square in sorted(kept.items(), key=lambda item: -item[1])}


def _ranks(draws: Float) -> Float:
    return np.argsort(np.argsort(draws)).astype(np.float64)
