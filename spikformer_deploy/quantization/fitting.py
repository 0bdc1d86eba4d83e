"""Does a LIF fit the target: the range that its potential can have, and the bits that are there for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.network.bounds import membrane_range
from spikformer_deploy.network.decay import Decay, fractional_bits, rounds_nothing
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import STOCK_SHIFT, Lif, LifKind

Made: TypeAlias = tuple[Population, tuple[Projection, ...], str, float]
"""(population, projections into it, "static" or "observed", bits of margin where observed)"""

OBSERVED_MARGIN = 2.0
"""A range that is only observed must fit this many times over."""


class Rule(NamedTuple):
    """How a LIF of the model behaves: in `kind` neurons of the target, for `time_steps` steps."""

    decay: Decay
    time_steps: int
    kind: LifKind
    soft: bool
    strict: bool

    @property
    def bits_for_decay(self) -> int | None:
        """Fractional bits that drive and state need so that no step rounds the potential; None: no number is enough."""
        return fractional_bits(self.decay, self.kind, self.time_steps)


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One choice of thresholds and fractional bits, with the ranges it leads to (all in units of the state)."""

    threshold: Int
    shift: int
    bias: Int
    low: Int
    high: Int


def with_range(threshold: Int, shift: int, bias: Int, low: Int, high: Int, rule: Rule) -> Attempt:
    """The attempt with the range of the potential that follows from that of the drive, (low, high)."""
    decay, steps = rule.decay.numerator, rule.time_steps
    if rule.kind == LifKind.STOCK:
        # stock neurons fire above their threshold: one less is at it
        own = threshold if rule.strict else threshold - 1
        low, high = low << STOCK_SHIFT, high << STOCK_SHIFT
        lowest, highest = membrane_range(low, high, (own << STOCK_SHIFT) + 1, decay, steps)
        return Attempt(own, shift, bias, lowest, highest)
    lowest, highest = membrane_range(low, high, threshold, decay, steps, rule.soft, rule.strict)
    return Attempt(threshold, shift, bias, lowest, highest)


def fits(attempt: Attempt, limits: CoreLimits, kind: LifKind) -> bool:
    bias_bits = limits.bias_bits if kind == LifKind.STOCK else limits.state_bits - 1
    return (
        within((int(attempt.low.min()), int(attempt.high.max())), limits.state_bits)
        and within((0, int(attempt.threshold.max())), limits.state_bits)
        and bool(np.abs(attempt.bias).max(initial=0) < 2**bias_bits)
    )


def lif_of(attempt: Attempt, rule: Rule) -> Lif:
    exact = rounds_nothing(rule.bits_for_decay, attempt.shift, attempt.bias)
    return Lif(
        rule.kind,
        rule.decay.numerator,
        attempt.shift,
        frozen(attempt.threshold),
        frozen(attempt.bias),
        exact,
        soft=rule.soft,
        strict=rule.strict and rule.kind == LifKind.PROGRAMMABLE,
    )


def within(bounds: tuple[int, int], bits: int) -> bool:
    return max(abs(bounds[0]), abs(bounds[1])) <= 2 ** (bits - 1) - 1


def margin_of(bounds: tuple[int, int], limits: CoreLimits) -> float:
    """Largest state over the largest bound."""
    return (2 ** (limits.state_bits - 1) - 1) / max(1, abs(bounds[0]), abs(bounds[1]))
