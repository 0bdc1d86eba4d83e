"""Fine-tuning that makes spikes fewer where they cost most: the target's own price of a spike is part of the loss.

    loss = cross-entropy, half of it against the original model's outputs
           + weight * energy of the spikes / that of the original model

The weight is raised in stages, each from the last one that held, until the allowed drop is used up; then smaller steps
are tried between.  Every stage is compiled, and what it is judged by is the accuracy of its integers on the validation
images.  Weights and batch normalisation move; the structure, thresholds and time constants stay.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import count
from math import sqrt
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from spikformer_deploy.accounting.target import NEURO_CORES
from spikformer_deploy.base.errors import InputError, MappingError, ModelError, OverflowDetected, QuantizeError
from spikformer_deploy.base.files import check_file, check_folder_output, write_whole, writing
from spikformer_deploy.base.json_text import parsed, sealed
from spikformer_deploy.base.plain import table
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.base.values import digest
from spikformer_deploy.base.words import check_positive
from spikformer_deploy.converters.checkpoints.read import Loaded, load, save
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.inference.run import run
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.optimization.price import spike_prices
from spikformer_deploy.optimization.spike_cost import SpikeCost, tokens_stand_first, watched
from spikformer_deploy.optimization.statistics import with_statistics_of
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.sample import CALIBRATION_IMAGES
from spikformer_deploy.pipeline.stages import Compiled, compile_model
from spikformer_deploy.training.data import Feed, Labelled, epoch
from spikformer_deploy.training.distributed import World
from spikformer_deploy.training.fit import Batch, Job, finished, fit
from spikformer_deploy.training.recipe import Augment, Optimiser

FIRST_WEIGHT = 1.0
"""Of the energy in the loss, in the first stage."""
LARGEST_WEIGHT = 64.0
SMALLEST_WEIGHT = FIRST_WEIGHT / 8
"""Where even a smaller weight costs more than the allowed drop, training itself does."""
NEAREST = 1.2
"""Two weights, of which one holds and one does not, are not told apart below this ratio."""
DISTILLED = 0.5
"""Share of the cross-entropy that is against the outputs of the original model."""
AVERAGED = 0.98
"""Decay of the average of the weights."""
VECTOR_FACTOR = 10.0
"""Of the learning rate of biases and normalisation: that neurons fire less takes steps of the size of a threshold."""
WARM_UP = 0.1
"""Share of a stage."""
BATCH = 64
"""Of a model whose file does not say what it learnt with."""
REFERENCE_IMAGES = 256
"""Training images on which the original model's energy of spikes and statistics of normalisation are taken."""
EPOCHS_OF_A_STAGE = 1000
"""More than any stage has: epochs of all stages see other augmentations and another order."""
CHECKPOINT = "sparser.safetensors"
ROWS = "sparser.json"
WAY_OUT = "Give another folder, or the same arguments as before."


@dataclass(frozen=True, slots=True)
class Tried:
    """One stage, compiled, on the validation images; the first one is the original model.

    stage       0, 1, 2, ...; weight: of the energy in the loss
    accuracy    share of the images, of the integers; holds: within the allowed drop
    synops      synaptic operations an image
    dynamic_mj  mJ an image on the neuro cores, nominal; total_mj: with all that its chips draw meanwhile
    seconds     that the stage took
    checkpoint  its file in the folder
    refused     why its integers cannot be had on the target, where that is so: then it does not hold, and accuracy,
                synops and energies are None
    """

    stage: int
    weight: float
    accuracy: float | None
    holds: bool
    synops: float | None
    dynamic_mj: float | None
    total_mj: float | None
    seconds: float
    checkpoint: str
    refused: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Sparser:
    """What make_sparser found.

    checkpoint  the file of the model with the least dynamic energy among those that hold; model: what is in it
    program     what it was compiled to, calibrated on training images
    rows        all stages, in the order in which they were tried; chosen: the row of the checkpoint
    notes       what a user must know
    """

    checkpoint: Path
    model: Loaded
    program: Program
    rows: tuple[Tried, ...]
    chosen: Tried
    notes: tuple[str, ...]


class _TimeIsUp(Exception):
    """Ends a training at the end of the budget; its resume file stays."""


