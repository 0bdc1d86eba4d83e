"""The written law of an integer network: names, order, shapes, types and ranges.  For networks that come from files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.network.bounds import Worst, largest_sum, shift_of, worst_cases
from spikformer_deploy.network.decay import is_exact
from spikformer_deploy.network.network import ROUNDING_UNKNOWN, Network, Population, Projection
from spikformer_deploy.network.neurons import (
    DECAY_ONE,
    STOCK_SHIFT,
    Accumulator,
    And,
    Lif,
    LifKind,
    Max,
    Or,
    Source,
    Stream,
    Sum,
)
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Window

MOST_POPULATIONS = 2**12
MOST_PROJECTIONS = 2**14
EXACT_SUM = 2**53
"""Integers below are exact in double precision, in which the executors add up what is too wide for fp32."""
WIDEST_STATE = 2**50
"""With the 12 bits of a decay no potential of any step wraps in 64 bits, whether an executor looks at once or later."""
MOST_PADDING = 64
"""Of a window on a map that is smaller."""


def check_network(network: Network) -> None:
    """Raise ValueError, naming the population, where a network cannot run or does not mean what it says.

    What it says of its ranges is worked out again: `bounds: static` holds for every possible input.
    """
    _check_order(network)
    _check_numbers(network)
    for projection in network.projections:
        _check_projection(network, projection)
    for population in network:
        _check_population(network, population)
    for population in network:
        _check_sums(network, population)
        _check_said(network, population)
    if network.bounds == "static":
        for name, worst in worst_cases(network).items():
            _check_proof(network, network[name], worst)


def _check_order(network: Network) -> None:
    few = len(network.populations) <= MOST_POPULATIONS and len(network.projections) <= MOST_PROJECTIONS
    _demand(few, "network", f"{len(network.populations)} populations and {len(network.projections)} projections")
    names = [p.name for p in network]
    _demand(len(set(names)) == len(names), "network", "two populations share a name")
    _demand(all(names), "network", "a population has no name")
    kinds = [type(p.neuron) for p in network]
    single = kinds.count(Source) == kinds.count(Accumulator) == 1
    _demand(single and isinstance(network.input.neuron, Source), "network", "it needs one Source, first")
    _demand(isinstance(network.output.neuron, Accumulator), "network", "it needs one Accumulator, last")
    place = {name: i for i, name in enumerate(names)}
    order = [place.get(p.target, -1) for p in network.projections]
    _demand(order == sorted(order) and -1 not in order, "network", "projections out of the order of their targets")
    for projection in network.projections:
        _demand(bool(projection.sources), projection.target, "it reads nothing")
        for source in projection.sources:
            _demand(place.get(source, len(names)) < place[projection.target], projection.target, f"it reads {source}")


def _check_numbers(network: Network) -> None:
    """Of the network as a whole."""
    _demand(1 <= network.time_steps <= MOST_STEPS, "network", f"{network.time_steps} time steps")
    _demand(2 <= network.state_bits <= 32, "network", f"{network.state_bits} state bits")
    _demand(2 <= network.weight_bits <= 8, "network", f"{network.weight_bits} weight bits")
    _demand(network.bounds in ("static", "observed"), "network", f"bounds '{network.bounds}'")
    channels = network.input.shape[0]
    for what, values in (("mean", network.mean), ("std", network.std)):
        good = values.shape == (channels,) and values.dtype == np.float64 and bool(np.isfinite(values).all())
        _demand(good, "network", f"its {what} is not one finite number for each of {channels} channels")
    _demand(bool((network.std > 0).all()), "network", "a standard deviation that is not positive")
    largest = max(1, *(abs(edge) for p in network for edge in p.bounds))
    room = (2 ** (network.state_bits - 1) - 1) / largest
    _demand(0 < network.margin <= max(1.0, room * (1 + 1e-9)), "network", f"a margin of {network.margin:.4g}")


def _check_said(network: Network, population: Population) -> None:
    """What a population says of its own state and of its rounding."""
    low, high = population.bounds
    has_state = isinstance(population.neuron, (Lif, Stream, Accumulator))
    good = low <= high and max(-low, high) < WIDEST_STATE if has_state else low == high == 0
    _demand(good, population.name, f"bounds of its state from {low} to {high}")
    rounding = population.rounding
    said = rounding == ROUNDING_UNKNOWN or 0 <= rounding < np.inf
    _demand(said, population.name, f"a rounding error of {rounding}")
    if (
        isinstance(population.neuron, Lif)
        and population.neuron.kind == LifKind.PROGRAMMABLE
        and population.neuron.exact
    ):
        exact = is_exact(population.neuron, network.time_steps)
        _demand(exact, population.name, "said to be exact, and its decay rounds the potential")


def _check_sums(network: Network, population: Population) -> None:
    """No partial sum leaves the numbers that executors add up exactly, and no state wraps before it is looked at."""
    incoming = network.into(population.name)
    partial = [largest_sum(network, projection) for projection in incoming]
    _demand(max(partial, default=0) < EXACT_SUM, population.name, f"partial sums of up to {max(partial, default=0)}")
    drive = sum(most << shift_of(p) for most, p in zip(partial, incoming, strict=True))
    match population.neuron:
        case Lif() as lif:
            drive = (drive << lif.shift + (STOCK_SHIFT if lif.kind == LifKind.STOCK else 0)) * network.time_steps
            most = drive * network.time_steps if lif.current else drive
        case Accumulator(last=last):
            most = drive * (1 if last else network.time_steps)
        case Or() | Sum() | And():
            _demand(drive < 2**31, population.name, f"sums of up to {drive}")
            most = drive
        case _:
            most = drive
    _demand(most < WIDEST_STATE, population.name, f"sums of up to {most} over all steps")


def _check_proof(network: Network, population: Population, worst: Worst) -> None:
    """`bounds: static` is a proof, and this is it: what can happen is no more than what is said, and fits."""
    name, limit, (low, high) = population.name, 2 ** (network.state_bits - 1) - 1, worst.state
    problem = f"its state is said to stay in {list(population.bounds)} for any input, and may reach {[low, high]}"
    _demand(population.bounds[0] <= low and high <= population.bounds[1], name, problem)
    least, most = population.bounds
    _demand(max(-least, most) <= limit, name, f"bounds from {least} to {most} in {network.state_bits} bits of state")
    _demand(worst.largest <= limit, name, f"values of up to {worst.largest} in {network.state_bits} bits of state")
    if isinstance(population.neuron, Stream):
        sent = max(-low, high)
        allowed = population.max_out << population.neuron.drop
        _demand(sent <= allowed, name, f"a stream of up to {sent}, and it is said to stay within {allowed}")


def _check_population(network: Network, population: Population) -> None:
    name, channels = population.name, population.shape[0]
    _demand(min(population.shape) >= 1 and population.size < 2**31, name, f"its shape is {population.shape}")
    incoming = {type(p.synapse) for p in network.into(name)}
    match population.neuron:
        case Source(max_value=most):
            good = not incoming and 0 < most == population.max_out < 2**16
            _demand(good, name, f"a Source of pixels up to {most} that sends up to {population.max_out}")
        case Lif() as lif:
            _demand(bool(incoming) and Readout not in incoming, name, "a LIF without synapses of its kind")
            _demand(lif.kind in list(LifKind), name, f"kind {lif.kind}")
            _demand(0 <= lif.decay <= DECAY_ONE and 0 <= lif.shift <= 31, name, f"decay {lif.decay}, shift {lif.shift}")
            _demand(0 <= lif.current < DECAY_ONE, name, f"a decay of the current of {lif.current}")
            _demand(lif.kind == LifKind.STOCK or not lif.current, name, "a programmable neuron with a current")
            _demand(lif.kind == LifKind.PROGRAMMABLE or not lif.soft, name, "a stock neuron with a soft reset")
            _demand(
                lif.kind == LifKind.PROGRAMMABLE or not lif.strict, name, "a stock neuron that is said to be strict"
            )
            _demand(lif.threshold.shape == (channels,) and lif.threshold.dtype == np.int64, name, "its thresholds")
            good = lif.bias.shape in ((channels,), population.shape) and lif.bias.dtype == np.int64
            _demand(good, name, f"biases of shape {lif.bias.shape} and type {lif.bias.dtype}")
            _demand(population.max_out == 1, name, "a LIF that sends more than spikes")
            _check_width(network, name, "threshold", lif.threshold)
            _check_width(network, name, "bias", lif.bias)
            _demand(bool((lif.threshold >= 0).all()), name, f"a threshold of {int(lif.threshold.min())}")
        case Or() | Sum():
            _demand(incoming == {Window} and not _signed(network, name), name, "it needs unit synapses from spikes")
            sent = sum(_most(network, p) for p in network.into(name))
            most = 1 if isinstance(population.neuron, Or) else sent
            _demand(
                population.max_out == most, name, f"it is said to send up to {population.max_out}, and sends {most}"
            )
        case And(inputs=inputs):
            _demand(incoming <= {Window, Conv} and not _signed(network, name), name, "it needs synapses from spikes")
            _demand(1 <= inputs <= len(network.into(name)) and population.max_out == 1, name, f"{inputs} inputs")
        case Stream(bias=bias, drop=drop):
            _demand(bool(incoming) and incoming <= {Window, Conv}, name, "a stream without synapses of its kind")
            good = bias.shape in ((channels,), population.shape) and bias.dtype == np.int64
            _demand(good and 0 <= drop < 32, name, f"biases of shape {bias.shape}, {drop} bits dropped")
            _demand(0 <= population.max_out < 2**31, name, "its largest value")
            _check_width(network, name, "bias", bias)
        case Max():
            _demand(incoming == {Window} and len(network.into(name)) == 1, name, "it needs one window")
            window = network.into(name)[0].synapse
            assert isinstance(window, Window)
            inside = all(p < k for p, k in zip(window.padding, window.kernel, strict=True))
            source = network[network.into(name)[0].sources[0]]
            _demand(inside and population.max_out == source.max_out, name, "its window or largest value")
        case Accumulator(bias=bias, scale=scale):
            _demand(incoming == {Readout} and population.max_out == 0, name, "it needs a readout")
            shapes = bias.shape == scale.shape == (channels,) and population.shape == (channels, 1, 1)
            _demand(shapes and bias.dtype == np.int64, name, "its bias or scale")
            # the largest integer is the predicted class
            good = scale[0] > 0 and np.isfinite(scale[0]) and bool((scale == scale[0]).all())
            _demand(good, name, f"scales of {scale.tolist()[:4]} instead of one for all classes")
            _check_width(network, name, "bias", bias)
        case _:
            assert_never(population.neuron)


def _check_width(network: Network, name: str, what: str, values: NDArray[np.int64]) -> None:
    """Executors of other widths differ where a parameter leaves the state's bits."""
    most = 2 ** (network.state_bits - 1) - 1
    # not by magnitude: that of the least int64 is negative
    outside = values[(values < -most) | (values > most)]
    if outside.size:
        problem = f"a {what} of {int(outside[0])} does not fit {network.state_bits} bits of state (at most {most})"
        raise ValueError(f"{name}: {problem}")


