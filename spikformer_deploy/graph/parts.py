"""Parts of values that a model cuts apart: channels, and the last time step; and channels of branches that it joins.

A part of a layer's channels is a layer of its own (fused q, k and v are three).  The layer, its normalisation and its
neurons are made again for only these channels; what nobody reads in the end is left out (`without_unread`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import networkx as nx

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import Atom, axis
from spikformer_deploy.graph.calls import Call, Handler, Value
from spikformer_deploy.graph.channels import CHANNELS, of_channels, of_heads, part_name, part_of_heads_name


@dataclass(frozen=True, slots=True)
class RefusedSteps:
    """One of several time steps of a value, or some of them.

    A model may ask for its shape (zeros like the first step, for a state).  To read its content is an error.

    refusal   that error
    """

    refusal: ModelError


def _refused_steps(call: Call, problem: str) -> RefusedSteps:
    """Steps that only the head could read, and does not."""
    return RefusedSteps(
        call.refuse(
            problem,
            "The head of the chip adds up all time steps, or holds the last one: use their mean, y.mean(0), their sum, "
            "or y[-1]. The class of another step may be another.",
        )
    )


# --- operations that cut --------------------------------------------------------------------------------------


def _chunk(call: Call) -> tuple[Value | RefusedSteps, ...]:
    """Equal parts, but the last one, which may be smaller."""
    count = int(call.args[1])
    at = int(call.argument(2, 0))
    size = axes.size(call.value().dims[at])
    each = -(-size // count)
    return tuple(_part(call, at, start, min(start + each, size)) for start in range(0, size, each))


def _split(call: Call) -> tuple[Value | RefusedSteps, ...]:
    """Parts of stated sizes, or of one stated size, but the last one."""
    stated = call.args[1]
    at = int(call.argument(2, 0))
    size = axes.size(call.value().dims[at])
    sizes = [min(stated, size - i) for i in range(0, size, stated)] if isinstance(stated, int) else list(stated)
    return tuple(_part(call, at, end - n, end) for end, n in zip(accumulate(sizes), sizes, strict=True))


def _slice(call: Call) -> Value | RefusedSteps:
    """x[..., start:end:step, ...].  Arguments: x, dimension, start, end, step."""
    value = call.value()
    at = int(call.argument(1, 0))
    size = axes.size(value.dims[at])
    start, end, step = slice(call.argument(2), call.argument(3), call.argument(4)).indices(size)
    if (start, end, step) == (0, size, 1):
        return value
    if end <= start or step != 1:
        raise call.refuse(f"a slice from {start} to {axes.show_size(end)} in steps of {step} is not supported")
    return _part(call, at, start, end)


def _narrow(call: Call) -> Value | RefusedSteps:
    """Arguments: x, dimension, first position, length."""
    value = call.value()
    at = int(call.args[1])
    size = axes.size(value.dims[at])
    first = int(call.args[2]) % size
    length = int(call.args[3])
    return value if length == size else _part(call, at, first, first + length)


def _select(call: Call) -> Value | RefusedSteps:
    """x[..., index, ...]: one position of a dimension, without the dimension."""
    value = call.value()
    at = int(call.argument(1, 0)) % len(value.dims)
    index = int(call.argument(2, 0))
    if not value.dims[at]:
        return replace(value, dims=axes.replaced(value.dims, at))
    size = axes.size(value.dims[at])
    if axes.roles(value.dims[at]) == {"T"} and index % size < size - 1:
        return _refused_steps(call, f"time step {index} alone is used")
    return _one_of(call, at, index % size)


def _unbind(call: Call) -> tuple[Value | RefusedSteps, ...]:
    """Every position of a dimension, as a value without the dimension."""
    value = call.value()
    at = int(call.argument(1, 0))
    size = axes.size(value.dims[at])
    if axes.roles(value.dims[at]) != {"T"}:
        return tuple(_one_of(call, at, index) for index in range(size))
    others = _refused_steps(call, "the time steps are taken apart")
    return (*[others] * (size - 1), _one_of(call, at, size - 1))


def _getitem(call: Call) -> Any:
    """One of the results of an operation that has several."""
    results, index = call.args
    return results[index]


# --- what a part is -------------------------------------------------------------------------------------------


def _one_of(call: Call, at: int, index: int) -> Value | RefusedSteps:
    """Position `index` of dimension `at`, without the dimension."""
    part = _part(call, at, index, index + 1)
    if isinstance(part, RefusedSteps):
        return part
    return replace(part, dims=axes.replaced(part.dims, at % len(part.dims)))


def _part(call: Call, at: int, start: int, end: int) -> Value | RefusedSteps:
    """Positions `start` to `end` of dimension `at`: of channels, or the last one of time."""
    value = call.value()
    at %= len(value.dims)
    if axes.roles(value.dims[at]) == {"T"}:
        return _part_of_time(call, value, at, start, end)
    channels = call.node_shape(value)[0]
    (atom,) = value.dims[at] if len(value.dims[at]) == 1 else (Atom("", 1),)
    if atom.role != "C":
        raise call.refuse(f"a part of dimension {at} of {axes.show(value.dims)}: only channels can be cut apart")
    if atom.size * atom.stride != channels:
        # of a faster atom than the slowest they are channels here and there
        return _part_of_heads(call, value, at, start, end)
    name = _node_of_channels(call, value.name, start * atom.stride, end * atom.stride)
    kept = (Atom("C", end - start, atom.stride),) if end - start > 1 else ()
    return Value(name, axes.replaced(value.dims, at, kept))


def _part_of_heads(call: Call, value: Value, at: int, start: int, end: int) -> Value:
    """The same channels of every head: y[:, :, :, :8] of (T, B, heads, 16, tokens)."""
    (atom,) = value.dims[at]
    size = atom.size * atom.stride
    first, last = start * atom.stride, end * atom.stride
    name = _node_of_heads(call, value.name, first, last, size)

    def closer(other: Atom) -> Atom:
        """The heads themselves lie closer to each other in the part."""
        slower = other.role == "C" and other.stride >= size
        return replace(other, stride=other.stride // size * (last - first)) if slower else other

    dims = tuple(tuple(closer(other) for other in dim) for dim in value.dims)
    kept = (Atom("C", end - start, atom.stride),) if end - start > 1 else ()
    return Value(name, axes.replaced(dims, at, kept))


def _node_of_heads(call: Call, name: str, first: int, end: int, size: int) -> str:
    """The node that computes channels `first` to `end` of each head of node `name`; made where there is none."""
    node = call.builder[name]
    part = part_of_heads_name(name, first, end, size)
    if part in call.builder:
        return part
    match node.op:
        case ir.Linear() | ir.Conv2d(groups=1):
            source = node.inputs[0]
        case ir.BatchNorm():
            source = _node_of_heads(call, node.inputs[0], first, end, size)
        case op:
            problem = f"a part of the channels of each head of {type(op).__name__} is not supported"
            raise call.refuse(problem, "Cut the result of a layer, before its neurons.")
    shape = (node.shape[0] // size * (end - first), *node.shape[1:])
    call.builder.nodes.append(ir.Node(part, of_heads(node.op, first, end, size), (source,), shape, node.line))
    return part


def _part_of_time(call: Call, value: Value, at: int, start: int, end: int) -> Value | RefusedSteps:
    """The last time step: the nodes compute every step, and the value says which one is read."""
    steps = call.builder.time_steps
    if value.dims[at] == axis("T", steps) and (start, end) == (steps - 1, steps):
        return Value(value.name, axes.replaced(value.dims, at, ()), last=True)
    return _refused_steps(call, "a part of the time steps is used")


def _node_of_channels(call: Call, name: str, first: int, end: int) -> str:
    """The node that computes channels `first` to `end` of node `name`; made where there is none."""
    node = call.builder[name]
    part = part_name(name, first, end)
    if part in call.builder:
        return part
    if isinstance(node.op, ir.Concat):
        return _channels_of_join(call, node, first, end)
    is_dense = isinstance(node.op, ir.Linear) or (isinstance(node.op, ir.Conv2d) and node.op.groups == 1)
    if is_dense:
        source = node.inputs[0]
    elif isinstance(node.op, ir.ChannelByChannel):
        source = _node_of_channels(call, node.inputs[0], first, end)
    else:
        raise call.refuse(f"a part of the channels of {type(node.op).__name__} is not supported")
    shape = (end - first, *node.shape[1:])
    call.builder.nodes.append(ir.Node(part, of_channels(node.op, first, end), (source,), shape, node.line))
    return part


def _channels_of_join(call: Call, join: ir.Node, first: int, end: int) -> str:
    """The node of channels `first` to `end` of joined branches: a join of parts of those that they lie in."""
    parts = []
    start = 0
    for name in join.inputs:
        size = call.builder.shape(name)[0]
        low = max(0, first - start)
        high = min(size, end - start)
        if low < high:
            parts.append(name if (low, high) == (0, size) else _node_of_channels(call, name, low, high))
        start += size
    if len(parts) == 1:
        return parts[0]
    part = part_name(join.name, first, end)
    call.builder.nodes.append(ir.Node(part, ir.Concat(), tuple(parts), (end - first, *join.shape[1:]), join.line))
    return part


def without_unread(graph: ir.Graph) -> ir.Graph:
    """The same graph without layers of which only parts were read.

    Other layers that nobody reads stay: law.py refuses them by their names.
    """
    last = graph.nodes[-1].name
    read = nx.ancestors(graph.to_networkx(), last) | {last, graph.nodes[0].name}
    cut = {node.name.rpartition(CHANNELS)[0] for node in graph}
    unread = {node.name for node in graph if node.name not in read and node.name in cut}
    return ir.Graph(tuple(node for node in graph if node.name not in unread), graph.time_steps)


# --- joins ----------------------------------------------------------------------------------------------------


def _cat(call: Call) -> Value:
    """Channels of branches, one after the other."""
    values = list(call.args[0])
    if not values or not all(isinstance(value, Value) for value in values):
        raise call.refuse("cat of something else than activations is not supported", "Join the channels of branches.")
    at = int(call.argument(1, 0)) % len(values[0].dims)
    shapes = [call.node_shape(value) for value in values]
    are_channels = all(value.dims[at] == axis("C", shape[0]) for value, shape in zip(values, shapes, strict=True))
    other_dims = {(value.dims[:at], value.dims[at + 1 :]) for value in values}
    maps = {shape[1:] for shape in shapes}
    if not are_channels or len(other_dims) > 1 or len(maps) > 1:
        shown = " and ".join(axes.show(value.dims) for value in values)
        raise call.refuse(
            f"cat of {shown} along dimension {at}: only channels can be joined", "Join before flattening."
        )
    if len(values) == 1:
        return values[0]
    channels = sum(shape[0] for shape in shapes)
    dims = axes.replaced(values[0].dims, at, axis("C", channels))
    return call.add(ir.Concat(), tuple(value.name for value in values), (channels, *shapes[0][1:]), dims)


GETITEM = "<built-in function getitem>"
"""What torch.export calls the choice of one of several results."""

PARTS: dict[str, Handler] = {
    "aten.chunk": _chunk,
    "aten.split": _split,
    "aten.split_with_sizes": _split,
    "aten.slice": _slice,
    "aten.narrow": _narrow,
    "aten.select": _select,
    "aten.unbind": _unbind,
    "aten.cat": _cat,
    GETITEM: _getitem,
}
"""Exported operation -> handler."""
