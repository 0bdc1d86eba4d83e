"""PyTorch module -> Graph: torch.export, then every exported operation as a node or as a change of layout."""

from __future__ import annotations

import linecache
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

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.constants import with_constants
from spikformer_deploy.graph.operations import OPERATIONS, REWRITE, Batch, Call, Value, spelled
from spikformer_deploy.graph.parts import PARTS, Step, without_unread
from spikformer_deploy.graph.pools import POOLS
from spikformer_deploy.graph.readouts import Readouts
from spikformer_deploy.nn import lif as _registers_the_operator  # noqa: F401

KNOWN = with_constants({**OPERATIONS, **PARTS, **POOLS})
NEURONS = "Put neurons in its place: a layer must receive spikes, or the image."
NORMALISE = "Use batch normalisation, whose statistics are fixed."
DIFFERENCE = "Differences of spikes are not supported: add the branches (x + y) instead."
RANDOM = "The forward pass must draw no random numbers."
WAYS_OUT = {
    **dict.fromkeys(("relu", "gelu", "sigmoid", "silu", "tanh", "leaky_relu", "prelu", "elu", "hardtanh"), NEURONS),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), NORMALISE),
    **dict.fromkeys(("rsub", "sub"), DIFFERENCE),
    **dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "bernoulli"), RANDOM),
    "softmax": "Leave it out: it does not change the class; inside an attention, spikes need none.",
    "scaled_dot_product_attention": "Write it without softmax, (q @ k.transpose(-1, -2)) @ v * scale.",
    "autocast": "Compile the model in fp32, without autocast in its forward pass.",
    "max": "Take the mean over the time steps, or max-pooling of positions.",
}
"""What to do instead of an operation that is not supported; REWRITE for all others."""
SOME_BATCHES = (
    "Its forward pass must work for any batch: x.shape[0] in place of a number, and no branch or loop over it."
)
ON_VALUES = "What its forward pass does must not depend on values: leave such parts out of the module that is compiled."
ON_FAILURE = (
    "Call the module on a batch of such images: where that works, this is more than torch.export can follow, and must "
    "be left out of the module that is compiled."
)
HARMLESS = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "copy")
"""Keywords of torch that change no value but its type, which is looked at by itself."""
SHAPE_ALONE = ("aten.full_like",)
"""Operations that read of a value nothing but its shape."""
FLOATS = (torch.float32, torch.float64)
LIBRARIES = (
    "-packages/torch/", "-packages/spikingjelly/", "/spikingjelly/activation_based/", "/spikingjelly/clock_driven/",
    "/spikformer_deploy/graph/", "/spikformer_deploy/converters/", "/spikformer_deploy/nn/lif.py",
)  # fmt: skip
"""Folders and files whose lines are not the user's."""
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
        raise _untraceable(module, shape, error) from error


def _untraceable(module: nn.Module, shape: tuple[int, ...], error: Exception) -> ModelError:
    """What torch.export says of a module, in the words of who wrote the module."""
    text = str(error).strip() or type(error).__name__
    line = _raising(error) or _forward_line(module)
    if "Constraints violated" in text:
        reason, way_out = "it works for some numbers of images alone", SOME_BATCHES
    elif "data-dependent" in text:
        reason, way_out = "it takes the value of an activation as a number, or branches on it", ON_VALUES
    else:
        first = re.sub(r"(torch\.ops\.)?aten(\.|::)", "", text.splitlines()[0])
        reason = re.sub(r"\bs\d+\b", "batch", re.sub(r"\b_*(\w+)\.default\b", r"the operation \1", first))
        way_out = ON_FAILURE
    return ModelError(
        "model", f"torch.export cannot trace it for images of {'x'.join(map(str, shape))}: {reason}{_at(line)}", way_out
    )


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
    if changed := list(signature.buffers_to_mutate.values()):
        raise ModelError(
            changed[0],
            "the model changes it as it runs: it holds state",
            "Its forward pass must keep nothing from call to call.",
        )
    for name, constant in signature.inputs_to_lifted_tensor_constants.items():
        node = next(n for n in exported.graph.nodes if n.name == name)
        line = next(filter(None, (source_line(user) for user in node.users)), "")
        raise ModelError(
            "model" if constant.startswith("lifted_tensor_") else constant,
            f"a tensor that is no parameter is baked into the model (the state of an earlier run?){_at(line)}",
            "Reset the neurons before compiling (spikingjelly: functional.reset_net(model)), and make no tensors in "
            "the forward pass.",
        )


