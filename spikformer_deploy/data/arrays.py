"""Arrays in .npy and .npz files: looked at in their headers before they are unpacked, and read in blocks."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.files import MOST_PACKED, SMALL_PACKED

NPY = b"\x93NUMPY"
"""How an .npy begins."""
IMAGES = ("images", "frames", "x")
LABELS = ("labels", "y")
"""Keys of an .npz; nothing else in it is unpacked."""
EVENTS = {"t", "x", "y", "p"}
"""Keys of a recording that is not cut into frames (SpikingJelly's events_np)."""
BLOCK = 2**24
"""Bytes that are read at a time."""
MOST_VALUES = 2**33
"""Pixels that are in memory at once, 8 GiB; folders are read in batches, and may hold more."""

Open = Callable[[], IO[bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An array that is read in blocks along its first axis.

    place  of the array, for errors
    """

    place: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _read: Callable[[int], Iterator[NDArray[Any]]] = field(repr=False)

    def blocks(self, count: int) -> Iterator[NDArray[Any]]:
        """The first `count` rows, some at a time, in order.  Raises InputError for a damaged file."""
        with _clear_errors(self.place):
            yield from self._read(count)

    def values(self) -> NDArray[Any]:
        """All of it."""
        return np.concatenate([np.empty((0, *self.shape[1:]), self.dtype), *self.blocks(self.shape[0])])


def in_memory(place: str, array: NDArray[Any]) -> Stored:
    """An array that is there already."""
    return Stored(place, array.shape, array.dtype, partial(_rows_in_memory, array))


def npy(path: Path) -> Stored:
    """The array of a .npy file.  Raises InputError where the file is damaged, or holds objects."""
    return _stored(str(path), partial(_opened, path), path.stat().st_size)


def header(place: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of the .npy that begins here; its values come next.

    Raises InputError for what is no .npy, or holds objects.
    """
    with _clear_errors(place):
        shape, by_column, dtype = _header(stream)
        if dtype.hasobject or min(shape, default=0) < 0:
            raise ValueError(f"{shape} values of type {dtype}")
    return shape, by_column, dtype


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb")


def npz(place: str, file: Path | io.BytesIO) -> tuple[Stored, Stored | None]:
    """Images and labels of an .npz.

    Raises InputError where it lacks images, holds them twice, or is packed further than arrays are.
    """
    with _clear_errors(place):
        archive = zipfile.ZipFile(file)
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if entries.keys() >= EVENTS:
        raise InputError(place, "it holds events (t, x, y, p)", "Cut them into frames, and save those as 'frames'.")
    images = _one_of(place, entries, IMAGES)
    labels = _one_of(place, entries, LABELS)
    if images is None:
        problem = f"it holds {', '.join(sorted(entries)[:8]) or 'nothing'}"
        raise InputError(place, problem, "Name the images 'images' and the labels 'labels'.")
    return _entry(place, archive, images), None if labels is None else _entry(place, archive, labels)


def check_room(place: str, count: int, each: int) -> None:
    """Raise InputError where `count` images of `each` values are more than are kept in memory."""
    if count * each > MOST_VALUES:
        problem = f"{count:,} images of {each:,} values, and {MOST_VALUES:,} are kept in memory at most"
        raise InputError(place, problem, "Give --limit, or a folder of files: those are read in batches.")


def _one_of(place: str, entries: dict[str, zipfile.ZipInfo], keys: tuple[str, ...]) -> zipfile.ZipInfo | None:
    """The entry under one of several keys that mean the same, or None; InputError where there are two."""
    present = [key for key in keys if key in entries]
    if len(present) > 1:
        raise InputError(place, f"it holds {' and '.join(present)}, which mean the same", "Keep one of them.")
    return entries[present[0]] if present else None


def _entry(place: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Stored:
    """The array of an entry; InputError where it is packed further than arrays are."""
    if entry.file_size > MOST_PACKED * max(entry.compress_size, SMALL_PACKED):
        raise InputError(place, f"{entry.filename} is packed to less than a {MOST_PACKED}th of its size")
    name = entry.filename.removesuffix(".npy")
    return _stored(f"{place}: {name}", partial(archive.open, entry), entry.file_size)


def _stored(place: str, opened: Open, size: int) -> Stored:
    """The array in a .npy of `size` bytes, whose header must not say more than there is."""
    with _clear_errors(place), opened() as stream:
        shape, by_column, dtype = _header(stream)
        # before a value is read: a header of a few bytes may announce any number of them
        if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"{shape} values of type {dtype} in {size:,} bytes")
    if by_column:
        return Stored(place, shape, dtype, partial(_read_by_column, place, opened, shape))
    return Stored(place, shape, dtype, partial(_read_rows, opened, shape, dtype))


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type."""
    version = np.lib.format.read_magic(stream)
    header: tuple[tuple[int, ...], bool, np.dtype[Any]]
    try:
        header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(stream)
    except Exception as error:  # numpy reads it as text of Python: a damaged one fails in many ways
        raise ValueError(f"its header is damaged ({type(error).__name__})") from None
    return header


def _rows_in_memory(array: NDArray[Any], count: int) -> Iterator[NDArray[Any]]:
    rows = _rows_of_a_block(array.shape, array.dtype)
    for first in range(0, count, rows):
        yield array[first : min(first + rows, count)]


def _read_rows(opened: Open, shape: tuple[int, ...], dtype: np.dtype[Any], count: int) -> Iterator[NDArray[Any]]:
    """The first `count` rows, in blocks of about BLOCK bytes."""
    rows = _rows_of_a_block(shape, dtype)
    with opened() as stream:
        _header(stream)
        for first in range(0, count, rows):
            height = min(rows, count - first)
            raw = stream.read(height * math.prod(shape[1:]) * dtype.itemsize)
            yield np.frombuffer(raw, dtype).reshape(height, *shape[1:])


def _read_by_column(place: str, opened: Open, shape: tuple[int, ...], count: int) -> Iterator[NDArray[Any]]:
    """Rows lie apart in such a file: it is read as a whole."""
    check_room(place, shape[0], math.prod(shape[1:]))
    with opened() as stream:
        yield np.asarray(np.lib.format.read_array(stream, allow_pickle=False))[:count]


def _rows_of_a_block(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return max(1, BLOCK // max(1, math.prod(shape[1:]) * dtype.itemsize))


@contextmanager
def _clear_errors(place: str) -> Iterator[None]:
    """Whatever numpy and zipfile raise, as an InputError with its place."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # numpy and zipfile fail in many ways on what is damaged
        problem = f"it cannot be read: {error or type(error).__name__}"
        raise InputError(place, problem, "Save plain numeric arrays by numpy.save or numpy.savez.") from None
