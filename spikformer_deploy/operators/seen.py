"""What the values of a tensor are: spikes, small integers or reals, and how many are not zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spikformer_deploy.base.arrays import EXACT_FP32

LARGEST = 255
"""Whole numbers beyond are reals: no message of a chip is that wide without being a number of its own."""
UNITS = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
"""Of levels, the largest first.  Their multiples are exact in every floating type."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One tensor's values.

    operand   one of counts.operations.CLASSES
    elements  all of them
    nonzero   those that are not 0
    total     sum of |value|
    largest   the largest |value|
    unit      what its values are whole multiples of; 0 where there is none
    """

    operand: str
    elements: int
    nonzero: int
    total: float
    largest: float
    unit: float

    @property
    def rate(self) -> float:
        """Share of elements that are not 0; 0 of an empty tensor."""
        return self.nonzero / self.elements if self.elements else 0.0

    @property
    def mean(self) -> float:
        """Mean of |value|; 0 of an empty tensor."""
        return self.total / self.elements if self.elements else 0.0


def observe(x: Tensor) -> Seen:
    """The class of x's values and their sums; x of any shape; of complex numbers the absolute values."""
    if not x.numel():
        return Seen("binary", 0, 0, 0.0, 0.0, 1.0)
    if x.is_complex():
        x = x.abs()
    spikes = spikes_in(x)
    if spikes is not None:
        return Seen("binary", x.numel(), spikes, float(spikes), float(spikes > 0), 1.0)
    low, high = (float(bound) for bound in x.aminmax())
    nonzero = int(x.count_nonzero())
    total = float(_absolute(x, low).sum(dtype=torch.float64))
    operand, unit = _class(x, low, high)
    return Seen(operand, x.numel(), nonzero, total, max(abs(low), abs(high)), unit)


def spikes_in(x: Tensor) -> int | None:
    """How many elements are 1 where all are 0 or 1; None where they are not."""
    if x.dtype == torch.bool:
        return int(x.count_nonzero())
    # only 0, 1 and infinity are their own squares
    if not torch.equal(x * x, x):
        return None
    total = float(x.sum(dtype=exact_sum_of(x.numel())))
    return int(total) if total <= x.numel() else None


def exact_sum_of(elements: int) -> torch.dtype:
    """The type in which that many ones add up exactly."""
    return torch.float32 if elements < EXACT_FP32 else torch.float64


def _absolute(x: Tensor, low: float) -> Tensor:
    """|x|, without a copy where nothing is negative."""
    return x if low >= 0 else x.abs()


def _class(x: Tensor, low: float, high: float) -> tuple[str, float]:
    """The class and the unit of values between `low` and `high` that are not binary."""
    if not -1 <= low <= high <= LARGEST:
        return "real", 0.0
    if low < 0:
        return ("signs", 1.0) if high <= 1 and _multiples(x, 1.0) else ("real", 0.0)
    if high <= 1 and bool(((x == low) | (x == high)).all()):
        return "two values", _unit_of_two(low, high)
    if low == 0 and high % 1 and bool(((x == 0) | (x == high)).all()):
        return next(("levels" for unit in UNITS if _multiples(x, unit)), "real"), high
    for unit in UNITS:
        if _multiples(x, unit):
            return ("integers" if unit == 1 else "levels"), unit
    return "real", 0.0


def _unit_of_two(low: float, high: float) -> float:
    """{0, v} and a constant v are spikes of height v; of {u, v} a unit is looked for like that of levels."""
    if low in (0, high):
        return high
    return next((unit for unit in UNITS if not low % unit and not high % unit), 0.0)


def _multiples(x: Tensor, unit: float) -> bool:
    """Whether all values are whole multiples of `unit`."""
    if not x.is_floating_point():
        return True
    # a few values decide nearly every time; half precision holds multiples of 1/16 up to 255 too
    few = x.flatten()[:64] if x.is_contiguous() else x[(0,) * (x.dim() - 1)] if x.dim() else x
    return all(bool((part / unit).frac().count_nonzero() == 0) for part in (few, x))
