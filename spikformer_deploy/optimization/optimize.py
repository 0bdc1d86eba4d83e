"""From a trained model to one that costs less on a target at nearly the same accuracy: all steps, one after the other.

Each step starts from what those before it left.  It may lose an even share of the accuracy that is left of the allowed
drop, or one image where that is more; what a step does not use up, the following ones have.  What it finds is compiled
and run on the validation images, and kept where it holds and costs less there.  Test images are none of its business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spikformer_deploy.accounting.target import NEURO_CORES
from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import check_file, check_folder_output, write_whole, writing
from spikformer_deploy.base.json_text import parsed, sealed
from spikformer_deploy.base.plain import table
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.base.values import digest
from spikformer_deploy.converters.checkpoints.read import Loaded, load, save
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.run import run
from spikformer_deploy.network.exits import check_exit
from spikformer_deploy.optimization.bits import choose_bits
from spikformer_deploy.optimization.details import AS_USUAL, Details
from spikformer_deploy.optimization.exits import ChosenExit, choose_exit
from spikformer_deploy.optimization.fewer_channels import fewer_channels
from spikformer_deploy.optimization.fewer_steps import fewer_steps
from spikformer_deploy.optimization.sparser import make_sparser
from spikformer_deploy.optimization.stages import Tuned, Tuning, arrays_of, check_numbers, picked
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model

STEPS = ("steps", "prune", "stems", "sparser", "bits", "exit")
"""In this order: fewer time steps, channels of MLPs and of stems, spikes and bits, fewer steps for clear images.
What makes an image cheaper to train on comes first."""
TRAINED: dict[str, tuple[Callable[..., Tuned], str]] = {
    "steps": (fewer_steps, "T = {:g}"),
    "prune": (fewer_channels, "{:.3g} of the hidden channels cut"),
    "stems": (fewer_channels, "{:.3g} of the channels inside the stem cut"),
    "sparser": (make_sparser, "weight {:.3g}"),
}
"""The steps that fine-tune, and what each of their stages tries in words."""
ORIGINAL = "original"
PROGRAM, MODEL, TRIED, SEARCH = "program.spk", "model.safetensors", "tried.json", "search.json"
WAY_OUT = "Give another folder, or the same arguments as before."
NO_TIME = 1e-9
"""Minutes, in which no stage begins; what an earlier call found stands."""
NEARLY = 1e-7
"""Points: accuracies are shares of images, and no exact numbers."""


@dataclass(frozen=True, slots=True)
class Tried:
    """Something that was run on the validation images; figures are means an image, energies nominal.

    step            "original", or one of STEPS; setting: what was tried, in words
    accuracy, drop  share of the images, and points lost against the original
    neuro_cores_mj  what cores and the network on chip do; energy_mj: with all that the chips draw meanwhile.  These,
                    words and cores are None where a step does not look at them
    mean_steps      time steps after which images leave
    kept            whether the following steps started from it
    """

    step: str
    setting: str
    accuracy: float
    drop: float
    synaptic_ops: float
    neuro_cores_mj: float | None
    energy_mj: float | None
    memory_words: int | None
    cores: int | None
    mean_steps: float
    kept: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Optimized:
    """What optimize found.

    folder    holds program.spk, model.safetensors, tried.json, and what an interrupted call goes on from
    model     the checkpoint, with its bits by layer; rounding: with which the program was compiled from it
    run, run_before  of .program and of the original's on the validation images, all time steps of each
    exit      the margin of early exit with all that was tried for it; None where early exit was not kept
    rows      all that was tried, the original first; front: numbers of those that no other beats in accuracy and energy
    notes     what a user must know
    """

    folder: Path
    model: Loaded
    rounding: str
    run: Run
    run_before: Run
    exit: ChosenExit | None
    rows: tuple[Tried, ...]
    notes: tuple[str, ...]

    @property
    def program(self) -> Program:
        """What was found, compiled."""
        return self.run.program

    @property
    def front(self) -> list[int]:
        """See above; rows without an energy are on none."""
        known = [(number, row.accuracy, row.energy_mj) for number, row in enumerate(self.rows)]
        priced = [(number, accuracy, paid) for number, accuracy, paid in known if paid is not None]
        return [
            number
            for number, accuracy, paid in priced
            if not any(a >= accuracy and p <= paid and (a > accuracy or p < paid) for _, a, p in priced)
        ]


class Training(NamedTuple):
    """How steps search and fine-tune: see make_sparser and Details."""

    epochs: float | None
    minutes: float | None
    seed: int
    teacher: Loaded
    details: Details

    def of_step(self, step: str) -> dict[str, Any]:
        """The options of its own that the search of a step takes."""
        match step:
            case "prune":
                return {"shares": self.details.shares}
            case "stems":
                return {"shares": self.details.stem_shares, "stems": True}
            case "sparser":
                weights = ("first_weight", "largest_weight")
                return {name: getattr(self.details, name) for name in weights}
            case _:
                return {}


def optimize(
    model: Loaded,
    training_images: ImageSet,
    validation_images: ImageSet,
    *,
    folder: str | Path,
    target: str = "loihi2",
    max_drop: float = 0.5,
    steps: Sequence[str] = STEPS,
    epochs: float | None = None,
    minutes: float | None = None,
    seed: int = 0,
    calibrate_on: str | Path | np.ndarray,
    details: Details = AS_USUAL,
    progress: Progress = silent,
) -> Optimized:
    """Make a model cheaper on a target: fewer time steps, sparser spikes, fewer bits.

    model           of a checkpoint
    training_images, validation_images  with labels; nothing is learnt from the latter, and results are to be reported
                    on neither
    folder          gets what is found; a call with equal arguments goes on from what is there
    target          a name of a profile or a TOML file
    max_drop        points of accuracy on the validation images that all steps together may lose
    steps           some of STEPS, which are taken in that order
    epochs, seed    of each stage of fine-tuning (TRAINED); minutes: that these steps may take
                    together, each an even share of what is left; None: until there is no more to try
    calibrate_on    images to compile on, as of compile_model
    details         what steps do beyond that
    progress        called with (done, of, a note) of the step that runs
    Raises InputError for images without labels, unknown steps, numbers that make no sense and a folder of another call,
    ModelError, QuantizeError and MappingError as compile_model.
    """
    asked = _asked(steps)
    numbers = (max_drop, epochs, minutes, details.batch, details.learning_rate, seed)
    check_numbers(Tuning(Path(folder), target, *numbers))
    details.check()
    for option, images in (("--input", training_images), ("--validation", validation_images)):
        if images.labels is None:
            raise InputError(option, "its images have no labels", "Give folders by class, or images with labels.")
    classes = (model.labels, model.config.num_classes)
    training, validation = training_images.of_classes(*classes), validation_images.of_classes(*classes)
    # one file may be several models, by options; and a module may have changed since
    about = [model.config, model.preprocess.facts(), arrays_of(model), training.identity, validation.identity]
    about += [target, max_drop, asked, epochs, seed, _told(calibrate_on), details]
    search = _Search(training, validation, Path(folder), target, calibrate_on, digest(about), progress)
    return search.found(model, asked, max_drop, Training(epochs, minutes, seed, model, details))


def _told(images: str | Path | np.ndarray) -> Any:
    """What tells calibration images from others: of files, as a user names them."""
    return images if isinstance(images, np.ndarray) else str(images)


def parted(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Images without a share of them, drawn with a seed, and these: to train on, and to decide by.

    Raises InputError for a share that leaves one of the two without images, and a seed below 0.
    """
    # of NaN nothing holds
    count = round(share * len(images)) if 0 < share < 1 else 0
    if not 0 < count < len(images):
        problem = f"{share} of {len(images)} images"
        raise InputError("--validation", problem, "Give a share above 0 and below 1 that leaves images on both sides.")
    check_numbers(Tuning(Path(), seed=seed))
    order = np.random.default_rng(seed).permutation(len(images))
    return picked(images, np.sort(order[count:])), picked(images, np.sort(order[:count]))


