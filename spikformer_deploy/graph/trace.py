"""PyTorch module -> Graph: torch.export, then every exported operation as a node or as a change of layout."""

from __future__ import annotations

import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram

from spikformer_deploy.errors import ModelError
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.constants import with_constants
from spikformer_deploy.graph.operations import OPERATIONS, REWRITE, Batch, Call, Value, spelled
from spikformer_deploy.graph.parts import PARTS, Step, without_unread
from spikformer_deploy.graph.pools import POOLS
from spikformer_deploy.nn import lif as _registers_the_operator  # noqa: F401

KNOWN = with_constants({**OPERATIONS, **PARTS, **POOLS})
WAYS_OUT = {
    "relu": "Put neurons in its place: a layer must receive spikes, or the image.",
    "gelu": "Put neurons in its place: a layer must receive spikes, or the image.",
    "sigmoid": "Put neurons in its place: a layer must receive spikes, or the image.",
    "softmax": "Leave it out: it does not change the class; inside an attention, spikes need none.",
    "layer_norm": "Use batch normalisation, whose statistics are fixed.",
    "group_norm": "Use batch normalisation, whose statistics are fixed.",
    "rsub": "Differences of spikes are not supported: add the branches (x + y) instead.",
    "sub": "Differences of spikes are not supported: add the branches (x + y) instead.",
}
"""What to do instead of an operation that is not supported; REWRITE for all others."""
NOT_LINEAR = (ir.Lif, ir.MaxPool2d, ir.Attention, ir.SpikeMask)
"""Operations that differ between a mean over the time steps and the mean of what they make of each step."""
HARMLESS = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "copy")
"""Keywords of torch that change no value but its type, which is looked at by itself."""
SHAPE_ALONE = ("aten.full_like",)
"""Operations that read of a value nothing but its shape."""
FLOATS = (torch.float32, torch.float64)
LIBRARIES = ("torch", "spikingjelly", "spikformer_deploy/graph", "spikformer_deploy/converters")
"""Folders whose lines are not the user's."""
BATCH = axes.BATCH


def trace(module: nn.Module, input_shape: tuple[int, int, int], *, time_steps: int, per_step: bool = False) -> ir.Graph:
    """The float graph of `module` for images (B, C, Y, X), or frames (B, T, C, Y, X) where `per_step`.

    The graph is raw: batch normalisation and scales still stand in it (fold.py, simplify.py).
    Raises ModelError where the model cannot be exported, holds state, or has an operation that is not supported.
    """
    program = export(module, (time_steps, *input_shape) if per_step else input_shape)
    return trace_exported(Exported.of(program), input_shape, time_steps=time_steps, per_step=per_step)


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """What the tracer reads of an exported program.

    parameters   name of a placeholder -> (name in the model, tensor)
    input_shape  of the images, BATCH for the symbolic batch
    """

    graph: torch.fx.Graph
    parameters: Mapping[str, tuple[str, torch.Tensor]]
    input_shape: tuple[int, ...]

    @staticmethod
    def of(program: ExportedProgram) -> Exported:
        """The graph and the parameters of a program; ModelError where it holds state."""
        _refuse_state(program)
        signature, state = program.graph_signature, {**program.constants, **program.state_dict}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        inputs = [n for n in program.graph.nodes if n.op == "placeholder" and n.name not in names]
        if len(inputs) != 1:
            raise ModelError("model", f"it takes {len(inputs)} inputs", "It must take the images alone.")
        parameters = {name: (target, state[target]) for name, target in names.items()}
        return Exported(program.graph, parameters, shape_of(inputs[0]))


def trace_exported(
    exported: Exported, input_shape: tuple[int, int, int], *, time_steps: int, per_step: bool = False
) -> ir.Graph:
    """As `trace`, of a program that is exported already."""
    return _Tracer(exported, input_shape, time_steps, per_step).graph()


