"""Arrays in files: headers first, only what is wanted, some at a time."""

import gzip
import io
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data import arrays
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read

GREY = Preprocess(1, 4, (0.0,), (1.0,))
EVENTS = Preprocess(2, 4, (0.0, 0.0), (1.0, 1.0))


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": descr, "fortran_order": False, "shape": shape})
    return out.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=3),
    st.sampled_from(["u1", "<i8", ">u2", "f4", "?"]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 40),
    st.data(),
)
def test_blocks_join_to_what_numpy_reads(
    shape: list[int], dtype: str, by_column: bool, packed: bool, block: int, data: st.DataObject
) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype, order="F" if by_column else "C")
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, images=array, labels=np.arange(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK", block)
        found, labels = arrays.npz("a", file)
        count = data.draw(st.integers(0, shape[0]))
        blocks = [np.empty((0, *shape[1:]), dtype), *found.blocks(count)]
        np.testing.assert_array_equal(np.concatenate(blocks), array[:count])
        assert labels is not None
        np.testing.assert_array_equal(labels.values(), np.arange(3))


def test_only_what_is_wanted_is_unpacked(tmp_path: Path) -> None:
    """Another key may be as large as it likes, and hold objects."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        pixels = np.zeros((2, 1, 4, 4), np.uint8)
        archive.writestr("images.npy", header(pixels.shape) + pixels.tobytes())
        archive.writestr("bomb.npy", header((2**30,)) + bytes(2**20))
        archive.writestr("objects.npy", header((1,), "|O") + b"cos\nsystem\n(S'exit 1'\ntR.")
    assert len(read(tmp_path / "a.npz", GREY)) == 2


def test_what_is_packed_too_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MOST_PACKED", 3)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((2**18, 1, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"images\.npy is packed to less than a 3th"):
        read(tmp_path / "a.npz", GREY)


@pytest.mark.parametrize("labels", [False, True])
def test_shapes_are_looked_at_before_values(labels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read of an array that is of another shape, nor of labels that are more than the images."""
    images = np.zeros((3, 1, 4, 4 if labels else 5), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.zeros(2**20, int))
    reading = arrays._read_rows

    def read_rows(opened: arrays.Open, shape: tuple[int, ...], dtype: np.dtype, count: int) -> object:
        assert labels
        assert shape == images.shape
        return reading(opened, shape, dtype, count)

    monkeypatch.setattr(arrays, "_read_rows", read_rows)
    with pytest.raises(InputError, match="labels of shape" if labels else r"images of shape \(1, 4, 5\)"):
        read(tmp_path / "a.npz", GREY)


def test_more_than_fits_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MOST_VALUES", 5 * 16)
    np.save(tmp_path / "a.npy", np.ones((6, 1, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"a\.npy: 6 images of 16 values, and 80 are kept in memory at most"):
        read(tmp_path / "a.npy", GREY)
    assert len(read(tmp_path / "a.npy", GREY, limit=5)) == 5


DAMAGED = {
    "more than there is": header((1000, 1, 4, 4)) + bytes(100),
    "a negative size": header((-1, 1, 4, 4)) + bytes(100),
    "objects": header((1,), "|O") + b"cos\nsystem\n(S'exit 1'\ntR.",
    "an open bracket": b"\x93NUMPY\x01\0" + struct.pack("<H", 60) + b"{'descr': '|u1', 'shape': (".ljust(60),
    "nesting": b"\x93NUMPY\x01\0" + struct.pack("<H", 9000) + b"(" * 9000,
    "another version": b"\x93NUMPY\x09\0" + header((1, 1, 4, 4))[8:] + bytes(16),
    "nothing": b"\x93NUMPY",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_arrays_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(DAMAGED[name])
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", DAMAGED[name])
    for file in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match=file):
            read(tmp_path / file, GREY)


@pytest.mark.parametrize("name", ["a.npz", "a.zip", "a.npy", "a.idx", "a.idx.gz"])
def test_damaged_containers_are_refused_or_read(name: str, tmp_path: Path) -> None:
    """Some bytes turned, many times, most of them in the directory at the end of a zip: nothing but our own error."""
    rng, pixels = np.random.default_rng(0), np.full((2, 1, 4, 4), 200, np.uint8)
    idx, image = struct.pack(">4i", 0x803, 2, 4, 4) + pixels.tobytes(), io.BytesIO()
    Image.fromarray(pixels[0, 0]).save(image, "PNG")
    np.save(tmp_path / "a.npy", pixels)
    np.savez_compressed(tmp_path / "a.npz", images=pixels, labels=np.arange(2))
    (tmp_path / "a.idx").write_bytes(idx)
    (tmp_path / "a.idx.gz").write_bytes(gzip.compress(idx))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", image.getvalue())
    content = np.frombuffer((tmp_path / name).read_bytes(), np.uint8)
    for _ in range(300):
        changed = content.copy()
        places = rng.integers(0, len(changed), rng.integers(1, 5))
        if rng.random() < 0.5:
            places = len(changed) - 1 - places % min(200, len(changed))
        changed[places] = rng.choice([0, 1, 47, 255, int(rng.integers(256))], len(places))
        (tmp_path / "b").write_bytes(changed)
        with suppress(InputError):
            assert read(tmp_path / "b", GREY).pixels.shape[1:] == (1, 4, 4)


def test_damaged_zips_of_arrays_are_named(tmp_path: Path) -> None:
    """Every byte of a small one turned: refused, or read as what it is."""
    np.savez_compressed(tmp_path / "a.npz", images=np.arange(32, dtype=np.uint8).reshape(2, 1, 4, 4))
    content = (tmp_path / "a.npz").read_bytes()
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 0x41
        (tmp_path / "b.npz").write_bytes(changed)
        try:
            found = read(tmp_path / "b.npz", GREY)
        except InputError:
            continue
        assert found._read(slice(0, 2)).ravel().tolist() == list(range(32))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("x", "frames"), "it holds frames and x, which mean the same"),
        (("t", "x", "y", "p"), r"it holds events \(t, x, y, p\)"),
        (("pictures",), "it holds pictures"),
        ((), "it holds nothing"),
    ],
)
def test_keys_are_named(keys: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for key in keys:
            archive.writestr(f"{key}.npy", header((2, 1, 4, 4)) + bytes(32))
    with pytest.raises(InputError, match=message):
        arrays.npz("a.npz", tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_labels_of_any_whole_number(dtype: type, tmp_path: Path) -> None:
    images = np.full((3, 1, 4, 4), 200, np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([2, 0, 1], dtype))
    labels = read(tmp_path / "a.npz", GREY).labels
    assert labels is not None
    assert (labels.tolist(), labels.dtype) == ([2, 0, 1], np.int64)
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([2, 0.5, 1]))
    with pytest.raises(InputError, match="Give one integer label an image"):
        read(tmp_path / "a.npz", GREY)


FRAMES = np.random.default_rng(0).integers(0, 9, (5, 3, 2, 4, 4))


def test_recordings_are_the_first_axis() -> None:
    np.testing.assert_array_equal(read(FRAMES, EVENTS, frames=3).pixels, FRAMES)
    np.testing.assert_array_equal(read(FRAMES[0], EVENTS, frames=3).pixels, FRAMES[:1])
    with pytest.raises(InputError, match=r"(?s)time steps come first, and recordings second.*\(N, T, C, Y, X\)"):
        read(FRAMES.transpose(1, 0, 2, 3, 4), EVENTS, frames=3)
    with pytest.raises(InputError, match="the model takes recordings of 4 frames"):
        read(FRAMES, EVENTS, frames=4)
    with pytest.raises(InputError, match="the model takes images without time steps"):
        read(FRAMES, EVENTS)
    with pytest.raises(InputError, match="the model takes recordings of 3 frames"):
        read(FRAMES[:, 0], EVENTS, frames=3)
    with pytest.warns(UserWarning, match="as many recordings as time steps"):
        _ = read(FRAMES[:3], EVENTS, frames=3).pixels


@pytest.mark.parametrize("packed", [False, True])
def test_folders_and_zips_of_recordings(packed: bool, tmp_path: Path) -> None:
    """As SpikingJelly keeps them: a file a recording, key `frames`, float32, in class folders and splits."""
    for i, frames in enumerate(FRAMES):
        folder = tmp_path / "set" / ("train" if i < 3 else "test") / str(i % 2)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(folder / f"{i}.npz", frames=frames.astype(np.float32))
    source = tmp_path / "set"
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file in source.rglob("*.npz"):
                archive.write(file, file.relative_to(source))
        source = tmp_path / "set.zip"
    found = read(source, EVENTS, frames=3)
    np.testing.assert_array_equal(found.pixels, FRAMES[[4, 3]])
    assert found.labels is not None
    assert (found.labels.tolist(), found.names) == ([0, 1], ("0", "1"))
    assert len(read(source, EVENTS, frames=3, split="train")) == 3
    with pytest.raises(InputError, match=r"4\.npz: frames of shape \(3, 2, 4, 4\)"):
        _ = read(source, EVENTS, frames=2).pixels


def test_pixels_of_more_than_eight_bits_are_refused() -> None:
    with pytest.raises(InputError, match="max_value: the model takes pixels up to 1000"):
        read(np.full((1, 1, 4, 4), 1000), Preprocess(1, 4, (0.0,), (1.0,), 1000))


def test_a_count_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    hot = FRAMES.astype(np.uint16)
    hot[0, 0, 0, 0, 0] = 300
    with pytest.raises(InputError, match=r"pixels in \[0, 300\], and the model takes 0\.\.255"):
        read(hot, EVENTS, frames=3)
