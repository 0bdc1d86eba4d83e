"""Residual streams of membrane currents: which values of a graph need one, and in which units its integers count.

A stream is made of all values that are added to each other: convolutions add to it, and several LIFs read it.  One unit
a channel serves all of them, anchored at the readers' threshold, so that sums and thresholds are exact; the weights of
each convolution have an exponent of their own, so that none loses bits to a layer with larger ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.windows import means_of
from spikformer_deploy.quantization.scales import largest_thresholds, scale_groups

Ranges: TypeAlias = Callable[[str], tuple[float, float]]
"""(lowest, highest) of what is called so, as seen in calibration: see Calibration.range_of."""

MOST_FRACTION_BITS = 4
"""Fractional bits of a stream beyond the finest weights: more change no bias that the rounding of weights would not."""
MOST_EXPONENT = 8
"""Exponents are raised by so much at most, for weights that are large beside the threshold."""
MOST_LOST_BITS = 4
"""Weights give up so many bits at most where the range does not fit."""
OBSERVED_MARGIN = 2.0
"""A range that is only observed must fit this many times over."""
LAYERS = ir.Conv2d | ir.Linear | ir.AvgPool2d | ir.AdaptiveAvgPool2d | ir.Attention | ir.SpikeMask | ir.Concat
"""What reads spikes, and no stream."""
HEADROOM = 2
"""The potential of a neuron that reads the stream may be so much larger (decay 1/2)."""


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """The units of a stream.

    unit       (C,) real value of one, in every population of the stream
    exponents  by convolution that adds to it: a synapse has its integer weight times 2^exponent
    proven     its range is that of the worst case; else the observed one must do
    """

    unit: Float
    exponents: dict[str, int]
    proven: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Feeder:
    """A convolution that adds to a stream: real weight (O, C / groups, KY, KX) for integers up to `most`, and bias."""

    layer: str
    weight: Float
    bias: Float
    most: int


def streams_of(graph: ir.Graph) -> tuple[frozenset[str], ...]:
    """The nodes whose values are populations of each stream.

    Currents that more than one node reads, or that are pooled, and everything that is added to or pooled from those.
    """
    current, carried = set(), set()
    group: dict[str, set[str]] = {}
    for node in graph:
        onto = [i for i in node.inputs if i in carried]
        match node.op:
            case ir.Conv2d() | ir.Linear() | ir.BatchNorm() | ir.Attention():
                is_current, onto = True, []
            case ir.Add() | ir.Scale() | ir.Offset():
                is_current = any(i in current or i in carried for i in node.inputs)
            case ir.MaxPool2d():
                is_current = bool(onto)
            case _:
                is_current, onto = False, []
        if not is_current:
            continue
        current.add(node.name)
        readers = graph.consumers(node.name)
        pooled = any(isinstance(r.op, ir.MaxPool2d | ir.Mean | ir.TokenSum) for r in readers)
        if pooled or len(readers) > 1 or (onto and not isinstance(node.op, ir.Scale)):
            carried.add(node.name)
            joined = {node.name}.union(*(group[i] for i in onto))
            group |= dict.fromkeys(joined, joined)
    return tuple({id(g): frozenset(g) for g in group.values()}.values())


def plan_streams(
    graph: ir.Graph,
    input_unit: Float,
    input_most: int,
    observed: Ranges,
    granularity: str,
    weight_bits: int,
    parameter_sets: int,
    bits: tuple[int, int],
) -> dict[str, Stream]:
    """The Stream of every node that is a population of one.

    input_unit  (C,) real value of a pixel step, and the largest pixel; observed: of the nodes in calibration
    bits        of signed messages, and of states of the neurons that read them, without those for the neuron's own use
    Raises QuantizeError, naming a node, where no unit fits.
    """
    signals = _Signals(graph, input_unit, input_most)
    planned: dict[str, Stream] = {}
    for members in streams_of(graph):
        nodes = [node for node in graph if node.name in members]
        _check_readers(graph, nodes)
        feeders = [f for node in nodes for f in _feeders(graph, node, members, signals)]
        ranges = _Ranges(
            max(max(map(abs, observed(n))) for n in members), _largest_pooled(graph, members, observed), *bits
        )
        stream = _units(nodes[0].name, feeders, _gain(graph, members), ranges, granularity, weight_bits, parameter_sets)
        planned |= dict.fromkeys(members, stream)
    return planned


def _check_readers(graph: ir.Graph, nodes: list[ir.Node]) -> None:
    for reader in (r for node in nodes for r in graph.consumers(node.name)):
        if isinstance(
            reader.op, ir.Conv2d | ir.Linear | ir.AvgPool2d | ir.AdaptiveAvgPool2d | ir.Attention | ir.SpikeMask
        ):
            raise QuantizeError(
                reader.name,
                "it reads a residual stream of currents with no neuron in between",
                "Put a LIF before the layer.",
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Ranges:
    """Largest real value seen in a stream, and in sums over all its positions; the bits that must hold them."""

    seen: float
    pooled: float
    message_bits: int
    state_bits: int

    def hold(self, most: float, pooled: float) -> bool:
        """Whether messages hold values up to `most`, and states those and sums up to `pooled`."""
        states = HEADROOM * max(most, pooled) < 2 ** (self.state_bits - 1)
        return states and most < 2 ** (self.message_bits - 1) - 1


def _largest_pooled(graph: ir.Graph, members: frozenset[str], observed: Ranges) -> float:
    out = 0.0
    for node in graph.of(ir.Mean):
        if node.inputs[0] in members:
            _, height, width = graph[node.inputs[0]].shape
            out = max(out, max(map(abs, observed(node.name))) * height * width)
    return out


class _Signals:
    """Real value of one message (C,) and largest message of the nodes that are no currents."""

    def __init__(self, graph: ir.Graph, input_unit: Float, input_most: int) -> None:
        self.graph, self.input = graph, (input_unit, input_most)

    def of(self, name: str) -> tuple[Float, int]:
        node = self.graph[name]
        match node.op:
            case ir.Input():
                return self.input
            case ir.Add():
                (unit, first), (_, second) = (self.of(i) for i in node.inputs)
                return unit, first + second
            case ir.AvgPool2d() | ir.AdaptiveAvgPool2d() as pool:
                unit, most = self.of(node.inputs[0])
                units, weights = means_of(pool, extents := self.graph[node.inputs[0]].shape[1:]).in_units(extents)
                return unit / units, most * int(weights.sum((2, 3)).max())
            case ir.Scale(factor=factor):
                unit, most = self.of(node.inputs[0])
                return unit * factor, most
            case ir.Offset():
                return self.of(node.inputs[0])
            case ir.Concat():
                parts = [self.of(i) for i in node.inputs]
                return np.concatenate([unit for unit, _ in parts]), max(most for _, most in parts)
            case _:
                return np.ones(node.shape[0]), 1


def _feeders(
    graph: ir.Graph, node: ir.Node, members: frozenset[str], signals: _Signals, factor: float = 1.0
) -> Iterator[_Feeder]:
    """The convolutions that a population of a stream adds up, through sums and scales that are none themselves."""
    match node.op:
        case ir.Conv2d(weight, bias, groups=groups):
            yield _feeder(node.name, weight * factor, bias * factor, groups, signals.of(node.inputs[0]))
        case ir.Linear(weight, bias):
            yield _feeder(node.name, weight[:, :, None, None] * factor, bias * factor, 1, signals.of(node.inputs[0]))
        case ir.Scale(factor=more):
            if node.inputs[0] in members:
                raise QuantizeError(
                    node.name, "a residual stream is scaled", "Fold the factor into the layers after it."
                )
            yield from _feeders(graph, graph[node.inputs[0]], members, signals, factor * more)
        case ir.Add():
            for source in (graph[i] for i in node.inputs if i not in members):
                yield from _addend(graph, node, source, members, signals, factor)
        case ir.Offset(constant):
            largest = np.abs(constant * factor).reshape(len(constant), -1).max(1)
            yield _Feeder(node.name, np.zeros((len(largest), 1, 1, 1)), largest, 0)
            if node.inputs[0] not in members:
                yield from _addend(graph, node, graph[node.inputs[0]], members, signals, factor)
        case ir.MaxPool2d():
            return
        case op:
            problem = f"{type(op).__name__} adds to a residual stream"
            raise QuantizeError(node.name, problem, "Put a LIF and a layer between.")


def _addend(
    graph: ir.Graph, node: ir.Node, source: ir.Node, members: frozenset[str], signals: _Signals, factor: float
) -> Iterator[_Feeder]:
    """What `source`, which is no population of the stream, gives to `node`: its convolutions, or its spikes."""
    if isinstance(source.op, ir.Conv2d | ir.Linear | ir.Scale | ir.Add | ir.Offset):
        yield from _feeders(graph, source, members, signals, factor)
    elif not isinstance(source.op, ir.Attention):
        ones = np.full((source.shape[0], 1, 1, 1), factor)
        yield _feeder(node.name, ones, np.zeros(len(ones)), len(ones), signals.of(source.name))


def _feeder(layer: str, weight: Float, bias: Float, groups: int, signal: tuple[Float, int]) -> _Feeder:
    unit, most = signal
    of_inputs = unit.reshape(groups, weight.shape[1])[np.arange(len(weight)) // (len(weight) // groups)]
    return _Feeder(layer, weight * of_inputs[:, :, None, None], bias, most)


def _gain(graph: ir.Graph, members: frozenset[str]) -> float:
    """Current in units of the threshold = current * gain, for the first LIF that reads the stream."""
    for node in graph.of(ir.Lif):
        assert isinstance(node.op, ir.Lif)
        if node.inputs[0] in members:
            return gain_of(node.op)
    return gain_of(ir.Lif())


def gain_of(lif: ir.Lif) -> float:
    """What a current of 1 adds to the potential, in units of the threshold."""
    return (1 / lif.tau if lif.decay_input else 1.0) / lif.v_threshold


def _units(
    place: str,
    feeders: list[_Feeder],
    gain: float,
    ranges: _Ranges,
    granularity: str,
    weight_bits: int,
    parameter_sets: int,
) -> Stream:
    """The largest thresholds that weights and state allow; fractional bits while the range fits."""
    channels = len(feeders[0].weight)
    largest, widest = 2 ** (weight_bits - 1) - 1, 2 ** max(1, ranges.state_bits - 5) - 1
    peaks = [np.abs(f.weight).reshape(channels, -1).max(1) for f in feeders]
    tops = [float(p.max()) for p in peaks]
    least = min((t for t in tops if t > 0), default=1.0)
    relative = [max(0, int(np.ceil(np.log2(t / least)))) if t > 0 else 0 for t in tops]
    for extra, lost in product(range(MOST_EXPONENT), range(MOST_LOST_BITS + 1)):
        exponents = [e + extra for e in relative]
        normal = np.max([p / 2.0**e for p, e in zip(peaks, exponents, strict=True)], 0)
        groups = scale_groups(normal, granularity, parameter_sets)
        thresholds = largest_thresholds(normal, groups, gain, largest, widest) >> lost
        if thresholds.min() < 1:
            continue
        unit = 1 / (gain * thresholds)
        seen, pooled = (x / float(unit.min()) * OBSERVED_MARGIN for x in (ranges.seen, ranges.pooled))
        for proven, most in ((True, _worst(feeders, unit)), (False, seen)):
            for bits in range(MOST_FRACTION_BITS, -1, -1):
                if ranges.hold(most * 2**bits, pooled * 2**bits):
                    kept = {f.layer: e + bits for f, e in zip(feeders, exponents, strict=True)}
                    return Stream(unit / 2**bits, kept, proven)
    raise QuantizeError(
        place,
        f"the sums of its residual stream do not fit {ranges.state_bits} bits of state and messages",
        "Use a target with a wider state.",
    )


def _worst(feeders: list[_Feeder], unit: Float) -> float:
    """A bound of the whole stream in its units, rounding included."""
    total = np.zeros(len(unit))
    for feeder in feeders:
        sums = np.abs(feeder.weight).reshape(len(unit), -1).sum(1) * feeder.most
        bias = np.abs(feeder.bias)
        total += (sums + bias) / unit
    return float(total.max()) * 1.05
