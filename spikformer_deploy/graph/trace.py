"""PyTorch module -> Graph: each operation that torch.export writes down is a node, or another layout of a value.

torch.export (export.py) turns the module into a list of operations on tensors.  The tracer goes through it in order.
For every operation it looks up the handler (operations.py), hands it the values of the arguments, and keeps the value
of the result (calls.py).  Handlers add nodes to the graph; reshapes and permutations add none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.calls import REWRITE, Call, GraphBuilder, Value, in_brackets, plain_name
from spikformer_deploy.graph.constants import computed
from spikformer_deploy.graph.export import Exported, export, shape_of
from spikformer_deploy.graph.operations import HANDLERS, READS_SHAPE_ONLY, WAYS_OUT
from spikformer_deploy.graph.parts import RefusedSteps, without_unread
from spikformer_deploy.graph.readouts import Readouts
from spikformer_deploy.graph.source import is_leaf, module_path, module_type, source_line

HARMLESS = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "copy")
"""Keywords of torch that change no value but its type, which is looked at by itself."""
FLOATS = (torch.float32, torch.float64)


def trace(module: nn.Module, input_shape: tuple[int, int, int], *, time_steps: int, per_step: bool = False) -> ir.Graph:
    """The float graph of `module` for images (B, C, Y, X), or frames (B, T, C, Y, X) where `per_step`.

    The graph is raw: batch normalisation and scales still stand in it (fold.py, simplify.py).
    Raises ModelError where the model cannot be exported, holds state, or has an operation that is not supported.

    input_shape   (C, Y, X) of one image or frame
    time_steps    T
    """
    program = export(module, (time_steps, *input_shape) if per_step else input_shape)
    return trace_exported(Exported.of(program), input_shape, time_steps=time_steps, per_step=per_step)


def trace_exported(
    exported: Exported, input_shape: tuple[int, int, int], *, time_steps: int, per_step: bool = False
) -> ir.Graph:
    """As `trace`, of a program that is exported already."""
    tracer = _Tracer(exported, input_shape, time_steps, per_step)
    return without_unread(tracer.graph())


class _Tracer:
    """Walks the exported graph once; `values` says what the result of each exported operation stands for."""

    def __init__(self, exported: Exported, input_shape: Shape, time_steps: int, per_step: bool) -> None:
        self.exported = exported
        self.values: dict[torch.fx.Node, Any] = {}
        self.readouts = Readouts()
        self.builder = GraphBuilder(time_steps, [ir.Node("input", ir.Input(per_step), (), input_shape)])
        self.uses_of_names = Counter({"input": 1})
        self.input = Value("input", _image_dims(input_shape, time_steps if per_step else None))

    def graph(self) -> ir.Graph:
        """The graph of all operations."""
        for node in self.exported.graph.nodes:
            match node.op:
                case "placeholder":
                    self.values[node] = self._placeholder(node)
                case "get_attr":  # the body of an autocast or of a condition
                    self.values[node] = None
                case "call_function":
                    self.values[node] = self._call(node)
                case "output":
                    self._finish(node)
        return self.builder.graph()

    def _placeholder(self, node: torch.fx.Node) -> Any:
        """An argument of the exported function: a parameter of the model, or the images."""
        if node.name in self.exported.parameters:
            name, tensor = self.exported.parameters[node.name]
            _refuse_infinite(name, tensor)
            return tensor
        return self.input

    # --- one operation ---

    def _call(self, node: torch.fx.Node) -> Any:
        """What the result of an operation stands for."""
        # "aten.add.Tensor" and "aten.add.Scalar" are one operation to a handler
        parts = str(node.target).removesuffix(".default").split(".")
        operation = ".".join(parts[:2])
        handler = HANDLERS.get(operation)
        call = Call(
            builder=self.builder,
            unique_name=lambda: self._unique_name(node),
            node=node,
            args=torch.fx.node.map_arg(node.args, lambda source: self.values[source]),
            shape=shape_of(node),
            line=source_line(node),
        )
        constant = computed(operation, call)
        if constant is not None:
            _refuse_keywords(node, call)
            return constant
        if handler is None:
            result = node.meta.get("val")
            if isinstance(result, (torch.Tensor, tuple, list)):
                raise self._unsupported(node, operation, call)
            return result  # a size of a tensor, or arithmetic of sizes
        _refuse_keywords(node, call)
        if operation in READS_SHAPE_ONLY:
            return handler(call)
        self._refuse_steps(node)
        nodes_before = len(self.builder.nodes)
        try:
            result = handler(call)
        except axes.MixedAxesError as error:
            raise ModelError(
                module_path(node) or "model",
                f"{plain_name(operation)} of {self._shapes(node)} mixes axes: {error}{in_brackets(call.line)}",
                "Keep time, batch, channels and positions apart when reshaping.",
            ) from None
        _refuse_type(node, call, result)
        self._follow_time(node, call, result, self.builder.nodes[nodes_before:])
        return result

    def _refuse_steps(self, node: torch.fx.Node) -> None:
        """ModelError for an operation that reads some time steps and not all."""
        for source in node.all_input_nodes:
            value = self.values.get(source)
            if isinstance(value, RefusedSteps):
                raise value.refusal

    def _follow_time(self, node: torch.fx.Node, call: Call, result: Any, new_nodes: Sequence[ir.Node]) -> None:
        """ModelError for what cannot move before the mean over the time steps, or before the last one."""
        wrong = self.readouts.follow(node, node.all_input_nodes, call.args, result, new_nodes)
        if wrong is not None:
            problem, way_out = wrong
            place = module_path(node) or "model"
            raise ModelError(place, f"{call.what} {problem}{in_brackets(call.line)}", way_out)

    def _unsupported(self, node: torch.fx.Node, operation: str, call: Call) -> ModelError:
        """The error for an operation without a handler, with the best way out that is known."""
        what = "autocast" if operation == "wrap_with_autocast" else plain_name(operation)
        folder, _, layer = (module_type(node) or "").rpartition(".")
        where = f" in {layer}" if folder.startswith("torch.nn.modules") else ""
        # torch keeps no line of an autocast: that of what it reads is near
        line = call.line or next(filter(None, map(source_line, node.all_input_nodes)), "")
        return ModelError(
            module_path(node) or "model",
            f"{what} of {self._shapes(node)}{where} is not supported{in_brackets(line)}",
            WAYS_OUT.get(what, REWRITE),
        )

    def _shapes(self, node: torch.fx.Node) -> str:
        """The layouts that an operation reads, for a message."""
        values = [self.values.get(source) for source in node.all_input_nodes]
        return ", ".join(axes.show(value.dims) for value in values if isinstance(value, Value)) or "constants"

    def _unique_name(self, node: torch.fx.Node) -> str:
        """The module path of a node, with the operation where the module is a container, and a number where taken."""
        path = module_path(node)
        target = str(node.target).split(".")
        operation = target[1] if len(target) > 1 else target[0]
        kind = module_type(node)
        name = path if kind is not None and is_leaf(kind, operation) else ".".join(filter(None, (path, operation)))
        name = name or operation  # neurons that are called in the model's own forward
        self.uses_of_names[name] += 1
        uses = self.uses_of_names[name]
        return name if uses == 1 else f"{name}.{uses - 1}"

    # --- the end ---

    def _finish(self, node: torch.fx.Node) -> None:
        """Add the Output, which reads the one result of the model."""
        self._refuse_steps(node)
        value = self._result(node)
        if any("T" in axes.roles(dim) for dim in value.dims):
            raise ModelError(
                "model",
                f"its result is {axes.show(value.dims)}",
                "It must return the mean over the time steps, or the last one, y[-1].",
            )
        if not axes.in_order(value.dims, self.builder.shape(value.name)):
            raise ModelError(
                "model",
                f"its result is {axes.show(value.dims)}",
                "It must return (B, classes), or of a head at each position (B, classes, positions), flattened or not.",
            )
        op = ir.Output(self.readouts.is_last(node.all_input_nodes[0]))
        self.builder.nodes.append(ir.Node("output", op, (value.name,), self.builder.shape(value.name)))

    def _result(self, node: torch.fx.Node) -> Value:
        """The value that the model returns; ModelError for several, and for what is no activation."""
        results = [self.values[source] for source in node.all_input_nodes]
        if len(results) == 1 and isinstance(results[0], Value):
            return results[0]
        what = f"{len(results)} tensors" if len(results) != 1 else f"no activation but {type(results[0]).__name__}"
        line = source_line(node.all_input_nodes[0]) if results else ""
        raise ModelError("model", f"it returns {what}{in_brackets(line)}", "It must return only the logits.")


def _image_dims(shape: Shape, frames: int | None) -> axes.Dims:
    """The layout of images (B, C, Y, X), or of `frames` an image, (B, T, C, Y, X)."""
    time = () if frames is None else (axes.axis("T", frames),)
    positions = tuple(axes.axis(role, extent) for role, extent in zip("CYX", shape, strict=True))
    return (axes.axis("B", axes.BATCH), *time, *positions)


def _refuse_keywords(node: torch.fx.Node, call: Call) -> None:
    """ModelError for arguments that no handler looks at (x.add(y, alpha=2), x.div(2, rounding_mode="floor"))."""
    for key, value in node.kwargs.items():
        if key not in HARMLESS and value is not None and not (key == "alpha" and value == 1):
            raise call.refuse(f"{call.what} with {key}={value!r} is not supported")


def _refuse_type(node: torch.fx.Node, call: Call, result: Any) -> None:
    """ModelError for an activation that is no fp32 or fp64: its model rounds, and the graph does not."""
    tensor = node.meta.get("val")
    if isinstance(result, Value) and isinstance(tensor, torch.Tensor) and tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        way_out = "Compile the model in fp32: model.float(), without casts and autocast in its forward pass."
        raise call.refuse(f"activations of type {kind} are not supported", way_out)


def _refuse_infinite(name: str, tensor: torch.Tensor) -> None:
    """ModelError for a parameter that holds NaN or infinite values."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ModelError(name, "it holds NaN or infinite values", "The training diverged, or the file is damaged.")
