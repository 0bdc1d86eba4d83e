"""Images and labels from what users have: folders, zip files, arrays, idx and CIFAR files, and digits in the box.

Pixels are uint8 (C, Y, X) of the size that the model takes; nothing is resized, cropped or normalised silently.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import POINTER, check_content
from spikformer_deploy.base.words import check_word
from spikformer_deploy.data import arrays
from spikformer_deploy.data.arrays import Stored
from spikformer_deploy.data.digits import LARGEST, SIDE, digits
from spikformer_deploy.data.files import SUFFIXES, ZIP, Archive, Files, in_archive, in_folder, single
from spikformer_deploy.data.given import Pair, whole
from spikformer_deploy.data.images import REGRESSION, TASKS, Forecast, ImageSet, Preprocess
from spikformer_deploy.data.labels import labelled
from spikformer_deploy.data.pixels import as_labels, as_pixels
from spikformer_deploy.data.published import GZIP, is_idx, read_archive, read_cifar, read_folder, read_idx
from spikformer_deploy.data.readers import InFiles, InMemory, InRecordings
from spikformer_deploy.data.recordings import is_events, read_recordings
from spikformer_deploy.data.request import EIGHT_BITS, ImageRequest
from spikformer_deploy.data.series import read_series, targets_of, windows_of

SHUFFLE_SEED = 0
"""Folders are sorted by class, so a `limit` takes the first images of one fixed shuffle."""
RECORDINGS_RANK = 5
"""Axes of an array of recordings, (N, T, C, Y, X)."""

InArrays: TypeAlias = tuple[Stored | NDArray[Any], Stored | NDArray[Any] | None, tuple[str, ...]]
"""Images, their labels or None, and the names of the classes (may be empty)."""
Found: TypeAlias = InArrays | Files


def read(
    data: str | Path | NDArray[Any] | Pair,
    preprocess: Preprocess,
    *,
    limit: int | None = None,
    split: str = "test",
    frames: int = 0,
    labels: str | Path | None = None,
    task: str | None = None,
) -> ImageSet:
    """The images of `data` for a model that takes `preprocess`; of one on time series its windows (see series.py).

    data   "digits", "drawn" (see drawn.py), an array, a folder or zip of images (class sub-folders are labels) or of
           recordings (.npz of frames), .npz (images, labels), .npy; an idx file (labels beside it), a CIFAR-10/100
           binary batch, a folder of either as published, CIFAR's binary .tar.gz; recordings of an event camera,
           tonic:NAME:FOLDER (see recordings.py); a pair of arrays: images, and their labels or real targets
    limit  at most that many images: the first ones, of one fixed shuffle where they are sorted by class
    split  "train" or "test": of digits, of CIFAR and MNIST as published, and of a folder or zip with the folders train
           and test (or val) in it
    frames a model of events takes that many, one a time step, and recordings are cut into them; 0: it takes images
    labels a file of labels for a folder or zip (see labels.py)
    task   one of images.TASKS: of a regression 'y' beside the images are real targets; None: as the model says
    The set can be pickled, and reads the same pixels in another process (see readers.py).
    Raises InputError for anything that is missing, damaged, or of another shape.
    """
    if task is not None:
        check_word("--task", task, TASKS)
    if limit is not None and limit < 1:
        raise InputError("--limit", f"{limit} images", "Give a number of at least 1.")
    if preprocess.series is not None:
        return _of_series(data, preprocess, limit, labels, task)
    if preprocess.max_value > EIGHT_BITS:
        problem = f"the model takes pixels up to {preprocess.max_value}, and images are read with 8 bits"
        raise InputError("max_value", problem, "Give a model for 0..255.")
    real = task == REGRESSION
    request = ImageRequest(preprocess, frames, limit, split, None if labels is None else Path(labels), real)
    if isinstance(data, (np.ndarray, tuple)):
        images, beside = data if isinstance(data, tuple) else (data, None)
        labels_or_targets = None if beside is None else arrays.in_memory("labels", beside)
        # frames hold counts, whatever their type
        pixels = images if frames else whole(images, preprocess)
        return _in_memory("images", pixels, labels_or_targets, (), request)
    if str(data) == "digits":
        return _digits(request)
    if str(data) == "drawn":
        return _drawn(request)
    if is_events(data):
        if real:
            raise _no_targets(str(data))
        return _recordings(str(data), request)
    found = at(Path(data), split, request.suffixes, by_folder=request.labels is None)
    if real and isinstance(found, Files):
        raise _no_targets(str(data))
    return _in_files(found, request) if isinstance(found, Files) else _in_memory(str(Path(data)), *found, request)


def _of_series(
    data: str | Path | NDArray[Any] | Pair,
    preprocess: Preprocess,
    limit: int | None,
    labels: str | Path | None,
    task: str | None,
) -> ImageSet:
    """Windows of a time series, for a model that takes them."""
    if labels is not None:
        raise InputError(
            "--labels", "the model takes time series, which have targets", "Keep them in the .npz, as 'y'."
        )
    if task not in (None, REGRESSION):
        raise InputError("--task", "the model forecasts time series", f"Leave it out, or give --task {REGRESSION}.")
    assert preprocess.series is not None
    return read_series(windows_of(data, preprocess.series, limit), preprocess)


def _no_targets(place: str) -> InputError:
    problem = f"{place} has classes, or nothing, beside its images"
    return InputError("--task", problem, "Give an .npz of images 'x' and real targets 'y', (N, O).")


def at(path: Path, split: str, suffixes: tuple[str, ...], *, by_folder: bool) -> Found:
    """What stands at a path, of any shape: arrays, or files with one of the suffixes (by_folder: as in_folder)."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        problem = "there is no such file or folder"
        raise InputError(str(path), problem, "Give images, or the word digits or drawn.") from None
    except (OSError, ValueError) as error:  # too long a name, a link to itself, a folder that may not be entered
        raise InputError(str(path), f"it cannot be read: {getattr(error, 'strerror', error)}") from None
    if stat.S_ISDIR(mode):
        return read_folder(path, split) or in_folder(path, split, suffixes, by_folder)
    if not stat.S_ISREG(mode):  # a pipe or a device could keep a reader waiting for ever
        raise InputError(str(path), "it is neither a file nor a folder", "Save the images to a file.")
    return _file(path, split, suffixes, by_folder)


