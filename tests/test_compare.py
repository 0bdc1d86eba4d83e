"""Targets side by side: equal integers on equal neurons, and the reason where a target cannot hold a model."""

import json
import subprocess
import sys

from spikformer_deploy.compare import COLUMNS


def test_targets_side_by_side() -> None:
    arguments = ("compare", "digits-v2", "--targets", "loihi2,kapoho_point,loihi1", "--input", "digits", "--limit", "8")
    command = [sys.executable, "-c", "from spikformer_deploy.cli import main; main()", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    chip, board, old = json.loads(done.stdout)["targets"]
    assert [row["target"] for row in (chip, board, old)] == ["loihi2", "kapoho_point", "loihi1"]
    assert {"target", *COLUMNS, "logits_sha256"} == set(chip) == set(board)
    assert chip["logits_sha256"] == board["logits_sha256"], "a target with the same neurons gives the same integers"
    assert chip["chips"] == 1
    assert "binary" in old["refused"] or "graded" in old["refused"]
