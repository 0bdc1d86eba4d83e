"""Layers with no neuron in between become one convolution (re-parameterised and separable convolutions).

On the chip each layer ends in neurons; two layers in a row would need neurons between them that only hand on sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
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
    merged: dict[str, Node] = {}
    removed: set[str] = set()
    for node in graph.of(Conv2d):
        pool = graph[node.inputs[0]]
        if not isinstance(pool.op, AvgPool2d | AdaptiveAvgPool2d) or len(graph.consumers(pool.name)) > 1:
            continue
        conv = node.op
        assert isinstance(conv, Conv2d)
        extents = graph[pool.inputs[0]].shape[1:]
        # windows of one size are cheap on the chip: they stay pools
        if _reads_whole_map(conv, pool.shape[1:]) and one_window(pool.op, extents) is None:
            units, weights = means_of(pool.op, extents).in_units(extents)
            kernel = np.tensordot(conv.weight, weights / units, ((2, 3), (0, 1)))
            merged[node.name] = replace(node, op=replace(conv, weight=frozen(kernel)), inputs=pool.inputs)
            removed.add(pool.name)
    return _with_merged(graph, merged, removed)


def _reads_whole_map(conv: Conv2d, extents: Pair) -> bool:
    """Whether a convolution has one window, the whole map, and reads all channels."""
    return conv.weight.shape[2:] == extents and conv.padding == (0, 0) and conv.groups == 1


def merge_layers(graph: Graph) -> Graph:
    """The same function with layers that only another layer reads merged into that one, wherever that is exact."""
    merged: dict[str, Node] = {}
    removed: set[str] = set()
    for node in graph:
        if not isinstance(node.op, Conv2d | Linear):
            continue
        source = graph[node.inputs[0]]
        # of three layers in a row, the first two are one by now
        inner = merged.get(source.name, source)
        if isinstance(inner.op, Conv2d | Linear) and len(graph.consumers(source.name)) == 1:
            conv = _composed(_as_conv(node.op), _as_conv(inner.op))
            if conv is not None:
                merged[node.name] = replace(node, op=conv, inputs=inner.inputs)
                removed.add(source.name)
    return _with_merged(graph, merged, removed)


def _with_merged(graph: Graph, merged: Mapping[str, Node], removed: Set[str]) -> Graph:
    nodes = [merged.get(node.name, node) for node in graph if node.name not in removed]
    return Graph(tuple(nodes), graph.time_steps)


def _as_conv(layer: Conv2d | Linear) -> Conv2d:
    """A linear layer as a convolution of 1x1."""
    return layer if isinstance(layer, Conv2d) else Conv2d(frozen(layer.weight[:, :, None, None]), layer.bias)


def _composed(outer: Conv2d, inner: Conv2d) -> Conv2d | None:
    """outer(inner(x)) as one convolution; None where that is not the same at the borders.

    The outer one pads with zeros.  They are what the inner one makes of zeros only where it reads single positions and
    has no bias; then the padding can move before both.
    """
    padding = inner.padding
    if outer.padding != (0, 0):
        makes_zeros_of_zeros = (
            inner.weight.shape[2:] == (1, 1)
            and inner.stride == (1, 1)
            and inner.padding == (0, 0)
            and not np.any(inner.bias)
        )
        if not makes_zeros_of_zeros:
            return None
        padding = outer.padding
    weight = _composed_weights(outer, inner)
    bias = outer.bias + dense_weights(outer).sum((2, 3)) @ inner.bias
    stride = (inner.stride[0] * outer.stride[0], inner.stride[1] * outer.stride[1])
    return Conv2d(weight, frozen(bias), stride, padding)


def _composed_weights(outer: Conv2d, inner: Conv2d) -> Float:
    """(C_out, C_in, KY, KX) of two convolutions in a row, without groups.

    Each position of the outer kernel reads one window of the inner one; two neighbours read windows that lie the inner
    stride apart.
    """
    outer_weights = dense_weights(outer)
    inner_weights = dense_weights(inner)
    rows, columns = outer_weights.shape[2:]
    height, width = inner_weights.shape[2:]
    step_y, step_x = inner.stride
    out_height = (rows - 1) * step_y + height
    out_width = (columns - 1) * step_x + width
    out = np.zeros((len(outer_weights), inner_weights.shape[1], out_height, out_width))
    for row, column in np.ndindex(rows, columns):
        top = row * step_y
        left = column * step_x
        window = np.tensordot(outer_weights[:, :, row, column], inner_weights, 1)
        out[:, :, top : top + height, left : left + width] += window
    return frozen(out)


def dense_weights(conv: Conv2d) -> Float:
    """The weights (C_out, C_in, KY, KX) without groups: zeros between an output and the inputs of other groups."""
    if conv.groups == 1:
        return conv.weight
    outputs = len(conv.weight) // conv.groups
    inputs = conv.weight.shape[1]
    out = np.zeros((len(conv.weight), inputs * conv.groups, *conv.weight.shape[2:]))
    for group in range(conv.groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        columns = slice(group * inputs, (group + 1) * inputs)
        out[rows, columns] = conv.weight[rows]
    return out
