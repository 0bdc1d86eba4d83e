"""Targets side by side: equal integers on equal neurons, and the reason where a target cannot hold a model."""

import contextlib
import io
import json

from click.testing import CliRunner

from spikformer_deploy.accounting.figures import interval, rounded
from spikformer_deploy.cli.main import cli
from spikformer_deploy.cli.printing import print_tables
from spikformer_deploy.report.tables import compare_table

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
