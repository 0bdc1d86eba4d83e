"""Matrix products of exported models: two in a row, over channels and over tokens, are an attention.

A model writes (q k^T) v or q (k^T v), or the transpose of one of them, with channels before tokens.  The first product
is kept as a Product; the second one makes the node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import Dims, axis
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
    if left.dims[:-2] != right.dims[:-2] or left.dims[-1] != right.dims[-2]:
        raise call.refuse(f"the matrix product of {axes.show(left.dims)} and {axes.show(right.dims)} mixes axes")
    dims = (*left.dims[:-1], right.dims[-1])
    if isinstance(left, Value) and isinstance(right, Value):
        return _first_product(call, left, right, dims)
    return _second_product(call, left, right, dims)


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


def _second_product(call: Call, left: Value | Product, right: Value | Product, dims: Dims) -> Value:
    """The attention that a Product and a third factor make."""
    match left, right:
        case Product("scores"), Value():  # (q k^T) v
            return _attention(call, _Factors(left.left, left.right, right, left.factor), dims)
        case Value(), Product("memory"):  # q (k^T v)
            return _attention(call, _Factors(left, right.left, right.right, right.factor), dims)
        case Product("memory"), Value():  # (v^T k) q^T, the transpose of q (k^T v)
            factors = _Factors(_flipped(right), _flipped(left.right), _flipped(left.left), left.factor)
        case Value(), Product("scores"):  # v^T (k q^T), the transpose of (q k^T) v
            factors = _Factors(_flipped(right.right), _flipped(right.left), _flipped(left), right.factor)
        case _:
            raise call.refuse("three products in a row are no attention")
    attention = _attention(call, factors, (*dims[:-2], dims[-1], dims[-2]))
    return replace(attention, dims=dims)


def _flipped(value: Value) -> Value:
    """The transpose of a value: its last two dimensions change places."""
    return replace(value, dims=(*value.dims[:-2], value.dims[-1], value.dims[-2]))


def _attention(call: Call, factors: _Factors, dims: Dims) -> Value:
    """The node, laid out as `dims`; how many heads there are follows from the channels that the product runs over."""
    q = factors.q
    k = factors.k
    v = factors.v
    shapes = {call.node_shape(value) for value in (q, k, v)}
    if len(shapes) != 1:
        raise call.refuse("q, k and v of different shapes are not supported")
    ((channels, height, width),) = shapes
    per_head = axes.size(q.dims[-1])
    tokens = (*axis("Y", height), *axis("X", width))
    if q.dims[-2] != tokens or v.dims[-2] != tokens or channels % per_head or q.dims[-1] != v.dims[-1]:
        raise call.refuse(f"the attention over {axes.show(q.dims)} is not one of tokens and channels of a head")
    op = ir.Attention(channels // per_head, factors.scale)
    return call.add(op, (q.name, k.name, v.name), (channels, height, width), dims)


ATTENTIONS: dict[str, Handler] = {"aten.matmul": _matmul}
"""Exported operation -> handler."""
