"""What a point must keep to: "energy<1mJ, accuracy>=best-1%", and which points do."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.words import meant
from spikformer_deploy.space.criteria import CRITERIA

PLACE = "--budget"
COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
TERM = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(best\s*-\s*)?(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([^\s\d]*)\s*")
MOST_IMAGES = 10**7
"""Accuracies are shares of at most so many images, and so are known from their nearest float."""

FIGURES = ", ".join(
    name + (f" ({', '.join(filter(None, criterion.units))})" if any(criterion.units) else "")
    for name, criterion in CRITERIA.items()
)
"""All figures with their units, for an error."""


class Verdict(str, Enum):
    """Whether a point keeps to a budget."""

    YES = "yes"
    """With its nominal values, and with the likely intervals of all estimates."""
    NOMINAL = "nominal"
    """With its nominal values; an estimate may likely be beyond."""
    NO = "no"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Limit:
    """One condition: the figure `name` compared with `value`, in the unit of its criterion.

    below_best  it is compared with the best accuracy of all points less `value`
    """

    name: str
    comparison: str
    value: float
    below_best: bool = False

    def among(self, rows: Sequence[dict[str, Any]]) -> Limit:
        """The condition with the best of these rows in it, where it asks for that."""
        if not self.below_best:
            return self
        known = [row["accuracy"] for row in rows if row.get("accuracy") is not None]
        # as fractions: 0.37 - 0.01 is below 0.36 in binary, and 36 of 100 images would be "> best-1%"
        best_share = Fraction(max(known, default=0.0)).limit_denominator(MOST_IMAGES)
        return replace(self, value=float(best_share - Fraction(repr(self.value))), below_best=False)

    def verdict(self, row: dict[str, Any]) -> Verdict:
        """Of one row, which is not refused; an accuracy that is not known keeps to nothing."""
        criterion = CRITERIA[self.name]
        nominal = criterion.of(row)
        if nominal is None or not self._holds(nominal):
            return Verdict.NO
        return Verdict.YES if all(map(self._holds, criterion.interval(row) or ())) else Verdict.NOMINAL

    def _holds(self, value: float) -> bool:
        return COMPARED[self.comparison](value, self.value)


def parse_budget(text: str) -> tuple[Limit, ...]:
    """The conditions of a budget, with commas between; all must hold.

    Raises InputError for a word, a unit or a number that is not known.
    """
    return tuple(_limit(term) for term in text.split(",")) if text.strip() else ()


def _limit(term: str) -> Limit:
    match = TERM.fullmatch(term)
    if match is None:
        problem = f"'{term.strip()}' is no condition"
        raise InputError(
            PLACE,
            problem,
            'Write a figure, <, <=, > or >=, a number and its unit: "energy<1mJ", or "accuracy>=best-1%".',
        )
    name, comparison, below_best, number, unit = match.groups()
    if name not in CRITERIA:
        raise InputError(PLACE, f"'{name}' is no figure of a point{meant(name, CRITERIA)}", f"Known: {FIGURES}.")
    units = CRITERIA[name].units
    if unit not in units:
        said = f"'{unit}' is no unit of {name}" if unit else f"there is no unit beside {name}"
        known = [unit for unit in units if unit]
        way_out = f"Known: {', '.join(known)}." if known else "It has none."
        raise InputError(PLACE, f"{said} in '{term.strip()}'", way_out)
    if not math.isfinite(float(number)):
        raise InputError(PLACE, f"{number} is too large for a number")
    # in decimals: 35 * 0.01 is above 0.35 in binary, and 7 of 20 images would be no 35 %
    value = float(Decimal(number) * Decimal(repr(units[unit])))
    if name == "accuracy" and value > 1:
        problem = f"an accuracy is at most 1, or 100%, and '{term.strip()}' says more"
        raise InputError(PLACE, problem, "Write 0.81 or 81%.")
    if below_best and name != "accuracy":
        raise InputError(PLACE, f"'{term.strip()}': only accuracy is compared with the best of all points")
    return Limit(name, comparison, value, bool(below_best))


def verdicts(rows: Sequence[dict[str, Any]], budget: Sequence[Limit]) -> list[Verdict]:
    """Of every row, the weakest of its verdicts; what is refused keeps to nothing."""
    budget = [limit.among(rows) for limit in budget]
    order = [Verdict.NO, Verdict.NOMINAL, Verdict.YES]

    def verdict(row: dict[str, Any]) -> Verdict:
        if "refused" in row:
            return Verdict.NO
        return min((limit.verdict(row) for limit in budget), key=order.index, default=Verdict.YES)

    return [verdict(row) for row in rows]


def best(rows: Sequence[dict[str, Any]], budget: Sequence[Limit]) -> dict[str, int]:
    """By criterion, the number of the best row of those that keep to the budget; of equals that of least energy.

    A criterion that no such row has is left out.
    """
    kept = [number for number, verdict in enumerate(verdicts(rows, budget)) if verdict is not Verdict.NO]
    out: dict[str, int] = {}
    for name, criterion in CRITERIA.items():
        known = {number: value for number in kept if (value := criterion.of(rows[number])) is not None}
        if not known:
            continue
        best_value = max(known.values()) if criterion.higher else min(known.values())
        equals = [number for number, value in known.items() if value == best_value]
        out[name] = min(equals, key=lambda number: (CRITERIA["energy"].of(rows[number]), number))
    return out
