"""Recordings of event cameras: cut into frames, and read by tonic."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.data.recordings import cut

EVENT = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
CAMERA = Preprocess(2, 34, (0.0, 0.0), (0.1, 0.1))


def recording(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    events = np.zeros(count, EVENT)
    events["x"], events["y"], events["p"] = (rng.integers(0, limit, count) for limit in (size, size, 2))
    events["t"] = np.sort(rng.integers(0, 10**5, count))
    return events


@given(st.integers(0, 400), st.integers(1, 20), st.integers(1, 5), st.integers(0, 10**6))
def test_frames_count_events_by_number(count: int, frames: int, size: int, seed: int) -> None:
    """Against one event at a time."""
    events = recording(np.random.default_rng(seed), count, size)
    expected = np.zeros((frames, 2, size, size), int)
    each = count // frames
    for i, event in enumerate(events):
        expected[min(i // each if each else i, frames - 1), event["p"], event["y"], event["x"]] += 1
    found = cut(events, (frames, 2, size, size))
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.minimum(expected, 255))


def test_an_event_outside_the_camera() -> None:
    events = recording(np.random.default_rng(0), 10, 9)
    events["x"][3] = 9
    with pytest.raises(ValueError, match="1 events outside 2 x 9 x 9"):
        cut(events, (2, 2, 9, 9))


def n_mnist(folder: Path) -> dict[str, np.ndarray]:
    """Ten recordings a split, in the files of the data set: five bytes an event."""
    rng, out = np.random.default_rng(0), {}
    (folder / "NMNIST").mkdir()
    for split in ("Train", "Test"):
        (folder / "NMNIST" / f"{split.lower()}.zip").touch()
        for label in range(10):
            events = recording(rng, 400 + label, 34)
            x, y, t, p = (events[name].astype(np.uint32) for name in "xytp")
            raw = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], 1).astype(np.uint8)
            place = folder / "NMNIST" / split / str(label)
            place.mkdir(parents=True)
            (place / "00001.bin").write_bytes(raw.tobytes())
            out[f"{split.lower()}{label}"] = events
    return out


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """tonic holds a data set for complete that has fewer files than the real one."""
    tonic = pytest.importorskip("tonic", reason="tonic is not installed: event data are NOT tested")
    monkeypatch.setattr(tonic.Dataset, "_folder_contains_at_least_n_files_of_type", lambda *_: True)


@pytest.mark.parametrize("split", ["train", "test"])
def test_n_mnist_through_tonic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    small(monkeypatch)
    recordings = n_mnist(tmp_path)
    images = read(f"tonic:NMNIST:{tmp_path}", CAMERA, split=split, frames=3)
    assert images.labels is not None
    assert images.labels.tolist() == list(range(10))
    assert images.names[3] == "3 - three"
    for label, pixels in enumerate(images.pixels):
        assert np.array_equal(pixels, cut(recordings[f"{split}{label}"], (3, 2, 34, 34)))
    other = {"train": "test", "test": "train"}[split]
    assert read(f"tonic:NMNIST:{tmp_path}", CAMERA, split=other, frames=3).identity != images.identity
    some = read(f"tonic:NMNIST:{tmp_path}", CAMERA, split=split, frames=3, limit=4)
    assert np.array_equal(some.pixels, images.pixels[some.labels])


def test_cifar10_dvs_keeps_the_last_tenth_of_each_class_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    folder = tmp_path / "CIFAR10DVS"
    for name in ("airplane", "bird"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            (folder / name / f"cifar10_{name}_{i:03}.aedat4").touch()
    (folder / "CIFAR10DVS.zip").touch()
    camera = Preprocess(2, 128, (0.0, 0.0), (1.0, 1.0))
    train_on, test_on = (read(f"tonic:CIFAR10DVS:{tmp_path}", camera, split=s, frames=2) for s in ("train", "test"))
    assert train_on.labels.tolist() == [0] * 18 + [2] * 18
    assert test_on.labels.tolist() == [0] * 2 + [2] * 2
    assert train_on.identity != test_on.identity


@pytest.mark.parametrize(
    ("source", "frames", "message"),
    [
        ("tonic:NMNIST:{}", 0, "the model takes one image"),
        ("tonic:NMNIST", 3, "names no data set and folder"),
        ("tonic:SHD:{}", 3, "names no data set and folder"),
        ("tonic:NMNIST:{}", 3, "test.zip or what it unpacks to is missing"),
    ],
)
def test_what_is_not_there(tmp_path: Path, source: str, frames: int, message: str) -> None:
    """Refused in a sentence, and nothing is fetched."""
    pytest.importorskip("tonic", reason="tonic is not installed: event data are NOT tested")
    with pytest.raises(InputError, match=message):
        read(source.format(tmp_path), CAMERA, frames=frames)
    assert not list(tmp_path.iterdir())


def test_a_damaged_recording_and_another_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    n_mnist(tmp_path)
    (tmp_path / "NMNIST" / "Test" / "4" / "00001.bin").write_bytes(b"\xff" * 50)
    source = f"tonic:NMNIST:{tmp_path}"
    with pytest.raises(InputError, match=r"4/00001.bin: it cannot be read"):
        _ = read(source, CAMERA, frames=2).pixels
    with pytest.raises(InputError, match=r"The model takes \(2, 32, 32\)"):
        read(source, Preprocess(2, 32, (0.0, 0.0), (1.0, 1.0)), frames=2)
