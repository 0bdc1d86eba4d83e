"""What the quantizer makes of a node, and how far its state is from what the target's integers hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.network.network import Population, Projection

Observed: TypeAlias = Callable[[str], tuple[float, float]]
"""(lowest, highest) real value of a node on the calibration images, by its name: see Calibration.range_of."""

OBSERVED_MARGIN = 2.0
"""A range that is only observed must fit this many times over: other images than those of the calibration follow."""


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A population of the integer network and the projections into it.

    proven  the range of its state holds for any input; else it was only observed on the calibration images
    margin  largest state that the target holds, over the largest bound; infinite for neurons without state
    """

    population: Population
    projections: tuple[Projection, ...] = ()
    proven: bool = True
    margin: float = math.inf

    def rounded_by(self, rounding: float) -> Quantized:
        """The same population, which says that `rounding` is its largest relative error (see Population)."""
        return replace(self, population=replace(self.population, rounding=rounding))


def with_margin(seen: tuple[float, float]) -> tuple[float, float]:
    """The range that must fit where only `seen` was observed."""
    return seen[0] * OBSERVED_MARGIN, seen[1] * OBSERVED_MARGIN


def within(bounds: tuple[int, int], bits: int) -> bool:
    """Whether integers of `bits` bits, one of them the sign, hold the bounds; -2^(bits - 1) is not used."""
    return max(abs(bounds[0]), abs(bounds[1])) <= 2 ** (bits - 1) - 1


def margin_of(bounds: tuple[int, int], limits: CoreLimits) -> float:
    """Largest state over the largest bound."""
    return (2 ** (limits.state_bits - 1) - 1) / max(1, abs(bounds[0]), abs(bounds[1]))
