"""Operations that change only how a value is laid out: they make no node of the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spikformer_deploy.graph import axes
from spikformer_deploy.graph.axes import axis
from spikformer_deploy.graph.calls import Call, Handler, Value


def _unchanged(call: Call) -> Any:
    return call.args[0]


def _dropout(call: Call) -> Any:
    """Nothing in evaluation; torch exports the call all the same, with `training` as its third argument."""
    if call.argument(2, False):
        raise call.refuse("dropout that is active in evaluation is not supported", "Give it training=self.training.")
    return call.args[0]


def _reshape(call: Call) -> Value:
    value = call.value()
    return replace(value, dims=axes.reshape(value.dims, call.shape))


def _permute(call: Call) -> Value:
    value = call.value()
    rank = len(call.shape)
    return replace(value, dims=axes.permute(value.dims, tuple(d % rank for d in call.args[1])))


def _transpose(call: Call) -> Value:
    """Two dimensions change places: those that are named, or the two of `x.t()`."""
    value = call.value()
    order = list(range(len(call.shape)))
    first, second = (order[0], order[1]) if len(call.args) == 1 else (call.args[1], call.args[2])
    order[first], order[second] = order[second], order[first]
    return replace(value, dims=axes.permute(value.dims, tuple(order)))


def _expand(call: Call) -> Value:
    """A repetition along a new dimension makes the time axis; any other one is refused."""
    value = call.value()
    # torch aligns shapes at their ends: new dimensions stand in front
    old = ((),) * (len(call.shape) - len(value.dims)) + value.dims
    has_time = any("T" in axes.roles(dim) for dim in old)
    dims = []
    for dim, extent in zip(old, call.shape, strict=True):
        if axes.size(dim) == extent:
            dims.append(dim)
        elif dim or has_time or extent != call.builder.time_steps:
            shape = ", ".join(map(axes.show_size, call.shape))
            raise call.refuse(
                f"a repetition of {axes.show(value.dims)} to ({shape}) is no time axis of {call.builder.time_steps}",
                "Give the number of time steps that the model was built with (--time-steps), or build it with this "
                "(--arg T=..., where your function has such an argument).",
            )
        else:
            dims.append(axis("T", extent))
    return replace(value, dims=tuple(dims))


def _stack(call: Call) -> Value:
    """The same value once for every time step makes the time axis, too."""
    values = call.args[0]
    at = int(call.argument(1, 0))
    if at != 0 or len(values) != call.builder.time_steps or any(v != values[0] for v in values):
        raise call.refuse("a stack of different values is not supported", "Repeat the image over the time steps.")
    return replace(values[0], dims=(axis("T", len(values)), *values[0].dims))


LAYOUTS: dict[str, Handler] = {
    # an axis of size 1 has no atoms: with or without it, a layout is the same to `axes.reshape`
    **dict.fromkeys(("aten.squeeze", "aten.unsqueeze"), _reshape),
    **dict.fromkeys(("aten.reshape", "aten.view", "aten.flatten", "aten.unflatten"), _reshape),
    "aten.permute": _permute,
    **dict.fromkeys(("aten.transpose", "aten.t"), _transpose),
    **dict.fromkeys(("aten.expand", "aten.repeat"), _expand),
    "aten.stack": _stack,
    **dict.fromkeys(("aten.contiguous", "aten.clone", "aten.detach", "aten.alias", "aten.to"), _unchanged),
    "aten._assert_tensor_metadata": _unchanged,
    "aten.dropout": _dropout,
}
"""Exported operation -> handler."""
