"""What reads the pixels of an image set, part by part.

Each reader is a record that can be pickled, so that an image set can be sent to another process and read there.  Files
are opened again by their names: a path that is not absolute needs the same working folder.
"""

from __future__ import annotations

import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data import arrays
from spikformer_deploy.data.arrays import check_room
from spikformer_deploy.data.files import Load, check_mark, decoded, from_anywhere, pixels_of
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.pixels import as_pixels
from spikformer_deploy.data.recordings import PREFIX, LoadFrames
from spikformer_deploy.data.request import ImageRequest


@dataclass(frozen=True, slots=True, eq=False)
class InMemory:
    """Pixels (N, C, Y, X) or (N, T, C, Y, X) uint8 that are there already."""

    pixels: NDArray[np.uint8]

    def __call__(self, part: slice) -> NDArray[np.uint8]:
        """Some of them."""
        return self.pixels[part]


@dataclass(frozen=True, slots=True, eq=False)
class InFiles:
    """Files of images or recordings, decoded by several threads.

    names  of the files, in the order of the set; marks, load: as of Files
    """

    names: tuple[str, ...]
    marks: tuple[str, ...]
    load: Load
    request: ImageRequest

    def __call__(self, part: slice) -> NDArray[np.uint8]:
        """(N, C, Y, X) or (N, T, C, Y, X) uint8.  Raises InputError, with its name, for a file that cannot be used."""
        names = self.names[part]
        check_room("images", len(names), math.prod(self.request.shape))
        with ThreadPoolExecutor() as workers:
            return np.stack(list(workers.map(self._read_one, names, self.marks[part])))

    def _read_one(self, name: str, mark: str) -> NDArray[np.uint8]:
        raw = self.load(name, self.request.most_bytes)
        check_mark(name, raw, mark)
        return _recording(name, raw, self.request) if self.request.frames else _image(name, raw, self.request)


@dataclass(frozen=True, slots=True, eq=False)
class InRecordings:
    """Recordings of an event camera, cut into frames by several threads.

    chosen  (N,) which of them; lost: (N,) int64 is filled with the events that are lost in each, as it is read
    """

    source: str
    chosen: NDArray[np.int64]
    load: LoadFrames
    lost: NDArray[np.int64]
    shape: tuple[int, ...]

    def __call__(self, part: slice) -> NDArray[np.uint8]:
        """(N, T, C, Y, X) uint8.  Raises InputError, with its name, for a recording that cannot be read."""
        chosen = self.chosen[part]
        check_room(self.source, len(chosen), math.prod(self.shape))
        with ThreadPoolExecutor() as workers:
            frames, lost = zip(*workers.map(self.load, chosen.tolist()), strict=True)
        self.lost[part] = lost
        return np.stack(frames)


def names_of(images: ImageSet) -> tuple[str, ...] | None:
    """The file of each image, in the order of the set; None where they are not one a file."""
    return images._read.names if isinstance(images._read, InFiles) else None


def are_files(images: ImageSet) -> bool:
    """Whether the pixels of a set stay in files until they are asked for."""
    return isinstance(images._read, InFiles | InRecordings)


def found_anywhere(images: ImageSet) -> ImageSet:
    """The same set, whose files are found from any working folder.

    Raises InputError for recordings in a folder that is not named whole.
    """
    match images._read:
        case InFiles(load=load) as reader:
            return replace(images, _read=replace(reader, load=from_anywhere(load)))
        case InRecordings(source=source) if not Path(source.removeprefix(PREFIX).partition(":")[2]).is_absolute():
            problem = "workers may have another working folder, and this one is named from here"
            raise InputError(source, problem, "Give its whole path.")
    return images


def _image(name: str, raw: bytes, request: ImageRequest) -> NDArray[np.uint8]:
    """One image as (C, Y, X) uint8, of the size and the number of channels that the model takes."""
    needed = request.preprocess.extent
    pixels = pixels_of(decoded(name, raw, request.preprocess.channels, needed))
    # the header had the right size, but a camera that was held sideways has its picture turned after that
    if pixels.shape[1:] != needed:
        height, width = pixels.shape[1:]
        problem = f"upright it is {height}x{width}, and the model takes {needed[0]}x{needed[1]}"
        raise InputError(name, problem, "Resize the images before.")
    return pixels


def _recording(name: str, raw: bytes, request: ImageRequest) -> NDArray[np.uint8]:
    """The frames (T, C, Y, X) of one recording, uint8."""
    frames, _ = arrays.npz(name, io.BytesIO(raw))
    if frames.shape != request.shape:
        raise InputError(name, f"frames of shape {frames.shape}", f"A file holds one recording, {request.shape}.")
    return as_pixels(frames, request)[0]
