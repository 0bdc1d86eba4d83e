"""Training: what a recipe says, a killed run that goes on, and the models in the box."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from spikformer_deploy.converters.checkpoint import BUNDLED, bundled, load
from spikformer_deploy.errors import InputError
from spikformer_deploy.images import read
from spikformer_deploy.training import supervised
from spikformer_deploy.training.augment import augmented, moved
from spikformer_deploy.training.data import Labelled, epoch, read_training
from spikformer_deploy.training.recipe import Augment, read_recipe
from spikformer_deploy.training.supervised import accuracy, train

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = """
output = "tiny.safetensors"
[model]
family = "v1"
form = "cifar"
depth = 1
dim = 16
heads = 2
time_steps = 2
[data]
source = "digits"
channels = 1
size = 8
validation = 37
[augment]
shift = 1
crop_padding = 1
flip = 0.5
erase = 0.5
[optimiser]
epochs = 3
batch = 256
learning_rate = 1e-2
ema = 0.9
"""


class KilledError(Exception):
    """Stands for a kill after a batch."""


def kill_after(batches: int) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, remark: str) -> None:
        if done == batches:
            raise KilledError

    return report


def read_log(path: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


@pytest.mark.parametrize("keep_seconds", [1e9, 0.0])
def test_a_killed_run_ends_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_seconds: float
) -> None:
    """Killed in the second epoch: it goes on from the first one's end, or from the very batch."""
    monkeypatch.setattr(supervised, "KEEP_SECONDS", keep_seconds)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    whole = train(recipe, tmp_path / "whole.safetensors")
    with pytest.raises(KilledError):
        train(recipe, tmp_path / "killed.safetensors", report=kill_after(8))
    assert not (tmp_path / "killed.safetensors").exists()
    batches: list[int] = []
    resumed = train(recipe, tmp_path / "killed.safetensors", report=lambda done, total, remark: batches.append(done))
    assert batches == list(range(6 if keep_seconds else 9, 16))
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert resumed["test_accuracy"] == whole["test_accuracy"]
    files = {"tiny.toml", *(f"{name}.safetensors{kind}" for name in ("killed", "whole") for kind in ("", ".log"))}
    assert {p.name for p in tmp_path.iterdir()} == files
    killed, log = (read_log(tmp_path / f"{name}.safetensors.log") for name in ("killed", "whole"))
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert killed == log


def test_a_resume_file_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    with pytest.raises(KilledError):
        train(recipe, tmp_path / "a", report=kill_after(6))
    recipe.write_text(TINY.replace("epochs = 3", "epochs = 4"))
    with pytest.raises(InputError, match="belongs to another recipe"):
        train(recipe, tmp_path / "a")


def test_more_time_steps_start_from_a_trained_checkpoint(tmp_path: Path) -> None:
    recipe, once = tmp_path / "tiny.toml", TINY.replace("epochs = 3", "epochs = 1")
    recipe.write_text(once)
    train(recipe, tmp_path / "first.safetensors")
    start = f'[start]\ncheckpoint = "{tmp_path}/first.safetensors"\n'
    recipe.write_text(once.replace("time_steps = 2", "time_steps = 4").replace("1e-2", "1e-12") + start)
    train(recipe, tmp_path / "second.safetensors")
    first, second = (load(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    assert (first.config.time_steps, second.config.time_steps) == (2, 4)
    for before, after in zip(first.module.parameters(), second.module.parameters(), strict=True):
        torch.testing.assert_close(after, before)
    recipe.write_text(once.replace("dim = 16", "dim = 32") + start)
    with pytest.raises(InputError, match=r"start\.checkpoint"):
        train(recipe, tmp_path / "third.safetensors")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depth = 1", "depth = 0", r"depth"),
        ("depth = 1", 'depth = "one"', r"\$\.model\.depth"),
        ("heads = 2\n", "", r"required field missing @ \$\.model\.heads"),
        ("heads = 2", "heads = 2\nhands = 2", "extra fields found"),
        ('family = "v1"', 'family = "v9"', "family"),
        ("[model]", "[model", "no readable TOML"),
    ],
)
def test_a_bad_recipe_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(TINY.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_recipe(tmp_path / "bad.toml")


def test_augmentation_moves_and_keeps_the_size() -> None:
    images = torch.zeros(8, 1, 9, 9)
    images[:, :, 4, 4] = 1.0
    blank = torch.zeros(1)
    same = moved(images, torch.Generator().manual_seed(0), 0, 0.0, blank)
    torch.testing.assert_close(same, images)
    shifted = moved(images, torch.Generator().manual_seed(0), 2, 0.0, blank)
    assert shifted.shape == images.shape
    assert not torch.equal(shifted, images)
    torch.testing.assert_close(shifted.sum((1, 2, 3)), torch.ones(8), rtol=1e-4, atol=1e-4)


def test_an_image_is_cropped_mirrored_and_erased_within_its_borders() -> None:
    pixels, mean = np.arange(2 * 6 * 5, dtype=np.uint8).reshape(2, 6, 5) + 100, np.array([7, 9], np.uint8)
    rng = np.random.default_rng(0)
    assert np.array_equal(augmented(pixels, Augment(flip=1.0), mean, rng), pixels[:, :, ::-1])
    crops = [augmented(pixels, Augment(crop_padding=2), mean, rng) for _ in range(50)]
    assert all(crop.shape == pixels.shape for crop in crops)
    assert {int((crop == 0).sum() // 2) for crop in crops} > {0, 6, 10, 12}
    for _ in range(50):
        erased = augmented(pixels, Augment(erase=1.0), mean, rng)
        changed = erased != pixels
        assert np.array_equal(changed[0], changed[1])
        assert np.array_equal(erased[:, changed[0]], np.broadcast_to(mean[:, None], (2, changed[0].sum())))
        assert 1 <= changed[0].sum() <= 0.5 * 30


def test_an_epoch_is_the_same_from_any_batch_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    recipe = read_recipe(tmp_path / "tiny.toml")
    images, validation, preprocess, names = read_training(recipe.data)
    assert (len(images), len(validation), names) == (1400, 37, tuple("0123456789"))
    whole = list(epoch(images, preprocess, recipe.augment, 100, 3, 1))
    later = list(epoch(images, preprocess, recipe.augment, 100, 3, 1, first=11))
    assert len(whole) == 14
    assert all(torch.equal(a, b) for x, y in zip(whole[11:], later, strict=True) for a, b in zip(x, y, strict=True))
    other = next(epoch(images, preprocess, recipe.augment, 100, 3, 2))
    assert not torch.equal(other[0], whole[0][0])


@pytest.mark.parametrize("name", BUNDLED)
def test_the_models_in_the_box_know_their_digits(name: str) -> None:
    loaded = load(name)
    images = read("digits", loaded.preprocess, split="test")
    assert images.labels is not None
    reached = accuracy(loaded.module, Labelled(images.pixels, images.labels), loaded.preprocess)
    assert reached >= 0.97
    assert reached == pytest.approx(loaded.training["test_accuracy"], abs=1.5 / 360)
    recipe = read_recipe(EXAMPLES / BUNDLED[name].replace(".safetensors", ".toml"))
    assert loaded.training["recipe"]["optimiser"]["seed"] == recipe.optimiser.seed
    assert np.isclose(loaded.training["recipe"]["model"]["dim"], recipe.model.dim)


def test_the_box_stays_small() -> None:
    assert sum(bundled(name).stat().st_size for name in BUNDLED) < 2_000_000