class _Tracer:
    """Walks the exported graph once; `values` says what each exported node is in terms of the Graph."""

    def __init__(self, exported: Exported, input_shape: tuple[int, int, int], time_steps: int, per_step: bool) -> None:
        self.exported, self.time_steps, self.per_step = exported, time_steps, per_step
        self.values: dict[torch.fx.Node, Any] = {}
        self.readouts = Readouts()
        self.batch = Batch(time_steps)
        self.batch.nodes.append(ir.Node("input", ir.Input(per_step), (), input_shape))
        self.counts: Counter[str] = Counter({"input": 1})

    def graph(self) -> ir.Graph:
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
            if name not in SHAPE_ALONE:
                self._follow_time(node, call, result, self.batch.nodes[before:])
            return result
        except axes.MixedAxesError as error:
            raise ModelError(
                module_path(node) or "model",
                f"{spelled(name)} of {self._shapes(node)} mixes axes: {error}{_at(call.line)}",
                "Keep time, batch, channels and positions apart when reshaping.",
            ) from None

    def _arguments(self, node: torch.fx.Node) -> tuple[Any, ...]:
        return tuple(torch.fx.node.map_arg(node.args, lambda n: self.values[n]))

    def _refuse_one_step(self, node: torch.fx.Node) -> None:
        for source in node.all_input_nodes:
            if isinstance(value := self.values.get(source), Step):
                raise value.refusal

    def _follow_time(self, node: torch.fx.Node, call: Call, result: Any, made: list[ir.Node]) -> None:
        """Refuse what cannot move before the mean over the time steps, or before the last one."""
        wrong = self.readouts.follow(node, node.all_input_nodes, call.args, result, made)
        if wrong is not None:
            problem, way_out = wrong
            place = module_path(node) or "model"
            raise ModelError(place, f"{spelled(str(node.target))} {problem}{_at(call.line)}", way_out)

    def _shapes(self, node: torch.fx.Node) -> str:
        values = [self.values.get(source) for source in node.all_input_nodes]
        return ", ".join(axes.show(value.dims) for value in values if isinstance(value, Value)) or "constants"

    def _unsupported(self, node: torch.fx.Node, name: str, call: Call) -> ModelError:
        what = "autocast" if name == "wrap_with_autocast" else spelled(name)
        kind = (_module_type(node) or "").rpartition(".")
        where = f" in {kind[2]}" if kind[0].startswith("torch.nn.modules") else ""
        # torch keeps no line of an autocast: that of what it reads is near
        line = call.line or next(filter(None, map(source_line, node.all_input_nodes)), "")
        return ModelError(
            module_path(node) or "model",
            f"{what} of {self._shapes(node)}{where} is not supported{_at(line)}",
            WAYS_OUT.get(what, REWRITE),
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
                "model",
                f"its result is {axes.show(value.dims)}",
                "It must return the mean over the time steps, or the last one, y[-1].",
            )
        op = ir.Output(self.readouts.is_last(node.all_input_nodes[0]))
        self.batch.nodes.append(ir.Node("output", op, (value.name,), self.batch.shape(value.name)))


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
    found = [f for f in found if not of_library(f[0])]
    if not found:
        return ""
    path, line, code = found[-1]
    return f"{path.rsplit('/', 1)[-1]}:{line}: {code.strip()}"


def _raising(error: Exception) -> str:
    """The innermost line of the user's code that an exception came through; "" where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    found = [f for f in frames if not of_library(f.filename)]
    return f"{found[-1].filename.rsplit('/', 1)[-1]}:{found[-1].lineno}: {found[-1].line}" if found else ""


def _forward_line(module: nn.Module) -> str:
    """Where the outermost forward pass of the user's own stands; "" where all are a library's."""
    for part in module.modules():
        code = type(part).forward.__code__ if hasattr(type(part).forward, "__code__") else None
        if code is not None and not of_library(code.co_filename):
            line = linecache.getline(code.co_filename, code.co_firstlineno).strip()
            return f"{code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno}: {line}"
    return ""


def of_library(path: str) -> bool:
    """Whether a source file is torch's, spikingjelly's or ours, and no user's."""
    return any(part in path for part in LIBRARIES)


def _at(line: str) -> str:
    return f" ({line})" if line else ""
