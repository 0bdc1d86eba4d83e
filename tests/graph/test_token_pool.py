"""Pools over neighbouring tokens and channels of a head: traced as torch computes them, and exact in integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.deep import thinned
from support.executions import assert_equal_executions
from torch import Tensor, nn

from spikformer_deploy.base.errors import ModelError, QuantizeError
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.converters.nir.write import _refusal
from spikformer_deploy.converters.onnx.read import read_model
from spikformer_deploy.converters.onnx.write import write_model
from spikformer_deploy.counts.dense import dense_macs
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.reach import whole_reach
from spikformer_deploy.network.synapses import Window
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.quantization.build import Pixels, quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings

LIMITS = CoreLimits(True, 8, 24, 17, 12, 8, 24)
HEADS, STEPS = 2, 2


def tokens_before_channels(x: Tensor, tokens: int, channels: int) -> Tensor:
    """(T, B, heads, N, d), as the official code pools it."""
    by_head = x.flatten(3).unflatten(2, (HEADS, -1)).transpose(3, 4)
    pooled = nn.functional.max_pool3d(by_head, (1, tokens, channels), 1, (0, tokens // 2, channels // 2))
    return pooled.transpose(3, 4).flatten(2, 3).unflatten(3, x.shape[3:])


def channels_before_tokens(x: Tensor, tokens: int, channels: int) -> Tensor:
    """(T * B, heads, d, N)."""
    by_head = x.flatten(0, 1).flatten(2).unflatten(1, (HEADS, -1))
    pooled = nn.functional.max_pool2d(by_head, (channels, tokens), 1, (channels // 2, tokens // 2))
    return pooled.flatten(1, 2).unflatten(2, x.shape[3:]).unflatten(0, (STEPS, -1))


class Pooled(nn.Module):
    """Images (B, 3, Y, X): spikes of 8 channels, a pool of them, neurons on a layer behind it, their mean."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.lif = nn.Conv2d(3, 8, 1), LIF()
        self.pool = pool
        self.proj, self.out = nn.Conv2d(8, 8, 1), LIF()

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)
        spikes = self.lif(self.conv(x.flatten(0, 1)).unflatten(0, (STEPS, -1)))
        pooled = self.pool(spikes)
        out = self.out(self.proj(pooled.flatten(0, 1)).unflatten(0, (STEPS, -1)))
        return out.mean((3, 4)).mean(0)


def model(pool: Callable[[Tensor], Tensor]) -> Pooled:
    torch.manual_seed(0)
    return Pooled(pool).eval()


@pytest.mark.parametrize("layout", [tokens_before_channels, channels_before_tokens])
@pytest.mark.parametrize(
    ("size", "window"), thinned([((3, 4), (3, 3)), ((1, 5), (3, 3)), ((4, 1), (5, 1)), ((3, 3), (1, 3))], 4)
)
def test_traced_as_torch_pools(
    layout: Callable[..., Tensor], size: tuple[int, int], window: tuple[int, int], tmp_path: Path
) -> None:
    module = model(lambda x: layout(x, *window))
    graph = check(trace(module, (3, *size), time_steps=STEPS))
    (node,) = graph.of(ir.TokenPool)
    assert (node.op.heads, node.op.tokens, node.op.channels) == (HEADS, *window)
    images = torch.randn(4, 3, *size) * 3
    with torch.no_grad():
        expected = layout(module.lif(module.conv(images).repeat(STEPS, 1, 1, 1, 1)), *window)
        logits = module(images)
    values = execute(graph, images, record={node.name})
    assert torch.equal(values[node.name].transpose(0, 1), expected)
    assert torch.equal(values["output"], logits)
    preprocess = Preprocess(3, size[0], (0.0,) * 3, (1.0,) * 3, width=size[1])
    write_model(simplify(graph), tmp_path / "a.onnx", preprocess, (), {})
    assert read_model(tmp_path / "a.onnx").graph.digest() == simplify(graph).digest()


