"""What a module of the user's own says of its images and its time steps, and the float graph of it."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.base.words import check_positive
from spikformer_deploy.converters.checkpoints.spikingjelly import CLOSE, NEURONS, digest_of, from_spikingjelly
from spikformer_deploy.converters.factory import Made, function_of, theirs
from spikformer_deploy.converters.imported import Imported, preprocess_of
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.data.labels import check_names
from spikformer_deploy.data.shapes import shape_of
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace

STEPS = ("time_steps", "time_step", "timestep", "T")
"""Attributes of modules that are their time steps, and arguments of functions that make modules of so many."""
TRIED_SCALE = 4.0
"""Of the random images on which the graph is compared with the module: enough for most neurons to fire."""
Data: TypeAlias = "str | Path | np.ndarray"


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a module beside its weights.

    time_steps  T; None where nothing tells it
    per_step    whether it takes a frame for every time step
    notes       what had to be assumed
    """

    preprocess: Preprocess
    time_steps: int | None
    per_step: bool
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def about(module: nn.Module, place: str, time_steps: int | None = None, data: Data | None = None) -> About:
    """What a module says itself, by its attributes, what the user says, and what the shape of their images says.

    module      may have the attributes preprocess (a Preprocess, or a mapping of its fields), per_step, labels, and one
                of STEPS
    time_steps  as the user asks, before all others
    data        images, as of data.read.read: looked at only where the module does not say which it takes
    Raises InputError where nothing tells the images, ModelError for attributes that make no sense.
    """
    check_positive(time_steps=time_steps)
    stated = _stated_preprocess(module, place)
    labels = _stated_labels(module, place)
    if stated is not None:
        per_step = bool(getattr(module, "per_step", False))
        return About(stated, time_steps or own_steps(module), per_step, labels, ())
    if data is None:
        way_out = "Set model.preprocess = sd.Preprocess(channels, size, mean, std) in the factory, or give --calibrate."
        raise InputError(place, "it does not say which images it takes", way_out)
    shape = shape_of(data)
    per_step = len(shape) == 4
    frames = shape[0] if per_step else None
    steps = time_steps or frames or own_steps(module)
    return About(_assumed(shape[-3:], counts=per_step), steps, per_step, labels, (_note(place, counts=per_step),))


def graph_of(made: Made, time_steps: int | None = None, data: Data | None = None) -> Imported:
    """The float model of a module of the user's, for `compile`: of spikingjelly's layers, or of what trace knows.

    time_steps, data  as of `about`
    Raises the errors of `about`, and ModelError for what cannot be traced, or where nothing tells the time steps.
    """
    known = about(made.module, made.place, time_steps, data)
    if known.time_steps is None:
        way_out = "Give --time-steps, or set model.time_steps in the factory."
        raise ModelError(made.place, "it does not say how many time steps an image has", way_out)
    by_layers = _is_spikingjelly(made.module)
    # what the model prints is not the output of a command
    with redirect_stdout(sys.stderr):
        if by_layers:
            imported = from_spikingjelly(
                made.module, known.preprocess, known.time_steps, per_step=known.per_step, labels=known.labels
            )
            graph, notes = imported.graph, imported.notes
        else:
            shape = (known.preprocess.channels, *known.preprocess.extent)
            graph = check(trace(made.module, shape, time_steps=known.time_steps, per_step=known.per_step))
            notes = ()
    all_notes = (*made.notes, *known.notes, *notes)
    sha256 = digest_of(made.module)
    imported = Imported("factory", graph, known.preprocess, known.labels, sha256, {}, all_notes, made.place)
    if not by_layers:
        _compare(made, imported)
    return imported


def _stated_preprocess(module: nn.Module, place: str) -> Preprocess | None:
    """The attribute `preprocess` of a module; None where it has none that is a record of ours."""
    raw = getattr(module, "preprocess", None)
    if isinstance(raw, Preprocess):
        raw = asdict(raw)
    # a method or a transform of that name is no record
    if not isinstance(raw, Mapping):
        return None
    try:
        return preprocess_of({"max_value": 255, **raw})
    except (KeyError, TypeError, ValueError) as error:
        way_out = "It is sd.Preprocess(channels, size, mean, std), one mean and one std a channel."
        raise ModelError(place, f"its preprocess makes no sense: {error}", way_out) from None


def _stated_labels(module: nn.Module, place: str) -> tuple[str, ...]:
    """The attribute `labels` of a module: the names of its classes; empty where it has none, or None."""
    raw = getattr(module, "labels", None)
    if raw is None:
        return ()
    if isinstance(raw, str) or not isinstance(raw, Iterable):
        raise ModelError(place, f"its labels are a {type(raw).__name__}", "Let them be a list of names, or None.")
    labels = tuple(raw)
    check_names(place, labels)
    return labels


def own_steps(module: nn.Module) -> int | None:
    """T by the first attribute of a module that has its name and may be one; None where there is none."""
    for name in STEPS:
        steps = getattr(module, name, None)
        if type(steps) is int and 0 < steps <= MOST_STEPS:
            return steps
    return None


def steps_argument(factory: str) -> str | None:
    """The argument of a factory that is the time steps of what it makes, by its name; None where it has none.

    Raises InputError and ModelError as converters.factory.function_of does.
    """
    try:
        parameters = inspect.signature(function_of(factory)).parameters
    except (ValueError, TypeError):  # of a function in C
        return None
    return next((name for name in STEPS if name in parameters), None)


def _assumed(shape: tuple[int, ...], *, counts: bool) -> Preprocess:
    """Pixels / 255, or counts of events as they are, of images (C, Y, X)."""
    channels, height, width = shape
    std = 1 / 255 if counts else 1.0
    return Preprocess(channels, height, (0.0,) * channels, (std,) * channels, width=width)


def _note(place: str, *, counts: bool) -> str:
    taken = "counts as they are" if counts else "pixels / 255"
    return f"{place}: the input is taken as {taken}: the model has no attribute `preprocess`, which says mean and std"


def _is_spikingjelly(module: nn.Module) -> bool:
    return any(
        type(layer).__module__.startswith("spikingjelly.") or type(layer).__name__ in NEURONS
        for layer in module.modules()
    )


def _compare(made: Made, imported: Imported) -> None:
    """ModelError where the logits of the graph are not those of the module on random images.

    In doubles, so that rounding decides no spike; in fp32 where the module makes tensors of that type itself.
    """
    steps = (imported.time_steps,) if imported.per_step else ()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, *steps, *imported.input_shape, generator=generator) * TRIED_SCALE
    logits = _logits(made, images)
    ours = execute(imported.graph, images, dtype=logits.dtype)[imported.graph.nodes[-1].name]
    worst = float((ours - logits).abs().max())
    # "not <=" and not ">": NaN is refused too
    if not worst <= CLOSE * max(1.0, float(logits.abs().max())):
        way_out = "Its forward pass must be a function of its input only."
        raise ModelError(made.place, f"the logits of its graph differ from its own by {worst:.3g}", way_out)


def _logits(made: Made, images: torch.Tensor) -> torch.Tensor:
    """What the module makes of images, in doubles where it can."""
    with torch.no_grad():
        try:
            with redirect_stdout(sys.stderr):
                return copy.deepcopy(made.module).double()(images.double())
        except Exception:  # a tensor of fp32 that its forward pass makes
            with theirs(made.place, "its forward pass raises"):
                return made.module(images)