def export(module: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    """torch.export of `module` in evaluation mode with a dynamic batch; ModelError where it fails."""
    example = torch.zeros(2, *shape)
    try:
        with torch.no_grad(), _quiet():
            return _with_any_batch(module.eval(), example)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = re.sub(r"(torch\.ops\.)?aten(\.|::)", "", reason)
        raise ModelError(
            "model",
            f"torch.export cannot trace it for images of {'x'.join(map(str, shape))}: {reason}{_at(_raising(error))}",
            "The forward pass must work for any batch size, and must not branch on values.",
        ) from error


def _with_any_batch(module: nn.Module, example: torch.Tensor) -> ExportedProgram:
    """The exported program; the exception of torch.export where the module does not take batches of any size.

    torch compares strides as it traces, and takes what it cannot prove of them (s * min(7, 7 * s) == 7 * s for every
    batch s) for a limit of the model.  Where it does, it is asked to keep such conditions, and they are tried out here.
    """
    dims = ({0: Dim("batch")},)
    try:
        return torch.export.export(module, (example,), dynamic_shapes=dims, strict=False)
    except UserError:
        program = torch.export.export(
            module, (example,), dynamic_shapes=dims, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
        conditions = [n.args[0] for n in program.graph.nodes if str(n.target) == "aten._assert_scalar.default"]
        if all(_holds(condition, batch) for condition in conditions for batch in (*range(1, 65), BATCH)):
            return program
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what torch.export prints and logs where it fails: its exception says it once more."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


def _holds(condition: Any, batch: int) -> bool:
    """Whether a condition of an exported program on its batch is met by `batch` images."""
    value = condition.meta["val"] if isinstance(condition, torch.fx.Node) else condition
    if isinstance(value, bool):
        return value
    expression = value.node.expr
    return bool(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def _refuse_state(exported: ExportedProgram) -> None:
    signature = exported.graph_signature
    if signature.inputs_to_lifted_tensor_constants or signature.buffers_to_mutate:
        names = [*signature.inputs_to_lifted_tensor_constants.values(), *signature.buffers_to_mutate.values()]
        raise ModelError(
            names[0],
            "a tensor that is no parameter is baked into the model (the state of an earlier run?)",
            "Reset the neurons before compiling (spikingjelly: functional.reset_net(model)).",
        )


class _Tracer:
    """Walks the exported graph once; `values` says what each exported node is in terms of the Graph."""

    def __init__(self, exported: Exported, input_shape: tuple[int, int, int], time_steps: int, per_step: bool) -> None:
        self.exported, self.time_steps, self.per_step = exported, time_steps, per_step
        self.values: dict[torch.fx.Node, Any] = {}
        self.averaged: set[torch.fx.Node] = set()  # the time axis has been summed over
        self.batch = Batch(time_steps)
        self.batch.nodes.append(ir.Node("input", ir.Input(per_step), (), input_shape))
        self.counts: Counter[str] = Counter({"input": 1})

    def graph(self) -> ir.Graph:
        for node in self.exported.graph.nodes:
            match node.op:
                case "placeholder":
                    self.values[node] = self._placeholder(node)
                case "call_function":
                    self.values[node] = self._call(node)
                case "output":
                    self._finish(node)
        return without_unread(ir.Graph(tuple(self.batch.nodes), self.time_steps))

    def _placeholder(self, node: torch.fx.Node) -> Any:
        if node.name in self.exported.parameters:
            return _checked(*self.exported.parameters[node.name])
        channels, height, width = self.batch.nodes[0].shape
        time = (axes.axis("T", self.time_steps),) if self.per_step else ()
        image = (axes.axis("C", channels), axes.axis("Y", height), axes.axis("X", width))
        return Value("input", (axes.axis("B", BATCH), *time, *image))

    def _call(self, node: torch.fx.Node) -> Any:
        target = str(node.target).removesuffix(".default").split(".")
        name = ".".join(target[:2])
        handler: Callable[[Call], Any] | None = KNOWN.get(name)
        call = Call(
            self.batch, lambda: self._unique(node), node, self._arguments(node), shape_of(node), source_line(node)
        )
        if handler is None:
            if not isinstance(node.meta.get("val"), (torch.Tensor, tuple, list)):
                return node.meta.get("val")  # a size
            raise self._unsupported(node, name, call)
        if name not in SHAPE_ALONE:
            self._refuse_one_step(node)
        _refuse_keywords(node, call)
        try:
            before = len(self.batch.nodes)
            result = handler(call)
            _refuse_type(node, call, result)
            self._follow_time(node, call, result, self.batch.nodes[before:])
            return result
        except axes.MixedAxesError as error:
            shapes = ", ".join(axes.show(v.dims) for v in call.args if isinstance(v, Value))
            raise ModelError(
                module_path(node),
                f"{spelled(name)} of {shapes} mixes axes: {error}{_at(call.line)}",
                "Keep time, batch, channels and positions apart when reshaping.",
            ) from None

    def _arguments(self, node: torch.fx.Node) -> tuple[Any, ...]:
        return tuple(torch.fx.node.map_arg(node.args, lambda n: self.values[n]))

    def _refuse_one_step(self, node: torch.fx.Node) -> None:
        for source in node.all_input_nodes:
            if isinstance(value := self.values.get(source), Step):
                raise value.refusal

    def _follow_time(self, node: torch.fx.Node, call: Call, result: Any, made: list[ir.Node]) -> None:
        """Refuse what is not linear behind a mean or a sum over the time steps: the graph averages at its end."""
        summed = _over_time(result) is False and any(_over_time(value) for value in call.args)
        if not summed and not self.averaged.intersection(node.all_input_nodes):
            return
        self.averaged.add(node)
        if not summed and (_over_time(result) or any(isinstance(n.op, NOT_LINEAR) for n in made)):
            raise ModelError(
                module_path(node) or "model",
                f"{spelled(str(node.target))} stands behind a mean over the time steps{_at(call.line)}",
                "Behind it only linear layers can stand: take the mean over the time steps at the end.",
            )

    def _unsupported(self, node: torch.fx.Node, name: str, call: Call) -> ModelError:
        shapes = ", ".join(axes.show(v.dims) for v in call.args if isinstance(v, Value)) or "constants"
        return ModelError(
            module_path(node),
            f"{spelled(name)} of {shapes} is not supported{_at(call.line)}",
            WAYS_OUT.get(spelled(name), REWRITE),
        )

    def _unique(self, node: torch.fx.Node) -> str:
        """The module path of a node, with the operation where the module is a container, and a number where taken."""
        path = module_path(node)
        operation = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
        kind = _module_type(node)
        name = path if kind is not None and _is_leaf(kind, operation) else ".".join(filter(None, (path, operation)))
        self.counts[name] += 1
        return name if self.counts[name] == 1 else f"{name}.{self.counts[name] - 1}"

    def _finish(self, node: torch.fx.Node) -> None:
        self._refuse_one_step(node)
        results = [self.values[a] for a in node.all_input_nodes]
        if len(results) != 1 or not isinstance(results[0], Value):
            found = f"{len(results)} tensors" if len(results) != 1 else f"no activation but {type(results[0]).__name__}"
            line = source_line(node.all_input_nodes[0]) if results else ""
            raise ModelError("model", f"it returns {found}{_at(line)}", "It must return the logits alone.")
        value = results[0]
        if any("T" in axes.roles(dim) for dim in value.dims):
            raise ModelError(
                "model", f"its result is {axes.show(value.dims)}", "It must return the mean over the time steps."
            )
        self.batch.nodes.append(ir.Node("output", ir.Output(), (value.name,), self.batch.shape(value.name)))


def _over_time(value: Any) -> bool | None:
    """Whether a value has a time axis; None where it is no value."""
    return any("T" in axes.roles(dim) for dim in value.dims) if isinstance(value, Value) else None


def _refuse_keywords(node: torch.fx.Node, call: Call) -> None:
    """ModelError for arguments that no handler looks at (x.add(y, alpha=2), x.div(2, rounding_mode="floor"))."""
    for key, value in node.kwargs.items():
        if key not in HARMLESS and value is not None and not (key == "alpha" and value == 1):
            raise call.refuse(f"{call.what} with {key}={value!r} is not supported")


def _refuse_type(node: torch.fx.Node, call: Call, result: Any) -> None:
    """ModelError for an activation that is no fp32 or fp64: its model rounds, and the graph does not."""
    found = node.meta.get("val")
    if isinstance(result, Value) and isinstance(found, torch.Tensor) and found.dtype not in FLOATS:
        name = str(found.dtype).removeprefix("torch.")
        way_out = "Compile the model in fp32: model.float(), without casts and autocast in its forward pass."
        raise call.refuse(f"activations of type {name} are not supported", way_out)


def _checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ModelError(name, "it holds NaN or infinite values", "The training diverged, or the file is damaged.")
    return tensor


def shape_of(node: torch.fx.Node) -> tuple[int, ...]:
    """The shape of a node's value with BATCH for the symbolic batch; () where it is no tensor."""
    value = node.meta.get("val")
    return tuple(_concrete(extent) for extent in value.shape) if isinstance(value, torch.Tensor) else ()


def _concrete(extent: Any) -> int:
    if isinstance(extent, int):
        return extent
    expression = extent.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, BATCH)))


