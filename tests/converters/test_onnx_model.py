"""The float model in ONNX Runtime: the spikes of torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.deep import thinned
from support.models import SMALL, graph_of, model_and_images

from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.converters.onnx.write import to_model
from spikformer_deploy.data.read import read
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph, Lif
from spikformer_deploy.pipeline.stages import float_graph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def session(model: object) -> object:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def flipped(graph: Graph, images: np.ndarray) -> tuple[int, int, float]:
    """(spikes that differ, spikes in all, largest difference of a logit)."""
    lifs = [node.name for node in graph.of(Lif)]
    names = ["logits", *lifs]
    outputs = session(to_model(graph, lifs)).run(names, {"images": images})
    theirs = dict(zip(names, outputs, strict=True))
    right = execute(graph, torch.from_numpy(images))
    differ = sum(int((theirs[name] != right[name].numpy()).sum()) for name in lifs)
    worst = np.abs(theirs["logits"] - right[graph.nodes[-1].name].numpy()).max()
    return differ, sum(int(right[name].sum()) for name in lifs), float(worst)


@pytest.mark.parametrize("model", ["digits-v1", "digits-v2"])
def test_bundled_models_fire_as_in_torch(model: str) -> None:
    loaded = load(model)
    images = loaded.preprocess.normalised(next(read("digits", loaded.preprocess, limit=64).batches(64))[0])
    differ, spikes, worst = flipped(float_graph(loaded), images)
    assert spikes > 10_000
    assert differ == 0
    assert worst < 1e-5


@pytest.mark.parametrize("form", thinned(SMALL, 4))
def test_every_form_of_the_models_can_be_written(form: str) -> None:
    """All operations of graphs before folding too; random weights put some sums within rounding of a threshold."""
    config = SMALL[form]
    _, images = model_and_images(config)
    graph = graph_of(config)
    differ, spikes, _ = flipped(graph, images.numpy())
    assert differ <= 1e-3 * spikes


def test_the_function_is_checked_and_standard(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    done = CliRunner().invoke(cli, ["export", "digits-v1", "--to", "onnx", "-o", str(file)])
    assert done.exit_code == 0, done.output
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    (function,) = model.functions
    assert {node.domain for node in function.node} == {""}
    loaded = load("digits-v1")
    for count in (1, 3):
        images = loaded.preprocess.normalised(next(read("digits", loaded.preprocess, limit=count).batches(count))[0])
        (logits,) = session(model).run(["logits"], {"images": images})
        with torch.inference_mode():
            right = loaded.module(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(logits, right, atol=1e-4)
