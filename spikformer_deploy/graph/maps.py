"""Values that layers and pools read: maps (batch, C, Y, X), and lines (batch, C, L), maps of one row or one column."""

from __future__ import annotations

from spikformer_deploy.base.arrays import Pair, Shape
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import axis
from spikformer_deploy.graph.calls import Call, Value


def maps_of(call: Call, value: Value) -> Shape:
    """The (C, Y, X) of a value that is laid out as images (batch, C, Y, X); ModelError where it is not.

    Time steps may stand with the batch: each of them is an image of its own to a layer.
    """
    shape = call.node_shape(value)
    expected = tuple(axis(role, extent) for role, extent in zip("CYX", shape, strict=True))
    if len(value.dims) != 4 or value.dims[1:] != expected or not axes.roles(value.dims[0]) <= {"T", "B"}:
        raise call.refuse(f"{call.what} sees {axes.show(value.dims)} instead of (T*B, C, Y, X)")
    return shape


def line_of(call: Call, value: Value) -> str:
    """The axis, "X" or "Y", that a value (batch, C, L) runs along; ModelError where it is laid out otherwise.

    The other axis has one position.  A flattened map of several rows is no line: a window of three positions would
    look from the end of one row to the start of the next.
    """
    channels, height, width = call.node_shape(value)
    role, length = ("X", width) if height == 1 else ("Y", height)
    expected = (axis("C", channels), axis(role, length))
    if min(height, width) > 1 or value.dims[1:] != expected or not axes.roles(value.dims[0]) <= {"T", "B"}:
        raise call.refuse(
            f"{call.what} sees {axes.show(value.dims)} instead of (T*B, C, L): maps of one row or one column",
            "Give it images of height 1 (images.flatten(2)), or use the layer for two dimensions.",
        )
    return role


def on_line(line: str, number: int, other: int) -> Pair:
    """The (y, x) of a number that holds along `line`, and of `other` across it."""
    return (other, number) if line == "X" else (number, other)


def add_spatial(call: Call, op: ir.Op, value: Value, channels: int) -> Value:
    """A new node that reads `value` and makes `channels` channels; laid out as maps, or along the line of `value`."""
    batch = value.dims[0]
    if len(value.dims) == 3:
        line = line_of(call, value)
        length = call.shape[2]
        shape = (channels, *on_line(line, length, 1))
        return call.add(op, (value.name,), shape, (batch, axis("C", channels), axis(line, length)))
    height, width = call.shape[2:]
    dims = (batch, axis("C", channels), axis("Y", height), axis("X", width))
    return call.add(op, (value.name,), (channels, height, width), dims)
