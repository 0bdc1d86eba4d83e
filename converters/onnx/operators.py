"""Operators of ONNX, each handed to the tracer's handler of the same meaning (graph/operations.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.converters.windows import window_counts
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.attentions import settled
from spikformer_deploy.graph.calls import Call, GraphBuilder, Product, Value
from spikformer_deploy.graph.operations import HANDLERS

FLOAT_TYPES = (1, 11)
"""onnx.TensorProto.FLOAT and DOUBLE."""
LARGEST_EXTENT = 2**15
"""Of a kernel."""


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """A node of the file.

    place   its name, for errors; kind: its operator
    hint    what our export says that it was: the name of an operation of the graph
    inputs  a Value, a Product or an array each
    builder  the nodes of the graph so far
    """

    place: str
    kind: str
    hint: str
    inputs: list[Any]
    attributes: Mapping[str, Any]
    builder: GraphBuilder

    def value(self, index: int = 0) -> Value:
        """An input that is computed from the images."""
        value = self.inputs[index]
        if not isinstance(value, Value):
            raise ModelError(self.place, f"{self.kind} of a constant or of half an attention is not supported")
        return value

    def constant(self, index: int) -> np.ndarray:
        """An input that the file holds."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(value, np.ndarray):
            raise ModelError(self.place, f"{self.kind} whose input {index} is computed is not supported")
        return value

    def constant_ints(self, index: int) -> list[int]:
        """A shape, or a list of axes, that the file holds."""
        return [int(number) for number in self.constant(index).reshape(-1)]

    def ints(self, name: str, default: list[int]) -> list[int]:
        """An attribute."""
        return [int(number) for number in self.attributes.get(name, default)]

    def only(self, **allowed: Any) -> None:
        """Refuse attributes that have another value than the allowed one."""
        for name, right in allowed.items():
            stated = self.attributes.get(name, right)
            if stated != right and list(np.atleast_1d(stated)) != list(np.atleast_1d(right)):
                raise ModelError(self.place, f"{self.kind} with {name} = {stated} is not supported")

    def call(self, operation: str, args: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
        """The result of a handler of the tracer; `shape` is that of the result where the handler needs it, else ()."""
        return HANDLERS[operation](self.as_call(args, shape))

    def as_call(self, args: tuple[Any, ...], shape: tuple[int, ...] = ()) -> Call:
        """The node as the tracer's handlers take it."""
        # what a handler reads of a node of torch.fx
        target: Any = SimpleNamespace(target=self.kind)
        return Call(self.builder, lambda: self.place, target, args, shape, "")


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def _sizes(value: Value) -> tuple[int, ...]:
    return tuple(axes.size(dim) for dim in value.dims)


# --- layouts --------------------------------------------------------------------------------------------------------


def _reshape(node: OnnxNode) -> Any:
    value = node.value()
    wanted = node.constant_ints(1)
    node.only(allowzero=0)
    old = _sizes(value)
    # ONNX: 0 keeps the extent at its place, one -1 takes what is left
    sizes = [old[i] if size == 0 and i < len(old) else size for i, size in enumerate(wanted)]
    if sizes.count(-1) == 1:
        known = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(old) // known if known > 0 else 0
    if min(sizes, default=1) < 1:
        raise ModelError(node.place, f"a shape of {wanted}")
    return node.call("aten.reshape", (value, sizes), tuple(sizes))


def _transpose(node: OnnxNode) -> Any:
    value = node.value()
    order = node.ints("perm", list(reversed(range(len(value.dims)))))
    if sorted(order) != list(range(len(value.dims))):
        raise ModelError(node.place, f"an order of {order} for {axes.show(value.dims)}")
    sizes = _sizes(value)
    return node.call("aten.permute", (value, order), tuple(sizes[axis] for axis in order))


def _expand(node: OnnxNode) -> Any:
    value = node.value()
    wanted = node.constant_ints(1)
    old = (1,) * (len(wanted) - len(value.dims)) + _sizes(value)
    if len(old) != len(wanted) or any(1 not in (a, b) and a != b for a, b in zip(old, wanted, strict=True)):
        raise ModelError(node.place, f"an expansion of {axes.show(value.dims)} to {wanted}")
    return node.call("aten.expand", (value,), tuple(max(a, b) for a, b in zip(old, wanted, strict=True)))


def _gather(node: OnnxNode) -> Any:
    """One time step, or one channel: a constant index without dimensions."""
    index = node.constant(1)
    axis = int(node.attributes.get("axis", 0))
    sizes = _sizes(node.value())
    if index.ndim or index.dtype.kind not in "iu" or not -len(sizes) <= axis < len(sizes):
        raise ModelError(node.place, f"Gather of an index of shape {index.shape} along axis {axis} is not supported")
    if not -sizes[axis] <= int(index) < sizes[axis]:
        raise ModelError(node.place, f"Gather of index {int(index)} of {axes.show(node.value().dims)}")
    return node.call("aten.select", (node.value(), axis, int(index)), ())


def _concat(node: OnnxNode) -> Any:
    if not all(isinstance(value, Value) for value in node.inputs):
        raise ModelError(node.place, "Concat of something else than activations is not supported")
    return node.call("aten.cat", (node.inputs, int(node.attributes.get("axis", 0))), ())


def _identity(node: OnnxNode) -> Any:
    return node.inputs[0]


def _cast(node: OnnxNode) -> Any:
    """Constants keep all the digits that they have."""
    if node.attributes.get("to") not in FLOAT_TYPES:
        raise ModelError(node.place, "a cast to something else than a float is not supported")
    return node.inputs[0]


# --- windows --------------------------------------------------------------------------------------------------------


def _geometry(node: OnnxNode) -> tuple[list[int], list[int]]:
    """(stride, padding) of a window over maps."""
    node.only(dilations=[1, 1], auto_pad=b"NOTSET", ceil_mode=0)
    stride = node.ints("strides", [1, 1])
    # rows before, columns before, rows behind, columns behind
    pads = node.ints("pads", [0, 0, 0, 0])
    if len(stride) != 2 or len(pads) != 4 or pads[:2] != pads[2:] or min(*stride, 1) < 1 or min(pads) < 0:
        raise ModelError(node.place, f"{node.kind} with strides {stride} and pads {pads} is not supported")
    return stride, pads[:2]


def _window(node: OnnxNode, channels: int, kernel: list[int]) -> tuple[int, ...]:
    """The shape of the result."""
    stride, padding = _geometry(node)
    sizes = _sizes(node.value())
    if len(sizes) != 4 or len(kernel) != 2 or min(kernel) < 1 or max(kernel) > LARGEST_EXTENT:
        raise ModelError(node.place, f"{node.kind} of kernel {kernel} on {axes.show(node.value().dims)}")
    images, _, *extents = sizes
    counts = window_counts(extents, kernel, stride, padding)
    if min(counts) < 1:
        raise ModelError(node.place, f"a window of {kernel} is larger than its input of {tuple(extents)}")
    return (images, channels, *counts)


def _conv(node: OnnxNode) -> Any:
    weight = node.constant(1)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ModelError(node.place, f"a convolution with a weight of shape {weight.shape} is not supported")
    bias = node.constant(2) if len(node.inputs) > 2 else np.zeros(len(weight))
    stride, padding = _geometry(node)
    groups = int(node.attributes.get("group", 1))
    shape = _window(node, len(weight), list(weight.shape[2:]))
    args = (node.value(), _tensor(weight), _tensor(bias), stride, padding, [1, 1], groups)
    result = node.call("aten.conv2d", args, shape)
    pointwise = weight.shape[2:] == (1, 1) and (stride, padding, groups) == ([1, 1], [0, 0], 1)
    if node.hint == "Linear" and pointwise:
        _make_linear(node.builder)
    return result


def _make_linear(builder: GraphBuilder) -> None:
    """The last node as the linear layer that it was: ONNX has none for maps, and the graph shall be the same again."""
    last = builder.nodes.pop()
    assert isinstance(last.op, ir.Conv2d)
    linear = ir.Linear(frozen(last.op.weight[:, :, 0, 0]), last.op.bias)
    builder.nodes.append(replace(last, op=linear))


def _max_pool(node: OnnxNode) -> Any:
    node.only(storage_order=0)
    stride, padding = _geometry(node)
    kernel = node.ints("kernel_shape", [])
    shape = _window(node, _sizes(node.value())[1], kernel)
    return node.call("aten.max_pool2d", (node.value(), kernel, stride, padding), shape)


def _avg_pool(node: OnnxNode) -> Any:
    stride, padding = _geometry(node)
    kernel = node.ints("kernel_shape", [])
    shape = _window(node, _sizes(node.value())[1], kernel)
    counted = not any(padding) or bool(node.attributes.get("count_include_pad", 0))
    return node.call("aten.avg_pool2d", (node.value(), kernel, stride, padding, False, counted), shape)


# --- arithmetic -----------------------------------------------------------------------------------------------------


def _batch_norm(node: OnnxNode) -> Any:
    node.only(training_mode=0)
    statistics = [_tensor(node.constant(i)) for i in (1, 2, 3, 4)]
    # attributes are fp32: the shortest number that is the same there
    eps = float(str(np.float32(node.attributes.get("epsilon", 1e-5))))
    # as aten has them: not in training, and a momentum that is not used then
    return node.call("aten.batch_norm", (node.value(), *statistics, False, 0.1, eps), _sizes(node.value()))


def _reduce(node: OnnxNode) -> Any:
    # axes were an attribute; they are an input since opset 13 (ReduceSum) and 18 (ReduceMean)
    over = node.constant_ints(1) if len(node.inputs) > 1 else node.ints("axes", [])
    keep = bool(node.attributes.get("keepdims", 1))
    rank = len(node.value().dims)
    if not over or not all(-rank <= axis < rank for axis in over):
        raise ModelError(node.place, f"{node.kind} over the axes {over} of {axes.show(node.value().dims)}")
    return node.call("aten.mean" if node.kind == "ReduceMean" else "aten.sum", (node.value(), over, keep), ())


def _add(node: OnnxNode) -> Any:
    """A sum of activations, or of one and a constant."""
    args = [_tensor(value) if isinstance(value, np.ndarray) else value for value in node.inputs]
    shape = _sizes(next((arg for arg in args if isinstance(arg, Value)), node.value()))
    return node.call("aten.add", tuple(args), shape)


def _multiply(node: OnnxNode) -> Any:
    if node.kind == "Mul" and _is_dual_spike(node, node.inputs[0]) and isinstance(node.inputs[1], np.ndarray):
        return _scaled_by_head(node, node.inputs[0], node.inputs[1])
    args = [_scalar(value) for value in node.inputs]
    if any(isinstance(arg, np.ndarray) for arg in args) or len(args) != 2:
        raise ModelError(
            node.place, f"{node.kind} with an array is not supported", "Only one factor for all values is."
        )
    shapes = [_sizes(arg) for arg in args if isinstance(arg, Value)]
    two_of_one_rank = len(shapes) == 2 and len(shapes[0]) == len(shapes[1])
    # of a mask and a map: extents of 1 are spread
    shape = tuple(map(max, *shapes)) if two_of_one_rank else ()
    return node.call("aten.mul" if node.kind == "Mul" else "aten.div", tuple(args), shape)


def _is_dual_spike(node: OnnxNode, value: Any) -> bool:
    """Whether a value is a product of currents and spikes, which has a factor for each head."""
    return isinstance(value, Value) and isinstance(node.builder[value.name].op, ir.DualSpike)


def _scaled_by_head(node: OnnxNode, value: Value, factors: np.ndarray) -> Value:
    """A product of currents and spikes, the last node so far, times numbers (heads, 1, 1)."""
    last = node.builder.nodes[-1]
    op = last.op
    assert isinstance(op, ir.DualSpike)
    if factors.shape != (op.heads, 1, 1) or last.name != value.name:
        raise ModelError(node.place, f"a factor of {factors.shape} for {op.heads} heads is not supported")
    scale = frozen(op.scale * factors[:, 0, 0].astype(np.float64))
    node.builder.nodes[-1] = replace(last, op=replace(op, scale=scale))
    return value


def _scalar(value: Any) -> Any:
    """An array of one number as that number."""
    return float(value.reshape(())) if isinstance(value, np.ndarray) and value.size == 1 else value


def _matmul(node: OnnxNode) -> Any:
    """Products of an attention, in either layout: with channels first, (v k^T) q is the transpose of q^T (k v^T).

    The tracer knows the second, in which torch's models are written.
    """
    left, right = node.inputs
    if isinstance(left, Product) and left.kind == "memory" and isinstance(right, Value):
        memory = node.call("aten.matmul", (_flipped(left.right), _flipped(left.left)), ())
        memory = replace(memory, factor=memory.factor * left.factor)
        return _flipped(node.call("aten.matmul", (_flipped(right), memory), ()))
    if node.hint == "DualSpike":
        return settled(node.as_call((left, right)), node.call("aten.matmul", (left, right), ()))
    return node.call("aten.matmul", (left, right), ())


def _flipped(value: Value) -> Value:
    """With the last two dimensions exchanged."""
    *front, rows, columns = value.dims
    return replace(value, dims=(*front, columns, rows))


OPERATORS: dict[str, Callable[[OnnxNode], Any]] = {
    "Add": _add,
    "AveragePool": _avg_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _multiply,
    "Expand": _expand,
    "Gather": _gather,
    "Identity": _identity,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _multiply,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
"""What is read of the standard domain, by name."""