def make_sparser(
    model: Loaded,
    training_images: ImageSet,
    validation_images: ImageSet,
    *,
    folder: str | Path,
    target: str = "loihi2",
    max_drop: float = 0.5,
    epochs: float = 2.0,
    minutes: float | None = None,
    batch: int | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Progress = silent,
) -> Sparser:
    """Fine-tune a model so that its spikes cost less on a target, at nearly the same accuracy.

    model           of spiking neurons (LIF), from a checkpoint
    training_images, validation_images  with labels; nothing is learnt from the latter
    folder          gets a checkpoint a stage, the rows, and the result; a call with equal arguments goes on from there
    target          a name of a profile or a TOML file: whose prices count
    max_drop        points of accuracy on the validation images that may be lost
    epochs          of each stage, a part of one too
    minutes         no stage begins that would not be done by then, and one that is not is left; None: all is tried
    batch           images of one; None: as the model learnt with
    learning_rate   the largest of a stage
    progress        called with (batches of the stage done, in all, a note)
    Augmentation and weight decay are those that the model learnt with, where its file says so.
    Raises InputError for images without labels, numbers that make no sense and a folder of another call, ModelError for
    a model without LIFs.
    """
    start = time.monotonic()
    _check_numbers(max_drop, epochs, minutes, learning_rate, seed)
    check_positive(batch=batch)
    if not any(isinstance(layer, LIF) for layer in model.module.modules()):
        raise ModelError("model", "it has no LIFs whose spikes could be made fewer", "Give a model of LIFs.")
    training = _labelled("training_images", training_images, model)
    validation = _labelled("validation_images", validation_images, model)
    search = _Search(
        model, training, validation, Path(folder), target, max_drop, epochs, batch, learning_rate, seed, progress
    )
    search.open()
    deadline = None if minutes is None else start + 60 * minutes
    return search.run(deadline)


def next_weight(rows: list[Tried]) -> tuple[float, Tried] | None:
    """The weight of the next stage and the stage that it starts from; None where there is no more to try.

    The weight doubles while stages hold.  Once one does not, the next lies between: its geometric mean with the largest
    one below that holds, until these are close.
    """
    holding = max((row for row in rows if row.holds), key=lambda row: row.weight)
    failed = [row.weight for row in rows if not row.holds and row.weight > holding.weight]
    if not failed:
        weight = 2 * holding.weight or FIRST_WEIGHT
        return (weight, holding) if weight <= LARGEST_WEIGHT else None
    least = min(failed)
    if not holding.weight:
        return (least / 2, holding) if least / 2 >= SMALLEST_WEIGHT else None
    return (sqrt(least * holding.weight), holding) if least / holding.weight > NEAREST else None


def cheapest(rows: list[Tried]) -> Tried:
    """The row of least dynamic energy among those that hold."""
    return min((row for row in rows if row.holds), key=lambda row: row.dynamic_mj or 0.0)


def _check_numbers(max_drop: float, epochs: float, minutes: float | None, learning_rate: float, seed: int) -> None:
    """Raise InputError, by the option's name, for a number that makes no sense."""
    if not 0 <= max_drop <= 100:
        raise InputError("--max-drop", f"{max_drop} points of accuracy", "Give 0 to 100.")
    for name, value, most in (("epochs", epochs, EPOCHS_OF_A_STAGE), ("learning-rate", learning_rate, 1.0)):
        if not 0 < value <= most:
            raise InputError(f"--{name}", f"{value}, and it is above 0 and at most {most:g}")
    if minutes is not None and not minutes > 0:
        raise InputError("--minutes", f"{minutes}, and it is above 0", "Give a larger one.")
    if seed < 0:
        raise InputError("--seed", f"{seed}", "Give a whole number from 0 on.")


def _labelled(option: str, images: ImageSet, model: Loaded) -> ImageSet:
    """The images with labels of the model's classes.  Raises InputError where there are none."""
    if not len(images):
        raise InputError(option, "there are no images", "Give at least one.")
    if images.labels is None:
        raise InputError(option, "its images have no labels", "Give a pair (images, labels), or folders by class.")
    return images.of_classes(model.labels, model.config.num_classes)


