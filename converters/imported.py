"""A float model that came as a graph, and the notes that our own exports keep beside what a format can say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.json_text import parsed as json_value
from spikformer_deploy.base.json_text import written
from spikformer_deploy.base.plain import table, training_record
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.labels import class_names
from spikformer_deploy.graph.ir import Graph, Input, Lif

ENTRY = "spikformer_deploy"
"""The key of our notes in the metadata of any format."""
VERSION = 1
MOST_STEPS = 1024
LARGEST = 1e9
"""Of a mean or a standard deviation."""
MOST_PIXELS = 2**24
"""Of an image: 2048x2048 in colour and more."""


@dataclass(frozen=True, slots=True, eq=False)
class Imported:
    """A float model as a graph, from a file in the format `kind` ("nir", "onnx", "pt2").

    graph   obeys the law of graph.check; batch normalisations and scales may still stand in it
    sha256  of the file; notes: what had to be assumed; training: what our own checkpoint said of it
    """

    kind: str
    graph: Graph
    preprocess: Preprocess
    labels: tuple[str, ...]
    sha256: str
    training: dict[str, Any]
    notes: tuple[str, ...]

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
        return written({"version": VERSION, **asdict(self)}, sort_keys=True)

    def neuron(self, name: str, found: Lif) -> Lif:
        """`found` with the full precision of the original where both agree, since formats round; else as it is."""
        told = (self.neurons or {}).get(name)
        try:
            # a neuron that forgets nothing has no tau: it is null
            exact = {key: inf if told[key] is None else float(told[key]) for key in FLOATS}  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            return found
        same = all(np.isclose(exact[key], getattr(found, key), rtol=ROUNDING, atol=0) for key in FLOATS)
        if not same:
            return found
        # files of before hold no `strict`: they were written for models that fire at their threshold
        return replace(found, tau=exact["tau"], v_threshold=exact["v_threshold"], strict=told.get("strict") is True)  # type: ignore[union-attr]


FLOATS = ("tau", "v_threshold")
ROUNDING = 2.0**-22
"""A number that went through one or two roundings to fp32 is that near to itself."""


def about(graph: Graph, preprocess: Preprocess, labels: tuple[str, ...], training: Mapping[str, Any]) -> About:
    """The notes of a graph that is written."""
    first = graph.nodes[0].op
    neurons = {node.name: {key: getattr(node.op, key) for key in (*FLOATS, "strict")} for node in graph.of(Lif)}
    per_step = isinstance(first, Input) and first.per_step
    return About(graph.time_steps, per_step, preprocess, labels, dict(training), neurons)


def parsed(path: Path, text: str) -> About:
    """The notes in an entry that `About.text` wrote; InputError where they are damaged."""
    try:
        values = table("they", json_value(text, of_before=True))
        if values.pop("version") != VERSION:
            raise ValueError("they are of another version")
        steps, per_step = values["time_steps"], values["per_step"]
        if not (type(steps) is int and 0 < steps <= MOST_STEPS and isinstance(per_step, bool)):
            raise ValueError(f"{steps} time steps")
        # how many classes there are shows when the graph is read
        labels = class_names(values["labels"], len(values["labels"]))
        training, neurons = training_record(values["training"] or {}), table("neurons", values["neurons"])
        return About(steps, per_step, preprocess_of(values["preprocess"]), labels, training, neurons)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), f"the notes of its export are damaged: {error}", "Export it again.") from None


def preprocess_of(raw: Mapping[str, Any]) -> Preprocess:
    """A Preprocess from plain values; ValueError, TypeError or KeyError where they make no sense."""
    raw = table("preprocess", raw)
    mean, std = (tuple(_number(key, x) for x in raw[key]) for key in ("mean", "std"))
    sizes = {key: raw.get(key, 0) for key in ("channels", "size", "width", "max_value")}
    for key, size in sizes.items():
        if type(size) is not int:
            raise ValueError(f"{key} = {size!r}")
    made = Preprocess(sizes["channels"], sizes["size"], mean, std, sizes["max_value"], sizes["width"])
    if not (len(mean) == len(std) == made.channels and np.isfinite([*mean, *std]).all() and min(std) > 0):
        raise ValueError("one mean and one positive std a channel")
    pixels = made.channels * made.extent[0] * made.extent[1]
    if made.size < 1 or made.width < 0 or not 0 < pixels <= MOST_PIXELS or not 0 < made.max_value < 256:
        raise ValueError(f"images of {made.extent} with pixels up to {made.max_value}")
    return made


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
