"""CIFAR's binary batches and MNIST's idx files as they are published: single files, folders with splits, archives."""

from __future__ import annotations

import gzip
import io
import math
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.arrays import MOST_VALUES
from spikformer_deploy.data.files import MOST_PACKED, SMALL_PACKED, bytes_of

CIFAR_SHAPE = (3, 32, 32)
CIFAR_PIXELS = math.prod(CIFAR_SHAPE)
IDX_BYTES = b"\x00\x00\x08"
"""An idx file of unsigned bytes begins so; the next byte is its rank."""
GZIP = b"\x1f\x8b"
FOLDERS = ("", "cifar-10-batches-bin", "cifar-100-binary", "raw", "MNIST/raw", "FashionMNIST/raw", "KMNIST/raw")
"""Where, below the folder that is named, the files may be: as the archives have it, and as torchvision leaves it."""


class Arrays(NamedTuple):
    """pixels (N, Y, X) or (N, C, Y, X) uint8, labels (N,) or None, the names of the classes (may be empty)."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cifar:
    """One of the two CIFARs: its batches, the file of its class names, and the label bytes before each image."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int


CIFAR_10 = Cifar(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",), "batches.meta.txt", 1)
CIFAR_100 = Cifar(("train.bin",), ("test.bin",), "fine_label_names.txt", 2)
PICKLED = ({"batches.meta", "test_batch"}, {"meta", "train", "test"})
"""Files of the two CIFARs in their version for Python."""

Load = Callable[[str], bytes]


def read_cifar(path: Path) -> Arrays:
    """One CIFAR-10 or CIFAR-100 (fine labels) binary batch.  Raises InputError for another number of bytes."""
    raw = _whole(path)
    # only 3,074 records of CIFAR-10, or a multiple of that, would be as long as records of CIFAR-100
    for label_bytes in (CIFAR_10.label_bytes, CIFAR_100.label_bytes):
        if raw and len(raw) % (label_bytes + CIFAR_PIXELS) == 0:
            return _records(str(path), raw, label_bytes)
    raise InputError(str(path), f"{len(raw)} bytes are no whole number of CIFAR records (3,073 or 3,074 bytes)")


def read_idx(path: Path) -> Arrays:
    """An idx file of images; the labels stand beside it under the usual name.  Raises InputError for another file."""
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    labels = None if beside == path or not beside.exists() else _idx(str(beside), _whole(beside))
    return Arrays(_idx(str(path), _whole(path)), labels, ())


def is_idx(path: Path) -> bool:
    """Whether a file, packed by gzip or not, begins as an idx file of unsigned bytes."""
    with path.open("rb") as stream:
        head = stream.read(3)
    if not head.startswith(GZIP):
        return head == IDX_BYTES
    try:
        with gzip.open(path) as packed:
            return packed.read(3) == IDX_BYTES
    except (OSError, EOFError, zlib.error):
        return False


def read_folder(path: Path, split: str) -> Arrays | None:
    """The split of a folder of CIFAR's or MNIST's files; None where it has no such files.

    Raises InputError where files are missing or damaged, or are those of CIFAR's version for Python.
    """
    for folder in (path / name for name in FOLDERS):
        if folder.is_dir():
            files = frozenset(file.name for file in folder.iterdir() if file.is_file())
            images = _read_split(str(folder), files, partial(bytes_of, folder, most=MOST_VALUES), split)
            if images is not None:
                return images
    return None


def read_archive(path: Path, split: str) -> Arrays:
    """The split of a published .tar.gz of CIFAR.  Raises InputError for any other archive."""
    with _opened(path) as archive:
        members = _members(path, archive)
        images = _read_split(str(path), frozenset(members), partial(_member, archive, members), split)
    if images is None:
        raise InputError(str(path), "it holds none of CIFAR's binary batches", "Unpack it, and give the folder.")
    return images


def _members(path: Path, archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The files by their names, without folders; sizes are taken from headers, before anything is unpacked."""
    members = {}
    left = min(MOST_VALUES, MOST_PACKED * max(path.stat().st_size, SMALL_PACKED))
    for member in archive:
        left -= member.size
        if left < 0:
            problem = f"it is packed to less than a {MOST_PACKED}th of its size"
            raise InputError(str(path), f"{problem}, or holds more than {MOST_VALUES:,} bytes", "Unpack it before.")
        if member.isfile():
            members[member.name.rpartition("/")[2]] = member
    return members


def _member(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> bytes:
    """The bytes of a file in an archive."""
    member = archive.extractfile(members[name])
    assert member is not None  # a regular file
    return member.read()


def _whole(path: Path) -> bytes:
    return bytes_of(path.parent, path.name, MOST_VALUES)


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive at `path`; whatever is damaged in it becomes an InputError."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            yield archive
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(str(path), f"it is no readable idx file or .tar.gz: {error}", "Fetch it again.") from None


def _read_split(place: str, files: frozenset[str], load: Load, split: str) -> Arrays | None:
    """The split of whichever published set these files are, or None where they are of none."""
    for layout in (CIFAR_10, CIFAR_100):
        if files & {*layout.train, *layout.test}:
            return _cifar_split(place, layout, files, load, split)
    if any(pickled <= files for pickled in PICKLED):
        problem = "it is CIFAR's version for Python: pickles, which run code when they are opened"
        raise InputError(place, problem, "Use the binary version (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz).")
    return _mnist_split(place, files, load, split)


def _cifar_split(place: str, layout: Cifar, files: frozenset[str], load: Load, split: str) -> Arrays:
    """One split of a CIFAR, with the names of its classes where their file is there."""
    batches = layout.train if split == "train" else layout.test
    missing = [name for name in batches if name not in files]
    if missing:
        raise InputError(place, f"of CIFAR's {split} batches, {', '.join(missing)} are missing", "Unpack it again.")
    parts = [_records(f"{place}/{name}", load(name), layout.label_bytes) for name in batches]
    labels = np.concatenate([part.labels for part in parts if part.labels is not None])
    names = tuple(load(layout.names).decode("utf-8", "replace").split()) if layout.names in files else ()
    if names and labels.max() >= len(names):
        raise InputError(place, f"label {labels.max()}, and {layout.names} names {len(names)} classes")
    return Arrays(np.concatenate([part.pixels for part in parts]), labels, names)


def _mnist_split(place: str, files: frozenset[str], load: Load, split: str) -> Arrays | None:
    """MNIST and kin: `train-images-idx3-ubyte`, the same with t10k, and of labels; a dot for a dash, .gz or not."""
    start = "train" if split == "train" else "t10k"
    # backwards, so that of a file and its packed twin the one that need not be unpacked is kept
    known = {name.removesuffix(".gz").replace(".idx", "-idx"): name for name in sorted(files, reverse=True)}
    if not {"train-images-idx3-ubyte", "t10k-images-idx3-ubyte"} & set(known):
        return None
    images = known.get(f"{start}-images-idx3-ubyte")
    labels = known.get(f"{start}-labels-idx1-ubyte")
    if images is None or labels is None:
        problem = f"{start}-{'images-idx3' if images is None else 'labels-idx1'}-ubyte is missing"
        raise InputError(place, problem, "Four files belong together: images and labels to train on, and to test.")
    return Arrays(_idx(f"{place}/{images}", load(images)), _idx(f"{place}/{labels}", load(labels)), ())


def _records(place: str, raw: bytes, label_bytes: int) -> Arrays:
    """Records of label bytes (the last one counts) and 3 x 32 x 32 pixels."""
    length = label_bytes + CIFAR_PIXELS
    if not raw or len(raw) % length:
        raise InputError(place, f"{len(raw)} bytes are no whole number of records of {length:,}", "Fetch it again.")
    records = np.frombuffer(raw, np.uint8).reshape(-1, length)
    return Arrays(records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE), records[:, label_bytes - 1], ())


def _idx(place: str, raw: bytes) -> NDArray[np.uint8]:
    """The array of an idx file, packed or not, of which no more is unpacked than its header announces."""
    packed = io.BytesIO(raw)
    stream = gzip.GzipFile(fileobj=packed) if raw.startswith(GZIP) else packed
    try:
        head = stream.read(4)
        rank = head[3] if len(head) == 4 else 0
        sizes = stream.read(4 * rank)
        if head[:3] != IDX_BYTES or not rank or len(sizes) < 4 * rank:
            raise InputError(place, "it is no idx file of unsigned bytes")
        shape = tuple(np.frombuffer(sizes, ">i4").tolist())
        count = math.prod(shape)
        if min(shape) < 0 or count > MOST_VALUES:
            raise InputError(place, f"{shape} values, and {MOST_VALUES:,} are kept in memory at most")
        # one more than announced, to see whether there is more
        values = stream.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(place, f"it is no readable gzip file: {error}") from None
    if len(values) != count:
        present = f"{len(values)} there" if len(values) < count else "more there"
        raise InputError(place, f"it is truncated or damaged: {shape} values announced, {present}", "Fetch it again.")
    return np.frombuffer(values, np.uint8).reshape(shape)
