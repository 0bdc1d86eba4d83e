"""What people have in Python: arrays, tensors, pairs of images and labels, datasets and loaders of batches.

All of them become numpy arrays here, once: a loader may give its images in another order the next time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.arrays import check_room
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.request import EIGHT_BITS

NEAR = 1e-3
"""How far from a whole pixel, of 0 to 255, a real number of single precision may lie that was made from one."""
BLOCK = 2**20
"""Values that are looked at together."""
IMAGE_AXES = 3
"""Axes of the smallest array that is an image: (C, Y, X)."""
WAY_OUT = "Give a path, an array, a tensor, (images, labels), or a Dataset or DataLoader of (image, label)."

Pair: TypeAlias = tuple[NDArray[Any], "NDArray[Any] | None"]
"""Images and what is beside them: labels, or real targets."""
Way: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Given: TypeAlias = "str | Path | NDArray[Any] | Pair"
"""What data.read.read takes."""


def as_array(value: Any, place: str = "data", way_out: str = WAY_OUT) -> NDArray[Any]:
    """A tensor, an image of Pillow, or what else numpy makes an array of, in memory.

    Raises InputError, with `place` and `way_out`, where it makes none.
    """
    if hasattr(value, "detach"):  # a tensor of torch, wherever it lies
        value = value.detach().cpu()
        # numpy has no bfloat16: fp32 holds all its values
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(place, f"a {type(value).__name__} is no array: {error}", way_out) from None
    if array.dtype == object:
        raise InputError(place, f"a {type(value).__name__} is no array of numbers", way_out)
    return array


def gathered(data: Any, limit: int | None = None) -> Given:
    """What a person passes, as arrays: paths and words as they are.

    data   a path or word, an array, a tensor, a pair (images, labels), or a Dataset or DataLoader of torch whose items
           or batches are images, or (images, labels)
    limit  of a Dataset or DataLoader, at most so many images are asked for: the first ones
    Raises InputError for anything else, by its type.
    """
    if isinstance(data, (str, Path, np.ndarray)):
        return data
    if isinstance(data, tuple):
        if len(data) != 2:
            raise InputError("data", f"a tuple of {len(data)}", "Give a pair, (images, labels).")
        return as_array(data[0]), None if data[1] is None else as_array(data[1])
    if hasattr(data, "detach"):
        return as_array(data)
    batches = _batches(data)
    if batches is None:
        raise InputError("data", f"it is a {type(data).__name__}", WAY_OUT)
    return _stacked(batches, limit)


def images_alone(given: Given) -> Given:
    """The same without what is beside the images, of which some callers make nothing."""
    return given[0] if isinstance(given, tuple) else given


def _batches(data: Any) -> Iterator[Any] | None:
    """Batches of a DataLoader or of a Dataset, whose items become batches of one; None of anything else."""
    # who passes one of them has loaded torch
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(data, torch.utils.data.DataLoader):
        return (_arrays(batch) for batch in data) if data.batch_size is not None else _of_items(data)
    if isinstance(data, torch.utils.data.IterableDataset):
        return _of_items(data)
    if isinstance(data, torch.utils.data.Dataset):
        if not hasattr(data, "__len__"):
            raise InputError("data", f"the {type(data).__name__} does not say how many items it has", WAY_OUT)
        return _of_items(data[index] for index in range(len(data)))
    return None


def _of_items(items: Iterable[Any]) -> Iterator[Pair]:
    for item in items:
        images, beside = _arrays(item)
        yield images[None], None if beside is None else beside[None]


def _arrays(item: Any) -> Pair:
    """Images and what is beside them, of an item or a batch."""
    if isinstance(item, Mapping) or (isinstance(item, (tuple, list)) and len(item) != 2):
        what = f"a {type(item).__name__} of {len(item)}"
        raise InputError("data", f"its items are {what}", "Let them be images, or pairs (image, label).")
    if isinstance(item, (tuple, list)):
        return as_array(item[0]), as_array(item[1])
    return as_array(item), None


def _stacked(batches: Iterator[Pair], limit: int | None) -> NDArray[Any] | Pair:
    """All batches as one, up to the limit."""
    images: list[NDArray[Any]] = []
    beside: list[NDArray[Any]] = []
    count = 0
    for batch, labels in batches:
        if images and batch.shape[1:] != images[0].shape[1:]:
            problem = f"image {count} is {batch.shape[1:]}, and those before are {images[0].shape[1:]}"
            raise InputError("data", problem, "Let a transform bring them to one size.")
        count += len(batch)
        check_room("data", count, math.prod(batch.shape[1:]))
        images.append(batch)
        if labels is not None:
            beside.append(labels)
        if limit is not None and count >= limit:
            break
    if not images:
        raise InputError("data", "it has no images", "Give at least one.")
    return np.concatenate(images), np.concatenate(beside) if beside else None


def whole(images: NDArray[Any], preprocess: Preprocess) -> NDArray[Any]:
    """Real images as the pixels that they were made from, where every one of them tells it; else as they are.

    That is so of pixels / 255, as torchvision's ToTensor gives them, and of (pixels / max_value - mean) / std, as the
    model takes them.  Others are left to those who refuse them by their values.
    Raises InputError where both could be meant, and for 0 and 1 alone: pixels, or black and white?
    """
    if images.dtype.kind != "f" or images.ndim < IMAGE_AXES or preprocess.series is not None or not images.size:
        return images
    if not np.isfinite(images).all():
        return images
    most = preprocess.max_value
    integral = bool((images == np.rint(images)).all())
    if integral and most > 1 and images.max() == 1 and images.min() >= 0:
        raise _ambiguous(f"0 and 1 alone, which are pixels or pixels / {most}", most)
    ways: list[Way] = [lambda real: real] if integral else []
    if most == EIGHT_BITS and not integral:
        ways.append(lambda real: real * EIGHT_BITS)
    if preprocess.channels in images.shape[-3:-2]:
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (preprocess.mean, preprocess.std))
        ways.append(lambda real: (real * std + mean) * most)
    rows = images[None] if images.ndim == IMAGE_AXES else images
    found = [pixels for pixels in (_made_from(rows, way, most) for way in ways) if pixels is not None]
    if len(found) > 1 and not np.array_equal(found[0], found[1]):
        raise _ambiguous(f"{'pixels' if integral else 'pixels / 255'}, or normalised: they could be either", most)
    if not found or np.array_equal(found[0].reshape(images.shape), images):
        return images
    return found[0].reshape(images.shape)


def _ambiguous(what: str, most: int) -> InputError:
    return InputError("images", f"real values, {what}", f"Give pixels as integers from 0 to {most}.")


def _made_from(rows: NDArray[Any], way: Way, most: int) -> NDArray[np.uint8] | None:
    """The pixels that all values are near to on that way back; None where one of them is near to none.

    Some rows at a time: in double precision they take several times their memory.
    """
    out = np.empty(rows.shape, np.uint8)
    step = max(1, BLOCK // math.prod(rows.shape[1:]))
    for first in range(0, len(rows), step):
        values = way(rows[first : first + step].astype(np.float64))
        near = np.rint(values)
        if (np.abs(values - near) > NEAR).any() or near.min() < 0 or near.max() > min(most, EIGHT_BITS):
            return None
        out[first : first + step] = near
    return out
