"""Regression: errors against real targets, beside the inputs or undone from windows, in every command."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from support.layers import dyadic
from support.series import HORIZON, VARIABLES, state_of, windows
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.data.images import Forecast, Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.data.series import read_series
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.inference.regression import SCORES, scores
from spikformer_deploy.nn.lif import LIF

EXAMPLE = Path(__file__).parents[2] / "examples" / "time_series.py"


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(20, 6)) + np.arange(6)
    results = targets + 0.3 * rng.normal(size=targets.shape)
    found = scores(results, targets)
    assert tuple(found) == SCORES
    flat = targets.reshape(-1), results.reshape(-1)
    assert found["mse"] == pytest.approx(mean_squared_error(*flat))
    assert found["mae"] == pytest.approx(mean_absolute_error(*flat))
    assert found["r2"] == pytest.approx(r2_score(*flat))
    # of each output by itself, weighted by what it varies
    by_output = r2_score(targets, results, multioutput="variance_weighted")
    assert found["rse"] == pytest.approx(np.sqrt(1 - by_output))
    assert scores(targets, np.ones_like(targets))["r2"] is None
    # squares beyond any double, without a warning
    far = scores(np.array([[1e200], [1.0]]), np.array([[0.0], [1.0]]))
    assert (far["mse"], far["mae"], far["r2"], far["rse"]) == (None, 5e199, None, None)


def test_windows_are_undone_variable_by_variable() -> None:
    mean, std = np.array([[1.0, 2.0]]), np.array([[10.0, 100.0]])
    logits = np.array([[0.0, 0.0, 1.0, -1.0]])
    np.testing.assert_array_equal(Forecast(None, mean, std).of(logits), [[1, 2, 11, -98]])


@pytest.mark.long
def test_results_of_a_run_are_in_the_units_of_the_targets(tmp_path: Path) -> None:
    """A window that is another one times 7, plus 3, is forecast so; float model, program and command agree."""
    torch.save(state_of("variables, conv"), tmp_path / "m.pkl")
    model = sd.load(tmp_path / "m.pkl", heads=2, variables=VARIABLES)
    program = sd.compile(model, calibrate_on=windows(), check=False)
    once, larger = (sd.run(program, w).results for w in (windows(), 7 * windows() + 3))
    assert once is not None
    assert larger is not None
    # but for what the official code adds to a variance
    np.testing.assert_allclose(larger, 7 * once + 3, atol=1e-3)
    np.savez(tmp_path / "data.npz", x=windows(), y=once.reshape(6, HORIZON, VARIABLES) + 0.5)
    run = sd.run(program, tmp_path / "data.npz")
    assert run.regression is not None
    assert run.regression["mse"] == pytest.approx(0.25)
    assert (run.accuracy, run.to_dict()["task"]) == (None, "regression")
    np.testing.assert_array_equal(run.to_dict()["predictions"], once)
    verdict = sd.verify(program, tmp_path / "data.npz", model=model)
    assert verdict.integer_regression == run.regression
    images = read_series(windows(), program.preprocess)
    with torch.no_grad():
        logits = model.module(torch.from_numpy(program.preprocess.normalised(images.pixels))).numpy()
    assert images.forecast is not None
    assert verdict.float_regression == pytest.approx(scores(images.forecast.of(logits), once + 0.5), rel=1e-4)


@pytest.mark.long
def test_commands_print_errors_in_the_place_of_accuracy(tmp_path: Path) -> None:
    """The commands of docs/time-series.md, on what the example generates."""
    runpy.run_path(str(EXAMPLE))["main"](tmp_path)
    told = [str(tmp_path / "model_best.pkl"), "--heads", "4", "--variables", "7"]
    data = ["--input", str(tmp_path / "test.npz")]
    program = str(tmp_path / "forecast.spk")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    run("compile", *told, "--calibrate", str(tmp_path / "train.npz"), "-o", program, "--no-check", "--json")
    table = run("run", program, *data)
    assert "rse" in table
    assert "accuracy" not in table
    found = json.loads(run("run", program, *data, "--task", "regression", "--json"))
    assert found["task"] == "regression"
    assert set(found["regression"]) == set(SCORES)
    assert found["regression"]["r2"] > 0.9
    with np.load(tmp_path / "test.npz") as stored:
        np.save(tmp_path / "windows.npy", stored["x"])
    bare = ["--input", str(tmp_path / "windows.npy")]
    for words in (("run", program), ("verify", program), ("energy", *told)):
        table = run(*words, *bare, "--limit", "2", "--task", "regression")
        assert "the inputs come without targets" in table
        assert "accuracy" not in table
    run("report", program, *bare, "--limit", "2", "-o", str(tmp_path / "bare.html"), "--json")
    page = (tmp_path / "bare.html").read_text()
    assert "2 inputs without targets" in page
    assert "accuracy, integer program" not in page
    verified = run("verify", program, *told, *data, "--limit", "3")
    assert "integer r2" in verified
    assert "float r2" in verified
    report = json.loads(run("report", program, *data, "-o", str(tmp_path / "r.html"), "--json"))
    assert report["regression"] == found["regression"]
    assert "R², integer program" in (tmp_path / "r.html").read_text()
    energy = json.loads(run("energy", *told, *data, "--json"))
    assert energy["regression"]["r2"] == pytest.approx(found["regression"]["r2"], abs=0.05)


class Net(nn.Module):
    """Images (B, 1, 4, 4) -> the mean of three steps of 5 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)
        self.lif = LIF()
        self.head = nn.Linear(8, 5)
        dyadic(self, 0)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.flatten(1).unsqueeze(0).repeat(3, 1, 1)
        return self.head(self.lif(self.linear(steps))).mean(0)


def test_a_model_on_images_may_have_real_targets(tmp_path: Path) -> None:
    """`--task regression` reads y as numbers; without it they are no classes."""
    preprocess = Preprocess(1, 4, (0.0,), (1.0,))
    graph = check(trace(Net().eval(), (1, 4, 4), time_steps=3))
    program = sd.compile(Imported("test", graph, preprocess, (), "", {}, ()), check=False)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 4, 4)).astype(np.uint8)
    logits = sd.run(program, pixels).logits
    np.savez(tmp_path / "d.npz", x=pixels, y=logits + np.array([1.0, -1.0, 1.0, -1.0, 1.0]))
    run = sd.run(program, tmp_path / "d.npz", task="regression")
    assert run.regression is not None
    assert (run.regression["mse"], run.regression["mae"]) == pytest.approx((1, 1))
    with pytest.raises(InputError, match="one integer label an image"):
        sd.run(program, tmp_path / "d.npz")
    np.savez(tmp_path / "one.npz", x=pixels, y=np.zeros(4))
    with pytest.raises(InputError, match="a row of real numbers"):
        sd.run(program, tmp_path / "one.npz", task="regression")
    for data, images in ((pixels, preprocess), ("digits", Preprocess(1, 8, (0.0,), (1.0,)))):
        with pytest.raises(InputError, match="real targets"):
            read(data, images, task="regression")
