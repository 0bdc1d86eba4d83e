"""From real-valued currents to the integer populations of a residual stream, which send what they add up."""

from __future__ import annotations

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.network.bounds import weighted_range
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import Stream as Relay
from spikformer_deploy.network.synapses import Conv
from spikformer_deploy.quantization.currents import AttentionTerm, ConvTerm, Current, ReadoutTerm, UnitTerm
from spikformer_deploy.quantization.fitting import OBSERVED_MARGIN, Made, margin_of, within
from spikformer_deploy.quantization.grids import none_below, weight_error
from spikformer_deploy.quantization.lif import rounded_weights
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.streams import Ranges, Stream

HEAD_MESSAGE_BITS = 9
"""Bits of the largest value seen that a head reads of a stream, which has no spikes to be counted."""


def make_stream(
    name: str,
    current: Current,
    stream: Stream,
    observed: Ranges,
    limits: CoreLimits,
    settings: Settings,
) -> tuple[Made, Int, Int]:
    """A population of a residual stream, with its least and largest value a channel, (C,) each.

    observed  of values in calibration, which bound the stream where its worst case does not fit
    """
    real = current.bias / (stream.unit if current.bias.ndim == 1 else stream.unit[:, None, None])
    bias = np.rint(real).astype(np.int64)
    flat = bias.reshape(len(bias), -1)
    low, high = flat.min(1), flat.max(1)
    projections, errors, largest = [], [0.0], 1
    for term in current.terms:
        match term:
            case UnitTerm(source, window, scale, least, most):
                if not np.allclose(scale, stream.unit, rtol=1e-12):
                    raise QuantizeError(name, "it adds streams of different units", "Add currents before pooling them.")
                projections.append(Projection((source,), name, window))
            case ConvTerm():
                exponent = stream.exponents[term.layer]
                weight = rounded_weights(term, 1 / (stream.unit * 2.0**exponent), settings)
                errors.append(weight_error(term.weight / (stream.unit * 2.0**exponent)[:, None, None, None], weight))
                largest = max(largest, int(np.abs(weight).max(initial=0)) << exponent)
                conv = Conv(frozen(weight, np.int8), term.stride, term.padding, term.groups, exponent)
                projections.append(Projection((term.source,), name, conv))
                least, most = (x << exponent for x in weighted_range(weight, term.max_out))
            case ReadoutTerm(source=source):
                problem = f"a layer that reads the mean over positions of {source} adds to a residual stream"
                raise QuantizeError(name, problem, "Put a LIF behind the mean, before the layer.")
            case AttentionTerm():
                raise QuantizeError(name, "an attention adds to a residual stream", "Put a LIF and a layer between.")
            case _:
                assert_never(term)
        low, high = low + least, high + most
    errors.append(float(np.abs(real - bias).max()) / largest)
    proof = "static" if stream.proven else "observed"
    bounds, low, high = _bounds_of(name, low, high, proof, observed, stream.unit, limits)
    most_sent = int(max(abs(low.min()), abs(high.max())))
    population = Population(name, current.shape, Relay(frozen(bias)), most_sent, bounds, none_below(max(errors)))
    return (population, tuple(projections), proof, margin_of(bounds, limits)), low, high


def make_pooled(name: str, term: UnitTerm, observed: Ranges, limits: CoreLimits) -> tuple[Made, Float, Int, Int]:
    """Sums of a stream over all positions, for the head: rounded to so many bits that its accumulators fit.

    Returns the population, the real value of one of its units (C,), and its range.
    """
    fits = within((int(term.low.min()), int(term.high.max())), limits.state_bits)
    proof = "static" if fits else "observed"
    bounds, low, high = _bounds_of(name, term.low, term.high, proof, observed, term.scale, limits)
    seen = int(np.rint(max(map(abs, observed(name))) * OBSERVED_MARGIN / term.scale.min()))
    drop = max(0, seen.bit_length() - HEAD_MESSAGE_BITS)
    most = -(-int(max(abs(low.min()), abs(high.max()))) >> drop)
    # what is sent is rounded, halves up: it may be one more than the whole units of the largest sum
    half = 1 << drop >> 1
    # half a unit of what is kept, against the largest value
    rounding = 2.0**drop / 2 / max(1, seen) if drop else 0.0
    population = Population(
        name, (len(low), 1, 1), Relay(frozen(np.zeros(len(low), np.int64)), drop), most, bounds, rounding
    )
    projection = Projection((term.source,), name, term.window)
    return (
        (population, (projection,), proof, margin_of(bounds, limits)),
        term.scale * 2.0**drop,
        low + half >> drop,
        high + half >> drop,
    )


def _bounds_of(
    name: str, low: Int, high: Int, proof: str, observed: Ranges, unit: Float, limits: CoreLimits
) -> tuple[tuple[int, int], Int, Int]:
    """(bounds of a stream's state, least and largest value a channel): its worst case, or all that its bits hold."""
    bits = min(limits.message_bits, limits.state_bits)
    limit = 2 ** (bits - 1) - 1
    if proof == "static":
        bounds = int(low.min()), int(high.max())
    else:
        least, most = (int(np.rint(x * OBSERVED_MARGIN / unit.min())) for x in observed(name))
        bounds = min(0, least), max(0, most)
        low, high = np.full_like(low, -limit), np.full_like(high, limit)
    if not within(bounds, bits):
        raise QuantizeError(
            name,
            f"a residual stream of values from {bounds[0]:,} to {bounds[1]:,} needs signed messages of more than the "
            f"{bits} bits of the target",
            "Use a target with wide graded spikes (loihi2).",
        )
    return bounds, low, high
