"""The calls that make a network cheaper at nearly the same accuracy: see docs/optimize.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spikformer_deploy.api.given import AnyModel, Data, calibration_of, checkpoint_of, images_of, labelled_of, model_of
from spikformer_deploy.base.options import named
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.data.given import gathered
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.inference.given import AnyProgram, program_of
from spikformer_deploy.optimization import bits, exits, sparser
from spikformer_deploy.optimization import fewer_channels as cutting
from spikformer_deploy.optimization import fewer_steps as reducing
from spikformer_deploy.optimization import optimize as optimizing
from spikformer_deploy.optimization import prune as pruning
from spikformer_deploy.optimization.bits import ChosenBits
from spikformer_deploy.optimization.details import Details
from spikformer_deploy.optimization.exits import ChosenExit
from spikformer_deploy.optimization.optimize import STEPS, Optimized
from spikformer_deploy.optimization.prune import Pruned
from spikformer_deploy.optimization.sparser import FIRST_WEIGHT, LARGEST_WEIGHT
from spikformer_deploy.optimization.stages import Tuned, Tuning
from spikformer_deploy.quantization.build import LEAST_BITS


@named
def choose_bits(
    model: AnyModel,
    data: Data,
    *,
    calibrate_on: Data = None,
    max_drop: float = 0.5,
    target: str | Path = "loihi2",
    weight_bits: int = 8,
    least_bits: int = LEAST_BITS,
    rounding: str = "calibrated",
    objective: str = "energy",
    limit: int | None = None,
    labels: str | Path | None = None,
    progress: Progress = silent,
    arch: str | None = None,
    heads: int | None = None,
    levels: int | None = None,
    time_steps: int | None = None,
    dt: float | None = None,
    window: int | None = None,
    variables: int | None = None,
    image_size: int | None = None,
    allow_pickle: bool = False,
) -> ChosenBits:
    """Choose the weight bits of each layer: as few as accuracy on labelled images allows; see docs/optimize.md.

    model         as of sd.compile
    data          validation images with labels, as of sd.run: none that the result is reported on
    calibrate_on  as of sd.compile
    max_drop      points of accuracy that may be lost against `weight_bits` for all layers
    target, objective  as of sd.compile
    weight_bits   the most that a layer has, 2 to 8; least_bits: the fewest
    rounding      "calibrated" or "nearest"; give sd.compile the same
    limit         at most that many validation images; None: all
    labels        a file of the classes of the images, for a folder or zip
    progress      called with (steps done, steps in all, a note)
    time_steps    T, as of sd.compile
    arch, heads, levels, dt, window, variables, image_size, allow_pickle  as of sd.load, for a `model` that is a path
    Gives .layer_bits for sd.compile, .program with its .accuracy on these images, and .tried, a row a setting that was
    run.
    Raises InputError for images without labels, for what cannot be read and for options (OptionError, also a TypeError,
    for unknown ones), ModelError, QuantizeError and MappingError as sd.compile.
    """
    loading: dict[str, Any] = {"arch": arch, "heads": heads, "levels": levels, "dt": dt, "window": window}
    loading |= {"variables": variables, "image_size": image_size, "allow_pickle": allow_pickle}
    images = calibration_of(calibrate_on)
    found = model_of(model, loading, time_steps, images)
    return bits.choose_bits(
        found,
        data if isinstance(data, ImageSet) else gathered(data, limit),
        calibrate_on=images,
        max_drop=max_drop,
        target=str(target),
        weight_bits=weight_bits,
        least_bits=least_bits,
        rounding=rounding,
        objective=objective,
        limit=limit,
        labels=labels,
        progress=progress,
        **({**loading, "time_steps": time_steps} if isinstance(found, (str, Path)) else {}),
    )


@named
def choose_exit(
    program: AnyProgram,
    validation_images: Data,
    *,
    max_drop: float,
    runtime: str = "lava",
    limit: int | None = None,
    labels: str | Path | None = None,
    progress: Progress = silent,
) -> ChosenExit:
    """Choose the margin of early exit of a program on validation images: the `early_exit` of sd.run.

    program            a Program, or the path of a .spk file
    validation_images  with their classes, as of sd.run; no test images
    max_drop           points of accuracy that may be lost: 0.3 of 98.9 % leaves 98.6 %
    runtime            "lava", or "bare": one that costs nothing
    limit, labels, progress  as of sd.run
    Gives a ChosenExit: .threshold, .chosen, and .tried, the curve of all thresholds.
    Raises InputError for a negative drop, images without classes, a program whose images cannot leave early (one time
    step, one output, only the last step read) and a target whose neurons cannot compare accumulators; and as sd.run.
    """
    ready = program_of(program)
    images = images_of(ready, validation_images, limit, labels, None)
    return exits.choose_exit(ready, images, max_drop=max_drop, runtime=runtime, progress=progress)


@named
def make_sparser(
    model: AnyModel,
    training_images: Data,
    validation_images: Data,
    *,
    folder: str | Path,
    target: str | Path = "loihi2",
    max_drop: float = 0.5,
    epochs: float | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
    teacher: AnyModel | None = None,
    first_weight: float = FIRST_WEIGHT,
    largest_weight: float = LARGEST_WEIGHT,
    progress: Progress = silent,
) -> Tuned:
    """Fine-tune a model so that its spikes cost less on a target, at nearly the same accuracy; see docs/optimize.md.

    model            a checkpoint, a bundled model by name, or what sd.load returned of one
    training_images  images with labels: as of sd.run; of what has splits those to train on
    validation_images  others, by which stages are judged: of what has splits the test images
    folder           gets a checkpoint a stage, their rows, and the result; equal arguments go on from what is there
    target           whose prices count: a name that `spikdeploy targets` lists, or a TOML file
    max_drop         points of accuracy of the integers on the validation images that may be lost
    epochs           passes over the training images of each stage, parts of one too; None: 2, and as many as make 600
                     batches
    minutes          no stage begins that would take longer, one that does is left; None: all is tried
    batch            images of one; None: as the model learnt with
    learning_rate    the largest of a stage
    seed             of the order of images and of their augmentation
    teacher          a model as `model`, of the same images and classes, whose outputs half of the loss is against;
                     None: `model` itself
    first_weight     of the energy in the loss, in the first stage; largest_weight: no stage has more
    progress         called with (batches of the stage done, in all, a note)
    Gives .checkpoint, a file, .model and .program of the cheapest stage that holds, .chosen, its row, and .rows of all;
    a row's setting is its weight of the energy in the loss.
    Raises InputError for what cannot be read, images without labels, numbers that make no sense, the folder of another
    call, and for options (OptionError, also a TypeError, for unknown ones), ModelError for a model without LIFs.
    """
    known = None if teacher is None else checkpoint_of(teacher)
    tuning = Tuning(Path(folder), str(target), max_drop, epochs, minutes, batch, learning_rate, seed, known, progress)
    weights = {"first_weight": first_weight, "largest_weight": largest_weight}
    return _searched(sparser.make_sparser, model, training_images, validation_images, tuning, **weights)


@named
def fewer_steps(
    model: AnyModel,
    training_images: Data,
    validation_images: Data,
    *,
    folder: str | Path,
    target: str | Path = "loihi2",
    max_drop: float = 0.5,
    epochs: float | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
    teacher: AnyModel | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Find the fewest time steps with which a model keeps nearly its accuracy, fine-tuned; see docs/optimize.md.

    model            a checkpoint of images, a bundled model by name, or what sd.load returned of one
    training_images  images with labels: as of sd.run; of what has splits those to train on
    validation_images  others, by which stages are judged: of what has splits the test images
    folder           gets a checkpoint a stage, their rows, and the result; equal arguments go on from what is there
    target           a name that `spikdeploy targets` lists, or a TOML file
    max_drop         points of accuracy of the integers on the validation images that may be lost
    epochs, minutes, batch, learning_rate, seed, teacher, progress  as of sd.make_sparser
    Gives what sd.make_sparser gives; a row's setting is its number of time steps.
    Raises InputError for what cannot be read, images without labels, numbers that make no sense, the folder of another
    call, and for options (OptionError, also a TypeError, for unknown ones), ModelError for a model of frames or of one
    time step.
    """
    known = None if teacher is None else checkpoint_of(teacher)
    tuning = Tuning(Path(folder), str(target), max_drop, epochs, minutes, batch, learning_rate, seed, known, progress)
    return _searched(reducing.fewer_steps, model, training_images, validation_images, tuning)


