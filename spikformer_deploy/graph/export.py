"""torch.export of a user's module: the list of its tensor operations, and errors in words of who wrote the module.

torch.export runs the module once on tensors that have shapes and no values, and writes down every operation.  The batch
is a symbol in these shapes: the same list must hold for any number of images.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph.axes import BATCH
from spikformer_deploy.graph.calls import in_brackets
from spikformer_deploy.graph.source import forward_line, raising_line, source_line
from spikformer_deploy.nn import lif as _registers_the_operator  # noqa: F401

SOME_BATCHES = (
    "Its forward pass must work for any batch: x.shape[0] in place of a number, and no branch or loop over it."
)
ON_VALUES = "What its forward pass does must not depend on values: leave such parts out of the module that is compiled."
ON_FAILURE = (
    "Call the module on a batch of such images: where that works, this is more than torch.export can follow, and must "
    "be left out of the module that is compiled."
)


@dataclass(frozen=True, slots=True, eq=False)
class Exported:
    """What the tracer reads of an exported program.

    parameters    name of a placeholder -> (name in the model, tensor)
    input_shape   of the images, BATCH for the symbolic batch
    """

    graph: torch.fx.Graph
    parameters: Mapping[str, tuple[str, torch.Tensor]]
    input_shape: tuple[int, ...]

    @staticmethod
    def of(program: ExportedProgram) -> Exported:
        """The graph and the parameters of a program; ModelError where it holds state."""
        _refuse_state(program)
        signature = program.graph_signature
        state = {**program.constants, **program.state_dict}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        inputs = [n for n in program.graph.nodes if n.op == "placeholder" and n.name not in names]
        if len(inputs) != 1:
            raise ModelError("model", f"it takes {len(inputs)} inputs", "It must take only the images.")
        parameters = {name: (target, state[target]) for name, target in names.items()}
        return Exported(program.graph, parameters, shape_of(inputs[0]))


def shape_of(node: torch.fx.Node) -> tuple[int, ...]:
    """The shape of an exported operation's result with BATCH for the symbolic batch; () where it is no tensor."""
    value = node.meta.get("val")
    return tuple(_concrete(extent) for extent in value.shape) if isinstance(value, torch.Tensor) else ()


def _concrete(extent: Any) -> int:
    """An extent as a number: torch has symbols where it follows from the batch."""
    if isinstance(extent, int):
        return extent
    expression = extent.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, BATCH)))


def export(module: nn.Module, shape: tuple[int, ...]) -> ExportedProgram:
    """torch.export of `module` in evaluation mode with a dynamic batch; ModelError where it fails.

    shape   of one image, without the batch
    """
    # torch takes a batch of 1 for a constant, and not for an example of any batch
    example = torch.zeros(2, *shape)
    try:
        with torch.no_grad(), _quiet():
            return _with_any_batch(module.eval(), example)
    except Exception as error:
        raise _untraceable(module, shape, error) from error


def _with_any_batch(module: nn.Module, example: torch.Tensor) -> ExportedProgram:
    """The exported program; the exception of torch.export where the module does not take batches of any size.

    torch compares strides as it traces, and takes what it cannot prove of them (s * min(7, 7 * s) == 7 * s for every
    batch s) for a limit of the model.  Where it does, it is asked to keep such conditions, and they are tried out here.
    """
    # torch.export loads the compiler of torch, which takes a second: only where something is exported
    from torch._dynamo.exc import UserError

    dims = ({0: Dim("batch")},)
    try:
        return torch.export.export(module, (example,), dynamic_shapes=dims, strict=False)
    except UserError:
        program = torch.export.export(
            module, (example,), dynamic_shapes=dims, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )
        conditions = [n.args[0] for n in program.graph.nodes if str(n.target) == "aten._assert_scalar.default"]
        # small ones, odd and even, find limits that a model states; BATCH is the one that the tracer computes with
        if all(_holds(condition, batch) for condition in conditions for batch in (*range(1, 65), BATCH)):
            return program
        raise


def _holds(condition: Any, batch: int) -> bool:
    """Whether a condition of an exported program on its batch is met by `batch` images."""
    value = condition.meta["val"] if isinstance(condition, torch.fx.Node) else condition
    if isinstance(value, bool):
        return value
    expression = value.node.expr
    return bool(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


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


# --- errors ---------------------------------------------------------------------------------------------------


def _untraceable(module: nn.Module, shape: tuple[int, ...], error: Exception) -> ModelError:
    """What torch.export says of a module, in the words of who wrote the module."""
    text = str(error).strip() or type(error).__name__
    if "Constraints violated" in text:
        reason = "it works only for some numbers of images"
        way_out = SOME_BATCHES
    elif "data-dependent" in text:
        reason = "it takes the value of an activation as a number, or branches on it"
        way_out = ON_VALUES
    else:
        reason = _without_jargon(text.splitlines()[0])
        way_out = ON_FAILURE
    images = "x".join(map(str, shape))
    line = raising_line(error) or forward_line(module)
    problem = f"torch.export cannot trace it for images of {images}: {reason}{in_brackets(line)}"
    return ModelError("model", problem, way_out)


def _without_jargon(message: str) -> str:
    """A message of torch.export without the words of torch's developers: "aten.add.default", sizes "s0"."""
    message = re.sub(r"(torch\.ops\.)?aten(\.|::)", "", message)
    message = re.sub(r"\b_*(\w+)\.default\b", r"the operation \1", message)
    return re.sub(r"\bs\d+\b", "batch", message)


def _refuse_state(exported: ExportedProgram) -> None:
    """ModelError for a model that changes its buffers, or that computes with tensors which are no parameters."""
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
            # torch's own name for a tensor that the forward pass makes says nothing to a user
            "model" if constant.startswith("lifted_tensor_") else constant,
            f"a tensor that is no parameter is baked into the model (the state of an earlier run?){in_brackets(line)}",
            "Reset the neurons before compiling (spikingjelly: functional.reset_net(model)), and make no tensors in "
            "the forward pass.",
        )
