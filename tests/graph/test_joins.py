"""Joins of channels vanish, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.channels import part_of
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.joins import push_joins, split_joins
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.graph.trace import trace

STEPS = 2


class Grown:
    """A random graph of branches that are joined, and of what reads joins."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes = [ir.Node("input", ir.Input(True), (), (int(self.rng.integers(1, 4)), 4, 5))]

    def add(self, op: ir.Op, inputs: list[ir.Node], shape: tuple[int, int, int]) -> ir.Node:
        name = f"{type(op).__name__.lower()}.{len(self.nodes)}"
        self.nodes.append(ir.Node(name, op, tuple(node.name for node in inputs), shape))
        return self.nodes[-1]

    def weights(self, *shape: int) -> np.ndarray:
        return self.rng.integers(-3, 6, shape) / 4

    def spikes(self, x: ir.Node, channels: int, groups: int = 1, norm: bool = False) -> ir.Node:
        weight = self.weights(channels, x.shape[0] // groups, 3, 3)
        shape = (channels, *x.shape[1:])
        y = self.add(ir.Conv2d(weight, self.weights(channels), (1, 1), (1, 1), groups), [x], shape)
        if norm:
            y = self.norm(y)
        return self.add(ir.Lif(2.0, 0.5), [y], shape)

    def norm(self, x: ir.Node) -> ir.Node:
        n = x.shape[0]
        variances = self.rng.choice([0.25, 1.0, 4.0], n)  # their roots are exact: no tie is rounded
        op = ir.BatchNorm(self.weights(n), self.weights(n), self.weights(n), variances, 0.0)
        return self.add(op, [x], x.shape)

    def join(self, *parts: ir.Node) -> ir.Node:
        return self.add(ir.Concat(), list(parts), (sum(p.shape[0] for p in parts), *parts[0].shape[1:]))

    def grown(self) -> ir.Graph:
        rng = self.rng
        x = self.nodes[0]
        parts = [
            self.spikes(x, int(rng.integers(1, 4)), norm=bool(rng.random() < 0.5))
            for _ in range(int(rng.integers(2, 4)))
        ]
        x = self.join(*parts)
        if rng.random() < 0.5:  # dense blocks join joins
            x = self.join(x, self.spikes(x, 2))
        match int(rng.integers(0, 6)):
            case 0:  # currents are joined, normalised and fire
                weights = [self.weights(n, x.shape[0], 1, 1) for n in (2, 3)]
                halves = [self.add(ir.Conv2d(w, self.weights(len(w))), [x], (len(w), 4, 5)) for w in weights]
                joined = self.norm(self.join(*halves))
                x = self.add(ir.Lif(2.0, 0.5), [joined], joined.shape)
            case 1:  # depthwise
                x = self.spikes(x, x.shape[0], groups=x.shape[0], norm=True)
            case 2:
                pooled = self.add(ir.MaxPool2d((2, 2), (2, 2)), [x], (x.shape[0], 2, 2))
                x = self.add(ir.AvgPool2d((2, 2), (1, 1)), [pooled], (x.shape[0], 1, 1))
            case 3:  # a residual: both sides are joined alike, or one is not
                other = self.spikes(x, x.shape[0], groups=int(rng.choice([1, x.shape[0]])))
                x = self.add(ir.Add(), [x, other], x.shape)
            case 4:
                x = self.add(ir.Scale(0.5), [x], x.shape)
                x = self.spikes(x, 4, norm=True)
            case _:
                q = self.spikes(x, x.shape[0])
                k = self.spikes(x, x.shape[0])
                x = self.add(ir.Lif(2.0, 2.0), [self.add(ir.Attention(1, 0.5), [q, k, x], x.shape)], x.shape)
        mean = self.add(ir.Mean(), [x], (x.shape[0], 1, 1))
        head = self.add(ir.Linear(self.weights(3, x.shape[0]), self.weights(3)), [mean], (3, 1, 1))
        self.add(ir.Output(), [head], (3, 1, 1))
        return check(ir.Graph(tuple(self.nodes), STEPS))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_passes_keep_every_spike(seed: int) -> None:
    graph = Grown(seed).grown()
    frames = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, (3, STEPS, *graph.nodes[0].shape)))
    wanted = execute(graph, frames, dtype=torch.float64)
    folded = check(fold_batch_norm(graph))
    assert not list(folded.of(ir.BatchNorm))
    for passed in (check(push_joins(graph)), folded, check(split_joins(folded)), check(simplify(folded))):
        found = execute(passed, frames, dtype=torch.float64)
        for lif in passed.of(ir.Lif):
            joined, channels = part_of(lif.name, wanted)
            assert torch.equal(found[lif.name], wanted[joined][:, :, channels]), lif.name
        torch.testing.assert_close(found[passed.nodes[-1].name], wanted[graph.nodes[-1].name], rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_layers_read_no_joins(seed: int) -> None:
    """What is left of joins is read only by attentions, masks and sums."""
    graph = simplify(fold_batch_norm(Grown(seed).grown()))
    for join in graph.of(ir.Concat):
        assert all(isinstance(reader.op, ir.Attention | ir.SpikeMask | ir.Add) for reader in graph.consumers(join.name))


def test_graphs_without_joins_stay_as_they_are() -> None:
    nodes = (ir.Node("input", ir.Input(), (), (1, 2, 2)), ir.Node("output", ir.Output(), ("input",), (1, 2, 2)))
    graph = ir.Graph(nodes, 1)
    assert push_joins(graph) is graph
    assert split_joins(graph) is graph


class Joined(torch.nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function
        self.conv = torch.nn.Conv2d(2, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.function(x, self.conv(x))  # type: ignore[operator]
        return y.mean((2, 3)) if y.ndim == 4 else y


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, y: torch.cat([y, y], 2), "cat of .* along dimension 2: only channels can be joined"),
        (lambda x, y: torch.cat([x, y[:, :, :2]], 1), "only channels can be cut apart"),
        (lambda x, y: torch.cat([x.flatten(1), y.flatten(1)], 1), "along dimension 1: only channels can be joined"),
        (lambda x, y: torch.cat([y, torch.nn.functional.avg_pool2d(y, 4)], 1), "torch.export cannot trace it"),
    ],
)
def test_other_joins_are_refused(function: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(Joined(function), (2, 4, 4), time_steps=1)


def test_channels_of_a_join_are_cut_apart_where_it_was_joined() -> None:
    def shuffled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        left, right = torch.cat([x, y], 1).split([3, 2], 1)
        return torch.cat([right, left], 1)

    module = Joined(shuffled).eval()
    images = torch.rand(3, 2, 4, 4)
    graph = check(trace(module, (2, 4, 4), time_steps=1))
    with torch.no_grad():
        torch.testing.assert_close(execute(graph, images)["output"], module(images))
