"""Graph -> Network: walk the float graph in order and turn every neuron into an integer population."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.windows import Means, framed, means_of, one_window, overhang
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import STOCK_SHIFT, Accumulator, And, LifKind, Max, Or, Source, Sum
from spikformer_deploy.network.neurons import Stream as Relay
from spikformer_deploy.network.synapses import Conv, Window
from spikformer_deploy.quantization.currents import (
    AttentionTerm,
    ConvTerm,
    Current,
    ReadoutTerm,
    Signal,
    UnitTerm,
    Value,
    add,
    as_current,
    as_signal,
    at_all_positions,
    at_one_position,
    convolve,
    dense_weight,
    joined,
    offset,
    scaled,
)
from spikformer_deploy.quantization.fitting import Made
from spikformer_deploy.quantization.heads import make_accumulator
from spikformer_deploy.quantization.lif import make_lif
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.relays import make_pooled, make_stream
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.streams import Stream, plan_streams

Accumulated: TypeAlias = Callable[[Network], int]
"""Largest |accumulator| at any time when a network runs on the calibration images."""


MOST_PAIRS = 2**24
"""Weights of a pool that has one for each pair of positions, at most."""
HEAD_STATE_BITS = 63
"""Of the accumulators of a head whose range is still to be seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """How the integer input relates to what the model was trained on: real = (pixel / max_value - mean) / std.

    mean, std  (C,) float
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_value: int = 255


@dataclass(slots=True)
class _Walk:
    """What the walk over the graph has made so far."""

    graph: ir.Graph
    pixels: Pixels
    calibration: Calibration
    limits: CoreLimits
    settings: Settings
    accumulated: Accumulated | None
    streams: dict[str, Stream]
    values: dict[str, Value] = field(default_factory=dict)
    populations: list[Population] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    proofs: list[tuple[str, float]] = field(default_factory=list)

    def population(self, name: str) -> Population:
        return next(population for population in self.populations if population.name == name)

    def place(self, made: Made) -> Signal:
        population, projections, proof, margin = made
        self.populations.append(population)
        self.projections.extend(projections)
        self.proofs.append((proof, margin))
        channels = population.shape[0]
        return Signal((population.name,), population.shape, np.ones(channels), np.zeros(channels), population.max_out)


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
    if settings.weight_bits > limits.weight_bits:
        problem = f"{settings.weight_bits} weight bits asked for, and the target has {limits.weight_bits}"
        raise QuantizeError("--weight-bits", problem, f"Use --weight-bits {limits.weight_bits} or fewer.")
    if settings.neuron == LifKind.PROGRAMMABLE and not limits.programmable:
        raise QuantizeError("--neuron", "the target has no programmable neurons", "Use --neuron stock.")
    streams = _streams(graph, pixels, calibration, limits, settings)
    walk = _Walk(graph, pixels, calibration, limits, settings, accumulated, streams)
    for node in graph:
        value = _value(walk, node)
        if node.name in walk.streams and isinstance(value, Current):
            value = _stream(walk, node, value)
        walk.values[node.name] = value
    return _network(walk)


def _network(walk: _Walk) -> Network:
    """What the walk has made, as a network."""
    static = all(proof == "static" for proof, _ in walk.proofs)
    return Network(
        populations=tuple(walk.populations),
        projections=tuple(walk.projections),
        time_steps=walk.graph.time_steps,
        state_bits=walk.limits.state_bits,
        weight_bits=walk.settings.weight_bits,
        bounds="static" if static else "observed",
        margin=min(margin for _, margin in walk.proofs),
        mean=frozen(walk.pixels.mean, np.float64),
        std=frozen(walk.pixels.std, np.float64),
    )


def _largest_accumulator(walk: _Walk, head: Population, projections: tuple[Projection, ...]) -> int:
    """Largest |accumulator| of a head on the calibration images, of the integers that reach it where they can run."""
    if walk.accumulated is None:
        assert isinstance(head.neuron, Accumulator)
        largest = max(map(abs, walk.calibration.range_of(head.name)))
        steps = 1 if head.neuron.last else walk.graph.time_steps
        return int(np.ceil(largest / (steps * head.neuron.scale[0])))
    network = _network(walk)
    # its state is as wide as it takes: whether it fits the target's is what is asked
    return walk.accumulated(
        replace(
            network,
            populations=(*network.populations, head),
            projections=(*network.projections, *projections),
            state_bits=HEAD_STATE_BITS,
        )
    )


def _streams(
    graph: ir.Graph, pixels: Pixels, calibration: Calibration, limits: CoreLimits, settings: Settings
) -> dict[str, Stream]:
    unit = 1 / (pixels.max_value * np.asarray(pixels.std, np.float64))
    own = STOCK_SHIFT + graph.time_steps - 1 if settings.neuron == LifKind.STOCK else 0
    return plan_streams(
        graph,
        unit,
        pixels.max_value,
        calibration.range_of,
        settings.granularity,
        settings.weight_bits,
        limits.parameter_sets,
        (limits.message_bits, limits.state_bits - own),
    )


def _value(walk: _Walk, node: ir.Node) -> Value:
    name, inputs = node.name, [walk.values[i] for i in node.inputs]
    match node.op:
        case ir.Input():
            return _input(walk, node, node.op)
        case ir.Conv2d(weight, bias, stride, padding, groups):
            return convolve(name, inputs[0], weight, bias, stride, padding, groups, node.shape)
        case ir.Linear(weight, bias):
            return convolve(name, inputs[0], weight[:, :, None, None], bias, (1, 1), (0, 0), 1, node.shape)
        case ir.BatchNorm():
            raise QuantizeError(name, "a batch normalisation is left", "Fold it into a layer before: it needs one.")
        case ir.Lif():
            shapes = {population.name: population.shape for population in walk.populations}
            current, steps = at_all_positions(name, as_current(name, inputs[0]), shapes), walk.graph.time_steps
            observed = walk.calibration.range_of
            return walk.place(make_lif(name, node.op, current, observed, steps, walk.limits, walk.settings))
        case ir.MaxPool2d() as pool if node.name in walk.streams:
            return _max_pool(walk, node, as_signal(name, inputs[0]), pool)
        case ir.MaxPool2d() as pool:
            return _or_pool(walk, node, as_signal(name, inputs[0]), pool)
        case ir.AvgPool2d() | ir.AdaptiveAvgPool2d() as pool:
            return _average(walk, node, as_signal(name, inputs[0]), pool)
        case ir.Add():
            return _residual(walk, node, inputs[0], inputs[1])
        case ir.Concat():
            return _joined(walk, node, inputs)
        case ir.Offset(constant):
            return offset(name, inputs[0], constant)
        case ir.Scale(factor):
            return scaled(inputs[0], factor)
        case ir.Attention(heads, scale):
            return _attention(walk, node, [as_signal(name, i) for i in inputs], heads, scale)
        case ir.SpikeMask():
            return _masked(walk, node, as_signal(name, inputs[0]), as_signal(name, inputs[1]))
        case ir.TokenSum():
            return _over_positions(walk, node, as_signal(name, inputs[0]))
        case ir.Mean():
            signal = as_signal(name, inputs[0])
            total, positions = _over_positions(walk, node, signal), signal.shape[1] * signal.shape[2]
            mean = replace(total, scale=total.scale / positions, offset=total.offset / positions)
            readers = {type(reader.op) for reader in walk.graph.consumers(name)}
            return mean if signal.low is None or readers <= {ir.Lif} else _pooled(walk, node, mean)
        case ir.Output(last):
            current, steps = as_current(name, inputs[0]), walk.graph.time_steps
            if current.shape[1:] == (1, 1):
                current = at_one_position(_with_rows(walk, current))
            largest = partial(_largest_accumulator, walk)
            return walk.place(make_accumulator(name, current, largest, steps, walk.limits, walk.settings, last))
        case _:
            assert_never(node.op)


def _input(walk: _Walk, node: ir.Node, op: ir.Input) -> Signal:
    pixels, channels = walk.pixels, node.shape[0]
    if len(pixels.mean) != channels or len(pixels.std) != channels:
        problem = f"{len(pixels.mean)} means and {len(pixels.std)} stds for {channels} channels"
        raise QuantizeError(node.name, problem, "Give one mean and one std a channel.")
    if pixels.max_value >= 2**walk.limits.message_bits:
        raise QuantizeError(
            node.name,
            f"pixels up to {pixels.max_value} need graded spikes, and the target sends {walk.limits.message_bits} bit",
            "Use a target with graded spikes (loihi2), or a model of binary events.",
        )
    mean, std = np.asarray(pixels.mean, np.float64), np.asarray(pixels.std, np.float64)
    walk.place(
        (
            Population(node.name, node.shape, Source(pixels.max_value, op.per_step), pixels.max_value),
            (),
            "static",
            np.inf,
        )
    )
    return Signal((node.name,), node.shape, 1 / (pixels.max_value * std), -mean / std, pixels.max_value)


def _over_positions(walk: _Walk, node: ir.Node, signal: Signal) -> Signal:
    """The sum of a signal over its positions; what was added at each of them adds up, too."""
    if np.any(signal.offset) and isinstance(walk.population(signal.populations[0]).neuron, Source):
        problem = "a token mean of the raw image has no spiking form"
        raise QuantizeError(node.name, problem, "Put a LIF before the mean.")
    positions = signal.shape[1] * signal.shape[2]
    total = signal.offset.sum((1, 2)) if signal.offset.ndim == 3 else signal.offset * positions
    return replace(signal, offset=total, pooled=True)


def _with_rows(walk: _Walk, current: Current) -> Current:
    """The current of a head with the maps that it reads position by position as rows of channels."""
    shapes = {population.name: population.shape for population in walk.populations}
    whole = [isinstance(t, ConvTerm) and shapes[t.source][1:] != (1, 1) for t in current.terms]
    terms = tuple(_of_row(walk, t, shapes[t.source]) if w else t for t, w in zip(current.terms, whole, strict=True))  # type: ignore[union-attr, arg-type]
    return replace(current, terms=terms)


def _of_row(walk: _Walk, term: ConvTerm, shape: ir.Shape) -> ReadoutTerm:
    """A readout of what a convolution of one position reads: a readout has one weight a channel, not a position."""
    kernel = dense_weight(term.weight, term.groups)
    weight = np.zeros((len(kernel), *shape))
    (top, left), (_, height, width) = term.padding, shape
    seen = kernel[:, :, top : top + height, left : left + width]
    weight[:, :, : seen.shape[2], : seen.shape[3]] = seen
    row = _row(walk, term.layer, term.source, term.max_out, shape)
    return ReadoutTerm(row, weight.reshape(len(kernel), -1), 1, term.max_out)


def _row(walk: _Walk, layer: str, source: str, most: int, shape: ir.Shape) -> str:
    """The population that repeats what `source` sends as (C * Y * X, 1, 1), for `layer`; one for all that read it."""
    name, size = f"{source}.row", int(np.prod(shape))
    while name in walk.graph:  # a module of the user's may be called so
        name += "_"
    if any(population.name == name for population in walk.populations):
        return name
    positions = np.eye(shape[1] * shape[2], dtype=np.int8).reshape(-1, 1, *shape[1:])
    conv = Conv(frozen(np.tile(positions, (shape[0], 1, 1, 1)), np.int8), groups=shape[0])
    problem = f"it reads values up to {most} position by position"
    relayed = _relayed(walk, layer, problem, name, (size, 1, 1), most, (Projection((source,), name, conv),))
    walk.place(relayed)
    return name


def _relayed(
    walk: _Walk, layer: str, problem: str, name: str, shape: ir.Shape, most: int, projections: tuple[Projection, ...]
) -> Made:
    """A population of neurons without state that send what they receive, up to `most` and never negative.

    Raises QuantizeError for `layer`, whose `problem` it is, where the target's messages do not hold that.
    """
    if most == 1:
        return Population(name, shape, And(1), 1, (0, 0), 0.0), projections, "static", np.inf
    bits = min(walk.limits.message_bits, walk.limits.state_bits)
    if most >= 2 ** (bits - 1):
        detail = f"{problem}, and signed messages of the target hold {2 ** (bits - 1) - 1} at most"
        raise QuantizeError(
            layer, detail, "Use a target with wide graded spikes (loihi2), or put LIF neurons in between."
        )
    neuron = Relay(frozen(np.zeros(shape[0], np.int64)))
    return Population(name, shape, neuron, most, (0, most), 0.0), projections, "static", np.inf


def _stream(walk: _Walk, node: ir.Node, current: Current) -> Signal:
    """The population of a residual stream, and what it sends."""
    stream = walk.streams[node.name]
    observed = walk.calibration.range_of
    made, low, high = make_stream(node.name, current, stream, observed, walk.limits, walk.settings)
    return replace(walk.place(made), scale=stream.unit, low=low, high=high)


def _max_pool(walk: _Walk, node: ir.Node, signal: Signal, pool: ir.MaxPool2d) -> Signal:
    if not _is_window(walk, node, pool):
        raise QuantizeError(
            node.name,
            "max-pooling of currents with dilation or with windows that ceil_mode adds is not supported",
            "Put a LIF before the pool, or pool with ceil_mode=False and dilation 1.",
        )
    projection = Projection(signal.populations, node.name, Window(pool.kernel, pool.stride, pool.padding))
    population = Population(node.name, node.shape, Max(), signal.max_out)
    return replace(
        walk.place((population, (projection,), "static", np.inf)), scale=signal.scale, low=signal.low, high=signal.high
    )


def _pooled(walk: _Walk, node: ir.Node, mean: Signal) -> Signal:
    """The mean of a stream as the head reads it."""
    (term,) = as_current(node.name, mean).terms
    assert isinstance(term, UnitTerm)
    made, unit, low, high = make_pooled(node.name, term, walk.calibration.range_of, walk.limits)
    return replace(walk.place(made), scale=unit, low=low, high=high)


def _masked(walk: _Walk, node: ir.Node, x: Signal, mask: Signal) -> Signal:
    """Spikes that a mask lets pass: a neuron fires where both fire.  What spreads the mask has unit synapses."""
    for signal in (x, mask):
        if len(signal.populations) != 1 or signal.max_out != 1 or np.any(signal.offset) or signal.pooled:
            raise QuantizeError(node.name, "a mask of something else than single spikes", "Mask the spikes of one LIF.")
    (channels, height, width), (masks, *positions) = node.shape, mask.shape
    spread: Window | Conv = Window()
    if masks < channels and positions == [height, width]:
        spread = Conv(frozen(np.ones((channels, 1, 1, 1), np.int8), np.int8), groups=masks)
    elif masks == channels and positions == [1, 1] and (height, width) != (1, 1):
        spread = Window((height, width), (1, 1), (height - 1, width - 1))
    elif mask.shape != node.shape:
        raise QuantizeError(node.name, f"a mask of {mask.shape} for {node.shape}", "Mask either channels or tokens.")
    projections = (Projection(x.populations, node.name, Window()), Projection(mask.populations, node.name, spread))
    placed = walk.place((Population(node.name, node.shape, And(2), 1), projections, "static", np.inf))
    return replace(placed, scale=x.scale * np.repeat(mask.scale, channels // masks))


def _is_window(walk: _Walk, node: ir.Node, pool: ir.MaxPool2d) -> bool:
    extents = walk.graph[node.inputs[0]].shape[1:]
    return pool.dilation == (1, 1) and overhang(pool, extents) == (0, 0)


def _or_pool(walk: _Walk, node: ir.Node, signal: Signal, pool: ir.MaxPool2d) -> Signal:
    if signal.max_out != 1 or len(signal.populations) != 1:
        raise QuantizeError(
            node.name,
            f"max-pooling of graded spikes (values up to {signal.max_out}) is no OR of spikes",
            "Pool the spikes of one LIF, or use average pooling.",
        )
    if signal.offset.ndim == 3 or np.any(signal.scale <= 0):
        problem = "max-pooling of spikes with a constant added at each position, or scaled by a negative number"
        raise QuantizeError(node.name, problem, "Pool the spikes themselves.")
    return replace(_any_of(walk, node, signal, pool), scale=signal.scale, offset=signal.offset)


def _any_of(walk: _Walk, node: ir.Node, signal: Signal, pool: ir.MaxPool2d) -> Signal:
    """The spikes of a window, which fire where any of its neurons does."""
    if _is_window(walk, node, pool):
        projection = Projection(signal.populations, node.name, Window(pool.kernel, pool.stride, pool.padding))
        return walk.place((Population(node.name, node.shape, Or(), 1), (projection,), "static", np.inf))
    # a window with gaps, or with more padding behind than before, is a kernel of ones and zeros
    channels, *extents = signal.shape
    more = overhang(pool, (extents[0], extents[1]))
    after = (pool.padding[0] + more[0], pool.padding[1] + more[1])
    kernel, padding = framed(np.ones((channels, 1, *pool.kernel)), pool.dilation, pool.padding, after)
    conv = Conv(frozen(kernel, np.int8), pool.stride, padding, channels)
    projection = Projection(signal.populations, node.name, conv)
    return walk.place((Population(node.name, node.shape, And(1), 1), (projection,), "static", np.inf))


def _average(walk: _Walk, node: ir.Node, signal: Signal, pool: ir.AvgPool2d | ir.AdaptiveAvgPool2d) -> Signal:
    if np.any(signal.offset):
        raise QuantizeError(node.name, "average pooling of the raw image", "Pool after the first LIF.")
    extents = signal.shape[1:]
    plain = one_window(pool, extents)
    if plain is None:
        return _weighted_means(walk, node, signal, means_of(pool, extents))
    kernel, stride, padding, divisor = plain
    summed = _sum(walk, node, [(signal, Window(kernel, stride, padding))], signal.max_out * kernel[0] * kernel[1])
    return replace(summed, scale=signal.scale / divisor)


def _weighted_means(walk: _Walk, node: ir.Node, signal: Signal, means: Means) -> Signal:
    """Means over different numbers of positions, in units of 1 / their least common multiple: all of them are whole.

    There is a weight for each pair of positions: the map stands as a row of channels, whose kernels are maps.
    """
    channels, height, width = signal.shape
    rows, columns = node.shape[1:]
    if channels * height * width * rows * columns > MOST_PAIRS:
        raise QuantizeError(
            node.name,
            f"means over different numbers of positions need a weight for each pair of {height}x{width} and "
            f"{rows}x{columns} positions, in {channels} channels",
            "Pool with windows of one size: count_include_pad=True, ceil_mode=False, or a size that divides the map.",
        )
    units, whole = means.in_units((height, width))
    # from one position, padded so that each output sees the tap of its own: the last output the first tap
    kernels = np.tile(whole[::-1, ::-1].transpose(2, 3, 0, 1).reshape(1, -1, rows, columns), (channels, 1, 1, 1))
    projections: list[Projection] = []
    most = 0
    for population in signal.populations:
        sent = walk.population(population).max_out
        row = _row(walk, node.name, population, sent, signal.shape)
        for conv in _digits(kernels, (rows - 1, columns - 1), walk.settings.weight_bits):
            projections.append(Projection((row,), node.name, conv))
            most += sent * int(conv.weight.sum(1, dtype=np.int64).max()) << conv.shift
    problem = f"its sums reach {most}"
    made = _relayed(walk, node.name, problem, node.name, node.shape, most, tuple(projections))
    return replace(walk.place(made), scale=signal.scale / units)


def _digits(kernels: Int, padding: ir.Pair, weight_bits: int) -> Iterator[Conv]:
    """Depthwise convolutions whose weights, times powers of two, add up to whole `kernels`."""
    digit, exponent = 2 ** (weight_bits - 1), 0
    while np.any(kernels):
        yield Conv(frozen(kernels % digit, np.int8), (1, 1), padding, len(kernels), exponent)
        kernels, exponent = kernels // digit, exponent + weight_bits - 1


def _joined(walk: _Walk, node: ir.Node, values: list[Value]) -> Value:
    """Branches that are needed in one piece: their spikes repeated by one population, or one current."""
    signals = [value for value in values if isinstance(value, Signal)]
    plain = [not (s.pooled or s.low is not None or np.any(s.offset)) for s in signals]
    if len(signals) < len(values) or not all(plain):
        return joined(node.name, [as_current(node.name, value) for value in values], node.shape)
    projections: list[Projection] = []
    first = 0
    for signal in signals:
        own = signal.shape[0]
        identity = frozen(np.eye(node.shape[0], own, -first, np.int8).reshape(-1, own, 1, 1), np.int8)
        projections += [Projection((population,), node.name, Conv(identity)) for population in signal.populations]
        first += own
    most = max(signal.max_out for signal in signals)
    problem = f"it joins branches of values up to {most}"
    made = _relayed(walk, node.name, problem, node.name, node.shape, most, tuple(projections))
    return replace(walk.place(made), scale=np.concatenate([signal.scale for signal in signals]))


def _residual(walk: _Walk, node: ir.Node, left: Value, right: Value) -> Value:
    """Signals of one scale make a graded sum, or stay apart on a binary target; anything else adds as currents."""
    if not (isinstance(left, Signal) and isinstance(right, Signal)) or left.pooled or right.pooled:
        return add(node.name, left, right)
    if not np.array_equal(left.scale, right.scale) or np.any(left.offset) or np.any(right.offset):
        return add(node.name, left, right)
    most = left.max_out + right.max_out
    if walk.limits.message_bits == 1:
        return replace(left, populations=left.populations + right.populations, max_out=most)
    summed = _sum(walk, node, [(left, Window()), (right, Window())], most)
    return replace(summed, scale=left.scale)


def _sum(walk: _Walk, node: ir.Node, parts: list[tuple[Signal, Window]], most: int) -> Signal:
    if most >= 2**walk.limits.message_bits:
        problem = f"graded spikes up to {most}, and the target sends {walk.limits.message_bits} bits a message"
        raise QuantizeError(node.name, problem, "Use a target with wider graded spikes.")
    projections = tuple(Projection((p,), node.name, window) for signal, window in parts for p in signal.populations)
    if any(walk.population(p.sources[0]).signed for p in projections):
        problem = f"its sums reach {most}"
        return walk.place(_relayed(walk, node.name, problem, node.name, node.shape, most, projections))
    return walk.place((Population(node.name, node.shape, Sum(), most), projections, "static", np.inf))


def _attention(walk: _Walk, node: ir.Node, qkv: list[Signal], heads: int, scale: float) -> Current:
    channels, height, width = node.shape
    for signal in qkv:
        shared = len(signal.populations) != 1 or walk.population(signal.populations[0]).signed
        if shared or np.any(signal.offset) or np.ptp(signal.scale):
            problem = "q, k and v must each be the spikes of one population"
            raise QuantizeError(node.name, problem, "Put a LIF on each of q, k and v.")
    factor = scale * float(np.prod([s.scale[0] for s in qkv]))
    limit = int(np.prod([s.max_out for s in qkv])) * (channels // heads) * height * width
    if factor <= 0:
        raise QuantizeError(node.name, f"an attention scale of {factor}", "It must be positive.")
    q, k, v = (s.populations[0] for s in qkv)
    return Current((AttentionTerm((q, k, v), heads, factor, limit),), np.zeros(channels), node.shape)
