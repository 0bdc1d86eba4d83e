"""The written law of the graph, checked after every pass: order, names, shapes, finite weights, one way in and out.

A pass that breaks it is found where it did so, and not by a wrong number at the end.
"""

from __future__ import annotations

import networkx as nx
import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Pair, Shape
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph.ir import (
    Add,
    Attention,
    BatchNorm,
    Concat,
    Conv2d,
    DualSpike,
    Graph,
    Input,
    Lif,
    Linear,
    Mean,
    Neuron,
    Node,
    Offset,
    Output,
    Pool,
    Scale,
    SpikeMask,
    TokenPool,
    TokenSum,
)
from spikformer_deploy.graph.windows import pool_shape

INPUTS = {Input: 0, Add: 2, Attention: 3, DualSpike: 2, SpikeMask: 2}
"""Operation -> how many inputs it has; 1 of all others, and any number from 1 of a Concat."""


def check(graph: Graph) -> Graph:
    """`graph` itself, where it obeys the law; ModelError naming the node and the law where it does not."""
    _check_frame(graph)
    seen: set[str] = set()
    for node in graph:
        if node.name in seen:
            raise ModelError(node.name, "two nodes have this name")
        if missing := set(node.inputs) - seen:
            raise ModelError(node.name, f"it reads {min(missing)}, which does not stand before it")
        seen.add(node.name)
        _check_values(node)
        _check_number_of_inputs(node)
        shape = _shape(node, [graph[i].shape for i in node.inputs])
        if shape != node.shape:
            raise ModelError(node.name, f"its shape is {node.shape}, and its operation gives {shape}")
    return graph


def _check_frame(graph: Graph) -> None:
    """One Input, first; one Output, last; and every node on a way from one to the other."""
    if graph.time_steps < 1 or len(graph) < 2:
        raise ModelError("graph", f"{graph.time_steps} time steps and {len(graph)} nodes")
    inputs = [node.name for node in graph.of(Input)]
    outputs = [node.name for node in graph.of(Output)]
    first = graph.nodes[0].name
    last = graph.nodes[-1].name
    if inputs != [first] or outputs != [last]:
        raise ModelError("graph", f"it needs one Input, first, and one Output, last; found {inputs} and {outputs}")
    read = nx.ancestors(graph.to_networkx(), last) | {last}
    if unused := [node.name for node in graph if node.name not in read]:
        raise ModelError(unused[0], "its value reaches no output", "Remove the layer, or use what it computes.")


def _check_values(node: Node) -> None:
    """Finite numbers: no sum of currents may become NaN, which no threshold compares."""
    if isinstance(node.op, BatchNorm) and not bool((node.op.var + node.op.eps > 0).all()):
        raise ModelError(node.name, f"a running variance that is not positive, with eps = {node.op.eps:g}")
    for name in node.op.__dataclass_fields__:
        value = getattr(node.op, name)
        if isinstance(node.op, Lif) and value == np.inf and name == "tau":
            continue  # no leak: integrate and fire
        if isinstance(value, (np.ndarray, float)) and not np.all(np.isfinite(value)):
            raise ModelError(node.name, f"its {name} holds NaN or infinite values")


def _check_number_of_inputs(node: Node) -> None:
    count = len(node.inputs)
    is_right = count > 0 if isinstance(node.op, Concat) else count == INPUTS.get(type(node.op), 1)
    if not is_right:
        raise ModelError(node.name, f"{type(node.op).__name__} with {count} inputs")


def _shape(node: Node, inputs: list[Shape]) -> Shape:
    """The shape that the operation of `node` makes of its inputs' shapes; ModelError where it cannot read those."""
    if isinstance(node.op, Neuron | Scale | Output):
        return inputs[0]
    if isinstance(node.op, Pool):
        return (inputs[0][0], *_pooled(node, node.op, inputs[0]))
    match node.op:
        case Input():
            return node.shape
        case Conv2d(weight, bias, stride, padding, groups):
            if inputs[0][0] != weight.shape[1] * groups or len(weight) % groups or bias.shape != (len(weight),):
                raise ModelError(node.name, f"a weight of {weight.shape} in {groups} groups on {inputs[0][0]} channels")
            return (len(weight), *_window(node, inputs[0], (weight.shape[2], weight.shape[3]), stride, padding))
        case Linear(weight, bias):
            if inputs[0][0] != weight.shape[1] or bias.shape != (len(weight),):
                raise ModelError(node.name, f"a weight of {weight.shape} on {inputs[0][0]} channels")
            return (len(weight), *inputs[0][1:])
        case BatchNorm(gamma=gamma):
            if gamma.shape != (inputs[0][0],):
                raise ModelError(node.name, f"{len(gamma)} scales for {inputs[0][0]} channels")
            return inputs[0]
        case TokenPool(heads, tokens, channels):
            if inputs[0][0] % heads or tokens % 2 == 0 or channels % 2 == 0:
                raise ModelError(node.name, f"a window of {tokens} tokens and {channels} channels in {heads} heads")
            return inputs[0]
        case Attention(heads=heads):
            if any(shape[0] % heads for shape in inputs):
                raise ModelError(node.name, f"{[i[0] for i in inputs]} channels do not divide into {heads} heads")
            q, k, v = inputs
            # v may have more channels than q and k
            _equal(node, [q, k, (q[0], *v[1:])])
            return v
        case DualSpike() as op:
            return _dual(node, op, *inputs)
        case Add():
            return _equal(node, inputs)
        case Concat():
            _, height, width = _equal(node, [(1, *shape[1:]) for shape in inputs])
            return (sum(shape[0] for shape in inputs), height, width)
        case Offset(value):
            if value.shape != inputs[0]:
                raise ModelError(node.name, f"a constant of shape {value.shape} on {inputs[0]}")
            return inputs[0]
        case SpikeMask():
            masked, mask = inputs
            if masked[0] % mask[0] or mask[1:] not in (masked[1:], (1, 1)):
                raise ModelError(node.name, f"a mask of {mask} for {masked}")
            return masked
        case Mean() | TokenSum():
            return (inputs[0][0], 1, 1)
        case _:
            assert_never(node.op)


def _dual(node: Node, op: DualSpike, y: Shape, spikes: Shape) -> Shape:
    """The shape of the product of currents and spikes."""
    by_position = op.heads * y[1] * y[2]
    read, made = (by_position, y[0]) if op.over_tokens else (y[0], by_position)
    if op.scale.shape != (op.heads,) or y[0] % op.heads or spikes[0] != read:
        raise ModelError(node.name, f"a product of {y} and spikes of {spikes} in {op.heads} heads")
    return (made, *spikes[1:])


def _equal(node: Node, inputs: list[Shape]) -> Shape:
    """The shape that all inputs have."""
    if len(set(inputs)) != 1:
        raise ModelError(node.name, f"its inputs have the shapes {inputs}")
    return inputs[0]


def _pooled(node: Node, op: Pool, shape: Shape) -> Pair:
    """(Y, X) of a pool of a map of `shape`."""
    size = pool_shape(op, shape[1:])
    if min(size) < 1:
        raise ModelError(node.name, f"no window of its pool lies in its input of {shape[1:]}")
    return size


def _window(node: Node, shape: Shape, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """(Y, X) of a convolution of a map of `shape`."""
    extents = shape[1:]
    height, width = [(extents[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in (0, 1)]
    if min(height, width) < 1:
        raise ModelError(node.name, f"a window of {kernel} is larger than its input of {extents}")
    return (height, width)
