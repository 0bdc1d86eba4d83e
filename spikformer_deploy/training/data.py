"""Batches for training.  What an image becomes follows from (seed, epoch, image) alone: any run can go on anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.data.resized import streamed
from spikformer_deploy.training.augment import augmented, moved
from spikformer_deploy.training.recipe import Augment, Data

Pixels = NDArray[np.uint8]
Made = TypeVar("Made")
VALIDATION_SEED = 0
MEASURED_IMAGES = 2048
"""Of images that stay in files, the mean and standard deviation of so many stand for all."""
WHOLE = slice(None)


class Images(Protocol):
    """Labelled images, wherever they are; labels (N,) int64."""

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def for_training(self, index: int, least_share: float, rng: np.random.Generator) -> Pixels:
        """One image (C, Y, X), or its frames (T, C, Y, X), cut out at random where sizes differ."""

    def for_evaluation(self, part: slice | NDArray[np.int64]) -> Pixels:
        """(N, C, Y, X) or (N, T, C, Y, X), always the same."""

    def part(self, chosen: NDArray[np.int64]) -> Images:
        """Some of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Images in memory: pixels (N, C, Y, X) or (N, T, C, Y, X) uint8 and labels (N,) int64."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def for_training(self, index: int, least_share: float, rng: np.random.Generator) -> Pixels:
        """One image as it is."""
        return self.pixels[index]

    def for_evaluation(self, part: slice | NDArray[np.int64]) -> Pixels:
        """Images as they are."""
        return self.pixels[part]

    def part(self, chosen: NDArray[np.int64]) -> Labelled:
        """Some of them."""
        return Labelled(self.pixels[chosen], self.labels[chosen])


def read_training(data: Data, frames: int = 0) -> tuple[Images, Images, Preprocess, tuple[str, ...]]:
    """The images to train on, those kept apart for validation, their normalisation and the names of the classes.

    frames  a recording of event data has so many; 0: images
    Mean and standard deviation are those of the images to train on, to four digits; of frames, whose pixels are mostly
    empty, the mean is taken to be 0, so that empty remains 0.
    Raises InputError for images without labels, or fewer than are to be kept apart.
    """
    everything, names = _labelled(data.source, data, _unit(data), "train", frames)
    if data.validation >= len(everything):
        raise InputError("data.validation", f"{data.validation} of {len(everything)} images", "Keep fewer apart.")
    order = np.random.default_rng(VALIDATION_SEED).permutation(len(everything))
    kept, apart = order[data.validation :], np.sort(order[: data.validation])
    kept = np.sort(_share_of_each_class(kept, everything.labels[kept], data.fraction))
    training, validation = (everything.part(i) for i in (kept, apart))
    names = names or tuple(map(str, range(int(everything.labels.max()) + 1)))
    return training, validation, _preprocess(data, training), names


def read_unlabelled(data: Data) -> tuple[Images, Preprocess]:
    """The training images of `data`, whether they have labels or not (then 0), and their normalisation."""
    if data.resize:
        everything: Images = streamed(data.source, "train", data.channels, data.size, data.resize)
        return everything, _preprocess(data, everything)
    images = read(data.source, _unit(data), split="train")
    labels = images.labels if images.labels is not None else np.zeros(len(images), np.int64)
    everything = Labelled(images.pixels, labels)
    return everything, _preprocess(data, everything)


def read_test(data: Data, preprocess: Preprocess, names: tuple[str, ...], frames: int = 0) -> Images:
    """The held-out images: those of `test`, or the test split of `source`.

    Raises InputError where `source` has no splits, or other classes.
    """
    if not data.test and _one(data, preprocess, "train", frames) == _one(data, preprocess, "test", frames):
        problem = "it has no test split: what is trained on would be tested on"
        raise InputError(data.source, problem, "Name other images as data.test, or use folders train/ and test/.")
    held_out, found = _labelled(data.test or data.source, data, preprocess, "test", frames)
    if (found and found != names) or held_out.labels.max() >= len(names):
        raise InputError(data.test or data.source, "its classes are not those that were trained on")
    return held_out


