"""Images and labels from what users have: folders, zip files, arrays, idx and CIFAR files, and scikit-learn's digits.

Pixels are uint8 (C, Y, X) of the size that the model takes; nothing is resized, cropped or normalised silently.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import POINTER, check_content
from spikformer_deploy.data import arrays
from spikformer_deploy.data.arrays import Stored, check_room
from spikformer_deploy.data.files import SUFFIXES, Archive, Files, decoded, in_archive, in_folder, pixels_of, single
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.data.labels import labelled
from spikformer_deploy.data.published import GZIP, is_idx, read_archive, read_cifar, read_folder, read_idx
from spikformer_deploy.data.recordings import is_events, read_recordings

DIGITS_TEST_IMAGES = 360
DIGITS_SEED = 0
SHUFFLE_SEED = 0
"""Folders are sorted by class, so a `limit` takes the first images of one fixed shuffle."""
DARK = 64
"""Pixels of which none is brighter are more likely of another scale: scikit-learn's digits reach 16, 14 bits 64."""
FRAMES = (".npz",)
"""Files of a folder of recordings: one a file, cut into frames."""


def read(
    data: str | Path | NDArray[Any],
    preprocess: Preprocess,
    *,
    limit: int | None = None,
    split: str = "test",
    frames: int = 0,
    labels: str | Path | None = None,
) -> ImageSet:
    """The images of `data` for a model that takes `preprocess`.

    data   "digits", "drawn" (see drawn.py), an array, a folder or zip of images (class sub-folders are labels) or of
           recordings (.npz of frames), .npz (images, labels), .npy; an idx file (labels beside it), a CIFAR-10/100
           binary batch, a folder of either as published, CIFAR's binary .tar.gz; recordings of an event camera,
           tonic:NAME:FOLDER (see events.py)
    limit  at most so many images: the first ones, of one fixed shuffle where they are sorted by class
    split  "train" or "test": of digits, of CIFAR and MNIST as published, and of a folder or zip with the folders train
           and test (or val) in it
    frames a model of events takes so many, one a time step, and recordings are cut into them; 0: it takes images
    labels a file of labels for a folder or zip (see labels.py)
    Raises InputError for anything that is missing, damaged, or of another shape.
    """
    if limit is not None and limit < 1:
        raise InputError("--limit", f"{limit} images", "Give a number of at least 1.")
    if preprocess.max_value > 255:
        problem = f"the model takes pixels up to {preprocess.max_value}, and images are read with 8 bits"
        raise InputError("max_value", problem, "Give a model for 0..255.")
    wanted = _Wanted(preprocess, frames, limit, split, None if labels is None else Path(labels))
    if isinstance(data, np.ndarray):
        return _in_memory("images", data, None, (), wanted)
    if str(data) == "digits":
        return _digits(wanted)
    if str(data) == "drawn":
        return _drawn(wanted)
    if is_events(data):
        return _recordings(str(data), wanted)
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
            return _in_memory(str(path), *published, wanted)
        return _files(in_folder(path, split, wanted.suffixes, labels is None), wanted)
    if not stat.S_ISREG(kind):  # a pipe or a device could keep a reader waiting for ever
        raise InputError(str(path), "it is neither a file nor a folder", "Save the images to a file.")
    return _file(path, wanted)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked of the images; names as in read."""

    preprocess: Preprocess
    frames: int
    limit: int | None
    split: str
    labels: Path | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image (C, Y, X), or of one recording (T, C, Y, X)."""
        image = (self.preprocess.channels, *self.preprocess.extent)
        return (self.frames, *image) if self.frames else image

    @property
    def most_bytes(self) -> int:
        """Of the file of an image or a recording: 64 a pixel, more than any depth takes, and 16 MiB that go along."""
        return 2**24 + 64 * math.prod(self.shape)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files in a folder or zip."""
        return FRAMES if self.frames else SUFFIXES

    @property
    def dark(self) -> int:
        """As of an ImageSet: counts of events may be small."""
        return DARK if self.preprocess.max_value == 255 and not self.frames else 0

    @property
    def said(self) -> str:
        """The shape that an array must have, for a person."""
        if not self.frames:
            return f"the model takes images without time steps, (N, C, Y, X) = (N, {str(self.shape)[1:]}"
        return f"the model takes recordings of {self.frames} frames, (N, T, C, Y, X) = (N, {str(self.shape)[1:]}"


def _file(path: Path, wanted: _Wanted) -> ImageSet:
    """A single file; its kind is told by its first bytes, where they tell."""
    with path.open("rb") as stream:
        head = stream.read(len(POINTER))
    check_content(str(path), head)
    if head.startswith(b"PK"):
        return _zip(path, wanted)
    if head.startswith(b"\x93NUMPY"):
        return _in_memory(str(path), arrays.npy(path), None, (), wanted)
    if is_idx(path):
        return _in_memory(str(path), *read_idx(path), wanted)
    if head.startswith(GZIP):
        return _in_memory(str(path), *read_archive(path, wanted.split), wanted)
    if path.suffix.lower() in SUFFIXES:
        return _files(single(path), wanted)
    if path.suffix == ".bin":
        return _in_memory(str(path), *read_cifar(path), wanted)
    raise InputError(
        str(path),
        "its kind of file is not known",
        "Give a folder or zip of images, .npz, .npy, idx, CIFAR's .bin or .tar.gz, or the word digits or drawn.",
    )


def _zip(path: Path, wanted: _Wanted) -> ImageSet:
    """An .npz of arrays, or a zip of images or recordings in class folders."""
    archive = Archive(path)
    if archive.entries and all(entry.filename.endswith(".npy") for entry in archive.entries):
        return _in_memory(str(path), *arrays.npz(str(path), path), (), wanted)
    return _files(in_archive(archive, wanted.split, wanted.suffixes, wanted.labels is None), wanted)


def _digits(wanted: _Wanted) -> ImageSet:
    """scikit-learn's 1,797 digits of 8x8 pixels 0..16, as 0..255, each pixel repeated up to the model's size.

    360 of them, stratified by class, are the test split; they are never trained on.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    height, width = wanted.preprocess.extent
    if wanted.preprocess.channels != 1 or height % 8 or height != width:
        needed = f"{wanted.preprocess.channels} channels of {height}x{width}"
        raise InputError("digits", f"they are 1x8x8 and the model takes {needed}")
    bunch = load_digits()
    pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    pixels = pixels.repeat(height // 8, 1).repeat(height // 8, 2)[:, None]
    labels = bunch.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=DIGITS_TEST_IMAGES, stratify=labels, random_state=DIGITS_SEED
    )
    chosen = {"train": train, "test": test}[wanted.split]
    return _in_memory("digits", pixels[chosen], labels[chosen], tuple("0123456789"), wanted)