def _share(points: float, steps: int, images: int) -> float:
    """What the next of so many steps may lose of the points that are left: an even share, or one image if more."""
    return min(points, max(points / steps, 100 / images))


def _asked(steps: Sequence[str]) -> tuple[str, ...]:
    """The steps in their order.  Raises InputError for unknown ones, and for none."""
    known = f"Known: {', '.join(STEPS)}."
    for step in steps:
        if step not in STEPS:
            raise InputError("--steps", f"there is no step '{step}'", known)
    if not steps:
        raise InputError("--steps", "no step is asked for", known)
    return tuple(step for step in STEPS if step in steps)


@dataclass(frozen=True, slots=True, eq=False)
class _Standing:
    """Where the search stands: a model, how it is compiled, what that gives on the validation images, and its row."""

    model: Loaded
    rounding: str
    run: Run
    row: Tried


@dataclass(eq=False)
class _Search:
    """One search: what does not change in it, the rows so far and the notes."""

    training: ImageSet
    validation: ImageSet
    folder: Path
    target: str
    calibrate_on: str | Path | np.ndarray
    identity: str
    progress: Progress
    rows: list[Tried] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def found(self, model: Loaded, steps: tuple[str, ...], max_drop: float, training: Training) -> Optimized:
        """All steps, one after the other, and what they end with."""
        self._open()
        before = now = self._measured(ORIGINAL, "as it is", model, "nearest", {})
        self.rows.append(replace(before.row, kept=True))
        exits: ChosenExit | None = None
        minutes = training.minutes
        for number, step in enumerate(steps):
            share = _share(max(0.0, max_drop - now.row.drop), len(steps) - number, len(self.validation))
            to_train = sum(later in TRAINED for later in steps[number:])
            match step:
                case "bits":
                    now = self._bits(now, share, training.details.least_bits)
                case "exit":
                    exits = self._exit(now, share)
                case _:
                    left = None if minutes is None else max(NO_TIME, minutes / to_train)
                    start = time.monotonic()
                    now = self._tuned(step, now, share, training, left)
                    minutes = None if minutes is None else minutes - (time.monotonic() - start) / 60
        now = self._write(now, exits)
        rows, notes = tuple(self.rows), tuple(self.notes)
        return Optimized(self.folder, now.model, now.rounding, now.run, before.run, exits, rows, notes)

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _tuned(self, step: str, now: _Standing, share: float, training: Training, minutes: float | None) -> _Standing:
        """A search by fine-tuning."""
        search, words = TRAINED[step]
        # with more minutes the steps before may have come to another model, of which this is another search
        of = digest([arrays_of(now.model), now.model.time_steps, share])
        tuning = Tuning(
            self.folder / f"{step}-{of[:8]}",
            self.target,
            share,
            epochs=training.epochs,
            minutes=minutes,
            batch=training.details.batch,
            learning_rate=training.details.learning_rate,
            seed=training.seed,
            teacher=training.teacher,
            progress=self.progress,
        )
        try:
            found = search(now.model, self.training, self.validation, tuning, **training.of_step(step))
        except ModelError as error:  # there is nothing that it could do about this model
            self.notes.append(f"without '{step}': {error.problem}")
            return now
        self.notes += found.notes
        for row in found.rows[1:]:
            if row.accuracy is None or row.synops is None:  # the target has no integers for it
                continue
            tried = Tried(
                step=step,
                setting=f"{words.format(row.setting)}{', fine-tuned' if row.trained else ''}",
                accuracy=row.accuracy,
                drop=self._drop(row.accuracy),
                synaptic_ops=row.synops,
                neuro_cores_mj=row.dynamic_mj,
                energy_mj=row.total_mj,
                memory_words=None,
                cores=None,
                mean_steps=row.setting if step == "steps" else now.row.mean_steps,
            )
            self.rows.append(tried)
        if found.chosen is found.rows[0]:
            return now
        setting = f"{words.format(found.chosen.setting)}, compiled"
        fewer = self._measured(step, setting, found.model, "nearest", {})
        return self._better(now, fewer, share, lambda row: row.neuro_cores_mj)

    def _bits(self, now: _Standing, share: float, least_bits: int) -> _Standing:
        """Fewer bits of weights, layer by layer, rounded together."""
        told = self._told()
        # with more minutes the steps before may have come to another model
        of = digest([now.model.sha256, now.model.time_steps, now.row.accuracy, share])
        if told.get("of") != of:
            # the choice allows for a drop from all bits with this rounding, and ours is from where the search stands
            rounded = self._measured("bits", "all bits", now.model, "calibrated", {})
            left = now.row.drop + share - rounded.row.drop
            if left < 0:
                self.rows.append(rounded.row)
                return now
            found = choose_bits(
                now.model,
                self.validation,
                calibrate_on=self.calibrate_on,
                max_drop=left,
                target=self.target,
                least_bits=least_bits,
                progress=self.progress,
            )
            told = {"of": of, "layer_bits": found.layer_bits, "tried": list(found.tried)}
            self._tell(told)
        for row in told["tried"]:
            lowered = ", ".join(f"{name} {bits}" for name, bits in sorted(row["layer_bits"].items()))
            tried = Tried(
                step="bits",
                setting=lowered or "all bits",
                accuracy=row["accuracy"],
                drop=self._drop(row["accuracy"]),
                synaptic_ops=row["synops"],
                neuro_cores_mj=None,
                energy_mj=None,
                memory_words=row["memory_words"],
                cores=row["cores"],
                mean_steps=now.row.mean_steps,
            )
            self.rows.append(tried)
        fewer = self._measured("bits", "the chosen, compiled", now.model, "calibrated", told["layer_bits"])
        return self._better(now, fewer, share, lambda row: row.memory_words)

    def _exit(self, now: _Standing, share: float) -> ChosenExit | None:
        """Fewer time steps for images that are clear; None where that saves no energy."""
        try:
            check_exit(now.run.program.network)
        except InputError as error:
            self.notes.append(f"no early exit: {error.problem}")
            return None
        found = choose_exit(now.run.program, self.validation, max_drop=share, progress=self.progress)
        assert now.row.energy_mj is not None
        saves = found.chosen.energy_mj < now.row.energy_mj
        for one in found.tried:
            tried = Tried(
                step="exit",
                setting=f"margin {one.threshold}",
                accuracy=one.accuracy,
                drop=self._drop(one.accuracy),
                synaptic_ops=one.synaptic_ops,
                neuro_cores_mj=one.neuro_cores_mj,
                energy_mj=one.energy_mj,
                memory_words=now.row.memory_words,
                cores=now.row.cores,
                mean_steps=one.mean_steps,
                kept=saves and one == found.chosen,
            )
            self.rows.append(tried)
        if saves:
            return found
        of = f"{found.chosen.energy_mj:.3g} mJ an image, and {now.row.energy_mj:.3g} without"
        self.notes.append(f"no early exit: in the fall-through schedule that it needs it takes {of}")
        return None

    # --- figures ------------------------------------------------------------------------------------------------------

    def _measured(
        self, step: str, setting: str, model: Loaded, rounding: str, layer_bits: Mapping[str, int]
    ) -> _Standing:
        """Compile a model, which gets these bits, and run it on the validation images."""
        model = replace(model, layer_bits=dict(layer_bits))
        compiled = compile_model(model, self.target, calibrate_on=self.calibrate_on, rounding=rounding, check=False)
        done = run(compiled.program, self.validation)
        assert done.accuracy is not None
        (energy,) = (e for e in done.energies if e.convention == "profile")
        row = Tried(
            step=step,
            setting=setting,
            accuracy=done.accuracy,
            drop=self._drop(done.accuracy),
            synaptic_ops=float(done.events.synops),
            neuro_cores_mj=energy.within(NEURO_CORES).nominal,
            energy_mj=energy.total.nominal,
            memory_words=int(compiled.program.mapping.words.sum()),
            cores=compiled.program.mapping.cores_used,
            mean_steps=float(model.time_steps),
        )
        return _Standing(model, rounding, done, row)

    def _drop(self, accuracy: float) -> float:
        """Points lost against the original."""
        return 100 * (self.rows[0].accuracy - accuracy) if self.rows else 0.0

    def _better(
        self, now: _Standing, fewer: _Standing, share: float, cost: Callable[[Tried], float | None]
    ) -> _Standing:
        """The second where it costs less and loses no more than its share, else the first; its row is kept."""
        before, after = cost(now.row), cost(fewer.row)
        assert before is not None
        assert after is not None
        stands = after < before and fewer.row.drop - now.row.drop <= share + NEARLY
        self.rows.append(replace(fewer.row, kept=stands))
        return fewer if stands else now

    # --- the folder ---------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Make the folder, or see that it is of an earlier call with equal arguments."""
        check_folder_output(self.folder)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / SEARCH).exists():
            self._told()
        else:
            self._tell({})

    def _told(self) -> dict[str, Any]:
        """The bits that an earlier call chose.  Raises InputError where it was another one, or the file is damaged."""
        path = self.folder / SEARCH
        check_file(path, WAY_OUT)
        try:
            content = table(SEARCH, parsed(path.read_bytes()))
            identity, bits = content["identity"], table("bits", content["bits"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(str(path), f"it is no readable record of a search: {error}", WAY_OUT) from None
        if identity != self.identity:
            raise InputError(str(self.folder), "it is of another model, of other images or options", WAY_OUT)
        return bits

    def _tell(self, bits: dict[str, Any]) -> None:
        write_whole(self.folder / SEARCH, sealed({"identity": self.identity, "bits": bits}).encode())

    def _write(self, now: _Standing, exits: ChosenExit | None) -> _Standing:
        """Write the checkpoint, the program that it compiles to, and all rows; give back what is in the files."""
        model = now.model
        path = self.folder / MODEL
        save(path, model.module, model.config, model.preprocess, model.labels, model.training, model.layer_bits)
        # the file itself, so that the checkpoint compiles to the program that names it
        written = load(path)
        compiled = compile_model(
            written, self.target, calibrate_on=self.calibrate_on, rounding=now.rounding, check=False
        )
        compiled.program.save(self.folder / PROGRAM)
        content = {"margin": exits.threshold if exits else None, "rows": [asdict(row) for row in self.rows]}
        write_whole(self.folder / TRIED, sealed(content).encode())
        done = run(compiled.program, self.validation)
        assert np.array_equal(done.accumulators, now.run.accumulators)
        return _Standing(written, now.rounding, done, now.row)