def _signed(network: Network, name: str) -> bool:
    """Whether some input of a population may be negative."""
    return any(network[source].signed for projection in network.into(name) for source in projection.sources)


def _most(network: Network, projection: Projection) -> int:
    window = projection.synapse
    taps = window.kernel[0] * window.kernel[1] if isinstance(window, Window) else 0
    return network[projection.sources[0]].max_out * taps


def _check_projection(network: Network, projection: Projection) -> None:
    name, target = projection.target, network[projection.target].shape
    shapes = [network[s].shape for s in projection.sources]
    match projection.synapse:
        case Conv(weight, stride, padding, groups, shift):
            good = weight.ndim == 4 and weight.dtype == np.int8 and groups >= 1 and 0 <= shift < 32
            _demand(good, name, f"weights of shape {weight.shape} and type {weight.dtype}, shift {shift}")
            _check_weights(network, name, weight)
            fits = shapes[0][0] == weight.shape[1] * groups and len(weight) % groups == 0 and len(weight) == target[0]
            _demand(fits and len(shapes) == 1, name, f"weights {weight.shape} in {groups} groups on {shapes[0]}")
            _check_windows(name, shapes[0], target, weight.shape[2:], stride, padding)
        case Window(kernel, stride, padding):
            _demand(len(shapes) == 1 and shapes[0][0] == target[0], name, f"channels {shapes[0][0]} and {target[0]}")
            _check_windows(name, shapes[0], target, kernel, stride, padding)
        case Readout(weight):
            good = weight.shape == (target[0], shapes[0][0]) and weight.dtype == np.int8 and len(shapes) == 1
            _demand(good, name, f"a readout of shape {weight.shape} on {shapes[0]}")
            _check_weights(network, name, weight)
        case Attention(heads, weight):
            unsigned = not any(network[s].signed for s in projection.sources)
            good = unsigned and len(shapes) == 3 and set(shapes) == {target} and heads >= 1 and target[0] % heads == 0
            _demand(good and 0 < weight < 2**20, name, f"an attention of {heads} heads over {shapes}")
        case _:
            assert_never(projection.synapse)


def _check_weights(network: Network, name: str, weight: NDArray[np.integer]) -> None:
    most = 2 ** (network.weight_bits - 1)
    least, largest = int(weight.min(initial=0)), int(weight.max(initial=0))
    fits = -most <= least and largest < most
    _demand(fits, name, f"weights from {least} to {largest} in {network.weight_bits} bits")


def _check_windows(
    name: str,
    source: Shape,
    target: Shape,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> None:
    """The windows fit the maps on both sides, and do not lose themselves in padding."""
    geometry = f"kernel {kernel}, stride {stride}, padding {padding} from {source} to {target}"
    _demand(min(*kernel, *stride) >= 1 and min(padding) >= 0 and max(*kernel, *stride) < 2**16, name, geometry)
    sizes = [(e + 2 * p - k) // s + 1 for e, k, s, p in zip(source[1:], kernel, stride, padding, strict=True)]
    _demand(tuple(sizes) == target[1:], name, geometry)
    most = max(MOST_PADDING, *source[1:], *target[1:])
    _demand(max(padding) < most, name, geometry)


def _demand(holds: bool, place: str, problem: str) -> None:
    if not holds:
        raise ValueError(f"{place}: {problem}")
