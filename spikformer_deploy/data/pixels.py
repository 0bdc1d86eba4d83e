"""Pixels and labels from arrays: the layouts, types and ranges that are understood; anything else is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.arrays import Stored, check_room
from spikformer_deploy.data.request import EIGHT_BITS, ImageRequest

LARGEST_LABEL = 2**31
"""Beyond the number of any class, and still exact as a real number of double precision."""


def as_pixels(images: Stored, request: ImageRequest) -> NDArray[np.uint8]:
    """(N, C, Y, X) or (N, T, C, Y, X) uint8, of one of the layouts that are understood; InputError where it is none.

    Only as many as are asked for are read, some at a time.
    """
    arranged = _layout(images, request)
    is_single = images.shape == request.shape
    count = 1 if is_single else min(images.shape[0], request.limit or images.shape[0])
    check_room(images.place, count, math.prod(request.shape))
    out = np.empty((count, *request.shape), np.uint8)
    # the first axis of a single recording is time: its blocks are frames, not recordings
    rows = out[0] if is_single else out
    done = 0
    for block in images.blocks(len(rows)):
        rows[done : done + len(block)] = arranged(_checked(images.place, block, request))
        done += len(block)
    return out


def as_labels(place: str, labels: Stored | NDArray[Any], count: int) -> NDArray[np.int64]:
    """(count,) whole numbers, of any type.

    Raises InputError for others.  The shape comes first: of an array of another shape nothing is read.
    """
    if labels.shape == (count,) and labels.dtype.kind in "uif":
        values = labels.values() if isinstance(labels, Stored) else labels
        if (np.abs(values) < LARGEST_LABEL).all() and (values == np.rint(values)).all():
            return values.astype(np.int64)
    problem = f"labels of shape {labels.shape} and type {labels.dtype} for {count} images"
    raise InputError(place, problem, "Give one integer label an image.")


def _layout(images: Stored, request: ImageRequest) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What turns rows of an array into those that the model takes."""
    shape = request.shape
    row = images.shape[1:]
    if images.shape[:1] == (0,):
        raise InputError(images.place, "there are no images", "Give at least one.")
    if not math.prod(images.shape) or images.dtype.kind not in "uibf":
        problem = f"{images.shape} values of type {images.dtype}, and {request.stated_shape}"
        raise InputError(images.place, problem, "Give whole numbers in that order of axes.")
    if row == shape or (request.frames and images.shape == shape):
        return _unchanged
    if not request.frames and row == shape[1:] and shape[0] == 1:
        return _with_a_channel
    if not request.frames and row == (*shape[1:], shape[0]):
        return _channels_first
    problem = f"images of shape {row}"
    if request.frames and images.shape[:1] == shape[:1] and images.shape[2:] == shape[1:]:
        problem = f"its shape is {images.shape}: time steps come first, and recordings second"
    raise InputError(images.place, f"{problem}, and {request.stated_shape}", "Give them in that order and size.")


def _unchanged(block: NDArray[Any]) -> NDArray[Any]:
    return block


def _with_a_channel(block: NDArray[Any]) -> NDArray[Any]:
    """(N, Y, X) to (N, 1, Y, X)."""
    return block[:, None]


def _channels_first(block: NDArray[Any]) -> NDArray[Any]:
    """(N, Y, X, C) to (N, C, Y, X)."""
    return block.transpose(0, 3, 1, 2)


def _checked(place: str, block: NDArray[Any], request: ImageRequest) -> NDArray[Any]:
    """The same numbers, all of them whole and in the range of the model (frames are often kept as float32)."""
    most = request.preprocess.max_value
    if block.dtype.kind == "f":
        if not np.isfinite(block).all():
            problem = "some of its values are no finite numbers (NaN or infinity)"
            raise InputError(place, problem, f"Give whole numbers from 0 to {most}.")
        if not (block == np.rint(block)).all():
            problem = f"real numbers from {block.min():g} to {block.max():g}, which are not all whole"
            of_images = most == EIGHT_BITS and not request.frames
            way_out = (
                "pixels as integers: real ones in 0..1 times 255, rounded" if of_images else f"integers, 0 to {most}"
            )
            raise InputError(place, problem, f"Give {way_out}.")
    if block.min() < 0 or block.max() > most:
        problem = f"pixels in [{int(block.min())}, {int(block.max())}], and the model takes 0..{most}"
        raise InputError(place, problem, "Scale them before.")
    return block