def module_path(node: torch.fx.Node) -> str:
    """Where in the module tree a node was made, "block.0.attn"."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def _module_type(node: torch.fx.Node) -> str | None:
    stack = node.meta.get("nn_module_stack") or {}
    kind = list(stack.values())[-1][1] if stack else None
    return kind if isinstance(kind, str) or kind is None else f"{kind.__module__}.{kind.__qualname__}"


def _is_leaf(kind: str, operation: str) -> bool:
    """Whether the module is the operation itself (torch.nn.Conv2d, our LIF), so that its path is name enough."""
    return kind.startswith("torch.nn.modules") or operation == "lif"


def source_line(node: torch.fx.Node) -> str:
    """The innermost line of the model's source, "model.py:12: x = ..."; "" where torch does not know."""
    found = re.findall(r'File "([^"]*)", line (\d+), in [^\n]+\n\s*(.*)', node.meta.get("stack_trace") or "")
    found = [f for f in found if not any(f"/{package}/" in f[0] for package in LIBRARIES)]
    if not found:
        return ""
    path, line, code = found[-1]
    return f"{path.rsplit('/', 1)[-1]}:{line}: {code.strip()}"


def _raising(error: Exception) -> str:
    """The innermost line of the user's code that an exception came through; "" where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    found = [f for f in frames if not any(f"/{package}/" in f.filename for package in LIBRARIES)]
    return f"{found[-1].filename.rsplit('/', 1)[-1]}:{found[-1].lineno}: {found[-1].line}" if found else ""


def _at(line: str) -> str:
    return f" ({line})" if line else ""
