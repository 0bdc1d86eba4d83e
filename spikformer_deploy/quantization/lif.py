"""From a real-valued current to an integer LIF: threshold, weights, bias and fractional bits that fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.graph import ir
from spikformer_deploy.network.bounds import weighted_range
from spikformer_deploy.network.decay import decay_of
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import LifKind
from spikformer_deploy.network.synapses import Attention, Conv
from spikformer_deploy.quantization.currents import AttentionTerm, ConvTerm, Current, UnitTerm
from spikformer_deploy.quantization.fitting import (
    OBSERVED_MARGIN,
    Attempt,
    Made,
    Rule,
    fits,
    lif_of,
    margin_of,
    with_range,
)
from spikformer_deploy.quantization.grids import are_whole, grid_steps, none_below, weight_error, whole_thresholds
from spikformer_deploy.quantization.scales import largest_thresholds, least_error_thresholds, scale_groups
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.streams import Ranges, gain_of

MOST_FRACTION_BITS = 12
"""More fractional bits of a bias than this change no spike that the rounding of the weights would not."""
STOCK_BIAS_BITS = 4
"""Fractional bits that a bias of stock neurons is offered beyond those of its decay."""
BIAS_HEADROOM_BITS = 4
"""Bits of the state that a threshold or a bias alone leaves free (one is the sign)."""
ATTENTION_ERROR = 2.0**-10
"""Largest relative rounding of an attention threshold whose scale is no dyadic number."""


def make_lif(
    name: str,
    lif: ir.Lif,
    current: Current,
    observed: Ranges,
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
) -> Made:
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
    gain = gain_of(lif)
    rule = Rule(decay_of(lif.tau), time_steps, settings.neuron, lif.soft_reset, lif.strict)
    if any(isinstance(term, UnitTerm) for term in current.terms):
        return _unit_lif(name, current, gain, rule, observed, limits)
    if any(isinstance(term, AttentionTerm) for term in current.terms):
        return _attention_lif(name, current, gain, rule, limits)
    return _conv_lif(name, current, gain, rule, observed, limits, settings)


def _conv_lif(
    name: str,
    current: Current,
    gain: float,
    rule: Rule,
    observed: Ranges,
    limits: CoreLimits,
    settings: Settings,
) -> Made:
    terms = _convs(name, current)
    if (made := _on_grid(name, current, gain, rule, observed, limits, settings)) is not None:
        return made
    rounded: dict[bytes, list[Int]] = {}
    scored: dict[bytes, Int] = {}
    for halvings, shift, proven in _choices(rule, bool(np.any(current.bias))):
        # a stock threshold is narrow: it makes room for the bits of an exact decay; else those take what is left
        reserved = shift if settings.neuron == LifKind.STOCK else 0
        thresholds = _thresholds(name, current, gain, halvings, reserved, limits, settings, scored)
        if thresholds is None:
            continue
        if not halvings:
            thresholds = _stretched(terms, thresholds, gain, settings)
        if (key := thresholds.tobytes()) not in rounded:
            factor = thresholds.astype(np.float64) * gain
            rounded[key] = [rounded_weights(term, factor, settings) for term in terms]
        ranges = None if proven else _with_margin(observed(name))
        real = thresholds.astype(np.float64)
        attempt = _attempt(current, rounded[key], real, gain, shift, rule, ranges)
        if fits(attempt, limits, settings.neuron):
            return _synaptic(name, current, attempt, real * gain, rounded[key], rule, proven, limits)
    raise QuantizeError(
        name,
        f"its sums do not fit {limits.state_bits} bits of state with weights of 4 bits or more",
        "Reduce the fan-in of the layer, or use a target with a wider state.",
    )


def _on_grid(
    name: str, current: Current, gain: float, rule: Rule, observed: Ranges, limits: CoreLimits, settings: Settings
) -> Made | None:
    """The LIF of weights that are integers times a step: those integers, and the threshold in units of the step.

    None where they are not, or where it does not fit without giving something up.
    The threshold need not be whole: with the bits of the decay, a potential reaches it where it reaches the next whole
    number of those bits.
    """
    terms = _convs(name, current)
    if not terms:
        return None
    flat = np.concatenate([term.weight.reshape(len(term.weight), -1) for term in terms], 1)
    steps = grid_steps(flat, 2 ** (settings.weight_bits - 1) - 1)
    if steps is None or (settings.granularity == "tensor" and np.ptp(steps)):
        return None
    thresholds = 1 / (steps * gain)
    weights = [np.rint(term.weight / steps[:, None, None, None]).astype(np.int64) for term in terms]
    needed = _bits_on_grid(thresholds, rule)
    # more bits than the decay needs are of use to a bias
    most = MOST_FRACTION_BITS if needed is None or np.any(current.bias) else needed
    width = limits.threshold_bits if rule.kind == LifKind.STOCK else limits.state_bits - BIAS_HEADROOM_BITS
    for shift, proven in product(range(max(most, needed or 0), (needed or 0) - 1, -1), (True, False)):
        scaled = thresholds * 2.0**shift
        if scaled.max() >= 2**width or scaled.min() < 0.5:
            continue
        ranges = None if proven else _with_margin(observed(name))
        attempt = _attempt(current, weights, thresholds, gain, shift, rule, ranges)
        if fits(attempt, limits, settings.neuron):
            population, *rest = _synaptic(name, current, attempt, 1 / steps, weights, rule, proven, limits)
            # only where no number of bits is enough for the decay, a threshold between two numbers is rounded
            off = 0.0 if needed is not None else float((1 / scaled).max())
            return replace(population, rounding=max(population.rounding, off)), *rest  # type: ignore[return-value]
    return None


def _bits_on_grid(thresholds: Float, rule: Rule) -> int | None:
    """The fewest fractional bits with which potentials of whole sums compare with real thresholds without an error.

    None: no number of bits is enough.
    """
    if are_whole(thresholds).all() or rule.decay.bits_per_step is None:
        return rule.bits_for_decay
    bits = (rule.time_steps - 1) * rule.decay.bits_per_step
    return bits if bits <= MOST_FRACTION_BITS else None


def _choices(rule: Rule, biased: bool) -> Iterator[tuple[int, int, bool]]:
    """(halvings of the threshold, fractional bits, whether the range is proven), best first."""
    decay, time_steps = rule.decay, rule.time_steps
    if rule.kind == LifKind.PROGRAMMABLE:
        yield from ((0, shift, True) for shift in range(MOST_FRACTION_BITS, -1, -1))
        yield from ((0, shift, False) for shift in range(MOST_FRACTION_BITS, -1, -1))
        yield from ((halvings, 0, True) for halvings in range(1, 5))
        return
    # stock: exact with (T - 1) * bits_per_step fractional bits; give up weight bits before exactness
    most = (time_steps - 1) * (decay.bits_per_step if decay.bits_per_step is not None else MOST_FRACTION_BITS)
    # a bias decays exactly where the bits of the decay are zero in it: it has only those beyond
    if biased and decay.bits_per_step is not None:
        highest = min(most + STOCK_BIAS_BITS, MOST_FRACTION_BITS)
        yield from ((0, shift, True) for shift in range(highest, most, -1))
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
    scored: dict[bytes, Int],
) -> Int | None:
    """(C,) integer thresholds of the scale groups, before the shift; the halvings give up a weight bit each.

    scored  the thresholds of least error by the largest ones, of earlier calls for this layer

    None where a group would have none left; QuantizeError where not even the first choice has one.
    """
    peaks = np.max([np.abs(t.weight).reshape(len(t.weight), -1).max(1) for t in _convs(name, current)], axis=0)
    largest = 2 ** (settings.weight_bits - 1) - 1
    stock = settings.neuron == LifKind.STOCK
    width = limits.threshold_bits if stock else limits.state_bits - BIAS_HEADROOM_BITS
    bias_limit = (2 ** (limits.bias_bits if stock else width) - 1) >> shift
    # a large bias on tiny weights bounds the threshold as a large weight would
    biases = np.abs(current.bias).reshape(len(current.bias), -1).max(1)
    peaks = np.maximum(peaks, biases * (largest + 0.5) / max(bias_limit, 1))
    groups = scale_groups(peaks, settings.granularity, limits.parameter_sets)
    thresholds = largest_thresholds(peaks, groups, gain, largest, (2**width - 1) >> shift)
    if settings.moments is None:
        if (key := thresholds.tobytes()) not in scored:
            # a layer that stands for several branches of a sum counts once: its weights are the same
            layers = {term.layer: term.weight.reshape(len(term.weight), -1) for term in _convs(name, current)}
            flat = np.concatenate(list(layers.values()), 1)
            scored[key] = least_error_thresholds(flat, thresholds, groups, gain)
        thresholds = scored[key]
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


def rounded_weights(term: ConvTerm, factor: Float, settings: Settings) -> Int:
    """Integers for the real weights of a term times `factor` (C_out,)."""
    real = term.weight * factor[:, None, None, None]
    if settings.moments is None:
        return np.rint(real).astype(np.int64)
    return settings.moments.round(term.layer, term.source, real, 2 ** (settings.weight_bits - 1) - 1)


def _stretched(terms: list[ConvTerm], thresholds: Int, gain: float, settings: Settings) -> Int:
    """Calibrated thresholds of programmable neurons with one synaptic layer; a stock threshold has no bits to spare."""
    if settings.moments is None or len(terms) != 1 or settings.neuron == LifKind.STOCK:
        return thresholds
    largest = 2 ** (settings.weight_bits - 1) - 1
    return settings.moments.stretched(terms[0].layer, terms[0].source, terms[0].weight, thresholds, gain, largest)


def _with_margin(seen: tuple[float, float]) -> tuple[float, float]:
    return seen[0] * OBSERVED_MARGIN, seen[1] * OBSERVED_MARGIN


def _synaptic(
    name: str,
    current: Current,
    attempt: Attempt,
    factor: Float,
    weights: list[Int],
    rule: Rule,
    proven: bool,
    limits: CoreLimits,
) -> Made:
    """The population of integer `weights`, which stand for real ones times `factor` (C,), and its synapses."""
    terms = _convs(name, current)
    projections = tuple(
        Projection((term.source,), name, Conv(frozen(w, np.int8), term.stride, term.padding, term.groups))
        for term, w in zip(terms, weights, strict=True)
    )
    population, *rest = _made(name, current, attempt, rule, projections, proven, limits)
    errors = [weight_error(t.weight * factor[:, None, None, None], w) for t, w in zip(terms, weights, strict=True)]
    scale = factor * 2.0**attempt.shift
    bias = current.bias * (scale if current.bias.ndim == 1 else scale[:, None, None])
    off = np.abs(bias - attempt.bias).reshape(len(bias), -1).max(1)
    errors.append(float((off / np.maximum(1, attempt.threshold)).max()))
    return replace(population, rounding=none_below(max(errors))), *rest  # type: ignore[return-value]


def _made(
    name: str,
    current: Current,
    attempt: Attempt,
    rule: Rule,
    projections: tuple[Projection, ...],
    proven: bool,
    limits: CoreLimits,
) -> Made:
    """The population of an attempt that fits."""
    bounds = (int(attempt.low.min()), int(attempt.high.max()))
    population = Population(name, current.shape, lif_of(attempt, rule), 1, bounds, rounding=0.0)
    return population, projections, "static" if proven else "observed", margin_of(bounds, limits)


def _attempt(
    current: Current,
    weights: list[Int],
    thresholds: Float,
    gain: float,
    shift: int,
    rule: Rule,
    observed: tuple[float, float] | None,
) -> Attempt:
    factor = thresholds * gain * 2.0**shift
    # bits below those of the decay would be rounded away step by step
    spared = rule.bits_for_decay or 0
    unit = 1 << spared if shift >= spared else 1
    real = current.bias * (factor if current.bias.ndim == 1 else factor[:, None, None])
    bias = np.rint(real / unit).astype(np.int64) * unit
    if observed is None:
        flat = bias.reshape(len(bias), -1)
        low, high = flat.min(1), flat.max(1)
        for term, weight in zip(current.terms, weights, strict=True):
            assert isinstance(term, ConvTerm)
            least, most = weighted_range(weight, term.max_out)
            low, high = low + (least << shift), high + (most << shift)
    else:
        low, high = (np.rint(x * factor).astype(np.int64) for x in observed)
    return with_range(whole_thresholds(thresholds, shift, rule.strict), shift, bias, low, high, rule)


def _attention_lif(
    name: str,
    current: Current,
    gain: float,
    rule: Rule,
    limits: CoreLimits,
) -> Made:
    """Attention has no weights to round: its scale goes into the threshold, exactly where that is a whole number."""
    term = current.terms[0]
    if len(current.terms) != 1 or not isinstance(term, AttentionTerm) or np.any(current.bias):
        raise QuantizeError(name, "attention and other synapses or a bias reach the same neuron", "Add a LIF between.")
    weight = 1
    while abs(round(real := weight / (term.factor * gain)) - real) > ATTENTION_ERROR * real and weight < 2**12:
        weight *= 2
    thresholds = np.full(current.shape[0], max(1, round(real)), np.int64)
    error = none_below(abs(round(real) - real) / real)
    decay, kind = rule.decay, rule.kind
    shifts = range((rule.time_steps - 1) * (decay.bits_per_step or 0), -1, -1) if kind == LifKind.STOCK else [0]
    none = np.zeros(current.shape[0], np.int64)
    for shift in shifts:
        attempt = with_range(thresholds << shift, shift, none, none, none + (term.limit * weight << shift), rule)
        if fits(attempt, limits, kind):
            projection = Projection(term.sources, name, Attention(term.heads, weight))
            population, *rest = _made(name, current, attempt, rule, (projection,), True, limits)
            return replace(population, rounding=error), *rest  # type: ignore[return-value]
    raise QuantizeError(name, f"attention sums of up to {term.limit * weight} do not fit {limits.state_bits} bits")


def _unit_lif(
    name: str,
    current: Current,
    gain: float,
    rule: Rule,
    observed: Ranges,
    limits: CoreLimits,
) -> Made:
    """A neuron that reads a residual stream, or counts spikes: its threshold in their units, and no weights to round.

    The threshold is whole wherever the stream was anchored at it; else rounded, with as many fractional bits as fit.
    """
    term = current.terms[0]
    if len(current.terms) != 1 or not isinstance(term, UnitTerm) or np.any(current.bias):
        raise QuantizeError(name, "a residual stream and other synapses reach the same neuron")
    real = 1 / (gain * term.scale)
    decay, kind = rule.decay, rule.kind
    needed = (rule.time_steps - 1) * (MOST_FRACTION_BITS if decay.bits_per_step is None else decay.bits_per_step)
    floors = kind == LifKind.PROGRAMMABLE and decay.floors_exactly
    for shift, proven in product(range(min(MOST_FRACTION_BITS, 0 if floors else needed), -1, -1), (True, False)):
        while (np.abs(np.rint(real * 2**shift) / 2**shift - real) > ATTENTION_ERROR * real).any() and shift < 12:
            shift += 1
        low, high = term.low << shift, term.high << shift
        if not proven:
            low, high = (np.rint(x / term.scale * 2**shift).astype(np.int64) for x in _with_margin(observed(name)))
        thresholds = np.maximum(1, np.rint(real * 2**shift).astype(np.int64))
        attempt = with_range(thresholds, shift, np.zeros(len(real), np.int64), low, high, rule)
        if fits(attempt, limits, kind):
            projection = Projection((term.source,), name, term.window)
            population, *rest = _made(name, current, attempt, rule, (projection,), proven, limits)
            error = float(np.abs(thresholds / 2.0**shift / real - 1).max())
            return replace(population, rounding=none_below(error)), *rest  # type: ignore[return-value]
    raise QuantizeError(
        name,
        f"its sums do not fit {limits.state_bits} bits of state",
        "Use a target with a wider state, or fewer time steps.",
    )
