"""All steps, one after the other: what is kept holds, what is written is what was found, and a call goes on."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.cli.main import cli
from spikformer_deploy.converters.checkpoints.read import Loaded, load
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.executors import reference
from spikformer_deploy.optimization import optimize as optimizing
from spikformer_deploy.optimization import sparser
from spikformer_deploy.optimization.optimize import STEPS, Optimized, Tried, parted
from spikformer_deploy.training.recipe import Data, Model, Optimiser, Recipe
from spikformer_deploy.training.supervised import train

Images = tuple[np.ndarray, np.ndarray]


def images(split: str, count: int) -> Images:
    """Digits as `read` gives them."""
    found = read("digits", Preprocess(1, 8, (0.0,), (1.0,)), split=split, limit=count)
    assert found.labels is not None
    return found.pixels, found.labels


def optimized(knowing: Path | Loaded, folder: Path, **options: object) -> Optimized:
    """With one stage of each fine-tuning: how many fit into minutes differs from machine to machine."""
    options = {"max_drop": 8.0, "epochs": 2.0, "first_weight": 0.75, "least_bits": 3, **options}
    options = {"shares": (0.0, 0.5), "stem_shares": (0.5,), **options}
    weight = sparser.next_weight
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparser, "next_weight", lambda rows, *of: weight(rows, *of) if len(rows) < 2 else None)
        return sd.optimize(knowing, images("train", 128), images("test", 60), folder=folder, **options)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows most digits."""
    file = tmp_path_factory.mktemp("knowing") / "knowing.safetensors"
    optimiser = Optimiser(epochs=6, batch=32, learning_rate=1e-2, warmup_epochs=0.5, ema=0.9)
    torch.set_num_threads(1)
    train(Recipe(str(file), Model("v1", "cifar", 1, 16, 2, 2), Data("digits", 1, 8), optimiser))
    return file