@named
def fewer_channels(
    model: AnyModel,
    training_images: Data,
    validation_images: Data,
    *,
    folder: str | Path,
    target: str | Path = "loihi2",
    max_drop: float = 0.5,
    epochs: float | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
    teacher: AnyModel | None = None,
    shares: Sequence[float] = (),
    stems: bool = False,
    progress: Progress = silent,
) -> Tuned:
    """Cut as many hidden channels of a model's MLPs as keep nearly its accuracy, fine-tuned; see docs/optimize.md.

    model            as of sd.prune
    training_images  images with labels: as of sd.run; of what has splits those to train on
    validation_images  others, by which stages are judged: of what has splits the test images
    folder           gets a checkpoint a stage, their rows, and the result; equal arguments go on from what is there
    target           a name that `spikdeploy targets` lists, or a TOML file
    max_drop         points of accuracy of the integers on the validation images that may be lost
    epochs, minutes, batch, learning_rate, seed, teacher, progress  as of sd.make_sparser
    shares           those to try, each 0 to below 1, ascending until one does not hold; (): by bisection
    stems            whether a share is that of each layer inside the stem, instead of each MLP; of the others those go
                     that never fire
    Gives what sd.make_sparser gives; a row's setting is the share of hidden channels that are gone at least.
    Raises InputError for what cannot be read, images without labels, numbers that make no sense, the folder of another
    call, and for options (OptionError, also a TypeError, for unknown ones), ModelError for a model of another family.
    """
    known = None if teacher is None else checkpoint_of(teacher)
    tuning = Tuning(Path(folder), str(target), max_drop, epochs, minutes, batch, learning_rate, seed, known, progress)
    which: dict[str, Any] = {"shares": shares, "stems": stems}
    return _searched(cutting.fewer_channels, model, training_images, validation_images, tuning, **which)