def _file(path: Path, split: str, suffixes: tuple[str, ...], by_folder: bool) -> Found:
    """A single file.  Its first bytes say its kind; the suffix counts only where they do not."""
    with path.open("rb") as stream:
        head = stream.read(len(POINTER))
    check_content(str(path), head)
    if head.startswith(ZIP):
        return _zip(path, split, suffixes, by_folder)
    if head.startswith(arrays.NPY):
        return arrays.npy(path), None, ()
    # MNIST's files are packed by gzip, too: what is in them must be looked at before the archives
    if is_idx(path):
        return read_idx(path)
    if head.startswith(GZIP):
        return read_archive(path, split)
    if path.suffix.lower() in SUFFIXES:
        return single(path)
    if path.suffix == ".bin":
        return read_cifar(path)
    raise InputError(
        str(path),
        "its kind of file is not known",
        "Give a folder or zip of images, .npz, .npy, idx, CIFAR's .bin or .tar.gz, or the word digits or drawn.",
    )


def _zip(path: Path, split: str, suffixes: tuple[str, ...], by_folder: bool) -> Found:
    """An .npz of arrays, or a zip of images or recordings in class folders."""
    archive = Archive(path)
    if archive.entries and all(entry.filename.endswith(".npy") for entry in archive.entries):
        return *arrays.npz(str(path), path), ()
    return in_archive(archive, split, suffixes, by_folder)


def _digits(request: ImageRequest) -> ImageSet:
    """The digits in the box, as 0..255, each pixel repeated up to the model's size."""
    height, width = request.preprocess.extent
    if request.preprocess.channels != 1 or height % SIDE or height != width:
        needed = f"{request.preprocess.channels} channels of {height}x{width}"
        raise InputError("digits", f"they are 1x{SIDE}x{SIDE} and the model takes {needed}")
    small, labels = digits(request.split)
    pixels = np.rint(small * (EIGHT_BITS / LARGEST)).astype(np.uint8)
    repeats = height // SIDE
    pixels = pixels.repeat(repeats, 1).repeat(repeats, 2)[:, None]
    return _in_memory("digits", pixels, labels, tuple("0123456789"), request)


