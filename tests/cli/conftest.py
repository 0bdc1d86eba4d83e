"""Commands in this process: what they print and end with, without the seconds that a process of their own takes."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from spikformer_deploy.cli.main import main


class Done(NamedTuple):
    """What a command ended with, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs the entry of the command line; what nobody expects goes on as an error of the test."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["spikdeploy", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return Done(int(end.value.code or 0), *capsys.readouterr())

    return run
