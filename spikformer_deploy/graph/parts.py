"""Parts of channels (fused q, k, v that a model cuts apart), and neurons of spikingjelly 2 in an exported graph.

A part of a layer's channels is a layer of its own: the layer, its normalisation and its neurons are made again for
these channels alone, and what nobody reads in the end is left out (`without_unread`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import torch

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import axis
from spikformer_deploy.graph.operations import Call, Value

# --- parts ----------------------------------------------------------------------------------------------------


def _chunk(call: Call) -> tuple[Value | Step, ...]:
    count, at = int(call.args[1]), int(call.argument(2, 0))
    size = axes.size(call.value().dims[at])
    each = -(-size // count)
    return tuple(_part(call, at, start, min(start + each, size)) for start in range(0, size, each))


def _split(call: Call) -> tuple[Value | Step, ...]:
    sizes, at = call.args[1], int(call.argument(2, 0))
    size = axes.size(call.value().dims[at])
    each = [min(sizes, size - i) for i in range(0, size, sizes)] if isinstance(sizes, int) else list(sizes)
    ends = [sum(each[: i + 1]) for i in range(len(each))]
    return tuple(_part(call, at, end - n, end) for end, n in zip(ends, each, strict=True))


def _slice(call: Call) -> Value | Step:
    at, value = int(call.argument(1, 0)), call.value()
    size = axes.size(value.dims[at])
    start, end, step = slice(call.argument(2), call.argument(3), call.argument(4)).indices(size)
    if (start, end, step) == (0, size, 1):
        return value
    if end <= start or step != 1:
        raise call.refuse(f"a slice from {start} to {end} in steps of {step} is not supported")
    return _part(call, at, start, end)


def _narrow(call: Call) -> Value | Step:
    at, value, start = int(call.args[1]), call.value(), call.args[2]
    size, length = axes.size(value.dims[at]), int(call.args[3])
    first = int(start) % size
    return value if length == size else _part(call, at, first, first + length)


@dataclass(frozen=True, slots=True)
class Step:
    """A time step of a value, or some but not all: its shape can be used, and `refusal` answers for its content."""

    refusal: ModelError


def _select(call: Call) -> Value | Step:
    """One of the parts."""
    value, at, index = call.value(), int(call.argument(1, 0)), int(call.argument(2, 0))
    at %= len(value.dims)
    if not value.dims[at]:
        return replace(value, dims=(*value.dims[:at], *value.dims[at + 1 :]))
    size = axes.size(value.dims[at])
    if axes.roles(value.dims[at]) == {"T"} and index % size < size - 1:
        return Step(_one_step(call, f"time step {index} alone is used"))
    return _selected(call, at, index % size)


def _one_step(call: Call, problem: str) -> ModelError:
    return call.refuse(
        problem,
        "The head of the chip adds up all time steps, or holds the last one: use their mean, y.mean(0), their sum, or "
        "y[-1]. The class of another step may be another.",
    )


def _unbind(call: Call) -> tuple[Value | Step, ...]:
    at, value = int(call.argument(1, 0)), call.value()
    size = axes.size(value.dims[at])
    if axes.roles(value.dims[at]) != {"T"}:
        return tuple(_selected(call, at, i) for i in range(size))
    others = Step(_one_step(call, "the time steps are taken apart"))
    return (*[others] * (size - 1), _selected(call, at, size - 1))


def _selected(call: Call, at: int, index: int) -> Value | Step:
    part = _part(call, at, index, index + 1)
    if isinstance(part, Step):
        return part
    at %= len(part.dims)
    return replace(part, dims=(*part.dims[:at], *part.dims[at + 1 :]))


def _part(call: Call, at: int, start: int, end: int) -> Value | Step:
    """Positions `start` to `end` of dimension `at`, the outermost of the channels, as channels of their own.

    Of the time steps the last one alone: the nodes compute every step, and the value says which one is read.
    """
    value = call.value()
    at %= len(value.dims)
    channels = call.batch.shape(value.name)[0]
    if axes.roles(value.dims[at]) == {"T"}:
        steps = call.batch.time_steps
        if value.dims[at] == axis("T", steps) and (start, end) == (steps - 1, steps):
            return Value(value.name, (*value.dims[:at], (), *value.dims[at + 1 :]), last=True)
        return Step(_one_step(call, "a part of the time steps is used"))
    (atom,) = value.dims[at] if len(value.dims[at]) == 1 else (axes.Atom("", 1),)
    if atom.role != "C" or atom.size * atom.stride != channels:
        raise call.refuse(f"a part of dimension {at} of {axes.show(value.dims)}: only channels can be cut apart")
    name = _restricted(call, value.name, start * atom.stride, end * atom.stride)
    kept = (axes.Atom("C", end - start, atom.stride),) if end - start > 1 else ()
    return Value(name, (*value.dims[:at], kept, *value.dims[at + 1 :]))


def _restricted(call: Call, name: str, first: int, end: int) -> str:
    """The node that computes channels `first` to `end` of node `name`; made where there is none."""
    known = next(node for node in reversed(call.batch.nodes) if node.name == name)
    made = f"{name}.channels_{first}_{end}"
    if any(node.name == made for node in call.batch.nodes):
        return made
    if isinstance(known.op, ir.Concat):
        return _of_join(call, known, made, first, end)
    chosen = slice(first, end)
    match known.op:
        case ir.Conv2d(weight=weight, bias=bias, groups=1) | ir.Linear(weight=weight, bias=bias):
            op: ir.Op = replace(known.op, weight=frozen(weight[chosen]), bias=frozen(bias[chosen]))
            source = known.inputs[0]
        case ir.BatchNorm(gamma, beta, mean, var, eps):
            scale, shift, center, spread = (frozen(p[chosen]) for p in (gamma, beta, mean, var))
            op = ir.BatchNorm(scale, shift, center, spread, eps)
            source = _restricted(call, known.inputs[0], first, end)
        case ir.Lif() | ir.MaxPool2d() | ir.AvgPool2d() | ir.AdaptiveAvgPool2d() | ir.Scale():
            op, source = known.op, _restricted(call, known.inputs[0], first, end)
        case _:
            raise call.refuse(f"a part of the channels of {type(known.op).__name__} is not supported")
    shape = (end - first, *known.shape[1:])
    call.batch.nodes.append(ir.Node(made, op, (source,), shape, known.line))
    return made


def _of_join(call: Call, join: ir.Node, made: str, first: int, end: int) -> str:
    """Channels `first` to `end` of joined branches: parts of those that they lie in."""
    parts, start = [], 0
    for name in join.inputs:
        size = call.batch.shape(name)[0]
        low, high = max(0, first - start), min(size, end - start)
        if low < high:
            parts.append(name if (low, high) == (0, size) else _restricted(call, name, low, high))
        start += size
    if len(parts) == 1:
        return parts[0]
    call.batch.nodes.append(ir.Node(made, ir.Concat(), tuple(parts), (end - first, *join.shape[1:]), join.line))
    return made


def without_unread(graph: ir.Graph) -> ir.Graph:
    """The same graph without layers of which only parts were read."""
    last = graph.nodes[-1].name
    read = nx.ancestors(graph.to_networkx(), last) | {last, graph.nodes[0].name}
    cut = {node.name.rpartition(".channels_")[0] for node in graph}
    gone = {node.name for node in graph if node.name not in read and node.name in cut}
    return ir.Graph(tuple(node for node in graph if node.name not in gone), graph.time_steps)


def _getitem(call: Call) -> Any:
    return call.args[0][call.args[1]]


def _stack(call: Call) -> Value:
    """The same value once for every time step."""
    values, at = call.args[0], int(call.argument(1, 0))
    if at != 0 or len(values) != call.batch.time_steps or any(v != values[0] for v in values):
        raise call.refuse("a stack of different values is not supported", "Repeat the image over the time steps.")
    return replace(values[0], dims=(axis("T", len(values)), *values[0].dims))


def _cat(call: Call) -> Value:
    """Channels of branches, one after the other."""
    values = list(call.args[0])
    if not values or not all(isinstance(value, Value) for value in values):
        raise call.refuse("cat of something else than activations is not supported", "Join the channels of branches.")
    at = int(call.argument(1, 0)) % len(values[0].dims)
    shapes = [call.batch.shape(value.name) for value in values]
    others = {(value.dims[:at], value.dims[at + 1 :]) for value in values}
    whole = all(value.dims[at] == axis("C", shape[0]) for value, shape in zip(values, shapes, strict=True))
    if not whole or len(others) > 1 or len({shape[1:] for shape in shapes}) > 1:
        shown = " and ".join(axes.show(value.dims) for value in values)
        raise call.refuse(
            f"cat of {shown} along dimension {at}: only channels can be joined", "Join before flattening."
        )
    if len(values) == 1:
        return values[0]
    channels = sum(shape[0] for shape in shapes)
    dims = (*values[0].dims[:at], axis("C", channels), *values[0].dims[at + 1 :])
    return call.add(ir.Concat(), tuple(value.name for value in values), (channels, *shapes[0][1:]), dims)


# --- neurons of spikingjelly 2 ----------------------------------------------------------------------------------


def _full_like(call: Call) -> float:
    """A potential at rest."""
    return float(call.args[1])


def _sj_lif(call: Call) -> tuple[Value, None, None]:
    tau, decay_input, v_threshold, v_reset = call.args[2:6]
    return _sj(call, float(tau), bool(decay_input), v_threshold, v_reset)


def _sj_plif(call: Call) -> tuple[Value, None, None]:
    weight, decay_input, v_threshold, v_reset = call.args[2:6]
    assert isinstance(weight, torch.Tensor)
    return _sj(call, 1 / float(weight.double().sigmoid()), bool(decay_input), v_threshold, v_reset)


def _sj_if(call: Call) -> tuple[Value, None, None]:
    return _sj(call, float("inf"), False, *call.args[2:4])


def _sj(
    call: Call, tau: float, decay_input: bool, v_threshold: float, v_reset: float | None
) -> tuple[Value, None, None]:
    """(spikes, last potential, all potentials): a hard reset to v_reset is one to zero below a lower threshold."""
    value, rest = call.value(), 0.0 if v_reset is None else float(v_reset)
    if call.argument(1, 0.0) != rest:
        raise call.refuse(
            "a neuron that holds the potential of an earlier run", "Reset it: functional.reset_net(model)."
        )
    if value.dims[0] != axis("T", call.batch.time_steps):
        raise call.refuse(f"the neuron sees {axes.show(value.dims)}: its first dimension must be the time axis alone")
    op = ir.Lif(tau, float(v_threshold) - rest, decay_input, v_reset is None)
    return call.add(op, (value.name,), call.batch.shape(value.name), value.dims), None, None


GETITEM = "<built-in function getitem>"
PARTS: dict[str, Callable[[Call], Any]] = {
    "aten.chunk": _chunk,
    "aten.split": _split,
    "aten.split_with_sizes": _split,
    "aten.slice": _slice,
    "aten.narrow": _narrow,
    "aten.select": _select,
    "aten.unbind": _unbind,
    "aten.stack": _stack,
    "aten.cat": _cat,
    "aten.full_like": _full_like,
    GETITEM: _getitem,
    "sj_lif.forward": _sj_lif,
    "sj_plif.forward": _sj_plif,
    "sj_if.forward": _sj_if,
}
"""Exported operation -> handler."""
