"""Graph -> Network: walk the float graph in order and turn every neuron into an integer population."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.base.words import meant, shown
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.graph import ir
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator, LifKind, Source
from spikformer_deploy.quantization.currents import (
    Current,
    UnitTerm,
    Value,
    as_current,
    as_signal,
    at_all_positions,
    at_one_position,
    convolve,
    offset,
    scaled,
)
from spikformer_deploy.quantization.fitting import Quantized
from spikformer_deploy.quantization.heads import make_accumulator
from spikformer_deploy.quantization.joins import attention, concatenated, dual_spike, masked, residual
from spikformer_deploy.quantization.levels import make_levels, sends_whole, task_of
from spikformer_deploy.quantization.lif import make_lif
from spikformer_deploy.quantization.pools import (
    average_pool,
    max_pool_of_currents,
    max_pool_of_spikes,
    token_pool_of_spikes,
)
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.rows import maps_as_rows
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.shared_units import plan_shared_units
from spikformer_deploy.quantization.signals import Pixels, Signal, of_image, units_of
from spikformer_deploy.quantization.stream_neurons import pooled_residual, residual_population
from spikformer_deploy.quantization.thermometer import make_thermometer
from spikformer_deploy.quantization.walk import Accumulated, Walk

LEAST_BITS = 2
"""Of a weight."""
HEAD_STATE_BITS = 63
"""Of the accumulators of a head whose range is still to be seen."""


def quantize(
    graph: ir.Graph,
    pixels: Pixels,
    calibration: Calibration,
    limits: CoreLimits,
    settings: Settings,
    accumulated: Accumulated | None = None,
) -> Network:
    """The integer network of a folded and simplified `graph`.

    calibration  ranges of what no worst case bounds; most networks need none of it
    accumulated  an executor's answer for the head, which a worst case rarely bounds; None: the float graph's
    Raises QuantizeError, naming the layer, where the target's integers cannot hold it.
    """
    _check_settings(settings, limits)
    _check_layers(graph, settings, limits)
    image = _image(graph, pixels)
    shared_units = plan_shared_units(graph, image, calibration.range_of, limits, settings)
    walk = Walk(graph, pixels, calibration, limits, settings, accumulated, shared_units)
    for node in graph:
        value = _value(walk, node)
        if node.name in shared_units and isinstance(value, Current):
            value = _send(walk, node, value)
        walk.values[node.name] = value
    return _network(walk)


def _check_settings(settings: Settings, limits: CoreLimits) -> None:
    if settings.weight_bits < LEAST_BITS:
        problem = f"{settings.weight_bits} weight bits asked for, and a weight has a sign and a value"
        raise QuantizeError("--weight-bits", problem, f"Use {LEAST_BITS} to {limits.weight_bits}.")
    if settings.weight_bits > limits.weight_bits:
        problem = f"{settings.weight_bits} weight bits asked for, and the target has {limits.weight_bits}"
        raise QuantizeError("--weight-bits", problem, f"Use --weight-bits {limits.weight_bits} or fewer.")
    if settings.neuron == LifKind.PROGRAMMABLE and not limits.programmable:
        raise QuantizeError("--neuron", "the target has no programmable neurons", "Use --neuron stock.")


def _check_layers(graph: ir.Graph, settings: Settings, limits: CoreLimits) -> None:
    """Raise QuantizeError for bits of a layer that the graph has not, and for bits that the target has not."""
    known = layers_with_bits(graph)
    for layer, bits in settings.layer_bits.items():
        if layer not in known:
            problem = f"'{layer}' is no layer with weights or attention{meant(layer, known)}"
            raise QuantizeError("--layer-bits", problem, f"The layers are {', '.join(known)}.")
        if type(bits) is not int or not LEAST_BITS <= bits <= limits.weight_bits:
            problem = f"{shown(bits)} bits for '{layer}', and the target has {LEAST_BITS} to {limits.weight_bits}"
            raise QuantizeError("--layer-bits", problem, "Give a whole number of them.")


def layers_with_bits(graph: ir.Graph) -> tuple[str, ...]:
    """The nodes of a graph whose synapses can have bits of their own, in order: layers with weights, and attention."""
    return tuple(n.name for n in graph.of(ir.Conv2d, ir.Linear, ir.Attention, ir.DualSpike))


def _image(graph: ir.Graph, pixels: Pixels) -> Signal:
    """What the input of a graph sends."""
    node = next(graph.of(ir.Input))
    channels = node.shape[0]
    if len(pixels.mean) != channels or len(pixels.std) != channels:
        problem = f"{len(pixels.mean)} means and {len(pixels.std)} stds for {channels} channels"
        raise QuantizeError(node.name, problem, "Give one mean and one std a channel.")
    return of_image(node.name, node.shape, pixels)


def _network(walk: Walk) -> Network:
    """What the walk has quantized, as a network."""
    layers = walk.quantized.values()
    return Network(
        populations=tuple(quantized.population for quantized in layers),
        projections=tuple(projection for quantized in layers for projection in quantized.projections),
        time_steps=walk.graph.time_steps,
        state_bits=walk.limits.state_bits,
        weight_bits=walk.settings.weight_bits,
        bounds="static" if all(quantized.proven for quantized in layers) else "observed",
        margin=min(quantized.margin for quantized in layers),
        mean=frozen(walk.pixels.mean, np.float64),
        std=frozen(walk.pixels.std, np.float64),
    )


def _value(walk: Walk, node: ir.Node) -> Value:
    """What a node is in terms of spikes; its populations are added to the walk."""
    name = node.name
    inputs = [walk.values[i] for i in node.inputs]
    match node.op:
        case ir.Input(per_step):
            return _source(walk, node, per_step)
        case ir.Conv2d() as conv:
            return convolve(name, inputs[0], conv, node.shape)
        case ir.Linear(weight, bias):
            return convolve(name, inputs[0], ir.Conv2d(weight[:, :, None, None], bias), node.shape)
        case ir.BatchNorm():
            raise QuantizeError(name, "a batch normalisation is left", "Fold it into a layer before: it needs one.")
        case ir.Lif() as lif:
            return _fire(walk, node, lif, inputs[0])
        case ir.Levels() as op:
            return _count(walk, node, op, inputs[0])
        case ir.MaxPool2d() as pool if name in walk.shared_units:
            return max_pool_of_currents(walk, node, as_signal(name, inputs[0]), pool)
        case ir.MaxPool2d() as pool:
            return max_pool_of_spikes(walk, node, as_signal(name, inputs[0]), pool)
        case ir.TokenPool() as token_pool:
            return token_pool_of_spikes(walk, node, as_signal(name, inputs[0]), token_pool)
        case ir.AvgPool2d() | ir.AdaptiveAvgPool2d() as pool:
            return average_pool(walk, node, as_signal(name, inputs[0]), pool)
        case ir.Add():
            return residual(walk, node, inputs[0], inputs[1])
        case ir.Concat():
            return concatenated(walk, node, inputs)
        case ir.Offset(constant):
            return offset(name, inputs[0], constant)
        case ir.Scale(factor):
            return scaled(inputs[0], factor)
        case ir.Attention() as op:
            return attention(walk, node, [as_signal(name, i) for i in inputs], op)
        case ir.DualSpike() as product:
            return dual_spike(walk, node, as_signal(name, inputs[0]), as_signal(name, inputs[1]), product)
        case ir.SpikeMask():
            return masked(walk, node, as_signal(name, inputs[0]), as_signal(name, inputs[1]))
        case ir.TokenSum():
            return _over_positions(walk, node, as_signal(name, inputs[0]))
        case ir.Mean():
            return _mean(walk, node, as_signal(name, inputs[0]))
        case ir.Output(last):
            return _accumulate(walk, node, as_current(name, inputs[0]), last)
        case _:
            assert_never(node.op)


def _source(walk: Walk, node: ir.Node, per_step: bool) -> Signal:
    """The population of the pixels, and what it sends."""
    most = walk.pixels.max_value
    if most >= 2**walk.limits.message_bits:
        raise QuantizeError(
            node.name,
            f"pixels up to {most} need graded spikes, and the target sends {walk.limits.message_bits} bit",
            "Use a target with graded spikes (loihi2), or a model of binary events.",
        )
    return walk.place_neurons(of_image(node.name, node.shape, walk.pixels), Source(most, per_step))


def _fire(walk: Walk, node: ir.Node, lif: ir.Lif, value: Value) -> Signal:
    """The LIF population of a node, and its spikes."""
    current = at_all_positions(as_current(node.name, value), walk.shapes)
    observed = walk.calibration.range_of
    walk.place(make_lif(node.name, lif, current, observed, walk.graph.time_steps, walk.limits, walk.settings))
    return units_of(node.name, current.shape)


def _count(walk: Walk, node: ir.Node, op: ir.Levels, value: Value) -> Signal:
    """The population of integer neurons of a node, and the integers that it sends; or one for each of its levels."""
    current = at_all_positions(as_current(node.name, value), walk.shapes)
    observed = walk.calibration.range_of
    task = task_of(node.name, op, current, observed, walk.graph.time_steps, walk.limits, walk.settings)
    sent = units_of(node.name, current.shape, op.count)
    if sends_whole(op, walk.limits, walk.settings):
        walk.place(make_levels(task))
        return sent
    names = tuple(_unused(walk, f"{node.name}.level{j}") for j in range(1, op.count + 1))
    for quantized in make_thermometer(task, names):
        walk.place(quantized)
    if walk.settings.moments is not None:
        walk.settings = replace(walk.settings, moments=walk.settings.moments.taken_apart(node.name, names))
    return replace(sent, populations=names)


def _unused(walk: Walk, name: str) -> str:
    """`name`, or one like it that no node has: a module of the user's may be called so."""
    while name in walk.graph:
        name += "_"
    return name


