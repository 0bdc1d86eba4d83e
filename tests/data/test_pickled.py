"""Image sets of every source go to another process, and read the same pixels there."""

import gzip
import hashlib
import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.deep import thinned

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.data.published import CIFAR_10
from spikformer_deploy.data.read import read

GREY = Preprocess(1, 16, (0.5,), (0.25,))
RGB = Preprocess(3, 32, (0.5,) * 3, (0.25,) * 3)
CAMERA = Preprocess(2, 34, (0.0, 0.0), (0.1, 0.1))
FRAMES = 3
COUNT = 5
BATCH = 2
RECORDINGS = 10
READ = f"""
import hashlib, json, pickle, sys
out = []
for images in pickle.load(sys.stdin.buffer):
    batches = list(images.batches({BATCH}))
    pixels = [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels, _ in batches]
    labels = [None if labels is None else labels.tolist() for _, labels in batches]
    out.append([pixels, labels, images.identity, list(images.notes), images.lost_in(slice(0, len(images)))])
print(json.dumps(out))
"""


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def digits(folder: Path) -> ImageSet:
    return read("digits", GREY, limit=COUNT)


def drawn(folder: Path) -> ImageSet:
    return read("drawn", RGB, limit=COUNT)


def array(folder: Path) -> ImageSet:
    return read(random_pixels(COUNT, 32, 32, 3), RGB)


def npy(folder: Path) -> ImageSet:
    np.save(folder / "a.npy", random_pixels(COUNT, 3, 32, 32))
    return read(folder / "a.npy", RGB)


def npz(folder: Path) -> ImageSet:
    np.savez(folder / "a.npz", images=random_pixels(COUNT, 3, 32, 32), labels=np.arange(COUNT))
    return read(folder / "a.npz", RGB, limit=3)


def class_folders(folder: Path) -> Path:
    for index, pixels in enumerate(random_pixels(COUNT, 32, 32, 3)):
        path = folder / "images" / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (folder / "images" / "notes.txt").touch()
    return folder / "images"


def image_folder(folder: Path) -> ImageSet:
    return read(class_folders(folder), RGB, limit=4)


def labelled_folder(folder: Path) -> ImageSet:
    (folder / "labels.csv").write_text("cat,3\ndog,7\n")
    return read(class_folders(folder), RGB, labels=folder / "labels.csv")


def single_image(folder: Path) -> ImageSet:
    return read(class_folders(folder) / "cat" / "0.png", RGB)


def zipped(folder: Path) -> ImageSet:
    images = class_folders(folder)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path in images.rglob("*.png"):
            archive.write(path, path.relative_to(images))
    return read(folder / "images.zip", RGB)


def recording_folder(folder: Path) -> ImageSet:
    for index, frames in enumerate(random_pixels(COUNT, FRAMES, 2, 34, 34)):
        path = folder / "recordings" / ("left", "right")[index % 2] / f"{index}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, frames=frames.astype(np.float32))
    return read(folder / "recordings", CAMERA, frames=FRAMES)


def idx(folder: Path) -> ImageSet:
    content = struct.pack(">4i", 0x803, COUNT, 16, 16) + random_pixels(COUNT, 16, 16).tobytes()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    labels = struct.pack(">2i", 0x801, COUNT) + bytes(range(COUNT))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return read(folder / "t10k-images-idx3-ubyte.gz", GREY)


def cifar_batch(folder: Path) -> ImageSet:
    (folder / "test_batch.bin").write_bytes(random_pixels(COUNT, 3073).tobytes())
    return read(folder / "test_batch.bin", RGB)


def cifar_folder(folder: Path) -> ImageSet:
    (folder / CIFAR_10.test[0]).write_bytes(random_pixels(COUNT, 3073).tobytes())
    return read(folder, RGB)


def cifar_archive(folder: Path) -> ImageSet:
    content = random_pixels(COUNT, 3073).tobytes()
    with tarfile.open(folder / "cifar.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(f"cifar-10-batches-bin/{CIFAR_10.test[0]}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return read(folder / "cifar.tar.gz", RGB)


def camera_recordings(folder: Path) -> ImageSet:
    """N-MNIST as tonic keeps it, five bytes an event; one pixel has more events than a frame holds."""
    tonic = pytest.importorskip("tonic", reason="tonic is not installed: event data are NOT tested")
    (folder / "NMNIST").mkdir()
    (folder / "NMNIST" / "test.zip").touch()
    rng = np.random.default_rng(0)
    for label in range(RECORDINGS):
        place = folder / "NMNIST" / "Test" / str(label)
        place.mkdir(parents=True)
        events = np.zeros((2000, 5), np.uint8)
        events[:, :2] = rng.integers(0, 34, (2000, 2))
        events[:500, :2] = label
        events[:, 4] = np.sort(rng.integers(0, 256, 2000))
        (place / "00001.bin").write_bytes(events.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        # tonic holds a data set for complete that has fewer files than the real one
        patch.setattr(tonic.Dataset, "_folder_contains_at_least_n_files_of_type", lambda *_: True)
        return read(f"tonic:NMNIST:{folder}", CAMERA, frames=FRAMES, limit=7)


SOURCES = (
    digits,
    drawn,
    array,
    npy,
    npz,
    image_folder,
    labelled_folder,
    single_image,
    zipped,
    recording_folder,
    idx,
    cifar_batch,
    cifar_folder,
    cifar_archive,
    camera_recordings,
)


@pytest.mark.parametrize("source", thinned(SOURCES, 3))
def test_a_set_reads_the_same_pixels_in_another_process(source: Callable[[Path], ImageSet], tmp_path: Path) -> None:
    """It is sent before it is read here, and in a batch in which it stands twice."""
    images = source(tmp_path)
    sent = pickle.dumps([images, images])
    command = [sys.executable, "-c", READ]
    done = subprocess.run(command, input=sent, capture_output=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr.decode()
    first, second = json.loads(done.stdout)
    assert first == second
    pixels, labels, identity, notes, lost = first
    here = list(images.batches(BATCH))
    assert len(here) > 0
    assert pixels == [hashlib.sha256(batch.tobytes()).hexdigest() for batch, _ in here]
    assert labels == [None if batch is None else batch.tolist() for _, batch in here]
    assert (identity, notes) == (images.identity, list(images.notes))
    assert lost == images.lost_in(slice(0, len(images)))
    assert (lost > 0) == (source is camera_recordings)


def test_a_zip_that_has_changed_meanwhile_is_named(tmp_path: Path) -> None:
    sent = pickle.dumps(zipped(tmp_path))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("another.png", b"")
    with pytest.raises(InputError, match=r"images\.zip: cat/0\.png: it is no longer there"):
        _ = pickle.loads(sent).pixels


def test_files_that_are_others_than_when_they_were_listed_are_named(tmp_path: Path) -> None:
    """Where a set is read on another machine, and where somebody writes to it meanwhile."""
    sent = pickle.dumps(zipped(tmp_path))
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in content:
            archive.writestr(name, content[max(content)])
    with pytest.raises(InputError, match=r"it is another one than when the images were listed"):
        _ = pickle.loads(sent).pixels
