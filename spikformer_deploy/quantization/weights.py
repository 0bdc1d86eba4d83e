"""Integer weights, and the LIF that has them: what weights on a grid and rounded weights share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.network.bounds import weighted_range
from spikformer_deploy.network.network import Projection
from spikformer_deploy.network.synapses import Conv
from spikformer_deploy.quantization.currents import ConvTerm, Current
from spikformer_deploy.quantization.fitting import Quantized, with_margin
from spikformer_deploy.quantization.grids import none_below, weight_error, whole_thresholds
from spikformer_deploy.quantization.lif_fitting import Attempt, LifTask, quantized_lif, with_range
from spikformer_deploy.quantization.settings import Settings


def convolutions(task: LifTask) -> list[ConvTerm]:
    """The terms of a current that has nothing but convolutions; QuantizeError where it has others."""
    terms = [term for term in task.current.terms if isinstance(term, ConvTerm)]
    if len(terms) != len(task.current.terms):
        problem = "it adds a token mean to its input"
        raise QuantizeError(task.name, problem, "Only the linear head can read a token mean.")
    return terms


def all_weights(terms: Sequence[ConvTerm]) -> Float:
    """(C, N) the weights of all convolutions; a layer that reads several populations with the same ones counts once."""
    by_layer = {term.layer: term.weight.reshape(len(term.weight), -1) for term in terms}
    return np.concatenate(list(by_layer.values()), 1)


def rounded_weights(term: ConvTerm, factor: Float, settings: Settings) -> Int:
    """Integers for the real weights of a term times `factor` (C_out,)."""
    real = term.weight * factor[:, None, None, None]
    largest = settings.largest_weight(term.layer)
    if settings.moments is None:
        # layers of unequal bits share a factor that is a quotient of floats: a weight half a unit above stays below it
        return np.clip(np.rint(real), -largest, largest).astype(np.int64)
    return settings.moments.round(term.layer, term.source, real, largest)


def joint_peaks(terms: Sequence[ConvTerm], settings: Settings) -> Float:
    """(C,) the largest |weight| of each channel, as if all layers that share its scale had the bits of the widest.

    A layer with fewer bits counts with larger weights: those that fill the widest where its own are filled.
    """
    widest = settings.widest(term.layer for term in terms)
    return np.max([channel_peaks(t.weight) * wider(widest, settings.largest_weight(t.layer)) for t in terms], axis=0)


def channel_peaks(weight: Float) -> Float:
    """(O,) the largest |weight| of each output channel of `weight` (O, ...)."""
    return np.abs(weight).reshape(len(weight), -1).max(1)


def wider(widest: int, largest: int) -> float:
    """How much larger a weight may be where the largest integer is `widest`: up to half a unit above it."""
    return (widest + 0.5) / (largest + 0.5)


def within_bits(terms: Sequence[ConvTerm], weights: Sequence[Int], settings: Settings) -> bool:
    """Whether the integer weights of each term are within the bits of its layer."""
    pairs = zip(terms, weights, strict=True)
    return all(int(np.abs(weight).max(initial=0)) <= settings.largest_weight(term.layer) for term, weight in pairs)


def convolved_by(target: str, term: ConvTerm, weight: Int, settings: Settings, shift: int = 0) -> Projection:
    """The synapses of a term with integer weights times 2^shift."""
    conv = Conv(frozen(weight, np.int8), term.stride, term.padding, term.groups, shift)
    return Projection((term.source,), target, conv, settings.own_bits(term.layer))


def attempt_of(task: LifTask, weights: list[Int], thresholds: Float, shift: int, proven: bool) -> Attempt:
    """Integer thresholds and biases with `shift` fractional bits, and the range of the potential that follows.

    weights     of each convolution, integer, in units of one
    thresholds  (C,) real, in the units of the weights
    proven      whether the range is that of the worst case, or the observed one with its margin
    """
    factor = thresholds * task.gain * 2.0**shift
    # Each step's decay takes some of the lowest bits.  A bias that has them would be rounded step by step: where the
    # state has the bits that the decay needs, those of the bias stay zero.
    bits_for_decay = task.rule.bits_for_decay or 0
    unit = 1 << bits_for_decay if shift >= bits_for_decay else 1
    bias = np.rint(_per_channel(task.current, factor) / unit).astype(np.int64) * unit
    if proven:
        low, high = _worst_drive(task.current, weights, bias, shift)
    else:
        least, most = with_margin(task.observed(task.name))
        low = np.rint(least * factor).astype(np.int64)
        high = np.rint(most * factor).astype(np.int64)
    whole = whole_thresholds(thresholds, shift, task.rule.strict)
    return with_range(whole, shift, bias, low, high, task.rule)


def _worst_drive(current: Current, weights: list[Int], bias: Int, shift: int) -> tuple[Int, Int]:
    """Least and largest drive of each channel in one step, (C,) each, over all positions and inputs."""
    flat = bias.reshape(len(bias), -1)
    low = flat.min(1)
    high = flat.max(1)
    for term, weight in zip(current.terms, weights, strict=True):
        assert isinstance(term, ConvTerm)
        least, most = weighted_range(weight, term.max_out)
        low = low + (least << shift)
        high = high + (most << shift)
    return low, high


def weighted_lif(task: LifTask, attempt: Attempt, factor: Float, weights: list[Int], proven: bool) -> Quantized:
    """The population of integer `weights`, which stand for real ones times `factor` (C,), and its synapses."""
    terms = convolutions(task)
    projections = tuple(
        convolved_by(task.name, term, weight, task.settings) for term, weight in zip(terms, weights, strict=True)
    )
    errors = [
        weight_error(term.weight * factor[:, None, None, None], weight)
        for term, weight in zip(terms, weights, strict=True)
    ]
    errors.append(_bias_error(task.current, factor * 2.0**attempt.shift, attempt))
    return quantized_lif(task, attempt, projections, proven).rounded_by(none_below(max(errors)))


def _bias_error(current: Current, scale: Float, attempt: Attempt) -> float:
    """Largest difference between the integer bias and the real one times `scale` (C,), over the threshold."""
    off = np.abs(_per_channel(current, scale) - attempt.bias).reshape(len(attempt.bias), -1).max(1)
    return float((off / np.maximum(1, attempt.threshold)).max())


def _per_channel(current: Current, factor: Float) -> Float:
    """The bias of a current, (C,) or (C, Y, X), times `factor` (C,)."""
    return current.bias * (factor if current.bias.ndim == 1 else factor[:, None, None])
