"""What a user must know of the images, in the JSON and on standard error; and labels, in every command."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from support.deep import some
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.cli.main import cli
from spikformer_deploy.data.read import read


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "digits.spk"
    program_of("digits-v1").save(path)
    return path


@pytest.fixture(scope="module")
def images(program: Path) -> tuple[Path, Path, list[int]]:
    """Digits in a folder without classes, the file of their labels, and those."""
    digits = read("digits", sd.Program.load(program).preprocess, limit=12)
    assert digits.labels is not None
    folder, lines = program.parent / "flat", []
    folder.mkdir()
    for i, (pixels, label) in enumerate(zip(digits.pixels, digits.labels, strict=True)):
        Image.fromarray(pixels[0]).save(folder / f"{i:02}.png")
        lines.append(f"{i:02}.png,{label}\n")
    (folder / ".hidden.png").write_bytes(b"")
    file = program.parent / "labels.csv"
    file.write_text("".join(lines))
    return folder, file, digits.labels.tolist()


def spikdeploy(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=True)


@pytest.mark.parametrize("command", some(["run", "verify"], long=["report", "compare"]))
def test_labels_and_notes_of_every_command(
    command: str, program: Path, images: tuple[Path, Path, list[int]], tmp_path: Path
) -> None:
    folder, file, labels = images
    own = {"run": [program], "verify": [program], "compare": ["digits-v1", "--targets", "loihi2"]}
    own["report"] = [program, "-o", tmp_path / "r.html"]
    done = spikdeploy(command, *own[command], "--input", folder, "--labels", file, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    note = f"{folder}: 1 hidden files or folders are left out"
    assert done.stderr.count(f"note: {note}") == 1
    right = float((sd.run(sd.Program.load(program), folder, timing="none").predictions == labels).mean())
    match command:
        case "run":
            assert (found["accuracy"], found["notes"]) == (right, [note])
        case "report":
            assert (found["accuracy"]["integer"], found["notes"][0]) == (right, note)
            assert "hidden files" in (tmp_path / "r.html").read_text()
        case "verify":
            assert (found["integer_accuracy"], found["notes"]) == (right, [note])
        case "compare":
            assert ({row["accuracy"] for row in found["targets"]}, found["notes"]) == ({right}, [note])


def test_a_wrong_file_of_labels_is_one_message(program: Path, images: tuple[Path, Path, list[int]]) -> None:
    done = spikdeploy("run", program, "--input", images[0], "--labels", program)
    assert isinstance(done.exception, InputError)
    assert "Save it as text in UTF-8" in str(done.exception)


def test_dark_folders_are_noted(program: Path, tmp_path: Path) -> None:
    """scikit-learn's own scale, 0 to 16, in files."""
    for i in range(3):
        Image.fromarray(np.full((16, 16), 14 + i, np.uint8)).save(tmp_path / f"{i}.png")
    result = sd.run(sd.Program.load(program), tmp_path, timing="none")
    scale, silence = result.notes
    assert scale == "no pixel is above 16 of 255: are they scaled otherwise?"
    assert silence.startswith("neurons never fire on these images in ")
    assert result.to_dict()["notes"] == list(result.notes)
