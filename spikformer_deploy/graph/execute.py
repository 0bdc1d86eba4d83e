"""The float executor of a graph in torch: the reference with which the integers are compared."""

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
    Graph,
    Input,
    Lif,
    Linear,
    MaxPool2d,
    Mean,
    Node,
    Offset,
    Output,
    Scale,
    SpikeMask,
    TokenSum,
)
from spikformer_deploy.nn.lif import lif

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
    """The values of the nodes in `record` (default: every Lif) and of the Output, for normalised `images`.

    images   (B, C, Y, X), or (B, T, C, Y, X) where the input is per step
    returns  node name -> (B, T, C, Y, X) of `dtype` (spikes as uint8), and the Output's name -> (B, C)
    forced   spikes (B, T, C, Y, X) of some Lifs, that their readers see in place of what they computed: so each layer
             can be compared on equal inputs, and one flipped spike does not cascade
    Inside, time steps stand before images, as in the models, so that sums run in the same order.
    """
    wanted = {n.name for n in graph.of(Lif)} if record is None else set(record)
    last_reader = {i: node.name for node in graph for i in node.inputs}
    values: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    count = len(images)
    for node in graph:
        inputs = [values[i] for i in node.inputs]
        value = _input(graph, images.to(dtype), node.op) if isinstance(node.op, Input) else _value(graph, node, inputs)
        values[node.name] = value
        if isinstance(node.op, Output):
            steps = value.unflatten(0, (graph.time_steps, count))
            out[node.name] = (steps[-1] if node.op.last else steps.mean(0)).flatten(1)
        elif node.name in wanted:
            kept = value.to(torch.uint8) if isinstance(node.op, Lif) else value
            out[node.name] = kept.unflatten(0, (graph.time_steps, count)).transpose(0, 1).contiguous()
        if forced is not None and node.name in forced:
            values[node.name] = forced[node.name].transpose(0, 1).flatten(0, 1).to(dtype)
        for name in [i for i in node.inputs if last_reader[i] == node.name]:
            values.pop(name, None)
    return out


def _input(graph: Graph, images: Tensor, op: Input) -> Tensor:
    """(T * B, C, Y, X)."""
    frames = images.transpose(0, 1) if op.per_step else images.unsqueeze(0).expand(graph.time_steps, *images.shape)
    return frames.flatten(0, 1)


def _value(graph: Graph, node: Node, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    match node.op:
        case Input() | Output():
            return x
        case Conv2d(weight, bias, stride, padding, groups):
            return _convolved(x, _parameter(weight, x), _parameter(bias, x), stride, padding, groups)
        case Linear(weight, bias):
            tokens = F.linear(x.flatten(2).transpose(1, 2), _parameter(weight, x), _parameter(bias, x))
            return tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        case BatchNorm(gamma, beta, mean, var, eps):
            statistics, affine = [[_parameter(p, x) for p in pair] for pair in ((mean, var), (gamma, beta))]
            return F.batch_norm(x, statistics[0], statistics[1], affine[0], affine[1], False, 0.0, eps)
        case Lif(tau, v_threshold, decay_input, soft_reset, strict):
            by_step = x.unflatten(0, (graph.time_steps, -1))
            return lif(by_step, tau, v_threshold, decay_input, 4.0, soft_reset, strict).flatten(0, 1)
        case MaxPool2d(kernel, stride, padding, dilation, ceil_mode):
            return F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
        case AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor):
            return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)
        case AdaptiveAvgPool2d(size):
            return F.adaptive_avg_pool2d(x, size)
        case Add():
            return x + inputs[1]
        case Concat():
            return torch.cat(inputs, 1)
        case Offset(value):
            return x + _parameter(value, x)
        case Scale(factor):
            return x * factor
        case Attention(heads, scale):
            q, k, v = (i.flatten(2).unflatten(1, (heads, -1)) for i in inputs)
            return ((v @ k.transpose(2, 3)) @ q).flatten(1, 2).unflatten(2, x.shape[2:]) * scale
        case SpikeMask():
            return x * inputs[1].repeat_interleave(x.shape[1] // inputs[1].shape[1], 1)
        case TokenSum():
            return x.sum((2, 3), keepdim=True)
        case Mean():
            return x.mean((2, 3), keepdim=True)
        case _:
            assert_never(node.op)


def _convolved(x: Tensor, weight: Tensor, bias: Tensor, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """F.conv2d, but for strides between columns where there is one column: see synapses.without_idle_stride."""
    kernel = weight.shape[3]
    if stride[1] == 1 or (x.shape[3] + 2 * padding[1] - kernel) // stride[1] > 0:
        return F.conv2d(x, weight, bias, stride, padding, 1, groups)
    seen = x[..., : max(1, kernel - padding[1])]
    return F.conv2d(seen, weight, bias, (stride[0], 1), padding, 1, groups)[..., :1]


def _parameter(array: object, like: Tensor) -> Tensor:
    return torch.tensor(array, dtype=like.dtype)
