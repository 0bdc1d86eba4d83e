"""Images and labels from what users have: folders, zip files, arrays, idx and CIFAR files, and scikit-learn's digits.

Pixels are uint8 (C, Y, X) of the size that the model takes; nothing is resized, cropped or normalised silently.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.errors import InputError
from spikformer_deploy.events import is_events, read_recordings
from spikformer_deploy.image_files import (
    MOST_PACKED,
    SUFFIXES,
    Archive,
    Files,
    decoded,
    in_archive,
    in_folder,
    pixels_of,
    single,
)
from spikformer_deploy.published import GZIP, is_idx, read_archive, read_cifar, read_folder, read_idx

DIGITS_TEST_IMAGES = 360
DIGITS_SEED = 0
SHUFFLE_SEED = 0
"""Folders are sorted by class, so a `limit` takes the first images of one fixed shuffle."""
MOST_NAMED = 12
"""Classes that an error lists."""
DARK = 32
"""Pixels of 8 bits of which none is brighter are more likely of another scale (scikit-learn's digits reach 16)."""


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What a model takes: real input = (pixel / max_value - mean) / std.

    channels, size  of the images; width where they are not square, else 0; mean, std  one a channel
    """

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_value: int = 255
    width: int = 0

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width."""
        return self.size, self.width or self.size

    def normalised(self, pixels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Real input of the float model, (..., C, Y, X) float32."""
        shape = (-1, 1, 1)
        mean, std = np.reshape(self.mean, shape), np.reshape(self.std, shape)
        return ((pixels / self.max_value - mean) / std).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images that are read when they are asked for.

    labels    (N,) int64 class indices, or None; names: class names in the order of their indices (may be empty)
    identity  sha256 that tells these images from others (of files: names, sizes and times of change)
    """

    count: int
    labels: NDArray[np.int64] | None
    names: tuple[str, ...]
    identity: str
    _read: Callable[[slice], NDArray[np.uint8]] = field(repr=False)

    def __len__(self) -> int:
        return self.count

    def of_classes(self, classes: tuple[str, ...], count: int) -> ImageSet:
        """The same images with the labels of a model of `count` classes, matched by name where both have names.

        classes  the model's names, in the order of its logits; empty: labels are taken as numbers of classes
        Raises InputError for a name that is none of the model's, and for a label outside 0 to count - 1.
        """
        if self.labels is None or not (classes and self.names):
            self._check_labels(count)
            return self
        number = {name: i for i, name in enumerate(classes)}
        unknown = [name for name in self.names if name not in number]
        if unknown or len(number) < len(classes):
            problem = f"classes named {_few(unknown or self.names)}, and the model's are {_few(classes)}"
            raise InputError("labels", problem, "Give the folders the names of the model's classes.")
        order = np.array([number[name] for name in self.names], np.int64)
        self._check_labels(len(order))
        return replace(self, labels=order[self.labels], names=classes)

    def _check_labels(self, classes: int) -> None:
        if self.labels is not None and len(self.labels):
            least, most = int(self.labels.min()), int(self.labels.max())
            if least < 0 or most >= classes:
                problem = f"labels from {least} to {most}, and the model has the classes 0 to {classes - 1}"
                raise InputError("labels", problem, "Number the classes from 0, or give images without labels.")

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All images, (N, C, Y, X) or (N, T, C, Y, X) uint8."""
        return self._read(slice(0, self.count))

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64] | None]]:
        """Images and labels from image `start` on, `size` at a time, in order; the next ones are read meanwhile."""
        parts = [slice(first, min(first + size, self.count)) for first in range(start, self.count, size)]
        with ThreadPoolExecutor(1) as reader:
            reading = [reader.submit(self._read, part) for part in parts[:1]]
            for part, following in zip_longest(parts, parts[1:]):
                pixels = reading.pop().result()
                if following is not None:
                    reading.append(reader.submit(self._read, following))
                yield pixels, None if self.labels is None else self.labels[part]


def read(
    data: str | Path | NDArray[Any],
    preprocess: Preprocess,
    *,
    limit: int | None = None,
    split: str = "test",
    frames: int = 0,
) -> ImageSet:
    """The images of `data` for a model that takes `preprocess`.

    data   "digits", "drawn" (see drawn.py), an array, a folder or zip of images (class sub-folders are labels), .npz
           (images, labels), .npy; an idx file (labels beside it), a CIFAR-10/100 binary batch, a folder of either as
           published, CIFAR's binary .tar.gz; recordings of an event camera, tonic:NAME:FOLDER (see events.py)
    limit  at most so many images: the first ones, of one fixed shuffle where they are sorted by class
    split  "train" or "test": of digits, of CIFAR and MNIST as published, and of a folder or zip with the folders train
           and test (or val) in it
    frames recordings are cut into so many, one a time step of the model; 0: it takes images
    Raises InputError for anything that is missing, damaged, or of another shape.
    """
    if limit is not None and limit < 1:
        raise InputError("--limit", f"{limit} images", "Give a number of at least 1.")
    if isinstance(data, np.ndarray):
        return _in_memory("images", data, None, (), preprocess, limit)
    if str(data) == "digits":
        return _digits(preprocess, limit, split)
    if str(data) == "drawn":
        return _drawn(preprocess, limit)
    if is_events(data):
        return _recordings(str(data), preprocess, frames, limit, split)
    path = Path(data)
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        problem = "there is no such file or folder"
        raise InputError(str(path), problem, "Give images, or the word digits or drawn.") from None
    except (OSError, ValueError) as error:  # too long a name, a link to itself, a folder that may not be entered
        raise InputError(str(path), f"it cannot be read: {getattr(error, 'strerror', error)}") from None
    if stat.S_ISDIR(kind):
        published = read_folder(path, split)
        if published is not None:
            return _in_memory(str(path), *published, preprocess, limit)
        return _files(in_folder(path, split), preprocess, limit)
    if not stat.S_ISREG(kind):  # a pipe or a device could keep a reader waiting for ever
        raise InputError(str(path), "it is neither a file nor a folder", "Save the images to a file.")
    return _file(path, preprocess, limit, split)


def _file(path: Path, preprocess: Preprocess, limit: int | None, split: str) -> ImageSet:
    """A single file; its kind is told by its first bytes, where they tell."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(b"PK"):
        return _zip(path, preprocess, limit, split)
    if head.startswith(b"\x93NUMPY"):
        return _in_memory(str(path), _array(path), None, (), preprocess, limit)
    if is_idx(path):
        return _in_memory(str(path), *read_idx(path), preprocess, limit)
    if head.startswith(GZIP):
        return _in_memory(str(path), *read_archive(path, split), preprocess, limit)
    if path.suffix.lower() in SUFFIXES:
        return _files(single(path), preprocess, limit)
    if path.suffix == ".bin":
        return _in_memory(str(path), *read_cifar(path), preprocess, limit)
    raise InputError(
        str(path),
        "its kind of file is not known",
        "Give a folder or zip of images, .npz, .npy, idx, CIFAR's .bin or .tar.gz, or the word digits or drawn.",
    )


def _array(path: Path) -> NDArray[Any]:
    return _npy(str(path), lambda: path.open("rb"), path.stat().st_size)


def _npy(place: str, opened: Callable[[], IO[bytes]], size: int) -> NDArray[Any]:
    """The array in a .npy of `size` bytes, whose header must not say more than there is."""
    try:
        with opened() as stream:
            version = np.lib.format.read_magic(stream)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, _, dtype = read_header(stream)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"{shape} values of type {dtype} in {size:,} bytes")
        with opened() as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(place, f"it cannot be read: {error}", "Save plain numeric arrays.") from None


def _zip(path: Path, preprocess: Preprocess, limit: int | None, split: str) -> ImageSet:
    """An .npz of arrays, or a zip of images in class folders."""
    archive = Archive(path)
    if archive.entries and all(entry.filename.endswith(".npy") for entry in archive.entries):
        return _npz(path, preprocess, limit)
    return _files(in_archive(archive, split), preprocess, limit)


def _npz(path: Path, preprocess: Preprocess, limit: int | None) -> ImageSet:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > MOST_PACKED * max(entry.compress_size, 2**20):
                raise InputError(str(path), f"{entry.filename} is packed to less than a {MOST_PACKED}th of its size")
            name = entry.filename.removesuffix(".npy")
            found[name] = _npy(f"{path}: {name}", partial(archive.open, entry), entry.file_size)
    images = next((found[k] for k in ("images", "frames", "x") if k in found), None)
    if images is None:
        raise InputError(str(path), f"it holds {', '.join(found)}", "Name the images 'images' and the labels 'labels'.")
    labels = next((found[k] for k in ("labels", "y") if k in found), None)
    return _in_memory(str(path), images, labels, (), preprocess, limit)


def _digits(preprocess: Preprocess, limit: int | None, split: str) -> ImageSet:
    """scikit-learn's 1,797 digits of 8x8 pixels 0..16, as 0..255, each pixel repeated up to the model's size.

    360 of them, stratified by class, are the test split; they are never trained on.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    height, width = preprocess.extent
    if preprocess.channels != 1 or height % 8 or height != width:
        needed = f"{preprocess.channels} channels of {height}x{width}"
        raise InputError("digits", f"they are 1x8x8 and the model takes {needed}")
    bunch = load_digits()
    pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    pixels = pixels.repeat(preprocess.size // 8, 1).repeat(preprocess.size // 8, 2)[:, None]
    labels = bunch.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=DIGITS_TEST_IMAGES, stratify=labels, random_state=DIGITS_SEED
    )
    chosen = {"train": train, "test": test}[split]
    return _in_memory("digits", pixels[chosen], labels[chosen], tuple("0123456789"), preprocess, limit)


def _drawn(preprocess: Preprocess, limit: int | None) -> ImageSet:
    """Drawings without labels, RGB, of the size that the model takes."""
    from spikformer_deploy.drawn import drawings

    height, width = preprocess.extent
    if preprocess.channels != 3 or height != width:
        needed = f"{preprocess.channels} channels of {height}x{width}"
        raise InputError("drawn", f"they are square RGB images and the model takes {needed}")
    return _in_memory("drawn", drawings(height), None, (), preprocess, limit)


def _in_memory(
    place: str,
    images: NDArray[Any],
    labels: NDArray[Any] | None,
    names: tuple[str, ...],
    preprocess: Preprocess,
    limit: int | None,
) -> ImageSet:
    pixels = _as_pixels(place, images, preprocess)[:limit]
    if labels is not None:
        if labels.shape != (len(images),) or labels.dtype.kind not in "ui":
            problem = f"labels of shape {labels.shape} and type {labels.dtype} for {len(images)} images"
            raise InputError(place, problem, "Give one integer label an image.")
        labels = labels[:limit].astype(np.int64)
    identity = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()
    return ImageSet(len(pixels), labels, names, identity, lambda part: pixels[part])


def _as_pixels(place: str, images: NDArray[Any], preprocess: Preprocess) -> NDArray[np.uint8]:
    """(N, C, Y, X) or (N, T, C, Y, X) uint8 from (N, Y, X), (N, Y, X, C) or those; InputError where it is none."""
    channels, (height, width) = preprocess.channels, preprocess.extent
    expected = f"(images, {channels}, {height}, {width}), or with frames (images, T, {channels}, {height}, {width})"
    images = _whole(place, images, expected)
    if images.min() < 0 or images.max() > preprocess.max_value:
        raise InputError(
            place, f"pixels in [{images.min()}, {images.max()}], and the model takes 0..{preprocess.max_value}"
        )
    if preprocess.max_value == 255 and images.ndim < 5 and 0 < images.max() < DARK:
        most = f"{place}: no pixel is above {images.max()}, and the model takes 0..255: are they scaled otherwise?"
        warnings.warn(most, stacklevel=2)
    if images.ndim == 3 and channels == 1:
        images = images[:, None]
    if images.ndim == 4 and images.shape[3] == channels and images.shape[1] != channels:
        images = images.transpose(0, 3, 1, 2)
    if images.ndim not in (4, 5) or images.shape[-3:] != (channels, height, width):
        raise InputError(place, f"images of shape {images.shape[1:]}", f"The model takes {expected}.")
    return np.ascontiguousarray(images, np.uint8)


def _whole(place: str, images: NDArray[Any], expected: str) -> NDArray[Any]:
    """The same numbers as integers: booleans, and real numbers that are whole (frames are often kept as float32)."""
    real = images.dtype.kind == "f" and images.size > 0
    if real and np.isfinite(images).all() and (images == np.rint(images)).all() and np.abs(images).max() < 2**31:
        return images.astype(np.int64)
    if real:
        problem = f"real numbers from {np.nanmin(images):g} to {np.nanmax(images):g}, which are not all whole"
        raise InputError(place, problem, f"Give pixels as integers {expected}: real ones in 0..1 times 255, rounded.")
    if images.dtype.kind not in "uib" or not images.size:
        raise InputError(place, f"{images.shape} values of type {images.dtype}", f"Give uint8 pixels {expected}.")
    return images.astype(np.uint8) if images.dtype.kind == "b" else images


def _files(files: Files, preprocess: Preprocess, limit: int | None) -> ImageSet:
    """Image files decoded in batches by several threads."""
    order = _some(len(files.names), limit)

    def read_part(part: slice) -> NDArray[np.uint8]:
        names = [files.names[i] for i in order[part]]
        with ThreadPoolExecutor() as workers:
            return np.stack(list(workers.map(lambda name: _decode(name, files.load(name), preprocess), names)))

    marked = [[files.names[i], files.marks[i]] for i in order]
    identity = hashlib.sha256(json.dumps(marked).encode()).hexdigest()
    kept = None if files.labels is None else files.labels[order]
    return ImageSet(len(order), kept, files.classes, identity, read_part)


def _recordings(source: str, preprocess: Preprocess, frames: int, limit: int | None, split: str) -> ImageSet:
    """Recordings of an event camera, cut into frames in batches by several threads."""
    found = read_recordings(source, frames, split)
    if found.shape[1:] != (preprocess.channels, *preprocess.extent):
        problem = f"frames of shape {found.shape[1:]}"
        raise InputError(source, problem, f"The model takes {(preprocess.channels, *preprocess.extent)}.")
    order = _some(len(found.labels), limit)

    def read_part(part: slice) -> NDArray[np.uint8]:
        with ThreadPoolExecutor() as workers:
            return np.stack(list(workers.map(found.load, order[part].tolist())))

    return ImageSet(len(order), found.labels[order], found.classes, f"{found.identity} {len(order)}", read_part)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def _some(count: int, limit: int | None) -> NDArray[np.int64]:
    """Indices of all, or of the first ones of one fixed shuffle, in order."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(SHUFFLE_SEED).permutation(count)[:limit])


def _decode(name: str, raw: bytes, preprocess: Preprocess) -> NDArray[np.uint8]:
    """One image as (C, Y, X) uint8, of the size and the number of channels that the model takes."""
    pixels = pixels_of(decoded(name, raw, preprocess.channels, preprocess.extent))
    if pixels.shape[1:] != preprocess.extent:
        (height, width), needed = pixels.shape[1:], preprocess.extent
        problem = f"upright it is {height}x{width}, and the model takes {needed[0]}x{needed[1]}"
        raise InputError(name, problem, "Resize the images before.")
    return pixels
