"""Which class an image is of: by folders, by names and numbers, and by a file of labels."""

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.models import SMALL
from support.networks import random_network

from spikformer_deploy.base.errors import InputError, ProgramError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.checkpoints import read as checkpoint
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.nn.zoo import build
from spikformer_deploy.pipeline.program import Program, from_bytes, to_bytes

PIXELS = (np.arange(16).reshape(4, 4) * 10 + 90).astype(np.uint8)
GREY = Preprocess(1, 4, (0.0,), (1.0,))


def made(root: Path, *names: str) -> Path:
    """Image files, each with a pixel of its own."""
    for i, name in enumerate(sorted(names)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS + np.uint8(i)).save(root / name)
    return root


def packed(root: Path) -> Path:
    target = root.parent / f"{root.name}.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, file.relative_to(root).as_posix())
    return target


def named(names: tuple[str, ...]) -> ImageSet:
    """One image of each name."""
    return ImageSet(len(names), np.arange(len(names)), names, "", lambda part: np.zeros((0, 1, 4, 4), np.uint8))


def found(images: ImageSet, classes: tuple[str, ...], count: int) -> list[int]:
    labels = images.of_classes(classes, count).labels
    assert labels is not None
    return labels.tolist()


@given(st.permutations([str(i) for i in range(10)]), st.integers(1, 10))
def test_numbers_mean_themselves_where_a_model_has_no_names(names: list[str], some: int) -> None:
    """Some of the folders 0 to 9, in any order: the fourth of them is not class 3."""
    chosen = tuple(sorted(names[:some]))
    assert found(named(chosen), (), 10) == [int(name) for name in chosen]


@given(st.sets(st.integers(0, 999), min_size=1, max_size=20))
def test_numbers_of_equal_length_are_clear(numbers: set[int]) -> None:
    assert found(named(tuple(f"{i:03}" for i in sorted(numbers))), (), 1000) == sorted(numbers)


def test_numbers_that_programs_sort_as_text_are_refused() -> None:
    """torchvision's ImageFolder takes 10 for class 2."""
    with pytest.raises(InputError, match=r"(?s)some programs count 10 before 2.*--labels"):
        named(tuple(sorted(map(str, range(11))))).of_classes((), 11)


def test_some_of_the_folders_are_not_counted_for_a_model_without_names() -> None:
    assert found(named(("ant", "bee", "cat")), (), 3) == [0, 1, 2]
    for count in (4, 2):
        with pytest.raises(InputError, match=f"classes named ant, bee, cat, and the model has {count} classes"):
            named(("ant", "bee", "cat")).of_classes((), count)
    with pytest.raises(InputError, match="labels from 0 to 7, and the model has the classes 0 to 4"):
        named(("0", "7")).of_classes((), 5)


def test_images_beside_the_folders_of_others_are_refused(tmp_path: Path) -> None:
    stray = made(tmp_path / "a", "cat/1.png", "dog/1.png", "preview.png")
    below = made(tmp_path / "b", "cat/1.png", "cat/old/1.png")
    for source, where in ((stray, "outside all folders and some in cat"), (below, "in cat and some in cat/old")):
        for path in (source, packed(source)):
            with pytest.raises(InputError, match=where):
                read(path, GREY)


def test_a_split_is_no_class(tmp_path: Path) -> None:
    root = made(tmp_path / "a", "train/1.png", "test/1.png", "test/2.png")
    for source in (root, packed(root)):
        images = read(source, GREY)
        assert (len(images), images.labels) == (2, None)


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "testing"), ("TRAIN", "Valid")])
def test_names_of_splits(train: str, test: str, tmp_path: Path) -> None:
    """In every spelling: else what was trained on would be tested on, unseen."""
    root = made(tmp_path / "a", f"{train}/cat/1.png", f"{train}/cat/2.png", f"{test}/cat/1.png")
    for source in (root, packed(root)):
        assert [len(read(source, GREY, split=split)) for split in ("train", "test")] == [2, 1]
        notes = read(source, GREY).notes
        assert notes == (f"{source}: of its folders {train} and {test}, the images are those of {test}",)


