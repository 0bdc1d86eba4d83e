"""ONNX models with neurons as local functions (our own float export, and files made like it) as graphs.

Every operation is handed to the tracer's handlers (operators.py), so that layout operations vanish and attention is
found as in a traced model.  What has no handler is refused with its name and node; a file is data and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.formats import ENTRY
from spikformer_deploy.converters.imported import (
    MOST_PIXELS,
    PIXELS_OR_COUNTS,
    About,
    Imported,
    about_in,
    exact_neuron,
    imported,
    pixels_or_counts,
    steps_of,
)
from spikformer_deploy.converters.onnx.nodes import INTEGERS, LOCAL
from spikformer_deploy.converters.onnx.operators import OPERATORS, OnnxNode
from spikformer_deploy.converters.onnx.write import FUNCTIONS, LEVELS, levels_function, lif_function
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import BATCH
from spikformer_deploy.graph.calls import GraphBuilder, Value
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.parts import RefusedSteps
from spikformer_deploy.graph.readouts import Readouts
from spikformer_deploy.network.neurons import MOST_LEVELS

LARGEST_FILE = 2**31
"""Protocol buffers hold no more."""
NUMBER_TYPES = (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13)
"""onnx.TensorProto.DataType of floats, integers and bool; 8 is text, later ones are complex, bfloat16 and fp8."""
SURROGATE_SLOPE = 4.0
"""Of the surrogate gradient, which a spikformer.lif takes and nothing here reads."""


def read_model(path: str | Path, *, time_steps: int | None = None) -> Imported:
    """The model in an .onnx file: images (N, C, Y, X), or frames (N, T, C, Y, X), in; logits (N, classes) out.

    time_steps  T, where the file does not tell (only files of our own do)
    Raises InputError for a file that is damaged, cyclic or has data elsewhere, or is a program of integers; ModelError
    for an operator that is not supported, by name and node.
    """
    path = Path(path)
    model = _model(path)
    entry = next((item.value for item in model.metadata_props if item.key == ENTRY), None)
    about = about_in(path, entry) if entry else None
    name, shape = _input(path, model)
    frames = shape[0] if len(shape) == 4 else None
    steps = steps_of(path, time_steps, about, frames)
    try:
        graph = check(_Walk(model, steps, about).graph(name, shape))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise InputError(str(path), f"its graph is damaged: {error}"[:300], "Export it again.") from None
    notes = () if about else (PIXELS_OR_COUNTS,)
    return imported("onnx", path, graph, about, pixels_or_counts(graph), notes)


def _model(path: Path) -> Any:
    """The ModelProto of a float model."""
    import onnx

    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise InputError(str(path), f"it has {size:,} bytes, and ONNX files have at most {LARGEST_FILE:,}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's own DecodeError, and what onnx makes of it
        raise InputError(str(path), f"it is damaged: {error}", "Copy the file again.") from None
    if model.graph.name == INTEGERS and model.producer_name == ENTRY:
        raise InputError(
            str(path),
            "it holds the integers of a program, which is compiled already",
            "Run it with ONNX Runtime, or use the .spk file that it was exported from.",
        )
    return model


def _input(path: Path, model: Any) -> tuple[str, list[int]]:
    """(name, shape without the batch) of the one input: (C, Y, X) of an image, (T, C, Y, X) of frames."""
    # files of before IR version 4 list constants among the inputs
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        problem = f"it has {len(inputs)} inputs and {len(model.graph.output)} outputs"
        raise ModelError(str(path), problem, "It must take images and give logits.")
    name = inputs[0].name
    batch, *sizes = inputs[0].type.tensor_type.shape.dim or [None]
    shape = [size.dim_value for size in sizes]
    if batch is None or batch.HasField("dim_value") or len(shape) not in (3, 4) or min(shape) < 1:
        raise ModelError(
            name, f"an input of shape {shape}", "It must be (N, C, Y, X) or (N, T, C, Y, X), N of any size."
        )
    if prod(shape[-3:]) > MOST_PIXELS:
        raise ModelError(name, f"an input of shape {shape} is absurdly large")
    return name, shape


@dataclass(slots=True)
class _Walk:
    """Hands node after node to the tracer's handlers.

    values    by their names in the file: a Value, a Product, a Step or an array each
    builder   the nodes of the graph so far
    readouts  what has been done with the time axis
    """

    model: Any
    steps: int
    about: About | None
    values: dict[str, Any] = field(default_factory=dict)
    builder: GraphBuilder = field(init=False)
    readouts: Readouts = field(default_factory=Readouts)

    def __post_init__(self) -> None:
        self.builder = GraphBuilder(self.steps)

    def graph(self, input_name: str, shape: list[int]) -> ir.Graph:
        """The graph of the file, whose input has this name, and this shape without the batch."""
        graph = self.model.graph
        _check_functions(self.model)
        for tensor in graph.initializer:
            self.values[tensor.name] = _constant(tensor)
        self._add_input(input_name, shape)
        for index, node in enumerate(graph.node):
            self._add_node(index, node)
        self._add_output(graph.output[0].name)
        return ir.Graph(tuple(self.builder.nodes), self.steps)

    def _add_input(self, name: str, shape: list[int]) -> None:
        *frames, channels, height, width = shape
        op = ir.Input(per_step=bool(frames))
        self.builder.nodes.append(ir.Node("input", op, (), (channels, height, width)))
        time = [axes.axis("T", steps) for steps in frames]
        image = (axes.axis("C", channels), axes.axis("Y", height), axes.axis("X", width))
        self.values[name] = Value("input", (axes.axis("B", BATCH), *time, *image))

    def _add_node(self, index: int, node: Any) -> None:
        texts = (node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output)
        if not all(isinstance(text, str) for text in texts):  # bytes, where they are no UTF-8
            raise InputError(f"node {index}", "its names are no text", "Copy the file again.")
        place = node.name or f"{node.op_type} {index}"
        if len(node.output) != 1:
            raise ModelError(place, f"{node.op_type} with {len(node.output)} outputs is not supported")
        before = len(self.builder.nodes)
        inputs = self._inputs(place, node)
        result = self._result(place, node, inputs)
        self.values[node.output[0]] = result
        added = self.builder.nodes[before:]
        wrong = self.readouts.follow(node.output[0], node.input, inputs, result, added)
        if wrong is not None:
            problem, way_out = wrong
            raise ModelError(place, f"{node.op_type} {problem}", way_out)

    def _add_output(self, name: str) -> None:
        result = self.values.get(name)
        if isinstance(result, RefusedSteps):
            raise result.refusal
        if not isinstance(result, Value) or any("T" in axes.roles(dim) for dim in result.dims):
            shown = axes.show(result.dims) if isinstance(result, Value) else "missing"
            way_out = "It must return the mean over the time steps, or the last one."
            raise ModelError("model", f"its result is {shown}", way_out)
        if not axes.in_order(result.dims, self.builder.shape(result.name)):
            way_out = "It must be (B, classes), or of a head at each position (B, classes, positions)."
            raise ModelError("model", f"its result is {axes.show(result.dims)}", way_out)
        op = ir.Output(self.readouts.is_last(name))
        self.builder.nodes.append(ir.Node("output", op, (result.name,), self.builder.shape(result.name)))

    # --- one node ---

    def _inputs(self, place: str, node: Any) -> list[Any]:
        inputs = []
        for name in node.input:
            if name not in self.values:
                raise InputError(place, f"it reads '{name}', which nothing before it makes: a cycle, or out of order")
            value = self.values[name]
            if isinstance(value, RefusedSteps):
                raise value.refusal
            inputs.append(value)
        return inputs

    def _result(self, place: str, node: Any, inputs: list[Any]) -> Any:
        """The value of a node, and its operations in the graph."""
        import onnx

        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        call = OnnxNode(place, node.op_type, node.doc_string, inputs, attributes, self.builder)
        if node.domain == LOCAL and node.op_type in FUNCTIONS:
            return self._lif(call)
        if node.domain == LOCAL and node.op_type in LEVELS:
            return self._levels(call)
        operator = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if operator is None:
            kind = ".".join(filter(None, (node.domain, node.op_type)))
            known = ", ".join(sorted(OPERATORS))
            raise ModelError(
                place, f"operator {kind} is not supported", f"Supported: {known}, and the neurons of our export."
            )
        try:
            return operator(call)
        except axes.MixedAxesError as error:
            shapes = ", ".join(axes.show(value.dims) for value in inputs if isinstance(value, Value))
            raise ModelError(place, f"{node.op_type} of {shapes} mixes axes: {error}") from None

    def _lif(self, node: OnnxNode) -> Value:
        tau = float(node.attributes["tau"])
        v_threshold = float(node.attributes["v_threshold"])
        lif = exact_neuron(self.about, node.place, ir.Lif(tau, v_threshold, *FUNCTIONS[node.kind]))
        kind = (lif.decay_input, SURROGATE_SLOPE, lif.soft_reset, lif.strict)
        value = node.call("spikformer.lif", (*node.inputs, lif.tau, lif.v_threshold, *kind), ())
        assert isinstance(value, Value)
        return value

    def _levels(self, node: OnnxNode) -> Value:
        count, threshold, keep = (float(node.attributes[name]) for name in ("count", "threshold", "keep"))
        if not (count in range(1, MOST_LEVELS + 1) and 0 < threshold < np.inf and 0 <= keep <= 1):
            problem = f"an integer neuron of {count:g} levels with a threshold of {threshold:g}, which keeps {keep:g}"
            raise ModelError(node.place, problem, f"Whole numbers from 1 to {MOST_LEVELS}, and shares from 0 to 1.")
        rounded = ir.Levels(int(count), threshold, keep, LEVELS[node.kind])
        op = exact_neuron(self.about, node.place, rounded)
        arguments = (*node.inputs, op.count, op.threshold, op.keep, op.half_even)
        value = node.call("spikformer.levels", arguments, ())
        assert isinstance(value, Value)
        return value


def _check_functions(model: Any) -> None:
    """Refuse local functions that are not one of our neurons, node for node: names prove nothing."""
    for function in model.functions:
        if function.domain != LOCAL or function != _known_function(function.name):
            known = ", ".join((*FUNCTIONS, *LEVELS))
            raise ModelError(
                f"{function.domain}.{function.name}",
                "this local function is not a neuron that is known here",
                f"Known: {known} of {LOCAL}, as `spikdeploy export --to onnx` writes them.",
            )


def _known_function(name: str) -> Any:
    """Our own local function of that name; None where there is none."""
    import onnx

    if name in FUNCTIONS:
        return lif_function(onnx, *FUNCTIONS[name])
    return levels_function(onnx, LEVELS[name]) if name in LEVELS else None


def _constant(tensor: Any) -> np.ndarray:
    """An initializer, its size checked before anything of it is allocated."""
    import onnx

    name = tensor.name or "a constant"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        location = next((item.value for item in tensor.external_data if item.key == "location"), "?")
        raise InputError(name, f"its values stand in another file ('{location}')", "Save the model as one file.")
    if tensor.data_type not in NUMBER_TYPES:
        raise InputError(name, f"a constant of type {tensor.data_type} is not supported", "Numbers are.")
    # bytes, or numbers in the field of their type: never fewer than there are values
    stored = len(tensor.raw_data) or max(
        len(getattr(tensor, key)) for key in ("float_data", "double_data", "int32_data", "int64_data")
    )
    if any(extent < 0 for extent in tensor.dims) or prod(tensor.dims) > stored:
        raise InputError(name, f"its shape is {list(tensor.dims)}, and its values are not there")
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(name, f"it is damaged: {error}") from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ModelError(name, "it holds NaN or infinite values", "The training diverged, or the file is damaged.")
    return array
