"""Figures with their bounds, and the kinds of numbers they rest on.

Bounds add and multiply corner by corner: `low` is every number at its low end at once, `high` every one at its high
end.  They are the ends of what is possible, no confidence interval.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spikformer_deploy.chips.quantity import KINDS, Quantity

MILLI_PER_PICO = 1e-9


@dataclass(frozen=True, slots=True)
class Range:
    """A figure with its bounds, all in one unit."""

    low: float
    nominal: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.nominal + other.nominal, self.high + other.high)

    def __mul__(self, other: float | Range) -> Range:
        """Scaled by a number or a range, neither negative."""
        if not isinstance(other, Range):
            other = Range(other, other, other)
        return Range(self.low * other.low, self.nominal * other.nominal, self.high * other.high)

    @staticmethod
    def of(quantity: Quantity) -> Range:
        """The bounds of a number of the hardware, in its unit."""
        return Range(quantity.low, quantity.value, quantity.high)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One summand of an energy: events of one kind, each at a cost.

    events  mean an image (seconds for static power)
    energy  mJ an image
    kind    the weakest kind of number in it (quantity.KINDS); source: where the cost is from
    """

    name: str
    events: float
    energy: Range
    kind: str
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class Energy:
    """Energy of one image, mean over the images, in mJ.

    convention  its name, "spikformer-paper", "profile:halapoint", ...: see accounting.energy.account
    boundary    what is inside and what is left out, one sentence
    """

    convention: str
    boundary: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> Range:
        """Sum of the parts in mJ."""
        return sum((part.energy for part in self.parts), Range(0.0, 0.0, 0.0))

    @property
    def shares(self) -> dict[str, float]:
        """Share of the nominal total that rests on each kind of number, in the order of quantity.KINDS."""
        total = self.total.nominal
        # the bounds say how far a kind may be off; here it is asked what the figure rests on
        sums = {kind: sum(p.energy.nominal for p in self.parts if p.kind == kind) for kind in KINDS}
        return {kind: value / total for kind, value in sums.items() if value > 0}


def priced(name: str, events: float | Range, cost: Quantity, factor: float = 1.0) -> Part:
    """`events` an image, each at factor * `cost` in pJ."""
    count = events if isinstance(events, Range) else Range(events, events, events)
    return Part(name, count.nominal, Range.of(cost) * count * (factor * MILLI_PER_PICO), cost.kind, cost.source)


def weakest(kinds: Iterable[str]) -> str:
    """The kind that a product of numbers of these kinds has: the one farthest from silicon."""
    return max(kinds, key=KINDS.index)
