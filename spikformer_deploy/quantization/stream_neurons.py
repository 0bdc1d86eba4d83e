"""Stream neurons, which send what they add up: the populations of residual streams, and those that only repeat.

They have no state, but their sums must fit it, and their messages are signed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.network.bounds import weighted_range
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import And, Stream
from spikformer_deploy.quantization.currents import (
    AttentionTerm,
    ConvTerm,
    Current,
    DualTerm,
    ReadoutTerm,
    Term,
    UnitTerm,
)
from spikformer_deploy.quantization.fitting import OBSERVED_MARGIN, Observed, Quantized, margin_of, within
from spikformer_deploy.quantization.grids import none_below, weight_error
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.shared_units import SharedUnit
from spikformer_deploy.quantization.signals import Signal, units_of
from spikformer_deploy.quantization.weights import convolved_by, rounded_weights

HEAD_MESSAGE_BITS = 9
"""Bits of the largest value seen that a head reads of a stream, which has no spikes to be counted."""


@dataclass(frozen=True, slots=True, eq=False)
class _Addend:
    """One term of a stream as integers.

    low, high       (C,) least and largest sum
    error           largest relative rounding of a weight
    largest_weight  largest |weight|, exponent included
    """

    projection: Projection
    low: Int
    high: Int
    error: float = 0.0
    largest_weight: int = 1


def residual_population(
    name: str, current: Current, shared: SharedUnit, observed: Observed, limits: CoreLimits, settings: Settings
) -> tuple[Quantized, Signal]:
    """A population of a residual stream, and what it sends.

    observed  of values in calibration, which bound the stream where its worst case does not fit
    """
    real = current.bias / (shared.unit if current.bias.ndim == 1 else shared.unit[:, None, None])
    bias = np.rint(real).astype(np.int64)
    flat = bias.reshape(len(bias), -1)
    addends = [_addend(name, term, shared, settings) for term in current.terms]
    low = flat.min(1)
    high = flat.max(1)
    for addend in addends:
        low = low + addend.low
        high = high + addend.high
    # A bias has no threshold here to be held against: its error counts against the largest weight.
    largest_weight = max((addend.largest_weight for addend in addends), default=1)
    bias_error = float(np.abs(real - bias).max()) / largest_weight
    rounding = max([bias_error, *(addend.error for addend in addends)])
    extent = _range_of(name, low, high, shared.proven, shared.unit, observed, shared.bits)
    population = Population(
        name, current.shape, Stream(frozen(bias)), extent.largest, extent.bounds, none_below(rounding)
    )
    projections = tuple(addend.projection for addend in addends)
    signal = replace(units_of(name, current.shape, extent.largest), scale=shared.unit, low=extent.low, high=extent.high)
    return Quantized(population, projections, shared.proven, margin_of(extent.bounds, limits)), signal


def _addend(name: str, term: Term, shared: SharedUnit, settings: Settings) -> _Addend:
    """What `term` adds to population `name`; QuantizeError where it has no integers in the shared unit."""
    match term:
        case UnitTerm(source, window, scale, low, high):
            if not np.allclose(scale, shared.unit, rtol=1e-12, atol=0):
                raise QuantizeError(name, "it adds streams of different units", "Add currents before pooling them.")
            return _Addend(Projection((source,), name, window), low, high)
        case ConvTerm():
            return _convolution(name, term, shared, settings)
        case ReadoutTerm(source=source):
            problem = f"a layer that reads the mean over positions of {source} adds to a residual stream"
            raise QuantizeError(name, problem, "Put neurons behind the mean, before the layer.")
        case DualTerm():
            problem = "a product of currents and spikes adds to a residual stream"
            raise QuantizeError(name, problem, "Put neurons and a layer between.")
        case AttentionTerm():
            raise QuantizeError(name, "an attention adds to a residual stream", "Put neurons and a layer between.")
        case _:
            assert_never(term)


def _convolution(name: str, term: ConvTerm, shared: SharedUnit, settings: Settings) -> _Addend:
    exponent = shared.exponents[term.layer]
    unit = shared.unit * 2.0**exponent
    weight = rounded_weights(term, 1 / unit, settings)
    low, high = weighted_range(weight, term.max_out)
    return _Addend(
        convolved_by(name, term, weight, settings, exponent),
        low << exponent,
        high << exponent,
        weight_error(term.weight / unit[:, None, None, None], weight),
        max(1, int(np.abs(weight).max(initial=0)) << exponent),
    )


def pooled_residual(name: str, term: UnitTerm, observed: Observed, limits: CoreLimits) -> tuple[Quantized, Signal]:
    """Sums of a stream over all positions, for the head, without their lowest bits: its accumulators add them up.

    Returns the population and what it sends, in the larger unit.
    """
    proven = within((int(term.low.min()), int(term.high.max())), limits.state_bits)
    bits = min(limits.message_bits, limits.state_bits)
    extent = _range_of(name, term.low, term.high, proven, term.scale, observed, bits)
    seen = int(np.rint(max(map(abs, observed(name))) * OBSERVED_MARGIN / term.scale.min()))
    drop = max(0, seen.bit_length() - HEAD_MESSAGE_BITS)
    # What is sent is rounded, halves up: it may be one more than the whole units of the largest sum.
    most = -(-extent.largest >> drop)
    half = 1 << drop >> 1
    # half a unit of what is kept, against the largest value
    rounding = 2.0**drop / 2 / max(1, seen) if drop else 0.0
    channels = len(term.scale)
    shape = (channels, 1, 1)
    neuron = Stream(frozen(np.zeros(channels, np.int64)), drop)
    population = Population(name, shape, neuron, most, extent.bounds, rounding)
    projection = Projection((term.source,), name, term.window)
    signal = replace(
        units_of(name, shape, most),
        scale=term.scale * 2.0**drop,
        low=extent.low + half >> drop,
        high=extent.high + half >> drop,
    )
    return Quantized(population, (projection,), proven, margin_of(extent.bounds, limits)), signal


@dataclass(frozen=True, slots=True, eq=False)
class _Range:
    """Range of a stream: `bounds` of its state, and (C,) the least and largest value of each channel."""

    bounds: tuple[int, int]
    low: Int
    high: Int

    @property
    def largest(self) -> int:
        """Largest magnitude of any channel."""
        return int(max(abs(self.low.min()), abs(self.high.max())))


def _range_of(name: str, low: Int, high: Int, proven: bool, unit: Float, observed: Observed, bits: int) -> _Range:
    """The worst case (low, high) where it is `proven` to fit, else what was observed.

    What was only observed may be exceeded: readers must then expect all that a message holds.
    bits  of messages, and of the state: a stream neuron has none of its own, but its sum must fit it
    """
    if proven:
        bounds = int(low.min()), int(high.max())
    else:
        least, most = observed(name)
        finest = unit.min()
        bounds = (
            min(0, int(np.rint(least * OBSERVED_MARGIN / finest))),
            max(0, int(np.rint(most * OBSERVED_MARGIN / finest))),
        )
        limit = 2 ** (bits - 1) - 1
        low = np.full_like(low, -limit)
        high = np.full_like(high, limit)
    if not within(bounds, bits):
        raise QuantizeError(
            name,
            f"a residual stream of values from {bounds[0]:,} to {bounds[1]:,} needs signed messages of more than the "
            f"{bits} bits of the target",
            "Use a target with wide graded spikes (loihi2).",
        )
    return _Range(bounds, low, high)


def relay(
    signal: Signal, projections: tuple[Projection, ...], layer: str, problem: str, limits: CoreLimits
) -> Quantized:
    """A population of neurons without state that send what they receive: up to signal.max_out and never negative.

    Raises QuantizeError for `layer`, whose `problem` it is, where the target's messages do not hold that.
    """
    (name,) = signal.populations
    most = signal.max_out
    if most == 1:
        # Spikes are repeated: binary messages are enough, and so is any target.
        return Quantized(Population(name, signal.shape, And(1), 1, (0, 0), 0.0), projections)
    bits = min(limits.message_bits, limits.state_bits)
    if most >= 2 ** (bits - 1):
        detail = f"{problem}, and signed messages of the target hold {2 ** (bits - 1) - 1} at most"
        raise QuantizeError(
            layer, detail, "Use a target with wide graded spikes (loihi2), or put LIF neurons in between."
        )
    neuron = Stream(frozen(np.zeros(signal.shape[0], np.int64)))
    return Quantized(Population(name, signal.shape, neuron, most, (0, most), 0.0), projections)
