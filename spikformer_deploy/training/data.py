"""Batches for training.  What an image becomes follows from (seed, epoch, image) alone: any run can go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikformer_deploy.errors import InputError
from spikformer_deploy.images import ImageSet, Preprocess, read
from spikformer_deploy.training.augment import augmented, moved
from spikformer_deploy.training.recipe import Augment, Data

VALIDATION_SEED = 0
WHOLE = slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Images in memory: pixels (N, C, Y, X) uint8 and labels (N,) int64."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def read_training(data: Data) -> tuple[Labelled, Labelled, Preprocess, tuple[str, ...]]:
    """The images to train on, those kept apart for validation, their normalisation and the names of the classes.

    Mean and standard deviation are those of the images to train on, to four digits.
    Raises InputError for images without labels, or fewer than are to be kept apart.
    """
    images = read(data.source, _unit(data), split="train")
    everything = _labelled(data.source, images)
    if data.validation >= len(everything):
        raise InputError("data.validation", f"{data.validation} of {len(everything)} images", "Keep fewer apart.")
    order = np.random.default_rng(VALIDATION_SEED).permutation(len(everything))
    kept, apart = np.sort(order[data.validation :]), np.sort(order[: data.validation])
    training, validation = (Labelled(everything.pixels[i], everything.labels[i]) for i in (kept, apart))
    names = images.names or tuple(map(str, range(int(everything.labels.max()) + 1)))
    return training, validation, _preprocess(data, training), names


def read_unlabelled(data: Data) -> tuple[Labelled, Preprocess]:
    """The training images of `data`, whether they have labels or not (then 0), and their normalisation."""
    images = read(data.source, _unit(data), split="train")
    labels = images.labels if images.labels is not None else np.zeros(len(images), np.int64)
    everything = Labelled(images.pixels, labels)
    return everything, _preprocess(data, everything)


def read_test(data: Data, preprocess: Preprocess, names: tuple[str, ...]) -> Labelled:
    """The held-out images: those of `test`, or the test split of `source`."""
    images = read(data.test or data.source, preprocess, split="test")
    held_out = _labelled(data.test or data.source, images)
    if (images.names and images.names != names) or held_out.labels.max() >= len(names):
        raise InputError(data.test or data.source, "its classes are not those that were trained on")
    return held_out


def epoch(
    images: Labelled,
    preprocess: Preprocess,
    settings: Augment,
    batch: int,
    seed: int,
    number: int,
    first: int = 0,
    part: slice = WHOLE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised batches of epoch `number` from batch `first` on; the last, smaller batch is left out.

    part  of each batch, for a process of several
    """
    order = np.random.default_rng((seed, number)).permutation(len(images))
    mean = np.rint(np.array(preprocess.mean) * preprocess.max_value).astype(np.uint8)
    blank = -torch.tensor(preprocess.mean) / torch.tensor(preprocess.std)
    for start in range(first * batch, len(order) - batch + 1, batch):
        chosen = order[start : start + batch][part]
        pixels = [augmented(images.pixels[i], settings, mean, np.random.default_rng((seed, number, i))) for i in chosen]
        x = normalised(np.stack(pixels), preprocess)
        if settings.shift or settings.rotate_degrees:
            of_batch = np.random.default_rng((seed, number, start, part.start or 0))
            generator = torch.Generator().manual_seed(int(of_batch.integers(2**62)))
            x = moved(x, generator, settings.shift, settings.rotate_degrees, blank)
        yield x, torch.from_numpy(images.labels[chosen])


def normalised(pixels: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """(N, C, Y, X) float32."""
    return torch.from_numpy(preprocess.normalised(pixels))


def _labelled(source: str, images: ImageSet) -> Labelled:
    if images.labels is None:
        raise InputError(source, "its images have no labels", "Sort them into one folder a class.")
    return Labelled(images.pixels, images.labels)


def _unit(data: Data) -> Preprocess:
    return Preprocess(data.channels, data.size, (0.0,) * data.channels, (1.0,) * data.channels)


def _preprocess(data: Data, images: Labelled) -> Preprocess:
    """Moments by way of a histogram: exact, and no copy of the images in floating point."""
    levels = np.arange(256) / 255
    moments = []
    for channel in range(data.channels):
        share = np.bincount(images.pixels[:, channel].ravel(), minlength=256) / images.pixels[:, channel].size
        mean = float(share @ levels)
        moments.append((round(mean, 4), round(float(share @ (levels - mean) ** 2) ** 0.5, 4)))
    if min(deviation for _, deviation in moments) <= 0:
        raise InputError(data.source, "a channel has the same value in every pixel of every image")
    return Preprocess(data.channels, data.size, tuple(m for m, _ in moments), tuple(d for _, d in moments))
