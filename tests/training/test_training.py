"""Training: what a recipe says, a killed run that goes on, and the models in the box."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spikformer_deploy.converters.checkpoint import BUNDLED, bundled, load
from spikformer_deploy.errors import InputError
from spikformer_deploy.images import read
from spikformer_deploy.training.data import moved
from spikformer_deploy.training.recipe import read_recipe
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
shift = 1
[optimiser]
epochs = 3
batch = 256
learning_rate = 1e-2
ema = 0.9
"""


class KilledError(Exception):
    """Stands for a kill after an epoch."""


def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    whole = train(recipe, tmp_path / "whole.safetensors")

    def kill_after_first(done: int, total: int, loss: float) -> None:
        if done == 1:
            raise KilledError

    with pytest.raises(KilledError):
        train(recipe, tmp_path / "killed.safetensors", report=kill_after_first)
    assert not (tmp_path / "killed.safetensors").exists()
    epochs: list[int] = []
    resumed = train(recipe, tmp_path / "killed.safetensors", report=lambda done, total, loss: epochs.append(done))
    assert epochs == [2, 3]
    assert (tmp_path / "killed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert resumed["test_accuracy"] == whole["test_accuracy"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.safetensors", "tiny.toml", "whole.safetensors"]


def test_a_resume_file_of_another_recipe_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)

    def kill(done: int, total: int, loss: float) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        train(recipe, tmp_path / "a", report=kill)
    recipe.write_text(TINY.replace("epochs = 3", "epochs = 4"))
    with pytest.raises(InputError, match="belongs to another recipe"):
        train(recipe, tmp_path / "a")


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


@pytest.mark.parametrize("name", BUNDLED)
def test_the_models_in_the_box_know_their_digits(name: str) -> None:
    loaded = load(name)
    images = read("digits", loaded.preprocess, split="test")
    pixels = torch.from_numpy(loaded.preprocess.normalised(images.pixels))
    reached = accuracy(loaded.module, pixels, torch.from_numpy(images.labels))
    assert reached >= 0.97
    assert reached == pytest.approx(loaded.training["test_accuracy"], abs=1.5 / 360)
    recipe = read_recipe(EXAMPLES / BUNDLED[name].replace(".safetensors", ".toml"))
    assert loaded.training["recipe"]["optimiser"]["seed"] == recipe.optimiser.seed
    assert np.isclose(loaded.training["recipe"]["model"]["dim"], recipe.model.dim)


def test_the_box_stays_small() -> None:
    assert sum(bundled(name).stat().st_size for name in BUNDLED) < 2_000_000
