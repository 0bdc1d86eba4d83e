"""LIFs without weights to round: of attention, and of residual streams and counts that unit synapses add up.

All that is to choose is the threshold, in the units of what arrives.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.network.network import Projection
from spikformer_deploy.network.neurons import LifKind
from spikformer_deploy.network.synapses import Attention
from spikformer_deploy.quantization.currents import AttentionTerm, DualTerm, UnitTerm
from spikformer_deploy.quantization.fitting import Quantized, with_margin
from spikformer_deploy.quantization.grids import none_below
from spikformer_deploy.quantization.lif_fitting import (
    MOST_FRACTION_BITS,
    LifRule,
    LifTask,
    fits,
    quantized_lif,
    with_range,
)
from spikformer_deploy.quantization.scales import check_units

THRESHOLD_ERROR = 2.0**-10
"""Largest relative rounding of a threshold, where fractional bits or a factor can make it smaller."""
LARGEST_FACTOR = 2**12
"""Attention is multiplied by no more than this for the sake of its threshold: its sums grow with it."""


def attention_lif(task: LifTask) -> Quantized:
    """Attention has no weights to round: its scale goes into the threshold, exactly where that is a whole number."""
    term = task.current.terms[0]
    if len(task.current.terms) != 1 or not isinstance(term, AttentionTerm) or np.any(task.current.bias):
        problem = "attention and other synapses or a bias reach the same neuron"
        raise QuantizeError(task.name, problem, "Put neurons between.")
    factor, real = _factor_and_threshold(1 / (term.factor * task.gain))
    channels = task.current.shape[0]
    thresholds = np.full(channels, max(1, round(real)), np.int64)
    error = none_below(abs(round(real) - real) / real)
    nothing = np.zeros(channels, np.int64)
    for shift in _attention_shifts(task.rule):
        most = nothing + (term.limit * factor << shift)
        attempt = with_range(thresholds << shift, shift, nothing, nothing, most, task.rule)
        if fits(attempt, task.limits, task.rule.kind):
            projection = Projection(
                term.sources, task.name, Attention(term.heads, factor), task.settings.own_bits(term.layer)
            )
            return quantized_lif(task, attempt, (projection,), True).rounded_by(error)
    problem = f"attention sums of up to {term.limit * factor} do not fit {task.limits.state_bits} bits"
    raise QuantizeError(task.name, problem)


def _factor_and_threshold(exact: float) -> tuple[int, float]:
    """(factor, exact * factor): the smallest power of two with which the threshold is nearly whole."""
    factor = 1
    while abs(round(exact * factor) - exact * factor) > THRESHOLD_ERROR * exact * factor and factor < LARGEST_FACTOR:
        factor *= 2
    return factor, exact * factor


def _attention_shifts(rule: LifRule) -> Iterable[int]:
    """Fractional bits to try: as many as a stock neuron's decay needs, then fewer.  Programmable neurons get none."""
    if rule.kind == LifKind.PROGRAMMABLE:
        return (0,)
    return range((rule.time_steps - 1) * (rule.decay.bits_per_step or 0), -1, -1)


def unit_lif(task: LifTask) -> Quantized:
    """A neuron that reads a residual stream, counts spikes, or reads a product of currents and spikes.

    Its threshold is in their units, and there are no weights to round.

    The threshold is whole wherever the stream was anchored at it; else rounded, with as many fractional bits as fit.
    """
    term = task.current.terms[0]
    if len(task.current.terms) != 1 or not isinstance(term, UnitTerm | DualTerm) or np.any(task.current.bias):
        what = "a residual stream" if isinstance(term, UnitTerm) else "a product of currents and spikes"
        raise QuantizeError(task.name, f"{what} and other synapses reach the same neuron", "Put neurons on each.")
    check_units(task.name, term.scale)
    real = 1 / (task.gain * term.scale)
    # Most bits first, as they round the decay least; of each number a proof is tried before an observation.
    for bits, proven in product(range(_bits_for_units(task.rule), -1, -1), (True, False)):
        shift = _enough_bits(real, bits)
        thresholds = np.maximum(1, np.rint(real * 2**shift).astype(np.int64))
        low, high = _drive(task, term, shift, proven)
        attempt = with_range(thresholds, shift, np.zeros(len(real), np.int64), low, high, task.rule)
        if fits(attempt, task.limits, task.rule.kind):
            error = float(np.abs(thresholds / 2.0**shift / real - 1).max())
            return quantized_lif(task, attempt, (_unweighted(task, term),), proven).rounded_by(none_below(error))
    raise QuantizeError(
        task.name,
        f"its sums do not fit {task.limits.state_bits} bits of state",
        "Use a target with a wider state, or fewer time steps.",
    )


def _unweighted(task: LifTask, term: UnitTerm | DualTerm) -> Projection:
    """The synapses of a term that has no weights."""
    if isinstance(term, UnitTerm):
        return Projection((term.source,), task.name, term.window)
    return Projection(term.sources, task.name, term.synapse, task.settings.own_bits(term.layer))


def _bits_for_units(rule: LifRule) -> int:
    """Fractional bits with which no decay rounds, or as many as are of use."""
    if rule.kind == LifKind.PROGRAMMABLE and rule.decay.floors_exactly:
        return 0
    per_step = MOST_FRACTION_BITS if rule.decay.bits_per_step is None else rule.decay.bits_per_step
    return min(MOST_FRACTION_BITS, (rule.time_steps - 1) * per_step)


def _enough_bits(real: Float, bits: int) -> int:
    """`bits`, or as many more as bring all thresholds within THRESHOLD_ERROR of what they stand for."""
    while (np.abs(np.rint(real * 2**bits) / 2**bits - real) > THRESHOLD_ERROR * real).any():
        if bits >= MOST_FRACTION_BITS:
            break
        bits += 1
    return bits


def _drive(task: LifTask, term: UnitTerm | DualTerm, shift: int, proven: bool) -> tuple[Int, Int]:
    """Least and largest drive of each channel in one step, (C,) each: the worst case, or what was seen."""
    if proven:
        return term.low << shift, term.high << shift
    least, most = with_margin(task.observed(task.name))
    low = np.rint(least / term.scale * 2**shift).astype(np.int64)
    high = np.rint(most / term.scale * 2**shift).astype(np.int64)
    return low, high
