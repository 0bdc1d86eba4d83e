"""The table [optimize] of a file: what it may say, what is refused by its name, and that options win over it."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.blocks import blocks

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.cli.main import cli
from spikformer_deploy.cli.optimize import optimize_command
from spikformer_deploy.optimization.details import DETAILS, Asked, Details, read_asked
from spikformer_deploy.optimization.optimize import STEPS

PAGE = Path(__file__).parents[2] / "docs" / "optimize.md"


def read(folder: Path, text: str) -> Asked:
    (folder / "a.toml").write_text(text)
    return read_asked(folder / "a.toml")


def test_the_example_of_the_page_is_read(tmp_path: Path) -> None:
    (example,) = [block.text for block in blocks(PAGE) if "[optimize]" in block.text and "=" in block.text]
    asked = read(tmp_path, example)
    assert asked.options["input"] == "train/"
    assert set(asked.options["steps"]) < set(STEPS)
    assert asked.details.shares == (0.0, 0.25, 0.5)
    assert asked.details.stem_shares == (0.25,)
    assert asked.details != Details()


def test_the_page_has_every_detail_and_its_default() -> None:
    section = PAGE.read_text().split("### Details in a file")[1].split("\n### ")[0]
    written = dict(re.findall(r"^\| `(\w+)` \| `?(.+?)`? \|", section, re.M))
    usual = {"()": "[]", "None": "the recipe's", "False": "false"}
    assert written == {
        f.name: usual.get(f"{f.default}", f"{f.default:g}" if f.default else "") for f in fields(Details)
    }


def test_a_file_says_what_options_say() -> None:
    """All but what runs code, and what is not of the search."""
    options = {parameter.name for parameter in optimize_command.params} - {"model", "config", "as_json"}
    options -= {"factory", "arguments", "weights", "allow_pickle"}
    said = {field.name for field in fields(Asked)} - set(DETAILS)
    assert said == options - {"data"} | {"input"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_drop = 1", r"required field missing @ \$\.optimize; extra fields found \(max_drop\) @ \$"),
        ("[optimise]", r"extra fields found \(optimise; did you mean optimize\?\) @ \$"),
        ("[optimize]\nfrist_weight = 2", r"found \(frist_weight; did you mean first_weight\?\) @ \$\.optimize"),
        ("[optimize]\nbatch = 'x'", r"'x' is no whole number of at most \d+ @ \$\.optimize\.batch"),
        ("[optimize]\nfirst_weight = true", r"True is no finite number @ \$\.optimize\.first_weight"),
        ("[optimize]\nshares = 0.5", r"0\.5 is no list @ \$\.optimize\.shares"),
        ("[optimize]\nshares = [0, 'a']", r"'a' is no finite number @ \$\.optimize\.shares\[1\]"),
        ("[optimize]\nsteps = 'bits'", r"'bits' is no list @ \$\.optimize\.steps"),
        ("[optimize]\nvalidation = [1]", "validation is no text, and no number"),
        ("[optimize]\nheads = 0", "heads = 0, and it is at least 1"),
        ("[optimize", "no readable TOML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=rf"a\.toml: .*{problem}"):
        read(tmp_path, text)


def invoked(folder: Path, text: str, *words: str) -> Result:
    (folder / "a.toml").write_text(f"[optimize]\n{text}")
    command = ["optimize", "digits-v1", "--config", str(folder / "a.toml"), "-o", str(folder / "out"), *words]
    return CliRunner().invoke(cli, command)


SAID = 'input = "digits"\nvalidation = 0.1\nsteps = ["bits"]\n'


@pytest.mark.parametrize(
    ("text", "words", "problem"),
    [
        (f"{SAID}max_drop = 101", (), "a.toml: max_drop: 101.0 points of accuracy"),
        (f"{SAID}max_drop = 101", ("--max-drop", "102"), "--max-drop: 102.0 points of accuracy"),
        (f"{SAID}heads = 3", (), "a.toml: heads: 64 channels do not divide into 3 heads"),
        (SAID, ("--heads", "3"), "--heads: 64 channels do not divide into 3 heads"),
        (SAID.replace("bits", "bit"), (), "a.toml: steps: there is no step 'bit'"),
        (SAID, ("--steps", "bit"), "--steps: there is no step 'bit'"),
        (SAID.replace('"bits"', ""), (), "a.toml: steps: no step is asked for"),
        (f"{SAID}largest_weight = 0.5", (), "a.toml: largest_weight: 0.5, and the first is 1"),
        (f"{SAID}first_weight = 0", (), "a.toml: first_weight: 0.0, and it is above 0"),
        (f"{SAID}shares = [1]", (), "a.toml: shares: 1.0 of the channels"),
        (f"{SAID}stem_shares = [-1]", (), "a.toml: stem_shares: -1.0 of the channels"),
        (f"{SAID}least_bits = 9", (), "a.toml: least_bits: 9 bits"),
        (f"{SAID}learning_rate = 2", (), "a.toml: learning_rate: 2.0, and it is above 0 and at most 1"),
        (f"{SAID}batch = 0", (), "a.toml: batch: 0, and it is above 0"),
        (f"{SAID}seed = -1", (), "a.toml: seed: -1"),
        (SAID, ("--seed", "-1"), "--seed: -1"),
        (SAID.replace("0.1", "1"), (), "a.toml: validation: 1.0 of 1437 images"),
    ],
)
def test_errors_name_what_the_user_wrote(tmp_path: Path, text: str, words: tuple[str, ...], problem: str) -> None:
    done = invoked(tmp_path, text, *words)
    assert isinstance(done.exception, InputError)
    assert str(done.exception).removeprefix(f"{tmp_path}/").startswith(problem)
    assert not (tmp_path / "out").exists()


def test_what_neither_says_is_missing(tmp_path: Path) -> None:
    done = invoked(tmp_path, 'input = "digits"')
    assert done.exit_code == 2
    assert "Missing option '--validation'" in done.output


def test_python_names_its_options() -> None:
    for option, value in (("largest_weight", 0.5), ("shares", [0.5, 1.0]), ("least_bits", 1), ("batch", 0)):
        with pytest.raises(InputError, match=f"^{option}: "):
            sd.optimize("digits-v1", "digits", "digits", folder="nowhere", **{option: value})
