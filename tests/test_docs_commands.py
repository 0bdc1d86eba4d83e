"""Every command and every block of Python of the documents runs as it stands, or says why it does not."""

import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from support import scene
from support.blocks import PAGES, ROOT, Block, blocks
from support.deep import some

from spikformer_deploy.cli.main import main

FOUND = [block for page in PAGES for block in blocks(page)]
RUN = {page: [b for b in FOUND if b.page == page and not b.excuse] for page in sorted({b.page for b in FOUND})}
SHOWN = [page for page, run in RUN.items() if run]
SLOW = (
    "counting",
    "formats",
    "index",
    "integer-spikes",
    "lava",
    "optimize",
    "python",
    "sweep",
    "timing",
    "training",
    "tutorials",
)
"""How pages of docs/ begin that take some seconds and more; README does, too."""


def is_slow(page: str) -> bool:
    return page == "README.md" or page.removeprefix("docs/").startswith(SLOW)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the scene, in which the process stands."""
    scene.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    yield tmp_path
    sys.modules.pop("net", None)


@pytest.mark.parametrize("page", some([page for page in SHOWN if not is_slow(page)], long=filter(is_slow, SHOWN)))
def test_what_a_page_shows_runs(
    page: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] | None = None
    for block in RUN[page]:
        if block.file:
            (place / block.file).write_text(block.text)
        elif block.kind == "python":
            names = scene.names(place) if names is None else names
            exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
        for command in block.commands if block.kind == "shell" else []:
            code = _typed(command, monkeypatch)
            said = capsys.readouterr().err
            assert code == 0, f"{block.page}:{block.line}: {command}: {said[-500:]}"


def _typed(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """What a command ends with: ours in this process, another in its own.  `> FILE` is the shell's."""
    program, *arguments = shlex.split(command)
    if program == "cd":
        monkeypatch.chdir(arguments[0])
        return 0
    if ">" in arguments:
        *arguments, _, file = arguments
        with open(file, "w") as output, redirect_stdout(output):
            return _typed(shlex.join([program, *arguments]), monkeypatch)
    if program != "spikdeploy":
        interpreter = {"python": sys.executable}[program]
        return subprocess.run([interpreter, *arguments], check=False).returncode
    monkeypatch.setattr(sys, "argv", ["spikdeploy", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_what_is_not_run_says_why() -> None:
    short = [f"{block.page}:{block.line}" for block in FOUND if block.excuse and len(block.excuse.split()) < 3]
    assert not short
    assert sum(block.excuse is None for block in FOUND) > len(FOUND) / 2
    assert {block.page for block in FOUND} >= {"README.md", "docs/formats.md"}
    assert all((ROOT / block.page).exists() for block in FOUND)


def test_blocks_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "index.md"
    command, excused = "    spikdeploy run a.spk \\\n        --json   # why\n    output", "    make all\n\n    no code"
    text = f"Text\n\n{command}\n\n<!-- not run: it takes a day -->\n\n{excused}\n"
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    first, second = blocks(page)
    assert first == Block("docs/index.md", 3, "shell", first.text, None)
    assert first.commands == ["spikdeploy run a.spk --json"]
    assert (second.commands, second.excuse) == (["make all"], "it takes a day")
