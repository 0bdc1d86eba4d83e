"""The notebooks of examples/ run from top to bottom, on less training and fewer images, and are notebooks."""

import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
SMALLER = {"EPOCHS": "1", "LIMIT": "20", "BITS": "(3,)"}
"""What a test puts in place of the sizes that a notebook names in capitals."""


@pytest.mark.long
@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"^([A-Z]+) = .*$", lambda m: f"{m[1]} = {SMALLER[m[1]]}", file.read_text(), flags=re.MULTILINE)
    names: dict[str, Any] = {"__name__": "notebook"}
    exec(compile(text, str(file), "exec"), names)
    made = {"first_report": "first_report.html", "bits_and_steps": "rates.svg"}.get(file.stem)
    assert made is None or (tmp_path / made).stat().st_size > 1000


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_jupytext_reads_it(file: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="the extra `docs` is not installed: notebooks are NOT converted")
    cells = jupytext.read(file).cells
    assert {cell.cell_type for cell in cells} == {"markdown", "code"}
    assert len(cells) > 5