def _send(walk: Walk, node: ir.Node, current: Current) -> Signal:
    """The population of a residual stream, and what it sends."""
    shared = walk.shared_units[node.name]
    observed = walk.calibration.range_of
    quantized, signal = residual_population(node.name, current, shared, observed, walk.limits, walk.settings)
    walk.place(quantized)
    return signal


def _over_positions(walk: Walk, node: ir.Node, signal: Signal) -> Signal:
    """The sum of a signal over its positions; what was added at each of them adds up, too."""
    if np.any(signal.offset) and isinstance(walk.population(signal.populations[0]).neuron, Source):
        problem = "a token mean of the raw image has no spiking form"
        raise QuantizeError(node.name, problem, "Put neurons before the mean.")
    positions = signal.shape[1] * signal.shape[2]
    offset_sum = signal.offset.sum((1, 2)) if signal.offset.ndim == 3 else signal.offset * positions
    return replace(signal, offset=offset_sum, pooled=True)


def _mean(walk: Walk, node: ir.Node, signal: Signal) -> Signal:
    """The mean of a signal over its positions: their sum in smaller units."""
    summed = _over_positions(walk, node, signal)
    positions = signal.shape[1] * signal.shape[2]
    mean = replace(summed, scale=summed.scale / positions, offset=summed.offset / positions)
    readers = {type(reader.op) for reader in walk.graph.consumers(node.name)}
    if signal.low is None or readers <= {ir.Lif, ir.Levels}:
        # Spikes are summed where they are read, and so is a stream by neurons, whose threshold takes sums of any size.
        return mean
    # A head would sum a stream over positions and steps in one accumulator, which is too narrow for that.
    (term,) = as_current(node.name, mean).terms
    assert isinstance(term, UnitTerm)
    quantized, sent = pooled_residual(node.name, term, walk.calibration.range_of, walk.limits)
    walk.place(quantized)
    return sent


