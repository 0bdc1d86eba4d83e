"""Residual streams of membrane currents: which values of a graph are added to each other, and what feeds them.

Some models add currents, not spikes: x = x + convolution of spikes, and several LIFs read x.  All values that are added
to each other in this way make up one stream; its populations send integers of one unit (shared_units.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.graph import ir
from spikformer_deploy.quantization.signals import Signal, by_input, sent_by, units_of

LAYERS = ir.Conv2d | ir.Linear | ir.AvgPool2d | ir.AdaptiveAvgPool2d | ir.TokenPool | ir.Attention | ir.SpikeMask
"""What reads spikes, and no stream."""


def residual_streams(graph: ir.Graph) -> tuple[frozenset[str], ...]:
    """The nodes whose values are populations of each stream.

    Currents that more than one node reads, or that are pooled, and everything that is added to or pooled from those.
    A current with a single reader needs no population: it is added up inside that neuron.
    """
    currents: set[str] = set()
    # of each population of a stream, all that are known to belong to the same one; the sets are shared
    stream_of: dict[str, set[str]] = {}
    for node in graph:
        sources = [i for i in node.inputs if i in stream_of]
        match node.op:
            case ir.Conv2d() | ir.Linear() | ir.BatchNorm() | ir.Attention() | ir.DualSpike():
                # it starts a current of its own, whatever it reads
                is_current = True
                sources = []
            case ir.Add() | ir.Scale() | ir.Offset():
                is_current = any(i in currents for i in node.inputs)
            case ir.MaxPool2d():
                is_current = bool(sources)
            case _:
                is_current = False
        if not is_current:
            continue
        currents.add(node.name)
        if _needs_population(graph, node, bool(sources)):
            stream = {node.name}.union(*(stream_of[i] for i in sources))
            stream_of |= dict.fromkeys(stream, stream)
    # one set for each stream, in the order of the graph
    distinct = {id(stream): frozenset(stream) for stream in stream_of.values()}
    return tuple(distinct.values())


def _needs_population(graph: ir.Graph, node: ir.Node, continues: bool) -> bool:
    """Whether a current is sent as a message; `continues`: whether it has a population of a stream among its inputs."""
    readers = graph.consumers(node.name)
    pooled = any(isinstance(r.op, ir.MaxPool2d | ir.Mean | ir.TokenSum) for r in readers)
    multiplied = any(isinstance(r.op, ir.DualSpike) for r in readers)
    return pooled or multiplied or len(readers) > 1 or (continues and not isinstance(node.op, ir.Scale))


def check_readers(graph: ir.Graph, members: frozenset[str]) -> None:
    """Raise QuantizeError where a layer of weights reads a stream, which is no spikes.

    And where a product with spikes does that reads a current which others read or add to: its units are the product's.
    """
    for node in graph:
        if isinstance(node.op, ir.DualSpike) and not members.isdisjoint(node.inputs):
            (current, *others) = sorted(members)
            readers = {type(reader.op) for reader in graph.consumers(current)}
            if others or readers != {ir.DualSpike} or node.inputs[1] in members:
                problem = "it multiplies a residual stream of currents, or what other layers read too, with spikes"
                raise QuantizeError(node.name, problem, "Multiply the current of a layer that nothing else reads.")
        if isinstance(node.op, LAYERS) and not members.isdisjoint(node.inputs):
            raise QuantizeError(
                node.name,
                "it reads a residual stream of currents with no neuron in between",
                "Put neurons before the layer.",
            )


@dataclass(frozen=True, slots=True, eq=False)
class Feeder:
    """What adds to a stream: real weight (O, C / groups, KY, KX) for integers up to `most`, and a bias (O,)."""

    layer: str
    weight: Float
    bias: Float
    most: int


@dataclass(frozen=True, slots=True, eq=False)
class Feeders:
    """Finds what feeds the stream of populations `members`.

    image        what the input of the graph sends
    weight_bits  of the digits that means over different numbers of positions are written in
    """

    graph: ir.Graph
    members: frozenset[str]
    image: Signal
    weight_bits: int

    def into(self, name: str, factor: float = 1.0) -> Iterator[Feeder]:
        """What node `name` adds up times `factor`, through sums and scales that are no populations themselves."""
        node = self.graph[name]
        match node.op:
            case ir.Conv2d(weight, bias, groups=groups):
                yield self._layer(name, weight * factor, bias * factor, groups, node.inputs[0])
            case ir.Linear(weight, bias):
                yield self._layer(name, weight[:, :, None, None] * factor, bias * factor, 1, node.inputs[0])
            case ir.Scale(factor=more):
                if node.inputs[0] in self.members:
                    problem = "a residual stream is scaled"
                    raise QuantizeError(name, problem, "Fold the factor into the layers after it.")
                yield from self.into(node.inputs[0], factor * more)
            case ir.Add():
                for source in node.inputs:
                    yield from self._addend(name, source, factor)
            case ir.Offset(constant):
                # A constant is a bias: no weights, and no integers.
                largest = np.abs(constant * factor).reshape(len(constant), -1).max(1)
                yield Feeder(name, np.zeros((len(largest), 1, 1, 1)), largest, 0)
                yield from self._addend(name, node.inputs[0], factor)
            case ir.MaxPool2d():
                return
            case op:
                problem = f"{type(op).__name__} adds to a residual stream"
                raise QuantizeError(name, problem, "Put neurons and a layer between.")

    def _addend(self, name: str, source: str, factor: float) -> Iterator[Feeder]:
        """What `source` gives to node `name` that reads it: its convolutions, or its spikes."""
        if source in self.members:
            return
        node = self.graph[source]
        if isinstance(node.op, ir.Conv2d | ir.Linear | ir.Scale | ir.Add | ir.Offset):
            yield from self.into(source, factor)
        elif not isinstance(node.op, ir.Attention | ir.DualSpike):  # build.py refuses these by name
            channels = node.shape[0]
            yield self._layer(name, np.full((channels, 1, 1, 1), factor), np.zeros(channels), channels, source)

    def _layer(self, layer: str, weight: Float, bias: Float, groups: int, source: str) -> Feeder:
        signal = self._signal(source)
        of_inputs = by_input(signal.scale, groups, len(weight))
        return Feeder(layer, weight * of_inputs[:, :, None, None], bias, signal.max_out)

    def _signal(self, name: str) -> Signal:
        """What node `name` sends, before there are populations: back through what combines signals, to neurons."""
        node = self.graph[name]
        match node.op:
            case ir.Input():
                return self.image
            case ir.Scale(factor):
                return self._signal(node.inputs[0]).scaled(factor)
            case ir.Offset(constant):
                return self._signal(node.inputs[0]).plus(constant)
            case ir.MaxPool2d() | ir.AvgPool2d() | ir.AdaptiveAvgPool2d() | ir.TokenPool():
                return sent_by(node, [self._signal(i) for i in node.inputs], self.weight_bits)
            case ir.Add() | ir.Concat() | ir.SpikeMask():
                return sent_by(node, [self._signal(i) for i in node.inputs], self.weight_bits)
            case ir.Levels(count=count):
                return units_of(name, node.shape, count)
            case _:
                # A neuron.  Means over all positions and currents feed no stream: build.py refuses them by name.
                return units_of(name, node.shape)
