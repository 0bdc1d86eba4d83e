"""From the current of a graph's output to an integer head: accumulators that never fire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.network.bounds import weighted_range
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.synapses import Conv, Readout
from spikformer_deploy.quantization.currents import ConvTerm, Current, ReadoutTerm
from spikformer_deploy.quantization.fitting import OBSERVED_MARGIN, Quantized, margin_of, within
from spikformer_deploy.quantization.grids import are_whole, grid_steps, none_below, weight_error
from spikformer_deploy.quantization.settings import Settings

HeadTerm: TypeAlias = ReadoutTerm | ConvTerm
"""What reaches a head: sums over positions, or convolutions of a head that is a map."""

FEWEST_HEAD_BITS = 4
"""A head gives up weight bits down to here where its accumulators are too wide."""


def make_accumulator(
    name: str,
    current: Current,
    observed: Callable[[Quantized], int],
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
    last: bool = False,
) -> Quantized:
    """The non-firing output population: logits = mean over T of the current = accumulator * scale.

    One scale for all classes, so that the largest integer is the predicted class.
    A current at one position has an accumulator a class; that of a map has one a class and position.
    last      logits = the current of the last step only, which accumulators that forget hold: the mean of one step
    observed  largest |accumulator| of a head in calibration, asked for where the worst case does not fit
    """
    terms = _head_terms(name, current)
    summed_steps = 1 if last else time_steps
    seen: float | None = None
    for bits in _bits_to_try([settings.bits_of(term.layer) for term in terms]):
        integers = _integers(terms, current, summed_steps, bits)
        head = _head(name, terms, integers, current, summed_steps, last, settings)
        if within(head.population.bounds, limits.state_bits):
            return replace(head, margin=margin_of(head.population.bounds, limits))
        if seen is None:
            # One run is enough for all numbers of bits: the real value hardly depends on how finely it is rounded.
            seen = observed(head) * integers.scale * OBSERVED_MARGIN
        most = int(np.ceil(seen / integers.scale))
        if within((-most, most), limits.state_bits):
            population = replace(head.population, bounds=(-most, most))
            return Quantized(population, head.projections, False, margin_of((most, most), limits))
    problem = f"its accumulators do not fit {limits.state_bits} bits with weights of {max(bits)} bits"
    raise QuantizeError(name, problem, "Reduce the tokens or the time steps, or use a target with a wider state.")


def _bits_to_try(bits: list[int]) -> Iterator[list[int]]:
    """Weight bits of each term, the best first: each gives up as many as the others, but for its fewest."""
    for given_up in range(max(1, max(bits) - FEWEST_HEAD_BITS + 1)):
        yield [max(own - given_up, min(FEWEST_HEAD_BITS, own)) for own in bits]


def _head_terms(name: str, current: Current) -> list[HeadTerm]:
    """The terms of a head, all readouts, or all convolutions where it is a map; QuantizeError where they are not."""
    kind = ReadoutTerm if current.shape[1:] == (1, 1) else ConvTerm
    terms: list[HeadTerm] = [term for term in current.terms if isinstance(term, kind)]
    if len(terms) != len(current.terms) or not terms:
        raise QuantizeError(
            name,
            "the network must end in a mean over positions and one linear layer, in neurons at one position, or in one "
            "layer at each position",
            "Put LIF neurons after the last layer.",
        )
    if current.bias.ndim > 1:
        problem = "what its accumulators start at differs from position to position"
        raise QuantizeError(name, problem, "Put LIF neurons before the last layer, and no padding into it.")
    return terms


@dataclass(frozen=True, slots=True, eq=False)
class _Integers:
    """A head in integers: the real sum over the steps = integer * scale.

    weights  of each term, (O, C) or (O, C, KY, KX); bias (O,), summed over the steps
    """

    scale: float
    weights: list[Int]
    bias: Int


def _integers(terms: Sequence[HeadTerm], current: Current, time_steps: int, bits: Sequence[int]) -> _Integers:
    """Weights of `bits` bits of each term, and the bias that all time steps add up to in their unit."""
    largest = [2 ** (own - 1) - 1 for own in bits]
    # (largest real weight, largest integer) of each term; any number does for terms of zeros
    peaks = [float(np.abs(term.weight).max(initial=0.0)) for term in terms]
    limits = list(zip(peaks if any(peaks) else [1.0] * len(terms), largest, strict=True))
    # one step for all classes, or none: the logits of classes are compared
    steps = grid_steps(np.concatenate([term.weight.reshape(1, -1) for term in terms], 1), max(largest))
    real_bias = current.bias * time_steps
    if steps is None or any(round(peak / float(steps[0])) > most for peak, most in limits):
        scale = max(peak / most for peak, most in limits)
    else:
        scale = _finer(float(steps[0]), limits, real_bias)
    weights = [np.rint(term.weight / scale).astype(np.int64) for term in terms]
    return _Integers(scale, weights, np.rint(real_bias / scale).astype(np.int64))


def _finer(step: float, limits: Sequence[tuple[float, int]], bias: Float) -> float:
    """The step of the weights, halved until the biases are whole numbers of it too, or while the weights fit.

    limits  (largest real weight, largest integer) of each term
    bias    (O,) summed over the steps
    """
    while not are_whole(np.abs(bias) / step).all() and all(round(peak / step) * 2 <= most for peak, most in limits):
        step /= 2
    return step


def _head(
    name: str,
    terms: Sequence[HeadTerm],
    integers: _Integers,
    current: Current,
    time_steps: int,
    last: bool,
    settings: Settings,
) -> Quantized:
    """The population of integer weights, with the range of its worst case, and its synapses."""
    classes = len(integers.bias)
    # accumulators add up over the steps; the logits are the mean over them
    scale = np.full(classes, integers.scale / time_steps)
    neuron = Accumulator(frozen(integers.bias), frozen(scale), last)
    bounds = _worst_case(terms, integers, time_steps)
    rounding = _rounding(terms, integers, current, time_steps)
    population = Population(name, (classes, *current.shape[1:]), neuron, 0, bounds, rounding)
    projections = tuple(
        Projection((term.source,), name, _synapse(term, weight), settings.own_bits(term.layer))
        for term, weight in zip(terms, integers.weights, strict=True)
    )
    return Quantized(population, projections)


def _synapse(term: HeadTerm, weight: Int) -> Readout | Conv:
    """The synapses of a term, with its integer weights."""
    if isinstance(term, ReadoutTerm):
        return Readout(frozen(weight, np.int8))
    return Conv(frozen(weight, np.int8), term.stride, term.padding, term.groups)


def _rounding(terms: Sequence[HeadTerm], integers: _Integers, current: Current, time_steps: int) -> float:
    """The largest relative error of a weight, or of a bias against the largest weight."""
    errors = [
        weight_error(term.weight / integers.scale, weight) for term, weight in zip(terms, integers.weights, strict=True)
    ]
    off = float(np.abs(current.bias * time_steps / integers.scale - integers.bias).max(initial=0.0))
    largest_weight = max(1, *(int(np.abs(weight).max(initial=0)) for weight in integers.weights))
    return none_below(max(*errors, off / largest_weight))


def _worst_case(terms: Sequence[HeadTerm], integers: _Integers, time_steps: int) -> tuple[int, int]:
    """Least and largest value of the accumulators at any time, over all classes and inputs."""
    # They start at the bias of all steps: before the first sums arrive, zero and the bias are within the range.
    low = np.minimum(integers.bias, 0)
    high = np.maximum(integers.bias, 0)
    for term, weight in zip(terms, integers.weights, strict=True):
        positions = term.positions if isinstance(term, ReadoutTerm) else 1
        least, most = weighted_range(weight, term.max_out * positions * time_steps)
        if isinstance(term, ReadoutTerm) and term.signed:
            # inputs from -max_out to max_out: each weight can count with either sign
            least, most = least - most, most - least
        low = low + least
        high = high + most
    return int(low.min()), int(high.max())
