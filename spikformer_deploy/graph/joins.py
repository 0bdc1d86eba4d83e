"""Joined channels (torch.cat of branches) move towards the layers that read them, and vanish there.

A join would be a population of neurons that only repeat spikes.  What works channel by channel works on each part as
well, so the join moves behind it; a layer that reads a join is the sum of layers that read a part each.
Only an attention, a mask, or a sum with something else leaves the join standing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TypeAlias

import numpy as np

from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.channels import of_channels, part_name
from spikformer_deploy.graph.ir import Add, ChannelByChannel, Concat, Conv2d, Graph, Linear, Mean, Node, TokenSum
from spikformer_deploy.graph.merge import dense_weights

Range: TypeAlias = tuple[int, int]
"""Channels from the first to the end."""


def push_joins(graph: Graph) -> Graph:
    """The same function with joins behind all that works channel by channel: "lif" becomes "lif.channels_0_8", ..."""
    return _JoinPass(graph, split_layers=False).graph()


def split_joins(graph: Graph) -> Graph:
    """As push_joins, and layers that read joins become sums of layers; each reads one part."""
    return _JoinPass(graph, split_layers=True).graph()


@dataclass(slots=True)
class _JoinPass:
    """One walk through a graph.

    nodes   of the new graph, in order
    parts   joined value -> the nodes that hold its channels, in order; such a value has no node, unless it needs one
    """

    source: Graph
    split_layers: bool
    nodes: dict[str, Node] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def graph(self) -> Graph:
        """The new graph; the old one itself where it has no joins."""
        if not any(self.source.of(Concat)):
            return self.source
        for node in self.source:
            if isinstance(node.op, Concat):
                # joins of joins are one join
                self.parts[node.name] = tuple(part for name in node.inputs for part in self.parts.get(name, (name,)))
            elif not any(name in self.parts for name in node.inputs):
                self._put(node)
            else:
                self._read_join(node)
        return Graph(tuple(self.nodes.values()), self.source.time_steps)

    def _read_join(self, node: Node) -> None:
        """Put what stands for a node that reads a join."""
        ranges = [self._ranges(name) for name in node.inputs]
        if isinstance(node.op, ChannelByChannel | Mean | TokenSum):
            self._put_by_part(node, ranges[0])
            return
        match node.op:
            case Conv2d(groups=1) | Linear() if self.split_layers:
                self._put_sum(node, self._layers_of_parts(node, node.op, ranges[0]))
            case Conv2d(groups=groups) as conv if self.split_layers and groups > 1:
                self._put_grouped(node, conv, ranges[0])
            case Add() if ranges[0] == ranges[1]:
                self._put_by_part(node, ranges[0])
            case _:
                self._put(replace(node, inputs=tuple(self._in_one_piece(name, node) for name in node.inputs)))

    def _ranges(self, name: str) -> list[Range]:
        """The channels of each part of a value."""
        sizes = [self.nodes[part].shape[0] for part in self.parts.get(name, (name,))]
        return list(pairwise(accumulate(sizes, initial=0)))

    def _put_by_part(self, node: Node, ranges: list[Range]) -> None:
        """The operation of `node` on each part: its value is a join, too."""
        names = []
        for index, (first, end) in enumerate(ranges):
            name = part_name(node.name, first, end)
            op = of_channels(node.op, first, end)
            inputs = tuple(self.parts[i][index] for i in node.inputs)
            self._put(Node(name, op, inputs, (end - first, *node.shape[1:]), node.line))
            names.append(name)
        self.parts[node.name] = tuple(names)

    def _layers_of_parts(self, node: Node, layer: Conv2d | Linear, ranges: list[Range]) -> list[Node]:
        """Layers that read one part each, and whose sum is `layer`."""
        layers = []
        for part, (first, end) in zip(self.parts[node.inputs[0]], ranges, strict=True):
            # the bias must count once in the sum
            bias = layer.bias if first == 0 else frozen(np.zeros_like(layer.bias))
            op = replace(layer, weight=frozen(layer.weight[:, first:end]), bias=bias)
            layers.append(replace(node, name=f"{node.name}.inputs_{first}_{end}", op=op, inputs=(part,)))
        return layers

    def _put_sum(self, node: Node, layers: Iterable[Node]) -> None:
        """The sum of `layers`, under the name of `node`."""
        first, *others = layers
        self._put(first)
        total = first.name
        for index, layer in enumerate(others):
            self._put(layer)
            is_last = index == len(others) - 1
            name = node.name if is_last else f"{layer.name}.sum"
            self._put(replace(node, name=name, op=Add(), inputs=(total, layer.name)))
            total = name

    def _put_grouped(self, node: Node, conv: Conv2d, ranges: list[Range]) -> None:
        """A convolution in groups: groups that lie in one part each stay with it.

        Where a group reads two parts, the weights are written without groups, zeros between them.
        """
        inputs_per_group = conv.weight.shape[1]
        outputs_per_group = len(conv.weight) // conv.groups
        if any(first % inputs_per_group for first, _ in ranges):
            dense = replace(conv, weight=dense_weights(conv), groups=1)
            self._put_sum(node, self._layers_of_parts(node, dense, ranges))
            return
        names = []
        for part, (first, end) in zip(self.parts[node.inputs[0]], ranges, strict=True):
            first_group = first // inputs_per_group
            end_group = end // inputs_per_group
            outputs = slice(first_group * outputs_per_group, end_group * outputs_per_group)
            op = replace(
                conv,
                weight=frozen(conv.weight[outputs]),
                bias=frozen(conv.bias[outputs]),
                groups=end_group - first_group,
            )
            name = part_name(node.name, outputs.start, outputs.stop)
            self._put(Node(name, op, (part,), (outputs.stop - outputs.start, *node.shape[1:]), node.line))
            names.append(name)
        self.parts[node.name] = tuple(names)

    def _in_one_piece(self, name: str, reader: Node) -> str:
        """The name of a value that is needed in one piece; a join is put where there is none yet."""
        if name in self.parts and name not in self.nodes:
            old = self.source[name]
            self._put(Node(name, Concat(), self.parts[name], old.shape, old.line or reader.line))
        return name

    def _put(self, node: Node) -> None:
        self.nodes[node.name] = node
