"""Float chains of convolutions, pooling, linear layers and LIF neurons, as graphs."""

from __future__ import annotations

from math import inf

import numpy as np
import torch

from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph.ir import AvgPool2d, Conv2d, Graph, Input, Lif, Linear, Node, Output
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


def frames(graph: Graph, seed: int, count: int = 3) -> torch.Tensor:
    """Random frames of spikes (N, T, C, Y, X) for a graph."""
    rng = np.random.default_rng(seed)
    spikes = rng.random((count, graph.time_steps, *graph.nodes[0].shape)) < 0.5
    return torch.from_numpy(spikes.astype(np.float32))
