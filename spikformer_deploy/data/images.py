"""What a model takes, and a set of images for it that are read when they are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.flat import LATER
from spikformer_deploy.base.options import named_class
from spikformer_deploy.base.series import Series
from spikformer_deploy.data.labels import WAY_OUT, few, is_number, numbers_of_nameless
from spikformer_deploy.data.recordings import MOST_EVENTS

REGRESSION = "regression"
TASKS = ("classification", REGRESSION)
"""What results are: classes, or real numbers."""


@named_class
@dataclass(frozen=True, slots=True)
class Preprocess:
    """What a model takes: real input = (pixel / max_value - mean) / std.

    channels, size  of the images; width where they are not square, else 0; mean, std  one a channel
    series          of a model on time series: how windows become frames; None: it takes images or recordings
    """

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_value: int = 255
    width: int = 0
    series: Series | None = field(default=None, metadata={LATER: True})

    def facts(self) -> dict[str, Any]:
        """Plain values, as files keep them; those of models on images say nothing of series."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name != "series" or value is not None}

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width."""
        return self.size, self.width or self.size

    def normalised(self, pixels: NDArray[np.integer]) -> NDArray[np.float32]:
        """Real input of the float model, (..., C, Y, X) float32."""
        mean = np.reshape(self.mean, (-1, 1, 1))
        std = np.reshape(self.std, (-1, 1, 1))
        return ((pixels / self.max_value - mean) / std).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What real results are held against, and how they are read.

    targets    (N, O) float64, or None where there are none
    mean, std  (N, V) of windows that were standardised: a result is a number of standard deviations from the mean; the
               variables of results (N, H V) stand inside.  None: results are what they are
    """

    targets: NDArray[np.float64] | None = None
    mean: NDArray[np.float64] | None = None
    std: NDArray[np.float64] | None = None

    def of(self, logits: NDArray[np.floating], first: int = 0) -> NDArray[np.float64]:
        """Results (n, O) of the inputs from `first` on, in the units of the targets."""
        if self.mean is None or self.std is None:
            return logits.astype(np.float64)
        rows = slice(first, first + len(logits))
        by_variable = logits.reshape(len(logits), -1, self.mean.shape[1])
        return (by_variable * self.std[rows, None] + self.mean[rows, None]).reshape(len(logits), -1)


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images that are read when they are asked for; a set that `read` made can be pickled.

    labels    (N,) int64 class indices, or None; names: class names in the order of their indices (may be empty)
    identity  sha256 that tells these images from others (of files: names, sizes and times of change)
    notes     what a user must know of them, such as files that were left out
    lost      (N,) int64 events of each recording that its frames do not hold, known once it is read; or None
    named_by  the file that gave the labels, if any; its names may be numbers of classes
    dark      images of which no pixel is brighter are noted; 0: none are
    forecast  of a regression; None: results are classes
    """

    count: int
    labels: NDArray[np.int64] | None
    names: tuple[str, ...]
    identity: str
    _read: Callable[[slice], NDArray[np.integer]] = field(repr=False)
    notes: tuple[str, ...] = ()
    lost: NDArray[np.int64] | None = None
    named_by: str = ""
    dark: int = 0
    forecast: Forecast | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def task(self) -> str:
        """What a model makes of them, one of TASKS."""
        return TASKS[0] if self.forecast is None else REGRESSION

    def of_classes(self, classes: tuple[str, ...], count: int) -> ImageSet:
        """The same images with the labels of a model of `count` classes, matched by name where both have names.

        classes  the model's names, in the order of its logits.  Empty: names that are numbers are those of classes, and
                 others must be as many as there are classes, and stand in their order
        Raises InputError for a name that is none of the model's, for a label outside 0 to count - 1, and for targets of
        a regression that are not `count` numbers each.
        """
        targets = None if self.forecast is None else self.forecast.targets
        if targets is not None and targets.shape[1] != count:
            problem = f"{targets.shape[1]} numbers an input, and the model makes {count}"
            raise InputError("targets", problem, "Give what it forecasts: points of time outside, variables inside.")
        if self.labels is None or not self.names:
            self._check_labels(count)
            return self
        order = np.array(self._numbers(classes, count), np.int64)
        is_same = bool((order == np.arange(len(order))).all())
        matched = self if is_same else replace(self, labels=order[self.labels], names=classes)
        matched._check_labels(count)
        return matched

    def _numbers(self, classes: tuple[str, ...], count: int) -> list[int]:
        """The class of each name."""
        number = {name: i for i, name in enumerate(classes)}
        if self.named_by:
            # a model's own name goes before the number that the same word would be
            number = {name: int(name) for name in self.names if is_number(name) and int(name) < count} | number
        elif not classes:
            return numbers_of_nameless(self.names, count)
        if classes and len(classes) != count:
            raise InputError("class names", f"the model has {len(classes)} for {count} classes", "Compile it again.")
        unknown = [name for name in self.names if name not in number]
        if unknown:
            known = f"the model's are {few(classes)}" if classes else f"the model has 0 to {count - 1}, without names"
            problem = f"classes named {few(unknown)}, and {known}"
            raise InputError(self.named_by or "labels", problem, WAY_OUT)
        return [number[name] for name in self.names]

    def _check_labels(self, classes: int) -> None:
        """Raise InputError for a label that is none of the model's classes."""
        if self.labels is not None and len(self.labels):
            least = int(self.labels.min())
            most = int(self.labels.max())
            if least < 0 or most >= classes:
                problem = f"labels from {least} to {most}, and the model has the classes 0 to {classes - 1}"
                raise InputError("labels", problem, "Number the classes from 0, or give images without labels.")

    @property
    def pixels(self) -> NDArray[np.integer]:
        """All images, (N, C, Y, X) or (N, T, C, Y, X) uint8; warns of what a run would note."""
        pixels = self._read(slice(0, self.count))
        for note in self.all_notes(int(pixels.max()), self.lost_in(slice(0, self.count))):
            warnings.warn(note, stacklevel=2)
        return pixels

    def pixels_in(self, part: slice) -> NDArray[np.integer]:
        """Pixels of some of them, as `pixels`."""
        return self._read(part)

    def lost_in(self, part: slice) -> int:
        """Events that are lost in some of the images, once they are read."""
        return 0 if self.lost is None else int(self.lost[part].sum())

    def all_notes(self, brightest: int, lost: int) -> tuple[str, ...]:
        """The notes, with those on the pixels: the largest of all of them, and the events that are lost."""
        notes = list(self.notes)
        if 0 < brightest <= self.dark:
            notes.append(f"no pixel is above {brightest} of 255: are they scaled otherwise?")
        if lost:
            notes.append(f"{lost:,} events are lost: a frame holds {MOST_EVENTS} of a pixel")
        return tuple(notes)

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int64] | None]]:
        """Images and labels from image `start` on, `size` at a time, in order; the next ones are read meanwhile."""
        parts = [slice(first, min(first + size, self.count)) for first in range(start, self.count, size)]
        # one batch ahead and no more: two are in memory at once
        with ThreadPoolExecutor(1) as reader:
            reading = [reader.submit(self._read, part) for part in parts[:1]]
            for part, following in zip_longest(parts, parts[1:]):
                pixels = reading.pop().result()
                if following is not None:
                    reading.append(reader.submit(self._read, following))
                yield pixels, None if self.labels is None else self.labels[part]
