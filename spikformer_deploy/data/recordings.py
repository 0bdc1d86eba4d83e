"""Recordings of event cameras, read by tonic and cut into frames: `tonic:NMNIST:FOLDER`.

Nothing is downloaded: the folder is the one that tonic keeps its data sets in, and they must be there.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.data.files import size_and_time

PREFIX = "tonic:"
DATA_SETS = ("CIFAR10DVS", "DVSGesture", "NMNIST")
"""Those of tonic that are classified here: labels, one camera, a file a recording."""
TRAINED_ON = 0.9
"""Of a data set without splits (CIFAR10-DVS), the first 90 % of each class are trained on, as by the official code."""
MOST_EVENTS = 255
"""A frame counts a pixel's events up to that; more are rare."""


Shape = tuple[int, int, int, int]
"""(T, polarities, Y, X) of the frames of a recording."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadFrames:
    """What cuts a recording into frames, by its index in a split; it can be pickled.

    data      the data set of tonic, both splits of it where they lie together
    chosen    indices in `data` of the recordings of the split; files: their names
    """

    source: str
    data: Any
    chosen: list[int]
    files: list[str]
    shape: Shape

    def __call__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """The frames, and how many events are lost in them.  Raises InputError where it cannot be read."""
        try:
            events, _ = self.data[self.chosen[index]]
            return counted(events, self.shape)
        except ImportError as error:
            problem = f"to read them, tonic needs more: {error}"
            raise InputError(self.source, problem, "Install what it names.") from None
        except (ValueError, IndexError, KeyError, TypeError, OSError, EOFError) as error:
            raise InputError(self.files[index], f"it cannot be read: {error}", "Fetch it again.") from None


@dataclass(frozen=True, slots=True, eq=False)
class Recordings:
    """The recordings of one split, in order.

    shape    (T, polarities, Y, X) of the frames; labels (N,) int64
    classes  their names, in the order of the labels
    load     the frames of a recording, by its index, uint8, and how many events are lost in them
    """

    shape: Shape
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    identity: str
    load: LoadFrames


def is_events(data: object) -> bool:
    """Whether `data` names recordings."""
    return isinstance(data, str) and data.startswith(PREFIX)


def read_recordings(source: str, frames: int, split: str) -> Recordings:
    """The recordings of `tonic:NAME:FOLDER`, each to be cut into that many frames of equally many events.

    Raises InputError where tonic, the data set or a part of it is missing, and where a model takes images (0 frames).
    """
    if not frames:
        problem = "recordings are cut into a frame for every time step, and the model takes one image"
        raise InputError(source, problem, 'Use a model for event data (form = "dvs").')
    data = _data_set(source, split)
    chosen, labels = _split(data, split)
    width, height, polarities = data.sensor_size
    shape = (frames, polarities, height, width)
    files = [str(data.data[i]) for i in chosen]
    marks = [(Path(name).name, size_and_time(Path(name))) for name in files]
    identity = hashlib.sha256(f"{split} {frames} {marks}".encode()).hexdigest()
    classes = tuple(map(str, data.classes))
    return Recordings(shape, labels, classes, identity, LoadFrames(source, data, chosen, files, shape))


def cut(events: NDArray[Any], shape: Shape) -> NDArray[np.uint8]:
    """Events counted in frames (T, P, Y, X), each of floor(n / T) events, the last with what is left over.

    events  (n,) a structured array with the fields x, y and p, in the order of time
    Cut by number, as SpikingJelly prepares the data of the official code.  Raises ValueError for an event outside, and
    warns of events that are lost.
    """
    frames, lost = counted(events, shape)
    if lost:
        problem = f"{lost} of {len(events)} events are lost: a frame holds {MOST_EVENTS} of a pixel"
        warnings.warn(problem, stacklevel=2)
    return frames


def counted(events: NDArray[Any], shape: Shape) -> tuple[NDArray[np.uint8], int]:
    """Frames as of `cut`, and how many events are above MOST_EVENTS of a pixel and frame, and so are lost."""
    frames, polarities, height, width = shape
    # fewer events than frames: one a frame, as long as they last
    events_a_frame = max(1, len(events) // frames)
    frame = np.minimum(np.arange(len(events)) // events_a_frame, frames - 1)
    # files keep coordinates in as few bits as they need: the index of a cell needs more
    x = events["x"].astype(np.int64)
    y = events["y"].astype(np.int64)
    p = events["p"].astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (p >= 0) & (p < polarities)
    if not inside.all():
        raise ValueError(f"{np.count_nonzero(~inside)} events outside {polarities} x {height} x {width}")
    cells = ((frame * polarities + p) * height + y) * width + x
    counts = np.bincount(cells, minlength=int(np.prod(shape)))
    lost = int(np.maximum(counts - MOST_EVENTS, 0).sum())
    return np.minimum(counts, MOST_EVENTS).astype(np.uint8).reshape(shape), lost


def _data_set(source: str, split: str) -> Any:
    """An object of tonic's class, which finds its data and fetches none."""
    try:
        from tonic import datasets
    except ImportError as error:
        raise InputError(source, f"{error}", "Install spikformer-deploy[events].") from None
    name, _, folder = source.removeprefix(PREFIX).partition(":")
    if name not in DATA_SETS or not folder:
        known = ", ".join(DATA_SETS)
        raise InputError(source, "it names no data set and folder", f"Write tonic:NAME:FOLDER, NAME being {known}.")
    kind = getattr(datasets, name)
    has_splits = "train" in inspect.signature(kind).parameters
    settings = {"train": split == "train"} if has_splits else {}
    try:
        return _fetching_nothing(name)(save_to=folder, **settings)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(source, f"it cannot be read: {error}", "Fetch and unpack it again.") from None


def _fetching_nothing(name: str) -> type:
    """tonic's class of a data set, which would fetch what it misses, with an error in place of that."""
    from tonic import datasets

    return type(name, (getattr(datasets, name),), {"download": _refused, "__reduce__": _reduced})


def _reduced(data: Any) -> tuple[Any, ...]:
    """How a data set is pickled: by its name, as its class is made anew, and with its list of files.

    The folder is not searched again: the same index means the same recording, whatever was added meanwhile.
    """
    return _restored, (type(data).__name__, data.__dict__)


def _restored(name: str, state: dict[str, Any]) -> Any:
    data: Any = object.__new__(_fetching_nothing(name))
    data.__dict__.update(state)
    return data


def _refused(data: Any) -> NoReturn:
    """Stands in the place of tonic's download: InputError that says how to fetch what is missing."""
    place = Path(data.location_on_system)
    problem = f"{place / data.filename} or what it unpacks to is missing"
    way_out = f'Fetch it with tonic.datasets.{type(data).__name__}("{place.parent}"), which downloads it.'
    raise InputError(str(place), problem, way_out)


def _split(data: Any, split: str) -> tuple[list[int], NDArray[np.int64]]:
    """Indices and labels of a split, in the order of classes and file names."""
    labels = np.array(data.targets)
    order = sorted(range(len(labels)), key=lambda i: (labels[i], str(data.data[i])))
    if not hasattr(data, "train"):
        held_out: set[int] = set()
        for label in np.unique(labels):
            of_class = [i for i in order if labels[i] == label]
            held_out.update(of_class[int(TRAINED_ON * len(of_class)) :])
        order = [i for i in order if (i in held_out) == (split == "test")]
    return order, labels[order].astype(np.int64)
