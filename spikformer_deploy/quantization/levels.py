"""From a real-valued current to integer neurons that send integers: what the levels of their potential are.

The integer sum n that reaches a neuron stands for the current unit * n + bias.  The model sends j where that is nearest
to j thresholds, so that level j lies at the integer from which (j - 1/2) thresholds are reached: batch normalisation
and bias go into the levels, and only weights are rounded.  Neurons that keep a potential add their bias in every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.graph import ir
from spikformer_deploy.network.bounds import levels_range, weighted_range
from spikformer_deploy.network.decay import Decay, decay_keeping, is_exact, levels_bits
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import HALF_EVEN, HALF_UP, MOST_LEVELS, Levels, LifKind
from spikformer_deploy.network.synapses import Attention
from spikformer_deploy.quantization.currents import AttentionTerm, ConvTerm, Current, DualTerm, UnitTerm, layers_of
from spikformer_deploy.quantization.fitting import Observed, Quantized, margin_of, with_margin, within
from spikformer_deploy.quantization.grids import SAME, grid_steps, none_below, weight_error
from spikformer_deploy.quantization.lif_fitting import BIAS_HEADROOM_BITS, MOST_FRACTION_BITS
from spikformer_deploy.quantization.scales import (
    check_units,
    gain_of,
    largest_thresholds,
    least_error_thresholds,
    scale_groups,
)
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.weights import all_weights, convolved_by, joint_peaks, rounded_weights, within_bits

MOST_HALVINGS = 4
"""A layer gives up this many weight bits where its sums do not fit: of 8 bits 4 are left."""
WHOLE = 2.0**-46
"""Relative distance of a level from a whole number that is the rounding of fp64: the level is that number."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Integer neurons of the model that are to become those of the target."""

    name: str
    op: ir.Levels
    current: Current
    decay: Decay
    time_steps: int
    observed: Observed
    limits: CoreLimits
    settings: Settings

    @property
    def rounding(self) -> str:
        return HALF_EVEN if self.op.half_even else HALF_UP

    @property
    def keeps(self) -> bool:
        """Whether a potential outlives its step."""
        return self.decay.numerator > 0 and self.time_steps > 1

    @property
    def largest_weight(self) -> int:
        return self.settings.widest(layers_of(self.current))


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """Integer synapses: one of their sum stands for `unit` (C,); (C,) least and largest sum in a step.

    near   relative error of `unit`, of which levels that it makes whole are free
    error  largest relative rounding of a weight
    """

    projections: tuple[Projection, ...]
    unit: Float
    low: Int
    high: Int
    near: float = WHOLE
    error: float = 0.0
    proofs: tuple[bool, ...] = (True, False)


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """Integer neurons, whether or not the target holds them.

    low, high  (C,) least and largest drive in a step, in units of the state; proven: of the worst case
    error      largest relative rounding of a weight, a bias or a reset
    """

    neuron: Levels
    projections: tuple[Projection, ...]
    low: Int
    high: Int
    proven: bool
    error: float


def make_levels(task: Task) -> Quantized:
    """The population of a graph's Levels.  Raises QuantizeError where no weights of 4 bits or more fit the target."""
    for integers in choices(task):
        quantized = _quantized(task, integers)
        if quantized is not None:
            return quantized
    raise none_fit(task.name, task.limits)


def sends_whole(op: ir.Levels, limits: CoreLimits, settings: Settings) -> bool:
    """Whether one message of the target carries what such a neuron sends."""
    return settings.neuron == LifKind.PROGRAMMABLE and op.count < 2**limits.message_bits


def task_of(
    name: str,
    op: ir.Levels,
    current: Current,
    observed: Observed,
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
) -> Task:
    """What is to be done for the population `name` of a graph's Levels and the current that it receives.

    observed  of currents in calibration, asked for where the worst case does not fit
    Raises QuantizeError for neurons that make no sense.
    """
    if not (op.threshold > 0 and 0 <= op.keep <= 1 and 1 <= op.count <= MOST_LEVELS):
        problem = f"threshold = {op.threshold}, keep = {op.keep}, D = {op.count}"
        raise QuantizeError(
            name, problem, f"A threshold above 0, a share kept of 0 to 1, and D from 1 to {MOST_LEVELS} are known."
        )
    return Task(name, op, current, decay_keeping(op.keep), time_steps, observed, limits, settings)


