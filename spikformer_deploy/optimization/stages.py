"""Searches by fine-tuning: a setting is tried in stages, each of them trained, compiled and judged by its integers.

What the setting is (a weight of energy in the loss, a number of time steps, a share of channels), which comes next and
what it does to a model is a Kind; all else is the same.  Weights and batch normalisation move; the loss is the
cross-entropy, half of it against the outputs of the model that the search began with.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
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
from spikformer_deploy.inference.run import run
from spikformer_deploy.optimization.spike_cost import watched
from spikformer_deploy.optimization.statistics import with_statistics_of
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.sample import CALIBRATION_IMAGES
from spikformer_deploy.pipeline.stages import Compiled, compile_model
from spikformer_deploy.training.data import Feed, Labelled, epoch
from spikformer_deploy.training.distributed import World
from spikformer_deploy.training.fit import Batch, Job, finished, fit
from spikformer_deploy.training.recipe import Augment, Optimiser

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
UPDATES = 600
"""Batches of a stage whose epochs nobody told, at least: what wins accuracy back is steps of the optimiser, of which 2
epochs of some thousand images have a few dozen."""
LEAST_EPOCHS = 2.0
"""Of such a stage."""
EPOCHS_OF_A_STAGE = 1000
"""More than any stage has: epochs of all stages see other augmentations and another order."""
WAY_OUT = "Give another folder, or the same arguments as before."


@dataclass(frozen=True, slots=True)
class Tried:
    """One stage, compiled, on the validation images; the first one is the original model.

    stage       0, 1, 2, ...
    setting     of make_sparser the weight of the energy in the loss, of fewer_steps T, of fewer_channels the share of
                the hidden channels that are gone at least
    trained     whether it was fine-tuned: what loses nothing as it is, is not
    accuracy    share of the images, of the integers; holds: within the allowed drop
    synops      synaptic operations an image
    dynamic_mj  mJ an image on the neuro cores, nominal; total_mj: with all that its chips draw meanwhile
    seconds     that the stage took
    checkpoint  its file in the folder
    refused     why its integers cannot be had on the target, where that is so: then it does not hold, and accuracy,
                synops and energies are None
    """

    stage: int
    setting: float
    trained: bool
    accuracy: float | None
    holds: bool
    synops: float | None
    dynamic_mj: float | None
    total_mj: float | None
    seconds: float
    checkpoint: str
    refused: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """What a search by fine-tuning found.

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


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a search trains and what it is judged by: the options of make_sparser, fewer_steps and fewer_channels.

    folder          gets a checkpoint a stage, the rows, and the result; one with equal arguments goes on from there
    target          a name of a profile or a TOML file
    max_drop        points of accuracy on the validation images that may be lost
    epochs          of each stage, a part of one too; None: 2, and as many as make UPDATES batches
    minutes         no stage begins that would not be done by then, and one that is not is left; None: all is tried
    batch           images of one; None: as the model learnt with
    learning_rate   the largest of a stage
    teacher         whose outputs half of the cross-entropy is against; None: the model that the search begins with
    progress        called with (batches of the stage done, in all, a note)
    """

    folder: Path
    target: str = "loihi2"
    max_drop: float = 0.5
    epochs: float | None = None
    minutes: float | None = None
    batch: int | None = None
    learning_rate: float = 1e-3
    seed: int = 0
    teacher: Loaded | None = None
    progress: Progress = silent


@dataclass(frozen=True, slots=True)
class Kind:
    """What a search changes from stage to stage.

    setting  what is tried, in a word
    next     the setting of the next stage and the row that it starts from; None where there is no more to try
    begun    the model that a stage trains, from the one that it starts from, at a setting; None: that model itself,
             which then is always trained
    beside   what stands beside the cross-entropy in the loss, of the spikes of a batch at a setting; None: nothing
    """

    setting: str
    next: Callable[[list[Tried]], tuple[float, Tried] | None]
    begun: Callable[[Loaded, float], Loaded] | None
    beside: Callable[[Mapping[str, Tensor], float], Tensor] | None


class _TimeIsUp(Exception):
    """Ends a training at the end of the budget; its resume file stays."""


def cheapest(rows: list[Tried]) -> Tried:
    """The row of least dynamic energy among those that hold."""
    return min((row for row in rows if row.holds), key=lambda row: row.dynamic_mj or 0.0)


class Search:
    """One search: what does not change in it, and the rows so far.

    name      of its files, and in the header of its checkpoints
    original  the setting of the original model
    asked     what else tells one search of that name from another
    vector_factor  of the learning rate of biases and normalisation
    Raises InputError for images without labels, numbers that make no sense and a damaged recipe in the model's file.
    """

    def __init__(
        self,
        name: str,
        model: Loaded,
        training_images: ImageSet,
        validation_images: ImageSet,
        original: float,
        tuning: Tuning,
        asked: tuple[Any, ...] = (),
        vector_factor: float = VECTOR_FACTOR,
    ) -> None:
        self.start = time.monotonic()
        check_numbers(tuning)
        training = _labelled("training_images", training_images, model)
        assert training.labels is not None
        self.name = name
        self.training = training
        self.model = model
        self.original = original
        self.images = Labelled(training.pixels.astype("uint8", copy=False), training.labels)
        self.teacher = tuning.teacher or model
        _check_teacher(self.teacher, model)
        self.validation = _labelled("validation_images", validation_images, model)
        self.tuning = tuning
        self.folder = tuning.folder
        self.augment, learnt = _learnt_with(model)
        batch = min(tuning.batch or learnt.batch, len(self.images))
        self.settings = attrs.evolve(
            learnt,
            batch=batch,
            learning_rate=tuning.learning_rate,
            warmup_epochs=WARM_UP,
            vector_factor=vector_factor,
            ema=AVERAGED,
            seed=tuning.seed,
        )
        epochs = LEAST_EPOCHS if tuning.epochs is None else tuning.epochs
        self.steps = max(1 if tuning.epochs else UPDATES, round(epochs * len(self.images) / batch))
        about = [model.config, model.preprocess.facts(), training.identity, self.validation.identity]
        about += [name, tuning.target, tuning.max_drop, self.teacher.config, arrays_of(self.teacher), asked]
        how = [attrs.asdict(self.settings), attrs.asdict(self.augment), self.steps]
        self.identity = digest([about, how, arrays_of(model)])
        self.rows: list[Tried] = []
        self.notes: tuple[str, ...] = ()
        self._programs: dict[str, Compiled] = {}

    def open(self) -> None:
        """Make the folder, or read the rows of an earlier call with equal arguments."""
        check_folder_output(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self.rows, self.notes = _read_rows(self._rows, self.identity)
        for row in self.rows:
            check_file(self.folder / row.checkpoint, WAY_OUT)
        if not self.rows:
            self._add(self._measured(self.model, 0, self.original, False, time.monotonic()))

    def run(self, kind: Kind) -> Tuned:
        """All stages until there is no more to try, or no more time."""
        minutes = self.tuning.minutes
        deadline = float("inf") if minutes is None else self.start + 60 * minutes
        while (following := kind.next(self.rows)) is not None:
            left = deadline - time.monotonic()
            # a stage takes about as long as the one before
            longest = max((row.seconds for row in self.rows[1:]), default=0.0)
            if left < longest:
                break
            try:
                self._add(self._stage(kind, *following, deadline - self.rows[0].seconds))
            except _TimeIsUp:
                break
        best = cheapest(self.rows)
        path = self.folder / f"{self.name}.safetensors"
        write_whole(path, (self.folder / best.checkpoint).read_bytes())
        return Tuned(path, load(path), self.compiled(best).program, tuple(self.rows), best, self.notes)

    def some(self) -> Tensor:
        """Training images from all over a set that may be sorted by class, normalised."""
        few = self.images.pixels[spread(len(self.images), REFERENCE_IMAGES)]
        return torch.from_numpy(self.model.preprocess.normalised(few))

    def compiled(self, row: Tried) -> Compiled:
        """The program of a row's file: a saved checkpoint compiles to what was measured."""
        if row.checkpoint not in self._programs:
            self._programs[row.checkpoint] = self._compiled(load(self.folder / row.checkpoint))
        return self._programs[row.checkpoint]

    @property
    def _rows(self) -> Path:
        return self.folder / f"{self.name}.json"

    def _compiled(self, model: Loaded) -> Compiled:
        few = self.images.pixels[spread(len(self.images), CALIBRATION_IMAGES)]
        return compile_model(model, self.tuning.target, calibrate_on=few, check=False)

    def _measured(self, model: Loaded, stage: int, setting: float, trained: bool, start: float) -> Tried:
        """Save a model, compile it, and run it on the validation images."""
        # what is only trained if it has to be keeps both files
        name = f"stage-{stage:02}{'' if trained or not stage else '-as-it-is'}.safetensors"
        learnt = {**model.training, self.name: {"target": self.tuning.target, "setting": setting, "stage": stage}}
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
            self._programs[name] = self._compiled(load(self.folder / name))
            found = run(self._programs[name].program, self.validation)
        except (QuantizeError, MappingError, OverflowDetected) as error:
            # of what was trained too far, others may do; of the original nothing can be tried
            if not stage:
                raise
            seconds = time.monotonic() - start
            return Tried(stage, setting, trained, None, False, None, None, None, seconds, name, refused=str(error))
        assert found.accuracy is not None
        (energy,) = (e for e in found.energies if e.convention == "profile")
        allowed = (self.rows[0].accuracy or 0.0) - self.tuning.max_drop / 100 if self.rows else 0.0
        return Tried(
            stage,
            setting,
            trained,
            found.accuracy,
            # a share of images is no exact number
            found.accuracy >= allowed - 1e-9,
            found.events.synops,
            energy.within(NEURO_CORES).nominal,
            energy.total.nominal,
            time.monotonic() - start,
            name,
        )

    def _stage(self, kind: Kind, setting: float, before: Tried, deadline: float) -> Tried:
        """What a setting makes of an earlier stage, fine-tuned where that loses accuracy, and measured."""
        start = time.monotonic()
        stage = len(self.rows)
        model = load(self.folder / before.checkpoint)
        if kind.begun is None:
            return self._trained(kind, setting, model, deadline, start)
        model = kind.begun(model, setting)
        as_it_is = self._measured(model, stage, setting, False, start)
        if (as_it_is.accuracy or 0.0) >= (self.rows[0].accuracy or 0.0):
            return as_it_is
        trained = self._trained(kind, setting, model, deadline, start)
        # training may cost more than it wins
        better = max(trained, as_it_is, key=lambda row: row.accuracy or 0.0)
        return replace(better, seconds=trained.seconds)

    def _trained(self, kind: Kind, setting: float, model: Loaded, deadline: float, start: float) -> Tried:
        """Fine-tune a model and measure what comes out."""
        stage = len(self.rows)
        with_statistics_of(model.module, self.some())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        module, teacher = (
            one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for one in (model.module, copy.deepcopy(self.teacher.module).eval().to(device))
        )
        job = Job(
            self.settings,
            self.steps,
            lambda _epoch, first: self._batches(stage, first),
            lambda learning, batch: _loss(learning, teacher, batch, kind, setting),
            lambda _module: {},
            digest([self.identity, stage, setting]),
            self.folder / f"stage-{stage:02}.safetensors",
        )

        def ticking(done: int, total: int, note: str) -> None:
            self.tuning.progress(done, total, f"stage {stage}, {kind.setting} {setting:.3g}: {note}")
            if time.monotonic() > deadline:
                raise _TimeIsUp

        fit(module, job, World(0, 1, device), ticking)
        row = self._measured(replace(model, module=module.cpu().eval()), stage, setting, True, start)
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
        write_whole(self._rows, text.encode())


