"""Sums, products and means of exported models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import Atom, Dims, axis
from spikformer_deploy.graph.calls import Call, Handler, Product, Value

# --- element by element ---------------------------------------------------------------------------------------


def _add(call: Call) -> Value:
    """A sum of two activations of one layout."""
    left = call.value(0)
    right = call.value(1)
    if left.dims != right.dims or call.shape != axes.sizes(left.dims):
        raise call.refuse(f"a sum of {axes.show(left.dims)} and {axes.show(right.dims)} mixes axes")
    return call.add(ir.Add(), (left.name, right.name), call.node_shape(left), left.dims)


def _multiply(call: Call) -> Value | Product:
    """A product with a number, or a mask."""
    if len(call.args) == 2 and all(isinstance(factor, Value) for factor in call.args):
        return _mask(call, call.args[0], call.args[1])
    numbers = [factor for factor in call.args[:2] if isinstance(factor, (int, float))]
    if len(numbers) != 1:
        raise call.refuse("a product with something else than a number or spikes is not supported")
    other = call.args[1] if isinstance(call.args[0], (int, float)) else call.args[0]
    return _scaled(call, other, float(numbers[0]))


def _divide(call: Call) -> Value | Product:
    """A quotient with a number as divisor."""
    if not isinstance(call.args[1], (int, float)) or call.args[1] == 0:
        raise call.refuse("a division by something else than a constant is not supported")
    return _scaled(call, call.args[0], 1.0 / call.args[1])


def _scaled(call: Call, value: Any, factor: float) -> Value | Product:
    """A value times a number; half of an attention keeps the number until the attention is made."""
    if isinstance(value, Product):
        return replace(value, factor=value.factor * factor)
    if not isinstance(value, Value):
        raise call.refuse("arithmetic between constants is not supported")
    return call.add(ir.Scale(factor), (value.name,), call.node_shape(value), value.dims)


# --- masks ----------------------------------------------------------------------------------------------------


def _mask(call: Call, left: Value, right: Value) -> Value:
    """The product of two activations, one of which lacks some axes of the other: those that it masks alike."""
    for masked, mask in ((left, right), (right, left)):
        if _masks(call, mask, masked):
            return call.add(ir.SpikeMask(), (masked.name, mask.name), call.node_shape(masked), masked.dims)
    raise call.refuse(
        f"a product of {axes.show(left.dims)} and {axes.show(right.dims)} is no mask of channels or tokens",
        "A mask has the layout of the other factor, without some of its axes.",
    )


def _masks(call: Call, mask: Value, masked: Value) -> bool:
    """Whether each value of `mask` belongs to the values of `masked` that it is multiplied with."""
    shape = call.node_shape(masked)
    mask_shape = call.node_shape(mask)
    if call.shape != axes.sizes(masked.dims) or shape[0] % mask_shape[0]:
        return False
    mask_dims = ((),) * (len(masked.dims) - len(mask.dims)) + mask.dims
    return mask_dims == tuple(_coarser(dim, shape, mask_shape) for dim in masked.dims)


def _coarser(dim: axes.Dim, shape: Shape, coarse: Shape) -> axes.Dim:
    """What a dimension of a value of `shape` becomes in a value of shape `coarse`.

    There, one channel stands for several consecutive ones, or one position for all.
    """
    per_channel = shape[0] // coarse[0]
    kept = []
    for atom in dim:
        if atom.role == "C" and atom.stride >= per_channel:
            kept.append(Atom("C", atom.size, atom.stride // per_channel))
        elif atom.role not in "CYX" or (atom.role in "YX" and coarse[1:] == shape[1:]):
            kept.append(atom)
    return axes.merged(tuple(kept))


# --- means and sums over dimensions ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reduction:
    """What a mean or a sum runs over.

    numbers    of the dimensions: all of them where the model names none
    atoms      parts of axes that these dimensions hold
    dims       the layout of the result; `keepdim` leaves dimensions of one element
    is_whole   it runs over positions and time steps only, and over all of them or none
    """

    numbers: list[int]
    atoms: set[Atom]
    dims: Dims
    is_whole: bool

    def runs_over(self, *roles: str) -> bool:
        """Whether it runs over an axis of these roles; one of size 1 has no atoms, and nothing to add up."""
        return any(atom.role in roles for atom in self.atoms)


def _reduction(call: Call) -> _Reduction:
    """Arguments of means and sums: x, dimensions, keepdim."""
    value = call.value()
    rank = len(value.dims)
    stated = call.argument(1, [])
    over = stated if isinstance(stated, (list, tuple)) else [stated]
    numbers = {number % rank for number in over or range(rank)}
    keep = bool(call.argument(2, False))
    left = enumerate(value.dims)
    dims = tuple(() if number in numbers else dim for number, dim in left if keep or number not in numbers)
    atoms = {atom for number in numbers for atom in value.dims[number]}
    _, height, width = call.node_shape(value)
    positions = {*axis("Y", height), *axis("X", width)}
    time = {*axis("T", call.builder.time_steps)}
    is_whole = atoms <= positions | time and atoms & positions in (positions, set())
    return _Reduction(sorted(numbers), atoms, dims, is_whole)


def _mean(call: Call) -> Value:
    """A mean over all positions is a Mean.  One over all time steps makes no node: the Output averages over them.

    That moves the mean behind all layers that follow; readouts.py refuses those for which this is not the same.
    """
    value = call.value()
    reduction = _reduction(call)
    if not reduction.is_whole:
        raise call.refuse(
            f"a mean over dimensions {reduction.numbers} of {axes.show(value.dims)}: only whole time or all tokens"
        )
    if reduction.runs_over("Y", "X"):
        shape = (call.node_shape(value)[0], 1, 1)
        return call.add(ir.Mean(), (value.name,), shape, reduction.dims)
    return replace(value, dims=reduction.dims)


def _sum(call: Call) -> Value:
    """A sum over whole axes: all positions, all time steps, or the channels of each head."""
    value = call.value()
    reduction = _reduction(call)
    if not reduction.is_whole:
        return _sum_of_heads(call, value, reduction)
    if reduction.runs_over("Y", "X"):
        shape = (call.node_shape(value)[0], 1, 1)
        value = call.add(ir.TokenSum(), (value.name,), shape, reduction.dims)
    if reduction.runs_over("T"):
        # the Output takes the mean over the time steps, which is T times smaller
        factor = float(call.builder.time_steps)
        value = call.add(ir.Scale(factor), (value.name,), call.node_shape(value), reduction.dims)
    return replace(value, dims=reduction.dims)


def _sum_of_heads(call: Call, value: Value, reduction: _Reduction) -> Value:
    """A sum over the channels of each head: a convolution in groups, with weights of 1."""
    (atom,) = reduction.atoms if len(reduction.atoms) == 1 else (Atom("", 1),)
    if atom.role != "C" or atom.stride != 1:
        raise call.refuse(
            f"a sum over dimensions {reduction.numbers} of {axes.show(value.dims)}: only time, tokens or a head"
        )
    shape = call.node_shape(value)
    heads = shape[0] // atom.size
    ones = ir.Conv2d(frozen(np.ones((heads, atom.size, 1, 1))), frozen(np.zeros(heads)), groups=heads)
    by_head = (heads, *shape[1:])
    return call.add(ones, (value.name,), by_head, tuple(_coarser(dim, shape, by_head) for dim in reduction.dims))


ARITHMETIC: dict[str, Handler] = {
    "aten.add": _add,
    "aten.add_": _add,
    "aten.mul": _multiply,
    "aten.mul_": _multiply,
    "aten.div": _divide,
    "aten.mean": _mean,
    "aten.sum": _sum,
}
"""Exported operation -> handler.  A name that ends in _ changes its first argument in place, and returns it."""