@pytest.fixture(scope="module")
def found(knowing: Path, tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    return optimized(knowing, tmp_path_factory.mktemp("optimize"))


@pytest.mark.long
def test_what_is_kept_holds(found: Optimized) -> None:
    """No row that is kept lost more than all steps may lose, and the last of them is what comes out."""
    kept = [row for row in found.rows if row.kept]
    assert kept[0] == found.rows[0]
    assert kept[0].accuracy > 0.4
    assert all(row.drop <= 8.0 + 1e-6 for row in kept)
    assert {row.step for row in found.rows} <= {"original", *STEPS}
    standing = [row for row in kept if row.step != "exit"][-1]
    assert found.run.accuracy == standing.accuracy
    assert found.run.events.synops == standing.synaptic_ops
    assert int(found.program.mapping.words.sum()) == standing.memory_words
    assert found.run_before.accuracy == found.rows[0].accuracy
    for row in found.rows:
        assert row.drop == pytest.approx(100 * (found.rows[0].accuracy - row.accuracy))


@pytest.mark.long
def test_details_reach_their_steps(found: Optimized) -> None:
    tried = {(row.step, row.setting.partition(",")[0]) for row in found.rows}
    assert ("sparser", "weight 0.75") in tried
    shares = {setting for step, setting in tried if step == "prune"}
    assert [setting for step, setting in tried if step == "stems"] == ["0.5 of the channels inside the stem cut"]
    assert "0 of the hidden channels cut" in shares <= {f"{share} of the hidden channels cut" for share in ("0", "0.5")}
    assert min(found.model.layer_bits.values()) >= 3


@pytest.mark.long
def test_fewer_bits_are_found(found: Optimized) -> None:
    assert found.model.layer_bits
    assert found.rounding == "calibrated"
    assert found.program.mapping.words.sum() < found.run_before.program.mapping.words.sum()


@pytest.mark.long
def test_the_checkpoint_compiles_to_the_program(found: Optimized) -> None:
    """The file alone, on the images that the search compiled on; its integers are those of the reference."""
    train = images("train", 128)[0]
    again = sd.compile(found.folder / "model.safetensors", calibrate_on=train, rounding=found.rounding)
    written = sd.Program.load(found.folder / "program.spk")
    assert again.network.digest() == written.network.digest() == found.program.network.digest()
    pixels = images("test", 20)[0]
    accumulators = reference.execute(written.network, pixels).accumulators
    assert np.array_equal(sd.run(written, pixels).accumulators, accumulators)
    assert np.array_equal(found.run.accumulators[:20], accumulators)


@pytest.mark.long
def test_the_front_is_what_nothing_beats(found: Optimized) -> None:
    priced = [row for row in found.rows if row.energy_mj is not None]
    for number, row in enumerate(found.rows):
        beaten = any(
            other.accuracy >= row.accuracy
            and other.energy_mj <= row.energy_mj
            and (other.accuracy > row.accuracy or other.energy_mj < row.energy_mj)
            for other in priced
            if row.energy_mj is not None
        )
        assert (number in found.front) is (row.energy_mj is not None and not beaten)


@pytest.mark.long
def test_a_call_goes_on_and_another_is_refused(
    found: Optimized, knowing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it chooses bits again")

    monkeypatch.setattr(optimizing, "choose_bits", refuse)
    again = optimized(knowing, found.folder)
    assert np.array_equal(again.run.accumulators, found.run.accumulators)
    assert [row for row in again.rows if row.step == "bits"] == [row for row in found.rows if row.step == "bits"]
    with pytest.raises(InputError, match="it is of another model, of other images or options"):
        optimized(knowing, found.folder, max_drop=7.0)
    with pytest.raises(InputError, match="it is of another model, of other images or options"):
        optimized(load(knowing, time_steps=1), found.folder)
    (found.folder / "search.json").write_text("{}")
    with pytest.raises(InputError, match="no readable record of a search"):
        optimized(knowing, found.folder)


@pytest.mark.long
def test_nothing_is_kept_that_loses_too_much(knowing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a step to bring a worse model, the search stays where it stands."""
    found = optimized(knowing, tmp_path / "none", max_drop=0.0, steps=["steps"])
    assert [row.kept for row in found.rows if row.step == "original"] == [True]
    for row in found.rows[1:]:
        assert row.kept is (row.drop <= 1e-6)


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"steps": ["sparse"]}, "there is no step 'sparse'"),
        ({"steps": []}, "no step is asked for"),
        ({"max_drop": 101.0}, "101.0 points"),
        ({"max_drop": -1.0}, "-1.0 points"),
    ],
)
def test_options_without_a_meaning(knowing: Path, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        optimized(knowing, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_images_need_labels(knowing: Path, tmp_path: Path) -> None:
    pixels = images("train", 20)[0]
    with pytest.raises(InputError, match="no labels"):
        sd.optimize(knowing, images("train", 20), pixels, folder=tmp_path / "new")


@pytest.mark.parametrize(
    ("points", "steps", "images", "share"),
    [(2.0, 4, 1000, 0.5), (1.0, 4, 200, 0.5), (0.3, 4, 200, 0.3), (0.0, 4, 200, 0.0), (1.0, 1, 10, 1.0)],
)
def test_a_step_may_lose_one_image_if_there_is_one(points: float, steps: int, images: int, share: float) -> None:
    assert optimizing._share(points, steps, images) == share


# --- a share of the training images ---------------------------------------------------------------------------------


def of_digits(knowing: Path, count: int) -> ImageSet:
    pixels, labels = images("train", count)
    return read((pixels, labels), load(knowing).preprocess)


@pytest.mark.long
def test_a_share_is_apart(knowing: Path) -> None:
    whole = of_digits(knowing, 50)
    training, validation = parted(whole, 0.3, 4)
    assert (len(training), len(validation)) == (35, 15)
    both = np.concatenate([training.pixels_in(slice(0, 35)), validation.pixels_in(slice(0, 15))])
    labels = np.concatenate([training.labels, validation.labels])
    assert sorted(zip(map(bytes, both), labels.tolist(), strict=True)) == sorted(
        zip(map(bytes, whole.pixels_in(slice(0, 50))), whole.labels.tolist(), strict=True)
    )
    assert parted(whole, 0.3, 4)[0].identity == training.identity != validation.identity
    assert parted(whole, 0.3, 5)[0].identity != training.identity


@pytest.mark.long
@pytest.mark.parametrize("share", [0.0, 1.0, 0.001, -0.5, 1.5, float("nan")])
def test_a_share_that_leaves_nothing(knowing: Path, share: float) -> None:
    with pytest.raises(InputError, match="--validation"):
        parted(of_digits(knowing, 50), share, 0)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_command_writes_what_it_found(knowing: Path, tmp_path: Path) -> None:
    asked = 'input = "digits"\nvalidation = 0.05\nsteps = ["steps", "bits"]\nmax_drop = 1\nleast_bits = 4\n'
    (tmp_path / "asked.toml").write_text(f"[optimize]\n{asked}")
    words = ("--config", str(tmp_path / "asked.toml"), "--max-drop", "8", "--epochs", "1")
    run = CliRunner()
    done = run.invoke(cli, ["optimize", str(knowing), *words, "-o", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    rows = [Tried(**row) for row in values["rows"]]
    assert {row.step for row in rows} == {"original", "steps", "bits"}
    assert set(load(tmp_path / "out" / "model.safetensors").layer_bits.values()) <= {4, 5, 6, 7, 8}
    with (tmp_path / "out" / "tried.csv").open() as stream:
        assert [float(row["accuracy"]) for row in csv.DictReader(stream)] == [row.accuracy for row in rows]
    assert all((tmp_path / "out" / name).exists() for name in ("before.html", "after.html", "model.safetensors"))
    compiled = ["compile", str(tmp_path / "out" / "model.safetensors"), "--calibrate", "digits"]
    again = tmp_path / "again.spk"
    assert run.invoke(cli, [*compiled, "--rounding", values["rounding"], "-o", str(again)]).exit_code == 0
    written = sd.Program.load(tmp_path / "out" / "program.spk")
    assert sd.Program.load(again).network.digest() == written.network.digest()
