"""Fused layers that a model cuts apart are traced as the layers that they stand for."""

from collections.abc import Callable

import pytest
import torch
from support.deep import thinned
from torch import Tensor, nn

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Attention, Lif
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.lif import LIF

STEPS = 2


class Fused(nn.Module):
    """Attention on q, k and v of one convolution; `cut` takes them apart, (T, B, 3 D, N) -> three (T, B, D, N)."""

    def __init__(self, cut: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cut = cut
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.stem_lif = LIF(v_threshold=0.2)
        self.qkv = nn.Conv1d(8, 24, 1)
        self.bn = nn.BatchNorm1d(24)
        self.lif = LIF(v_threshold=0.3)
        nn.init.normal_(self.bn.weight, 1, 0.3)
        nn.init.normal_(self.bn.bias, 0.3, 0.3)
        self.last = LIF(v_threshold=0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)
        x = self.stem_lif(self.stem(x.flatten(0, 1)).unflatten(0, (STEPS, -1))).flatten(3)
        fused = self.lif(self.bn(self.qkv(x.flatten(0, 1))).unflatten(0, (STEPS, -1)))
        q, k, v = (y.unflatten(2, (2, 4)) for y in self.cut(fused))  # (T, B, heads, channels, tokens)
        out = (v @ k.transpose(-1, -2)) @ q * 0.25
        return self.head(self.last(out).flatten(2, 3).mean(3)).mean(0)


CUTS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "chunk": lambda x: x.chunk(3, 2),
    "slices": lambda x: (x[:, :, :8], x[:, :, 8:16], x[:, :, 16:]),
    "unbind": lambda x: x.unflatten(2, (3, 8)).permute(2, 0, 1, 3, 4).unbind(0),
}


@pytest.mark.parametrize("name", thinned(CUTS, 3))
def test_parts_of_a_layer_are_layers(name: str) -> None:
    model = Fused(CUTS[name]).eval()
    graph = check(trace(model, (3, 6, 6), time_steps=STEPS))
    assert len(list(graph.of(Lif))) == 5
    assert len(list(graph.of(Attention))) == 1
    images = torch.randn(3, 3, 6, 6)
    with torch.no_grad():
        theirs = model(images)
    assert theirs.std() > 0.01
    torch.testing.assert_close(execute(graph, images)["output"], theirs, rtol=0, atol=1e-6)


def test_other_parts_are_refused() -> None:
    with pytest.raises(ModelError, match="only channels can be cut apart"):
        trace(Fused(lambda x: tuple(y[..., :18] for y in x.chunk(3, 2))), (3, 6, 6), time_steps=STEPS)
