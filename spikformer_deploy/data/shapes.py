"""What shape images have as they are stored: for a model that does not say which it takes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_content
from spikformer_deploy.data import arrays, digits
from spikformer_deploy.data.files import FORMATS, MOST_BYTES, SUFFIXES, Files
from spikformer_deploy.data.read import at
from spikformer_deploy.data.recordings import is_events
from spikformer_deploy.data.request import RECORDING_SUFFIXES

GRAY = ("1", "L", "I", "F")
"""Modes of Pillow (or what they begin with) of images with one channel."""
CHANNELS = (1, 3)
"""Of images whose channels stand last."""


def shape_of(data: str | Path | NDArray[Any]) -> tuple[int, ...]:
    """(C, Y, X) of the images of `data` (see read.read), of a folder: of its first; (T, C, Y, X) of recordings.

    Raises InputError for what has no shape of its own, and for what cannot be read.
    """
    if isinstance(data, np.ndarray):
        return _of_rows("images", data.shape[1:])
    if str(data) == "digits":
        return (1, digits.SIDE, digits.SIDE)
    if str(data) == "drawn" or is_events(data):
        problem = "it has the shape that the model asks for, and the model does not say which"
        raise InputError(str(data), problem, "Say it in the model's `preprocess`.")
    path = Path(data)
    found = at(path, "test", (*SUFFIXES, *RECORDING_SUFFIXES), by_folder=False)
    return _of_file(found) if isinstance(found, Files) else _of_rows(str(path), found[0].shape[1:])


def _of_rows(place: str, row: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an image or a recording from that of a row of an array."""
    match row:
        case (height, width):
            return (1, height, width)
        case (height, width, channels) if channels in CHANNELS and height not in CHANNELS:
            return (channels, height, width)
        case (_, _, _) | (_, _, _, _):
            return row
    problem = f"rows of shape {row}, which are no images"
    raise InputError(place, problem, "Give (N, C, Y, X), or recordings (N, T, C, Y, X).")


def _of_file(files: Files) -> tuple[int, ...]:
    """The shape of the first file's image or frames."""
    from PIL import Image

    name = files.names[0]
    raw = files.load(name, MOST_BYTES)
    if name.lower().endswith(RECORDING_SUFFIXES):
        return arrays.npz(name, io.BytesIO(raw))[0].shape
    check_content(name, raw)
    try:
        image = Image.open(io.BytesIO(raw), formats=FORMATS)
    except Exception as error:  # decoders fail in many ways on what is damaged
        raise InputError(name, f"it cannot be decoded: {error or type(error).__name__}") from None
    width, height = image.size
    return (1 if image.mode.startswith(GRAY) else 3, height, width)
