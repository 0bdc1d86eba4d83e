"""Scales vanish: into the attention that they follow, or into the layer before; joins vanish, and layers in a row."""

from __future__ import annotations

from dataclasses import replace

from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.ir import Attention, Conv2d, Graph, Linear, Node, Op, Scale
from spikformer_deploy.graph.joins import split_joins
from spikformer_deploy.graph.merge import merge_layers, merge_pools


def simplify(graph: Graph) -> Graph:
    """The same function without those Scale nodes whose factor an attention or a layer can take, and layers merged."""
    for node in graph.of(Scale):
        source = graph[node.inputs[0]]
        assert isinstance(node.op, Scale)
        op = _scaled(source.op, node.op.factor)
        if op is not None and len(graph.consumers(source.name)) == 1:
            return simplify(_without(graph, node, replace(source, op=op)))
    return merge_layers(merge_pools(split_joins(graph)))


def _scaled(op: Op, factor: float) -> Op | None:
    match op:
        case Attention(scale=scale):
            return replace(op, scale=scale * factor)
        case Conv2d(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            return replace(op, weight=frozen(weight * factor), bias=frozen(bias * factor))
        case Scale(factor=other):
            return Scale(other * factor)
        case _:
            return None


def _without(graph: Graph, gone: Node, source: Node) -> Graph:
    """`graph` with `source` in place of its namesake, and its readers instead of those of `gone`."""
    nodes = [source if n.name == source.name else n for n in graph if n.name != gone.name]
    renamed = [replace(n, inputs=tuple(source.name if i == gone.name else i for i in n.inputs)) for n in nodes]
    return Graph(tuple(renamed), graph.time_steps)