class _Search:
    """One search: what does not change in it, and the rows so far."""

    def __init__(
        self,
        model: Loaded,
        training: ImageSet,
        validation: ImageSet,
        folder: Path,
        target: str,
        max_drop: float,
        epochs: float,
        batch: int | None,
        learning_rate: float,
        seed: int,
        progress: Progress,
    ) -> None:
        assert training.labels is not None
        self.model = model
        self.images = Labelled(training.pixels.astype("uint8", copy=False), training.labels)
        self.validation = validation
        self.folder = folder
        self.target = target
        self.max_drop = max_drop
        self.seed = seed
        self.progress = progress
        self.augment, learnt = _learnt_with(model)
        batch = min(batch or learnt.batch, len(self.images))
        self.settings = attrs.evolve(
            learnt,
            batch=batch,
            learning_rate=learning_rate,
            warmup_epochs=WARM_UP,
            vector_factor=VECTOR_FACTOR,
            ema=AVERAGED,
            seed=seed,
        )
        self.steps = max(1, round(epochs * len(self.images) / batch))
        about = [model.config, model.preprocess.facts(), training.identity, validation.identity, target, max_drop]
        weights = {key: value.numpy() for key, value in model.module.state_dict().items()}
        how = [attrs.asdict(self.settings), attrs.asdict(self.augment), self.steps]
        self.identity = digest([about, how, weights])
        self.rows: list[Tried] = []
        self.notes: tuple[str, ...] = ()
        self._programs: dict[str, Compiled] = {}

    def open(self) -> None:
        """Make the folder, or read the rows of an earlier call with equal arguments."""
        check_folder_output(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.rows, self.notes = _read_rows(self.folder / ROWS, self.identity)
        for row in self.rows:
            check_file(self.folder / row.checkpoint, WAY_OUT)

    def run(self, deadline: float | None) -> Sparser:
        """All stages until there is no more to try, or no more time."""
        if not self.rows:
            self._add(self._measured(self.model, 0, 0.0, time.monotonic()))
        while (following := next_weight(self.rows)) is not None:
            weight, before = following
            left = float("inf") if deadline is None else deadline - time.monotonic()
            # a stage takes about as long as the one before
            longest = max((row.seconds for row in self.rows[1:]), default=0.0)
            if left < longest:
                break
            try:
                self._add(self._stage(weight, before, time.monotonic() + left - self.rows[0].seconds))
            except _TimeIsUp:
                break
        best = cheapest(self.rows)
        path = self.folder / CHECKPOINT
        write_whole(path, (self.folder / best.checkpoint).read_bytes())
        return Sparser(path, load(path), self._compiled(best.checkpoint).program, tuple(self.rows), best, self.notes)

    @cached_property
    def _cost(self) -> tuple[SpikeCost, float]:
        """The differentiable energy at the prices of the original program, and that of the original model's spikes."""
        compiled = self._compiled(self.rows[0].checkpoint)
        few = self._some()
        with torch.no_grad(), watched(self.model.module.eval()) as sent:
            self.model.module(few)
        assert compiled.graph is not None
        of_graph = execute(compiled.graph, few[:2])
        few_sent = {name: spikes[:, :2] for name, spikes in sent.items()}
        tokens_first = {n for n, s in few_sent.items() if n in of_graph and tokens_stand_first(s, of_graph[n])}
        cost = SpikeCost(compiled.program.network, spike_prices(compiled.program), frozenset(tokens_first))
        if missing := cost.unpriced(sent):
            self.notes = (f"not in the loss, as it does not follow from spikes of LIFs: {', '.join(missing)}",)
        base = float(cost(sent))
        if not base:
            problem = f"none of its neurons fires on the first {len(few)} training images"
            raise ModelError("model", problem, "Train it first: there are no spikes to be made fewer.")
        return cost, base

    def _some(self) -> Tensor:
        """Training images from all over a set that may be sorted by class, normalised."""
        return torch.from_numpy(self.model.preprocess.normalised(_spread(self.images.pixels, REFERENCE_IMAGES)))

    def _compiled(self, checkpoint: str) -> Compiled:
        """The program of a file of the folder: a saved checkpoint compiles to what was measured."""
        if checkpoint not in self._programs:
            few = _spread(self.images.pixels, CALIBRATION_IMAGES)
            loaded = load(self.folder / checkpoint)
            self._programs[checkpoint] = compile_model(loaded, self.target, calibrate_on=few, check=False)
        return self._programs[checkpoint]

    def _measured(self, model: Loaded, stage: int, weight: float, start: float) -> Tried:
        """Save a model, compile it, and run it on the validation images."""
        name = f"stage-{stage:02}.safetensors"
        learnt = {**model.training, "sparser": {"target": self.target, "weight": weight, "stage": stage}}
        training = learnt if stage else model.training
        save(
            self.folder / name,
            model.module,
            model.config,
            model.preprocess,
            model.labels,
            training,
            model.layer_bits,
        )
        try:
            found = run(self._compiled(name).program, self.validation)
        except (QuantizeError, MappingError, OverflowDetected) as error:
            # of what was trained too far, others may do; of the original nothing can be tried
            if not stage:
                raise
            seconds = time.monotonic() - start
            return Tried(stage, weight, None, False, None, None, None, seconds, name, refused=str(error))
        assert found.accuracy is not None
        (energy,) = (e for e in found.energies if e.convention == "profile")
        allowed = (self.rows[0].accuracy or 0.0) - self.max_drop / 100 if self.rows else 0.0
        return Tried(
            stage,
            weight,
            found.accuracy,
            # a share of images is no exact number
            found.accuracy >= allowed - 1e-9,
            found.events.synops,
            energy.within(NEURO_CORES).nominal,
            energy.total.nominal,
            time.monotonic() - start,
            name,
        )

    def _stage(self, weight: float, before: Tried, deadline: float) -> Tried:
        """Fine-tune from an earlier stage with this weight, and measure what comes out."""
        start = time.monotonic()
        cost, base = self._cost
        stage = len(self.rows)
        from_file = load(self.folder / before.checkpoint)
        with_statistics_of(from_file.module, self._some())
        module = from_file.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        teacher = copy.deepcopy(self.model.module).eval().to(device)
        job = Job(
            self.settings,
            self.steps,
            lambda _epoch, first: self._batches(stage, first),
            lambda learning, batch: _loss(learning, teacher, batch, weight / base, cost),
            lambda _module: {},
            digest([self.identity, stage, weight, before.stage]),
            self.folder / f"stage-{stage:02}.safetensors",
        )

        def ticking(done: int, total: int, note: str) -> None:
            self.progress(done, total, f"stage {stage}, weight {weight:.3g}: {note}")
            if time.monotonic() > deadline:
                raise _TimeIsUp

        fit(module, job, World(0, 1, device), ticking)
        row = self._measured(replace(from_file, module=module.cpu().eval()), stage, weight, start)
        finished(job)
        return row

    def _batches(self, stage: int, first: int) -> Iterator[Batch]:
        """The batches of a stage from number `first` on; epochs follow one another until there are enough."""
        settings = self.settings
        feed = Feed(self.images, self.model.preprocess, self.augment, settings.batch, settings.seed)
        in_epoch = len(self.images) // settings.batch
        done = first
        for number in count(first // in_epoch):
            for batch in epoch(feed, stage * EPOCHS_OF_A_STAGE + number, done % in_epoch):
                if done == self.steps:
                    return
                yield batch
                done += 1

    def _add(self, row: Tried) -> None:
        self.rows.append(row)
        rows = [asdict(row) for row in self.rows]
        text = sealed({"identity": self.identity, "rows": rows, "notes": list(self.notes)})
        write_whole(self.folder / ROWS, text.encode())


def _spread(pixels: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """At most `count` images from all over the set."""
    return pixels[np.unique(np.linspace(0, len(pixels) - 1, count).astype(np.int64))]


def _learnt_with(model: Loaded) -> tuple[Augment, Optimiser]:
    """Augmentation, and of the optimiser batch and weight decay, of the recipe that the model's file tells.

    Raises InputError for a recipe that is damaged.
    """
    recipe = model.training.get("recipe", {})
    try:
        told = table("augment", recipe.get("augment", {}))
        augment = Augment(**{field.name: told[field.name] for field in attrs.fields(Augment) if field.name in told})
        optimiser = table("optimiser", recipe.get("optimiser", {}))
        kept: dict[str, Any] = {name: optimiser[name] for name in ("batch", "weight_decay") if name in optimiser}
        learnt: dict[str, Any] = {"epochs": 1, "learning_rate": 1.0, "batch": BATCH, **kept}
        return augment, Optimiser(**learnt)
    except (TypeError, ValueError) as error:
        raise InputError("model", f"the recipe in its file is damaged: {error}", "Load its weights anew.") from None


def _read_rows(path: Path, identity: str) -> tuple[list[Tried], tuple[str, ...]]:
    """Rows and notes of an earlier call with equal arguments; none where there was no call."""
    if not os.path.lexists(path):
        return [], ()
    check_file(path, WAY_OUT)
    try:
        content = table(ROWS, parsed(path.read_bytes()))
        told = content["identity"]
        rows = [Tried(**row) for row in content["rows"]]
        notes = tuple(map(str, content["notes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), f"it is no readable list of stages: {error}", WAY_OUT) from None
    if told != identity:
        raise InputError(str(path), "it is of another model, of other images or options", WAY_OUT)
    return rows, notes


def _loss(module: nn.Module, teacher: nn.Module, batch: Batch, weight: float, cost: SpikeCost) -> Tensor:
    """The loss of a batch; weight: of a pJ an image."""
    x, y = batch
    with watched(module) as sent:
        logits = module(x).float()
    with torch.no_grad():
        told = teacher(x).float().softmax(1)
    learnt = (1 - DISTILLED) * F.cross_entropy(logits, y) + DISTILLED * F.cross_entropy(logits, told)
    return learnt + weight * cost(sent)
