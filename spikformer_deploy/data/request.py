"""What a caller asks of images: the model that takes them, and which of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from spikformer_deploy.data.files import SUFFIXES
from spikformer_deploy.data.images import Preprocess

DARK = 64
"""Pixels of which none is brighter are more likely of another scale: scikit-learn's digits reach 16, 14 bits 64."""
EIGHT_BITS = 255
"""The largest pixel that is read: a model for more has no images here."""
BYTES_OF_A_PIXEL = 64
"""More than any depth of any format takes."""
BYTES_BESIDE_PIXELS = 2**24
"""What a file may hold beside its pixels: profiles, previews, where it was taken."""
RECORDING_SUFFIXES = (".npz",)
"""Files of a folder of recordings: one a file, cut into frames."""


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What is asked of the images; names as in read.read."""

    preprocess: Preprocess
    frames: int
    limit: int | None
    split: str
    labels: Path | None
    regression: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image (C, Y, X), or of one recording (T, C, Y, X)."""
        image = (self.preprocess.channels, *self.preprocess.extent)
        return (self.frames, *image) if self.frames else image

    @property
    def most_bytes(self) -> int:
        """Of the file of an image or a recording."""
        return BYTES_BESIDE_PIXELS + BYTES_OF_A_PIXEL * math.prod(self.shape)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the files in a folder or zip."""
        return RECORDING_SUFFIXES if self.frames else SUFFIXES

    @property
    def dark(self) -> int:
        """As of an ImageSet: counts of events may be small."""
        return DARK if self.preprocess.max_value == EIGHT_BITS and not self.frames else 0

    @property
    def stated_shape(self) -> str:
        """The shape that an array must have, for a person."""
        # "(3, 32, 32)" without its first bracket continues "(N, "
        axes = str(self.shape)[1:]
        if not self.frames:
            return f"the model takes images without time steps, (N, C, Y, X) = (N, {axes}"
        return f"the model takes recordings of {self.frames} frames, (N, T, C, Y, X) = (N, {axes}"
