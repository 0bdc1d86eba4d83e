"""How long a forward pass takes while its operations are counted, and without: seconds of one core.

python benchmarks/counting.py [NAME ...]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.converters.models import load
from spikformer_deploy.nn.zoo import build, named

REPEATS = 5
"""The quickest of so many passes counts."""


class ByHand(nn.Module):
    """Two dense layers of neurons that are written by hand, over 8 steps: many operators, little arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 256)
        self.fc2 = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros(len(x), 256)
        out = torch.zeros(len(x), 10)
        for _ in range(8):
            v = 0.9 * v + self.fc1(x)
            spikes = (v > 1).float()
            v = v - spikes
            out = out + self.fc2(spikes)
        return out


def firing(model: nn.Module) -> nn.Module:
    """A model of random weights whose neurons fire: its normalizations have a gain."""
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.constant_(layer.weight, 6.0)
    return model.eval()


def v1() -> tuple[nn.Module, Callable[[nn.Module], object]]:
    x = torch.rand(16, 3, 32, 32)
    return firing(build(named("v1-4-384"))), lambda model: model(x)


def spikingjelly() -> tuple[nn.Module, Callable[[nn.Module], object]]:
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based.model.spikformer import spikformer_cifar10

    x = torch.rand(16, 3, 32, 32)

    def run(model: nn.Module) -> None:
        functional.reset_net(model)
        model(x)

    return firing(spikformer_cifar10()), run


def digits() -> tuple[nn.Module, Callable[[nn.Module], object]]:
    loaded = load("digits-v2")
    x = torch.rand(16, loaded.preprocess.channels, *loaded.preprocess.extent)
    return loaded.module.eval(), lambda model: model(x)


def by_hand() -> tuple[nn.Module, Callable[[nn.Module], object]]:
    x = torch.rand(64, 784)
    return ByHand(), lambda model: model(x)


CASES = {"v1-4-384": v1, "spikingjelly": spikingjelly, "digits-v2": digits, "by-hand": by_hand}


def quickest(run: Callable[[nn.Module], object], model: nn.Module) -> float:
    """Seconds of the processor."""
    run(model)
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        run(model)
        seconds.append(time.process_time() - start)
    return min(seconds)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in sys.argv[1:] or CASES:
        model, run = CASES[name]()
        with torch.no_grad():
            plain = quickest(run, model)
            with sd.count_operations(model):
                counted = quickest(run, model)
        print(f"{name:14} {plain * 1e3:9.2f} ms, counted {counted * 1e3:9.2f} ms: {counted / plain:.2f} times")


if __name__ == "__main__":
    main()