def test_maps_are_pooled_with_time_and_batch_apart() -> None:
    module = model(nn.MaxPool3d((1, 3, 2), (1, 1, 2), (0, 1, 0)))
    graph = check(trace(module, (3, 4, 6), time_steps=STEPS))
    (node,) = graph.of(ir.MaxPool2d)
    assert (node.op.kernel, node.op.stride, node.op.padding, node.shape) == ((3, 2), (1, 2), (1, 0), (8, 4, 3))
    images = torch.randn(4, 3, 4, 6)
    with torch.no_grad():
        assert torch.equal(execute(graph, images)["output"], module(images))


REFUSED = {
    "over three dimensions": lambda x: nn.functional.max_pool3d(x, 3, 1, 1),
    "instead of": lambda x: nn.functional.max_pool3d(x.transpose(2, 3), (1, 3, 3), 1, (0, 1, 1)).transpose(2, 3),
    "stride": lambda x: halved(x).repeat(1, 1, 1, 2).reshape(x.shape),
}


def halved(x: Tensor) -> Tensor:
    """Pairs of tokens, (T * B, heads, d, N / 2)."""
    return nn.functional.max_pool2d(x.flatten(0, 1).flatten(2).unflatten(1, (HEADS, -1)), (1, 2))


@pytest.mark.parametrize("problem", REFUSED)
def test_other_pools_are_refused_by_name(problem: str) -> None:
    with pytest.raises(ModelError, match=problem):
        trace(model(REFUSED[problem]), (3, 4, 4), time_steps=STEPS)


def quantized(size: tuple[int, int], window: tuple[int, int]) -> Network:
    graph = simplify(
        fold_batch_norm(trace(model(lambda x: tokens_before_channels(x, *window)), (3, *size), time_steps=2))
    )
    pixels = Pixels((0.5,) * 3, (0.1,) * 3)
    return quantize(graph, pixels, Calibration(graph, torch.randn(2, 3, *size)), LIMITS, Settings())


@pytest.mark.parametrize(("size", "window"), [((3, 4), (3, 3)), ((1, 5), (3, 3)), ((5, 1), (3, 1)), ((2, 2), (1, 5))])
def test_integers_see_the_neighbours_across_the_ends_of_rows(size: tuple[int, int], window: tuple[int, int]) -> None:
    """A message reaches as many tokens as it has neighbours; nothing is multiplied, though a convolution says some."""
    network = quantized(size, window)
    check_network(network)
    (pool,) = (p.name for p in network if "max_pool" in p.name and not p.name.endswith(".channels"))
    images = np.random.default_rng(0).integers(0, 256, (6, 3, *size)).astype(np.uint8)
    record = [p.name for p in network]
    ours, plain, onnx = (e.execute(network, images, record=record) for e in (engine, reference, onnx_backend))
    assert_equal_executions(ours, plain)
    assert_equal_executions(ours, onnx)
    spikes = torch.from_numpy(ours.spikes["lif"].swapaxes(0, 1).astype(np.float32))
    assert 0 < float(spikes.mean()) < 0.5
    expected = tokens_before_channels(spikes, *window).numpy().swapaxes(0, 1)
    np.testing.assert_array_equal(ours.spikes[pool], expected)
    reached = np.zeros(size, np.int64)
    for projection in network.into(pool):
        assert isinstance(projection.synapse, Window)
        _, rows, columns = whole_reach(network, projection, projection.synapse)
        reached += np.outer(rows, columns)
    assert not any(dense_macs(network, p) for p in network.projections if p.target.startswith(pool))
    place = np.arange(reached.size)
    neighbours = (place > 0) * 1 + (place < reached.size - 1) if window[0] == 3 else 0 * place
    np.testing.assert_array_equal(reached.ravel(), 1 + neighbours)


def test_what_integers_and_formats_have_not_is_refused() -> None:
    with pytest.raises(QuantizeError, match="a pool of 5 neighbouring tokens: 3 are supported"):
        quantized((3, 4), (5, 1))
    assert "over tokens and channels" in str(_refusal("pool", ir.TokenPool(1, 3, 3)))
