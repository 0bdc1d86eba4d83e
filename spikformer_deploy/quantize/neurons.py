"""From a real-valued current to an integer population: threshold, weights, bias and fractional bits that fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.errors import QuantizeError
from spikformer_deploy.graph import ir
from spikformer_deploy.hardware import CoreLimits
from spikformer_deploy.quantize.bounds import membrane_range, weighted_range
from spikformer_deploy.quantize.currents import AttentionTerm, ConvTerm, Current, ReadoutTerm, UnitTerm
from spikformer_deploy.quantize.network import (
    DECAY_ONE,
    STOCK_SHIFT,
    Accumulator,
    Attention,
    Conv,
    Lif,
    Population,
    Projection,
    Readout,
)
from spikformer_deploy.quantize.network import Stream as Relay
from spikformer_deploy.quantize.rounding import Moments
from spikformer_deploy.quantize.scales import largest_thresholds, scale_groups
from spikformer_deploy.quantize.streams import Stream, gain_of
from spikformer_deploy.values import frozen

Int: TypeAlias = NDArray[np.int64]
Array: TypeAlias = NDArray[np.float64]
Made: TypeAlias = tuple[Population, tuple[Projection, ...], str, float]
"""(population, projections into it, "static" or "observed", bits of margin where observed)"""

MOST_FRACTION_BITS = 12
"""More fractional bits of a bias than this change no spike that the rounding of the weights would not."""
OBSERVED_MARGIN = 2.0
"""A range that is only observed must fit this many times over."""
BIAS_HEADROOM_BITS = 4
"""Bits of the state that a threshold or a bias alone leaves free (one is the sign)."""
FEWEST_HEAD_BITS = 4
"""A head gives up weight bits down to here where its accumulators are too wide."""
HEAD_MESSAGE_BITS = 9
"""Bits of the largest value seen that a head reads of a stream, which has no spikes to be counted."""
ATTENTION_ERROR = 2.0**-10
"""Largest relative rounding of an attention threshold whose scale is no dyadic number."""


@dataclass(frozen=True, slots=True, eq=False)
class Settings:
    """What the user chose: weight bits, granularity of the scales ("group", "tensor", "channel"), kind of the LIF.

    moments  for calibrated rounding; None: each weight to its nearest integer
    """

    weight_bits: int = 8
    granularity: str = "group"
    neuron: str = "programmable"
    moments: Moments | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Decay:
    """decay / 4096 and the fractional bits a state needs per step for an exact execution (None: never exact)."""

    numerator: int
    bits_per_step: int | None
    floors_exactly: bool


_Rule: TypeAlias = tuple[_Decay, int, str, bool]
"""(decay, time steps, kind of the LIF, whether its reset is soft)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """One choice of thresholds and fractional bits, with the ranges it leads to (all in units of the state)."""

    threshold: Int
    shift: int
    bias: Int
    low: Int
    high: Int


