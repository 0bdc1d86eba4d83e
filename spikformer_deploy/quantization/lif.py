"""From a real-valued current to an integer LIF: threshold, weights, bias and fractional bits that fit.

A LIF of the model multiplies its input by the gain and compares with 1 (the threshold is divided out).  The integer
LIF multiplies both sides by an integer threshold: only the weights are rounded then, and the comparison is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.graph import ir
from spikformer_deploy.network.decay import decay_of
from spikformer_deploy.network.neurons import LifKind
from spikformer_deploy.quantization.currents import AttentionTerm, ConvTerm, Current, DualTerm, UnitTerm
from spikformer_deploy.quantization.fitting import Observed, Quantized
from spikformer_deploy.quantization.lif_fitting import MOST_FRACTION_BITS, LifRule, LifTask, fits
from spikformer_deploy.quantization.lif_on_grid import lif_on_grid
from spikformer_deploy.quantization.lif_unweighted import attention_lif, unit_lif
from spikformer_deploy.quantization.scales import gain_of, largest_thresholds, least_error_thresholds, scale_groups
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.weights import (
    all_weights,
    attempt_of,
    convolutions,
    joint_peaks,
    rounded_weights,
    weighted_lif,
)

STOCK_BIAS_BITS = 4
"""Fractional bits that a bias of stock neurons is offered beyond those of its decay."""
MOST_HALVINGS = 4
"""A programmable layer gives up this many weight bits where its sums do not fit: of 8 bits 4 are left."""


def make_lif(
    name: str,
    lif: ir.Lif,
    current: Current,
    observed: Observed,
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
) -> Quantized:
    """The integer LIF population `name` for a graph's Lif and the current it receives.

    observed  of currents in calibration, asked for where the worst case does not fit
    Raises QuantizeError where no choice of threshold and fractional bits fits the target.
    """
    if lif.v_threshold <= 0 or lif.tau < 1:
        problem = f"tau = {lif.tau} and v_threshold = {lif.v_threshold} (tau >= 1 and v_threshold > 0 are needed)"
        raise QuantizeError(name, problem)
    if lif.soft_reset and settings.neuron == LifKind.STOCK:
        raise QuantizeError(
            name,
            "a soft reset takes the threshold off the potential, and stock neurons reset it to zero",
            "Use --neuron programmable, on a target that has such neurons.",
        )
    rule = LifRule(decay_of(lif.tau), time_steps, settings.neuron, lif.soft_reset, lif.strict)
    task = LifTask(name, current, gain_of(lif), rule, observed, limits, settings)
    if any(isinstance(term, UnitTerm | DualTerm) for term in current.terms):
        return unit_lif(task)
    if any(isinstance(term, AttentionTerm) for term in current.terms):
        return attention_lif(task)
    # Weights that need no rounding come first: rounding would find other integers for them.
    return lif_on_grid(task) or _lif_of_rounded_weights(task)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a layer gives up, or does not, to fit.

    halvings  of the threshold, and with it of the weights: each gives up a weight bit
    shift     fractional bits of the drive and of the state
    proven    whether the worst case must fit; else the observed range, with its margin
    """

    halvings: int
    shift: int
    proven: bool


def _lif_of_rounded_weights(task: LifTask) -> Quantized:
    """The first choice that fits, best choices first."""
    terms = convolutions(task)
    # Choices differ mostly in bits and proofs: what they share is worked out once, by the bytes of the thresholds.
    weights_of: dict[bytes, list[Int]] = {}
    least_error_of: dict[bytes, Int] = {}
    for choice in _choices(task.rule, bool(np.any(task.current.bias))):
        thresholds = _thresholds(task, choice, least_error_of)
        if thresholds is None:
            continue
        if not choice.halvings:
            thresholds = _stretched(task, terms, thresholds)
        real = thresholds.astype(np.float64)
        key = thresholds.tobytes()
        if key not in weights_of:
            weights_of[key] = [rounded_weights(term, real * task.gain, task.settings) for term in terms]
        attempt = attempt_of(task, weights_of[key], real, choice.shift, choice.proven)
        if fits(attempt, task.limits, task.settings.neuron):
            return weighted_lif(task, attempt, real * task.gain, weights_of[key], choice.proven)
    raise QuantizeError(
        task.name,
        f"its sums do not fit {task.limits.state_bits} bits of state with weights of 4 bits or more",
        "Reduce the fan-in of the layer, or use a target with a wider state.",
    )


