"""Scales vanish into the attention or the layer that they follow; joins vanish, and layers in a row become one."""

from __future__ import annotations

from dataclasses import replace

from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.ir import Attention, Conv2d, DualSpike, Graph, Linear, Node, Op, Scale
from spikformer_deploy.graph.joins import split_joins
from spikformer_deploy.graph.merge import merge_layers, merge_pools


def simplify(graph: Graph) -> Graph:
    """The same function without those Scale nodes whose factor an attention or a layer can take, and layers merged.

    Scales go first: between two layers they would hide that these stand in a row.
    """
    for node in graph.of(Scale):
        source = graph[node.inputs[0]]
        assert isinstance(node.op, Scale)
        op = _scaled(source.op, node.op.factor)
        if op is not None and len(graph.consumers(source.name)) == 1:
            # once more from the start: a scale of a scale, or one after it, may vanish now
            return simplify(_without(graph, node, replace(source, op=op)))
    return merge_layers(merge_pools(split_joins(graph)))


def _scaled(op: Op, factor: float) -> Op | None:
    """`op` with its result times `factor`; None where it has no number that could take it."""
    match op:
        case Attention(scale=scale):
            return replace(op, scale=scale * factor)
        case DualSpike(scale=scales):
            return replace(op, scale=frozen(scales * factor))
        case Conv2d(weight=weight, bias=bias) | Linear(weight=weight, bias=bias):
            return replace(op, weight=frozen(weight * factor), bias=frozen(bias * factor))
        case Scale(factor=other):
            return Scale(other * factor)
        case _:
            return None


def _without(graph: Graph, removed: Node, source: Node) -> Graph:
    """`graph` without `removed`, whose readers read `source`; that stands in place of its namesake."""
    nodes = []
    for node in graph:
        if node.name != removed.name:
            new = source if node.name == source.name else node
            inputs = tuple(source.name if name == removed.name else name for name in new.inputs)
            nodes.append(replace(new, inputs=inputs))
    return Graph(tuple(nodes), graph.time_steps)