def _searched(
    search: Callable[..., Tuned],
    model: AnyModel,
    training_images: Data,
    validation_images: Data,
    tuning: Tuning,
    **of_search: Any,
) -> Tuned:
    """A search by fine-tuning, of what a caller gives.  of_search: options of its own."""
    loaded = checkpoint_of(model)
    images = (labelled_of(loaded, training_images, "train"), labelled_of(loaded, validation_images, "test"))
    return search(loaded, *images, tuning, **of_search)


@named
def prune(
    model: AnyModel,
    images: Data,
    *,
    output: str | Path,
    share: float = 0.0,
    stem_share: float = 0.0,
    target: str | Path = "loihi2",
    progress: Progress = silent,
) -> Pruned:
    """Cut hidden channels of a model's MLPs and stem away, those that never fire first; see docs/optimize.md.

    model       a checkpoint of Spikformer V1 or V2 or of Spikingformer, a bundled model by name, or what sd.load
                returned
    images      what channels are judged by, as of sd.run: those that the model learnt from
    output      the file of the smaller model
    share       of the hidden channels of each block that go at least: those that matter least after those that never
                fire; 0: those that never fire only
    stem_share  the same of each layer inside the stem
    target      a name that `spikdeploy targets` lists, or a TOML file
    progress    called with (images done, in all, a note)
    Gives .checkpoint and .model, .cuts, a row a block, .stem, a row a layer inside the stem, .before and .after, and
    .moved: layers whose integers changed.
    Raises InputError for what cannot be read or written and for options (OptionError, also a TypeError, for unknown
    ones), ModelError for a model of another family.
    """
    loaded = checkpoint_of(model)
    chosen = labelled_of(loaded, images, "train")
    return pruning.prune(
        loaded, chosen, output=output, share=share, stem_share=stem_share, target=str(target), progress=progress
    )