def _drawn(request: ImageRequest) -> ImageSet:
    """Drawings without labels, RGB, of the size that the model takes."""
    # Pillow is loaded only where something is drawn
    from spikformer_deploy.data.drawn import drawings

    height, width = request.preprocess.extent
    if request.preprocess.channels != 3 or height != width:
        needed = f"{request.preprocess.channels} channels of {height}x{width}"
        raise InputError("drawn", f"they are square RGB images and the model takes {needed}")
    return _in_memory("drawn", drawings(height), None, (), request)


def _in_memory(
    place: str,
    images: Stored | NDArray[Any],
    labels: Stored | NDArray[Any] | None,
    names: tuple[str, ...],
    request: ImageRequest,
) -> ImageSet:
    """Arrays, all of whose pixels that are asked for are read at once."""
    if request.labels is not None:
        problem = f"{place} is no folder or zip of images"
        raise InputError("--labels", problem, "Leave it out, and keep the labels beside the images in the .npz.")
    stored = images if isinstance(images, Stored) else arrays.in_memory(place, images)
    pixels = as_pixels(stored, request)
    class_of_image, forecast = _beside(place, labels, stored.shape[0], len(pixels), request)
    identity = hashlib.sha256(f"{pixels.shape}".encode())
    identity.update(pixels.data)
    notes: tuple[str, ...] = ()
    if request.frames and stored.shape[0] == request.frames and len(stored.shape) == RECORDINGS_RANK:
        notes = (f"{place}: as many recordings as time steps; recordings are taken to be the first axis",)
    reader = InMemory(pixels)
    return ImageSet(
        len(pixels), class_of_image, names, identity.hexdigest(), reader, notes, dark=request.dark, forecast=forecast
    )


def _beside(
    place: str, labels: Stored | NDArray[Any] | None, stored: int, count: int, request: ImageRequest
) -> tuple[NDArray[np.int64] | None, Forecast | None]:
    """What stands beside `count` of the `stored` images that are read: (classes, None), or (None, real targets)."""
    if not request.regression:
        return None if labels is None else as_labels(place, labels, stored)[:count], None
    if not isinstance(labels, Stored):
        raise _no_targets(place)
    return None, Forecast(targets_of(labels, stored)[:count])


def _in_files(files: Files, request: ImageRequest) -> ImageSet:
    """Files of images or recordings, decoded in batches."""
    if request.labels is not None:
        files = labelled(files, request.labels)
    order = _some(len(files.names), request.limit)
    names = tuple(files.names[i] for i in order)
    marks = tuple(files.marks[i] for i in order)
    marked = [list(pair) for pair in zip(names, marks, strict=True)]
    return ImageSet(
        count=len(order),
        labels=None if files.labels is None else files.labels[order],
        names=files.classes,
        identity=hashlib.sha256(json.dumps(marked).encode()).hexdigest(),
        _read=InFiles(names, marks, files.load, request),
        notes=files.notes,
        named_by=str(request.labels or ""),
        dark=request.dark,
    )


def _recordings(source: str, request: ImageRequest) -> ImageSet:
    """Recordings of an event camera, cut into frames in batches."""
    if request.labels is not None:
        raise InputError("--labels", f"{source} has labels of its own", "Leave it out.")
    recordings = read_recordings(source, request.frames, request.split)
    if recordings.shape != request.shape:
        problem = f"frames of shape {recordings.shape[1:]}"
        raise InputError(source, problem, f"The model takes {request.shape[1:]}.")
    order = _some(len(recordings.labels), request.limit)
    # the set and its reader share this array: it is known only after reading
    lost = np.zeros(len(order), np.int64)
    return ImageSet(
        count=len(order),
        labels=recordings.labels[order],
        names=recordings.classes,
        identity=f"{recordings.identity} {len(order)}",
        _read=InRecordings(source, order, recordings.load, lost, request.shape),
        lost=lost,
    )


def _some(count: int, limit: int | None) -> NDArray[np.int64]:
    """Indices of all, or of the first ones of one fixed shuffle, in order."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(SHUFFLE_SEED).permutation(count)[:limit])