def test_backslashes_in_a_zip_are_refused(tmp_path: Path) -> None:
    """Some programs write them, and zip files have none: the folders of the classes would not be seen."""
    made(tmp_path / "a", "1.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a" / "1.png", "cat\\1.png")
    with pytest.raises(InputError, match="written with backslashes"):
        read(tmp_path / "a.zip", GREY)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    made(tmp_path / "far", "1.png")
    made(tmp_path / "a", "dog/1.png")
    (tmp_path / "a" / "cat").symlink_to(tmp_path / "far")
    assert read(tmp_path / "a", GREY).names == ("cat", "dog")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    with pytest.raises(InputError, match="loop: it leads to the same folder"):
        read(tmp_path / "a", GREY)


def test_links_to_nothing_and_unreadable_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "a", "cat/1.png", "dog/1.png")
    (tmp_path / "a" / "dog" / "2.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(InputError, match=r"dog/2\.png: it cannot be read"):
        read(tmp_path / "a", GREY)
    (tmp_path / "a" / "dog" / "2.png").unlink()
    listing = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(InputError, match="dog: it cannot be listed: Permission denied"):
        read(tmp_path / "a", GREY)


def test_what_is_left_out_is_noted(tmp_path: Path) -> None:
    root = made(tmp_path / "a", "cat/1.png", ".thumbs/1.png", "cat/._1.png")
    (root / "cat" / "list.txt").write_text("1")
    (root / "cat" / "2.heic").write_text("1")
    notes = [note.removeprefix(f"{root}: ") for note in read(root, GREY).notes]
    assert notes == ["2 hidden files or folders are left out", "2 files of other kinds are left out (.heic, .txt)"]


def test_two_files_of_one_name_in_a_zip_are_refused(tmp_path: Path) -> None:
    made(tmp_path / "a", "1.png", "2.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a" / "1.png", "1.png")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.write(tmp_path / "a" / "2.png", "1.png")
    with pytest.raises(InputError, match="two files in it have the same name"):
        read(tmp_path / "a.zip", GREY)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return made(tmp_path / "flat", "1.png", "2.png", "old/3.png", "old/4.png")


def labels(folder: Path, text: str) -> Path:
    file = folder.parent / "labels.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "text",
    [
        "1.png,dog\n2.png,cat\nold,dog\n",
        '\ufeff1.png, dog\r\n./2.png,0\r\n\r\n"old/",1',
        "2.png,cat\nold/4.png,1\nold/3.png,dog\n1.png,1",
    ],
)
def test_files_and_folders_get_names_or_numbers(flat: Path, text: str) -> None:
    for source in (flat, packed(flat)):
        images = read(source, GREY, labels=labels(flat, text))
        assert found(images, ("cat", "dog"), 2) == [1, 0, 1, 1]
        assert images.identity == read(source, GREY, labels=labels(flat, text)).identity


def test_a_name_comes_before_a_number(flat: Path) -> None:
    """Classes may be called 1 and 0, in that order."""
    images = read(flat, GREY, labels=labels(flat, "1.png,1\n2.png,0\nold,1\n"))
    assert found(images, ("1", "0"), 2) == [0, 1, 0, 0]
    assert found(images, (), 2) == [1, 0, 1, 1]


def test_labels_of_some_of_the_images(flat: Path) -> None:
    """A limit takes some, each with the class of its own line; the file is held against all of them."""
    file = labels(flat, "1.png,0\n2.png,1\nold/3.png,2\nold/4.png,3\n")
    whole, some = read(flat, GREY, labels=file), read(flat, GREY, labels=file, limit=2)
    for pixels, label in zip(some.pixels, found(some, (), 4), strict=True):
        assert np.array_equal(pixels, whole.pixels[label])


