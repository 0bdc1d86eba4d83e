"""Float chains of convolutions, pooling, linear layers and LIF neurons, as graphs."""

from __future__ import annotations

from math import inf

import numpy as np
import torch

from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.ir import (
    Attention,
    AvgPool2d,
    Conv2d,
    Graph,
    Input,
    Levels,
    Lif,
    Linear,
    Mean,
    Node,
    Output,
)
from spikformer_deploy.graph.law import check


def chain(seed: int, *, dyadic: bool) -> Graph:
    """Frames (2, 8, 6), T = 3; three of seven neurons have other forms than the usual.

    dyadic  weights are multiples of 1/16 and tau is 2, so that sums and potentials are exact in fp32
    """
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray:
        values = rng.normal(0.15, 0.5, shape)
        return frozen(np.rint(values * 16) / 16 if dyadic else values)

    tau = 2.0 if dyadic else float(rng.choice([1.5, 3.0, 1.1]))
    # an exact half of an odd sum has one bit more in every step, and T is 3
    neurons = [Lif(tau, 1.0, False), Lif(tau, 0.5, True), Lif(tau, 1.0, True)]
    if not dyadic:
        neurons[seed % 3] = Lif(inf, 0.7, False)
    nodes = (
        Node("input", Input(True), (), (2, 8, 6)),
        Node("conv1", Conv2d(weights(4, 2, 3, 3), weights(4), (1, 1), (1, 1)), ("input",), (4, 8, 6)),
        Node("lif1", neurons[0], ("conv1",), (4, 8, 6)),
        Node("pool", AvgPool2d((2, 2), (2, 2)), ("lif1",), (4, 4, 3)),
        Node("conv2", Conv2d(weights(6, 4, 3, 3), weights(6), (2, 1), (1, 1)), ("pool",), (6, 2, 3)),
        Node("lif2", neurons[1], ("conv2",), (6, 2, 3)),
        Node("fc1", Conv2d(weights(5, 6, 2, 3), weights(5)), ("lif2",), (5, 1, 1)),
        Node("lif3", neurons[2], ("fc1",), (5, 1, 1)),
        Node("fc2", Linear(weights(3, 5), weights(3)), ("lif3",), (3, 1, 1)),
        Node("lif4", Lif(tau, 0.25, True), ("fc2",), (3, 1, 1)),
        Node("output", Output(), ("lif4",), (3, 1, 1)),
    )
    return check(Graph(nodes, 3))


def graded_graph(seed: int) -> Graph:
    """Frames (2, 3, 4), T = 3: integer neurons around an attention of heads of 2, and 3 times 2 channels in v.

    Weights, thresholds and what is kept are such that sums and potentials are exact in fp32, and ties are many.
    """
    rng = np.random.default_rng(seed)

    def conv(channels: int, inputs: int) -> Conv2d:
        return Conv2d(
            frozen(rng.integers(-6, 9, (channels, inputs, 1, 1)) / 8), frozen(rng.integers(-4, 5, channels) / 8)
        )

    def levels() -> Levels:
        threshold, keep = float(rng.choice([0.25, 0.5, 1.0])), float(rng.choice([0.0, 0.25, 0.5, 1.0]))
        return Levels(int(rng.integers(1, 9)), threshold, keep, bool(rng.random() < 0.5))

    nodes = [Node("input", Input(True), (), (2, 3, 4))]

    def add(name: str, channels: int, source: str, inputs: int) -> None:
        nodes.append(Node(f"{name}.conv", conv(channels, inputs), (source,), (channels, 3, 4)))
        nodes.append(Node(name, levels(), (f"{name}.conv",), (channels, 3, 4)))

    add("head", 4, "input", 2)
    for name, channels in (("q", 4), ("k", 4), ("v", 12)):
        add(name, channels, "head", 4)
    nodes.append(Node("attention", Attention(2, 0.0625), ("q", "k", "v"), (12, 3, 4)))
    nodes.append(Node("attended", levels(), ("attention",), (12, 3, 4)))
    add("last", 5, "attended", 12)
    nodes.append(Node("mean", Mean(), ("last",), (5, 1, 1)))
    nodes.append(Node("fc", Linear(conv(3, 5).weight[:, :, 0, 0], conv(3, 5).bias), ("mean",), (3, 1, 1)))
    nodes.append(Node("output", Output(), ("fc",), (3, 1, 1)))
    return check(Graph(tuple(nodes), 3))


def frames(graph: Graph, seed: int, count: int = 3) -> torch.Tensor:
    """Random frames of spikes (N, T, C, Y, X) for a graph."""
    rng = np.random.default_rng(seed)
    spikes = rng.random((count, graph.time_steps, *graph.nodes[0].shape)) < 0.5
    return torch.from_numpy(spikes.astype(np.float32))
