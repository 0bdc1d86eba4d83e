"""Networks around one layer, from the float module to all executors: what tests of layers share."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph, Lif
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.nn.lif import LIF
from support.executions import assert_equal_executions

STEPS = 3


class Stepwise(nn.Module):
    """`layers` on (T * B, C, Y, X), or on (T * B, C, L) where maps have one row and `flat`; LIFs see (T, B, ...)."""

    def __init__(self, *layers: nn.Module, flat: bool = False) -> None:
        super().__init__()
        self.layers, self.flat = nn.ModuleList(layers), flat

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.transpose(0, 1).flatten(0, 1)
        x = x.flatten(2) if self.flat else x
        for layer in self.layers:
            x = by_step(layer, x) if isinstance(layer, LIF) else layer(x)
        return x.flatten(1).unflatten(0, (STEPS, frames.shape[0])).mean(0)


def by_step(lif: LIF, x: Tensor) -> Tensor:
    """A LIF of what all steps give in one batch."""
    return lif(x.reshape(STEPS, x.shape[0] // STEPS, *x.shape[1:])).flatten(0, 1)


def dyadic(module: nn.Module, seed: int) -> nn.Module:
    """`module` with weights and biases that need no rounding, under which neurons fire."""
    torch.manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            layer.weight.data = torch.randint(-3, 8, layer.weight.shape) / 8
            if layer.bias is not None:
                layer.bias.data = torch.randint(-2, 3, layer.bias.shape) / 8
    return module.eval()


def traced(module: nn.Module, shape: tuple[int, int, int]) -> Graph:
    """Its graph, for frames (B, T, C, Y, X)."""
    return check(trace(module, shape, time_steps=STEPS, per_step=True))


def compiled(
    module: nn.Module, shape: tuple[int, int, int], target: str = "loihi2", most: int = 1, mean: int = 0, **options: int
) -> Network:
    """The integer network of a module that takes frames of 0 to `most` less `mean`, cut into cores on the way."""
    return integers_of(traced(module, shape), target, most, mean, **options)


def integers_of(graph: Graph, target: str = "loihi2", most: int = 1, mean: int = 0, **options: int) -> Network:
    """As `compiled`, of a graph."""
    channels, height, width = graph.nodes[0].shape
    preprocess = Preprocess(channels, height, (mean / most,) * channels, (1 / most,) * channels, most, width)
    imported = Imported("test", graph, preprocess, (), "0" * 64, {}, ())
    program = sd.compile(imported, target=target, **options)
    network = getattr(program, "program", program).network
    assert isinstance(network, Network)
    check_network(network)
    return network


def frames_of(shape: tuple[int, int, int], seed: int, most: int = 1, count: int = 3) -> np.ndarray:
    """(N, T, C, Y, X) uint8."""
    return np.random.default_rng(seed).integers(0, most + 1, (count, STEPS, *shape)).astype(np.uint8)


def with_ties(module: nn.Module) -> nn.Module:
    """`module` with thresholds so little lower that a potential at the threshold fires, whatever thirds round to."""
    for layer in module.modules():
        if isinstance(layer, LIF):
            layer.v_threshold *= 1 - 2.0**-40
    return module


def graph_with_ties(graph: Graph) -> Graph:
    """The graph of `with_ties` of its module: an export takes far longer than all else that is done with it."""
    lifs = {
        node.name: replace(node, op=replace(node.op, v_threshold=node.op.v_threshold * (1 - 2.0**-40)))
        for node in graph
        if isinstance(node.op, Lif)
    }
    return check(Graph(tuple(lifs.get(node.name, node) for node in graph), graph.time_steps))


def assert_deployed(
    module: nn.Module, shape: tuple[int, int, int], seed: int, most: int = 1, mean: int = 0, **options: int
) -> Network:
    """The integer network gives every spike and the logits of the float module, in all executors alike.

    The weights of the module must need no rounding (`dyadic`).
    """
    frames = frames_of(shape, seed, most)
    real = torch.from_numpy(frames).double() - mean
    with torch.no_grad():
        wanted = with_ties(copy.deepcopy(module)).double()(real).numpy()
    graph = traced(module, shape)
    network = integers_of(graph, most=most, mean=mean, **options)
    assert network.exact
    spiking = [node.name for node in graph.of(Lif) if node.name in {p.name for p in network}]
    right = reference.execute(network, frames, record=spiking)
    spikes = execute(graph_with_ties(graph), real, dtype=torch.float64, record=set(spiking))
    for name in spiking:
        np.testing.assert_array_equal(right.spikes[name], spikes[name].numpy(), err_msg=name)
    scale = network.output.neuron.scale  # type: ignore[union-attr]
    np.testing.assert_allclose(right.accumulators * scale, wanted, atol=1e-6)
    assert_equal_executions(engine.execute(network, frames, record=spiking), right)
    np.testing.assert_array_equal(onnx_backend.execute(network, frames).accumulators, right.accumulators)
    return network
