"""Is the program right?  Integers against the float model layer by layer, and the engine against its plain twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.read import read
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import BATCH, Execution, Request
from spikformer_deploy.inference.regression import scores
from spikformer_deploy.inference.results import Verdict
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.pipeline.program import Program

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
    progress: Progress = silent,
) -> Verdict:
    """Compare a program with its float model, and the engine with other `backends`.

    model   a converters.models.Model, or None
    labels  a file of the classes of the images (see data/labels.py)
    task    as of run: "classification" or "regression"
    Raises InputError where the model is not the one that the program was compiled from.
    """
    if not isinstance(data, ImageSet):
        data = read(data, program.preprocess, limit=limit, frames=program.frames, labels=labels, task=task)
    images = data.of_classes(program.labels, program.network.output.size)
    brightest = 0
    lifs = [p.name for p in program.network if p.neuron.fires]
    verdict = Verdict(len(images), backends=dict.fromkeys(backends, True))

    def note_batch(_done: int, _total: int, note: str) -> None:
        progress(sum(map(len, integers)), len(images), note)

    request = Request(program.network, progress=note_batch)
    engine = prepare("engine", request)
    others = {name: prepare(name, request) for name in backends}
    float_run = None if model is None else _FloatRun(program, model, lifs)
    integers: list[np.ndarray] = []
    slow_start = any(executor.batch > BATCH for executor in others.values())
    for pixels, _ in images.batches(BATCH if slow_start else AT_ONCE):
        ours = engine.execute(pixels, lifs)
        for name, executor in others.items():
            verdict.backends[name] &= equal(ours, executor.execute(pixels, lifs))
        integers.append(ours.accumulators)
        brightest = max(brightest, int(pixels.max()))
        if float_run is not None:
            float_run.compare(pixels, ours)
        note_batch(0, 0, "")
    verdict.notes = images.all_notes(brightest, images.lost_in(slice(0, len(images))))
    logits = np.concatenate(integers) * _scales(program)
    verdict.integer_accuracy, verdict.integer_regression = _against(images, logits)
    if float_run is not None:
        verdict.equal_spikes = float_run.shares()
        verdict.float_accuracy, verdict.float_regression = _against(images, np.concatenate(float_run.logits))
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


class _FloatRun:
    """The folded float graph beside the integers: equal spikes a layer, and logits."""

    def __init__(self, program: Program, model: Any, lifs: list[str]) -> None:
        from spikformer_deploy.pipeline.stages import float_graph

        if program.provenance.get("model_sha256") != model.sha256:
            raise InputError(
                "MODEL", "the program was compiled from another model file", "Give that one, or compile it."
            )
        self.graph = float_graph(model)
        self.preprocess = program.preprocess
        self.lifs = lifs
        self.right = dict.fromkeys(lifs, 0)
        self.total = dict.fromkeys(lifs, 0)
        self.logits: list[np.ndarray] = []

    def compare(self, pixels: np.ndarray, ours: Execution) -> None:
        import torch

        from spikformer_deploy.graph.execute import execute

        values = execute(self.graph, torch.from_numpy(self.preprocess.normalised(pixels)))
        self.logits.append(values[self.graph.nodes[-1].name].numpy())
        for name in self.lifs:
            self.right[name] += int((values[name].numpy() == ours.spikes[name]).sum())
            self.total[name] += ours.spikes[name].size

    def shares(self) -> dict[str, float]:
        return {name: self.right[name] / self.total[name] for name in self.lifs}
