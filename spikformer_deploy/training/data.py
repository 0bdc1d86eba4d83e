"""Batches for training.  What an image becomes follows from (seed, epoch, image) only: any run can go on anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

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
Prepared = TypeVar("Prepared")
VALIDATION_SEED = 0
MEASURED_IMAGES = 2048
"""Of images that stay in files, the mean and standard deviation of that many stand for all."""
LEVELS = 256
"""Values of a pixel."""
ALL = slice(None)


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


class TrainingData(NamedTuple):
    """The images to train on, those kept apart for validation, their normalisation and the names of the classes."""

    training: Images
    validation: Images
    preprocess: Preprocess
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Where batches come from, and what becomes of their images.

    batch    images in each; seed: of everything random
    part     of each batch, for a process of several
    workers  processes that prepare batches ahead of time (0: none); the result does not depend on it
    """

    images: Images
    preprocess: Preprocess
    augment: Augment
    batch: int
    seed: int
    # a slice has no hash, and cannot be a default itself
    part: slice = field(default_factory=lambda: ALL)
    workers: int = 0


def read_training(data: Data, frames: int = 0) -> TrainingData:
    """What a recipe trains on.

    frames  of each recording of event data; 0: images
    Mean and standard deviation are those of the images to train on, to four digits; of frames, whose pixels are mostly
    empty, the mean is taken to be 0, so that empty remains 0.
    Raises InputError for images without labels, or fewer than are to be kept apart.
    """
    everything, names = _labelled(data.source, data, _unit(data), "train", frames)
    if data.validation >= len(everything):
        raise InputError("data.validation", f"{data.validation} of {len(everything)} images", "Keep fewer apart.")
    order = np.random.default_rng(VALIDATION_SEED).permutation(len(everything))
    apart = np.sort(order[: data.validation])
    rest = order[data.validation :]
    # a share of what is left: validation has the same images, whatever `fraction` is
    chosen = np.sort(_share_of_each_class(rest, everything.labels[rest], data.fraction))
    training = everything.part(chosen)
    names = names or tuple(map(str, range(int(everything.labels.max()) + 1)))
    return TrainingData(training, everything.part(apart), _preprocess(data, training), names)


def read_unlabelled(data: Data) -> tuple[Images, Preprocess]:
    """The training images of `data`, whether they have labels or not (then 0), and their normalisation."""
    if data.resize:
        everything: Images = streamed(data.source, "train", data.channels, data.size, data.resize)
        return everything, _preprocess(data, everything)
    images = read(data.source, _unit(data), split="train")
    labels = images.labels if images.labels is not None else np.zeros(len(images), np.int64)
    everything = Labelled(images.pixels.astype(np.uint8, copy=False), labels)
    return everything, _preprocess(data, everything)


def read_test(data: Data, preprocess: Preprocess, names: tuple[str, ...], frames: int = 0) -> Images:
    """The held-out images: those of `test`, or the test split of `source`.

    Raises InputError where `source` has no splits, or other classes.
    """
    # without splits both are the same images, of which one is enough to see it
    if not data.test and _one(data, preprocess, "train", frames) == _one(data, preprocess, "test", frames):
        problem = "it has no test split: what is trained on would be tested on"
        raise InputError(data.source, problem, "Name other images as data.test, or use folders train/ and test/.")
    held_out, classes = _labelled(data.test or data.source, data, preprocess, "test", frames)
    if (classes and classes != names) or held_out.labels.max() >= len(names):
        raise InputError(data.test or data.source, "its classes are not those that were trained on")
    return held_out


