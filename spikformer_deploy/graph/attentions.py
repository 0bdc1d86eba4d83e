"""Matrix products of exported models: two in a row, over channels and over tokens, are an attention.

A model writes (q k^T) v or q (k^T v), or the transpose of one of them, with channels before tokens.  The first product
is kept as a Product; the second one makes the node.  Where neurons stand between the two, each is a node of its own, a
dual spike transformation: `settled` makes the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import Atom, Dims, axis
from spikformer_deploy.graph.calls import Call, Handler, Product, Value


@dataclass(frozen=True, slots=True)
class _Factors:
    """The three inputs of an attention, laid out as (..., tokens, channels of a head), and the number before it."""

    q: Value
    k: Value
    v: Value
    scale: float


def _matmul(call: Call) -> Value | Product:
    """A product over the last dimension of the left and the last but one of the right factor; others are alike."""
    left, right = call.args[:2]
    if not isinstance(left, (Value, Product)) or not isinstance(right, (Value, Product)):
        raise call.refuse("a matrix product with a constant is not supported", "Use nn.Linear for learned weights.")
    if isinstance(left, Value) and isinstance(right, Value) and _is_over_positions(call, left, right):
        return _over_positions(call, left, right)
    if not _alike(left.dims[:-2], right.dims[:-2]) or left.dims[-1] != right.dims[-2]:
        raise call.refuse(f"the matrix product of {axes.show(left.dims)} and {axes.show(right.dims)} mixes axes")
    dims = (*left.dims[:-1], right.dims[-1])
    if isinstance(left, Value) and isinstance(right, Value):
        return _first_product(call, left, right, dims)
    return _second_product(call, left, right)


def _alike(left: Dims, right: Dims) -> bool:
    """Whether leading dimensions are the same but for how far heads lie apart: v may be wider than q and k."""
    return [[(a.role, a.size) for a in dim] for dim in left] == [[(a.role, a.size) for a in dim] for dim in right]


def _first_product(call: Call, left: Value, right: Value, dims: Dims) -> Product:
    """Half of an attention; of which kind it is, says the axis that the product runs over."""
    match _contracted(left):
        case "C":
            return Product("scores", left, right, 1.0, dims)
        case "Y" | "X":
            return Product("memory", left, right, 1.0, dims)
        case "T":
            raise call.refuse(
                "an attention over several time steps at once is not causal: each step needs keys and values of steps "
                "that have not come yet",
                "Attend within each step: of STAtten, that is a model of chunk_size 1.",
            )
        case _:
            raise call.refuse(f"the matrix product over {axes.show(left.dims)} is no part of an attention")


def _contracted(left: Value) -> str:
    """The role of the axis that a product with `left` runs over, its last dimension.

    One channel, or one token, has no axis.  Then the dimension before it tells: it is the other one of the two.
    """
    role = _role(left.dims[-1])
    other = _role(left.dims[-2])
    return role or ("Y" if other == "C" else "C")


def _role(dim: axes.Dim) -> str:
    return dim[0].role if dim else ""


def _second_product(call: Call, left: Value | Product, right: Value | Product) -> Value:
    """The attention that a Product and a third factor make."""
    match left, right:
        case Product("scores"), Value():  # (q k^T) v
            return _attention(call, _Factors(left.left, left.right, right, left.factor))
        case Value(), Product("memory"):  # q (k^T v)
            return _attention(call, _Factors(left, right.left, right.right, right.factor))
        case Product("memory"), Value():  # (v^T k) q^T, the transpose of q (k^T v)
            factors = _Factors(_flipped(right), _flipped(left.right), _flipped(left.left), left.factor)
        case Value(), Product("scores"):  # v^T (k q^T), the transpose of (q k^T) v
            factors = _Factors(_flipped(right.right), _flipped(right.left), _flipped(left), right.factor)
        case _:
            raise call.refuse("three products in a row are no attention")
    return _flipped(_attention(call, factors))


def _flipped(value: Value) -> Value:
    """The transpose of a value: its last two dimensions change places."""
    return replace(value, dims=(*value.dims[:-2], value.dims[-1], value.dims[-2]))


def _attention(call: Call, factors: _Factors) -> Value:
    """The node, laid out as (..., tokens, channels of a head).

    How many heads there are follows from the channels that the product runs over.
    """
    q = factors.q
    k = factors.k
    v = factors.v
    channels, height, width = call.node_shape(q)
    shape = call.node_shape(v)
    per_head = axes.size(q.dims[-1])
    tokens = (*axis("Y", height), *axis("X", width))
    if call.node_shape(k) != (channels, height, width) or shape[1:] != (height, width):
        raise call.refuse("q and k of different shapes, or v of other tokens, are not supported")
    heads = channels // per_head
    fits = q.dims[-2] == v.dims[-2] == tokens and heads * per_head == channels
    # k is a factor as it is, and may have its tokens last
    cuts = [_is_cut(q, heads, per_head), _is_cut(v, heads, shape[0] // heads)]
    cuts.append(_is_cut(k, heads, per_head) or _is_cut(_flipped(k), heads, per_head))
    if not (fits and all(cuts)):
        raise call.refuse(f"the attention over {axes.show(q.dims)} is not one of tokens and channels of a head")
    op = ir.Attention(heads, factors.scale)
    return call.add(op, (q.name, k.name, v.name), shape, (*v.dims[:-2], q.dims[-2], v.dims[-1]))


# --- with neurons between the products ------------------------------------------------------------------------------


def settled(call: Call, value: Any) -> Any:
    """A product of channels that neurons read, or that is scaled, as a node; every other value as it is.

    y^T s of y (..., channels of a head, M) and s (..., channels of a head, N): the M positions of y become channels.
    """
    if not (isinstance(value, Product) and value.kind == "scores"):
        return value
    y, spikes = value.left, value.right
    channels, height, width = call.node_shape(y)
    depth = axes.size(y.dims[-1])
    heads = channels // depth
    tokens = (*axis("Y", height), *axis("X", width))
    fits = y.dims[-2] == tokens and spikes.dims[-1] == _tokens(call, spikes) and heads * depth == channels
    fits = fits and call.node_shape(spikes)[0] == channels
    if not (fits and _is_cut(y, heads, depth) and _is_cut(_flipped(spikes), heads, depth)):
        raise call.refuse(f"the product of {axes.show(y.dims)} and {axes.show(spikes.dims)} is not one of each head")
    positions = height * width
    op = ir.DualSpike(heads, False, frozen(np.full(heads, value.factor)))
    shape = (heads * positions, *call.node_shape(spikes)[1:])
    leading = tuple(_regrouped(dim, positions) for dim in y.dims[:-2])
    return call.add(op, (y.name, spikes.name), shape, (*leading, axis("C", positions), spikes.dims[-1]))


def _is_over_positions(call: Call, y: Value, spikes: Value) -> bool:
    """Whether the positions of y meet channels of spikes, one for each of these positions in a head."""
    positions = axes.size(y.dims[-1])
    return (
        positions > 1
        and y.dims[-1] == _tokens(call, y)
        and spikes.dims[-2] == axis("C", positions)
        and spikes.dims[-1] == _tokens(call, spikes)
    )


def _over_positions(call: Call, y: Value, spikes: Value) -> Value:
    """The node y s of y (..., channels of a head, M) and s (..., M, N), laid out as (..., channels of a head, N)."""
    channels, height, width = call.node_shape(y)
    depth = axes.size(y.dims[-2])
    heads = channels // depth
    positions = height * width
    fits = heads * depth == channels and call.node_shape(spikes)[0] == heads * positions
    fits = fits and tuple(_regrouped(dim, positions) for dim in y.dims[:-2]) == spikes.dims[:-2]
    if not (fits and _is_cut(_flipped(y), heads, depth) and _is_cut(_flipped(spikes), heads, positions)):
        raise call.refuse(f"the product of {axes.show(y.dims)} and {axes.show(spikes.dims)} is not one of each head")
    op = ir.DualSpike(heads, True, frozen(np.ones(heads)))
    shape = (channels, *call.node_shape(spikes)[1:])
    return call.add(op, (y.name, spikes.name), shape, (*y.dims[:-1], spikes.dims[-1]))


def _tokens(call: Call, value: Value) -> axes.Dim:
    """All positions of a value in one dimension, row after row."""
    _, height, width = call.node_shape(value)
    return (*axis("Y", height), *axis("X", width))


def _regrouped(dim: axes.Dim, per_head: int) -> axes.Dim:
    """A dimension whose heads lie `per_head` channels apart."""
    return tuple(replace(atom, stride=per_head) if atom.role == "C" else atom for atom in dim)


def _is_cut(value: Value, heads: int, per_head: int) -> bool:
    """Whether the channels of a value are cut into equal, consecutive heads."""
    head = (Atom("C", heads, per_head),) if heads > 1 else ()
    others = [atom for dim in value.dims[:-2] for atom in dim if atom.role == "C"]
    return value.dims[-1] == axis("C", per_head) and tuple(others) == head


ATTENTIONS: dict[str, Handler] = {"aten.matmul": _matmul}
"""Exported operation -> handler."""
