"""Targets side by side: equal integers on equal neurons, and the reason where a target cannot hold a model."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from spikformer_deploy.accounting.figures import interval, rounded
from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.cli import main
from spikformer_deploy.cli.main import cli
from spikformer_deploy.cli.printing import print_tables
from spikformer_deploy.inference import compare
from spikformer_deploy.pipeline import stages
from spikformer_deploy.report.tables import compare_table

OWN = """
from torch import nn

from spikformer_deploy.nn.lif import LIF


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.lif, self.head = nn.Linear(64, 8), LIF(v_threshold=0.2), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.lif(self.first(x.flatten(1)).unsqueeze(0).repeat(2, 1, 1))).mean(0)
"""
OF_OWN = ("--factory", "plain:Net", "--time-steps", "2", "--calibrate", "images.npy")
ITS_WEIGHTS = "plain:Net: without --weights, the weights are those that it makes"

FIGURES = {
    "runtime",
    "cores",
    "chips",
    "accuracy",
    "step_us",
    "step_us_likely",
    "latency_us",
    "latency_us_likely",
    "images_per_second",
    "images_per_second_likely",
    "energy_mj",
    "logits_sha256",
}


@pytest.mark.long
def test_targets_side_by_side() -> None:
    arguments = ("compare", "digits-v2", "--targets", "loihi2,kapoho_point,loihi1", "--input", "digits", "--limit", "8")
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["targets"]
    names = [(row["target"], row["schedule"]) for row in rows]
    assert names == [(t, s) for t in ("loihi2", "kapoho_point", "loihi1") for s in ("spatial", "token-serial")]
    chip, streamed, board, _, *old = rows
    assert {"target", "schedule", *FIGURES} == set(chip) == set(board) == set(streamed)
    for row in (chip, board, streamed):
        assert row["runtime"] == "lava"
        for name in ("step_us", "latency_us", "images_per_second"):
            low, high = row[f"{name}_likely"]
            assert low < row[name] < high
        energy = row["energy_mj"]
        assert energy["boundary"] == "chips"
        assert energy["boundaries"]["chips"]["likely_low"] == energy["likely_low"] < energy["likely_high"]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        print_tables([compare_table(rows)])
    low, high = board["latency_us_likely"]
    assert f" {interval(low, high)} " in shown.getvalue()
    assert f" ({rounded(board['latency_us'])}) " in shown.getvalue()
    assert "energy, mJ: chips" in shown.getvalue()
    assert "under the runtime 'lava'" in shown.getvalue()
    assert shown.getvalue().count("refused: see below") == 2
    assert chip["logits_sha256"] == board["logits_sha256"], "a target with the same neurons gives the same integers"
    assert chip["logits_sha256"] == streamed["logits_sha256"], "and so does a schedule"
    assert chip["chips"] == 1
    assert all("binary" in row["refused"] or "graded" in row["refused"] for row in old)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Options of a model without attention, whose weights are random, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "plain.py").write_text(OWN)
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8)).astype(np.uint8))
    yield OF_OWN
    sys.modules.pop("plain", None)


def _nowhere(*_: Any, **__: Any) -> None:
    raise MappingError("plain", "9 cores are needed, and there are 8", "Take a larger board.")


def test_a_model_without_tokens_says_why_it_has_no_token_serial_row(own: tuple[str, ...]) -> None:
    done = CliRunner().invoke(
        cli, ["compare", *own, "--targets", "loihi2,kapoho_point", "--input", "images.npy", "--json"]
    )
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert [row["schedule"] for row in values["targets"]] == ["spatial", "spatial"]
    assert sum("no token-serial rows: the network has no attention of q, k and v" in n for n in values["notes"]) == 1
    assert done.stderr.count(ITS_WEIGHTS) == 1


def test_what_fits_nowhere_has_the_notes_of_the_model(own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "mapped", _nowhere)
    done = CliRunner().invoke(cli, ["compare", *own, "--targets", "loihi2", "--input", "images.npy", "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert all("9 cores are needed" in row["refused"] and "notes" not in row for row in values["targets"])
    assert ITS_WEIGHTS in values["notes"]


def test_a_compile_that_fits_nowhere_says_the_notes_of_the_model(
    own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "map_explained", _nowhere)
    monkeypatch.setattr(sys, "argv", ["spikdeploy", "compile", *own, "-o", "own.spk"])
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.index(f"note: {ITS_WEIGHTS}") < said.index("error: plain: 9 cores are needed")
