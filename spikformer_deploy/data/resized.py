"""Images of any size, resized and cropped while they are read: no more of them in memory than a batch or two."""

from __future__ import annotations

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.files import (
    MODES,
    MOST_BYTES,
    ZIP,
    Archive,
    Files,
    decoded,
    in_archive,
    in_folder,
    pixels_of,
)

Pixels = NDArray[np.uint8]

ASPECT = 4 / 3
"""Longest and, inverted, shortest crop (Szegedy et al. 2015, and timm's --ratio)."""
ATTEMPTS = 10
"""After that many crops that do not fit, the largest in the middle is taken (torchvision and timm)."""
BICUBIC = Image.Resampling.BICUBIC


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """Labelled images that stay in their files.

    chosen   (N,) which of the files; labels: (N,) int64
    size     of the square images that come out; resize: of the shorter side, before the middle is cut out
    """

    files: Files
    chosen: NDArray[np.int64]
    labels: NDArray[np.int64]
    channels: int
    size: int
    resize: int

    def __len__(self) -> int:
        return len(self.chosen)

    def for_training(self, index: int, least_share: float, rng: np.random.Generator) -> Pixels:
        """A random part of an image, (C, Y, X) uint8: `least_share` to all of its area, 3 : 4 to 4 : 3, bicubic.

        Source: Szegedy et al. 2015, section 6; attempts and the way out as torchvision's RandomResizedCrop.
        """
        image = self._image(index)
        left, top, width, height = _random_box(image.width, image.height, least_share, rng)
        part = image.crop((left, top, left + width, top + height))
        return pixels_of(part.resize((self.size, self.size), BICUBIC))

    def for_evaluation(self, part: slice | NDArray[np.int64]) -> Pixels:
        """(N, C, Y, X) uint8: the shorter side resized to `resize` pixels (bicubic), the middle cut out."""
        indices = range(len(self))[part] if isinstance(part, slice) else part
        with ThreadPoolExecutor() as threads:
            return np.stack(list(threads.map(self._middle, indices)))

    def part(self, chosen: NDArray[np.int64]) -> Streamed:
        """Some of them."""
        return replace(self, chosen=self.chosen[chosen], labels=self.labels[chosen])

    def _middle(self, index: int) -> Pixels:
        """One image for evaluation (see for_evaluation)."""
        image = self._image(index)
        scale = self.resize / min(image.width, image.height)
        # rounding down may leave the shorter side a pixel too short
        width = max(self.resize, int(image.width * scale))
        height = max(self.resize, int(image.height * scale))
        left = round((width - self.size) / 2)
        top = round((height - self.size) / 2)
        resized = image.resize((width, height), BICUBIC)
        return pixels_of(resized.crop((left, top, left + self.size, top + self.size)))

    def _image(self, index: int) -> Image.Image:
        name = self.files.names[self.chosen[index]]
        return decoded(name, self.files.load(name, MOST_BYTES), self.channels)


def streamed(source: str, split: str, channels: int, size: int, resize: int) -> Streamed:
    """The images of a folder or zip.  Labels are 0 where there are none; sizes as in Streamed.

    Raises InputError for other sources, and for sizes that do not go together.
    """
    path = Path(source)
    if not path.is_dir() and not (path.is_file() and path.open("rb").read(len(ZIP)) == ZIP):
        raise InputError("data.resize", f"{source} is no folder or zip of images", "Leave it out.")
    if resize < size or channels not in MODES:
        problem = f"{resize} pixels, of which {size} in {channels} channels are to be cut out"
        raise InputError("data.resize", problem, "Use at least data.size, and 1 or 3 channels.")
    files = in_folder(path, split) if path.is_dir() else in_archive(Archive(path), split)
    for note in files.notes:
        warnings.warn(note, stacklevel=2)
    labels = np.zeros(len(files.names), np.int64) if files.labels is None else files.labels
    return Streamed(files, np.arange(len(labels)), labels, channels, size, resize)


def _random_box(width: int, height: int, least_share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a crop."""
    for _ in range(ATTEMPTS):
        area = width * height * rng.uniform(least_share, 1.0)
        # even in the logarithm: 3 : 4 is as likely as 4 : 3
        aspect = math.exp(rng.uniform(-math.log(ASPECT), math.log(ASPECT)))
        wide = round(math.sqrt(area * aspect))
        tall = round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(rng.integers(width - wide + 1))
            top = int(rng.integers(height - tall + 1))
            return left, top, wide, tall
    wide = min(width, round(height * ASPECT))
    tall = min(height, round(width * ASPECT))
    return (width - wide) // 2, (height - tall) // 2, wide, tall