def test_lines_of_another_split_are_known(tmp_path: Path) -> None:
    root = made(tmp_path / "a", "train/1.png", "test/1.png")
    file = labels(root, "train/1.png,cat\ntest/1.png,dog\n")
    assert found(read(root, GREY, labels=file), ("cat", "dog"), 2) == [1]
    assert found(read(root, GREY, labels=file, split="train"), ("cat", "dog"), 2) == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.png,cat\n3.png,dog\n", "line 2: there is no file or folder 3.png"),
        ("file,class\n1.png,cat\n", "(?s)line 1: there is no file or folder file.*without a first line"),
        ("1.png,cat\n1.png,cat\n", "line 2: 1.png has a class already"),
        ("old,cat\nold/3.png,dog\n", "line 2: old/3.png has a class already"),
        ("1.png,cat\n", "3 of 4 images have no line: 2.png, old/3.png, old/4.png"),
        ("1.png,cat\n2.png,ant\nold,dog\n", r"labels\.csv: classes named ant, and the model's are cat, dog"),
        ("1.png,0\n2.png,2\nold,1\n", r"labels\.csv: classes named 2, and the model's are cat, dog"),
        ("1.png,0\n2.png,-1\nold,1\n", r"labels\.csv: classes named -1"),
        ("1.png\n", "line 1: it has 1 values"),
        ("1.png,cat,dog\n", "line 1: it has 3 values"),
        ("1.png,\n", "line 1: it has 2 values or an empty one"),
        ('"1.png,cat\n', "no readable list"),
        ("", "4 of 4 images have no line"),
    ],
)
def test_a_wrong_file_of_labels_is_named(flat: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(flat, GREY, labels=labels(flat, text)).of_classes(("cat", "dog"), 2)


def test_labels_without_a_name_in_the_model(flat: Path) -> None:
    with pytest.raises(InputError, match="classes named cat, and the model has 0 to 1, without names"):
        read(flat, GREY, labels=labels(flat, "1.png,cat\n2.png,0\nold,1\n")).of_classes((), 2)


def test_what_is_no_file_of_labels(flat: Path) -> None:
    (flat.parent / "latin.csv").write_bytes(b"1.png,caf\xe9\n")
    for name, message in (("nothing.csv", "no such file"), (".", "no such file"), ("latin.csv", "cannot be read")):
        with pytest.raises(InputError, match=message):
            read(flat, GREY, labels=flat.parent / name)


def test_labels_beside_labels_are_refused(flat: Path) -> None:
    file = labels(flat, "1.png,cat\n")
    for data in (np.zeros((1, 1, 8, 8), np.uint8), "digits"):
        with pytest.raises(InputError, match=r"--labels: .* is no folder or zip of images"):
            read(data, Preprocess(1, 8, (0.0,), (1.0,)), labels=file)


NAMES = [("cat", "cat"), ("cat", ""), ("cat", " dog")]


@pytest.mark.parametrize("names", NAMES)
def test_names_that_no_folder_could_mean_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    """In a program, by way of its file, and in a checkpoint."""
    config = replace(SMALL["cifar"], num_classes=2)
    module = build(config)
    preprocess = Preprocess(config.in_channels, config.image_size, (0.5,) * 3, (0.5,) * 3)
    message = "several classes are called cat" if names[1] == "cat" else "a class is called"
    checkpoint.save(tmp_path / "a.safetensors", module, config, preprocess, names, {})
    with pytest.raises(InputError, match=rf"a\.safetensors: {message}"):
        checkpoint.load(tmp_path / "a.safetensors")
    network = random_network(11, blocks=1)
    profile = load_profile("loihi2")
    images = Preprocess(*network.input.shape[:2], (0.0,) * network.input.shape[0], (1.0,) * network.input.shape[0])
    assert network.output.size == 4
    program = Program(network, map_network(network, profile, {}), profile, images, ("cat", "dog", "c", "d"), {})
    object.__setattr__(program, "labels", (*names, "c", "d"))
    with pytest.raises(ProgramError, match=message):
        from_bytes(to_bytes(program), "a.spk")
