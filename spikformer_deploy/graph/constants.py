"""Constants of a model: what it adds to activations (position embeddings), or multiplies them with (learnt scales).

A constant is a tensor until it meets an activation: layout operations and arithmetic of constants alone (weights that
are integers times a learnt step) are carried out as the model does.  Where it meets one, it is brought into the layout
(C, Y, X) of the activation's node: what is added is an Offset there, and a scale of channels a BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch

from spikformer_deploy.base.arrays import Float, Shape
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.attentions import settled
from spikformer_deploy.graph.axes import BATCH, Atom
from spikformer_deploy.graph.calls import Call, Handler, Product, Value, float64

RESHAPES = {f"aten.{n}" for n in ("unsqueeze", "squeeze", "reshape", "view", "flatten", "unflatten")}
PERMUTATIONS = {f"aten.{n}" for n in ("permute", "transpose", "t")}
UNCHANGED = {f"aten.{n}" for n in ("contiguous", "clone", "detach", "alias", "to")}
REPETITIONS = {f"aten.{n}" for n in ("expand", "repeat")}
ARITHMETIC: dict[str, Callable[..., torch.Tensor]] = {
    "aten.add": torch.add,
    "aten.sub": torch.sub,
    "aten.mul": torch.mul,
    "aten.div": torch.div,
    "aten.neg": torch.neg,
    "aten.abs": torch.abs,
    "aten.sqrt": torch.sqrt,
    "aten.reciprocal": torch.reciprocal,
    "aten.clamp": torch.clamp,
    "aten.floor": torch.floor,
    "aten.round": torch.round,
}
"""Operations that work element by element, and that are carried out where they read constants alone."""
MOST_VALUES = 2**26
"""Of a constant: a file may ask for any repetition, and for memory without end."""


def with_constants(handlers: Mapping[str, Handler]) -> dict[str, Handler]:
    """The same handlers of exported operations, and what layout operations and sums do to constants."""
    out = dict(handlers)
    for operation in RESHAPES | PERMUTATIONS | REPETITIONS | UNCHANGED:
        out[operation] = partial(_laid_out_or, handlers[operation], operation)
    for operation in ("aten.add", "aten.add_"):
        out[operation] = partial(_added_or, handlers[operation])
    for operation in ("aten.mul", "aten.mul_"):
        out[operation] = partial(_scaled_or, handlers[operation])
    return out


def computed(operation: str, call: Call) -> torch.Tensor | None:
    """The result of arithmetic of constants alone, in the type that the model has; None for all else."""
    function = ARITHMETIC.get(operation)
    tensors = [value for value in call.args if isinstance(value, torch.Tensor)]
    others = [value for value in call.args if not isinstance(value, (torch.Tensor, int, float, type(None)))]
    if function is None or not tensors or others:
        return None
    try:
        if prod(torch.broadcast_shapes(*(tensor.shape for tensor in tensors))) > MOST_VALUES:
            raise call.refuse("a constant of so many values is not supported", "Compute a smaller one.")
        result = function(*call.args)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise call.refuse(f"{call.what} of constants cannot be worked out ({str(error).splitlines()[0]})") from None
    if not bool(torch.isfinite(result).all()):
        raise call.refuse(f"{call.what} of constants gives NaN or infinite values")
    return result


def _laid_out_or(handler: Handler, operation: str, call: Call) -> Any:
    """A constant laid out anew, or what the handler makes of an activation."""
    tensor = call.args[0]
    if not isinstance(tensor, torch.Tensor):
        return handler(call)
    constant = laid_out(call, operation, tensor)
    return handler(call) if constant is None else constant


def _added_or(handler: Handler, call: Call) -> Any:
    """An activation plus a constant, in either order; or what the handler makes of two activations."""
    first, second = call.args[:2]
    if isinstance(second, Value) and not isinstance(first, Value):
        first, second = second, first
    if isinstance(first, Value) and isinstance(second, (torch.Tensor, int, float)):
        return added(call, first, second)
    return handler(call)


def _scaled_or(handler: Handler, call: Call) -> Any:
    """An activation times a constant, in either order; or what the handler makes of other factors."""
    first, second = call.args[:2]
    if isinstance(second, (Value, Product)) and isinstance(first, torch.Tensor):
        first, second = second, first
    if isinstance(second, torch.Tensor):
        first = settled(call, first)
    if isinstance(first, Value) and isinstance(second, torch.Tensor):
        return _scaled(call, first, second)
    return handler(call)


# --- layout of constants --------------------------------------------------------------------------------------


def laid_out(call: Call, operation: str, tensor: torch.Tensor) -> torch.Tensor | None:
    """A constant laid out anew; None where that is not what the operation does.

    Repeated over the batch, it stands there once: the same for all images.
    """
    # BATCH is prime: a size that it divides is one of the batch, alone or together with other axes
    sizes = tuple(extent // BATCH if extent % BATCH == 0 else extent for extent in call.shape)
    if prod(sizes) > MOST_VALUES:
        raise call.refuse(f"a constant of {prod(sizes):,} values is not supported", "Add a smaller one.")
    if operation in UNCHANGED:
        return tensor
    if operation in RESHAPES and prod(sizes) == tensor.numel():
        return tensor.reshape(sizes)
    if operation in PERMUTATIONS:
        return tensor.permute(_order(call, operation, tensor.ndim))
    if operation in REPETITIONS:
        return _repeated(tensor, sizes)
    return None


def _order(call: Call, operation: str, rank: int) -> list[int]:
    """Where a permutation takes each dimension from."""
    if operation == "aten.permute":
        return [dim % rank for dim in call.args[1]]
    order = list(range(rank))
    if order:  # a single number can be transposed, and stays what it is
        first, second = call.args[1:3] if operation == "aten.transpose" else (0, -1)
        order[first], order[second] = order[second], order[first]
    return order


def _repeated(tensor: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor | None:
    """A constant repeated to `sizes` along dimensions of one element; None where that does not give them."""
    aligned = (1,) * (len(sizes) - tensor.ndim) + tuple(tensor.shape)
    if all(old in (1, new) for old, new in zip(aligned, sizes, strict=True)):
        return tensor.reshape(aligned).expand(sizes)
    return None


# --- where they meet activations -----------------------------------------------------------------------------------


def added(call: Call, value: Value, constant: torch.Tensor | float) -> Value:
    """`value` plus a constant that is laid out as it is, the same in every image and time step."""
    offset = ir.Offset(_met(call, value, constant))
    return call.add(offset, (value.name,), call.node_shape(value), value.dims)


def _scaled(call: Call, value: Value, constant: torch.Tensor) -> Value:
    """`value` times a constant that is the same at all positions of a channel: a normalisation that only scales."""
    factors = _met(call, value, constant)
    by_channel = factors[:, 0, 0]
    if not (factors == by_channel[:, None, None]).all():
        raise call.refuse("a scale that differs between positions is not supported", "Scale channels.")
    zeros = frozen(np.zeros(len(by_channel)))
    op = ir.BatchNorm(frozen(by_channel), zeros, zeros, frozen(np.ones(len(by_channel))), 0.0)
    return call.add(op, (value.name,), call.node_shape(value), value.dims)


def _met(call: Call, value: Value, constant: torch.Tensor | float) -> Float:
    """(C, Y, X) of a constant that meets an activation, laid out as it is."""
    tensor = torch.as_tensor(constant, dtype=torch.float64)
    sizes = axes.sizes(value.dims)
    if tensor.ndim > len(sizes):
        raise _mismatch(call, value, tensor)
    tensor = tensor.reshape((1,) * (len(sizes) - tensor.ndim) + tuple(tensor.shape))
    for at, dim in enumerate(value.dims):
        # the third: a constant that was repeated over the batch stands there once (`laid_out`)
        if tensor.shape[at] not in (1, sizes[at], sizes[at] // BATCH):
            raise _mismatch(call, value, tensor)
        if tensor.shape[at] > 1 and axes.roles(dim) & {"T", "B"}:
            tensor = _once(call, tensor, at, dim)
    return _as_map(call, value, tensor)


def _mismatch(call: Call, value: Value, tensor: torch.Tensor) -> Exception:
    word = "sum" if call.what.startswith("add") else "product"
    return call.refuse(f"a {word} of {axes.show(value.dims)} and a constant of {tuple(tensor.shape)}")


def _once(call: Call, tensor: torch.Tensor, at: int, dim: axes.Dim) -> torch.Tensor:
    """One slice of a constant that repeats itself along dimension `at`: time steps and images."""
    first = tensor.narrow(at, 0, 1)
    if not axes.roles(dim) <= {"T", "B"} or not torch.equal(tensor, first.expand_as(tensor)):
        raise call.refuse(
            "a constant that differs from time step to time step is not supported",
            "Add the same constant in every step: neurons have one bias.",
        )
    return first


def _as_map(call: Call, value: Value, tensor: torch.Tensor) -> Float:
    """(C, Y, X) of a constant that broadcasts to the layout of `value`.

    The constant is cut into the atoms of the layout, those of each axis are put behind each other, and joined.
    """
    inside = [tuple(atom for atom in dim if atom.role in "CYX") for dim in value.dims]
    expanded = tensor.expand([axes.size(dim) for dim in inside])
    atoms = [atom for dim in inside for atom in dim]
    by_atom = expanded.reshape([atom.size for atom in atoms] or [1])
    # channels, rows, columns; within an axis the slowest atom first, as in the map's memory
    order = sorted(range(len(atoms)), key=lambda i: ("CYX".index(atoms[i].role), -atoms[i].stride))
    shape = call.node_shape(value)
    if not _complete([atoms[i] for i in order], shape):
        raise _mismatch(call, value, tensor)
    return frozen(float64(by_atom.permute(order) if order else by_atom).reshape(shape))


def _complete(atoms: list[Atom], shape: Shape) -> bool:
    """Whether atoms in order make up the whole axes of a value."""
    whole_axes = [axes.axis(role, extent) for role, extent in zip("CYX", shape, strict=True)]
    return axes.merged(tuple(atoms)) == tuple(atom for axis in whole_axes for atom in axis)