def none_fit(name: str, limits: CoreLimits) -> QuantizeError:
    """The error of a layer of which no integers fit."""
    problem = f"its sums do not fit {limits.state_bits} bits of state with weights of 4 bits or more"
    return QuantizeError(name, problem, "Reduce the fan-in of the layer, or use a target with a wider state.")


def choices(task: Task) -> Iterator[Integers]:
    """Integers to try, the best first."""
    for sums in _sums(task):
        for proven in sums.proofs:
            for shift in _shifts(task, sums):
                yield _integers(task, sums, shift, proven)


def _sums(task: Task) -> Iterator[_Sums]:
    """Integers for the synapses, the best first."""
    terms = task.current.terms
    if any(isinstance(term, DualTerm) for term in terms):
        problem = "integer neurons behind a product of currents and spikes are not supported"
        raise QuantizeError(task.name, problem, "Put a LIF there.")
    attentions = [term for term in terms if isinstance(term, AttentionTerm)]
    units = [term for term in terms if isinstance(term, UnitTerm)]
    convs = [term for term in terms if isinstance(term, ConvTerm)]
    if len(attentions) == len(terms) == 1:
        yield _of_attention(task, attentions[0])
    elif units and len(units) == len(terms):
        yield _of_units(task, units)
    elif convs and len(convs) == len(terms):
        on_grid = _of_grid(task, convs)
        if on_grid is not None:
            yield on_grid
        yield from _of_rounded(task, convs)
    else:
        problem = "an attention, a residual stream or a token mean and other synapses reach the same neuron"
        raise QuantizeError(task.name, problem, "Add a neuron between.")


def _of_attention(task: Task, term: AttentionTerm) -> _Sums:
    """Products of messages, which have no weights."""
    channels = task.current.shape[0]
    projection = Projection(term.sources, task.name, Attention(term.heads), task.settings.own_bits(term.layer))
    most = np.full(channels, term.limit, np.int64)
    return _Sums((projection,), np.full(channels, term.factor), 0 * most, most)


def _of_units(task: Task, terms: Sequence[UnitTerm]) -> _Sums:
    """Streams, and counts of messages: synapses of weight 1."""
    unit = terms[0].scale
    check_units(task.name, unit)
    if any(not np.allclose(term.scale, unit, rtol=1e-12, atol=0) for term in terms):
        raise QuantizeError(task.name, "it adds streams of different units", "Add currents before pooling them.")
    projections = tuple(Projection((term.source,), task.name, term.window) for term in terms)
    low = np.sum([term.low for term in terms], 0)
    high = np.sum([term.high for term in terms], 0)
    # a stream that may send all that a message holds was only observed, and so is what reads it
    whole_message = 2 ** (min(task.limits.message_bits, task.limits.state_bits) - 1) - 1
    proofs = (True, False) if max(-low.min(), high.max()) < whole_message else (False,)
    return _Sums(projections, unit, low, high, proofs=proofs)


def _of_grid(task: Task, terms: Sequence[ConvTerm]) -> _Sums | None:
    """Weights that are integers times a step already, as they are; None where they are not."""
    flat = np.concatenate([term.weight.reshape(len(term.weight), -1) for term in terms], 1)
    steps = grid_steps(flat, task.largest_weight)
    if steps is None:
        return None
    weights = [np.rint(term.weight / steps[:, None, None, None]).astype(np.int64) for term in terms]
    if not within_bits(terms, weights, task.settings):
        return None
    return _weighted(task, terms, weights, steps, SAME)


def _of_rounded(task: Task, terms: Sequence[ConvTerm]) -> Iterator[_Sums]:
    """Weights rounded to integers, of fewer and fewer bits."""
    gain = gain_of(task.op)
    peaks = joint_peaks(terms, task.settings)
    groups = scale_groups(peaks, _granularity(task), task.limits.parameter_sets)
    cap = (2 ** (task.limits.state_bits - BIAS_HEADROOM_BITS) - 1) // task.op.count
    largest = largest_thresholds(peaks, groups, gain, task.largest_weight, cap)
    if task.settings.moments is None:
        largest = least_error_thresholds(all_weights(terms), largest, groups, gain)
    for halvings in range(MOST_HALVINGS + 1):
        # weights that are larger than the threshold by far leave room for no whole one: a real one is as good
        thresholds = np.where(largest > 0, (largest >> halvings).astype(np.float64), _finest(task, peaks, halvings))
        if thresholds.min() <= 0:
            return
        weights = [rounded_weights(term, thresholds * gain, task.settings) for term in terms]
        sums = _weighted(task, terms, weights, 1 / (thresholds * gain), WHOLE)
        yield replace(sums, proofs=(True, False) if not halvings else (True,))


