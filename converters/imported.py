"""A float model that came as a graph, and the notes that our own exports keep beside what a format can say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.flat import built
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.base.json_text import parsed as json_value
from spikformer_deploy.base.json_text import written
from spikformer_deploy.base.plain import table, training_record
from spikformer_deploy.base.series import Series, check_series
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.labels import class_names
from spikformer_deploy.data.series import preprocess_of_series
from spikformer_deploy.graph.ir import Graph, Input, Levels, Lif, Neuron

VERSION = 1
LARGEST = 1e9
"""Of a mean or a standard deviation."""
MOST_PIXELS = 2**24
"""Of an image: 2048x2048 in colour and more."""
FLOATS = {Lif: ("tau", "v_threshold"), Levels: ("threshold", "keep")}
"""The numbers of a neuron that formats round to fp32, by its kind."""
AnyNeuron = TypeVar("AnyNeuron", Lif, Levels)
ROUNDING = 2.0**-22
"""A number that went through one or two roundings to fp32 is that near to itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A float model as a graph: from a file (`kind` "nir", "onnx", "pt2"), or of a module ("spikingjelly", "factory").

    graph     obeys graph/law.py; batch normalisations and scales may still stand in it
    sha256    of the file
    training  what our own checkpoint said of it
    notes     what had to be assumed
    place     what errors call it, where it is of the user's code: "net:build"
    """

    kind: str
    graph: Graph
    preprocess: Preprocess
    labels: tuple[str, ...]
    sha256: str
    training: dict[str, Any]
    notes: tuple[str, ...]
    place: str = "MODEL"

    @property
    def time_steps(self) -> int:
        """T."""
        return self.graph.time_steps

    @property
    def per_step(self) -> bool:
        """Whether the input is a frame for every time step."""
        first = self.graph.nodes[0].op
        return isinstance(first, Input) and first.per_step

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, Y, X) of an image."""
        return self.graph.nodes[0].shape


@dataclass(frozen=True, slots=True, eq=False)
class About:
    """What a file of another format does not say of a model: our exports keep it as one JSON entry, `text`."""

    time_steps: int
    per_step: bool
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    training: Mapping[str, Any] | None = None
    neurons: Mapping[str, Mapping[str, Any]] | None = None

    def text(self) -> str:
        """The entry; the same for the same model."""
        return written({"version": VERSION, **asdict(self), "preprocess": self.preprocess.facts()}, sort_keys=True)


def about_of(graph: Graph, preprocess: Preprocess, labels: tuple[str, ...], training: Mapping[str, Any]) -> About:
    """What is kept of a graph that is written."""
    first = graph.nodes[0].op
    neurons = {node.name: _noted(node.op) for node in graph if isinstance(node.op, Neuron)}
    per_step = isinstance(first, Input) and first.per_step
    return About(graph.time_steps, per_step, preprocess, labels, dict(training), neurons)


def _noted(neuron: Neuron) -> dict[str, Any]:
    """What is kept of a neuron."""
    strict = {"strict": neuron.strict} if isinstance(neuron, Lif) else {}
    return {key: getattr(neuron, key) for key in FLOATS[type(neuron)]} | strict


def about_in(path: Path, entry: str) -> About:
    """What `About.text` wrote into an entry of the file; InputError where it is damaged."""
    try:
        values = table("they", json_value(entry, of_before=True))
        if values.pop("version") != VERSION:
            raise ValueError("they are of another version")
        steps = values["time_steps"]
        per_step = values["per_step"]
        if not (type(steps) is int and 0 < steps <= MOST_STEPS and isinstance(per_step, bool)):
            raise ValueError(f"{steps} time steps")
        # how many classes the model has is known only when its graph is read: any number of labels is right so far
        labels = class_names(values["labels"], len(values["labels"]))
        training = training_record(values["training"] or {})
        neurons = table("neurons", values["neurons"])
        return About(steps, per_step, preprocess_of(values["preprocess"]), labels, training, neurons)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), f"the notes of its export are damaged: {error}", "Export it again.") from None


def exact_neuron(about: About | None, name: str, rounded: AnyNeuron) -> AnyNeuron:
    """`rounded` with the full precision of the original where the two agree, since formats round; else as it is."""
    entry = (about.neurons or {}).get(name) if about else None
    if not isinstance(entry, Mapping):
        return rounded
    try:
        # a neuron that forgets nothing has no tau: it is null
        exact = {key: inf if entry[key] is None else float(entry[key]) for key in FLOATS[type(rounded)]}
    except (KeyError, TypeError, ValueError):
        return rounded
    # the arrays of the file decide: an entry that contradicts them was not written for them
    if not all(np.isclose(exact[key], getattr(rounded, key), rtol=ROUNDING, atol=0) for key in exact):
        return rounded
    if isinstance(rounded, Levels):
        return replace(rounded, threshold=exact["threshold"], keep=exact["keep"])
    # entries of before hold no `strict`: they were written for models that fire at their threshold
    strict = entry.get("strict") is True
    return replace(rounded, tau=exact["tau"], v_threshold=exact["v_threshold"], strict=strict)