def make_lif(
    name: str,
    lif: ir.Lif,
    current: Current,
    observed: tuple[float, float],
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
) -> Made:
    """The integer LIF population `name` for a graph's Lif and the current it receives.

    observed  (lowest, highest) current in calibration, for layers whose worst case does not fit
    Raises QuantizeError where no choice of threshold and fractional bits fits the target.
    """
    if lif.v_threshold <= 0 or lif.tau < 1:
        problem = f"tau = {lif.tau} and v_threshold = {lif.v_threshold} (tau >= 1 and v_threshold > 0 are needed)"
        raise QuantizeError(name, problem)
    if lif.soft_reset and settings.neuron == "stock":
        raise QuantizeError(
            name,
            "a soft reset takes the threshold off the potential, and stock neurons reset it to zero",
            "Use --neuron programmable, on a target that has such neurons.",
        )
    decay, gain = _decay(lif.tau), gain_of(lif)
    if any(isinstance(term, UnitTerm) for term in current.terms):
        return _unit_lif(name, current, gain, decay, observed, time_steps, limits, settings, lif.soft_reset)
    if any(isinstance(term, AttentionTerm) for term in current.terms):
        return _attention_lif(name, current, gain, decay, time_steps, limits, settings, lif.soft_reset)
    rounded: dict[bytes, list[Int]] = {}
    for halvings, shift, proven in _choices(settings.neuron, decay, time_steps):
        # a stock threshold is narrow: it makes room for the bits of an exact decay; else those take what is left
        reserved = shift if settings.neuron == "stock" else 0
        thresholds = _thresholds(name, current, gain, halvings, reserved, limits, settings)
        if thresholds is None:
            continue
        if not halvings:
            thresholds = _stretched(_convs(name, current), thresholds, gain, settings)
        if (key := thresholds.tobytes()) not in rounded:
            factor = thresholds.astype(np.float64) * gain
            rounded[key] = [_rounded(term, factor, settings) for term in _convs(name, current)]
        weights = rounded[key]
        ranges = None if proven else (observed[0] * OBSERVED_MARGIN, observed[1] * OBSERVED_MARGIN)
        rule = (decay, time_steps, settings.neuron, lif.soft_reset)
        attempt = _attempt(current, weights, thresholds, gain, shift, rule, ranges)
        if _fits(attempt, limits, settings.neuron):
            neuron = _lif(attempt, rule)
            bounds = (int(attempt.low.min()), int(attempt.high.max()))
            population = Population(name, current.shape, neuron, 1, bounds)
            projections = tuple(
                Projection((term.source,), name, Conv(frozen(w, np.int8), term.stride, term.padding, term.groups))
                for term, w in zip(_convs(name, current), weights, strict=True)
            )
            return population, projections, "static" if proven else "observed", _margin(bounds, limits)
    raise QuantizeError(
        name,
        f"its sums do not fit {limits.state_bits} bits of state with weights of 4 bits or more",
        "Reduce the fan-in of the layer, or use a target with a wider state.",
    )


def make_accumulator(
    name: str,
    current: Current,
    observed: tuple[float, float],
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
) -> Made:
    """The non-firing output population: logits = mean over T of the current = accumulator * scale.

    One scale for all classes, so that the largest integer is the predicted class.
    """
    terms = [term for term in current.terms if isinstance(term, ReadoutTerm)]
    if len(terms) != len(current.terms) or not terms:
        raise QuantizeError(
            name,
            "the network must end in a mean over positions and one linear layer, or in neurons at one position",
            "Put LIF neurons after the last layer.",
        )
    for bits in range(settings.weight_bits, min(FEWEST_HEAD_BITS, settings.weight_bits) - 1, -1):
        scale, weights, bias = _readout(terms, current, time_steps, bits)
        proven = _readout_range(terms, weights, bias, time_steps)
        seen = tuple(int(np.rint(x / scale * OBSERVED_MARGIN)) for x in observed)
        for proof, bounds in (("static", proven), ("observed", (min(seen[0], 0), max(seen[1], 0)))):
            if _within(bounds, limits.state_bits):
                neuron = Accumulator(frozen(bias), frozen(np.full(current.shape[0], scale / time_steps)))
                population = Population(name, current.shape, neuron, 0, bounds)
                projections = tuple(
                    Projection((term.source,), name, Readout(frozen(weight, np.int8)))
                    for term, weight in zip(terms, weights, strict=True)
                )
                return population, projections, proof, _margin(bounds, limits)
    problem = f"its accumulators do not fit {limits.state_bits} bits with weights of {bits} bits"
    raise QuantizeError(name, problem, "Reduce the tokens or the time steps, or use a target with a wider state.")


def _readout(terms: list[ReadoutTerm], current: Current, time_steps: int, bits: int) -> tuple[float, list[Int], Int]:
    """(scale, weights, bias) of a head with so many weight bits: real sum over the steps = integer * scale."""
    peak = max(float(np.abs(term.weight).max(initial=0.0)) for term in terms) or 1.0
    scale = peak / (2 ** (bits - 1) - 1)
    weights = [np.rint(term.weight / scale).astype(np.int64) for term in terms]
    return scale, weights, np.rint(current.bias * time_steps / scale).astype(np.int64)


