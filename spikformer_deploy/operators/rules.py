"""What each of torch's operators is, and the counts of one call: the tables that say what is understood.

Operators are those that remain when torch has taken composite ones apart: linear is addmm or mm, einsum is bmm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.counts.operations import Counted
from spikformer_deploy.operators.pairs import (
    absolute_over,
    convolved,
    element_by_element,
    nonzero_over,
    one_call,
    product,
    slots_of,
    sum_reached,
    weighted_sums,
)
from spikformer_deploy.operators.seen import Seen
from spikformer_deploy.operators.taps import Axis, adaptive_reach, reach


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operator.

    operator     its name, without namespace and overload: "convolution"
    arguments    by the names of its schema, defaults included
    activations  those of its operands that depend on the input of the model; others are weights and constants
    result       what it gave; None where counting comes first, as operators that write into their operands need it
    activation   whether a tensor is one
    spikes       whether it is what neurons or a threshold gave, moved at most
    seen         what an activation's values are
    zeros        whether any of the weights is 0
    """

    operator: str
    arguments: dict[str, Any]
    activations: list[Tensor]
    result: Any
    activation: Callable[[Any], bool]
    spikes: Callable[[Tensor], bool]
    seen: Callable[[Tensor], Seen]
    zeros: Callable[[Tensor], bool]

    @property
    def out(self) -> int:
        """Elements of the result, or of the first of several."""
        result = self.result if isinstance(self.result, Tensor) else self.result[0]
        return result.numel()


Found: TypeAlias = Iterator[tuple[str, Counted]]
"""Kinds of operation, and what each cost."""
Rule: TypeAlias = Callable[[Call], Found]


def _convolution(call: Call) -> Found:
    """aten::convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)."""
    a = call.arguments
    x, weight = a["input"], a["weight"]
    if call.activation(weight):
        yield "product", _convolved_by_activations(call)
        return
    bias_size = 0 if a["bias"] is None else a["bias"].numel()
    zeros = call.zeros(weight)
    yield "convolution", convolved(x, weight, call.seen(x), _axes(call), a["groups"], zeros, call.out, bias_size)


def _axes(call: Call) -> list[Axis]:
    """The dimensions of a convolution."""
    a = call.arguments
    dims = call.result.dim() - 2
    stride, padding, dilation = (_each(a[name], dims) for name in ("stride", "padding", "dilation"))
    sizes = [a["input"].shape[2:], call.result.shape[2:], a["weight"].shape[2:]]
    return [
        Axis(inputs, outputs, kernel, stride[d], padding[d], dilation[d], a["transposed"])
        for d, (inputs, outputs, kernel) in enumerate(zip(*sizes, strict=True))
    ]


def _convolved_by_activations(call: Call) -> Counted:
    """A convolution whose weights depend on the input: its pairs are the same convolution of masks."""
    a = call.arguments
    x, weight = a["input"], a["weight"]
    settings = [a[name] for name in ("stride", "padding", "dilation", "transposed", "output_padding", "groups")]

    def pairs(first: Tensor, second: Tensor) -> float:
        return float(torch.ops.aten.convolution(first.double(), second.double(), None, *settings).sum())

    first, second = call.seen(x), call.seen(weight)
    ones, ones_of_weight = torch.ones_like(x), torch.ones_like(weight)
    first_pairs = round(pairs(x != 0, ones_of_weight))
    return one_call(
        first,
        second,
        elements_out=call.out,
        dense=round(pairs(ones, ones_of_weight)),
        pairs=round(pairs(x != 0, weight != 0)),
        weighted=pairs(x.abs(), weight.abs()),
        first_pairs=first_pairs,
        second_pairs=round(pairs(ones, weight != 0)),
        slots=slots_of(first, first_pairs, pairs(x.abs(), ones_of_weight)),
    )


def bias_alone(operand: str, mean: float, out: int, size: int) -> Counted:
    """The additions of a bias that comes by itself, to the results of a call that is counted already.

    operand, mean  of that call's input: its class, and the mean of |value|
    out, size      elements of the result and of the bias
    """
    nothing = one_call(Seen(operand, 0, 0, 0.0, 0.0, 0.0), elements_out=0, dense=0, biases=out, bias_size=size)
    return replace(nothing, calls=0, biases_by_mean=mean * out, bias_size_by_mean=mean * size)


OPERANDS = {
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
    "_addmm_activation": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "addbmm": ("batch1", "batch2"),
    "mv": ("self", "vec"),
    "addmv": ("mat", "vec"),
    "dot": ("self", "tensor"),
    "vdot": ("self", "other"),
}
"""The two sides of each matrix product, by the names of its schema."""
ADDING = ("addmm", "_addmm_activation", "baddbmm", "addbmm", "addmv")
"""Those that add `self` to the product."""


