"""Exact counts of pairs, without ever making them: sums of the operands, times what each element meets.

All functions take tensors and give a Counted of one call.  Masks and sums are as large as an operand at most.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.counts.operations import Counted
from spikformer_deploy.operators.seen import Seen, exact_sum_of
from spikformer_deploy.operators.taps import Axis, by_tap, reach


def one_call(seen: Seen, other: Seen | None = None, **fields: Any) -> Counted:
    """A Counted of one call on an operand `seen`, and on a second one, with what follows from them alone filled in."""
    dense, padded = fields["dense"], fields.setdefault("dense_padded", fields["dense"])
    pairs = fields.setdefault("pairs", dense)
    fields.setdefault("effective", pairs)
    fields.setdefault("weighted", 0.0)
    fields.setdefault("slots", 0.0)
    if other is not None:
        fields |= {
            "elements_other": other.elements,
            "nonzero_other": other.nonzero,
            "sum_other": other.total,
            "by_rate_other": other.rate * padded,
            "by_rate_smaller": min(seen.rate, other.rate) * padded,
            "fewer_pairs": min(fields["first_pairs"], fields["second_pairs"]),
        }
    return Counted(
        operand=seen.operand,
        other=None if other is None else other.operand,
        calls=1,
        elements_in=seen.elements,
        nonzero_in=seen.nonzero,
        sum_in=seen.total,
        by_rate=seen.rate * padded,
        by_mean=seen.mean * padded,
        biases_by_mean=seen.mean * fields.get("biases", 0),
        bias_size_by_mean=seen.mean * fields.get("bias_size", 0),
        **fields,
    )


def nonzero_over(x: Tensor, dims: tuple[int, ...], binary: bool) -> Int:
    """How many elements of x over `dims` are not 0, for each index of the rest; binary: x is known to be."""
    kind = exact_sum_of(prod(x.shape[dim] for dim in dims))
    mask = x if binary else (x != 0).to(kind)
    return mask.sum(dims, dtype=kind).to(torch.int64).cpu().numpy()


def absolute_over(x: Tensor, dims: tuple[int, ...]) -> Float:
    """Sum of |x| over `dims` for each index of the rest, in double precision."""
    return x.abs().sum(dims, dtype=torch.float64).cpu().numpy()


def slots_of(seen: Seen, pairs: int, weighted: float) -> float:
    """Unary spikes over `pairs`: see Counted.slots."""
    if seen.operand == "binary":
        return float(pairs)
    if seen.unit:
        return weighted / seen.unit
    return 0.0 if seen.operand == "real" else float(pairs)


def convolved(
    x: Tensor, weight: Tensor, seen: Seen, axes: list[Axis], groups: int, zeros: bool, out: int, bias_size: int
) -> Counted:
    """A convolution of x (B, C, positions...) with weights; transposed where its axes are.

    zeros      whether any weight is 0
    out        elements of the output
    bias_size  elements of the bias; 0 where there is none
    """
    transposed = axes[0].transposed
    fan_out = weight.shape[1] if transposed else weight.shape[0] // groups
    taps = prod(axis.kernel for axis in axes)
    batch, channels = x.shape[:2]
    reaches = [reach(axis) for axis in axes]
    padded = x.numel() * fan_out * taps if transposed else out * weight.shape[1] * taps
    binary = seen.operand == "binary"
    if zeros:
        by_channel = nonzero_over(x, (0,), binary)
        pairs, effective = _with_zero_weights(by_channel, weight, axes, reaches, groups)
    else:
        pairs = effective = fan_out * sum_reached(nonzero_over(x, (0, 1), binary), reaches)
    weighted = float(pairs) if binary else fan_out * float(sum_reached(absolute_over(x, (0, 1)), reaches))
    return one_call(
        seen,
        elements_out=out,
        rows=batch,
        weights=weight.numel(),
        biases=out if bias_size else 0,
        bias_size=bias_size,
        dense=batch * channels * fan_out * prod(int(r.sum()) for r in reaches),
        dense_padded=padded,
        pairs=pairs,
        effective=effective,
        weighted=weighted,
        slots=slots_of(seen, pairs, weighted),
    )


def sum_reached(sums: Any, reaches: list[Int]) -> Any:
    """Sum over all positions of what is there times the outputs that it meets; whole numbers stay whole."""
    for reached in reversed(reaches):
        sums = sums @ reached
    return sums.item()


def _with_zero_weights(
    counts: Int, weight: Tensor, axes: list[Axis], reaches: list[Int], groups: int
) -> tuple[int, int]:
    """Pairs, and those whose weight is not 0, of `counts` (C, positions...) elements that are not 0."""
    channels = counts.shape[0]
    mask = weight != 0
    if axes[0].transposed:
        fan_out, useful = weight.shape[1], mask.sum(1)
    else:
        fan_out = weight.shape[0] // groups
        useful = mask.unflatten(0, (groups, fan_out)).sum(1).flatten(0, 1)
    pairs = fan_out * sum_reached(counts.sum(0), reaches)
    by_weight = useful.reshape(channels, -1).cpu().numpy()
    return pairs, int((by_tap(counts, axes).reshape(channels, -1) * by_weight).sum())


def weighted_sums(x: Tensor, weight: Tensor, seen: Seen, zeros: bool, bias_size: int) -> Counted:
    """A matrix product of an activation x (b, n, k) with weights (b, k, m), and the bias that is added in one.

    Both may be views in any order: the sides of a product are alike, and weights on the left are transposed to here.
    """
    fan_out = weight.shape[-1]
    pairs = effective = seen.nonzero * fan_out
    if zeros:
        features = nonzero_over(x, (1,), seen.operand == "binary")
        effective = int((features * nonzero_over(weight, (2,), False)).sum())
    weighted = seen.total * fan_out
    out = x.shape[0] * x.shape[1] * fan_out
    return one_call(
        seen,
        elements_out=out,
        rows=x.shape[0] * x.shape[1],
        weights=_held(weight),
        biases=out if bias_size else 0,
        bias_size=bias_size,
        dense=seen.elements * fan_out,
        pairs=pairs,
        effective=effective,
        weighted=weighted,
        slots=slots_of(seen, pairs, weighted),
    )


def _held(weight: Tensor) -> int:
    """Elements of a weight: those that are repeated by a view count once."""
    return prod(size for size, stride in zip(weight.shape, weight.stride(), strict=True) if stride)


def product(a: Tensor, b: Tensor, first: Seen, second: Seen) -> Counted:
    """A matrix product of two activations a (b, n, k) and b (b, k, m)."""
    batch, rows, inner = a.shape
    columns = b.shape[-1]
    left = nonzero_over(a, (1,), first.operand == "binary")
    right = nonzero_over(b, (2,), second.operand == "binary")
    pairs = int((left * right).sum())
    if first.operand == second.operand == "binary":
        weighted = float(pairs)
    else:
        weighted = float((absolute_over(a, (1,)) * absolute_over(b, (2,))).sum())
    first_pairs = first.nonzero * columns
    return one_call(
        first,
        second,
        elements_out=batch * rows * columns,
        dense=batch * rows * inner * columns,
        pairs=pairs,
        weighted=weighted,
        first_pairs=first_pairs,
        second_pairs=second.nonzero * rows,
        slots=slots_of(first, first_pairs, first.total * columns),
    )


def element_by_element(a: Tensor, b: Tensor, first: Seen, second: Seen, out: int) -> Counted:
    """A multiplication of two activations that are broadcast to `out` elements."""
    repeats, repeats_of_second = (out // max(1, seen.elements) for seen in (first, second))
    pairs = int(((a != 0) & (b != 0)).count_nonzero())
    binary = first.operand == second.operand == "binary"
    weighted = float(pairs) if binary else float((a * b).abs().sum(dtype=torch.float64))
    first_pairs = first.nonzero * repeats
    return one_call(
        first,
        second,
        elements_out=out,
        dense=out,
        pairs=pairs,
        weighted=weighted,
        first_pairs=first_pairs,
        second_pairs=second.nonzero * repeats_of_second,
        slots=slots_of(first, first_pairs, first.total * repeats),
    )
