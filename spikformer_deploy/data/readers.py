"""What reads the pixels of an image set, part by part.

Each reader is a record that can be pickled, so that an image set can be sent to another process and read there.  Files
are opened again by their names: a path that is not absolute needs the same working folder.
"""

from __future__ import annotations

import io
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data import arrays
from spikformer_deploy.data.arrays import check_room
from spikformer_deploy.data.files import Load, decoded, pixels_of
from spikformer_deploy.data.pixels import as_pixels
from spikformer_deploy.data.recordings import LoadFrames
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

    names  of the files, in the order of the set; load: the bytes of one, as of Files
    """

    names: tuple[str, ...]
    load: Load
    request: ImageRequest

    def __call__(self, part: slice) -> NDArray[np.uint8]:
        """(N, C, Y, X) or (N, T, C, Y, X) uint8.  Raises InputError, with its name, for a file that cannot be used."""
        names = self.names[part]
        check_room("images", len(names), math.prod(self.request.shape))
        with ThreadPoolExecutor() as workers:
            return np.stack(list(workers.map(self._read_one, names)))

    def _read_one(self, name: str) -> NDArray[np.uint8]:
        raw = self.load(name, self.request.most_bytes)
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
