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
from spikformer_deploy.graph.ir import BatchNorm, Conv2d, Graph, Linear, Node
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
        if not isinstance(layer.op, (Conv2d, Linear)) or len(graph.consumers(source)) != 1:
            assert isinstance(norm.op, BatchNorm)
            raise ModelError(
                norm.name,
                f"this {_what(norm.op)} follows {layer.name}, and only one right after a layer can be folded"
                f"{in_brackets(norm.line)}",
                "Place it directly after a Conv or Linear whose result nothing else reads.",
            )
        assert isinstance(norm.op, BatchNorm)
        folded[layer.name] = replace(layer, op=_folded(layer.op, norm.op))
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


def _folded(layer: Conv2d | Linear, norm: BatchNorm) -> Conv2d | Linear:
    """norm(layer(x)) as one layer: (W x + b - mean) * scale + beta = (W * scale) x + (b - mean) * scale + beta."""
    scale = norm.gamma / np.sqrt(norm.var + norm.eps)
    weight = layer.weight * scale.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    bias = (layer.bias - norm.mean) * scale + norm.beta
    return replace(layer, weight=frozen(weight), bias=frozen(bias))
