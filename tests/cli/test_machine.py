"""`spikdeploy machine`: what it finds is what runs, and it is kept."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from spikformer_deploy.cli.main import cli
from spikformer_deploy.executors.fast import costs, measure, synapses
from spikformer_deploy.executors.fast.costs import Costs

SOME = Costs(0.005, 0.006, 0.02, 50.0, 12.0, 0.7, 0.017)


@pytest.fixture(autouse=True)
def _known_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SPIKDEPLOY_KERNELS", raising=False)
    monkeypatch.setattr(measure, "measure", lambda: SOME)
    monkeypatch.setattr(synapses, "int8_limit", lambda: 128)
    monkeypatch.setattr(synapses, "pairs_work", lambda: True)
    monkeypatch.setattr(synapses, "events_work", lambda: True)
    costs.kept.cache_clear()
    yield
    costs.kept.cache_clear()


def machine(*options: str) -> str:
    result = CliRunner().invoke(cli, ["machine", *options], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_json() -> None:
    found = json.loads(machine("--json"))
    assert found["costs_ns"] == SOME._asdict()
    assert found["int8_exact_up_to"] == 128
    assert costs.kept() == SOME
    assert Path(found["costs_file"]) == costs.costs_file()
    assert [(row["messages_up_to"], row["dense"]) for row in found["kernels"]] == [
        (1, "int8"), (8, "int8"), (64, "int8"), (128, "int8"), (255, "fp32"), (256, "fp32"),
    ]  # fmt: skip
    assert 0 < found["kernels"][0]["events_below_mean"] < 1
    assert set(found["versions"]) == {"torch", "oneDNN", "numba"}


def test_the_kernel_follows_the_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of small messages are widened seldom, those of large ones at every step."""
    monkeypatch.setattr(measure, "measure", lambda: SOME._replace(pairs=0.004))
    rows = json.loads(machine("--json"))["kernels"]
    assert [row["dense"] for row in rows] == ["pairs", "pairs", "int8", "int8", "fp32", "fp32"]


def test_forced_kernels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKDEPLOY_KERNELS", "plain")
    found = json.loads(machine("--json"))
    assert found["forced"] == "plain"
    assert {row["dense"] for row in found["kernels"]} == {"fp32"}


def test_table() -> None:
    shown = machine()
    assert "messages up to" in shown
    assert "fp32" in shown


def test_an_unknown_forced_kernel_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIKDEPLOY_KERNELS", "fast")
    result = CliRunner().invoke(cli, ["machine"])
    assert "SPIKDEPLOY_KERNELS: 'fast' is no kind" in str(result.exception)
