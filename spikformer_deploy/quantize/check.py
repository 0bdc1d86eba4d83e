"""The written law of an integer network: names, order, shapes, types and ranges.  For networks that come from files."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.quantize.network import (
    DECAY_ONE,
    Accumulator,
    And,
    Attention,
    Conv,
    Lif,
    Max,
    Network,
    Or,
    Population,
    Projection,
    Readout,
    Shape,
    Source,
    Stream,
    Sum,
    Window,
)


def check_network(network: Network) -> None:
    """Raise ValueError, naming the population, where a network cannot run or does not mean what it says."""
    names = [p.name for p in network]
    _demand(len(set(names)) == len(names), "network", "two populations share a name")
    kinds = [type(p.neuron) for p in network]
    single = kinds.count(Source) == kinds.count(Accumulator) == 1
    _demand(single and isinstance(network.input.neuron, Source), "network", "it needs one Source, first")
    _demand(isinstance(network.output.neuron, Accumulator), "network", "it needs one Accumulator, last")
    _demand(1 <= network.time_steps <= 1024, "network", f"{network.time_steps} time steps")
    _demand(2 <= network.state_bits <= 32, "network", f"{network.state_bits} state bits")
    _demand(network.bounds in ("static", "observed"), "network", f"bounds '{network.bounds}'")
    place = {name: i for i, name in enumerate(names)}
    order = [place.get(p.target, -1) for p in network.projections]
    _demand(order == sorted(order) and -1 not in order, "network", "projections out of the order of their targets")
    for projection in network.projections:
        for source in projection.sources:
            _demand(place.get(source, len(names)) < place[projection.target], projection.target, f"it reads {source}")
        _check_projection(network, projection)
    for population in network:
        _check_population(network, population)


def _check_population(network: Network, population: Population) -> None:
    name, channels = population.name, population.shape[0]
    _demand(min(population.shape) >= 1 and population.size < 2**31, name, f"its shape is {population.shape}")
    incoming = {type(p.synapse) for p in network.into(name)}
    match population.neuron:
        case Source(max_value=most):
            _demand(not incoming and 0 < most == population.max_out, name, "a Source that receives or sends wrongly")
        case Lif() as lif:
            _demand(bool(incoming) and Readout not in incoming, name, "a LIF without synapses of its kind")
            _demand(lif.kind in ("programmable", "stock"), name, f"kind {lif.kind}")
            _demand(0 <= lif.decay <= DECAY_ONE and 0 <= lif.shift <= 31, name, f"decay {lif.decay}, shift {lif.shift}")
            _demand(0 <= lif.current < DECAY_ONE, name, f"a decay of the current of {lif.current}")
            _demand(lif.kind == "stock" or not lif.current, name, "a programmable neuron with a current")
            _demand(lif.kind == "programmable" or not lif.soft, name, "a stock neuron with a soft reset")
            _demand(lif.kind == "programmable" or not lif.strict, name, "a stock neuron that is said to be strict")
            _demand(lif.threshold.shape == (channels,) and lif.threshold.dtype == np.int64, name, "its thresholds")
            good = lif.bias.shape in ((channels,), population.shape) and lif.bias.dtype == np.int64
            _demand(good, name, f"biases of shape {lif.bias.shape} and type {lif.bias.dtype}")
            _demand(population.max_out == 1, name, "a LIF that sends more than spikes")
            _check_width(network, name, "threshold", lif.threshold)
            _check_width(network, name, "bias", lif.bias)
        case Or() | Sum():
            _demand(incoming == {Window} and not _signed(network, name), name, "it needs unit synapses from spikes")
            sent = sum(_most(network, p) for p in network.into(name))
            _demand(population.max_out == (1 if isinstance(population.neuron, Or) else sent), name, "its largest value")
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
            _demand(shapes and bias.dtype == np.int64 and bool(np.isfinite(scale).all()), name, "its bias or scale")
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
            _demand(good, name, f"weights of shape {weight.shape} and type {weight.dtype}")
            fits = shapes[0][0] == weight.shape[1] * groups and len(weight) % groups == 0 and len(weight) == target[0]
            _demand(fits and len(shapes) == 1, name, f"weights {weight.shape} in {groups} groups on {shapes[0]}")
            _demand(_windows(shapes[0], weight.shape[2:], stride, padding) == target[1:], name, "its size")
        case Window(kernel, stride, padding):
            _demand(len(shapes) == 1 and shapes[0][0] == target[0], name, f"channels {shapes[0][0]} and {target[0]}")
            _demand(_windows(shapes[0], kernel, stride, padding) == target[1:], name, "its size")
        case Readout(weight):
            good = weight.shape == (target[0], shapes[0][0]) and weight.dtype == np.int8 and len(shapes) == 1
            _demand(good, name, f"a readout of shape {weight.shape} on {shapes[0]}")
        case Attention(heads, weight):
            unsigned = not any(network[s].signed for s in projection.sources)
            good = unsigned and len(shapes) == 3 and set(shapes) == {target} and heads >= 1 and target[0] % heads == 0
            _demand(good and 0 < weight < 2**20, name, f"an attention of {heads} heads over {shapes}")
        case _:
            assert_never(projection.synapse)


def _windows(shape: Shape, kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> Shape:
    sane = min(*kernel, *stride) >= 1 and min(padding) >= 0 and max(*kernel, *stride, *padding) < 2**16
    _demand(sane, "network", f"kernel {kernel}, stride {stride}, padding {padding}")
    sizes = [(e + 2 * p - k) // s + 1 for e, k, s, p in zip(shape[1:], kernel, stride, padding, strict=True)]
    return tuple(sizes)  # type: ignore[return-value]


def _demand(holds: bool, place: str, problem: str) -> None:
    if not holds:
        raise ValueError(f"{place}: {problem}")
