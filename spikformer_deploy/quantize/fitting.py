"""Does a LIF fit the target: the range that its potential can have, and the bits that are there for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.hardware import CoreLimits
from spikformer_deploy.quantize.bounds import membrane_range
from spikformer_deploy.quantize.network import DECAY_ONE, STOCK_SHIFT, Lif, Population, Projection
from spikformer_deploy.values import frozen

Int: TypeAlias = NDArray[np.int64]
Made: TypeAlias = tuple[Population, tuple[Projection, ...], str, float]
"""(population, projections into it, "static" or "observed", bits of margin where observed)"""

OBSERVED_MARGIN = 2.0
"""A range that is only observed must fit this many times over."""


@dataclass(frozen=True, slots=True, eq=False)
class Decay:
    """decay / 4096 and the fractional bits a state needs per step for an exact execution (None: never exact)."""

    numerator: int
    bits_per_step: int | None
    floors_exactly: bool


Rule: TypeAlias = tuple[Decay, int, str, bool]
"""(decay, time steps, kind of the LIF, whether its reset is soft)."""


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One choice of thresholds and fractional bits, with the ranges it leads to (all in units of the state)."""

    threshold: Int
    shift: int
    bias: Int
    low: Int
    high: Int


def decay_of(tau: float) -> Decay:
    exact = (1 - 1 / tau) * DECAY_ONE
    numerator = round(exact)
    if numerator != exact:
        return Decay(numerator, None, False)
    if numerator == 0:
        return Decay(0, 0, True)
    zeros = (numerator & -numerator).bit_length() - 1
    return Decay(numerator, 12 - zeros, numerator >> zeros == 1)


def with_range(threshold: Int, shift: int, bias: Int, low: Int, high: Int, rule: Rule) -> Attempt:
    """The attempt with the range of the potential that follows from that of the drive, (low, high)."""
    decay, time_steps, kind, soft = rule
    if kind == "stock":
        low, high = low << STOCK_SHIFT, high << STOCK_SHIFT
        lowest, highest = membrane_range(low, high, threshold << STOCK_SHIFT, decay.numerator, time_steps)
        return Attempt(threshold - 1, shift, bias, lowest, highest)
    lowest, highest = membrane_range(low, high, threshold, decay.numerator, time_steps, soft)
    return Attempt(threshold, shift, bias, lowest, highest)


def fits(attempt: Attempt, limits: CoreLimits, kind: str) -> bool:
    bias_bits = limits.bias_bits if kind == "stock" else limits.state_bits - 1
    return (
        within((int(attempt.low.min()), int(attempt.high.max())), limits.state_bits)
        and within((0, int(attempt.threshold.max())), limits.state_bits)
        and bool(np.abs(attempt.bias).max(initial=0) < 2**bias_bits)
    )


def lif_of(attempt: Attempt, rule: Rule) -> Lif:
    decay, time_steps, kind, soft = rule
    needed = None if decay.bits_per_step is None else (time_steps - 1) * decay.bits_per_step
    exact = time_steps == 1 or (kind == "programmable" and decay.floors_exactly)
    exact = exact or (needed is not None and attempt.shift >= needed)
    return Lif(kind, decay.numerator, attempt.shift, frozen(attempt.threshold), frozen(attempt.bias), exact, soft=soft)


def within(bounds: tuple[int, int], bits: int) -> bool:
    return max(abs(bounds[0]), abs(bounds[1])) <= 2 ** (bits - 1) - 1


def margin_of(bounds: tuple[int, int], limits: CoreLimits) -> float:
    """Largest state over the largest bound."""
    return (2 ** (limits.state_bits - 1) - 1) / max(1, abs(bounds[0]), abs(bounds[1]))
