"""Low, nominal and high of a derived figure, and the kinds of numbers that it rests on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Range:
    """A figure with its bounds, all in one unit."""

    low: float
    nominal: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.nominal + other.nominal, self.high + other.high)

    def __mul__(self, factor: float) -> Range:
        """Scaled by a factor that is not negative."""
        return Range(self.low * factor, self.nominal * factor, self.high * factor)
