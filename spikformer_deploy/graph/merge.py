"""Layers with no neuron in between become one convolution (re-parameterised and separable convolutions)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikformer_deploy.base.arrays import Float, Pair
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.ir import AdaptiveAvgPool2d, AvgPool2d, Conv2d, Graph, Linear, Node
from spikformer_deploy.graph.windows import means_of, one_window


def merge_pools(graph: Graph) -> Graph:
    """The same function with average pools over unequal ranges merged into the layer that reads the whole result.

    Such a pool (AdaptiveAvgPool2d to a size that divides nothing, before a classifier) has a weight for each pair of
    positions: in the layer they cost nothing.
    """
    made: dict[str, Node] = {}
    gone: set[str] = set()
    for node in graph.of(Conv2d):
        pool = graph[node.inputs[0]]
        if not isinstance(pool.op, AvgPool2d | AdaptiveAvgPool2d) or len(graph.consumers(pool.name)) > 1:
            continue
        assert isinstance(node.op, Conv2d)
        whole = node.op.weight.shape[2:] == pool.shape[1:] and (node.op.padding, node.op.groups) == ((0, 0), 1)
        extents = graph[pool.inputs[0]].shape[1:]
        if whole and one_window(pool.op, extents) is None:
            units, weights = means_of(pool.op, extents).in_units(extents)
            kernel = np.tensordot(node.op.weight, weights / units, ((2, 3), (0, 1)))
            made[node.name] = replace(node, op=replace(node.op, weight=frozen(kernel)), inputs=pool.inputs)
            gone.add(pool.name)
    return Graph(tuple(made.get(n.name, n) for n in graph if n.name not in gone), graph.time_steps)


def merge_layers(graph: Graph) -> Graph:
    """The same function with layers that only another layer reads merged into that one, wherever that is exact."""
    made: dict[str, Node] = {}
    gone: set[str] = set()
    for node in graph:
        if not isinstance(node.op, Conv2d | Linear):
            continue
        source = graph[node.inputs[0]]
        inner = made.get(source.name, source)
        if isinstance(inner.op, Conv2d | Linear) and len(graph.consumers(source.name)) == 1:
            conv = _composed(_as_conv(node.op), _as_conv(inner.op))
            if conv is not None:
                made[node.name] = replace(node, op=conv, inputs=inner.inputs)
                gone.add(source.name)
    return Graph(tuple(made.get(n.name, n) for n in graph if n.name not in gone), graph.time_steps)


def _as_conv(layer: Conv2d | Linear) -> Conv2d:
    return layer if isinstance(layer, Conv2d) else Conv2d(frozen(layer.weight[:, :, None, None]), layer.bias)


def _composed(outer: Conv2d, inner: Conv2d) -> Conv2d | None:
    """outer(inner(x)) as one convolution; None where zeros that the outer one pads with are none of the inner one's."""
    padding = inner.padding
    if outer.padding != (0, 0):
        if inner.weight.shape[2:] != (1, 1) or inner.stride != (1, 1) or padding != (0, 0) or np.any(inner.bias):
            return None
        padding = outer.padding
    second, first = dense_weights(outer), dense_weights(inner)
    (sy, sx), (ky, kx), (jy, jx) = inner.stride, first.shape[2:], second.shape[2:]
    weight = np.zeros((len(second), first.shape[1], (jy - 1) * sy + ky, (jx - 1) * sx + kx))
    for a, b in np.ndindex(jy, jx):
        spread = np.tensordot(second[:, :, a, b], first, 1)
        weight[:, :, a * sy : a * sy + ky, b * sx : b * sx + kx] += spread
    bias = outer.bias + second.sum((2, 3)) @ inner.bias
    stride: Pair = (sy * outer.stride[0], sx * outer.stride[1])
    return Conv2d(frozen(weight), frozen(bias), stride, padding)


def dense_weights(conv: Conv2d) -> Float:
    """The weights (C_out, C_in, KY, KX) without groups."""
    if conv.groups == 1:
        return conv.weight
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    out = np.zeros((len(conv.weight), inputs * conv.groups, *conv.weight.shape[2:]))
    for g in range(conv.groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        out[rows, g * inputs : (g + 1) * inputs] = conv.weight[rows]
    return out
