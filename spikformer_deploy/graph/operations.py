"""What each exported operation means: a node of the graph, or only another layout of a value.

A handler takes a Call and returns the Value (or Product) that the operation makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from spikformer_deploy.base.arrays import Pair
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import Dims, axis
from spikformer_deploy.graph.windows import framed, widened

REWRITE = "Write this part with supported layers, or leave it out of the module that is compiled."
"""The way out of a refusal that knows no better one."""


def spelled(target: str) -> str:
    """The name of an exported operation, "aten.cat.default", without what only torch's developers call it: "cat".

    One of another origin keeps its whole name: a file of a stranger may call anything.
    """
    parts = target.split(".")
    return parts[1].strip("_") if parts[0] == "aten" and len(parts) > 1 else f"operation {target}"


@dataclass(frozen=True, slots=True)
class Value:
    """A node's value as the model lays it out.

    last  it was taken out of the last time step, and has no time axis any more; what is made of it says so no more
    """

    name: str
    dims: Dims
    last: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """Half of an attention: q k^T ("scores") or k^T v ("memory"), waiting for the other factor."""

    kind: str
    left: Value
    right: Value
    factor: float
    dims: Dims


@dataclass(slots=True)
class Batch:
    """The nodes made so far."""

    time_steps: int
    nodes: list[ir.Node] = field(default_factory=list)

    def shape(self, name: str) -> ir.Shape:
        return next(node.shape for node in reversed(self.nodes) if node.name == name)


@dataclass(slots=True)
class Call:
    """One exported operation: its arguments (Values, tensors, numbers) and the shape of its result."""

    batch: Batch
    unique_name: Callable[[], str]
    node: torch.fx.Node
    args: tuple[Any, ...]
    shape: tuple[int, ...]
    line: str

    def argument(self, index: int, default: Any = None) -> Any:
        return self.args[index] if index < len(self.args) and self.args[index] is not None else default

    def refuse(self, problem: str, way_out: str = "") -> ModelError:
        where = f" ({self.line})" if self.line else ""
        return ModelError(self.unique_name(), problem + where, way_out or REWRITE)

    @property
    def what(self) -> str:
        """The operation as a user would call it: "cat"."""
        return spelled(str(self.node.target))

    def value(self, index: int = 0) -> Value:
        """Argument `index` where it is a value of the graph."""
        value = self.argument(index)
        if not isinstance(value, Value):
            kinds = {Product: "half an attention product", Padded: "padding with zeros, which only convolutions read,"}
            kind = kinds.get(type(value), "a constant")
            raise self.refuse(f"{self.what} of {kind} is not supported", "Only activations can stand here.")
        return value

    def add(self, op: ir.Op, inputs: tuple[str, ...], shape: ir.Shape, dims: Dims) -> Value:
        """A new node, laid out as `dims`."""
        name = self.unique_name()
        self.batch.nodes.append(ir.Node(name, op, inputs, shape, self.line))
        return Value(name, dims)


# --- layout ---------------------------------------------------------------------------------------------------


def _same(call: Call) -> Any:
    return call.args[0]


def _dropout(call: Call) -> Any:
    if call.argument(2, False):
        raise call.refuse("dropout that is active in evaluation is not supported", "Give it training=self.training.")
    return call.args[0]


def _reshape(call: Call) -> Value:
    value = call.value()
    return replace(value, dims=axes.reshape(value.dims, call.shape))


def _permute(call: Call) -> Value:
    value, rank = call.value(), len(call.shape)
    return replace(value, dims=axes.permute(value.dims, tuple(d % rank for d in call.args[1])))


def _transpose(call: Call) -> Value:
    value, order = call.value(), list(range(len(call.shape)))
    first, second = (order[0], order[1]) if len(call.args) == 1 else (call.args[1], call.args[2])
    order[first], order[second] = order[second], order[first]
    return replace(value, dims=axes.permute(value.dims, tuple(order)))


def _expand(call: Call) -> Value:
    """Repetition along a new dimension makes the time axis; any other repetition is refused."""
    value = call.value()
    old = ((),) * (len(call.shape) - len(value.dims)) + value.dims
    dims = []
    for dim, extent in zip(old, call.shape, strict=True):
        if axes.size(dim) == extent:
            dims.append(dim)
        elif dim or any("T" in axes.roles(d) for d in old) or extent != call.batch.time_steps:
            raise call.refuse(
                f"a repetition of {axes.show(value.dims)} to {call.shape} is no time axis of {call.batch.time_steps}",
                "Give the number of time steps that the model was built with (--time-steps).",
            )
        else:
            dims.append(axis("T", extent))
    return replace(value, dims=tuple(dims))


# --- layers ---------------------------------------------------------------------------------------------------


def float64(tensor: torch.Tensor) -> Any:
    """The values of a parameter."""
    return frozen(tensor.detach().to(torch.float64).numpy())


def _bias(call: Call, index: int, channels: int) -> Any:
    bias = call.argument(index)
    return float64(bias) if bias is not None else frozen(np.zeros(channels))


def pair_of(value: Any) -> Pair:
    """(y, x) from one number or two."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return (int(values[0]), int(values[-1]))


