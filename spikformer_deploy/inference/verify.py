"""Is the program right?  Integers against the float model layer by layer, and the engine against its plain twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.counts.silence import note_on_silence
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.read import read
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import BATCH, Execution, Executor, Request
from spikformer_deploy.inference.parts import Part, check_sending, read_part, source
from spikformer_deploy.inference.record import of_weights
from spikformer_deploy.inference.regression import scores
from spikformer_deploy.inference.results import Verdict
from spikformer_deploy.inference.seam import Work, in_order, pool
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.pipeline.program import Program

if TYPE_CHECKING:
    from spikformer_deploy.graph.ir import Graph

GIVE_IT = "Give that one, or compile it."
"""The way out where a model is not the one that the program is of."""
RANDOM_AGREEMENT = (
    "equal spikes of random weights say nothing of trained ones: behind many layers, floats and integers may agree "
    "no more than chance has it"
)
AT_ONCE = 8
"""Images at once: what is recorded of them takes memory, and so does the float model."""


def verify(
    program: Program,
    data: str | Path | np.ndarray | ImageSet,
    *,
    model: Any = None,
    backends: Sequence[str] = ("reference",),
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    send_images: bool = False,
    progress: Progress = silent,
) -> Verdict:
    """Compare a program with its float model, and the engine with other `backends`.

    model   a converters.models.Model, or None
    labels  a file of the classes of the images (see data/labels.py)
    task    as of run: "classification" or "regression"
    workers, scheduler, send_images  as of inference.run.run
    Raises InputError where the model is not the one that the program was compiled from.
    """
    check_sending(send_images, workers, scheduler)
    if not isinstance(data, ImageSet):
        data = read(data, program.preprocess, limit=limit, frames=program.frames, labels=labels, task=task)
    images = data.of_classes(program.labels, program.network.output.size)
    of_model = () if model is None else _check_origin(program, model)
    graph = None if model is None else _float_graph(program, model)
    found: list[_Compared] = []

    def note_batch(_done: int, _total: int, note: str) -> None:
        progress(sum(len(part.integers) for part in found), len(images), note)

    with pool(workers, scheduler) as crew:
        origin = source(images, crew, send_images)
        work = _Comparison(program, origin.sent, graph, tuple(backends), silent if crew.elsewhere else note_batch)
        for compared in in_order(crew.map(work, origin.parts(BATCH if crew.elsewhere else work.at_once))):
            found += compared
            note_batch(0, 0, "")
    verdict = _verdict(images, work, found)
    of_random = of_weights(program)
    if of_random and model is not None:
        of_random += (RANDOM_AGREEMENT,)
    verdict.notes = (*of_random, *of_model, *verdict.notes)
    return verdict


class _InFloat(NamedTuple):
    """What the float model says of some images; empty without one.

    logits  (n, classes); right: of each LIF population, float spikes that equal the integer ones, of `total`
    """

    logits: np.ndarray | None
    right: dict[str, int]
    total: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Compared:
    """What some images say.

    backends   by name: whether all of them equal the engine's
    integers   (n, classes) accumulators
    in_float   what the float model says
    fired      populations of which some neuron did
    brightest  the largest pixel; lost: events that frames do not hold
    """

    backends: dict[str, bool]
    integers: np.ndarray
    fired: frozenset[str]
    in_float: _InFloat
    brightest: int
    lost: int


@dataclass(frozen=True, eq=False)
class _Comparison(Work):
    """What a part of `images` says, a few at a time; graph: the folded float model, or None."""

    program: Program
    images: ImageSet
    graph: Graph | None
    backends: tuple[str, ...]
    progress: Progress

    @cached_property
    def executors(self) -> dict[str, Executor]:
        """By name, the engine first."""
        request = Request(self.program.network, progress=self.progress, ways=self.program.mapping.ways)
        return {name: prepare(name, request) for name in ("engine", *self.backends)}

    @cached_property
    def at_once(self) -> int:
        """Images: more where an executor is slow to start."""
        return BATCH if any(executor.batch > BATCH for executor in self.executors.values()) else AT_ONCE

    @property
    def lifs(self) -> list[str]:
        """The populations that are compared."""
        return [p.name for p in self.program.network if p.neuron.fires]

    def __call__(self, part: Part | slice) -> list[_Compared]:
        read = read_part(self.images, part)
        starts = range(0, len(read.pixels), self.at_once)
        compared = [self._compare(read.pixels[first : first + self.at_once]) for first in starts]
        compared[0] = replace(compared[0], lost=read.lost)
        return compared

    def _compare(self, pixels: np.ndarray) -> _Compared:
        ours = self.executors["engine"].execute(pixels, self.lifs)
        theirs = {name: self.executors[name].execute(pixels, self.lifs) for name in self.backends}
        in_float = _InFloat(None, {}, {})
        if self.graph is not None:
            in_float = _in_float(self.graph, self.program.preprocess.normalised(pixels), ours)
        return _Compared(
            backends={name: equal(ours, execution) for name, execution in theirs.items()},
            integers=ours.accumulators,
            fired=frozenset(name for name, spikes in ours.spikes.items() if spikes.any()),
            in_float=in_float,
            brightest=int(pixels.max()),
            lost=0,
        )


def _in_float(graph: Graph, real: np.ndarray, ours: Execution) -> _InFloat:
    """The float graph on the images of `ours`, (N, C, Y, X) or (N, T, C, Y, X) as it takes them."""
    import torch

    from spikformer_deploy.graph.execute import execute

    values = execute(graph, torch.from_numpy(real))
    right = {name: int((values[name].numpy() == spikes).sum()) for name, spikes in ours.spikes.items()}
    total = {name: spikes.size for name, spikes in ours.spikes.items()}
    return _InFloat(values[graph.nodes[-1].name].numpy(), right, total)


def _float_graph(program: Program, model: Any) -> Graph:
    """The folded float graph of the model that the program was compiled from."""
    from spikformer_deploy.pipeline.stages import float_graph

    graph, network = float_graph(model), program.network
    found, wanted = graph.nodes[0].shape, network.input.shape
    if found != wanted:  # of programs of before, which do not say their structure
        raise InputError(_place(model), f"takes {_size(found)}, and the program takes {_size(wanted)}", GIVE_IT)
    return graph


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _place(model: Any) -> str:
    """What an error calls the model: by its factory where it has one."""
    return getattr(model, "place", "MODEL")


def _check_origin(program: Program, model: Any) -> tuple[str, ...]:
    """A note where the structure of a model is another one, and other versions read it, which may be all that differs.

    Raises InputError for another file, for other time steps, and where the same versions read another structure: the
    same weights stand in another model, by other code or options.
    """
    from spikformer_deploy.pipeline.stages import digest_of_structure, versions

    if program.provenance.get("model_sha256") != model.sha256:
        raise InputError(_place(model), "the program was compiled from another model file", GIVE_IT)
    steps, compiled_for = model.time_steps, program.network.time_steps
    if steps != compiled_for:
        problem = f"its time steps are {steps}, and those of the program are {compiled_for}"
        raise InputError(
            _place(model), problem, f"Give --time-steps {compiled_for} with the model, or compile it for {steps}."
        )
    stated = program.provenance.get("graph_sha256")
    if stated is None or stated == digest_of_structure(model):
        return ()
    if program.provenance.get("versions") == versions():
        problem = "it was compiled from a model of the same weights, whose neurons, heads or layers differ"
        raise InputError(_place(model), problem, GIVE_IT)
    return ("the graph of the model is not the one that the program was compiled from, by other versions of packages",)


def _verdict(images: ImageSet, work: _Comparison, found: list[_Compared]) -> Verdict:
    """What all images say."""
    verdict = Verdict(len(images), images.task)
    verdict.backends = {name: all(some.backends[name] for some in found) for name in work.backends}
    brightest = max((some.brightest for some in found), default=0)
    fired = frozenset().union(*(some.fired for some in found))
    silent = [name for name in work.lifs if name not in fired]
    of_images = images.all_notes(brightest, sum(some.lost for some in found))
    verdict.notes = (*of_images, *note_on_silence(silent, len(work.lifs)))
    integers = np.concatenate([some.integers for some in found]) * _scales(work.program)
    verdict.integer_accuracy, verdict.integer_regression = _against(images, integers)
    if work.graph is not None:
        for name in work.lifs:
            total = sum(some.in_float.total[name] for some in found)
            verdict.equal_spikes[name] = sum(some.in_float.right[name] for some in found) / total
        floats = np.concatenate([some.in_float.logits for some in found if some.in_float.logits is not None])
        if images.forecast is None:
            verdict.predictions_changed = int((floats.argmax(1) != integers.argmax(1)).sum())
        verdict.float_accuracy, verdict.float_regression = _against(images, floats)
    return verdict


def _scales(program: Program) -> np.ndarray:
    """What an accumulator of each class stands for, (classes,)."""
    head = program.network.output
    assert isinstance(head.neuron, Accumulator)
    return np.repeat(head.neuron.scale, head.size // len(head.neuron.scale))


def _against(images: ImageSet, logits: np.ndarray) -> tuple[float | None, dict[str, float | None] | None]:
    """(accuracy, errors of a regression) of logits (N, classes), None where nothing is known of them."""
    accuracy = None if images.labels is None else float((logits.argmax(1) == images.labels).mean())
    forecast = images.forecast
    if forecast is None or forecast.targets is None:
        return accuracy, None
    return accuracy, scores(forecast.of(logits), forecast.targets)


def equal(ours: Execution, theirs: Execution) -> bool:
    """Whether two executions agree in accumulators, and in the spikes and potentials of every recorded population."""
    same = np.array_equal(ours.accumulators, theirs.accumulators)
    for name, spikes in theirs.spikes.items():
        same = same and np.array_equal(ours.spikes[name], spikes)
        same = same and np.array_equal(ours.membranes[name], theirs.membranes[name])
    return same