def spread(count: int, most: int) -> NDArray[np.int64]:
    """Numbers of at most `most` images from all over a set of so many."""
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))


def picked(images: ImageSet, numbers: NDArray[np.int64]) -> ImageSet:
    """The images of these numbers, in memory."""
    pixels = images.pixels_in(slice(0, len(images)))[numbers]
    labels = None if images.labels is None else images.labels[numbers]
    identity = digest([images.identity, numbers])
    return replace(
        images, count=len(numbers), labels=labels, identity=identity, _read=lambda part: pixels[part], lost=None
    )


def arrays_of(model: Loaded) -> dict[str, NDArray[np.generic]]:
    """All that a model has learnt, by name: what tells it from others of the same structure."""
    return {key: value.numpy() for key, value in model.module.state_dict().items()}


def _check_teacher(teacher: Loaded, model: Loaded) -> None:
    """Raise ModelError for a teacher that takes other images, or knows other classes."""
    same = (teacher.config.num_classes, teacher.labels, teacher.preprocess.facts(), teacher.per_step)
    if same != (model.config.num_classes, model.labels, model.preprocess.facts(), model.per_step):
        problem = "it takes other images than the model, or knows other classes"
        raise ModelError("teacher", problem, "Give one that learnt from the same images.")


def check_numbers(tuning: Tuning) -> None:
    """Raise InputError, by the option's name, for a number that makes no sense."""
    if not 0 <= tuning.max_drop <= 100:
        raise InputError("--max-drop", f"{tuning.max_drop} points of accuracy", "Give 0 to 100.")
    largest = (("epochs", tuning.epochs, EPOCHS_OF_A_STAGE), ("learning-rate", tuning.learning_rate, 1.0))
    for name, value, most in largest:
        if value is not None and not 0 < value <= most:
            raise InputError(f"--{name}", f"{value}, and it is above 0 and at most {most:g}")
    if tuning.minutes is not None and not tuning.minutes > 0:
        raise InputError("--minutes", f"{tuning.minutes}, and it is above 0", "Give a larger one.")
    if tuning.seed < 0:
        raise InputError("--seed", f"{tuning.seed}", "Give a whole number from 0 on.")
    check_positive(batch=tuning.batch)


