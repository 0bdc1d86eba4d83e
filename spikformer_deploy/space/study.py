"""What is done of a design space in one place: the points that share integers, from their models to their rows.

A model is traced once, quantized once a setting, and its network runs once, however many mappings there are of it
(inference/together.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from spikformer_deploy.base.errors import (
    InputError,
    MappingError,
    ModelError,
    OverflowDetected,
    QuantizeError,
    SpikdeployError,
)
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.graph.ir import Graph
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.seam import Work
from spikformer_deploy.inference.together import run_together, same_integers
from spikformer_deploy.pipeline.layer_bits import bits_for
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.sample import Sample
from spikformer_deploy.pipeline.stages import Front, check_labels, float_graph, images_of, mapped, quantized
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.space.axes import Point, Row

NOT_IN_A_ROW = ("predictions", "seconds", "peak_memory_mib")
"""Of the JSON of a run: what is long, and what another run of the same would not repeat."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Points of one model that share all that decides integers but the time steps.

    images  what they run on, with labels of the model's classes
    """

    points: tuple[Point, ...]
    images: ImageSet

    @property
    def name(self) -> str:
        """For progress."""
        first = self.points[0]
        return f"{first.model}, {first.weight_bits} bits, {first.rounding}, {first.granularity}"


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A model for a number of time steps: its float graph, and what calibration learns from images."""

    graph: Graph
    sample: Sample


@dataclass(frozen=True, eq=False)
class Study(Work):
    """The rows of a group, in the order of its points.

    loading    as of converters.models.load, but for the time steps
    own        models of the user's own code by name and time steps, or why there is none of so many
    calibrate  images as of compile_model, or None
    home       the folder that names of files are relative to; "": the working folder
    progress   called with (images done, in all, a note)
    """

    runtime: str
    loading: Mapping[str, Any]
    own: Mapping[tuple[str, int], Model | SpikdeployError] = field(default_factory=dict)
    calibrate: str | None = None
    home: str = ""
    progress: Progress = silent

    @cached_property
    def _traced(self) -> dict[tuple[str, int], Traced]:
        """Of the model that is at work."""
        return {}

    def __call__(self, group: Group) -> list[Row]:
        rows: dict[Point, Row] = {}
        programs: dict[Point, Program] = {}
        for points in self._by_front(group.points):
            try:
                front = self._front(points[0])
            except (InputError, ModelError, QuantizeError) as error:
                rows |= {point: refused(point, error) for point in points}
                continue
            for point in points:
                try:
                    programs[point] = self._program(front, point)
                except (InputError, MappingError) as error:
                    rows[point] = refused(point, error)
        for points in _by_integers(programs):
            together = [programs[point] for point in points]
            found = run_together(together, group.images, self.runtime, self.progress)
            rows |= {point: _row(point, one) for point, one in zip(points, found, strict=True)}
        return [rows[point] for point in group.points]

    def _front(self, point: Point) -> Front:
        """Integers and firing rates of a point."""
        traced = self.traced(point.model, point.time_steps)
        profile = load_profile(self._found(point.target))
        bits, _ = bits_for(traced.sample.loaded, point.weight_bits, None)
        settings = Settings(point.weight_bits, point.granularity, profile.limits.neuron, layer_bits=bits)
        return quantized(traced.graph, traced.sample, profile, settings, point.rounding)

    def _program(self, front: Front, point: Point) -> Program:
        return mapped(front, load_profile(self._found(point.target)), point.objective, self.runtime, point.schedule)

    def _by_front(self, points: tuple[Point, ...]) -> list[list[Point]]:
        """Points that are quantized alike: settings, time steps, and what their targets can hold."""
        fronts: dict[tuple[Any, ...], list[Point]] = {}
        for point in points:
            limits = load_profile(self._found(point.target)).limits
            key = (point.model, point.time_steps, point.weight_bits, point.granularity, point.rounding, limits)
            fronts.setdefault(key, []).append(point)
        return list(fronts.values())

    def _found(self, name: str) -> str:
        """A file by the name that finds it from here; words stay words."""
        path = os.path.join(self.home, name)
        return path if self.home and os.path.exists(path) else name

    def _loaded(self, model: str, time_steps: int) -> Model:
        own = self.own.get((model, time_steps))
        if isinstance(own, SpikdeployError):
            raise own
        return load(self._found(model), time_steps=time_steps, **self.loading) if own is None else own

    def _graph(self, model: str, loaded: Model) -> Graph:
        """The float graph of a model; of a published architecture that is known already the number of steps changes.

        Its graph is that of one time step, the same for any number; a file of another kind may hold one for each.
        """
        known = [traced.graph for (name, _), traced in self._traced.items() if name == model]
        if known and isinstance(loaded, Loaded):
            return replace(known[0], time_steps=loaded.time_steps)
        return float_graph(loaded)

    def traced(self, model: str, time_steps: int) -> Traced:
        """The float graph of a model, kept until another model comes."""
        if (model, time_steps) not in self._traced:
            for key in [key for key in self._traced if key[0] != model]:
                del self._traced[key]
            loaded = self._loaded(model, time_steps)
            graph = self._graph(model, loaded)
            check_labels(model, loaded.labels, graph.nodes[-1].shape[0])
            in_the_box = None if (model, time_steps) in self.own else images_of(model)
            calibrate = in_the_box if self.calibrate is None else self._found(self.calibrate)
            self._traced[model, time_steps] = Traced(graph, Sample(loaded, calibrate))
        return self._traced[model, time_steps]


def _by_integers(programs: Mapping[Point, Program]) -> Iterator[list[Point]]:
    """The points that one run serves."""
    served: dict[str, list[Point]] = {}
    words: dict[int, str] = {}
    for point, program in programs.items():
        # points of one front hold the same network
        word = words.setdefault(id(program.network), "") or same_integers(program.network)
        words[id(program.network)] = word
        served.setdefault(word, []).append(point)
    yield from served.values()


def refused(point: Point, error: SpikdeployError) -> Row:
    """The row of a point that cannot be."""
    return {**point.settings(), "refused": str(error)}


def _row(point: Point, found: Run | OverflowDetected) -> Row:
    """The row of a point."""
    if isinstance(found, OverflowDetected):
        return refused(point, found)
    network, mapping = found.program.network, found.program.mapping
    figures = {name: value for name, value in found.to_dict().items() if name not in NOT_IN_A_ROW}
    return {
        **point.settings(),
        "cores": mapping.cores_used,
        "chips": mapping.chips,
        "memory_words": int(mapping.words.sum()),
        "bounds": network.bounds,
        "execution_exact": network.exact,
        **figures,
    }