def _readout_range(terms: list[ReadoutTerm], weights: list[Int], bias: Int, time_steps: int) -> tuple[int, int]:
    """Worst case of the accumulators at any time, over all classes."""
    low, high = np.minimum(bias, 0), np.maximum(bias, 0)
    for term, weight in zip(terms, weights, strict=True):
        least, most = weighted_range(weight, term.max_out * term.positions * time_steps)
        if term.signed:
            least, most = least - most, most - least
        low, high = low + least, high + most
    return int(low.min()), int(high.max())


def _decay(tau: float) -> _Decay:
    exact = (1 - 1 / tau) * DECAY_ONE
    numerator = round(exact)
    if numerator != exact:
        return _Decay(numerator, None, False)
    if numerator == 0:
        return _Decay(0, 0, True)
    zeros = (numerator & -numerator).bit_length() - 1
    return _Decay(numerator, 12 - zeros, numerator >> zeros == 1)


def _choices(kind: str, decay: _Decay, time_steps: int) -> Iterator[tuple[int, int, bool]]:
    """(halvings of the threshold, fractional bits, whether the range is proven), best first."""
    if kind == "programmable":
        yield from ((0, shift, True) for shift in range(MOST_FRACTION_BITS, -1, -1))
        yield from ((0, shift, False) for shift in range(MOST_FRACTION_BITS, -1, -1))
        yield from ((halvings, 0, True) for halvings in range(1, 5))
        return
    # stock: exact with (T - 1) * bits_per_step fractional bits; give up weight bits before exactness
    most = (time_steps - 1) * (decay.bits_per_step if decay.bits_per_step is not None else MOST_FRACTION_BITS)
    for shift in range(min(most, MOST_FRACTION_BITS), -1, -1):
        yield from ((0, shift, True), (0, shift, False), (1, shift, True), (2, shift, True))


def _convs(name: str, current: Current) -> list[ConvTerm]:
    terms = [term for term in current.terms if isinstance(term, ConvTerm)]
    if len(terms) != len(current.terms):
        raise QuantizeError(name, "it adds a token mean to its input", "Only the linear head can read a token mean.")
    return terms


def _thresholds(
    name: str,
    current: Current,
    gain: float,
    halvings: int,
    shift: int,
    limits: CoreLimits,
    settings: Settings,
) -> Int | None:
    """(C,) integer thresholds of the scale groups, before the shift; the halvings give up a weight bit each.

    None where a group would have none left; QuantizeError where not even the first choice has one.
    """
    peaks = np.max([np.abs(t.weight).reshape(len(t.weight), -1).max(1) for t in _convs(name, current)], axis=0)
    largest = 2 ** (settings.weight_bits - 1) - 1
    stock = settings.neuron == "stock"
    width = limits.threshold_bits if stock else limits.state_bits - BIAS_HEADROOM_BITS
    bias_limit = (2 ** (limits.bias_bits if stock else width) - 1) >> shift
    # a large bias on tiny weights bounds the threshold as a large weight would
    biases = np.abs(current.bias).reshape(len(current.bias), -1).max(1)
    peaks = np.maximum(peaks, biases * (largest + 0.5) / max(bias_limit, 1))
    groups = scale_groups(peaks, settings.granularity, limits.parameter_sets)
    thresholds = largest_thresholds(peaks, groups, gain, largest, (2**width - 1) >> shift)
    halved = thresholds >> halvings
    if settings.moments is not None and not halvings:
        # with calibrated rounding a weight may be cut
        halved = np.maximum(halved, 1)
    if halved.min() < 1 and (halvings or shift):
        return None
    if halved.min() < 1:
        ratio = float(peaks.max() * gain)
        raise QuantizeError(
            name,
            f"its largest weight is {ratio:.3g} times the threshold, and {settings.weight_bits}-bit weights of an "
            f"integer threshold reach {largest}",
            "Use --granularity channel, or more weight bits.",
        )
    return halved


