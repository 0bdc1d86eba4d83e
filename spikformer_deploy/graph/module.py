"""A float graph as a torch module with a child for every node: who looks at modules sees layers and neurons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import input_of, logits_of, value_of
from spikformer_deploy.graph.ir import (
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Graph,
    Input,
    Lif,
    Linear,
    MaxPool2d,
    Node,
    Offset,
    Output,
)
from spikformer_deploy.graph.neurons import fire
from spikformer_deploy.nn import levels
from spikformer_deploy.nn.lif import LIF


class Neurons(LIF):
    """A node of neurons: (T, B, C, Y, X) currents to spikes."""

    def __init__(self, op: Lif) -> None:
        super().__init__(op.tau, op.v_threshold, op.decay_input, soft_reset=op.soft_reset)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """Spikes; above the threshold only, where the node is strict."""
        return fire(self.op, x)


class Levels(levels.Levels):
    """A node of integer neurons: (T, B, C, Y, X) currents to small integers."""

    def __init__(self, op: ir.Levels) -> None:
        super().__init__(op.count, op.threshold, op.keep, op.half_even)


class Function(nn.Module):
    """A node that is none of torch's layers, on values (T * B, C, Y, X)."""

    def __init__(self, node: Node, graph: Graph) -> None:
        super().__init__()
        self.node = node
        self.graph = graph

    def forward(self, *inputs: Tensor) -> Tensor:
        """Its equation (ir.py)."""
        return value_of(self.graph, self.node, list(inputs))


class Added(nn.Module):
    """A node that adds a constant."""

    def __init__(self, value: Float) -> None:
        super().__init__()
        self.value = _parameter(value)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.value


class GraphModule(nn.Module):
    """Normalised images (B, C, Y, X), or (B, T, C, Y, X) where the input is per step, to logits (B, classes).

    In evaluation mode and fp32.  Its layers are torch's own, and stand at the paths that their nodes have as names.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.layers = {node.name: _layer(node, graph) for node in graph if not isinstance(node.op, (Input, Output))}
        for name, layer in self.layers.items():
            _place(self, name, layer)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits, or those of the last time step."""
        values: dict[str, Tensor] = {}
        by_step = (self.graph.time_steps, len(images))
        for node in self.graph:
            inputs = [values[name] for name in node.inputs]
            match node.op:
                case Input() as op:
                    values[node.name] = input_of(self.graph, images, op)
                case Output() as op:
                    return logits_of(inputs[0].unflatten(0, by_step), op)
                case Lif() | ir.Levels():
                    values[node.name] = self.layers[node.name](inputs[0].unflatten(0, by_step)).flatten(0, 1)
                case Linear():
                    # torch's linear layers run over the last dimension
                    tokens = self.layers[node.name](inputs[0].flatten(2).transpose(1, 2))
                    values[node.name] = tokens.transpose(1, 2).unflatten(2, inputs[0].shape[2:])
                case _:
                    values[node.name] = self.layers[node.name](*inputs)
        raise AssertionError("a graph ends with its Output")


def _layer(node: Node, graph: Graph) -> nn.Module:
    """The module of a node."""
    match node.op:
        case Conv2d(weight, bias, stride, padding, groups):
            channels = weight.shape[1] * groups
            of_torch: nn.Module = nn.Conv2d(channels, len(weight), weight.shape[2:], stride, padding, 1, groups)
            return _filled(of_torch, weight=weight, bias=bias if bias.any() else None)
        case Linear(weight, bias):
            return _filled(nn.Linear(*weight.shape[::-1]), weight=weight, bias=bias if bias.any() else None)
        case BatchNorm() as op:
            norm = nn.BatchNorm2d(len(op.gamma), op.eps)
            norm.running_mean = torch.tensor(op.mean, dtype=torch.float32)
            norm.running_var = torch.tensor(op.var, dtype=torch.float32)
            return _filled(norm, weight=op.gamma, bias=op.beta)
        case MaxPool2d(kernel, stride, padding, dilation, ceil_mode):
            return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
        case AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor):
            return nn.AvgPool2d(kernel, stride, padding, ceil_mode, count_include_pad, divisor)
        case AdaptiveAvgPool2d(size):
            return nn.AdaptiveAvgPool2d(size)
        case Offset(value):
            return Added(value)
        case Lif() as op:
            return Neurons(op)
        case ir.Levels() as op:
            return Levels(op)
        case _:
            return Function(node, graph)


def _filled(layer: nn.Module, **arrays: Float | None) -> nn.Module:
    """A layer with these parameters."""
    for name, array in arrays.items():
        layer.register_parameter(name, None if array is None else _parameter(array))
    return layer


def _parameter(array: Float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(array, dtype=torch.float32), requires_grad=False)


def _place(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Make a layer the child of a module at a path, "block.0.attn"; a node may be a folder of others, too.

    Not by add_module: names of other formats may be those of attributes.
    """
    *folders, name = path.split(".")
    children: dict[str, Any] = module._modules
    for folder in folders:
        children = children.setdefault(folder, nn.Module())._modules
    before = children.get(name)
    if before is not None:
        layer._modules.update(before._modules)
    children[name] = layer
