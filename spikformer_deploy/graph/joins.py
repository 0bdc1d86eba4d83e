"""Joined channels (torch.cat of branches) move towards the layers that read them, and vanish there.

What works channel by channel works on each part; a layer that reads a join is the sum of layers that read a part each.
Only an attention, a mask, or a sum with something else leaves the join standing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

import numpy as np

from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.ir import (
    AdaptiveAvgPool2d,
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Graph,
    Lif,
    Linear,
    MaxPool2d,
    Mean,
    Node,
    Op,
    Scale,
    TokenSum,
)
from spikformer_deploy.graph.merge import dense_weights

PART = ".channels_"


def push_joins(graph: Graph) -> Graph:
    """The same function with joins behind all that works channel by channel: "lif" becomes "lif.channels_0_8", ..."""
    return _Walk(graph, False).graph()


def split_joins(graph: Graph) -> Graph:
    """As push_joins, and layers that read joins become sums of layers; each reads one part."""
    return _Walk(graph, True).graph()


def part_of(name: str, known: Mapping[str, object]) -> tuple[str, slice]:
    """(node, channels) of the node that a pass has named so; those of a `known` node are all its channels."""
    whole, _, ends = name.rpartition(PART)
    if name in known or not whole:
        return name, slice(None)
    first, end = ends.split("_")
    return whole, slice(int(first), int(end))


@dataclass(slots=True)
class _Walk:
    """The nodes made so far; `parts` of the values that are joins, by name."""

    source: Graph
    split: bool
    made: dict[str, Node] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def graph(self) -> Graph:
        if not any(self.source.of(Concat)):
            return self.source
        for node in self.source:
            if isinstance(node.op, Concat):
                self.parts[node.name] = tuple(p for i in node.inputs for p in self.parts.get(i, (i,)))
            elif not any(i in self.parts for i in node.inputs):
                self.made[node.name] = node
            else:
                self._read(node)
        return Graph(tuple(self.made.values()), self.source.time_steps)

    def _read(self, node: Node) -> None:
        """A node that reads a join."""
        cuts = [self._cuts(i) for i in node.inputs]
        match node.op:
            case Conv2d(groups=1) | Linear() if self.split:
                self._add_up(node, self._dense_parts(node, node.op, cuts[0]))
            case Conv2d(groups=groups) as conv if self.split and groups > 1:
                self._grouped(node, conv, cuts[0])
            case BatchNorm() | Lif() | MaxPool2d() | AvgPool2d() | AdaptiveAvgPool2d() | Scale() | Mean() | TokenSum():
                self._apart(node, cuts[0])
            case Add() if cuts[0] == cuts[1]:
                self._apart(node, cuts[0])
            case _:
                self.made[node.name] = replace(node, inputs=tuple(self._whole(i, node) for i in node.inputs))

    def _cuts(self, name: str) -> list[tuple[int, int]]:
        """The ranges of channels of the parts of a value."""
        sizes = [self.made[part].shape[0] for part in self.parts.get(name, (name,))]
        return list(pairwise(accumulate(sizes, initial=0)))

    def _apart(self, node: Node, cuts: list[tuple[int, int]]) -> None:
        """The operation of `node` on each part: its value is a join, too."""
        names = []
        for index, (first, end) in enumerate(cuts):
            names.append(f"{node.name}{PART}{first}_{end}")
            inputs = tuple(self.parts[i][index] for i in node.inputs)
            shape = (end - first, *node.shape[1:])
            self._put(Node(names[-1], _channels(node.op, first, end), inputs, shape, node.line))
        self.parts[node.name] = tuple(names)

    def _dense_parts(self, node: Node, layer: Conv2d | Linear, cuts: list[tuple[int, int]]) -> Iterator[Node]:
        """Layers whose sum is `layer`: the first has the bias."""
        for part, (first, end) in zip(self.parts[node.inputs[0]], cuts, strict=True):
            bias = layer.bias if first == 0 else frozen(np.zeros_like(layer.bias))
            op = replace(layer, weight=frozen(layer.weight[:, first:end]), bias=bias)
            yield replace(node, name=f"{node.name}.inputs_{first}_{end}", op=op, inputs=(part,))

    def _grouped(self, node: Node, conv: Conv2d, cuts: list[tuple[int, int]]) -> None:
        """Groups that lie in one part each stay with it; else the weights are written without groups."""
        sources, targets = conv.weight.shape[1], len(conv.weight) // conv.groups
        if any(first % sources for first, _ in cuts):
            self._add_up(node, self._dense_parts(node, replace(conv, weight=dense_weights(conv), groups=1), cuts))
            return
        names = []
        for part, (first, end) in zip(self.parts[node.inputs[0]], cuts, strict=True):
            begin, stop = first // sources * targets, end // sources * targets
            names.append(f"{node.name}{PART}{begin}_{stop}")
            weight, bias = frozen(conv.weight[begin:stop]), frozen(conv.bias[begin:stop])
            op = replace(conv, weight=weight, bias=bias, groups=(end - first) // sources)
            self._put(Node(names[-1], op, (part,), (stop - begin, *node.shape[1:]), node.line))
        self.parts[node.name] = tuple(names)

    def _add_up(self, node: Node, layers: Iterator[Node]) -> None:
        """The sum of `layers`, under the name of `node`."""
        first, *rest = layers
        self._put(first)
        total = first.name
        for index, layer in enumerate(rest):
            self._put(layer)
            name = node.name if index == len(rest) - 1 else f"{layer.name}.sum"
            self._put(replace(node, name=name, op=Add(), inputs=(total, layer.name)))
            total = name

    def _whole(self, name: str, reader: Node) -> str:
        """The name of a value that is needed in one piece."""
        if name in self.parts and name not in self.made:
            parts, old = self.parts[name], self.source[name]
            self._put(Node(name, Concat(), parts, old.shape, old.line or reader.line))
        return name

    def _put(self, node: Node) -> None:
        self.made[node.name] = node


def _channels(op: Op, first: int, end: int) -> Op:
    """The operation for some of its channels."""
    if not isinstance(op, BatchNorm):
        return op
    gamma, beta, mean, var = (frozen(p[first:end]) for p in (op.gamma, op.beta, op.mean, op.var))
    return BatchNorm(gamma, beta, mean, var, op.eps)