@named
def optimize(
    model: AnyModel,
    training_images: Data,
    validation_images: Data,
    *,
    folder: str | Path,
    target: str | Path = "loihi2",
    max_drop: float = 0.5,
    steps: Sequence[str] = STEPS,
    epochs: float | None = None,
    minutes: float | None = None,
    seed: int = 0,
    calibrate_on: Data = None,
    learning_rate: float = 1e-3,
    batch: int | None = None,
    first_weight: float = FIRST_WEIGHT,
    largest_weight: float = LARGEST_WEIGHT,
    shares: Sequence[float] = (),
    stem_shares: Sequence[float] = (),
    least_bits: int = LEAST_BITS,
    progress: Progress = silent,
) -> Optimized:
    """Make a model cheaper on a target: fewer time steps, channels, spikes and bits; see docs/optimize.md.

    model            a checkpoint, a bundled model by name, or what sd.load returned of one
    training_images  images with labels: as of sd.run; of what has splits those to train on
    validation_images  others, which decide: none that results are reported on.  A share, as 0.1: so many of the
                     training images, which are not trained on
    folder           gets the program, its checkpoint and all that was tried; equal arguments go on from what is there
    target           a name that `spikdeploy targets` lists, or a TOML file
    max_drop         points of accuracy on the validation images that all steps together may lose
    steps            of "steps", "prune", "stems", "sparser", "bits", "exit" those to take, in that order
    epochs           passes over the training images of each stage of fine-tuning, parts of one too; None: 2, and as
                     many as make 600 batches
    minutes          that fine-tuning may take; None: until there is no more to try
    seed             of the order of images, their augmentation, and of a share of them
    calibrate_on     as of sd.compile; None: `training_images`, as if they were given here, so that sd.compile on them
                     makes the same program of the checkpoint
    learning_rate, batch, first_weight, largest_weight  as of sd.make_sparser: of all fine-tuning, and of "sparser"
    shares           as of sd.fewer_channels, of "prune"; stem_shares: with stems=True, of "stems"
    least_bits       of the weights of a layer, 2 to 8, of "bits"
    progress         called with (done, of, a note) of the step that runs
    Gives .program and .model, .exit (the margin of early exit, where it is worth it), .run and .run_before on the
    validation images, .rows of all that was tried, .front of them, and .notes.
    Raises InputError for what cannot be read, images without labels, numbers that make no sense, the folder of another
    call, and for options (OptionError, also a TypeError, for unknown ones), ModelError, QuantizeError and MappingError
    as sd.compile.
    """
    details = Details(
        learning_rate=float(learning_rate),
        batch=batch,
        first_weight=float(first_weight),
        largest_weight=float(largest_weight),
        shares=tuple(map(float, shares)),
        stem_shares=tuple(map(float, stem_shares)),
        least_bits=least_bits,
    )
    loaded = checkpoint_of(model)
    training = labelled_of(loaded, training_images, "train")
    if isinstance(validation_images, float):
        training, validation = optimizing.parted(training, validation_images, seed)
    else:
        validation = labelled_of(loaded, validation_images, "test")
    return optimizing.optimize(
        loaded,
        training,
        validation,
        folder=folder,
        target=str(target),
        max_drop=max_drop,
        steps=steps,
        epochs=epochs,
        minutes=minutes,
        seed=seed,
        calibrate_on=calibration_of(training_images if calibrate_on is None else calibrate_on),
        details=details,
        progress=progress,
    )
