"""Images of any size, resized and cropped while they are read."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.data.resized import _random_box
from spikformer_deploy.training import fit
from spikformer_deploy.training.data import Feed, epoch, read_test, read_training, read_unlabelled
from spikformer_deploy.training.pretrain import pretrain
from spikformer_deploy.training.recipe import Augment, Data, read_recipe
from spikformer_deploy.training.supervised import train

RECIPE = """
output = "tiny.safetensors"
[model]
family = "v1"
form = "imagenet"
depth = 1
dim = 16
heads = 2
time_steps = 1
[data]
source = "SOURCE"
channels = 3
size = 16
resize = 20
workers = 1
[augment]
flip = 0.5
crop_share = 0.3
[optimiser]
epochs = 2
batch = 4
learning_rate = 1e-2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve JPEGs to train on, four to test on, of two classes and of every size."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*rng.integers(8, 60, 2), 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.JPEG", quality=90)
    return root


@pytest.fixture(scope="module")
def packed(folder: Path) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in folder.rglob("*.JPEG"):
            archive.write(path, path.relative_to(folder))
    return folder.with_suffix(".zip")


def test_batches_are_the_same_for_any_number_of_workers(folder: Path, packed: Path) -> None:
    """And from a folder as from a zip, and from any batch on; what an epoch shows differs from the next one."""
    changes = Augment(flip=0.5, crop_share=0.3, erase=0.3)
    found = []
    for source, workers, first in ((folder, 0, 0), (packed, 2, 0), (packed, 0, 0), (folder, 1, 1)):
        images, _, preprocess, names = read_training(Data(str(source), 3, 16, resize=20))
        assert (len(images), names) == (12, ("cat", "dog"))
        batches = list(epoch(Feed(images, preprocess, changes, 4, 7, workers=workers), 0, first))
        assert len(batches) == 3 - first
        found.append(batches[1 - first :])
    for batches in found[1:]:
        for (x, y), (other_x, other_y) in zip(found[0], batches, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)
    assert not torch.equal(next(epoch(Feed(images, preprocess, changes, 4, 7), 1, 1))[0], found[0][0][0])


@pytest.mark.long
def test_a_killed_run_on_files_ends_as_an_uninterrupted_one(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "KEEP_SECONDS", 0.0)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.replace("SOURCE", str(packed)))

    def kill(done: int, total: int, remark: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "killed", progress=kill)
    recipe.write_text(recipe.read_text().replace("workers = 1", "workers = 0"))
    assert train(recipe, tmp_path / "killed")["test_accuracy"] == whole["test_accuracy"]
    states = [load(tmp_path / name).module.state_dict() for name in ("whole", "killed")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_an_encoder_is_pretrained_on_files(folder: Path, tmp_path: Path) -> None:
    text = RECIPE.replace("SOURCE", str(folder)).replace('"v1"', '"v2"').replace("epochs = 2", "epochs = 1")
    text = text.replace("time_steps = 1", "time_steps = 1\nstem_stages = 2")
    mask = "[mask]\ndecoder_dim = 16\ndecoder_depth = 1\ndecoder_heads = 2\n"
    (tmp_path / "tiny.toml").write_text(text + mask)
    found = pretrain(tmp_path / "tiny.toml", tmp_path / "encoder")
    assert np.isfinite(found["loss"])
    assert load(tmp_path / "encoder").preprocess == read_unlabelled(Data(str(folder), 3, 16, resize=20))[1]


def test_for_evaluation_the_middle_is_cut_out(tmp_path: Path) -> None:
    """Where nothing is to be resized the pixels are those of the file; else those of the whole image, resized."""
    rng = np.random.default_rng(1)
    for name, height, width in (("a", 20, 31), ("b", 80, 40)):
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(tmp_path / name / "0.png")
    images, _, preprocess, _ = read_training(Data(str(tmp_path), 3, 16, resize=20, mean=(0.5,) * 3, std=(0.25,) * 3))
    assert (preprocess.mean, preprocess.std) == ((0.5,) * 3, (0.25,) * 3)
    first, second = images.for_evaluation(slice(None))
    whole = np.asarray(Image.open(tmp_path / "a" / "0.png")).transpose(2, 0, 1)
    assert np.array_equal(first, whole[:, 2:18, 8:24])
    smaller = Image.open(tmp_path / "b" / "0.png").resize((20, 40), Image.Resampling.BICUBIC)
    assert np.array_equal(second, np.asarray(smaller).transpose(2, 0, 1)[:, 12:28, 2:18])


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.floats(0.01, 1.0), st.integers(0, 2**32 - 1))
def test_crops_lie_within_the_image(width: int, height: int, share: float, seed: int) -> None:
    left, top, wide, tall = _random_box(width, height, share, np.random.default_rng(seed))
    assert left >= 0 and top >= 0 and wide >= 1 and tall >= 1  # noqa: PT018
    assert left + wide <= width
    assert top + tall <= height
    if min(width, height) >= 100 and max(width, height) <= 1.3 * min(width, height):
        assert wide * tall >= (share - 0.03) * width * height or min(width - wide, height - tall) == 0


def test_crops_have_every_size_and_shape() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([_random_box(300, 200, 0.08, rng) for _ in range(2000)])
    shares, aspects = boxes[:, 2] * boxes[:, 3] / 60_000, boxes[:, 2] / boxes[:, 3]
    assert 0.075 < shares.min() < 0.1
    assert 0.87 < shares.max() <= 8 / 9 + 0.01  # a crop of 4 : 3 in an image of 3 : 2
    assert 0.74 < aspects.min() < 0.78
    assert 1.3 < aspects.max() < 1.36
    assert abs(np.log(aspects).mean()) < 0.05


def test_a_broken_image_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.JPEG").write_bytes((folder / "train" / name / f"{i}.JPEG").read_bytes())
    data = Data(str(tmp_path), 3, 16, resize=20, mean=(0.5,) * 3, std=(0.25,) * 3)
    images, _, preprocess, _ = read_training(data)
    (tmp_path / "dog" / "2.JPEG").write_bytes((tmp_path / "dog" / "2.JPEG").read_bytes()[:200])
    (tmp_path / "cat" / "1.JPEG").write_bytes(b"no image")
    for workers in (0, 2):
        with pytest.raises(InputError, match=r"(dog/2|cat/1)\.JPEG: it cannot be decoded"):
            list(epoch(Feed(images, preprocess, Augment(), 8, 0, workers=workers), 0))


def test_what_cannot_be_streamed_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"data\.resize: digits is no folder or zip"):
        read_training(Data("digits", 1, 16, resize=20))
    with pytest.raises(InputError, match=r"data\.resize: 12 pixels, of which 16"):
        read_training(Data(str(folder), 3, 16, resize=12))
    with pytest.raises(InputError, match=r"data\.mean: 1 values for 3 channels"):
        read_training(Data(str(folder), 3, 16, resize=20, mean=(0.5,)))
    data = Data(str(folder), 3, 16, resize=20)
    with pytest.raises(InputError, match="not those that were trained on"):
        read_test(data, read_training(data)[2], ("cat", "fish"))


def test_the_recipe_of_a_run_does_not_depend_on_its_workers(tmp_path: Path) -> None:
    from spikformer_deploy.training.recipe import identity

    found = set()
    for i, old in enumerate(("workers = 1", "nothing", "crop_share = 0.3")):
        (tmp_path / f"{i}.toml").write_text(RECIPE.replace(old, ""))
        found.add(identity(read_recipe(tmp_path / f"{i}.toml")))
    assert len(found) == 2
