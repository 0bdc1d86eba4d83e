"""Fold every batch normalisation into the synaptic layer before it, in float64.

A chip has weights and biases, and no normalisation.  In evaluation it is an affine map of each channel, which a layer
before it can take into its weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.calls import in_brackets
from spikformer_deploy.graph.ir import BatchNorm, Conv2d, DualSpike, Graph, Linear, Node, Op
from spikformer_deploy.graph.joins import push_joins


def fold_batch_norm(graph: Graph) -> Graph:
    """The same function with BatchNorm(layer(x)) as one layer; the node keeps the layer's name.

    Joins of channels move behind normalisations first: each part has its own.
    Raises ModelError for a batch normalisation that follows no layer, or whose layer has other readers too.
    """
    graph = push_joins(graph)
    folded: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for norm in graph.of(BatchNorm):
        source = norm.inputs[0]  # a layer, or a batch normalisation that has been folded into one
        name = renamed.get(source, source)
        layer = folded.get(name, graph[name])
        # another reader of the layer would see its result normalised, too
        assert isinstance(norm.op, BatchNorm)
        op = _folded(layer.op, norm.op) if len(graph.consumers(source)) == 1 else None
        if op is None:
            raise ModelError(
                norm.name,
                f"this {_what(norm.op)} follows {layer.name}, and only one right after a layer can be folded"
                f"{in_brackets(norm.line)}",
                "Place it directly after a Conv or Linear whose result nothing else reads.",
            )
        folded[layer.name] = replace(layer, op=op)
        renamed[norm.name] = layer.name
    nodes = []
    for node in graph:
        if node.name not in renamed:
            inputs = tuple(renamed.get(name, name) for name in node.inputs)
            nodes.append(replace(folded.get(node.name, node), inputs=inputs))
    return Graph(tuple(nodes), graph.time_steps)


def _what(norm: BatchNorm) -> str:
    """What a user calls it."""
    return "scale of channels" if norm.eps == 0 else "batch normalisation"


def _folded(op: Op, norm: BatchNorm) -> Op | None:
    """norm(op(x)) as one operation: (W x + b - mean) * scale + beta = (W * scale) x + (b - mean) * scale + beta.

    None where there is none.
    """
    scale = norm.gamma / np.sqrt(norm.var + norm.eps)
    match op:
        case Conv2d() | Linear():
            weight = op.weight * scale.reshape(-1, *(1,) * (op.weight.ndim - 1))
            return replace(op, weight=frozen(weight), bias=frozen((op.bias - norm.mean) * scale + norm.beta))
        case DualSpike() if not (np.any(norm.mean) or np.any(norm.beta)):
            # it has a factor for each head, and nothing to add
            by_head = scale.reshape(op.heads, -1)
            return None if np.ptp(by_head, axis=1).any() else replace(op, scale=frozen(op.scale * by_head[:, 0]))
        case _:
            return None