def maps_of(call: Call, value: Value) -> ir.Shape:
    """The (C, Y, X) of a value that is laid out as images (batch, C, Y, X); refused where it is not."""
    shape = call.batch.shape(value.name)
    wanted = tuple(axis(role, extent) for role, extent in zip("CYX", shape, strict=True))
    if len(value.dims) != 4 or value.dims[1:] != wanted or not axes.roles(value.dims[0]) <= {"T", "B"}:
        raise call.refuse(f"{call.what} sees {axes.show(value.dims)} instead of (T*B, C, Y, X)")
    return shape


@dataclass(frozen=True, slots=True)
class Padded:
    """A value with zeros around it, (y, x) before and after: what a convolution reads."""

    value: Value
    before: Pair
    after: Pair

    @property
    def dims(self) -> Dims:
        """The layout of what is inside."""
        return self.value.dims


def line_of(call: Call, value: Value) -> str:
    """The axis, "X" or "Y", that a value (batch, C, L) runs along: the other one has one position."""
    channels, height, width = call.batch.shape(value.name)
    role, length = ("X", width) if height == 1 else ("Y", height)
    wanted = (axis("C", channels), axis(role, length))
    if min(height, width) > 1 or value.dims[1:] != wanted or not axes.roles(value.dims[0]) <= {"T", "B"}:
        raise call.refuse(
            f"{call.what} sees {axes.show(value.dims)} instead of (T*B, C, L): maps of one row or one column",
            "Give it images of height 1 (images.flatten(2)), or use the layer for two dimensions.",
        )
    return role


def _pad(call: Call) -> Padded:
    """Zeros that the next convolution reads; any other layer refuses them."""
    value, sizes = call.value(), [int(n) for n in call.args[1]]
    mode, filled = call.argument(2, "constant"), call.argument(3, 0.0)
    if mode != "constant" or filled != 0:
        what = f"padding of mode '{mode}'" if mode != "constant" else f"padding with {filled}"
        raise call.refuse(f"{what} is not supported", "Pad with zeros.")
    if len(sizes) not in (2, 4) or min(sizes) < 0:
        raise call.refuse(f"padding by {sizes} is not supported", "Pad positions, and cut none off.")
    if len(value.dims) == 3 and len(sizes) == 2:
        line = line_of(call, value)
        return Padded(value, on_line(line, sizes[0], 0), on_line(line, sizes[1], 0))
    maps_of(call, value)
    left, right, top, bottom = (*sizes, 0, 0)[:4]
    return Padded(value, (top, left), (bottom, right))


def on_line(line: str, number: int, other: int) -> Pair:
    """The (y, x) of a number that holds along `line`, and of `other` across it."""
    return (other, number) if line == "X" else (number, other)


