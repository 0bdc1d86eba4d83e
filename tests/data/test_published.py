"""CIFAR and MNIST as they are published give the same images as folders of PNG files, split by split."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data import published
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.published import CIFAR_10, CIFAR_100
from spikformer_deploy.data.read import read

RGB = Preprocess(3, 32, (0.5,) * 3, (0.25,) * 3)
GREY = Preprocess(1, 28, (0.5,), (0.25,))
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCH = 4
Split = tuple[np.ndarray, np.ndarray]


def some(count: int, shape: tuple[int, ...], seed: int) -> Split:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape)).astype(np.uint8), rng.permutation(count).astype(np.uint8) % 10


def cifar_folder(folder: Path, splits: dict[str, Split]) -> Path:
    folder.mkdir(parents=True)
    pixels, labels = splits["train"]
    for i, name in enumerate(CIFAR_10.train):
        part = slice(i * BATCH, (i + 1) * BATCH)
        (folder / name).write_bytes(records(pixels[part], labels[part]))
    (folder / CIFAR_10.test[0]).write_bytes(records(*splits["test"]))
    (folder / CIFAR_10.names).write_text("\n".join(CLASSES) + "\n\n")
    return folder


def records(pixels: np.ndarray, labels: np.ndarray, coarse: bool = False) -> bytes:
    rows = (([7] if coarse else []) + [int(label)] for label in labels)
    return b"".join(bytes(row) + image.tobytes() for row, image in zip(rows, pixels, strict=True))


def png_folder(folder: Path, splits: dict[str, Split], names: list[str]) -> Path:
    for split, (pixels, labels) in splits.items():
        for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            (folder / split / names[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(folder / split / names[label] / f"{i:03}.png")
    return folder


def packed(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, folder.name)
    return target


@pytest.fixture
def cifar() -> dict[str, Split]:
    return {"train": some(5 * BATCH, (3, 32, 32), 0), "test": some(10, (3, 32, 32), 1)}


def same(source: Path, png: Path, preprocess: Preprocess, split: str) -> None:
    """Class after class, since files are sorted by it."""
    ours, theirs = (read(path, preprocess, split=split) for path in (source, png))
    order = np.argsort(ours.labels, kind="stable")
    assert np.array_equal(ours.labels[order], theirs.labels)
    assert np.array_equal(ours.pixels[order], theirs.pixels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_10(cifar: dict[str, Split], tmp_path: Path, split: str) -> None:
    folder = cifar_folder(tmp_path / "data" / "cifar-10-batches-bin", cifar)
    png = png_folder(tmp_path / "png", cifar, CLASSES)
    for source in (folder, folder.parent, packed(folder, tmp_path / "cifar-10-binary.tar.gz")):
        same(source, png, RGB, split)
        assert read(source, RGB, split=split).names == tuple(CLASSES)


def test_cifar_100_has_fine_labels(tmp_path: Path) -> None:
    pixels, labels = some(6, (3, 32, 32), 2)
    (tmp_path / "train.bin").write_bytes(records(pixels, labels, coarse=True))
    (tmp_path / "test.bin").write_bytes(records(pixels[:2], labels[:2], coarse=True))
    (tmp_path / CIFAR_100.names).write_text("\n".join(f"class{i}" for i in range(100)))
    for split, count in (("train", 6), ("test", 2)):
        images = read(tmp_path, RGB, split=split)
        assert images.labels.tolist() == labels[:count].tolist()
        assert np.array_equal(images.pixels, pixels[:count])
        assert images.names[99] == "class99"


@pytest.mark.parametrize("style", ["{}-{}-idx{}-ubyte", "{}-{}-idx{}-ubyte.gz", "{}-{}.idx{}-ubyte"])
def test_mnist(tmp_path: Path, style: str) -> None:
    splits = {"train": some(12, (1, 28, 28), 3), "test": some(7, (1, 28, 28), 4)}
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for start, (pixels, labels) in zip(("train", "t10k"), splits.values(), strict=True):
        images = struct.pack(">4i", 0x803, len(pixels), 28, 28) + pixels.tobytes()
        for kind, rank, raw in (("images", 3, images), ("labels", 1, struct.pack(">2i", 0x801, len(labels)))):
            raw = raw + labels.tobytes() if kind == "labels" else raw
            name = style.format(start, kind, rank)
            (folder / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    png = png_folder(tmp_path / "png", splits, [str(i) for i in range(10)])
    for source in (folder, tmp_path):
        for split in splits:
            same(source, png, GREY, split)
    (folder / style.format("t10k", "labels", 1)).unlink()
    with pytest.raises(InputError, match="t10k-labels-idx1-ubyte is missing"):
        read(folder, GREY, split="test")


@pytest.mark.parametrize("files", [["batches.meta", "test_batch", "data_batch_1"], ["meta", "train", "test"]])
def test_pickles_are_not_opened(tmp_path: Path, files: list[str]) -> None:
    (tmp_path / "cifar").mkdir()
    for name in files:
        (tmp_path / "cifar" / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    for source in (tmp_path / "cifar", packed(tmp_path / "cifar", tmp_path / "cifar-python.tar.gz")):
        with pytest.raises(InputError, match=r"(?s)pickles.*binary version"):
            read(source, RGB)


def damaged(cifar: dict[str, Split], tmp_path: Path) -> dict[str, Path]:
    folders = {name: cifar_folder(tmp_path / name, cifar) for name in ("missing", "cut", "named", "whole")}
    (folders["missing"] / "data_batch_3.bin").unlink()
    (folders["cut"] / "data_batch_2.bin").write_bytes(b"\0" * 3000)
    (folders["named"] / CIFAR_10.names).write_text("airplane\nbird\n")
    whole = packed(folders["whole"], tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other.tar.gz").write_bytes(gzip.compress(b"no archive"))
    (tmp_path / "empty.idx.gz").write_bytes(gzip.compress(b"\0\0\x08\x03"))
    return {
        "data_batch_3.bin are missing": folders["missing"],
        "data_batch_2.bin: 3000 bytes are no whole number of records": folders["cut"],
        "names 2 classes": folders["named"],
        "no readable idx file or .tar.gz": tmp_path / "half.tar.gz",
        "it is no readable idx": tmp_path / "other.tar.gz",
        "no idx file of unsigned bytes": tmp_path / "empty.idx.gz",
    }


def test_damaged_files_are_named(cifar: dict[str, Split], tmp_path: Path) -> None:
    for message, source in damaged(cifar, tmp_path).items():
        with pytest.raises(InputError, match=message):
            read(source, RGB, split="train")


def test_an_archive_that_unpacks_to_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MOST_PACKED", 3)
    member = tarfile.TarInfo("test_batch.bin")
    member.size = 2**22
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(InputError, match="packed to less than a 3th"):
        read(tmp_path / "a.tar.gz", RGB)


def test_members_are_looked_at_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that is too large ends it; what comes after is not even listed."""
    monkeypatch.setattr(published, "MOST_VALUES", 1000)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in ("large", "test_batch.bin"):
            member = tarfile.TarInfo(name)
            member.size = 1001
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    with tarfile.open(tmp_path / "a.tar.gz") as archive, pytest.raises(InputError, match="more than 1,000 bytes"):
        published._members(tmp_path / "a.tar.gz", archive)
    assert [member.name for member in archive.members] == ["large"]


def test_no_more_of_an_idx_file_is_unpacked_than_it_announces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(struct.pack(">4i", 0x803, 2, 28, 28) + bytes(2**24)))
    with pytest.raises(InputError, match="more there"):
        read(file, GREY)
    monkeypatch.setattr(published, "MOST_VALUES", 2 * 28 * 28 - 1)
    with pytest.raises(InputError, match=r"1,567 are kept in memory at most"):
        published._idx("a", gzip.compress(struct.pack(">4i", 0x803, 2, 28, 28) + bytes(2 * 28 * 28)))


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("test_batch.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.addfile(link)
    with pytest.raises(InputError, match="none of CIFAR's binary batches"):
        read(tmp_path / "a.tar.gz", RGB)
