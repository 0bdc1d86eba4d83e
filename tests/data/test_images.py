"""Images from every kind of source, and a clear refusal of what is none."""

import gzip
import hashlib
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read

GREY = Preprocess(1, 16, (0.5,), (0.25,))
RGB = Preprocess(3, 32, (0.5,) * 3, (0.25,) * 3)


def test_digits_are_split_once_and_for_all() -> None:
    train, test = (read("digits", GREY, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert test.pixels.shape == (360, 1, 16, 16)
    assert (test.pixels.min(), test.pixels.max()) == (0, 255)
    assert np.bincount(test.labels).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    assert np.array_equal(test.pixels[:, :, ::2, ::2], test.pixels[:, :, 1::2, 1::2])
    rows = {p.tobytes() for p in test.pixels}
    assert len(rows & {p.tobytes() for p in train.pixels}) == 0


@pytest.mark.parametrize(
    ("split", "pixels", "labels"),
    [
        ("train", "c55533fa45b670a4c22db690f1f1cd89", "c1281028e5251b910fbb998bc625b6d6"),
        ("test", "ac6ada28192bd51afee49bd7498331d9", "4493b2052e7b4258621d51f10f17a672"),
    ],
)
def test_digits_are_those_that_the_models_in_the_box_saw(split: str, pixels: str, labels: str) -> None:
    """Bytes of what scikit-learn's load_digits and train_test_split gave when the models were trained."""
    images = read("digits", Preprocess(1, 8, (0.0,), (1.0,)), split=split)
    assert images.labels is not None
    assert hashlib.sha256(images.pixels.tobytes()).hexdigest().startswith(pixels)
    assert hashlib.sha256(images.labels.astype("<i8").tobytes()).hexdigest().startswith(labels)


def test_drawings_are_always_the_same_and_have_no_labels() -> None:
    first, second = (read("drawn", RGB) for _ in range(2))
    assert first.labels is None
    assert first.pixels.shape == (64, 3, 32, 32)
    assert len({p.tobytes() for p in first.pixels}) == 64
    assert np.array_equal(first.pixels, second.pixels)
    assert first.pixels.std((0, 2, 3)).min() > 20
    with pytest.raises(InputError, match="square RGB"):
        read("drawn", GREY)


def test_normalisation() -> None:
    real = GREY.normalised(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    assert real.ravel().tolist() == [-2.0, 2.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def test_splits_of_folders_and_zips(folder: Path, tmp_path: Path) -> None:
    for split, number in (("train", "0"), ("train", "1"), ("val", "2")):
        for name in ("cat", "dog"):
            (tmp_path / "both" / split / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name / f"{number}.png", tmp_path / "both" / split / name)
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        for file in (tmp_path / "both").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path / "both"))
    for source in (tmp_path / "both", tmp_path / "both.zip"):
        train, test = (read(source, RGB, split=split) for split in ("train", "test"))
        assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 1, 1], [0, 1])
        assert train.names == test.names == ("cat", "dog")
        assert np.array_equal(test.pixels, read(folder, RGB).pixels[[2, 5]])


def test_folders_and_zips(folder: Path, tmp_path: Path) -> None:
    images = read(folder, RGB)
    assert (len(images), images.names, images.labels.tolist()) == (6, ("cat", "dog"), [0, 0, 0, 1, 1, 1])
    first = np.asarray(Image.open(folder / "cat" / "0.png")).transpose(2, 0, 1)
    assert np.array_equal(images.pixels[0], first)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    assert np.array_equal(read(tmp_path / "images.zip", RGB).pixels, images.pixels)
    sizes = [len(pixels) for pixels, _ in images.batches(4)]
    assert sizes == [4, 2]
    assert len(read(folder, RGB, limit=2)) == 2


def test_arrays(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(5))
    images = read(tmp_path / "a.npz", RGB, limit=3)
    assert np.array_equal(images.pixels, pixels.transpose(0, 3, 1, 2)[:3])
    assert images.labels.tolist() == [0, 1, 2]
    np.save(tmp_path / "a.npy", pixels)
    assert read(tmp_path / "a.npy", RGB).labels is None


def test_idx_and_cifar(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16)).astype(np.uint8)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 4, 16, 16) + pixels.tobytes())
    labels = struct.pack(">2i", 0x801, 4) + bytes([1, 2, 3, 4])
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(gzip.compress(labels))
    images = read(tmp_path / "t10k-images-idx3-ubyte", GREY)
    assert np.array_equal(images.pixels[:, 0], pixels)
    assert images.labels.tolist() == [1, 2, 3, 4]
    records = np.random.default_rng(0).integers(0, 256, (2, 3073)).astype(np.uint8)
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
    cifar = read(tmp_path / "test_batch.bin", RGB)
    assert np.array_equal(cifar.pixels.reshape(2, -1), records[:, 1:])


def broken(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    (tmp_path / "small").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "small" / "a.png")
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 broken")
    (tmp_path / "text.txt").write_text("hello there")
    np.savez(tmp_path / "labels.npz", images=np.zeros((2, 3, 32, 32), np.uint8), labels=np.zeros(3, int))
    np.savez(tmp_path / "names.npz", pictures=np.zeros((2, 3, 32, 32), np.uint8))
    (tmp_path / "cut.idx").write_bytes(struct.pack(">4i", 0x803, 4, 16, 16) + b"123")
    return {
        "no such file": tmp_path / "missing",
        "no images in it": tmp_path / "empty",
        "cannot be decoded": tmp_path / "bad",
        "it is 8x8, and the model takes 32x32": tmp_path / "small",
        "no readable zip": tmp_path / "a.npz",
        "kind of file is not known": tmp_path / "text.txt",
        "for 2 images": tmp_path / "labels.npz",
        "it holds pictures": tmp_path / "names.npz",
        "truncated": tmp_path / "cut.idx",
        "which are not all whole": np.full((1, 3, 32, 32), 0.5),
        r"images of shape \(3, 31, 32\)": np.zeros((1, 3, 31, 32), np.uint8),
        "and the model takes 0..255": np.full((1, 3, 32, 32), 300),
    }


def test_bad_input_is_named(tmp_path: Path) -> None:
    for message, data in broken(tmp_path).items():
        with pytest.raises(InputError, match=message):
            _ = read(data, RGB).pixels
    with pytest.raises(InputError, match="--limit: 0 images"):
        read("digits", GREY, limit=0)
    with pytest.raises(InputError, match="digits"):
        read("digits", RGB)
