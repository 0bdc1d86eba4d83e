"""Figures with their bounds and their likely interval, and what they rest on.

Bounds add and multiply corner by corner: `low` is every number at its low end at once, `high` every one at its high
end.  They are the ends of what is possible.  The likely interval comes from draws in which every number varies by
itself (chips/draws.py): draw i of a sum is the sum of the draws i.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.chips import draws
from spikformer_deploy.chips.quantity import KINDS, ROLES, Quantity

MILLI_PER_PICO = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """A figure with its bounds, all in one unit; draws (draws.COUNT,) of it, or (1,) where nothing varies."""

    low: float
    nominal: float
    high: float
    draws: Float

    def __add__(self, other: Range) -> Range:
        return Range(
            self.low + other.low, self.nominal + other.nominal, self.high + other.high, self.draws + other.draws
        )

    def __mul__(self, other: float | Range) -> Range:
        """Scaled by a number or a range, neither negative."""
        if not isinstance(other, Range):
            other = exactly(other)
        return Range(
            self.low * other.low, self.nominal * other.nominal, self.high * other.high, self.draws * other.draws
        )

    @property
    def likely(self) -> tuple[float, float]:
        """The interval of draws.likely."""
        return draws.likely(self.draws)

    @staticmethod
    def of(path: str, quantity: Quantity) -> Range:
        """The number of the hardware at `path` of its profile, in its unit."""
        if quantity.range is None:
            return exactly(quantity.value)
        return Range(quantity.low, quantity.value, quantity.high, draws.values(path, quantity, draws.drawn))


def exactly(value: float) -> Range:
    """A figure that is sure."""
    return Range(value, value, value, np.array([value]))


def spread_of(low: float, nominal: float, high: float, factors: Float) -> Range:
    """A figure with its bounds, and draws that are factors on its nominal value.

    Factors come from the mean image, bounds from all images: a draw beyond a bound is that bound.
    """
    return Range(low, nominal, high, np.clip(nominal * factors, low, high))


NOTHING = exactly(0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One summand of an energy: events of one kind, each at a cost.

    events    mean an image; unit: "s" where they are the seconds for which a power flows, else "1"
    energy    mJ an image
    kind      the weakest kind of number in it (quantity.KINDS), role likewise (quantity.ROLES)
    source    where the cost is from; paths: the constants that it varies with
    boundary  the innermost of its convention's boundaries that it is in
    """

    name: str
    events: float
    energy: Range
    kind: str
    source: str
    role: str
    paths: tuple[str, ...]
    boundary: str
    unit: str = "1"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Energy:
    """Energy of one image, mean over the images, in mJ.

    convention  its name, "spikformer-paper", "profile:halapoint", ...: see accounting.energy.account
    boundaries  what is inside and what is left out, a sentence each, from the innermost on: each holds those before it
    scope       the boundary whose energy is the convention's figure
    """

    convention: str
    boundaries: Mapping[str, str]
    scope: str
    parts: tuple[Part, ...] = field(default=())

    def __repr__(self) -> str:
        total = self.total
        return f"Energy({self.convention}: {total.nominal:.4g} mJ an image, {total.low:.4g} to {total.high:.4g})"

    @property
    def boundary(self) -> str:
        """What the convention's figure holds, and what it leaves out."""
        return self.boundaries[self.scope]

    @property
    def total(self) -> Range:
        """The convention's figure in mJ."""
        return self.within(self.scope)

    @property
    def inside(self) -> tuple[Part, ...]:
        """The parts of the convention's figure."""
        return self.parts_within(self.scope)

    def within(self, boundary: str) -> Range:
        """Sum of all that is inside a boundary, in mJ."""
        return sum((part.energy for part in self.parts_within(boundary)), NOTHING)

    def parts_within(self, boundary: str) -> tuple[Part, ...]:
        """The parts inside a boundary."""
        names = list(self.boundaries)
        inside = names[: names.index(boundary) + 1]
        return tuple(part for part in self.parts if part.boundary in inside)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the figure that rests on each kind of number, in the order of quantity.KINDS."""
        return self._shares(KINDS, "kind")

    @property
    def roles(self) -> dict[str, float]:
        """Share of the figure that rests on numbers of each role, in the order of quantity.ROLES."""
        return self._shares(ROLES, "role")

    @property
    def rulers(self) -> dict[str, float]:
        """Which constants rule the likely interval, as shares (draws.shares)."""
        paths = sorted({path for part in self.inside for path in part.paths})
        return draws.shares(self.total.draws, paths)

    def _shares(self, names: tuple[str, ...], attribute: str) -> dict[str, float]:
        # the bounds say how far a number may be off; here it is asked what the figure rests on
        total = self.total.nominal
        sums = {n: sum(p.energy.nominal for p in self.inside if getattr(p, attribute) == n) for n in names}
        return {name: value / total for name, value in sums.items() if value > 0}


def priced(name: str, events: float | Range, path: str, cost: Quantity, boundary: str, factor: float = 1.0) -> Part:
    """`events` an image, each at factor * `cost` in pJ; path: of the cost."""
    count = events if isinstance(events, Range) else exactly(events)
    energy = Range.of(path, cost) * count * (factor * MILLI_PER_PICO)
    paths = (path,) if cost.range else ()
    return Part(name, count.nominal, energy, cost.kind, cost.source, cost.role, paths, boundary)


def weakest(kinds: Iterable[str]) -> str:
    """The kind that a product of numbers of these kinds has: the one farthest from silicon."""
    return max(kinds, key=KINDS.index)


def weakest_role(roles: Iterable[str]) -> str:
    """The role of a product: guessed where one number is, else calibrated where one is."""
    return max(roles, key=("independent", "calibrated", "guessed").index)


def mixed(energies: Sequence[Energy], shares: Sequence[float]) -> Energy:
    """The mean of energies of one convention, of images that are these shares of all: part by part, draw by draw.

    A part that some of the images do not have is nothing there.
    """
    first = energies[0]
    parts: dict[str, Part] = {}
    for energy, share in zip(energies, shares, strict=True):
        for part in energy.parts:
            own = replace(part, events=part.events * share, energy=part.energy * share)
            parts[part.name] = own if part.name not in parts else _sum(parts[part.name], own)
    return replace(first, parts=tuple(parts.values()))


def _sum(first: Part, more: Part) -> Part:
    return replace(
        first,
        events=first.events + more.events,
        energy=first.energy + more.energy,
        kind=weakest((first.kind, more.kind)),
        role=weakest_role((first.role, more.role)),
        paths=tuple(dict.fromkeys((*first.paths, *more.paths))),
    )