def _rounded(term: ConvTerm, factor: Array, settings: Settings | None = None) -> Int:
    real = term.weight * factor[:, None, None, None]
    if settings is None or settings.moments is None:
        return np.rint(real).astype(np.int64)
    return settings.moments.round(term.layer, term.source, real, 2 ** (settings.weight_bits - 1) - 1)


def _stretched(terms: list[ConvTerm], thresholds: Int, gain: float, settings: Settings) -> Int:
    """Calibrated thresholds of programmable neurons with one synaptic layer; a stock threshold has no bits to spare."""
    if settings.moments is None or len(terms) != 1 or settings.neuron == "stock":
        return thresholds
    largest = 2 ** (settings.weight_bits - 1) - 1
    return settings.moments.stretched(terms[0].layer, terms[0].source, terms[0].weight, thresholds, gain, largest)


def _attempt(
    current: Current,
    weights: list[Int],
    thresholds: Int,
    gain: float,
    shift: int,
    rule: _Rule,
    observed: tuple[float, float] | None,
) -> _Attempt:
    factor = thresholds * gain * 2.0**shift
    bias = np.rint(current.bias * (factor if current.bias.ndim == 1 else factor[:, None, None])).astype(np.int64)
    if observed is None:
        flat = bias.reshape(len(bias), -1)
        low, high = flat.min(1), flat.max(1)
        for term, weight in zip(current.terms, weights, strict=True):
            assert isinstance(term, ConvTerm)
            least, most = weighted_range(weight, term.max_out)
            low, high = low + (least << shift), high + (most << shift)
    else:
        low, high = (np.rint(x * factor).astype(np.int64) for x in observed)
    return _with_range(thresholds << shift, shift, bias, low, high, rule)


def _with_range(threshold: Int, shift: int, bias: Int, low: Int, high: Int, rule: _Rule) -> _Attempt:
    """The attempt with the range of the potential that follows from that of the drive, (low, high)."""
    decay, time_steps, kind, soft = rule
    if kind == "stock":
        low, high = low << STOCK_SHIFT, high << STOCK_SHIFT
        lowest, highest = membrane_range(low, high, threshold << STOCK_SHIFT, decay.numerator, time_steps)
        return _Attempt(threshold - 1, shift, bias, lowest, highest)
    lowest, highest = membrane_range(low, high, threshold, decay.numerator, time_steps, soft)
    return _Attempt(threshold, shift, bias, lowest, highest)


def _fits(attempt: _Attempt, limits: CoreLimits, kind: str) -> bool:
    bias_bits = limits.bias_bits if kind == "stock" else limits.state_bits - 1
    return (
        _within((int(attempt.low.min()), int(attempt.high.max())), limits.state_bits)
        and _within((0, int(attempt.threshold.max())), limits.state_bits)
        and bool(np.abs(attempt.bias).max(initial=0) < 2**bias_bits)
    )


def _lif(attempt: _Attempt, rule: _Rule) -> Lif:
    decay, time_steps, kind, soft = rule
    needed = None if decay.bits_per_step is None else (time_steps - 1) * decay.bits_per_step
    exact = time_steps == 1 or (kind == "programmable" and decay.floors_exactly)
    exact = exact or (needed is not None and attempt.shift >= needed)
    return Lif(kind, decay.numerator, attempt.shift, frozen(attempt.threshold), frozen(attempt.bias), exact, soft=soft)