def _matrix(call: Call) -> Found:
    """A matrix product: of two activations, or of one with weights on either side."""
    left, right = (call.arguments[name] for name in OPERANDS[call.operator])
    if call.operator.endswith("dot"):
        left = left.unsqueeze(0)
    if right.dim() == 1:
        right = right.unsqueeze(1)
    added = call.arguments["self"] if call.operator in ADDING and call.arguments["beta"] else None
    residual = call.activation(added)
    yield _sides(call, left, right, 0 if added is None or residual else added.numel())
    if added is not None and residual:
        yield "addition", _elements(added, call.out)


def _sides(call: Call, left: Tensor, right: Tensor, bias_size: int) -> tuple[str, Counted]:
    """Kind and counts of left (n, k) or (b, n, k) times right (k, m) or (b, k, m)."""
    a, b = (x if x.dim() == 3 else x.unsqueeze(0) for x in (left, right))
    if call.activation(left) and call.activation(right):
        counted = product(a, b, call.seen(left), call.seen(right))
        return "product", replace(counted, biases=call.out, bias_size=bias_size) if bias_size else counted
    if call.activation(left):
        return "linear", weighted_sums(a, b, call.seen(left), call.zeros(right), bias_size)
    # weights on the left: the sides change places
    return "linear", weighted_sums(b.mT, a.mT, call.seen(right), call.zeros(left), bias_size)


def _attention(call: Call) -> Found:
    """Scaled dot-product attention: scores q k^T, and their softmax p times v; p is never seen.

    Each allowed p is taken for a real that is not 0; those that a mask forbids are not counted, but in `dense`.
    """
    a = call.arguments
    q, k, v = (a[name] for name in ("query", "key", "value"))
    repeats = q.shape[-3] // k.shape[-3]
    k, v = (x.repeat_interleave(repeats, -3) if repeats > 1 else x for x in (k, v))
    q, k, v = (x.flatten(0, -3) for x in (q, k, v))
    yield "product", product(q, k.transpose(1, 2), call.seen(a["query"]), _repeated(call.seen(a["key"]), repeats))
    by_key = _readers(a, (a["query"].shape[0], q.shape[0], q.shape[1], k.shape[1]))
    by_value = nonzero_over(v, (2,), False)
    absolute = absolute_over(v, (2,))
    rows, keys, columns = q.shape[1], k.shape[1], v.shape[2]
    open_ = int(by_key.sum())
    by_key = by_key.reshape(-1, keys)
    yield (
        "product",
        one_call(
            Seen("real", q.shape[0] * rows * keys, open_, float(q.shape[0] * rows), 1.0, 0.0),
            _repeated(call.seen(a["value"]), repeats),
            elements_out=call.out,
            dense=q.shape[0] * rows * keys * columns,
            pairs=int((by_key * by_value).sum()),
            weighted=float((by_key * absolute).sum()) / max(1, keys),
            first_pairs=open_ * columns,
            second_pairs=int(by_value.sum()) * rows,
        ),
    )


def _repeated(seen: Seen, times: int) -> Seen:
    """Of an operand that several heads of the other one share: it meets each of them."""
    return replace(seen, elements=seen.elements * times, nonzero=seen.nonzero * times, total=seen.total * times)