def _drawn(wanted: _Wanted) -> ImageSet:
    """Drawings without labels, RGB, of the size that the model takes."""
    from spikformer_deploy.data.drawn import drawings

    height, width = wanted.preprocess.extent
    if wanted.preprocess.channels != 3 or height != width:
        needed = f"{wanted.preprocess.channels} channels of {height}x{width}"
        raise InputError("drawn", f"they are square RGB images and the model takes {needed}")
    return _in_memory("drawn", drawings(height), None, (), wanted)


def _in_memory(
    place: str,
    images: Stored | NDArray[Any],
    labels: Stored | NDArray[Any] | None,
    names: tuple[str, ...],
    wanted: _Wanted,
) -> ImageSet:
    if wanted.labels is not None:
        problem = f"{place} is no folder or zip of images"
        raise InputError("--labels", problem, "Leave it out, and keep the labels beside the images in the .npz.")
    images = images if isinstance(images, Stored) else arrays.in_memory(place, images)
    pixels = _as_pixels(images, wanted)
    classes = None if labels is None else _whole_labels(place, labels, images.shape[0])[: len(pixels)]
    identity = hashlib.sha256(f"{pixels.shape}".encode())
    identity.update(pixels.data)
    notes: tuple[str, ...] = ()
    if wanted.frames and images.shape[0] == wanted.frames and len(images.shape) == 5:
        notes = (f"{place}: as many recordings as time steps; recordings are taken to be the first axis",)
    digest, dark = identity.hexdigest(), wanted.dark
    return ImageSet(len(pixels), classes, names, digest, lambda part: pixels[part], notes, dark=dark)


def _whole_labels(place: str, labels: Stored | NDArray[Any], count: int) -> NDArray[np.int64]:
    """One whole number an image, of any type; its shape is looked at first."""
    if labels.shape == (count,) and labels.dtype.kind in "uif":
        found = labels.values() if isinstance(labels, Stored) else labels
        if (np.abs(found) < 2**31).all() and (found == np.rint(found)).all():
            return found.astype(np.int64)
    problem = f"labels of shape {labels.shape} and type {labels.dtype} for {count} images"
    raise InputError(place, problem, "Give one integer label an image.")


def _as_pixels(images: Stored, wanted: _Wanted) -> NDArray[np.uint8]:
    """(N, C, Y, X) or (N, T, C, Y, X) uint8, of one of the layouts that are understood; InputError where it is none.

    Only so many as are wanted are read, some at a time.
    """
    turned = _layout(images, wanted)
    each, one = math.prod(wanted.shape), images.shape == wanted.shape
    count = 1 if one else min(images.shape[0], wanted.limit or images.shape[0])
    check_room(images.place, count, each)
    out, done = np.empty((count, *wanted.shape), np.uint8), 0
    rows = out[0] if one else out
    for block in images.blocks(len(rows)):
        rows[done : done + len(block)] = turned(_checked(images.place, block, wanted))
        done += len(block)
    return out


