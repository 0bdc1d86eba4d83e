"""A number of the hardware with everything that belongs to it: unit, kind, source and range."""

from __future__ import annotations

import math

import numpy as np
from attrs import Attribute, field, frozen, validators
from numpy.typing import NDArray

from spikformer_deploy.base.words import shown

KINDS = ("measured", "datasheet", "simulated", "fitted", "derived", "guess")
"""Where a number comes from, from silicon to nothing: measured on silicon; stated by the vendor; a simulation before
silicon (Davies et al. 2018, table 2); fitted to silicon; computed from such numbers; guessed."""

ROLES = ("calibrated", "independent", "guessed")
"""What a number is to benchmarks/silicon.py: fitted to one of its rows; from elsewhere; nothing better is known."""

LARGEST = 1e12
"""No number of a chip in the units of the profiles comes near; products of a few of them stay finite."""


def _finite(instance: Quantity, attribute: Attribute[float], value: float) -> None:
    if not math.isfinite(value) or not 0 <= value <= LARGEST:
        raise ValueError(f"{value} (a finite number of at least 0 and at most {LARGEST:g} is needed)")


def _range(
    instance: Quantity, attribute: Attribute[tuple[float, float] | None], value: tuple[float, float] | None
) -> None:
    if value is None:
        return
    low, high = value
    if not 0 <= low <= instance.value <= high <= LARGEST:
        raise ValueError(f"range {list(value)} does not hold the value {shown(instance.value)}")


def _stated(instance: Quantity, attribute: Attribute[str], value: str) -> None:
    if not value.strip():
        raise ValueError(f"an empty {attribute.name}")


def _known_kind(instance: Quantity, attribute: Attribute[str], value: str) -> None:
    if value not in KINDS:
        raise ValueError(f"there is no kind {shown(value)}: there are {', '.join(KINDS)}")


@frozen
class Quantity:
    """`value` in `unit`; `kind` is one of KINDS; `range` is (low, high) where the number is not sure.

    calibrated_on  the case of benchmarks/silicon.py that the number, or an end of its range, was fitted to
    """

    value: float = field(validator=_finite)
    unit: str = field(validator=_stated)
    kind: str = field(validator=_known_kind)
    source: str = field(validator=_stated)
    range: tuple[float, float] | None = field(default=None, validator=_range)
    calibrated_on: str | None = field(default=None, validator=validators.optional(_stated))

    @property
    def role(self) -> str:
        """One of ROLES.  A guess stays one, also where a case has set an end of its range."""
        if self.kind == "guess":
            return "guessed"
        return "independent" if self.calibrated_on is None else "calibrated"

    @property
    def low(self) -> float:
        """The lowest value it may have."""
        return self.value if self.range is None else self.range[0]

    @property
    def high(self) -> float:
        """The highest value it may have."""
        return self.value if self.range is None else self.range[1]

    def at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at points of the range: 0 is its low end, 1/2 the value, 1 its high end, linear in between.

        Uniform points draw from a distribution whose median is the value: as often above as below.
        """
        return np.interp(points, (0.0, 0.5, 1.0), (self.low, self.value, self.high))

    def __int__(self) -> int:
        """The whole number that it is, for what is counted."""
        return round(self.value)