def _conv2d(call: Call) -> Value:
    padded = call.args[0] if isinstance(call.args[0], Padded) else Padded(call.value(), (0, 0), (0, 0))
    maps_of(call, padded.value)
    numbers = [pair_of(call.argument(index, 1)) for index in (3, 5)]
    padding = call.argument(4, 0)
    return _convolution(call, padded, _weight(call), numbers, padding if isinstance(padding, str) else pair_of(padding))


def _weight(call: Call) -> torch.Tensor:
    if not isinstance(call.args[1], torch.Tensor):
        raise call.refuse("a convolution with computed weights is not supported")
    return call.args[1]


def _convolution(call: Call, padded: Padded, weight: torch.Tensor, numbers: list[Pair], padding: Pair | str) -> Value:
    """A convolution of maps.  numbers: stride and dilation; weight (O, I, KY, KX)."""
    stride, dilation = numbers
    low, high = _margins(padding, widened((weight.shape[2], weight.shape[3]), dilation))
    before, after = ((a[0] + b[0], a[1] + b[1]) for a, b in ((padded.before, low), (padded.after, high)))
    kernel, equal = framed(float64(weight), dilation, before, after)
    groups = int(call.argument(6, 1))
    op = ir.Conv2d(frozen(kernel), _bias(call, 2, len(weight)), stride, equal, groups)
    return spatial(call, op, padded.value, len(weight))


def _margins(padding: Pair | str, extents: Pair) -> tuple[Pair, Pair]:
    """Zeros (before, after) the map: "same" puts the odd one behind, as torch does."""
    if isinstance(padding, str):
        total = [extent - 1 if padding == "same" else 0 for extent in extents]
        return (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)
    return padding, padding


def spatial(call: Call, op: ir.Op, value: Value, channels: int) -> Value:
    """A new node whose value is laid out as maps, or along a line where the operation's is."""
    if len(value.dims) == 3:
        line, length = line_of(call, value), call.shape[2]
        shape = (channels, *on_line(line, length, 1))
        return call.add(op, (value.name,), shape, (value.dims[0], axis("C", channels), axis(line, length)))
    height, width = call.shape[2:]
    dims = (value.dims[0], axis("C", channels), axis("Y", height), axis("X", width))
    return call.add(op, (value.name,), (channels, height, width), dims)


def _linear(call: Call) -> Value:
    return _dense(call, call.value(), call.args[1], len(call.value().dims) - 1)


def _conv1d(call: Call) -> Value:
    """A linear layer over tokens where the kernel is 1; else a convolution of maps of one row or one column."""
    weight, (stride, _), groups = _weight(call), pair_of(call.argument(3, 1)), int(call.argument(6, 1))
    padding, dilation = call.argument(4, 0), pair_of(call.argument(5, 1))[0]
    unpadded = padding in ("same", "valid") or pair_of(padding) == (0, 0)
    if weight.shape[2] == stride == groups == 1 and unpadded and isinstance(call.args[0], Value):
        return _dense(call, call.value(), weight[:, :, 0], 1)
    padded = call.args[0] if isinstance(call.args[0], Padded) else Padded(call.value(), (0, 0), (0, 0))
    line = line_of(call, padded.value)
    numbers = [on_line(line, number, 1) for number in (stride, dilation)]
    margins = padding if isinstance(padding, str) else on_line(line, pair_of(padding)[0], 0)
    return _convolution(call, padded, weight.unsqueeze(2 if line == "X" else 3), numbers, margins)


def _dense(call: Call, value: Value, weight: torch.Tensor, at: int) -> Value:
    """A linear layer over dimension `at`: the whole channel axis, or a whole flattened map (a kernel of its size)."""
    channels, height, width = call.batch.shape(value.name)
    everything = (*axis("C", channels), *axis("Y", height), *axis("X", width))
    if value.dims[at] == everything and (height, width) != (1, 1):
        kernel = ir.Conv2d(float64(weight.reshape(-1, channels, height, width)), _bias(call, 2, len(weight)))
        dims = (*value.dims[:at], axis("C", len(weight)), *value.dims[at + 1 :])
        return call.add(kernel, (value.name,), (len(weight), 1, 1), dims)
    if value.dims[at] != axis("C", channels):
        raise call.refuse(f"a linear layer over dimension {at} of {axes.show(value.dims)} mixes axes")
    op = ir.Linear(float64(weight), _bias(call, 2, len(weight)))
    dims = (*value.dims[:at], axis("C", len(weight)), *value.dims[at + 1 :])
    return call.add(op, (value.name,), (len(weight), height, width), dims)