# --- the same for every format --------------------------------------------------------------------------------------


def steps_of(path: Path, asked: int | None, about: About | None, frames: int | None = None) -> int:
    """T of a model: as the user asks, else as its export says, else one step for each of the `frames` of an image.

    Raises ModelError where nothing says it, and for a number of steps that no model has.
    """
    steps = asked or (about.time_steps if about else frames)
    if steps is None or not 0 < steps <= MOST_STEPS:
        problem = f"{steps} time steps" if steps else "it does not say how many time steps an image has"
        raise ModelError(str(path), problem, "Give --time-steps.")
    return steps


PIXELS_OR_COUNTS = "the input is taken as pixels / 255, or as counts where it is a frame a step: the file does not tell"
"""What the user must know where `pixels_or_counts` is assumed."""


def pixels_or_counts(graph: Graph) -> Preprocess:
    """What is assumed of the images of a file without an entry: pixels / 255; for frames, counts as they are."""
    first = graph.nodes[0]
    counts = isinstance(first.op, Input) and first.op.per_step
    return unnamed_images(graph, 1 / 255 if counts else 1.0, 255)


def unnamed_images(graph: Graph, std: float, max_value: int) -> Preprocess:
    """Images as large as the input of the graph, with mean 0 and the same `std` in every channel."""
    channels, height, width = graph.nodes[0].shape
    return Preprocess(channels, height, mean=(0.0,) * channels, std=(std,) * channels, max_value=max_value, width=width)


def imported(
    kind: str, path: Path, graph: Graph, about: About | None, assumed: Preprocess, notes: Sequence[str]
) -> Imported:
    """The model in a file of the format `kind`, with what its entry says `about` it.

    assumed  the preprocessing where there is no entry; notes: see Imported
    Raises InputError where the entry is of another model: its images are not what the graph takes.
    """
    preprocess = about.preprocess if about else assumed
    shape = graph.nodes[0].shape
    if (preprocess.channels, *preprocess.extent) != shape:
        raise InputError(str(path), f"its input is {shape}, and the notes of its export say otherwise")
    labels = about.labels if about else ()
    training = dict(about.training or {}) if about else {}
    return Imported(kind, graph, preprocess, labels, sha256_of(path), training, tuple(notes))


# --- plain values ---------------------------------------------------------------------------------------------------


def preprocess_of(raw: Mapping[str, Any]) -> Preprocess:
    """A Preprocess from plain values; ValueError, TypeError or KeyError where they make no sense."""
    raw = table("preprocess", raw)
    mean = tuple(_number("mean", value) for value in raw["mean"])
    std = tuple(_number("std", value) for value in raw["std"])
    sizes = {key: raw.get(key, 0) for key in ("channels", "size", "width", "max_value")}
    for key, size in sizes.items():
        if type(size) is not int:
            raise ValueError(f"{key} = {size!r}")
    series = _series_of(raw["series"]) if raw.get("series") is not None else None
    preprocess = Preprocess(mean=mean, std=std, series=series, **sizes)
    if series is not None:
        if preprocess != preprocess_of_series(series):
            raise ValueError("frames that are not those of its series")
        return preprocess
    if not (len(mean) == len(std) == preprocess.channels and np.isfinite([*mean, *std]).all() and min(std) > 0):
        raise ValueError("one mean and one positive std a channel")
    height, width = preprocess.extent
    pixels = preprocess.channels * height * width
    sensible = preprocess.size >= 1 and preprocess.width >= 0 and 0 < preprocess.max_value < 256
    if not sensible or not 0 < pixels <= MOST_PIXELS:
        raise ValueError(f"images of {preprocess.extent} with pixels up to {preprocess.max_value}")
    return preprocess


def _series_of(raw: Any) -> Series:
    """A Series from plain values; ValueError, TypeError or KeyError where they make no sense."""
    series: Series = built(Series, {"type": Series.__name__, **table("series", raw)}, {}, "series")
    check_series(series)
    return series


def _number(key: str, raw: Any) -> float:
    if type(raw) not in (int, float) or not abs(raw) < LARGEST:
        raise ValueError(f"a {key} of {raw!r}"[:80])
    return float(raw)


def sha256_of(path: Path) -> str:
    """Of the file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