def _layout(images: Stored, wanted: _Wanted) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What turns rows of an array into those that the model takes."""
    shape, rest, size = wanted.shape, images.shape[1:], math.prod(images.shape)
    if not size or images.dtype.kind not in "uibf":
        problem = f"{images.shape} values of type {images.dtype}, and {wanted.said}"
        raise InputError(images.place, problem, "Give whole numbers in that order of axes.")
    if rest == shape or (wanted.frames and images.shape == shape):
        return lambda block: block
    if not wanted.frames and rest == shape[1:] and shape[0] == 1:
        return lambda block: block[:, None]
    if not wanted.frames and rest == (*shape[1:], shape[0]):
        return lambda block: block.transpose(0, 3, 1, 2)
    problem = f"images of shape {rest}"
    if wanted.frames and images.shape[:1] == shape[:1] and images.shape[2:] == shape[1:]:
        problem = f"its shape is {images.shape}: time steps come first, and recordings second"
    raise InputError(images.place, f"{problem}, and {wanted.said}", "Give them in that order and size.")


def _checked(place: str, block: NDArray[Any], wanted: _Wanted) -> NDArray[Any]:
    """The same numbers, all of them whole and in the range of the model (frames are often kept as float32)."""
    if block.dtype.kind == "f" and not (np.isfinite(block).all() and (block == np.rint(block)).all()):
        problem = f"real numbers from {np.nanmin(block):g} to {np.nanmax(block):g}, which are not all whole"
        raise InputError(place, problem, "Give pixels as integers: real ones in 0..1 times 255, rounded.")
    most = wanted.preprocess.max_value
    if block.min() < 0 or block.max() > most:
        problem = f"pixels in [{int(block.min())}, {int(block.max())}], and the model takes 0..{most}"
        raise InputError(place, problem, "Scale them before.")
    return block


def _files(files: Files, wanted: _Wanted) -> ImageSet:
    """Files of images or recordings, decoded in batches by several threads."""
    files = files if wanted.labels is None else labelled(files, wanted.labels)
    order = _some(len(files.names), wanted.limit)
    decode = _recording if wanted.frames else _decode

    def read_one(name: str) -> NDArray[np.uint8]:
        return decode(name, files.load(name, wanted.most_bytes), wanted)

    def read_part(part: slice) -> NDArray[np.uint8]:
        names = [files.names[i] for i in order[part]]
        check_room("images", len(names), math.prod(wanted.shape))
        with ThreadPoolExecutor() as workers:
            return np.stack(list(workers.map(read_one, names)))

    marked = [[files.names[i], files.marks[i]] for i in order]
    identity = hashlib.sha256(json.dumps(marked).encode()).hexdigest()
    kept = None if files.labels is None else files.labels[order]
    named_by, dark = str(wanted.labels or ""), wanted.dark
    return ImageSet(len(order), kept, files.classes, identity, read_part, files.notes, named_by=named_by, dark=dark)


def _recordings(source: str, wanted: _Wanted) -> ImageSet:
    """Recordings of an event camera, cut into frames in batches by several threads."""
    if wanted.labels is not None:
        raise InputError("--labels", f"{source} has labels of its own", "Leave it out.")
    found = read_recordings(source, wanted.frames, wanted.split)
    if found.shape != wanted.shape:
        problem = f"frames of shape {found.shape[1:]}"
        raise InputError(source, problem, f"The model takes {wanted.shape[1:]}.")
    order = _some(len(found.labels), wanted.limit)
    lost = np.zeros(len(order), np.int64)

    def read_part(part: slice) -> NDArray[np.uint8]:
        check_room(source, len(order[part]), math.prod(wanted.shape))
        with ThreadPoolExecutor() as workers:
            frames, lost[part] = zip(*workers.map(found.load, order[part].tolist()), strict=True)
        return np.stack(frames)

    identity = f"{found.identity} {len(order)}"
    return ImageSet(len(order), found.labels[order], found.classes, identity, read_part, lost=lost)


def _some(count: int, limit: int | None) -> NDArray[np.int64]:
    """Indices of all, or of the first ones of one fixed shuffle, in order."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(SHUFFLE_SEED).permutation(count)[:limit])


def _decode(name: str, raw: bytes, wanted: _Wanted) -> NDArray[np.uint8]:
    """One image as (C, Y, X) uint8, of the size and the number of channels that the model takes."""
    needed = wanted.preprocess.extent
    pixels = pixels_of(decoded(name, raw, wanted.preprocess.channels, needed))
    if pixels.shape[1:] != needed:
        (height, width) = pixels.shape[1:]
        problem = f"upright it is {height}x{width}, and the model takes {needed[0]}x{needed[1]}"
        raise InputError(name, problem, "Resize the images before.")
    return pixels


def _recording(name: str, raw: bytes, wanted: _Wanted) -> NDArray[np.uint8]:
    """The frames (T, C, Y, X) of one recording, uint8."""
    frames, _ = arrays.npz(name, io.BytesIO(raw))
    if frames.shape != wanted.shape:
        raise InputError(name, f"frames of shape {frames.shape}", f"A file holds one recording, {wanted.shape}.")
    return _as_pixels(frames, wanted)[0]
