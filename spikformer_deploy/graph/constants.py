"""Constants of a model that are added to activations (position embeddings), and their layout until then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, TypeAlias

import torch

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import BATCH, Atom
from spikformer_deploy.graph.operations import Call, Value, float64

RESHAPES = {f"aten.{n}" for n in ("unsqueeze", "squeeze", "reshape", "view", "flatten", "unflatten")}
PERMUTATIONS = {f"aten.{n}" for n in ("permute", "transpose", "t")}
SAME = {f"aten.{n}" for n in ("contiguous", "clone", "detach", "alias", "to")}
REPETITIONS = {f"aten.{n}" for n in ("expand", "repeat")}
MOST_VALUES = 2**26
"""Of a constant: a file may ask for any repetition."""


Handler: TypeAlias = Callable[[Call], Any]


def with_constants(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """The same handlers of exported operations, and what layout operations and sums do to constants."""
    out = dict(handlers)
    for operation in RESHAPES | PERMUTATIONS | REPETITIONS | SAME:
        out[operation] = partial(_laid_out_or, handlers[operation], operation)
    for operation in ("aten.add", "aten.add_"):
        out[operation] = partial(_added_or, handlers[operation])
    return out


def _laid_out_or(handler: Handler, operation: str, call: Call) -> Any:
    """A constant laid out anew, or what the handler makes of an activation."""
    tensor = call.args[0]
    if not isinstance(tensor, torch.Tensor):
        return handler(call)
    found = laid_out(call, operation, tensor)
    return handler(call) if found is None else found


def _added_or(handler: Handler, call: Call) -> Any:
    first, second = call.args[:2]
    if isinstance(second, Value) and not isinstance(first, Value):
        first, second = second, first
    if isinstance(first, Value) and isinstance(second, (torch.Tensor, int, float)):
        return added(call, first, second)
    return handler(call)


def laid_out(call: Call, operation: str, tensor: torch.Tensor) -> torch.Tensor | None:
    """A constant laid out anew; None where that is not what the operation does.

    Repeated over the batch, it stands there once: the same for all images.
    """
    sizes = tuple(extent // BATCH if extent % BATCH == 0 else extent for extent in call.shape)
    if prod(sizes) > MOST_VALUES:
        raise call.refuse(f"a constant of {prod(sizes):,} values is not supported", "Add a smaller one.")
    if operation in SAME:
        return tensor
    if operation in RESHAPES and prod(sizes) == tensor.numel():
        return tensor.reshape(sizes)
    if operation in PERMUTATIONS:
        order = list(range(tensor.ndim))
        if operation == "aten.permute":
            order = [d % tensor.ndim for d in call.args[1]]
        elif order:
            first, second = call.args[1:3] if operation == "aten.transpose" else (0, -1)
            order[first], order[second] = order[second], order[first]
        return tensor.permute(order)
    if operation in REPETITIONS:
        old = (1,) * (len(sizes) - tensor.ndim) + tuple(tensor.shape)
        if all(a in (1, b) for a, b in zip(old, sizes, strict=True)):
            return tensor.reshape(old).expand(sizes)
    return None


def added(call: Call, value: Value, constant: torch.Tensor | float) -> Value:
    """`value` plus a constant that is laid out as it is, the same in every image and time step."""
    tensor = torch.as_tensor(constant, dtype=torch.float64)
    sizes = tuple(axes.size(dim) for dim in value.dims)
    if tensor.ndim > len(sizes):
        raise call.refuse(f"a sum of {axes.show(value.dims)} and a constant of {tuple(tensor.shape)}")
    tensor = tensor.reshape((1,) * (len(sizes) - tensor.ndim) + tuple(tensor.shape))
    for at, dim in enumerate(value.dims):
        if tensor.shape[at] not in (1, sizes[at], sizes[at] // BATCH):
            raise call.refuse(f"a sum of {axes.show(value.dims)} and a constant of {tuple(tensor.shape)}")
        if tensor.shape[at] > 1 and axes.roles(dim) & {"T", "B"}:
            tensor = _alike(call, tensor, at, dim)
    return call.add(ir.Offset(_as_map(call, value, tensor)), (value.name,), call.batch.shape(value.name), value.dims)


def _alike(call: Call, tensor: torch.Tensor, at: int, dim: axes.Dim) -> torch.Tensor:
    """One slice of a constant that repeats itself along dimension `at`: time steps and images."""
    first = tensor.narrow(at, 0, 1)
    if not axes.roles(dim) <= {"T", "B"} or not torch.equal(tensor, first.expand_as(tensor)):
        raise call.refuse(
            "a constant that differs from time step to time step is not supported",
            "Add the same constant in every step: neurons have one bias.",
        )
    return first


def _as_map(call: Call, value: Value, tensor: torch.Tensor) -> Float:
    """(C, Y, X) of a constant that broadcasts to the layout of `value`."""
    inside = [tuple(atom for atom in dim if atom.role in "CYX") for dim in value.dims]
    whole = tensor.expand([axes.size(dim) for dim in inside])
    atoms = [atom for dim in inside for atom in dim]
    order = sorted(range(len(atoms)), key=lambda i: ("CYX".index(atoms[i].role), -atoms[i].stride))
    ordered = whole.reshape([atom.size for atom in atoms] or [1])
    shape = call.batch.shape(value.name)
    if not _complete([atoms[i] for i in order], shape):
        raise call.refuse(f"a sum of {axes.show(value.dims)} and a constant of {tuple(tensor.shape)}")
    return frozen(float64(ordered.permute(order) if order else ordered).reshape(shape))


def _complete(atoms: list[Atom], shape: ir.Shape) -> bool:
    """Whether atoms in order make up the whole axes of a value."""
    return axes.merged(tuple(atoms)) == tuple(a for r, n in zip("CYX", shape, strict=True) for a in axes.axis(r, n))
