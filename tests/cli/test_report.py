"""The command `report`: the commands of its page of the documentation, its files, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.programs import program_of

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
COMMANDS = re.findall(r"^    spikdeploy (report .*?)(?:  +#.*)?$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled program."""
    made = tmp_path_factory.mktemp("reports")
    program_of("digits-v2").save(made / "model.spk")
    return made


@pytest.mark.long
def test_commands_of_the_page_do_what_it_says(
    folder: Path, here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        done = here(*shlex.split(command), "--limit", "4")
        assert done.returncode == 0, done.stderr
    assert "<h1>Our model on Loihi 2</h1>" in (folder / "paper.html").read_text()
    files = set(re.findall(r"`(\w+)`", PAGE.split("| file | rows |")[1].split("\n\n")[0]))
    written = {path.name for path in (folder / "tables").iterdir()}
    # `confused` has no rows where every image is right
    assert written >= {f"{name}.{ending}" for name in files - {"confused"} for ending in ("csv", "tex")}
    assert {Path(name).stem for name in written} <= files
    assert len(list((folder / "figures").glob("*.svg"))) >= 12
    assert json.loads((folder / "report.json").read_text())["time"]["runtime"] == "bare"


@pytest.mark.long
def test_the_float_model_is_compared_on_the_same_images(folder: Path, here: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    of_digits = ("--input", "digits", "--limit", "3", "--model", "digits-v2")
    found = here("report", folder / "model.spk", *of_digits, "-o", page, "--json")
    values = json.loads(found.stdout)
    assert values["accuracy"]["float"] == 1.0
    shares = [layer["equal_spikes"] for layer in values["layers"] if layer["equal_spikes"] is not None]
    assert shares
    assert min(shares) > 0.9
    assert "float model 100.0%" in page.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--csv model.spk", "'model.spk' is no folder"),
        ("--figures ''", "error: --figures: the name is empty"),
        ("--tex model.spk/sub", "it cannot be written"),
        ("--csv tables --labels tables/classes.csv", "error: tables/classes.csv: --csv writes to it"),
        ("--csv tables --json ./tables/layers.csv", "error: tables/layers.csv: --csv writes to it"),
        ("--time-steps 3", "--time-steps: for --model"),
        ("--model digits-v1", "the program was compiled from another model file"),
        ("--model none.pth", "error: none.pth"),
    ],
)
def test_refusals_come_before_the_run(
    folder: Path, here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    Path("tables").mkdir(exist_ok=True)
    Path("tables/classes.csv").write_text("image,label\n")
    done = here("report", "model.spk", "--input", "digits", "-o", "refused.html", *shlex.split(options))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (folder / "refused.html").exists()