def _batch_norm(call: Call) -> Value:
    value = call.value()
    gamma, beta, mean, var = call.args[1:5]
    shape = call.batch.shape(value.name)
    if call.argument(5) or mean is None or var is None:
        raise call.refuse("batch normalisation without running statistics", "Call model.eval() before compiling.")
    if value.dims[1] != axis("C", shape[0]):
        raise call.refuse(f"batch normalisation over dimension 1 of {axes.show(value.dims)} mixes axes")
    if bool((var < 0).any()):
        raise call.refuse("a negative running variance")
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    op = ir.BatchNorm(float64(gamma), float64(beta), float64(mean), float64(var), float(call.args[7]))
    return call.add(op, (value.name,), shape, value.dims)


def _lif(call: Call) -> Value:
    value = call.value()
    if value.dims[0] != axis("T", call.batch.time_steps):
        raise call.refuse(f"the LIF sees {axes.show(value.dims)}: its first dimension must be the time axis alone")
    tau, v_threshold, decay_input = call.args[1:4]
    op = ir.Lif(tau, v_threshold, decay_input, bool(call.argument(5, False)), bool(call.argument(6, False)))
    return call.add(op, (value.name,), call.batch.shape(value.name), value.dims)


def _reduced(call: Call) -> set[int]:
    """The dimensions that a mean or a sum runs over: all of them where the model names none."""
    rank = len(call.value().dims)
    over = call.argument(1, []) if isinstance(call.argument(1, []), (list, tuple)) else [call.args[1]]
    return {d % rank for d in over or range(rank)}


def _mean(call: Call) -> Value:
    """A mean over whole axes: positions give a Mean node, time steps leave the graph (Output averages over them)."""
    value, reduced = call.value(), _reduced(call)
    keep = bool(call.argument(2, False))
    left = [dim for i, dim in enumerate(value.dims) if i not in reduced]
    dims = tuple(() if i in reduced else dim for i, dim in enumerate(value.dims)) if keep else tuple(left)
    atoms = {atom for i in reduced for atom in value.dims[i]}
    channels, height, width = call.batch.shape(value.name)
    positions = {*axis("Y", height), *axis("X", width)}
    if atoms - positions - {*axis("T", call.batch.time_steps)} or atoms & positions not in (positions, set()):
        raise call.refuse(
            f"a mean over dimensions {sorted(reduced)} of {axes.show(value.dims)}: only whole time or all tokens"
        )
    if atoms & positions:
        return call.add(ir.Mean(), (value.name,), (channels, 1, 1), dims)
    return replace(value, dims=dims)


# --- arithmetic -----------------------------------------------------------------------------------------------


def _add(call: Call) -> Value:
    left, right = call.value(0), call.value(1)
    if left.dims != right.dims or call.shape != tuple(axes.size(d) for d in left.dims):
        raise call.refuse(f"a sum of {axes.show(left.dims)} and {axes.show(right.dims)} mixes axes")
    return call.add(ir.Add(), (left.name, right.name), call.batch.shape(left.name), left.dims)


def _multiply(call: Call) -> Value | Product:
    factors = [a for a in call.args[:2] if isinstance(a, (int, float))]
    if len(call.args) == 2 and all(isinstance(a, Value) for a in call.args):
        return _mask(call, call.args[0], call.args[1])
    if len(factors) != 1:
        raise call.refuse("a product with something else than a number or spikes is not supported")
    other = call.args[0] if not isinstance(call.args[0], (int, float)) else call.args[1]
    return _scaled(call, other, float(factors[0]))