def _readers(arguments: dict[str, Any], sizes: tuple[int, int, int, int]) -> Int:
    """(b, m) how many queries may look at key m; sizes: images, b = images * heads, n queries, m keys."""
    images, batch, rows, keys = sizes
    causal = np.ones((rows, keys), np.int64)
    if arguments.get("is_causal"):
        causal = np.tril(causal)
    mask = arguments.get("attn_mask", arguments.get("attn_bias"))
    if mask is None:
        return np.broadcast_to(causal.sum(0), (batch, keys))
    allowed = mask if mask.dtype == torch.bool else mask != -torch.inf
    return (allowed.to(torch.int64).cpu().numpy() * causal).sum(-2) + np.zeros(
        (images, batch // images, keys), np.int64
    )


def _plain(call: Call, x: Tensor, dense: int) -> Counted:
    """The counts of an activation alone, where no operand meets another."""
    seen = call.seen(x)
    return one_call(
        seen,
        elements_out=dense,
        dense=dense,
        pairs=seen.nonzero,
        weighted=seen.total,
        slots=slots_of(seen, seen.nonzero, seen.total),
    )


def _norm(call: Call) -> Found:
    """Normalization: each element once; its mean and variance are not counted."""
    x = call.arguments["input"]
    weight = call.arguments.get("weight")
    counted = _elements(x, x.numel())
    yield "norm", counted if weight is None else replace(counted, biases=x.numel(), bias_size=weight.numel())


def _pooling(call: Call) -> Found:
    """Average and maximum pooling: elements under windows, those of the padding apart."""
    a = call.arguments
    x = a["self"]
    dims = len(a["kernel_size"])
    names = ("kernel_size", "stride", "padding", "dilation")
    kernel, stride, padding, dilation = (_each(a.get(name), dims) for name in names)
    result = call.result if isinstance(call.result, Tensor) else call.result[0]
    axes = [
        Axis(*sizes)
        for sizes in zip(
            x.shape[-dims:], result.shape[-dims:], kernel, stride or kernel, padding or (0,) * dims,
            dilation or (1,) * dims, strict=True
        )
    ]  # fmt: skip
    yield "pooling", _windows(call, x, [reach(axis) for axis in axes], call.out * prod(kernel), prod(kernel))


def _each(setting: Any, dims: int) -> tuple[int, ...]:
    """A setting of windows for each dimension; empty where it is not given."""
    values = tuple(setting or ())
    return values * dims if len(values) == 1 else values


def _adaptive(call: Call) -> Found:
    """Adaptive pooling: windows of about n / m elements."""
    x = call.arguments["self"]
    result = call.result if isinstance(call.result, Tensor) else call.result[0]
    dims = len(call.arguments["output_size"])
    sizes = zip(x.shape[-dims:], result.shape[-dims:], strict=True)
    reaches = [adaptive_reach(*size) for size in sizes]
    outer = x.numel() // max(1, prod(x.shape[-dims:]))
    yield "pooling", _windows(call, x, reaches, outer * prod(int(r.sum()) for r in reaches), 0)


def _windows(call: Call, x: Tensor, reaches: list[Int], padded: int, window: int) -> Counted:
    """Counts of pooling x, where `reaches` says how many windows each position lies under."""
    seen = call.seen(x)
    dims = len(reaches)
    outer = tuple(range(x.dim() - dims))
    inner = x.numel() // max(1, prod(x.shape[x.dim() - dims :]))
    pairs = sum_reached(nonzero_over(x, outer, seen.operand == "binary"), reaches)
    weighted = float(sum_reached(absolute_over(x, outer), reaches))
    return one_call(
        seen,
        elements_out=call.out,
        weights=window,
        dense=inner * prod(int(r.sum()) for r in reaches),
        dense_padded=padded,
        pairs=pairs,
        weighted=weighted,
        slots=slots_of(seen, pairs, weighted),
    )


def _addition(call: Call) -> Found:
    """Of two activations, or of one and a constant, which is a scaling."""
    activations = call.activations
    yield "addition" if len(activations) > 1 else "scaling", _elements(activations[0], _broadcast(call))


def _multiplication(call: Call) -> Found:
    """Of two activations, or of one and a constant, which is a scaling.

    Values are looked at where spikes are multiplied, as gates and attentions do.
    """
    activations = call.activations
    out = _broadcast(call)
    if len(activations) < 2:
        yield "scaling", _elements(activations[0], out)
    elif any(call.spikes(x) for x in activations):
        a, b = activations[:2]
        yield "multiplication", element_by_element(a, b, call.seen(a), call.seen(b), out)
    else:
        yield "multiplication", _elements(activations[0], out)


def _broadcast(call: Call) -> int:
    """Elements of the result of an operator that works element by element."""
    if call.result is not None:
        return call.out
    return prod(torch.broadcast_shapes(*(v.shape for v in call.arguments.values() if isinstance(v, Tensor))))


def _elements(x: Tensor, out: int, nonzero_out: int = 0) -> Counted:
    """Counts of an operator that works on each element, whatever its value is: they are not looked at."""
    unseen = Seen("real", x.numel(), x.numel(), 0.0, 0.0, 0.0)
    return one_call(unseen, elements_out=out, dense=out, nonzero_out=nonzero_out)


def _function(call: Call) -> Found:
    """A function of each element."""
    result = call.result if isinstance(call.result, Tensor) else call.result[0]
    nonzero = int(result.count_nonzero()) if call.operator in RECTIFYING else 0
    yield "function", _elements(call.activations[0], call.out, nonzero)


def _reduction(call: Call) -> Found:
    """A sum, mean or maximum over dimensions: each element once."""
    x = call.activations[0]
    yield "reduction", replace(_elements(x, x.numel()), elements_out=call.out)


def _recurrent(call: Call) -> Found:
    """aten::mkldnn_rnn_layer: an LSTM's weights of the input, and those of its own output of the step before."""
    a = call.arguments
    hidden = torch.cat([a["hx_"].reshape(1, *call.result[0].shape[1:]), call.result[0][:-1]])
    if a["reverse"]:
        hidden = torch.cat([call.result[0][1:], a["hx_"].reshape(1, *call.result[0].shape[1:])])
    for x, weight, bias in ((a["input"], a["weight0"], a["weight2"]), (hidden, a["weight1"], a["weight3"])):
        seen = call.seen(x)
        flat = x.reshape(1, -1, x.shape[-1])
        yield "linear", weighted_sums(flat, weight.t().unsqueeze(0), seen, call.zeros(weight), bias.numel())


def unknown(call: Call) -> Found:
    """What has no rule: dense, by the shapes of its largest weights (outputs first), else an operation an element."""
    weights = [
        value
        for value in call.arguments.values()
        if isinstance(value, Tensor) and value.dim() > 1 and value.is_floating_point() and not call.activation(value)
    ]
    largest = max(weights, key=torch.Tensor.numel, default=None)
    inner = 1 if largest is None else largest.numel() // max(1, largest.shape[0])
    x = call.activations[0]
    seen = Seen("real", x.numel(), x.numel(), 0.0, 0.0, 0.0)
    size = 0 if largest is None else largest.numel()
    yield "unknown", one_call(seen, elements_out=call.out, dense=call.out * inner, weights=size)


ATTENTIONS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
WEIGHTED = frozenset(("convolution", *OPERANDS, *ATTENTIONS, "mkldnn_rnn_layer"))
"""Operators that have weights, or multiply activations as matrices: they count inside of neurons too."""
RECTIFYING = ("relu", "sigmoid", "threshold", "hardtanh")
"""Functions whose zeros are counted: tools take them for neurons of an ANN."""
REDUCTIONS = (
    "sum", "mean", "amax", "amin", "max", "min", "median", "prod", "cumsum", "cummax", "cummin", "nansum", "std", "var",
    "var_mean", "std_mean", "logsumexp", "linalg_vector_norm", "col2im",
)  # fmt: skip
FUNCTIONS = (
    "_softmax",
    "_safe_softmax",
    "_log_softmax",
    "softmax",
    "glu",
    "_prelu_kernel",
    "hardswish",
    "rrelu_with_noise",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
)
"""Functions of elements that torch does not mark as such; interpolations, an operation an output, are among them."""
ADDITIONS = ("add", "sub", "rsub", "lerp", "maximum", "minimum")
MULTIPLICATIONS = ("mul", "div", "floor_divide", "addcmul", "addcdiv")
RULES: dict[str, Rule] = {
    "convolution": _convolution,
    **dict.fromkeys(OPERANDS, _matrix),
    **dict.fromkeys(ATTENTIONS, _attention),
    **dict.fromkeys(
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "native_layer_norm",
            "native_group_norm",
            "_fused_rms_norm",
        ),
        _norm,
    ),
    **dict.fromkeys(
        ("avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "mkldnn_max_pool2d"),
        _pooling,
    ),
    **dict.fromkeys(
        ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive
    ),
    **dict.fromkeys(ADDITIONS, _addition),
    **dict.fromkeys(MULTIPLICATIONS, _multiplication),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(FUNCTIONS, _function),
    "mkldnn_rnn_layer": _recurrent,
}  # fmt: skip
"""By the operator's name, in place or not: aten::add_ is "add"."""

MOVING = frozenset((
    "_unsafe_view", "clone", "_to_copy", "copy", "cat", "stack", "constant_pad_nd", "reflection_pad1d",
    "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "repeat",
    "repeat_interleave", "roll", "flip", "index", "index_select", "index_put", "_unsafe_index", "_unsafe_index_put",
    "gather", "scatter", "take_along_dim", "embedding", "slice_scatter", "select_scatter",
    "diagonal_scatter", "as_strided", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk",
    "split_with_sizes_copy", "im2col", "tril", "triu", "masked_fill", "masked_select", "where", "sort",
    "topk", "argsort", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "lift_fresh", "lift_fresh_copy", "set_",
    "resize", "_reshape_alias", "_reshape_copy", "fill", "zero", "_local_scalar_dense", "unique", "_unique2",
    "nonzero", "rot90", "empty_strided", "max_unpool2d", "max_unpool3d", "_assert_async", "native_dropout", "dropout",
    "detach",
))  # fmt: skip
"""Operators that move values, choose among them or write them down, and compute none."""
FRESH = frozenset((
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros",
    "new_ones", "new_empty", "new_full", "new_empty_strided", "argmax", "argmin", "is_same_size",
))  # fmt: skip
"""Operators whose result has an operand's shape, not its values: it does not depend on the input."""
COMPARISONS = frozenset(("gt", "ge", "lt", "le", "heaviside"))
"""Operators that make 0 or 1 of reals: thresholds."""
ROUNDING = frozenset(("round", "floor", "ceil", "trunc"))
"""Operators that make whole numbers of reals."""
KEEPING_COMPARED = frozenset(("logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_not"))
"""Operators of which truth values stay what a threshold gave."""


def rule_of(name: str, pointwise: bool) -> Rule | None:
    """The rule of an operator that is no movement; None where it is not understood."""
    return RULES.get(name) or (_function if pointwise else None)
