"""Pareto fronts: the points that no other point beats in both of two figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spikformer_deploy.space.criteria import CRITERIA

COSTS = ("energy", "latency", "cores", "memory")
"""What accuracy is weighed against, each in a front of its own."""


def front(rows: Sequence[dict[str, Any]], cost: str) -> list[int]:
    """The numbers of the rows on the front of accuracy against `cost`, the cheapest first.

    A row is on it unless another is at least as good in both and better in one; equals are on it together.  Rows that
    are refused or have no accuracy are on none.
    """
    price = CRITERIA[cost]
    known = [(number, *_pair(row, cost)) for number, row in enumerate(rows) if "refused" not in row]
    standing = [(number, accuracy, paid) for number, accuracy, paid in known if accuracy is not None]
    assert not price.higher
    return [
        number
        for number, accuracy, paid in sorted(standing, key=lambda item: (item[2], item[1], item[0]))
        if not any(a >= accuracy and p <= paid and (a > accuracy or p < paid) for _, a, p in standing)
    ]


def _pair(row: dict[str, Any], cost: str) -> tuple[float | None, float]:
    """Accuracy and cost."""
    paid = CRITERIA[cost].of(row)
    assert paid is not None
    return CRITERIA["accuracy"].of(row), paid
