"""Parts of a data set on their way to whoever computes: read there, or read here and sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.readers import are_files, found_anywhere
from spikformer_deploy.inference.seam import Pool


class Part(NamedTuple):
    """Some images of a set that follow each other, (N, C, Y, X) or (N, T, C, Y, X) uint8.

    lost  events lost in them
    """

    place: slice
    pixels: NDArray[np.integer]
    lost: int


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where the images of a piece of work come from.

    images  of the whole set, as they are read here
    sent    the set that goes with the work: read there, or without pixels, which come with every part
    """

    images: ImageSet
    sent: ImageSet
    read_there: bool

    def parts(self, size: int, start: int = 0) -> Iterator[Part | slice]:
        """All images from `start` on, `size` at a time, in order; slices where they are to be read there."""
        if self.read_there:
            count = len(self.images)
            yield from (slice(first, min(first + size, count)) for first in range(start, count, size))
            return
        for pixels, _ in self.images.batches(size, start):
            place = slice(start, start + len(pixels))
            start = place.stop
            yield Part(place, pixels, self.images.lost_in(place))


def source(images: ImageSet, pool: Pool, send_images: bool) -> Source:
    """Images for work that `pool` does: files are read where it is done, unless they are to be sent from here.

    Raises InputError where they cannot be found from there.
    """
    if not pool.elsewhere:
        return Source(images, images, False)
    if send_images or not are_files(images):
        return Source(images, replace(images, _read=_read_elsewhere, labels=None, lost=None), False)
    return Source(images, found_anywhere(images) if pool.apart else images, True)


def check_sending(send_images: bool, workers: int | None, scheduler: str | None) -> None:
    """Raise InputError where images are to be sent, and nobody is there to whom."""
    if send_images and workers is None and scheduler is None:
        raise InputError(
            "--send-images", "without workers no image leaves the process", "Give --workers N, or leave it out."
        )


def read_part(images: ImageSet, part: Part | slice) -> Part:
    """A part with its pixels, where the work is done."""
    if isinstance(part, Part):
        return part
    return Part(part, images.pixels_in(part), images.lost_in(part))


def _read_elsewhere(part: slice) -> NDArray[np.integer]:
    raise AssertionError(f"images {part.start} to {part.stop} come with their part")
