"""From the current of a graph's output to an integer head: accumulators that never fire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.network.bounds import weighted_range
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.synapses import Readout
from spikformer_deploy.quantization.currents import Current, ReadoutTerm
from spikformer_deploy.quantization.fitting import OBSERVED_MARGIN, Made, margin_of, within
from spikformer_deploy.quantization.grids import are_whole, grid_steps, none_below, weight_error
from spikformer_deploy.quantization.settings import Settings

FEWEST_HEAD_BITS = 4
"""A head gives up weight bits down to here where its accumulators are too wide."""


def make_accumulator(
    name: str,
    current: Current,
    observed: Callable[[Population, tuple[Projection, ...]], int],
    time_steps: int,
    limits: CoreLimits,
    settings: Settings,
    last: bool = False,
) -> Made:
    """The non-firing output population: logits = mean over T of the current = accumulator * scale.

    One scale for all classes, so that the largest integer is the predicted class.
    last      logits = the current of the last step alone, which accumulators that forget hold: the mean of one step
    observed  largest |accumulator| of a head in calibration, asked for where the worst case does not fit
    """
    terms = [term for term in current.terms if isinstance(term, ReadoutTerm)]
    if len(terms) != len(current.terms) or not terms:
        raise QuantizeError(
            name,
            "the network must end in a mean over positions and one linear layer, or in neurons at one position",
            "Put LIF neurons after the last layer.",
        )
    seen: float | None = None
    time_steps = 1 if last else time_steps
    for bits in range(settings.weight_bits, min(FEWEST_HEAD_BITS, settings.weight_bits) - 1, -1):
        scale, weights, bias = _readout(terms, current, time_steps, bits)
        proven = _readout_range(terms, weights, bias, time_steps)
        errors = [weight_error(term.weight / scale, weight) for term, weight in zip(terms, weights, strict=True)]
        errors.append(float(np.abs(current.bias * time_steps / scale - bias).max(initial=0.0)) / _largest(weights))
        neuron = Accumulator(frozen(bias), frozen(np.full(len(bias), scale / time_steps)), last)
        head = _head(name, terms, weights, neuron, proven, none_below(max(errors)))
        if within(proven, limits.state_bits):
            return *head, "static", margin_of(proven, limits)
        if seen is None:
            seen = observed(*head) * scale * OBSERVED_MARGIN
        most = int(np.ceil(seen / scale))
        if within((-most, most), limits.state_bits):
            population, projections = head
            return replace(population, bounds=(-most, most)), projections, "observed", margin_of((most, most), limits)
    problem = f"its accumulators do not fit {limits.state_bits} bits with weights of {bits} bits"
    raise QuantizeError(name, problem, "Reduce the tokens or the time steps, or use a target with a wider state.")


def _head(
    name: str,
    terms: list[ReadoutTerm],
    weights: list[Int],
    neuron: Accumulator,
    bounds: tuple[int, int],
    rounding: float,
) -> tuple[Population, tuple[Projection, ...]]:
    projections = tuple(
        Projection((term.source,), name, Readout(frozen(weight, np.int8)))
        for term, weight in zip(terms, weights, strict=True)
    )
    return Population(name, (len(neuron.bias), 1, 1), neuron, 0, bounds, rounding), projections


def _readout(terms: list[ReadoutTerm], current: Current, time_steps: int, bits: int) -> tuple[float, list[Int], Int]:
    """(scale, weights, bias) of a head with so many weight bits: real sum over the steps = integer * scale."""
    peak = max(float(np.abs(term.weight).max(initial=0.0)) for term in terms) or 1.0
    largest = 2 ** (bits - 1) - 1
    # one step for all classes, or none: the logits of classes are compared
    steps = grid_steps(np.concatenate([t.weight.reshape(1, -1) for t in terms], 1), largest)
    real = current.bias * time_steps
    scale = peak / largest if steps is None else _finer(float(steps[0]), peak, real, largest)
    weights = [np.rint(term.weight / scale).astype(np.int64) for term in terms]
    return scale, weights, np.rint(real / scale).astype(np.int64)


def _finer(step: float, peak: float, bias: Float, largest: int) -> float:
    """The step of the weights, halved until the biases are whole numbers of it too, or while the weights fit.

    bias  (O,) summed over the steps
    """
    while not are_whole(np.abs(bias) / step).all() and round(peak / step) * 2 <= largest:
        step /= 2
    return step


def _largest(weights: list[Int]) -> int:
    """The largest magnitude of all weights of a head, at least 1."""
    return max(1, *(int(np.abs(weight).max(initial=0)) for weight in weights))


def _readout_range(terms: list[ReadoutTerm], weights: list[Int], bias: Int, time_steps: int) -> tuple[int, int]:
    """Worst case of the accumulators at any time, over all classes."""
    low, high = np.minimum(bias, 0), np.maximum(bias, 0)
    for term, weight in zip(terms, weights, strict=True):
        least, most = weighted_range(weight, term.max_out * term.positions * time_steps)
        if term.signed:
            least, most = least - most, most - least
        low, high = low + least, high + most
    return int(low.min()), int(high.max())