def _mask(call: Call, left: Value, right: Value) -> Value:
    """The product of two activations, one of which lacks some axes of the other: those that it masks alike."""
    for x, mask in ((left, right), (right, left)):
        shape, spread = call.batch.shape(x.name), call.batch.shape(mask.name)
        dims = ((),) * (len(x.dims) - len(mask.dims)) + mask.dims
        whole = call.shape == tuple(axes.size(d) for d in x.dims) and shape[0] % spread[0] == 0
        if whole and dims == tuple(_masking(dim, shape, spread) for dim in x.dims):
            return call.add(ir.SpikeMask(), (x.name, mask.name), shape, x.dims)
    raise call.refuse(
        f"a product of {axes.show(left.dims)} and {axes.show(right.dims)} is no mask of channels or tokens",
        "A mask has the layout of the other factor, without some of its axes.",
    )


def _masking(dim: axes.Dim, shape: ir.Shape, spread: ir.Shape) -> axes.Dim:
    """What is left of a dimension of a value of `shape` in its mask of shape `spread`."""
    per_channel, out = shape[0] // spread[0], []
    for atom in dim:
        if atom.role == "C" and atom.stride >= per_channel:
            out.append(axes.Atom("C", atom.size, atom.stride // per_channel))
        elif atom.role not in "CYX" or (atom.role in "YX" and spread[1:] == shape[1:]):
            out.append(atom)
    return axes.merged(tuple(out))


def _sum(call: Call) -> Value:
    """A sum over whole axes: all positions, all time steps, or the channels of each head.

    Time steps: T times the mean, that Output takes.  Channels: unit synapses of a grouped convolution.
    """
    value, reduced = call.value(), _reduced(call)
    keep = bool(call.argument(2, False))
    dims = tuple(() if i in reduced else d for i, d in enumerate(value.dims) if keep or i not in reduced)
    atoms = {atom for i in reduced for atom in value.dims[i]}
    if not atoms:
        return replace(value, dims=dims)
    channels, height, width = call.batch.shape(value.name)
    positions, time = {*axis("Y", height), *axis("X", width)}, {*axis("T", call.batch.time_steps)}
    if atoms <= positions | time and atoms & positions in (positions, set()):
        if atoms & positions:
            value = call.add(ir.TokenSum(), (value.name,), (channels, 1, 1), dims)
        if atoms & time:
            factor, shape = float(call.batch.time_steps), call.batch.shape(value.name)
            value = call.add(ir.Scale(factor), (value.name,), shape, dims)
        return replace(value, dims=dims)
    (atom,) = atoms if len(atoms) == 1 else (axes.Atom("", 1),)
    if atom.role != "C" or atom.stride != 1:
        raise call.refuse(
            f"a sum over dimensions {sorted(reduced)} of {axes.show(value.dims)}: only time, tokens or a head"
        )
    heads = channels // atom.size
    one = ir.Conv2d(frozen(np.ones((heads, atom.size, 1, 1))), frozen(np.zeros(heads)), groups=heads)
    shape = (heads, height, width)
    return call.add(one, (value.name,), shape, tuple(_masking(d, (channels, height, width), shape) for d in dims))


def _divide(call: Call) -> Value | Product:
    if not isinstance(call.args[1], (int, float)) or call.args[1] == 0:
        raise call.refuse("a division by something else than a constant is not supported")
    return _scaled(call, call.args[0], 1.0 / call.args[1])


def _scaled(call: Call, value: Any, factor: float) -> Value | Product:
    if isinstance(value, Product):
        return replace(value, factor=value.factor * factor)
    if not isinstance(value, Value):
        raise call.refuse("arithmetic between constants is not supported")
    return call.add(ir.Scale(factor), (value.name,), call.batch.shape(value.name), value.dims)


def _matmul(call: Call) -> Value | Product:
    left, right = call.args[:2]
    if not isinstance(left, (Value, Product)) or not isinstance(right, (Value, Product)):
        raise call.refuse("a matrix product with a constant is not supported", "Use nn.Linear for learned weights.")
    if left.dims[:-2] != right.dims[:-2] or left.dims[-1] != right.dims[-2]:
        raise call.refuse(f"the matrix product of {axes.show(left.dims)} and {axes.show(right.dims)} mixes axes")
    dims = (*left.dims[:-1], right.dims[-1])
    if isinstance(left, Value) and isinstance(right, Value):
        kind = {"C": "scores", "Y": "memory", "X": "memory"}.get(_contracted(left))
        if kind is None:
            raise call.refuse(f"the matrix product over {axes.show(left.dims)} is no part of an attention")
        return Product(kind, left, right, 1.0, dims)
    if isinstance(left, Product) and left.kind == "scores" and isinstance(right, Value):
        return _attention(call, left.left, left.right, right, left.factor, dims)
    if isinstance(right, Product) and right.kind == "memory" and isinstance(left, Value):
        return _attention(call, left, right.left, right.right, right.factor, dims)
    # channels before tokens: the transpose of the same
    if isinstance(left, Product) and left.kind == "memory" and isinstance(right, Value):
        q, k, v, factor = right, left.right, left.left, left.factor
    elif isinstance(right, Product) and right.kind == "scores" and isinstance(left, Value):
        q, k, v, factor = right.right, right.left, left, right.factor
    else:
        raise call.refuse("three products in a row are no attention")
    flipped = (*dims[:-2], dims[-1], dims[-2])
    return replace(_attention(call, _flipped(q), _flipped(k), _flipped(v), factor, flipped), dims=dims)


def _flipped(value: Value) -> Value:
    return replace(value, dims=(*value.dims[:-2], value.dims[-1], value.dims[-2]))


def _attention(call: Call, q: Value, k: Value, v: Value, factor: float, dims: Dims) -> Value:
    """Attention of three equal shapes; the heads follow from the channels that the product runs over."""
    shapes = {call.batch.shape(x.name) for x in (q, k, v)}
    if len(shapes) != 1:
        raise call.refuse("q, k and v of different shapes are not supported")
    (shape,) = shapes
    per_head = axes.size(q.dims[-1])
    tokens = (*axis("Y", shape[1]), *axis("X", shape[2]))
    if q.dims[-2] != tokens or v.dims[-2] != tokens or shape[0] % per_head or q.dims[-1] != v.dims[-1]:
        raise call.refuse(f"the attention over {axes.show(q.dims)} is not one of tokens and channels of a head")
    return call.add(ir.Attention(shape[0] // per_head, factor), (q.name, k.name, v.name), shape, dims)


def _contracted(left: Value) -> str:
    """What a product with `left` runs over; one channel or one token has no axis, and its neighbour tells."""
    over, other = _role(left.dims[-1]), _role(left.dims[-2])
    return over or ("Y" if other == "C" else "C")


def _role(dim: axes.Dim) -> str:
    return dim[0].role if dim else ""


OPERATIONS: dict[str, Callable[[Call], Any]] = {
    "aten.conv2d": _conv2d,
    "aten.conv1d": _conv1d,
    "aten.linear": _linear,
    "aten.batch_norm": _batch_norm,
    "spikformer.lif": _lif,
    "aten.pad": _pad,
    "aten.mean": _mean,
    "aten.sum": _sum,
    "aten.add": _add,
    "aten.add_": _add,
    "aten.mul": _multiply,
    "aten.mul_": _multiply,
    "aten.div": _divide,
    "aten.matmul": _matmul,
    "aten.reshape": _reshape,
    "aten.view": _reshape,
    "aten.flatten": _reshape,
    "aten.unflatten": _reshape,
    "aten.squeeze": _reshape,
    "aten.unsqueeze": _reshape,
    "aten.permute": _permute,
    "aten.transpose": _transpose,
    "aten.t": _transpose,
    "aten.expand": _expand,
    "aten.repeat": _expand,
    "aten.contiguous": _same,
    "aten.clone": _same,
    "aten.detach": _same,
    "aten.alias": _same,
    "aten.dropout": _dropout,
    "aten.to": _same,
    "aten._assert_tensor_metadata": _same,
}
"""Exported operation -> handler; squeeze and unsqueeze are reshapes, since a size of 1 holds no atoms."""