def _attention_lif(
    name: str,
    current: Current,
    gain: float,
    decay: _Decay,
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
    soft: bool,
) -> Made:
    """Attention has no weights to round: its scale goes into the threshold, exactly where that is a whole number."""
    term = current.terms[0]
    if len(current.terms) != 1 or not isinstance(term, AttentionTerm) or np.any(current.bias):
        raise QuantizeError(name, "attention and other synapses or a bias reach the same neuron", "Add a LIF between.")
    weight = 1
    while abs(round(real := weight / (term.factor * gain)) - real) > ATTENTION_ERROR * real and weight < 2**12:
        weight *= 2
    thresholds = np.full(current.shape[0], max(1, round(real)), np.int64)
    shifts = range((time_steps - 1) * (decay.bits_per_step or 0), -1, -1) if settings.neuron == "stock" else [0]
    rule = (decay, time_steps, settings.neuron, soft)
    none = np.zeros(current.shape[0], np.int64)
    for shift in shifts:
        attempt = _with_range(thresholds << shift, shift, none, none, none + (term.limit * weight << shift), rule)
        if _fits(attempt, limits, settings.neuron):
            bounds = (int(attempt.low.min()), int(attempt.high.max()))
            neuron = _lif(attempt, rule)
            projection = Projection(term.sources, name, Attention(term.heads, weight))
            population = Population(name, current.shape, neuron, 1, bounds)
            return population, (projection,), "static", _margin(bounds, limits)
    raise QuantizeError(name, f"attention sums of up to {term.limit * weight} do not fit {limits.state_bits} bits")


def _unit_lif(
    name: str,
    current: Current,
    gain: float,
    decay: _Decay,
    observed: tuple[float, float],
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
    soft: bool,
) -> Made:
    """A neuron that reads a residual stream, or counts spikes: its threshold in their units, and no weights to round.

    The threshold is whole wherever the stream was anchored at it; else rounded, with as many fractional bits as fit.
    """
    term = current.terms[0]
    if len(current.terms) != 1 or not isinstance(term, UnitTerm) or np.any(current.bias):
        raise QuantizeError(name, "a residual stream and other synapses reach the same neuron")
    real = 1 / (gain * term.scale)
    needed = (time_steps - 1) * (MOST_FRACTION_BITS if decay.bits_per_step is None else decay.bits_per_step)
    floors = settings.neuron == "programmable" and decay.floors_exactly
    rule = (decay, time_steps, settings.neuron, soft)
    for shift, proven in product(range(min(MOST_FRACTION_BITS, 0 if floors else needed), -1, -1), (True, False)):
        while (np.abs(np.rint(real * 2**shift) / 2**shift - real) > ATTENTION_ERROR * real).any() and shift < 12:
            shift += 1
        low, high = term.low << shift, term.high << shift
        if not proven:
            low, high = (
                np.rint(x * OBSERVED_MARGIN / term.scale * 2**shift).astype(np.int64) for x in observed
            )  # fmt: skip
        thresholds = np.maximum(1, np.rint(real * 2**shift).astype(np.int64))
        attempt = _with_range(thresholds, shift, np.zeros(len(real), np.int64), low, high, rule)
        if _fits(attempt, limits, settings.neuron):
            bounds = (int(attempt.low.min()), int(attempt.high.max()))
            population = Population(name, current.shape, _lif(attempt, rule), 1, bounds)
            projection = Projection((term.source,), name, term.window)
            return population, (projection,), "static" if proven else "observed", _margin(bounds, limits)
    raise QuantizeError(
        name,
        f"its sums do not fit {limits.state_bits} bits of state",
        "Use a target with a wider state, or fewer time steps.",
    )