def _choices(rule: LifRule, biased: bool) -> Iterator[_Choice]:
    """What to try, best first."""
    if rule.kind == LifKind.PROGRAMMABLE:
        # Fractional bits serve the bias and the decay, and more of them are better.  A proof is worth more than all of
        # those bits, and weight bits are worth more than the proof: they are the last to be given up.
        yield from (_Choice(0, shift, True) for shift in range(MOST_FRACTION_BITS, -1, -1))
        yield from (_Choice(0, shift, False) for shift in range(MOST_FRACTION_BITS, -1, -1))
        yield from (_Choice(halvings, 0, True) for halvings in range(1, MOST_HALVINGS + 1))
        return
    # Stock neurons round toward zero in every step: they are exact with the bits that all decays take.  Weight bits
    # are given up before exactness.
    bits_per_step = rule.decay.bits_per_step
    exact = (rule.time_steps - 1) * (MOST_FRACTION_BITS if bits_per_step is None else bits_per_step)
    # A bias decays exactly where the bits of the decay are zero in it: only bits beyond those are of use to it.
    if biased and bits_per_step is not None:
        highest = min(exact + STOCK_BIAS_BITS, MOST_FRACTION_BITS)
        yield from (_Choice(0, shift, True) for shift in range(highest, exact, -1))
    for shift in range(min(exact, MOST_FRACTION_BITS), -1, -1):
        yield _Choice(0, shift, True)
        yield _Choice(0, shift, False)
        yield _Choice(1, shift, True)
        yield _Choice(2, shift, True)


def _thresholds(task: LifTask, choice: _Choice, least_error_of: dict[bytes, Int]) -> Int | None:
    """(C,) integer thresholds of the scale groups, before the shift; the halvings give up a weight bit each.

    least_error_of  the thresholds of least error by the largest ones, of earlier choices for this layer

    None where a group would have none left; QuantizeError where not even the first choice has one.
    """
    # A stock threshold is narrow, and makes room for the bits of an exact decay; a programmable one is as wide as the
    # state, and fractional bits take what it leaves.
    reserved = choice.shift if task.rule.kind == LifKind.STOCK else 0
    peaks = _peaks(task, reserved)
    groups = scale_groups(peaks, task.settings.granularity, task.limits.parameter_sets)
    cap = (2**task.threshold_bits - 1) >> reserved
    thresholds = largest_thresholds(peaks, groups, task.gain, task.largest_weight, cap)
    if task.settings.moments is None:
        key = thresholds.tobytes()
        if key not in least_error_of:
            least_error_of[key] = least_error_thresholds(all_weights(convolutions(task)), thresholds, groups, task.gain)
        thresholds = least_error_of[key]
    halved = thresholds >> choice.halvings
    if task.settings.moments is not None and not choice.halvings:
        # with calibrated rounding a weight may be cut
        halved = np.maximum(halved, 1)
    if halved.min() >= 1:
        return halved
    if choice.halvings or reserved:
        return None
    ratio = float(peaks.max() * task.gain)
    raise QuantizeError(
        task.name,
        f"its largest weight is {ratio:.3g} times the threshold, and {task.largest_weight.bit_length() + 1}-bit "
        f"weights of an integer threshold reach {task.largest_weight}",
        "Use --granularity channel, or more weight bits.",
    )


def _peaks(task: LifTask, reserved: int) -> Float:
    """(C,) the largest |weight| of each channel; a large bias on tiny weights counts as the weight that bounds alike.

    The threshold multiplies weights and bias: it is bounded by the weight's bits, and by those of the bias.
    """
    peaks = joint_peaks(convolutions(task), task.settings)
    stock = task.rule.kind == LifKind.STOCK
    bias_bits = task.limits.bias_bits if stock else task.threshold_bits
    bias_limit = (2**bias_bits - 1) >> reserved
    biases = np.abs(task.current.bias).reshape(len(task.current.bias), -1).max(1)
    # + 0.5: a weight may be so large that it still rounds to the largest integer
    return np.maximum(peaks, biases * (task.largest_weight + 0.5) / max(bias_limit, 1))


def _stretched(task: LifTask, terms: list[ConvTerm], thresholds: Int) -> Int:
    """Calibrated thresholds of programmable neurons with one synaptic layer; a stock threshold has no bits to spare."""
    moments = task.settings.moments
    if moments is None or len(terms) != 1 or task.rule.kind == LifKind.STOCK:
        return thresholds
    term = terms[0]
    return moments.stretched(term.layer, term.source, term.weight, thresholds, task.gain, task.largest_weight)
