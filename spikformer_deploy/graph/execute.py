"""The float executor of a graph in torch: the reference with which the integers are compared.

Inside, a value is a tensor (T * B, C, Y, X), with time steps before images as in the models.  So every sum runs in the
order in which the model's own runs, and rounds as it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch
from torch.nn import functional as F
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Pair
from spikformer_deploy.graph.ir import (
    AdaptiveAvgPool2d,
    Add,
    Attention,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    DualSpike,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Mean,
    Neuron,
    Node,
    Offset,
    Output,
    Scale,
    SpikeMask,
    TokenPool,
    TokenSum,
)
from spikformer_deploy.graph.neurons import fire

Tensor = torch.Tensor


@torch.inference_mode()
def execute(
    graph: Graph,
    images: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    record: Set[str] | None = None,
    forced: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The values of the nodes in `record` (default: all neurons) and of the Output, for normalised `images`.

    images    (B, C, Y, X), or (B, T, C, Y, X) where the input is per step
    dtype     of all sums
    forced    spikes (B, T, C, Y, X) of some neurons, that their readers see in place of what they computed: so each
              layer can be compared on equal inputs, and one flipped spike does not cascade
    returns   node name -> (B, T, C, Y, X) of `dtype` (spikes as uint8), and the Output's name -> (B, C)
    """
    recorded = {n.name for n in graph.of(Neuron)} if record is None else set(record)
    last_reader = {name: node.name for node in graph for name in node.inputs}
    values: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    by_step = (graph.time_steps, len(images))
    for node in graph:
        inputs = [values[name] for name in node.inputs]
        value = (
            input_of(graph, images.to(dtype), node.op) if isinstance(node.op, Input) else value_of(graph, node, inputs)
        )
        values[node.name] = value
        if isinstance(node.op, Output):
            out[node.name] = logits_of(value.unflatten(0, by_step), node.op)
        elif node.name in recorded:
            kept = value.to(torch.uint8) if isinstance(node.op, Neuron) else value
            out[node.name] = kept.unflatten(0, by_step).transpose(0, 1).contiguous()
        if forced is not None and node.name in forced:
            values[node.name] = forced[node.name].transpose(0, 1).flatten(0, 1).to(dtype)
        # values of all time steps are large: each goes as soon as its last reader has read it
        for name in node.inputs:
            if last_reader[name] == node.name:
                values.pop(name, None)
    return out


def logits_of(steps: Tensor, op: Output) -> Tensor:
    """(B, classes) of what the Output reads, (T, B, C, Y, X)."""
    return (steps[-1] if op.last else steps.mean(0)).flatten(1)


def input_of(graph: Graph, images: Tensor, op: Input) -> Tensor:
    """The image or the frame of every time step, (T * B, C, Y, X)."""
    frames = images.transpose(0, 1) if op.per_step else images.unsqueeze(0).expand(graph.time_steps, *images.shape)
    return frames.flatten(0, 1)


def value_of(graph: Graph, node: Node, inputs: list[Tensor]) -> Tensor:
    """What the operation of `node` makes of the values of its inputs (ir.py has the equations)."""
    x = inputs[0]
    op = node.op
    if isinstance(op, Neuron):
        return fire(op, x.unflatten(0, (graph.time_steps, -1))).flatten(0, 1)
    match op:
        case Input() | Output():
            return x
        case Conv2d(weight, bias, stride, padding, groups):
            return _convolved(x, _parameter(weight, x), _parameter(bias, x), stride, padding, groups)
        case Linear(weight, bias):
            # torch's linear layers run over the last dimension
            tokens = F.linear(x.flatten(2).transpose(1, 2), _parameter(weight, x), _parameter(bias, x))
            return tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        case BatchNorm():
            return _normalised(x, op)
        case MaxPool2d(kernel, stride, padding, dilation, ceil_mode):
            return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
        case AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor):
            return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
        case AdaptiveAvgPool2d(size):
            return F.adaptive_avg_pool2d(x, size)
        case TokenPool(heads, tokens, channels):
            # (T * B, heads, channels of a head, tokens)
            by_head = x.flatten(2).unflatten(1, (heads, -1))
            pooled = F.max_pool2d(by_head, (channels, tokens), 1, (channels // 2, tokens // 2))
            return pooled.flatten(1, 2).unflatten(2, x.shape[2:])
        case Add():
            return x + inputs[1]
        case Concat():
            return torch.cat(inputs, 1)
        case Offset(value):
            return x + _parameter(value, x)
        case Scale(factor):
            return x * factor
        case Attention(heads, scale):
            # (T * B, heads, channels of a head, tokens)
            q, k, v = [value.flatten(2).unflatten(1, (heads, -1)) for value in inputs]
            return ((v @ k.transpose(2, 3)) @ q).flatten(1, 2).unflatten(2, x.shape[2:]) * scale
        case DualSpike(heads, over_tokens, scale):
            # (T * B, heads, channels of a head, positions)
            y, spikes = [value.flatten(2).unflatten(1, (heads, -1)) for value in inputs]
            product = (y if over_tokens else y.transpose(2, 3)) @ spikes
            factors = _parameter(scale, x).reshape(-1, 1, 1)
            return (product * factors).flatten(1, 2).unflatten(2, inputs[1].shape[2:])
        case SpikeMask():
            mask = inputs[1]
            return x * mask.repeat_interleave(x.shape[1] // mask.shape[1], 1)
        case TokenSum():
            return x.sum((2, 3), keepdim=True)
        case Mean():
            return x.mean((2, 3), keepdim=True)
        case _:
            assert_never(op)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """F.conv2d, but for a stride between columns where it makes only one column.

    oneDNN (of torch 2.13, at least) gives other sums there, if a group has one input channel.  The same sums come from
    a stride of 1 over the columns that the only window sees.
    """
    kernel = weight.shape[3]
    if stride[1] == 1 or (x.shape[3] + 2 * padding[1] - kernel) // stride[1] > 0:
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)
    seen = x[..., : max(1, kernel - padding[1])]
    return F.conv2d(seen, weight, bias, (stride[0], 1), padding, 1, groups)[..., :1]


def _normalised(x: Tensor, norm: BatchNorm) -> Tensor:
    return F.batch_norm(
        x,
        running_mean=_parameter(norm.mean, x),
        running_var=_parameter(norm.var, x),
        weight=_parameter(norm.gamma, x),
        bias=_parameter(norm.beta, x),
        training=False,
        momentum=0.0,  # of the statistics, which do not move
        eps=norm.eps,
    )


def _parameter(array: object, like: Tensor) -> Tensor:
    """A parameter of the graph, rounded to the type of `like`."""
    return torch.tensor(array, dtype=like.dtype)