def make_stream(
    name: str,
    current: Current,
    stream: Stream,
    observed: tuple[float, float],
    limits: CoreLimits,
    settings: Settings,
) -> tuple[Made, Int, Int]:
    """A population of a residual stream, with its least and largest value a channel, (C,) each.

    observed  (lowest, highest) current in calibration, which bounds the stream where its worst case does not fit
    """
    bias = np.rint(current.bias / (stream.unit if current.bias.ndim == 1 else stream.unit[:, None, None]))
    bias = bias.astype(np.int64)
    flat = bias.reshape(len(bias), -1)
    low, high = flat.min(1), flat.max(1)
    projections = []
    for term in current.terms:
        match term:
            case UnitTerm(source, window, scale, least, most):
                if not np.allclose(scale, stream.unit, rtol=1e-12):
                    raise QuantizeError(name, "it adds streams of different units", "Add currents before pooling them.")
                projections.append(Projection((source,), name, window))
            case ConvTerm():
                exponent = stream.exponents[term.layer]
                weight = _rounded(term, 1 / (stream.unit * 2.0**exponent), settings)
                conv = Conv(frozen(weight, np.int8), term.stride, term.padding, term.groups, exponent)
                projections.append(Projection((term.source,), name, conv))
                least, most = (x << exponent for x in weighted_range(weight, term.max_out))
            case _:
                raise QuantizeError(name, "an attention adds to a residual stream", "Put a LIF and a layer between.")
        low, high = low + least, high + most
    proof = "static" if stream.proven else "observed"
    bounds, low, high = _bounds_of(name, low, high, proof, observed, stream.unit, limits)
    most_sent = int(max(abs(low.min()), abs(high.max())))
    population = Population(name, current.shape, Relay(frozen(bias)), most_sent, bounds)
    return (population, tuple(projections), proof, _margin(bounds, limits)), low, high


def make_pooled(
    name: str, term: UnitTerm, observed: tuple[float, float], limits: CoreLimits
) -> tuple[Made, Array, Int, Int]:
    """Sums of a stream over all positions, for the head: rounded to so many bits that its accumulators fit.

    Returns the population, the real value of one of its units (C,), and its range.
    """
    fits = _within((int(term.low.min()), int(term.high.max())), limits.state_bits)
    proof = "static" if fits else "observed"
    bounds, low, high = _bounds_of(name, term.low, term.high, proof, observed, term.scale, limits)
    seen = int(np.rint(max(map(abs, observed)) * OBSERVED_MARGIN / term.scale.min()))
    drop = max(0, seen.bit_length() - HEAD_MESSAGE_BITS)
    most = -(-int(max(abs(low.min()), abs(high.max()))) >> drop)
    population = Population(name, (len(low), 1, 1), Relay(frozen(np.zeros(len(low), np.int64)), drop), most, bounds)
    projection = Projection((term.source,), name, term.window)
    return (
        (population, (projection,), proof, _margin(bounds, limits)),
        term.scale * 2.0**drop,
        low >> drop,
        high >> drop,
    )


def _bounds_of(
    name: str, low: Int, high: Int, proof: str, observed: tuple[float, float], unit: Array, limits: CoreLimits
) -> tuple[tuple[int, int], Int, Int]:
    """(bounds of a stream's state, least and largest value a channel): its worst case, or all that its bits hold."""
    bits = min(limits.message_bits, limits.state_bits)
    limit = 2 ** (bits - 1) - 1
    if proof == "static":
        bounds = int(low.min()), int(high.max())
    else:
        bounds = (
            min(0, int(np.rint(observed[0] * OBSERVED_MARGIN / unit.min()))),
            max(0, int(np.rint(observed[1] * OBSERVED_MARGIN / unit.min()))),
        )
        low, high = np.full_like(low, -limit), np.full_like(high, limit)
    if not _within(bounds, bits):
        raise QuantizeError(
            name,
            f"a residual stream of values from {bounds[0]:,} to {bounds[1]:,} needs signed messages of more than the "
            f"{bits} bits of the target",
            "Use a target with wide graded spikes (loihi2).",
        )
    return bounds, low, high


def _within(bounds: tuple[int, int], bits: int) -> bool:
    return max(abs(bounds[0]), abs(bounds[1])) <= 2 ** (bits - 1) - 1


def _margin(bounds: tuple[int, int], limits: CoreLimits) -> float:
    """Largest state over the largest bound."""
    return (2 ** (limits.state_bits - 1) - 1) / max(1, abs(bounds[0]), abs(bounds[1]))
