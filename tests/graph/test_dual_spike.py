"""Products of currents and spikes of a model: traced in its own layouts; others refused by name."""

import pytest
import torch
from support.deep import some
from torch import Tensor, nn

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.lif import LIF

STEPS, HEADS, DEPTH = 2, 2, 3


class Dual(nn.Module):
    """Two heads of three channels; `products` makes the two sums of y (T, B, heads, 2 * 3, M) and s (..., 3, N)."""

    def __init__(self, products) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, HEADS * DEPTH, 3, padding=1)
        self.layer = nn.Conv2d(HEADS * DEPTH, 2 * HEADS * DEPTH, 2, 2)
        self.norm = nn.BatchNorm2d(2 * HEADS * DEPTH)
        self.norm.running_mean.uniform_(-1, 1)
        self.first, self.between, self.last = LIF(v_threshold=0.1), LIF(v_threshold=0.1), LIF(v_threshold=0.1)
        self.head = nn.Linear(HEADS * DEPTH, 5)
        self.by_head = nn.Parameter(torch.tensor([0.5, 0.75]).reshape(1, 1, HEADS, 1, 1))
        self.by_position = nn.Parameter(torch.arange(6.0).reshape(6, 1) + 1)
        self.products = products

    def forward(self, x: Tensor) -> Tensor:
        s = self.first(self.stem(x).unsqueeze(0).repeat(STEPS, 1, 1, 1, 1))
        y = self.norm(self.layer(s.flatten(0, 1))).unflatten(0, (STEPS, -1)).flatten(3).unflatten(2, (HEADS, -1))
        out = self.products(self, y, s.flatten(3).unflatten(2, (HEADS, -1)))
        return self.head(self.last(out.reshape(s.shape)).mean((3, 4))).mean(0)


def by_numbers(m: Dual, y: Tensor, s: Tensor) -> Tensor:
    scores = m.between((y[:, :, :, :DEPTH].transpose(-1, -2) @ s) * 0.5)
    return y[:, :, :, DEPTH:] @ scores * 0.25


def by_tensors(m: Dual, y: Tensor, s: Tensor) -> Tensor:
    """Parts of other sizes, and a factor for each head in front of the product."""
    first, second = y.split([DEPTH, DEPTH], 3)
    scores = m.between(m.by_head * (first.transpose(-1, -2) @ s))
    return (second @ scores) * (1.0 / torch.sqrt(m.by_head))


@pytest.mark.parametrize("products", some([by_tensors], long=[by_numbers]))
def test_products_are_those_of_the_model(products) -> None:  # type: ignore[no-untyped-def]
    model = Dual(products).eval()
    images = torch.randn(3, 2, 4, 6)
    raw = check(trace(model, (2, 4, 6), time_steps=STEPS))
    folded = check(simplify(check(fold_batch_norm(raw))))
    duals = [node.op for node in folded.of(ir.DualSpike)]
    assert [(op.heads, op.over_tokens) for op in duals] == [(HEADS, False), (HEADS, True)]
    assert not list(folded.of(ir.Scale, ir.BatchNorm))
    with torch.no_grad():
        theirs = model(images)
    assert theirs.std() > 0.01
    for graph in (raw, folded):
        torch.testing.assert_close(execute(graph, images)["output"], theirs, rtol=0, atol=1e-6)


def of_positions(m: Dual, y: Tensor, s: Tensor) -> Tensor:
    return y[:, :, :, DEPTH:] @ m.between((y[:, :, :, :DEPTH].transpose(-1, -2) @ s) * m.by_position)


def of_spikes(m: Dual, y: Tensor, s: Tensor) -> Tensor:
    return y[:, :, :, DEPTH:] @ m.between(m.between(y)[:, :, :, :DEPTH].transpose(-1, -2) @ s)


@pytest.mark.parametrize(
    ("products", "words"),
    [
        (of_positions, "this scale of channels follows"),
        (of_spikes, "a part of the channels of each head of Lif is not supported"),
    ],
)
def test_others_are_refused(products, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelError, match=words):
        simplify(fold_batch_norm(trace(Dual(products).eval(), (2, 4, 6), time_steps=STEPS)))
