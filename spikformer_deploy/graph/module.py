"""A float graph as a torch module with a child for every node: who looks at modules sees layers and neurons."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikformer_deploy.graph.execute import input_of, logits_of, value_of
from spikformer_deploy.graph.ir import Graph, Input, Lif, Node, Output
from spikformer_deploy.nn.lif import LIF


class Layer(nn.Module):
    """A node of a graph; its arrays are parameters in fp32.  Values are (T * B, C, Y, X)."""

    def __init__(self, node: Node, graph: Graph) -> None:
        super().__init__()
        self.node = node
        self.graph = graph
        for member in fields(node.op):
            value = getattr(node.op, member.name)
            if isinstance(value, np.ndarray):
                array = torch.tensor(value, dtype=torch.float32)
                self.register_parameter(member.name, nn.Parameter(array, requires_grad=False))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The value of the node."""
        arrays: dict[str, Any] = dict(self._parameters)
        return value_of(self.graph, replace(self.node, op=replace(self.node.op, **arrays)), list(inputs))


class Neurons(Layer, LIF):
    """A node of neurons."""


class GraphModule(nn.Module):
    """Normalised images (B, C, Y, X), or (B, T, C, Y, X) where the input is per step, to logits (B, classes).

    Its layers stand at the paths that their nodes have as names.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.layers = {
            node.name: (Neurons if isinstance(node.op, Lif) else Layer)(node, graph)
            for node in graph
            if not isinstance(node.op, (Input, Output))
        }
        for name, layer in self.layers.items():
            _place(self, name, layer)

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits, or those of the last time step."""
        values: dict[str, Tensor] = {}
        for node in self.graph:
            match node.op:
                case Input() as op:
                    values[node.name] = input_of(self.graph, images, op)
                case Output() as op:
                    steps = values[node.inputs[0]].unflatten(0, (self.graph.time_steps, len(images)))
                    return logits_of(steps, op)
                case _:
                    values[node.name] = self.layers[node.name](*(values[name] for name in node.inputs))
        raise AssertionError("a graph ends with its Output")


def _place(module: nn.Module, path: str, layer: nn.Module) -> None:
    """Make a layer the child of a module at a path, "block.0.attn"; a node may be a folder of others, too.

    Not by add_module: names of other formats may be those of attributes.
    """
    *folders, name = path.split(".")
    children = module._modules
    for folder in folders:
        children = children.setdefault(folder, nn.Module())._modules  # type: ignore[union-attr]
    before = children.get(name)
    if before is not None:
        layer._modules.update(before._modules)
    children[name] = layer
