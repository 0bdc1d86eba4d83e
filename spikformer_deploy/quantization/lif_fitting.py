"""Does a LIF fit the target: the range that its potential can have, and the bits that the target has for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.network.bounds import membrane_range
from spikformer_deploy.network.decay import Decay, fractional_bits, rounds_nothing
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import STOCK_SHIFT, Lif, LifKind
from spikformer_deploy.quantization.currents import Current, layers_of
from spikformer_deploy.quantization.fitting import Observed, Quantized, margin_of, within
from spikformer_deploy.quantization.settings import Settings

MOST_FRACTION_BITS = 12
"""More fractional bits of a bias than this change no spike that the rounding of the weights would not."""
BIAS_HEADROOM_BITS = 4
"""Bits of the state that a threshold or a bias leaves free for the sums (one of them is the sign)."""


@dataclass(frozen=True, slots=True, eq=False)
class LifRule:
    """How a LIF of the model behaves: in `kind` neurons of the target, for `time_steps` steps.

    soft    a spike takes the threshold off the potential; else it resets it to zero
    strict  it fires above its threshold and not at it
    """

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
class LifTask:
    """A LIF of the model that is to become integers, and what those must fit.

    current   what it receives in a step, in real numbers
    gain      what a current of 1 adds to the potential, in units of the threshold
    observed  ranges of currents in calibration, asked for where the worst case does not fit
    """

    name: str
    current: Current
    gain: float
    rule: LifRule
    observed: Observed
    limits: CoreLimits
    settings: Settings

    @property
    def largest_weight(self) -> int:
        """The largest magnitude of an integer weight of the layer with the most bits."""
        return self.settings.widest(layers_of(self.current))

    @property
    def threshold_bits(self) -> int:
        """Bits that an integer threshold may have."""
        if self.rule.kind == LifKind.STOCK:
            return self.limits.threshold_bits
        return self.limits.state_bits - BIAS_HEADROOM_BITS


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One choice of thresholds and fractional bits, with the ranges it leads to (all in units of the state)."""

    threshold: Int
    shift: int
    bias: Int
    low: Int
    high: Int

    @property
    def bounds(self) -> tuple[int, int]:
        """(lowest, highest) potential of any channel."""
        return int(self.low.min()), int(self.high.max())


def with_range(threshold: Int, shift: int, bias: Int, low: Int, high: Int, rule: LifRule) -> Attempt:
    """The attempt with the range of the potential that follows from that of the drive, (low, high)."""
    decay = rule.decay.numerator
    steps = rule.time_steps
    if rule.kind == LifKind.PROGRAMMABLE:
        lowest, highest = membrane_range(low, high, threshold, decay, steps, rule.soft, rule.strict)
        return Attempt(threshold, shift, bias, lowest, highest)
    # Stock neurons fire above their threshold and not at it: potentials are whole, so one less is the same as "at it".
    stock_threshold = threshold if rule.strict else threshold - 1
    # membrane_range asks for the least potential that fires; stock neurons hold everything shifted by STOCK_SHIFT.
    fires_from = (stock_threshold << STOCK_SHIFT) + 1
    lowest, highest = membrane_range(low << STOCK_SHIFT, high << STOCK_SHIFT, fires_from, decay, steps)
    return Attempt(stock_threshold, shift, bias, lowest, highest)


def fits(attempt: Attempt, limits: CoreLimits, kind: LifKind) -> bool:
    """Whether the target holds the potential, the threshold and the bias of an attempt."""
    # A stock bias has a register of its own; a programmable one is a word of the state, with a sign.
    bias_bits = limits.bias_bits if kind == LifKind.STOCK else limits.state_bits - 1
    return (
        within(attempt.bounds, limits.state_bits)
        and within((0, int(attempt.threshold.max())), limits.state_bits)
        and bool(np.abs(attempt.bias).max(initial=0) < 2**bias_bits)
    )


def quantized_lif(task: LifTask, attempt: Attempt, projections: tuple[Projection, ...], proven: bool) -> Quantized:
    """The population of an attempt that fits; its rounding is still to be said."""
    population = Population(task.name, task.current.shape, _lif_of(attempt, task.rule), 1, attempt.bounds, rounding=0.0)
    return Quantized(population, projections, proven, margin_of(attempt.bounds, task.limits))


def _lif_of(attempt: Attempt, rule: LifRule) -> Lif:
    return Lif(
        rule.kind,
        rule.decay.numerator,
        attempt.shift,
        frozen(attempt.threshold),
        frozen(attempt.bias),
        exact=rounds_nothing(rule.bits_for_decay, attempt.shift, attempt.bias),
        soft=rule.soft,
        # of stock neurons the threshold says it already: they always compare strictly
        strict=rule.strict and rule.kind == LifKind.PROGRAMMABLE,
    )
