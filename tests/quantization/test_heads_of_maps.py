"""Heads and neurons that read whole maps: means before neurons, and flattened maps without neurons behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.deep import some, thinned
from support.executions import assert_equal_executions
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine

pytest.importorskip("spikingjelly.activation_based")
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as layers
from spikingjelly.activation_based import neuron as neurons


def dyadic(module: nn.Module, seed: int) -> nn.Module:
    """`module` with weights that need no rounding, multi-step."""
    torch.manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.data = torch.randint(-3, 8, layer.weight.shape) / 8
            layer.bias = None
    functional.set_step_mode(module, "m")
    return module.eval()


def whole_map(kind: str, height: int, width: int) -> nn.Module:
    layer = layers
    neuron = neurons
    stem = (layer.Conv2d(2, 4, 3, padding=1), neuron.LIFNode())
    ends = {
        "adaptive mean, LIF": (
            layer.AdaptiveAvgPool2d(1),
            layer.Flatten(),
            layer.Linear(4, 5),
            neuron.LIFNode(v_threshold=0.0625),
        ),
        "mean alone": (layer.AdaptiveAvgPool2d(1), layer.Flatten()),
        "mean of sums alone": (layer.AvgPool2d(2, 1), layer.AdaptiveAvgPool2d(1), layer.Flatten()),
        "pooled, LIF": (
            layer.AvgPool2d((height, width)),
            layer.Flatten(),
            layer.Linear(4, 5),
            neuron.LIFNode(v_threshold=0.0625),
        ),
        "flat head": (layer.Flatten(), layer.Linear(4 * height * width, 5)),
        "flat head of sums": (layer.AvgPool2d(2), layer.Flatten(), layer.Linear(4 * (height // 2) * (width // 2), 5)),
        "padded convolution of a mean": (layer.AdaptiveAvgPool2d(1), layer.Conv2d(4, 5, 3, padding=1), layer.Flatten()),
        "grouped convolution of a mean": (layer.AdaptiveAvgPool2d(1), layer.Conv2d(4, 4, 1, groups=4), layer.Flatten()),
    }
    return nn.Sequential(*stem, *ends[kind])


@pytest.mark.parametrize("size", some([(5, 7)], long=[((4, 8),)]))
@pytest.mark.parametrize(
    "kind",
    thinned(
        [
            "adaptive mean, LIF",
            "mean alone",
            "mean of sums alone",
            "pooled, LIF",
            "flat head",
            "flat head of sums",
            "padded convolution of a mean",
            "grouped convolution of a mean",
        ],
        3,
    ),
)
def test_whole_maps_give_the_logits_of_the_model(kind: str, size: tuple[int, int]) -> None:
    module = dyadic(whole_map(kind, *size), sum(size))
    preprocess = Preprocess(2, size[0], (0.0, 0.0), (1.0, 1.0), 1, size[1])
    frames = np.random.default_rng(0).integers(0, 2, (3, 4, 2, *size)).astype(np.uint8)
    with torch.no_grad():
        wanted = module(torch.from_numpy(frames).float().transpose(0, 1)).mean(0).numpy()
    functional.reset_net(module)
    imported = sd.from_spikingjelly(module, preprocess, 4, per_step=True)
    program = sd.compile(imported, target="loihi2", check=False)
    np.testing.assert_allclose(sd.run(program, frames).logits, wanted, atol=1e-5)
    assert np.abs(wanted).max() > 0
    network = getattr(program, "program", program).network
    right = reference.execute(network, frames)
    assert_equal_executions(engine.execute(network, frames), right)
    np.testing.assert_array_equal(onnx_backend.execute(network, frames).accumulators, right.accumulators)