def epoch(feed: Feed, number: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised batches of epoch `number` from batch `first` on; the last, smaller batch is left out.

    Each is ((N, C, Y, X) or (N, T, C, Y, X) float32, (N,) int64 labels), of this process's part.
    """
    order = np.random.default_rng((feed.seed, number)).permutation(len(feed.images))
    starts = range(0, len(order) - feed.batch + 1, feed.batch)
    batches = [order[start : start + feed.batch][feed.part] for start in starts]
    steps = range(first, len(batches))
    make = partial(_pixels, feed, number, batches)
    for step, pixels in zip(steps, prepared(make, steps, feed.workers), strict=True):
        x = normalised(pixels.numpy(), feed.preprocess)
        if feed.augment.shift or feed.augment.rotate_degrees:
            x = _moved(x, feed, number, step)
        yield x, torch.from_numpy(feed.images.labels[batches[step]])


def _pixels(feed: Feed, number: int, batches: list[NDArray[np.int64]], step: int) -> Tensor:
    """The pixels of one batch, each image by a generator of its own."""
    preprocess = feed.preprocess
    mean = np.rint(np.array(preprocess.mean) * preprocess.max_value).astype(np.uint8)
    out = []
    for index in map(int, batches[step]):
        rng = np.random.default_rng((feed.seed, number, index))
        image = feed.images.for_training(index, feed.augment.crop_share, rng)
        out.append(augmented(image, feed.augment, mean, rng))
    return torch.from_numpy(np.stack(out))


def _moved(x: Tensor, feed: Feed, number: int, step: int) -> Tensor:
    """A batch, shifted and turned by a generator of its own, and of the process's own."""
    blank = -torch.tensor(feed.preprocess.mean) / torch.tensor(feed.preprocess.std)
    rng = np.random.default_rng((feed.seed, number, step * feed.batch, feed.part.start or 0))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return moved(x, generator, feed.augment.shift, feed.augment.rotate_degrees, blank)


def normalised(pixels: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """(N, C, Y, X) float32."""
    return torch.from_numpy(preprocess.normalised(pixels))


def _share_of_each_class(indices: NDArray[np.int64], labels: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """The first of each class, at least one; indices and labels (N,)."""
    if share == 1:
        return indices
    classes = [indices[labels == label] for label in np.unique(labels)]
    return np.concatenate([members[: max(1, round(share * len(members)))] for members in classes])


def _labelled(
    source: str, data: Data, preprocess: Preprocess, split: str, frames: int
) -> tuple[Images, tuple[str, ...]]:
    """The images of a split, and the names of their classes where they have some."""
    if data.resize and frames:
        raise InputError("data.resize", "frames of event data are not resized", "Leave it out.")
    if data.resize:
        files = streamed(source, split, data.channels, data.size, data.resize)
        _check_labelled(source, files.files.labels)
        return files, files.files.classes
    images = read(source, preprocess, split=split, frames=frames)
    labels = _check_labelled(source, images.labels)
    return Labelled(images.pixels.astype(np.uint8, copy=False), labels), images.names


def _check_labelled(source: str, labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The labels.  Raises InputError where there are none."""
    if labels is None:
        raise InputError(source, "its images have no labels", "Sort them into one folder a class.")
    return labels


def _one(data: Data, preprocess: Preprocess, split: str, frames: int) -> str:
    """The identity of one image of a split: equal where it is the same image."""
    return read(data.source, preprocess, limit=1, split=split, frames=frames).identity


def _unit(data: Data) -> Preprocess:
    """Pixels as shares of the largest: for images whose moments are not known yet."""
    return Preprocess(data.channels, data.size, (0.0,) * data.channels, (1.0,) * data.channels)


def _preprocess(data: Data, images: Images) -> Preprocess:
    """What the recipe says, else the moments of the images."""
    for name, values in (("data.mean", data.mean), ("data.std", data.std)):
        if values and len(values) != data.channels:
            raise InputError(name, f"{len(values)} values for {data.channels} channels", "Give one a channel.")
    if data.mean and data.std:
        return Preprocess(data.channels, data.size, data.mean, data.std)
    mean, std = _moments(data, images)
    return Preprocess(data.channels, data.size, data.mean or mean, data.std or std)


def _moments(data: Data, images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, by way of a histogram: exact, and no copy of the images in floating point."""
    # from all over a set that is sorted by class
    sample = np.unique(np.linspace(0, len(images) - 1, MEASURED_IMAGES).astype(np.int64))
    pixels = images.for_evaluation(sample if data.resize else ALL)
    are_frames = pixels.ndim == 5
    levels = np.arange(LEVELS) / (LEVELS - 1)
    means = []
    deviations = []
    for channel in range(data.channels):
        values = pixels[..., channel, :, :]
        share = np.bincount(values.ravel(), minlength=LEVELS) / values.size
        mean = 0.0 if are_frames else float(share @ levels)
        means.append(round(mean, 4))
        deviations.append(round(float(share @ (levels - mean) ** 2) ** 0.5, 4))
    if min(deviations) <= 0:
        raise InputError(data.source, "a channel has the same value in every pixel of every image")
    return tuple(means), tuple(deviations)


def prepared(make: Callable[[int], Prepared], steps: range, workers: int) -> Iterator[Prepared]:
    """make(step) for each of `steps`, in order, by that many processes ahead of time (0: in this one)."""
    if not workers:
        yield from map(make, steps)
        return
    # a DataLoader draws a seed: the default generator would be moved on by that
    generator = torch.Generator()
    for result in DataLoader(_Steps(make), None, sampler=steps, num_workers=workers, generator=generator):
        if isinstance(result, InputError):
            raise result
        yield result


class _Steps(Dataset[Prepared | InputError]):
    """What `make` returns for each step, or its error, which a DataLoader would turn into another."""

    def __init__(self, make: Callable[[int], Prepared]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Prepared | InputError:
        try:
            return self.make(step)
        except InputError as error:
            return error
