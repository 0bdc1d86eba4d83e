"""Windows of time series from arrays: real values (N, L, V), and what they go on with, (N, H V) or (N, H, V)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.series import LARGEST, Series, fitting_scale
from spikformer_deploy.data import arrays
from spikformer_deploy.data.arrays import Stored
from spikformer_deploy.data.given import Pair
from spikformer_deploy.data.images import Forecast, ImageSet, Preprocess

MOST_VALUES = 2**28
"""Of windows in memory, 2 GiB in doubles."""
FORM = "Give an .npz with the windows 'x' (N, L, V) and, if there are any, the targets 'y', or the windows as .npy."


@dataclass(frozen=True, slots=True, eq=False)
class InWindows:
    """Windows as integers (N, L, V), laid out as frames when they are asked for."""

    integers: NDArray[np.int16]
    series: Series

    def __call__(self, part: slice) -> NDArray[np.uint16]:
        """(N, T, C, Y, X), or (N, C, Y, X) of one frame for all steps."""
        return self.series.frames(self.integers[part])


def preprocess_of_series(series: Series) -> Preprocess:
    """What the images of a series are: a pixel is a value times `scale`, and nothing is 0."""
    channels, height, width = series.frame
    std = (series.scale / LARGEST,) * channels
    return Preprocess(channels, height, (0.0,) * channels, std, LARGEST, width, series)


def fitted(preprocess: Preprocess, windows: Float) -> Preprocess:
    """The same model with the scale that windows (N, L, V) call for."""
    assert preprocess.series is not None
    largest = float(np.abs(preprocess.series.values(windows)).max(initial=0))
    return preprocess_of_series(replace(preprocess.series, scale=fitting_scale(largest)))


def windows_of(
    data: str | Path | NDArray[Any] | Pair, series: Series, limit: int | None = None
) -> tuple[Float, Float | None]:
    """Windows (N, L, V) and targets (N, H V), or None, in doubles; the first `limit` of them.

    Raises InputError for what is no such array, of another size, or holds NaN or infinity.
    """
    stored, targets = _in_memory(data) if isinstance(data, (np.ndarray, tuple)) else _stored(Path(data))
    shape = (series.points, series.variables)
    if len(stored.shape) != 3 or stored.shape[1:] != shape or not stored.shape[0] or stored.dtype.kind not in "uif":
        problem = f"{stored.shape} values of type {stored.dtype}"
        way_out = f"The model takes windows of {shape[0]} points of {shape[1]} variables, (N, {shape[0]}, {shape[1]})."
        raise InputError(stored.place, problem, way_out)
    count = min(limit or stored.shape[0], stored.shape[0])
    windows = _real(stored, count)
    if targets is None:
        return windows, None
    if len(targets.shape) > 2 and targets.shape[2:] != (series.variables,):
        problem = f"targets of shape {targets.shape} for windows of {series.variables} variables"
        raise InputError(targets.place, problem, f"Give them as (N, points, {series.variables}), or flat.")
    return windows, targets_of(targets, stored.shape[0])[:count]


def targets_of(targets: Stored, count: int) -> Float:
    """(count, O) real targets, of any shape (count, ...); InputError for others."""
    if targets.shape[:1] != (count,) or len(targets.shape) < 2 or targets.dtype.kind not in "uif":
        problem = f"targets of shape {targets.shape} and type {targets.dtype} for {count} inputs"
        raise InputError(targets.place, problem, "Give a row of real numbers an input.")
    return _real(targets, count).reshape(count, -1)


def read_series(
    data: str | Path | NDArray[Any] | tuple[Float, Float | None], preprocess: Preprocess, limit: int | None = None
) -> ImageSet:
    """The windows of `data` as frames of the model that takes `preprocess`, with the targets beside them.

    data  a file or an array, as of windows_of, or windows and targets that were read before
    """
    series = preprocess.series
    assert series is not None
    windows, targets = data if isinstance(data, tuple) else windows_of(data, series, limit)
    integers, beyond = series.integers(windows)
    identity = hashlib.sha256(f"{integers.shape} {series}".encode())
    identity.update(integers.tobytes())
    notes = []
    if beyond:
        limits = f"{LARGEST / series.scale:g}"
        notes.append(f"{beyond:,} of {integers.size:,} values are beyond {limits} and taken as that: see --calibrate")
    forecast = Forecast(targets)
    if series.standardised:
        forecast = Forecast(targets, *series.moments(windows))
    reader = InWindows(integers.astype(np.int16), series)
    return ImageSet(len(windows), None, (), identity.hexdigest(), reader, tuple(notes), forecast=forecast)


def _in_memory(data: NDArray[Any] | Pair) -> tuple[Stored, Stored | None]:
    """Arrays that are there already."""
    windows, targets = data if isinstance(data, tuple) else (data, None)
    return arrays.in_memory("windows", windows), None if targets is None else arrays.in_memory("targets", targets)


def _stored(path: Path) -> tuple[Stored, Stored | None]:
    """The arrays of a file."""
    if not path.is_file():
        raise InputError(str(path), "the model takes time series, and this is no file of them", FORM)
    with path.open("rb") as stream:
        head = stream.read(len(arrays.NPY))
    if head.startswith(arrays.NPY):
        return arrays.npy(path), None
    if head.startswith(b"PK"):
        return arrays.npz(str(path), path)
    raise InputError(str(path), "the model takes time series, and this is no file of them", FORM)


def _real(stored: Stored, count: int) -> Float:
    """The first rows in doubles, all finite."""
    each = math.prod(stored.shape[1:])
    if count * each > MOST_VALUES:
        problem = f"{count:,} rows of {each:,} values, and {MOST_VALUES:,} are kept in memory at most"
        raise InputError(stored.place, problem, "Give --limit.")
    blocks = [block.astype(np.float64) for block in stored.blocks(count)]
    values = np.concatenate(blocks) if blocks else np.empty((0, *stored.shape[1:]))
    if not np.isfinite(values).all():
        raise InputError(stored.place, "it holds NaN or infinite values", "Fill gaps before.")
    return values