def _labelled(option: str, images: ImageSet, model: Loaded) -> ImageSet:
    """The images with labels of the model's classes.  Raises InputError where there are none."""
    if not len(images):
        raise InputError(option, "there are no images", "Give at least one.")
    if images.labels is None:
        raise InputError(option, "its images have no labels", "Give a pair (images, labels), or folders by class.")
    return images.of_classes(model.labels, model.config.num_classes)


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
        content = table(path.name, parsed(path.read_bytes()))
        told = content["identity"]
        rows = [Tried(**row) for row in content["rows"]]
        notes = tuple(map(str, content["notes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(str(path), f"it is no readable list of stages: {error}", WAY_OUT) from None
    if told != identity:
        raise InputError(str(path), "it is of another model, of other images or options", WAY_OUT)
    return rows, notes


def _loss(module: nn.Module, teacher: nn.Module, batch: Batch, kind: Kind, setting: float) -> Tensor:
    """The loss of a batch."""
    x, y = batch
    with watched(module) as sent:
        logits = module(x).float()
    with torch.no_grad():
        told = teacher(x).float().softmax(1)
    learnt = (1 - DISTILLED) * F.cross_entropy(logits, y) + DISTILLED * F.cross_entropy(logits, told)
    return learnt if kind.beside is None else learnt + kind.beside(sent, setting)
