"""What pixels a model gets from files of every depth and mode: the rules of docs/images.md."""

import os
import struct
import warnings
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.files import decoded, eight_bits
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.data.recordings import cut

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


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_several_images_in_a_file_are_refused(suffix: str, tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    with pytest.raises(InputError, match="it holds 2 images"):
        grey(tmp_path / f"a.{suffix}")


def png(bits: int, kind: int, samples: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG by hand: samples (Y, X * channels), big-endian where they have 16 bits; further chunks by name."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    header = struct.pack(">2I5B", samples.shape[1] // channels, len(samples), bits, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in samples)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(rows), "IEND": b""}
    out = b"\x89PNG\r\n\x1a\n"
    for name, content in parts.items():
        body = name.encode() + content
        out += struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return out


def tiff(samples: np.ndarray, **tags: int) -> bytes:
    """A TIFF by hand, (Y, X, channels): photometric, samples_per_pixel and sample_format as the tags say."""
    height, width, channels = samples.shape
    raw, bits = samples.astype(f"<{samples.dtype.str[1:]}").tobytes(), 8 * samples.dtype.itemsize
    depths = struct.pack(f"<{channels}H", *[bits] * channels)
    fields = [(256, width), (257, height), (258, bits), (259, 1), (262, tags.get("photometric", 1)), (273, 300)]
    fields += [(277, channels), (278, height), (279, len(raw)), (339, tags.get("sample_format", 1))]
    directory = b"".join(struct.pack("<2H2I", tag, 3, 1, value) for tag, value in fields)
    if channels > 1:
        one, several = (struct.pack("<2H2I", 258, 3, *rest) for rest in ((1, bits), (channels, 200)))
        directory = directory.replace(one, several)
    start = struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + directory + b"\0\0\0\0"
    return start.ljust(200, b"\0") + depths.ljust(100, b"\0") + raw


DEEP = PIXELS.astype(np.uint16) * 257
REFUSED = {
    "rgb16.png": (png(16, 2, np.repeat(DEEP, 3, 1)), "16 bits a channel and several channels"),
    "la16.png": (png(16, 4, np.repeat(DEEP, 2, 1)), "16 bits a channel and several channels"),
    "rgba16.png": (png(16, 6, np.repeat(DEEP, 4, 1)), "16 bits a channel and several channels"),
    "rgb16.tif": (tiff(np.dstack([DEEP] * 3), photometric=2), "16 bits a channel and several channels"),
    "cmyk16.tif": (tiff(np.dstack([DEEP] * 4), photometric=5), "16 bits a channel and several channels"),
    "white0.tif": (tiff(DEEP[..., None], photometric=0), "white is 0, in 16 bits"),
    "white0f.tif": (tiff((PIXELS / 255).astype(np.float32)[..., None], photometric=0, sample_format=3), "white is 0"),
    "signed8.tif": (tiff(PIXELS.astype(np.int8)[..., None], sample_format=2), "its pixels have signs"),
    "signed16.tif": (tiff(PIXELS.astype(np.int16)[..., None], sample_format=2), "its pixels have signs"),
    "lab.tif": (tiff(np.dstack([PIXELS] * 3), photometric=8), "colours of LAB"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 8\n%%EndComments\nshowpage\n", "none of PNG, JPEG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pillow_would_cut_or_run_is_refused(name: str, tmp_path: Path) -> None:
    """Of 16 bits in colour it keeps 8, of white as 0 it turns round 8 bits only, signs it drops."""
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    for preprocess in (GREY, RGB):
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            _ = read(tmp_path / name, preprocess).pixels


TAKEN = {
    "grey8.png": (png(8, 0, PIXELS), PIXELS),
    "grey16.png": (png(16, 0, DEEP), PIXELS),
    "hole16.png": (png(16, 0, DEEP, tRNS=struct.pack(">H", 30 * 257)), np.where(PIXELS == 30, 0, PIXELS)),
    "grey8.tif": (tiff(PIXELS[..., None]), PIXELS),
    "white0.tif": (tiff(PIXELS[..., None], photometric=0), 255 - PIXELS),
    "grey16.tif": (tiff(DEEP[..., None]), PIXELS),
    "rgb8.tif": (tiff(np.dstack([PIXELS] * 3), photometric=2), PIXELS),
    "grey16.pgm": (b"P5 12 8 65535\n" + DEEP.astype(">u2").tobytes(), PIXELS),
    "grey12.pgm": (b"P5 12 8 4095\n" + np.rint(PIXELS * (4095 / 255)).astype(">u2").tobytes(), PIXELS),
    "rgb16.ppm": (b"P6 12 8 65535\n" + np.repeat(DEEP, 3, 1).astype(">u2").tobytes(), PIXELS),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_has_a_rule(name: str, tmp_path: Path) -> None:
    content, expected = TAKEN[name]
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(grey(tmp_path / name), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    stored = [PIXELS, PIXELS[:, ::-1], PIXELS[::-1, ::-1], PIXELS[::-1], PIXELS.T, np.rot90(PIXELS)]
    stored += [PIXELS[::-1, ::-1].T, np.rot90(PIXELS, 3)]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored[orientation - 1].copy()).save(tmp_path / f"a.{suffix}", exif=exif)
    np.testing.assert_array_equal(grey(tmp_path / f"a.{suffix}"), PIXELS)


def test_an_image_that_lies_on_its_side_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS.T.copy()).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="upright it is 12x8, and the model takes 8x12"):
        grey(tmp_path / "a.png")


OF_PILLOW = ["1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "La", "RGBa"]


@pytest.mark.parametrize("mode", OF_PILLOW)
def test_every_mode_of_pillow_has_a_rule(mode: str) -> None:
    """Opaque, so that it is the plain conversion, or refused by name."""
    colour = Image.fromarray(np.dstack([PIXELS, 255 - PIXELS, PIXELS // 2]))
    image = {"PA": colour.convert("P").convert("PA"), "La": colour.convert("LA").convert("La")}.get(mode)
    image = image or (colour.convert("RGBA") if mode == "RGBa" else colour).convert(mode)
    if mode == "La":
        with pytest.raises(ValueError, match="not supported"):
            eight_bits("a", image, 8)
        return
    expected = {"PA": colour.convert("P"), "RGBa": colour}.get(mode, image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(eight_bits("a", image, 8).convert("RGB")), np.asarray(expected))


def test_inverted_cmyk_of_adobe(tmp_path: Path) -> None:
    """JPEG files of CMYK hold 255 - ink."""
    Image.fromarray(np.dstack([PIXELS] * 3 + [np.zeros_like(PIXELS)]), "CMYK").save(tmp_path / "a.jpg", quality=100)
    found = read(tmp_path / "a.jpg", RGB).pixels[0].astype(int)
    assert np.abs(found - (255 - PIXELS.astype(int))).max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "webp", "ppm"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_what_is_cut_off_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"a\.{suffix}: it cannot be decoded"):
        _ = read(tmp_path / f"a.{suffix}", RGB).pixels


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_reach_from_black_to_white(bits: int, tmp_path: Path) -> None:
    levels = (PIXELS % 2**bits).astype(np.uint8)
    packed = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., -bits:].reshape(8, -1), axis=1)
    header = struct.pack(">2I5B", 12, 8, bits, 0, 0, 0, 0)
    content = png(8, 0, packed)
    old = content[12:33]
    new = b"IHDR" + header
    (tmp_path / "a.png").write_bytes(content.replace(old, new + struct.pack(">I", zlib.crc32(new)), 1))
    np.testing.assert_array_equal(grey(tmp_path / "a.png"), levels * (255 // (2**bits - 1)))


def test_headers_are_looked_at_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that announce many pixels: refused by their size, and nothing is decoded."""
    huge = png(8, 0, PIXELS)
    header = b"IHDR" + struct.pack(">2I5B", 9000, 9000, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(huge.replace(huge[12:33], header + struct.pack(">I", zlib.crc32(header)), 1))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match="it is 9000x9000, and the model takes 8x12"):
        grey(tmp_path / "a.png")
    with pytest.raises(InputError, match="81,000,000 pixels, and an image may have 67,108,864"):
        decoded("a.png", (tmp_path / "a.png").read_bytes(), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_frames_of_any_number_that_is_whole(dtype: type, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 2 if dtype is bool else 200, (3, 4, 1, 8, 12))
    np.savez(tmp_path / "a.npz", frames=frames.astype(dtype))
    np.testing.assert_array_equal(read(tmp_path / "a.npz", GREY, frames=4).pixels, frames)


def test_what_is_not_whole_is_refused() -> None:
    with pytest.raises(InputError, match=r"real numbers from 0\.1 to 0\.1"):
        read(np.full((2, 1, 8, 12), 0.1), GREY)
    with pytest.raises(InputError, match=r"pixels in \[0, 300\]"):
        read(np.array([0, 300] * 48, np.float32).reshape(1, 1, 8, 12), GREY)


def test_pixels_of_another_scale_are_told() -> None:
    with pytest.warns(UserWarning, match="no pixel is above 16"):
        _ = read(np.full((2, 1, 8, 12), 16, np.uint8), GREY).pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read(np.full((2, 1, 8, 12), 160, np.uint8), GREY).pixels == 160).all()
        assert (read(np.full((2, 3, 1, 8, 12), 16, np.uint8), GREY, frames=3).pixels == 16).all()


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
    program = program_of("digits-v1")
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tif", "webp", "ppm"])
def test_damaged_images_are_refused_or_decoded(suffix: str, tmp_path: Path) -> None:
    """Some bytes turned, many times: nothing but our own error, whatever the decoder makes of it."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (8, 12, 3)).astype(np.uint8)).save(tmp_path / f"a.{suffix}")
    content = np.frombuffer((tmp_path / f"a.{suffix}").read_bytes(), np.uint8)
    for _ in range(400):
        changed = content.copy()
        places = rng.integers(0, min(len(changed), rng.choice([64, len(changed)])), rng.integers(1, 5))
        changed[places] = rng.choice([0, 1, 127, 255, int(rng.integers(256))], len(places))
        with suppress(InputError):
            assert decoded("a", changed.tobytes(), 3, (8, 12)).mode == "RGB"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A sparse file of a terabyte, and a zip that unpacks to more than an image can have."""
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(InputError, match=r"a\.png: 1,099,511,627,776 bytes, and 16,783,360 are read at most"):
        grey(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.png", bytes(2**25))
    with pytest.raises(InputError, match=r"b\.png: 33,554,432 bytes"):
        grey(tmp_path / "a.zip")