def _accumulate(walk: Walk, node: ir.Node, current: Current, last: bool) -> Signal:
    """The head, which sends nothing."""
    if current.shape[1:] == (1, 1):
        current = at_one_position(node.name, maps_as_rows(walk, current))
    largest = partial(_largest_accumulator, walk)
    head = make_accumulator(node.name, current, largest, walk.graph.time_steps, walk.limits, walk.settings, last)
    walk.place(head)
    return units_of(node.name, head.population.shape, head.population.max_out)


def _largest_accumulator(walk: Walk, head: Quantized) -> int:
    """Largest |accumulator| of a head on the calibration images, of the integers that reach it where they can run."""
    neuron = head.population.neuron
    assert isinstance(neuron, Accumulator)
    if walk.accumulated is None:
        largest = max(map(abs, walk.calibration.range_of(head.population.name)))
        steps = 1 if neuron.last else walk.graph.time_steps
        # the scale is that of the mean over the steps, and the accumulator holds their sum
        return int(np.ceil(largest / (steps * neuron.scale[0])))
    network = _network(walk)
    # Its state is as wide as it takes: whether it fits the target's is what is asked.
    return walk.accumulated(
        replace(
            network,
            populations=(*network.populations, head.population),
            projections=(*network.projections, *head.projections),
            state_bits=HEAD_STATE_BITS,
        )
    )
