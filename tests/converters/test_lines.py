"""spikingjelly's models of lines of points, (..., C, L): time series, which come as images of one row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.executions import assert_equal_executions
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.converters.checkpoints.spikingjelly import from_spikingjelly
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph import ir

pytest.importorskip("spikingjelly.activation_based")
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import layer as layers
from spikingjelly.activation_based import neuron as neurons

SERIES = Preprocess(5, 1, (0.5,) * 5, (0.25,) * 5, 255, 12)


class Points(nn.Module):
    """A linear layer at every point, behind a convolution along the line: (..., 5, 12) -> (..., 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv1d(5, 8, 3, padding=1)
        self.lif = neurons.LIFNode(v_threshold=0.3)
        self.at_points = layers.Linear(8, 6)
        self.second = neurons.LIFNode(v_threshold=0.1)
        self.head = layers.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.lif(self.conv(x)).transpose(-1, -2)
        spikes = self.second(self.at_points(spikes)).transpose(-1, -2)
        return self.head(spikes.flatten(-2))


def chain() -> nn.Module:
    """A convolution, a pool and a head, as spikingjelly stacks them."""
    return nn.Sequential(
        layers.Conv1d(5, 8, 3, padding=1),
        layers.BatchNorm1d(8),
        neurons.LIFNode(v_threshold=0.3),
        layers.MaxPool1d(2),
        layers.Flatten(),
        layers.Linear(48, 3),
    )


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("make", [Points, chain])
def test_rows_are_taken_for_lines(make: type[nn.Module], mode: str) -> None:
    """The logits are spikingjelly's own, or from_spikingjelly would refuse; the integers are the reference's."""
    torch.manual_seed(0)
    module = make().eval()
    functional.set_step_mode(module, mode)
    imported = from_spikingjelly(module, SERIES, 4)
    assert imported.notes == ()
    assert [type(node.op) for node in imported.graph][:2] == [ir.Input, ir.Conv2d]
    assert imported.graph.nodes[1].shape == (8, 1, 12)
    network = sd.compile(imported, check=False).network
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 1, 12)).astype(np.uint8)
    right = reference.execute(network, images)
    found = engine.execute(network, images)
    np.testing.assert_array_equal(found.accumulators, right.accumulators)
    assert right.accumulators.std() > 0
    assert_equal_executions(found, right)


def test_images_of_more_rows_are_no_lines() -> None:
    module = chain().eval()
    functional.set_step_mode(module, "m")
    with pytest.raises(ModelError, match="5x2x6"):
        from_spikingjelly(module, Preprocess(5, 2, (0.5,) * 5, (0.25,) * 5, 255, 6), 4)
