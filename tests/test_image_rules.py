"""What pixels a model gets from files of every depth and mode: the rules of docs/images.md."""

import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spikformer_deploy as sd
from spikformer_deploy.errors import InputError
from spikformer_deploy.events import cut
from spikformer_deploy.images import Preprocess, read

PIXELS = (np.arange(96).reshape(8, 12) * 2 + 30).astype(np.uint8)
GREY = Preprocess(1, 8, (0.0,), (1.0,), 255, 12)
RGB = Preprocess(3, 8, (0.0,) * 3, (1.0,) * 3, 255, 12)


def grey(path: Path) -> np.ndarray:
    return read(path, GREY).pixels[0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS.astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(grey(path), PIXELS)


def test_twelve_bits_in_sixteen_are_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS.astype(np.uint16) * 16).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: its pixels have 16 bits and reach only 3520"):
        grey(tmp_path / "a.png")


@pytest.mark.parametrize(("factor", "taken"), [(1 / 255, True), (1.0, False), (-1 / 255, False)])
def test_real_numbers_have_a_rule_from_0_to_1(factor: float, taken: bool, tmp_path: Path) -> None:
    Image.fromarray((PIXELS * factor).astype(np.float32)).save(tmp_path / "a.tif")
    if taken:
        np.testing.assert_array_equal(grey(tmp_path / "a.tif"), PIXELS)
        return
    with pytest.raises(InputError, match="only 0 to 1 has a rule"):
        grey(tmp_path / "a.tif")


def test_integers_of_32_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS.astype(np.int32) * 257).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="32 bits"):
        grey(tmp_path / "a.tif")


def test_what_is_transparent_lies_on_black(tmp_path: Path) -> None:
    shown = np.dstack([np.full((8, 12, 3), 255, np.uint8), PIXELS])
    Image.fromarray(shown).save(tmp_path / "rgba.png")
    Image.fromarray(shown[..., [0, 3]]).save(tmp_path / "la.png")
    for name in ("rgba", "la"):
        np.testing.assert_array_equal(grey(tmp_path / f"{name}.png"), PIXELS)
    palette = Image.fromarray((PIXELS % 2).astype(np.uint8), "P")
    palette.putpalette([200, 200, 200, 90, 90, 90])
    palette.save(tmp_path / "p.png", transparency=0)
    np.testing.assert_array_equal(grey(tmp_path / "p.png"), np.where(PIXELS % 2, 90, 0))


def test_images_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(PIXELS).copy()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(grey(tmp_path / "a.png"), PIXELS)


def test_one_bit_and_palettes_and_cmyk(tmp_path: Path) -> None:
    Image.fromarray(PIXELS > 100).save(tmp_path / "one.png")
    np.testing.assert_array_equal(grey(tmp_path / "one.png"), np.where(PIXELS > 100, 255, 0))
    palette = Image.fromarray(PIXELS, "P")
    palette.putpalette([v for i in range(256) for v in (i, 255 - i, 7)])
    palette.save(tmp_path / "p.png")
    expected = np.stack([PIXELS, 255 - PIXELS, np.full_like(PIXELS, 7)])
    np.testing.assert_array_equal(read(tmp_path / "p.png", RGB).pixels[0], expected)
    Image.fromarray(np.dstack([PIXELS] * 3 + [np.zeros_like(PIXELS)]), "CMYK").save(tmp_path / "c.tif")
    np.testing.assert_array_equal(read(tmp_path / "c.tif", RGB).pixels[0], np.stack([255 - PIXELS] * 3))


def test_several_images_in_a_file_are_refused(tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    with pytest.raises(InputError, match="it holds 2 images"):
        grey(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_frames_of_any_number_that_is_whole(dtype: type, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 2 if dtype is bool else 200, (3, 4, 1, 8, 12))
    np.savez(tmp_path / "a.npz", frames=frames.astype(dtype))
    np.testing.assert_array_equal(read(tmp_path / "a.npz", GREY).pixels, frames)


def test_what_is_not_whole_is_refused() -> None:
    with pytest.raises(InputError, match=r"real numbers from 0\.1 to 0\.1"):
        read(np.full((2, 1, 8, 12), 0.1), GREY)
    with pytest.raises(InputError, match=r"pixels in \[0, 300\]"):
        read(np.array([0, 300] * 48, np.float32).reshape(1, 1, 8, 12), GREY)


def test_pixels_of_another_scale_are_told() -> None:
    with pytest.warns(UserWarning, match="no pixel is above 16"):
        read(np.full((2, 1, 8, 12), 16, np.uint8), GREY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(np.full((2, 1, 8, 12), 160, np.uint8), GREY)


def test_lost_events_are_counted() -> None:
    events = np.zeros(700, [("x", int), ("y", int), ("p", int)])
    with pytest.warns(UserWarning, match="445 of 700 events are lost"):
        assert cut(events, (1, 2, 4, 4)).max() == 255


def test_labels_outside_the_classes_are_an_error() -> None:
    images = read("digits", Preprocess(1, 16, (0.5,), (0.25,)), limit=30)
    assert images.of_classes((), 10) is images
    with pytest.raises(InputError, match="the model has the classes 0 to 2"):
        images.of_classes((), 3)


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    """Sorted as text, 10 stands before 2: the number of a folder is not the number of a class."""
    for name in ("1", "10", "2"):
        (tmp_path / name).mkdir()
        Image.fromarray(PIXELS).save(tmp_path / name / "a.png")
    images = read(tmp_path, GREY)
    found = images.of_classes(tuple(map(str, range(11))), 11)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 10, 2]
    assert (found.identity, found.pixels.shape) == (images.identity, images.pixels.shape)
    with pytest.raises(InputError, match="classes named 10, 2, and the model's are cat, 1"):
        images.of_classes(("cat", "1"), 2)


def test_a_run_counts_by_name(tmp_path: Path) -> None:
    """The same digits in an array and in folders, of which some classes are missing: the same accuracy."""
    program = sd.compile("digits-v1", check=False)
    digits = read("digits", program.preprocess, limit=120)
    assert digits.labels is not None
    some = np.isin(digits.labels, [2, 5, 9])
    for i in np.flatnonzero(some):
        folder = tmp_path / str(digits.labels[i])
        folder.mkdir(exist_ok=True)
        Image.fromarray(digits.pixels[i, 0]).save(folder / f"{i}.png")
    right = (sd.run(program, digits.pixels[some], timing="none").predictions == digits.labels[some]).mean()
    assert sd.run(program, tmp_path, timing="none").accuracy == right > 0.9


def test_what_is_no_file_is_told_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in (("pipe", "neither a file"), ("loop", "it cannot be read"), ("a" * 5000, "it cannot be read")):
        with pytest.raises(InputError, match=message):
            read(tmp_path / name, GREY)


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("cat/a.png", "dog/b.png", ".cache/c.png", "cat/._a.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS).save(tmp_path / "set" / name)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("cat/a.png", "dog/b.png", "__MACOSX/cat/a.png"):
            archive.write(tmp_path / "set" / "cat" / "a.png", name)
    for source in ("set", "set.zip"):
        found = read(tmp_path / source, GREY)
        assert (len(found), found.names) == (2, ("cat", "dog"))


def test_other_files_of_the_same_names_and_sizes_are_others(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    Image.fromarray(PIXELS).save(path)
    before = read(path, GREY).identity
    assert read(path, GREY).identity == before
    Image.fromarray(255 - PIXELS).save(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert read(path, GREY).identity != before