def _finest(task: Task, peaks: Float, halvings: int) -> Float:
    """(C,) thresholds below 1 with which the largest weight of a channel is the largest integer."""
    return task.largest_weight / (np.maximum(peaks, 1e-300) * gain_of(task.op)) / 2**halvings


def _granularity(task: Task) -> str:
    """A scale for each channel costs nothing where levels differ by channel anyway, for the sake of the bias."""
    asked = task.settings.granularity
    return "channel" if asked == "group" and np.any(task.current.bias) and not task.keeps else asked


def _weighted(task: Task, terms: Sequence[ConvTerm], weights: list[Int], unit: Float, near: float) -> _Sums:
    low = np.zeros(len(unit), np.int64)
    high = np.zeros(len(unit), np.int64)
    for term, weight in zip(terms, weights, strict=True):
        least, most = weighted_range(weight, term.max_out)
        low += least
        high += most
    projections = tuple(
        convolved_by(task.name, term, weight, task.settings) for term, weight in zip(terms, weights, strict=True)
    )
    error = max(weight_error(t.weight / unit[:, None, None, None], w) for t, w in zip(terms, weights, strict=True))
    return _Sums(projections, unit, low, high, near, error)


def _shifts(task: Task, sums: _Sums) -> Iterator[int]:
    """Fractional bits to try, the best first."""
    in_levels = _bias_in_levels(task)
    if in_levels and not task.keeps:
        yield 0
        return
    steps = _whole(task.op.threshold / sums.unit, sums.near)
    needed = levels_bits(task.decay, task.rounding, task.time_steps) if task.keeps else 0
    # between two whole numbers lie the levels of odd thresholds
    fewest = max(needed or 0, int(np.any(steps % 2 != 0)))
    more = needed is None or np.any(task.current.bias) or np.any(steps != np.rint(steps))
    most = MOST_FRACTION_BITS if more else fewest
    yield from range(max(most, fewest), -1, -1)


def _bias_in_levels(task: Task) -> bool:
    """Whether the bias goes into the levels: it is the same at all positions, and enters once."""
    return task.current.bias.ndim == 1 and not task.keeps


def _integers(task: Task, sums: _Sums, shift: int, proven: bool) -> Integers:
    """The neurons with `shift` fractional bits."""
    steps = _whole(task.op.threshold / sums.unit, sums.near) * 2.0**shift
    bias = task.current.bias / (sums.unit if task.current.bias.ndim == 1 else sums.unit[:, None, None]) * 2.0**shift
    in_levels = _bias_in_levels(task)
    added = np.zeros(len(steps), np.int64) if in_levels else _whole_bias(task, bias, shift)
    between = (np.arange(1, task.op.count + 1) - 0.5) * steps[:, None]
    taken = bias[:, None] if in_levels else np.zeros((len(steps), 1))
    ties = between - taken
    # how exact a difference is, say the numbers that it is of
    near = sums.near * (np.abs(between) + np.abs(taken))
    levels = _levels(ties, task.op.half_even, near)
    low, high = _drive(task, sums, added, shift, proven)
    if not task.keeps:
        # what lies beyond the reach of every input, or of the state, may as well lie just there, in fewer bits
        widest = 2 ** (task.limits.state_bits - 1)
        least, most = (low[:, None], high[:, None] + 1) if proven else (1 - widest, widest)
        levels = np.clip(levels, least, most)
    neuron = Levels(
        task.decay.numerator * task.keeps,
        shift,
        frozen(levels),
        frozen(np.rint(steps).astype(np.int64) * task.keeps),
        frozen(added),
        task.rounding,
    )
    neuron = replace(neuron, exact=_is_exact(task, neuron, steps, ties, near))
    error = max(sums.error, 0.0 if in_levels else _off(bias, added, steps), _reset_error(task, steps))
    return Integers(neuron, sums.projections, low, high, proven, none_below(error))


