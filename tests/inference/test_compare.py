"""Targets side by side: equal integers on equal neurons, and the reason where a target cannot hold a model."""

import json
import subprocess
import sys

from spikformer_deploy.report.tables import COLUMNS


def test_targets_side_by_side() -> None:
    arguments = ("compare", "digits-v2", "--targets", "loihi2,kapoho_point,loihi1", "--input", "digits", "--limit", "8")
    command = [sys.executable, "-c", "from spikformer_deploy.cli.main import main; main()", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["targets"]
    names = [(row["target"], row["schedule"]) for row in rows]
    assert names == [(t, s) for t in ("loihi2", "kapoho_point", "loihi1") for s in ("spatial", "token-serial")]
    chip, streamed, board, _, *old = rows
    assert {"target", "schedule", *COLUMNS, "logits_sha256"} == set(chip) == set(board) == set(streamed)
    assert chip["logits_sha256"] == board["logits_sha256"], "a target with the same neurons gives the same integers"
    assert chip["logits_sha256"] == streamed["logits_sha256"], "and so does a schedule"
    assert chip["chips"] == 1
    assert all("binary" in row["refused"] or "graded" in row["refused"] for row in old)
