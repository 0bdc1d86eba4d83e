"""Parameters that a model computes with: scales of channels, and weights that are made of other parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.ir import BatchNorm, Conv2d, Graph
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.lif import LIF

STEPS = 2


class Scaled(nn.Module):
    """Currents times a parameter, then neurons and their mean."""

    def __init__(self, *shape: int, spikes: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.steps = nn.Parameter(torch.rand(4) - 0.5)
        self.scale = nn.Parameter(torch.randn(shape) * 3)
        self.first = LIF()
        self.lif = LIF()
        self.spikes = spikes
        self.head = nn.Linear(4, 5)

    def weight(self) -> Tensor:
        """Integers of 4 bits times steps of either sign."""
        step = self.steps[:, None, None, None]
        return (self.conv.weight / step).clamp(-8, 7).round() * step

    def forward(self, x: Tensor) -> Tensor:
        currents = F.conv2d(x, self.weight(), self.conv.bias, padding=1).unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)
        currents = self.first(currents) if self.spikes else currents
        return self.head(self.lif(self.scale * currents).flatten(3).mean(3)).mean(0)


def traced(model: nn.Module) -> Graph:
    return trace(model.eval(), (3, 4, 4), time_steps=STEPS)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (1, 1, 4, 1, 1), ()])
def test_scales_of_channels_are_folded_into_the_layer(shape: tuple[int, ...]) -> None:
    model = Scaled(*shape)
    raw = traced(model)
    folded = fold_batch_norm(raw)
    assert not list(folded.of(BatchNorm))
    images = torch.randn(3, 3, 4, 4) * 4
    for graph in (raw, folded):
        torch.testing.assert_close(execute(graph, images)["output"], model(images), rtol=1e-5, atol=1e-5)


def test_weights_are_computed_as_the_model_does() -> None:
    model = Scaled(4, 1, 1)
    (conv,) = traced(model).of(Conv2d)
    assert isinstance(conv.op, Conv2d)
    assert torch.equal(torch.from_numpy(conv.op.weight.copy()), model.weight().detach().double())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Scaled(1, 4, 4), "a scale that differs between positions"),
        (Scaled(4, 1, 1, spikes=True), "this scale of channels follows first, and only one right after a layer"),
    ],
)
def test_scales_of_other_things_are_refused(model: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        fold_batch_norm(traced(model))


def test_steps_of_zero_are_refused() -> None:
    model = Scaled(4, 1, 1)
    model.steps.data.zero_()
    with pytest.raises(ModelError, match="div of constants gives NaN or infinite values"):
        traced(model)
