"""Frames one after the other, of a stream that may never end: of a file, of a folder, or .npy after .npy on a pipe."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data import arrays
from spikformer_deploy.data.files import SUFFIXES
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.data.request import ImageRequest

NPY = ".npy"
BLOCK_AXES = 4
"""Of an array that is several frames, (N, C, Y, X)."""
WAY_OUT = "Write frames by numpy.save, one after the other, in whole numbers."


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A frame, and its name for errors: "frame 12 (b.png)", counted from 1."""

    place: str
    values: NDArray[Any]


def frames_at(given: Path, preprocess: Preprocess) -> tuple[Iterator[Frame], tuple[str, ...]]:
    """Those of an .npy file; images and .npy of a folder, in the order of their names, numbers by size; and notes.

    An .npy holds a frame, or several, (N, C, Y, X).
    Raises InputError where there are none; for a bad one, with its number, when its turn comes.
    """
    if given.is_file() and given.suffix.lower() == NPY:
        return _of_files([given], preprocess), ()
    if not given.is_dir():
        way_out = f"Give a folder of frames, an {NPY} file of frames (T, C, Y, X), or - for standard input."
        raise InputError(str(given), "it is no folder, and no file of frames", way_out)
    return _in_folder(given, preprocess)


def _in_folder(folder: Path, preprocess: Preprocess) -> tuple[Iterator[Frame], tuple[str, ...]]:
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    chosen = sorted((path for path in files if path.suffix.lower() in (*SUFFIXES, NPY)), key=_by_number)
    if not chosen:
        raise InputError(str(folder), "there are no frames in it", f"Give images or {NPY} files.")
    others = len(files) - len(chosen)
    notes = (f"{folder}: {others:,} files are no frames, and are left out",) if others else ()
    return _of_files(chosen, preprocess), notes


def frames_of_pipe(stream: BufferedReader, preprocess: Preprocess) -> Iterator[Frame]:
    """The .npy after .npy of a pipe, each a frame, or several, (N, C, Y, X), until it ends.

    No more is read than the frame that is due.  Raises InputError, with the number of the frame, where one is cut off,
    damaged, or larger than frames are.
    """
    number = 1
    while stream.peek(1):
        for values in _of_npy(stream, f"frame {number}", preprocess):
            yield Frame(f"frame {number}", values)
            number += 1


def _by_number(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Names in the order that people expect: frame_9 before frame_10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts], path.name


def _of_files(files: list[Path], preprocess: Preprocess) -> Iterator[Frame]:
    number = 1
    for path in files:
        place = f"frame {number} ({path.name})"
        if path.suffix.lower() != NPY:
            yield Frame(place, _image(path, place, preprocess))
            number += 1
            continue
        with path.open("rb") as stream:
            for values in _of_npy(stream, place, preprocess):
                yield Frame(f"frame {number} ({path.name})", values)
                number += 1


def _image(path: Path, place: str, preprocess: Preprocess) -> NDArray[Any]:
    try:
        return read(path, preprocess).pixels_in(slice(0, 1))[0]
    except InputError as error:
        raise InputError(place, error.problem, error.way_out) from None


def _of_npy(stream: IO[bytes], place: str, preprocess: Preprocess) -> Iterator[NDArray[Any]]:
    """The frames of one .npy, each read when it is due."""
    shape, by_column, dtype = arrays.header(place, stream)
    several = len(shape) == BLOCK_AXES
    each = shape[1:] if several else shape
    size = math.prod(each) * dtype.itemsize
    if dtype.kind not in "uibf" or size > ImageRequest(preprocess, 0, None, "test", None).most_bytes:
        problem = f"{shape} values of type {dtype}, and a frame is {(preprocess.channels, *preprocess.extent)}"
        raise InputError(place, problem, WAY_OUT)
    if by_column and several:
        raise InputError(place, "its values stand by column, in which frames lie apart", WAY_OUT)
    for _ in range(shape[0] if several else 1):
        raw = stream.read(size)
        if len(raw) < size:
            raise InputError(place, f"it ends after {len(raw):,} of {size:,} bytes", WAY_OUT)
        yield np.frombuffer(raw, dtype).reshape(each, order="F" if by_column else "C")
