"""Chains of integer neurons, and their integers on targets of single spikes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits, load_profile
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.ir import Node
from spikformer_deploy.graph.law import check
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.quantization.build import quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.rounding import second_moments
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.signals import Pixels

LOIHI1, LOIHI2 = load_profile("loihi1"), load_profile("loihi2")
NARROW = replace(LOIHI2.limits, message_bits=1)
"""Programmable neurons that send single spikes."""
EVENTS = Pixels((0.5, 0.25), (1.0, 1.0), 1)
"""Frames of 0 and 1, from which the model takes a mean: its bias differs along the border."""


def chain(seed: int, count: int, half_even: bool, steps: int = 2, keep: float = 0.0) -> ir.Graph:
    """Convolutions, one of them grouped, and a head; all numbers are dyadic, so that there are ties everywhere."""
    rng = np.random.default_rng(seed)
    threshold = float(rng.choice([0.5, 1.0, 2.0]))

    def conv(name: str, source: str, inputs: int, groups: int = 1, kernel: int = 3) -> Node:
        weight = rng.integers(-4, 8, (4, inputs // groups, kernel, kernel)) / 8 * threshold
        # with one weight of 127/128 thresholds, integers of 8 bits round none of them
        weight.reshape(4, -1)[:, 0] = 127 / 128 * threshold
        # large ones: levels of either sign
        bias = rng.integers(-16, 24, 4) / 8 * threshold
        op = ir.Conv2d(frozen(weight), frozen(bias), padding=(kernel // 2, kernel // 2), groups=groups)
        return Node(name, op, (source,), (4, 3, 4))

    def sent(name: str, source: str) -> Node:
        return Node(name, ir.Levels(count, threshold, keep, half_even), (source,), (4, 3, 4))

    nodes = (
        *(Node("input", ir.Input(True), (), (2, 3, 4)), conv("stem", "input", 2), sent("a", "stem")),
        *(Node("a.sent", ir.Scale(0.25), ("a",), (4, 3, 4)), conv("second", "a.sent", 4, 2), sent("b", "second")),
        *(conv("third", "b", 4, 1, 1), sent("c", "third")),
        Node("mean", ir.Mean(), ("c",), (4, 1, 1)),
        Node("fc", ir.Linear(frozen(rng.integers(-3, 4, (3, 4)) / 4), frozen(np.zeros(3))), ("mean",), (3, 1, 1)),
        Node("output", ir.Output(), ("fc",), (3, 1, 1)),
    )
    return check(ir.Graph(nodes, steps))


def images(seed: int, steps: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (3, steps, 2, 3, 4)).astype(np.uint8)


def made(
    graph: ir.Graph, frames: np.ndarray, limits: CoreLimits, neuron: str, bits: int = 8, calibrated: bool = False
) -> Network:
    real = torch.from_numpy(as_seen(frames))
    seen = second_moments(graph, real, np.array(EVENTS.std), np.array(EVENTS.mean)) if calibrated else None
    network = quantize(graph, EVENTS, Calibration(graph, real), limits, Settings(bits, "channel", neuron, seen))
    check_network(network)
    return network


def as_seen(frames: np.ndarray) -> np.ndarray:
    """Frames as the model sees them."""
    return (frames - np.array(EVENTS.mean).reshape(2, 1, 1)).astype(np.float32)
