"""Pools, joins and constants as ONNX: ONNX Runtime computes what torch does, or the layer is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.layers import STEPS, Stepwise, by_step, dyadic, frames_of, traced
from torch import Tensor, nn

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.converters.onnx.read import read_model
from spikformer_deploy.converters.onnx.write import to_model, write_model
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.nn.lif import LIF

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
SHAPE = (2, 7, 9)


def pooled(pool: nn.Module) -> nn.Module:
    head = (nn.Conv2d(4, 3, 1), LIF(v_threshold=0.5), nn.AdaptiveAvgPool2d(1))
    return dyadic(Stepwise(nn.Conv2d(2, 4, 3), LIF(v_threshold=0.5), pool, *head), 0)


class Joined(nn.Module):
    """An attention of joined keys, so that the join stands in the file, and a position embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.q = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 2, 1), nn.Conv2d(5, 5, 1)
        self.lifs, self.fc = nn.ModuleList(LIF(v_threshold=0.5) for _ in range(4)), nn.Linear(5, 3)
        self.places = nn.Parameter(torch.randint(-3, 4, (1, 5, *SHAPE[1:])) / 8)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.transpose(0, 1).flatten(0, 1)
        k = torch.cat([by_step(lif, layer(x)) for lif, layer in zip(self.lifs, (self.a, self.b), strict=False)], 1)
        q = by_step(self.lifs[2], self.q(k) + self.places)  # type: ignore[arg-type]
        scores = k.flatten(2) @ k.flatten(2).transpose(1, 2)
        y = by_step(self.lifs[3], (scores @ q.flatten(2) / 4).unflatten(2, SHAPE[1:]))  # type: ignore[arg-type]
        return self.fc(y.mean((2, 3))).unflatten(0, (STEPS, frames.shape[0])).mean(0)


def assert_runs(graph: Graph) -> None:
    frames = frames_of(SHAPE, 0).astype(np.float32)
    session = onnxruntime.InferenceSession(to_model(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": frames})
    np.testing.assert_allclose(logits, execute(graph, torch.from_numpy(frames))["output"].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, 1, dilation=(1, 2)),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AdaptiveAvgPool2d((5, 2)),
    ],
    ids=str,
)
def test_pools_run_in_onnx_runtime(pool: nn.Module) -> None:
    assert_runs(simplify(traced(pooled(pool), SHAPE)))


@pytest.mark.parametrize(
    "pool",
    [nn.AvgPool2d(2, divisor_override=3), nn.AdaptiveAvgPool2d(4), nn.AvgPool2d(3, 3, 1, ceil_mode=True)],
    ids=str,
)
def test_pools_that_onnx_has_not_are_refused_by_name(pool: nn.Module) -> None:
    graph = simplify(traced(pooled(pool), (2, 8, 9)))
    with pytest.raises(ModelError, match=r"layers\.2: ONNX has no average pooling"):
        to_model(graph)


@pytest.mark.parametrize("module", [pooled(nn.AvgPool2d(3, 2, 1)), pooled(nn.AvgPool2d(2, 2)), dyadic(Joined(), 0)])
def test_layers_come_back(module: nn.Module, tmp_path: Path) -> None:
    graph = simplify(traced(module, SHAPE))
    assert_runs(graph)
    write_model(graph, tmp_path / "a.onnx", Preprocess(2, 7, (0.0, 0.0), (1.0, 1.0), 1, 9), (), {})
    again = read_model(tmp_path / "a.onnx").graph
    frames = torch.from_numpy(frames_of(SHAPE, 1)).double()
    right = execute(graph, frames, dtype=torch.float64)["output"]
    torch.testing.assert_close(execute(again, frames, dtype=torch.float64)["output"], right)


def test_padding_of_strangers_counts_no_zeros(tmp_path: Path) -> None:
    """ONNX leaves padding out of averages unless a file says otherwise, torch counts it."""
    graph = simplify(traced(pooled(nn.AvgPool2d(3, 2, 1)), SHAPE))
    write_model(graph, tmp_path / "a.onnx", Preprocess(2, 7, (0.0, 0.0), (1.0, 1.0), 1, 9), (), {})
    model = onnx.load(tmp_path / "a.onnx")
    for node in model.graph.node:
        for attribute in [a for a in node.attribute if a.name == "count_include_pad"]:
            node.attribute.remove(attribute)
    onnx.save(model, tmp_path / "b.onnx")
    other = simplify(traced(pooled(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), SHAPE))
    frames = torch.from_numpy(frames_of(SHAPE, 2)).double()
    read = execute(read_model(tmp_path / "b.onnx").graph, frames, dtype=torch.float64)["output"]
    right = execute(other, frames, dtype=torch.float64)["output"]
    torch.testing.assert_close(read, right)