def _quantized(task: Task, integers: Integers) -> Quantized | None:
    """The population of integers; None where the target does not hold it."""
    neuron = integers.neuron
    lowest, highest = levels_range(integers.low, integers.high, neuron, task.time_steps)
    bounds = int(lowest.min()), int(highest.max())
    reachable = neuron.levels - (neuron.levels > 0)  # a level just beyond the state is one that nothing reaches
    widest = max(int(np.abs(values).max(initial=0)) for values in (reachable, neuron.reset, neuron.bias))
    if not within(bounds, task.limits.state_bits) or widest > 2 ** (task.limits.state_bits - 1) - 1:
        return None
    population = Population(task.name, task.current.shape, neuron, task.op.count, bounds, integers.error)
    return Quantized(population, integers.projections, integers.proven, margin_of(bounds, task.limits))


def _levels(ties: Float, half_even: bool, near: Float) -> Int:
    """(C, D) the integers from which on the ties are passed; odd levels of half_even are not at a tie that is whole.

    near  (C, D) the error of each tie, within which it is whole
    """
    whole = np.rint(ties)
    is_whole = np.abs(ties - whole) <= near
    strict = half_even * (np.arange(1, ties.shape[1] + 1) % 2)
    levels = np.where(is_whole, whole + strict, np.ceil(ties))
    # a level beyond 2^62 is one that no sum reaches
    return np.clip(levels, -(2.0**62), 2.0**62).astype(np.int64)


def _whole(values: Float, near: float) -> Float:
    """`values`, those whole that are so but for their relative error."""
    rounded = np.rint(values)
    return np.where(np.abs(values - rounded) <= near * np.abs(values), rounded, values)


def _whole_bias(task: Task, bias: Float, shift: int) -> Int:
    """A bias that is added in every step, (C,) or (C, Y, X): whole numbers of the bits that no decay rounds."""
    needed = (levels_bits(task.decay, task.rounding, task.time_steps) or 0) if task.keeps else 0
    unit = 1 << needed if shift >= needed else 1
    return np.rint(bias / unit).astype(np.int64) * unit


def _drive(task: Task, sums: _Sums, added: Int, shift: int, proven: bool) -> tuple[Int, Int]:
    """(C,) least and largest drive in a step: of the worst case, or what was seen with its margin."""
    flat = added.reshape(len(added), -1)
    if proven:
        return (sums.low << shift) + flat.min(1), (sums.high << shift) + flat.max(1)
    least, most = with_margin(task.observed(task.name))
    in_levels = task.current.bias if _bias_in_levels(task) else 0.0
    low = np.floor((least - in_levels) / sums.unit * 2.0**shift).astype(np.int64)
    high = np.ceil((most - in_levels) / sums.unit * 2.0**shift).astype(np.int64)
    return np.minimum(low, 0), np.maximum(high, 0)


def _off(bias: Float, added: Int, steps: Float) -> float:
    """Largest difference between a bias and its integer, over the threshold."""
    off = np.abs(bias - added).reshape(len(added), -1).max(1)
    return float((off / np.maximum(1.0, steps)).max())


def _reset_error(task: Task, steps: Float) -> float:
    """Largest relative rounding of what is taken off the potential."""
    return float((np.abs(np.rint(steps) - steps) / steps).max()) if task.keeps else 0.0


def _is_exact(task: Task, neuron: Levels, steps: Float, ties: Float, near: Float) -> bool:
    """Whether the neuron is the real-valued one with the same weights: nothing but those was rounded in any step.

    near  (C, D) the error of each tie
    """
    if not task.keeps:
        # less than the decay has bits for is nothing kept
        return task.op.keep == 0 or task.time_steps == 1
    # the first tie is half of what is taken off
    resets = bool((np.abs(steps - np.rint(steps)) <= 2 * near[:, 0]).all())
    levels = bool((np.abs(ties - np.rint(ties)) <= near).all())
    return resets and levels and task.decay.bits_per_step is not None and is_exact(neuron, task.time_steps)