def epoch(
    images: Images,
    preprocess: Preprocess,
    settings: Augment,
    batch: int,
    seed: int,
    number: int,
    first: int = 0,
    part: slice = WHOLE,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised batches of epoch `number` from batch `first` on; the last, smaller batch is left out.

    part     of each batch, for a process of several
    workers  processes that prepare batches ahead of time
    """
    order = np.random.default_rng((seed, number)).permutation(len(images))
    mean = np.rint(np.array(preprocess.mean) * preprocess.max_value).astype(np.uint8)
    blank = -torch.tensor(preprocess.mean) / torch.tensor(preprocess.std)
    batches = [order[start : start + batch][part] for start in range(0, len(order) - batch + 1, batch)]
    make, steps = partial(_pixels, images, batches, settings, mean, (seed, number)), range(first, len(batches))
    for step, pixels in zip(steps, prepared(make, steps, workers), strict=True):
        x = normalised(pixels.numpy(), preprocess)
        if settings.shift or settings.rotate_degrees:
            of_batch = np.random.default_rng((seed, number, step * batch, part.start or 0))
            generator = torch.Generator().manual_seed(int(of_batch.integers(2**62)))
            x = moved(x, generator, settings.shift, settings.rotate_degrees, blank)
        yield x, torch.from_numpy(images.labels[batches[step]])


def _pixels(
    images: Images,
    batches: list[NDArray[np.int64]],
    settings: Augment,
    mean: Pixels,
    seed: tuple[int, int],
    step: int,
) -> Tensor:
    """The pixels of one batch, each image by a generator of its own."""
    out = []
    for index in map(int, batches[step]):
        rng = np.random.default_rng((*seed, index))
        out.append(augmented(images.for_training(index, settings.crop_share, rng), settings, mean, rng))
    return torch.from_numpy(np.stack(out))


def normalised(pixels: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """(N, C, Y, X) float32."""
    return torch.from_numpy(preprocess.normalised(pixels))


def _share_of_each_class(indices: NDArray[np.int64], labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The first of each class, at least one; indices and labels (N,)."""
    if share == 1:
        return indices
    classes = [indices[labels == label] for label in np.unique(labels)]
    return np.concatenate([of[: max(1, round(share * len(of)))] for of in classes])


def _labelled(
    source: str, data: Data, preprocess: Preprocess, split: str, frames: int
) -> tuple[Images, tuple[str, ...]]:
    """The images of a split, and the names of their classes where they have some."""
    if data.resize and frames:
        raise InputError("data.resize", "frames of event data are not resized", "Leave it out.")
    if data.resize:
        files = streamed(source, split, data.channels, data.size, data.resize)
        found: tuple[Images, tuple[str, ...], bool] = files, files.files.classes, files.files.labels is not None
    else:
        images = read(source, preprocess, split=split, frames=frames)
        labels = np.zeros(len(images), np.int64) if images.labels is None else images.labels
        found = Labelled(images.pixels, labels), images.names, images.labels is not None
    if not found[2]:
        raise InputError(source, "its images have no labels", "Sort them into one folder a class.")
    return found[:2]


def _one(data: Data, preprocess: Preprocess, split: str, frames: int) -> str:
    """What tells one image of a split from others."""
    return read(data.source, preprocess, limit=1, split=split, frames=frames).identity


def _unit(data: Data) -> Preprocess:
    return Preprocess(data.channels, data.size, (0.0,) * data.channels, (1.0,) * data.channels)


def _preprocess(data: Data, images: Images) -> Preprocess:
    """What the recipe says, else the moments of the images."""
    for name, given in (("data.mean", data.mean), ("data.std", data.std)):
        if given and len(given) != data.channels:
            raise InputError(name, f"{len(given)} values for {data.channels} channels", "Give one a channel.")
    if data.mean and data.std:
        return Preprocess(data.channels, data.size, data.mean, data.std)
    mean, std = _moments(data, images)
    return Preprocess(data.channels, data.size, data.mean or mean, data.std or std)


def _moments(data: Data, images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, by way of a histogram: exact, and no copy of the images in floating point."""
    some = np.unique(np.linspace(0, len(images) - 1, MEASURED_IMAGES).astype(np.int64))
    pixels, levels = images.for_evaluation(some if data.resize else WHOLE), np.arange(256) / 255
    moments = []
    for channel in range(data.channels):
        share = np.bincount(pixels[..., channel, :, :].ravel(), minlength=256) / pixels[..., channel, :, :].size
        mean = float(share @ levels) if pixels.ndim == 4 else 0.0
        moments.append((round(mean, 4), round(float(share @ (levels - mean) ** 2) ** 0.5, 4)))
    if min(deviation for _, deviation in moments) <= 0:
        raise InputError(data.source, "a channel has the same value in every pixel of every image")
    return tuple(m for m, _ in moments), tuple(d for _, d in moments)


def prepared(make: Callable[[int], Made], steps: range, workers: int) -> Iterator[Made]:
    """make(step) for each of `steps`, in order, by so many processes ahead of time (0: in this one)."""
    if not workers:
        yield from map(make, steps)
        return
    own = torch.Generator()  # the default generator would be moved on
    for made in DataLoader(_Prepared(make), None, sampler=steps, num_workers=workers, generator=own):
        if isinstance(made, InputError):
            raise made
        yield made


class _Prepared(Dataset[Made | InputError]):
    """What `make` makes, or its error, which a DataLoader would turn into another."""

    def __init__(self, make: Callable[[int], Made]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Made | InputError:
        try:
            return self.make(step)
        except InputError as error:
            return error
