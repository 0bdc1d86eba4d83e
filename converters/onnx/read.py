"""ONNX models with LIFs as local functions (our own float export, and files made like it) as graphs.

Every operation is handed to the tracer's handlers (graph/operations.py), so that layout operations vanish and attention
is found as in a traced model.  What has no handler is refused with its name and node; a file is data and runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.converters.imported import ENTRY, MOST_PIXELS, MOST_STEPS, About, Imported, parsed, sha256_of
from spikformer_deploy.converters.onnx.nodes import LOCAL
from spikformer_deploy.converters.onnx.write import FUNCTIONS, lif_function
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import BATCH
from spikformer_deploy.graph.calls import Call, GraphBuilder, Product, Value
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.operations import HANDLERS
from spikformer_deploy.graph.parts import RefusedSteps
from spikformer_deploy.graph.readouts import Readouts

LARGEST_FILE = 2**31
"""Protocol buffers hold no more."""


def read_model(path: str | Path, *, time_steps: int | None = None) -> Imported:
    """The model in an .onnx file: images (N, C, Y, X), or frames (N, T, C, Y, X), in; logits (N, classes) out.

    time_steps  T, where the file does not tell (only files of our own do)
    Raises InputError for a file that is damaged, cyclic or has data elsewhere, or is a program of integers; ModelError
    for an operator that is not supported, by name and node.
    """
    import onnx

    path = Path(path)
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(
            str(path), f"it has {path.stat().st_size:,} bytes, and ONNX files have at most {LARGEST_FILE:,}"
        )
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's own DecodeError, and what onnx makes of it
        raise InputError(str(path), f"it is damaged: {error}", "Copy the file again.") from None
    if model.graph.name == "spiking_network" and model.producer_name == ENTRY:
        raise InputError(
            str(path),
            "it holds the integers of a program, which is compiled already",
            "Run it with ONNX Runtime, or use the .spk file that it was exported from.",
        )
    entry = next((p.value for p in model.metadata_props if p.key == ENTRY), None)
    told = parsed(path, entry) if entry else None
    shape, per_step = _input(path, model)
    steps = time_steps or (told.time_steps if told else shape[0] if per_step else None)
    if steps is None or not 0 < steps <= MOST_STEPS:
        problem = f"{steps} time steps" if steps else "it does not say how many time steps an image has"
        raise ModelError(str(path), problem, "Give --time-steps.")
    walk = _Walk(onnx, model, steps, told)
    try:
        graph = check(walk.graph(shape, per_step))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise InputError(str(path), f"its graph is damaged: {error}"[:300], "Export it again.") from None
    channels, height, width = graph.nodes[0].shape
    notes: tuple[str, ...] = ()
    if told is None:
        notes = ("the input is taken as pixels / 255, or as counts where it is a frame a step: the file does not tell",)
        std = 1 / 255 if per_step else 1.0
        told = About(steps, per_step, Preprocess(channels, height, (0.0,) * channels, (std,) * channels, 255, width))
    if (told.preprocess.channels, *told.preprocess.extent) != (channels, height, width):
        raise InputError(str(path), f"its input is {shape}, and the notes of its export say otherwise")
    training = dict(told.training or {})
    return Imported("onnx", graph, told.preprocess, told.labels, sha256_of(path), training, notes)


def _input(path: Path, model: Any) -> tuple[list[int], bool]:
    """(shape without the batch, whether it is a frame for each step) of the one input."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        problem = f"it has {len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise ModelError(str(path), problem, "It must take images and give logits.")
    batch, *sizes = inputs[0].type.tensor_type.shape.dim or [None]
    shape = [size.dim_value for size in sizes]
    if batch is None or batch.HasField("dim_value") or len(shape) not in (3, 4) or min(shape) < 1:
        raise ModelError(
            inputs[0].name, f"an input of shape {shape}", "It must be (N, C, Y, X) or (N, T, C, Y, X), N of any size."
        )
    if prod(shape[-3:]) > MOST_PIXELS:
        raise ModelError(inputs[0].name, f"an input of shape {shape} is absurdly large")
    return shape, len(shape) == 4


@dataclass(slots=True)
class _Walk:
    """Hands node after node to the tracer's handlers; a value is a Value, a Product or an array."""

    onnx: Any
    model: Any
    steps: int
    about: About | None
    values: dict[str, Any] = field(default_factory=dict)
    batch: GraphBuilder = field(init=False)
    readouts: Readouts = field(default_factory=Readouts)

    def graph(self, shape: list[int], per_step: bool) -> ir.Graph:
        self._check_functions()
        graph = self.model.graph
        self.batch = GraphBuilder(self.steps)
        channels, height, width = shape[-3:]
        self.batch.nodes.append(ir.Node("input", ir.Input(per_step), (), (channels, height, width)))
        for tensor in graph.initializer:
            self.values[tensor.name] = self._constant(tensor)
        image = (axes.axis("C", channels), axes.axis("Y", height), axes.axis("X", width))
        time = (axes.axis("T", shape[0]),) if per_step else ()
        (name,) = (value.name for value in graph.input if value.name not in self.values)
        self.values[name] = Value("input", (axes.axis("B", BATCH), *time, *image))
        for index, node in enumerate(graph.node):
            texts = (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
            if not all(isinstance(text, str) for text in texts):  # bytes, where they are no UTF-8
                raise InputError(f"node {index}", "its names are no text", "Copy the file again.")
            place = node.name or f"{node.op_type} {index}"
            if len(node.output) != 1:
                raise ModelError(place, f"{node.op_type} with {len(node.output)} outputs is not supported")
            before = len(self.batch.nodes)
            value = self.values[node.output[0]] = self._node(place, node)
            inputs = [self.values[name] for name in node.input]
            wrong = self.readouts.follow(node.output[0], node.input, inputs, value, self.batch.nodes[before:])
            if wrong is not None:
                raise ModelError(place, f"{node.op_type} {wrong[0]}", wrong[1])
        result = self.values.get(graph.output[0].name)
        if isinstance(result, RefusedSteps):
            raise result.refusal
        if not isinstance(result, Value) or any("T" in axes.roles(dim) for dim in result.dims):
            shown = axes.show(result.dims) if isinstance(result, Value) else "missing"
            way_out = "It must return the mean over the time steps, or the last one."
            raise ModelError("model", f"its result is {shown}", way_out)
        op = ir.Output(self.readouts.is_last(graph.output[0].name))
        self.batch.nodes.append(ir.Node("output", op, (result.name,), self.batch.shape(result.name)))
        return ir.Graph(tuple(self.batch.nodes), self.steps)

    def _check_functions(self) -> None:
        """Only functions that are LIFs, to the last node, are called."""
        for function in self.model.functions:
            known = FUNCTIONS.get(function.name) if function.domain == LOCAL else None
            if known is None or function != lif_function(self.onnx, *known):
                raise ModelError(
                    f"{function.domain}.{function.name}",
                    "this local function is not the LIF that is known here",
                    f"Known: {', '.join(FUNCTIONS)} of {LOCAL}, as `spikdeploy export --to onnx` writes them.",
                )

    def _constant(self, tensor: Any) -> np.ndarray:
        """An initializer, its size checked before anything of it is made."""
        name = tensor.name or "a constant"
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL or tensor.external_data:
            where = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            raise InputError(name, f"its values stand in another file ('{where}')", "Save the model as one file.")
        if tensor.data_type not in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13):
            raise InputError(name, f"a constant of type {tensor.data_type} is not supported", "Numbers are.")
        given = len(tensor.raw_data) or max(
            len(getattr(tensor, key)) for key in ("float_data", "double_data", "int32_data", "int64_data")
        )
        if any(extent < 0 for extent in tensor.dims) or prod(tensor.dims) > given:
            raise InputError(name, f"its shape is {list(tensor.dims)}, and its values are not there")
        try:
            array = self.onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(name, f"it is damaged: {error}") from None
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(name, "it holds NaN or infinite values", "The training diverged, or the file is damaged.")
        return array

    # --- one node ---

    def _node(self, place: str, node: Any) -> Any:
        inputs = []
        for name in node.input:
            if name not in self.values:
                raise InputError(place, f"it reads '{name}', which nothing before it makes: a cycle, or out of order")
            if isinstance(value := self.values[name], RefusedSteps):
                raise value.refusal
            inputs.append(value)
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.domain == LOCAL and node.op_type in FUNCTIONS:
            return self._lif(place, node, inputs, attributes)
        reader = READERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if reader is None:
            kind = ".".join(filter(None, (node.domain, node.op_type)))
            known = ", ".join(sorted(READERS))
            raise ModelError(
                place, f"operator {kind} is not supported", f"Supported: {known}, and the LIFs of our export."
            )
        try:
            return reader(self, _Node(place, node.op_type, node.doc_string, inputs, attributes))
        except axes.MixedAxesError as error:
            shapes = ", ".join(axes.show(v.dims) for v in inputs if isinstance(v, Value))
            raise ModelError(place, f"{node.op_type} of {shapes} mixes axes: {error}") from None

    def _lif(self, place: str, node: Any, inputs: list[Any], attributes: dict[str, Any]) -> Value:
        op = ir.Lif(float(attributes["tau"]), float(attributes["v_threshold"]), *FUNCTIONS[node.op_type])
        op = self.about.neuron(place, op) if self.about else op
        args = (*inputs, op.tau, op.v_threshold, op.decay_input, 4.0, op.soft_reset, op.strict)
        value = self.call(_Node(place, node.op_type, "", inputs, {}), "spikformer.lif", args, ())
        assert isinstance(value, Value)
        return value

    def call(self, node: _Node, operation: str, args: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
        """The result of a handler of the tracer."""
        target: Any = SimpleNamespace(target=node.kind)
        return HANDLERS[operation](Call(self.batch, lambda: node.place, target, args, shape, ""))


@dataclass(frozen=True, slots=True)
class _Node:
    """A node of the file; `hint` is what our export says that it was."""

    place: str
    kind: str
    hint: str
    inputs: list[Any]
    attributes: Mapping[str, Any]

    def value(self, index: int = 0) -> Value:
        value = self.inputs[index]
        if not isinstance(value, Value):
            raise ModelError(self.place, f"{self.kind} of a constant or of half an attention is not supported")
        return value

    def constant(self, index: int) -> np.ndarray:
        value = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(value, np.ndarray):
            raise ModelError(self.place, f"{self.kind} whose input {index} is computed is not supported")
        return value

    def ints(self, name: str, default: list[int]) -> list[int]:
        return [int(x) for x in self.attributes.get(name, default)]

    def only(self, **allowed: Any) -> None:
        """Refuse attributes that have another value than the allowed one."""
        for name, right in allowed.items():
            given = self.attributes.get(name, right)
            if given != right and list(np.atleast_1d(given)) != list(np.atleast_1d(right)):
                raise ModelError(self.place, f"{self.kind} with {name} = {given} is not supported")


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


def _sizes(value: Value) -> tuple[int, ...]:
    return tuple(axes.size(dim) for dim in value.dims)


def _reshape(walk: _Walk, node: _Node) -> Any:
    value, wanted = node.value(), [int(x) for x in node.constant(1).reshape(-1)]
    node.only(allowzero=0)
    old = _sizes(value)
    sizes = [old[i] if size == 0 and i < len(old) else size for i, size in enumerate(wanted)]
    if sizes.count(-1) == 1:
        known = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = prod(old) // known if known > 0 else 0
    if min(sizes, default=1) < 1:
        raise ModelError(node.place, f"a shape of {wanted}")
    return walk.call(node, "aten.reshape", (value, sizes), tuple(sizes))


def _transpose(walk: _Walk, node: _Node) -> Any:
    value = node.value()
    order = node.ints("perm", list(reversed(range(len(value.dims)))))
    if sorted(order) != list(range(len(value.dims))):
        raise ModelError(node.place, f"an order of {order} for {axes.show(value.dims)}")
    return walk.call(node, "aten.permute", (value, order), tuple(_sizes(value)[i] for i in order))


def _expand(walk: _Walk, node: _Node) -> Any:
    value, wanted = node.value(), [int(x) for x in node.constant(1).reshape(-1)]
    old = (1,) * (len(wanted) - len(value.dims)) + _sizes(value)
    if len(old) != len(wanted) or any(1 not in (a, b) and a != b for a, b in zip(old, wanted, strict=True)):
        raise ModelError(node.place, f"an expansion of {axes.show(value.dims)} to {wanted}")
    return walk.call(node, "aten.expand", (value,), tuple(max(a, b) for a, b in zip(old, wanted, strict=True)))


def _geometry(node: _Node) -> tuple[list[int], list[int]]:
    """(stride, padding) of a window over maps."""
    node.only(dilations=[1, 1], auto_pad=b"NOTSET", ceil_mode=0)
    stride, pads = node.ints("strides", [1, 1]), node.ints("pads", [0, 0, 0, 0])
    if len(stride) != 2 or len(pads) != 4 or pads[:2] != pads[2:] or min(*stride, 1) < 1 or min(pads) < 0:
        raise ModelError(node.place, f"{node.kind} with strides {stride} and pads {pads} is not supported")
    return stride, pads[:2]


def _window(node: _Node, channels: int, kernel: list[int]) -> tuple[int, ...]:
    """The shape of the result."""
    stride, padding = _geometry(node)
    sizes = _sizes(node.value())
    if len(sizes) != 4 or len(kernel) != 2 or min(kernel) < 1 or max(kernel) > 2**15:
        raise ModelError(node.place, f"{node.kind} of kernel {kernel} on {axes.show(node.value().dims)}")
    window = [(e + 2 * p - k) // s + 1 for e, k, s, p in zip(sizes[2:], kernel, stride, padding, strict=True)]
    if min(window) < 1:
        raise ModelError(node.place, f"a window of {kernel} is larger than its input of {sizes[2:]}")
    return (sizes[0], channels, *window)


def _conv(walk: _Walk, node: _Node) -> Any:
    weight = node.constant(1)
    if weight.ndim != 4 or 0 in weight.shape:
        raise ModelError(node.place, f"a convolution with a weight of shape {weight.shape} is not supported")
    bias = node.constant(2) if len(node.inputs) > 2 else np.zeros(len(weight))
    stride, padding = _geometry(node)
    groups = int(node.attributes.get("group", 1))
    shape = _window(node, len(weight), list(weight.shape[2:]))
    args = (node.value(), _tensor(weight), _tensor(bias), stride, padding, [1, 1], groups)
    made = walk.call(node, "aten.conv2d", args, shape)
    if node.hint == "Linear" and weight.shape[2:] == (1, 1) and (stride, padding, groups) == ([1, 1], [0, 0], 1):
        last = walk.batch.nodes.pop()
        assert isinstance(last.op, ir.Conv2d)
        walk.batch.nodes.append(replace(last, op=ir.Linear(frozen(last.op.weight[:, :, 0, 0]), last.op.bias)))
    return made


def _batch_norm(walk: _Walk, node: _Node) -> Any:
    node.only(training_mode=0)
    statistics = [_tensor(node.constant(i)) for i in (1, 2, 3, 4)]
    # attributes are fp32: the shortest number that is the same there
    eps = float(str(np.float32(node.attributes.get("epsilon", 1e-5))))
    return walk.call(node, "aten.batch_norm", (node.value(), *statistics, False, 0.1, eps), _sizes(node.value()))


def _max_pool(walk: _Walk, node: _Node) -> Any:
    node.only(storage_order=0)
    (stride, padding), kernel = _geometry(node), node.ints("kernel_shape", [])
    shape = _window(node, _sizes(node.value())[1], kernel)
    return walk.call(node, "aten.max_pool2d", (node.value(), kernel, stride, padding), shape)


def _avg_pool(walk: _Walk, node: _Node) -> Any:
    (stride, padding), kernel = _geometry(node), node.ints("kernel_shape", [])
    shape = _window(node, _sizes(node.value())[1], kernel)
    counted = not any(padding) or bool(node.attributes.get("count_include_pad", 0))
    return walk.call(node, "aten.avg_pool2d", (node.value(), kernel, stride, padding, False, counted), shape)


def _reduce(walk: _Walk, node: _Node) -> Any:
    over = [int(x) for x in node.constant(1).reshape(-1)] if len(node.inputs) > 1 else node.ints("axes", [])
    keep = bool(node.attributes.get("keepdims", 1))
    rank = len(node.value().dims)
    if not over or not all(-rank <= axis < rank for axis in over):
        raise ModelError(node.place, f"{node.kind} over the axes {over} of {axes.show(node.value().dims)}")
    return walk.call(node, "aten.mean" if node.kind == "ReduceMean" else "aten.sum", (node.value(), over, keep), ())


def _gather(walk: _Walk, node: _Node) -> Any:
    """One time step, or one channel: a constant index without dimensions."""
    index, at = node.constant(1), int(node.attributes.get("axis", 0))
    sizes = _sizes(node.value())
    if index.ndim or index.dtype.kind not in "iu" or not -len(sizes) <= at < len(sizes):
        raise ModelError(node.place, f"Gather of an index of shape {index.shape} along axis {at} is not supported")
    if not -sizes[at] <= int(index) < sizes[at]:
        raise ModelError(node.place, f"Gather of index {int(index)} of {axes.show(node.value().dims)}")
    return walk.call(node, "aten.select", (node.value(), at, int(index)), ())


def _concat(walk: _Walk, node: _Node) -> Any:
    if not all(isinstance(value, Value) for value in node.inputs):
        raise ModelError(node.place, "Concat of something else than activations is not supported")
    return walk.call(node, "aten.cat", (node.inputs, int(node.attributes.get("axis", 0))), ())


def _add(walk: _Walk, node: _Node) -> Any:
    """A sum of activations, or of one and a constant."""
    args = [_tensor(x) if isinstance(x, np.ndarray) else x for x in node.inputs]
    shape = _sizes(next((x for x in args if isinstance(x, Value)), node.value()))
    return walk.call(node, "aten.add", tuple(args), shape)


def _multiply(walk: _Walk, node: _Node) -> Any:
    args = [float(x.reshape(())) if isinstance(x, np.ndarray) and x.size == 1 else x for x in node.inputs]
    if any(isinstance(arg, np.ndarray) for arg in args) or len(args) != 2:
        raise ModelError(
            node.place, f"{node.kind} with an array is not supported", "Only one factor for all values is."
        )
    shapes = [_sizes(arg) for arg in args if isinstance(arg, Value)]
    whole = tuple(map(max, *shapes)) if len({len(s) for s in shapes}) == 1 < len(shapes) else ()
    return walk.call(node, "aten.mul" if node.kind == "Mul" else "aten.div", tuple(args), whole)


def _matmul(walk: _Walk, node: _Node) -> Any:
    """Products of an attention, in either layout: with channels first, (v k^T) q is the transpose of q^T (k v^T)."""
    left, right = node.inputs
    if isinstance(left, Product) and left.kind == "memory" and isinstance(right, Value):
        memory = walk.call(node, "aten.matmul", (_flipped(left.right), _flipped(left.left)), ())
        memory = replace(memory, factor=memory.factor * left.factor)
        return _flipped(walk.call(node, "aten.matmul", (_flipped(right), memory), ()))
    return walk.call(node, "aten.matmul", (left, right), ())


def _flipped(value: Value) -> Value:
    return replace(value, dims=(*value.dims[:-2], value.dims[-1], value.dims[-2]))


def _cast(walk: _Walk, node: _Node) -> Any:
    """Constants keep all the digits that they have."""
    if node.attributes.get("to") not in (walk.onnx.TensorProto.FLOAT, walk.onnx.TensorProto.DOUBLE):
        raise ModelError(node.place, "a cast to something else than a float is not supported")
    return node.inputs[0]


READERS: dict[str, Callable[[_Walk, _Node], Any]] = {
    "Add": _add,
    "AveragePool": _avg_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _multiply,
    "Expand": _expand,
    "Gather": _gather,
    "Identity": lambda walk, node: node.inputs[0],
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Mul": _multiply,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Reshape": _reshape,
    "Transpose": _transpose,
}
