"""The command `targets`: a file of one's own, and the schema of such files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spikformer_deploy.chips.profile import load_profile


def test_a_target_of_ones_own(here: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mychip.toml").write_text(here("targets", "kapoho_point", "--toml").stdout)
    assert load_profile(tmp_path / "mychip.toml") == load_profile("kapoho_point")
    assert json.loads(here("targets", "--schema").stdout)["additionalProperties"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--toml"], "--toml needs the NAME"),
        (["loihi2", "--schema"], "it takes no NAME"),
        (["loihi2", "--toml", "--json"], "exclude each other"),
        (["loihi3", "--toml"], "no target is called 'loihi3'"),
    ],
)
def test_what_cannot_be_printed(here: Callable[..., Any], arguments: list[str], message: str) -> None:
    done = here("targets", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
