"""Sweep a design space: what there is of it already stays, and everything else is run, here or by workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError, ModelError, SpikdeployError
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.base.values import digest
from spikformer_deploy.chips.profile import load_profile, to_dict
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.read import read
from spikformer_deploy.data.readers import found_anywhere
from spikformer_deploy.inference.seam import Pool, pool
from spikformer_deploy.space.axes import Point, Row, Space, points_of
from spikformer_deploy.space.budget import parse_budget
from spikformer_deploy.space.folder import Folder
from spikformer_deploy.space.own import Own, fingerprint
from spikformer_deploy.space.study import Group, Study


@dataclass(frozen=True, slots=True, eq=False)
class Swept:
    """The rows of a space, in the order of their settings, with those that the folder had before.

    notes  what a user must know of models and images
    own    the models of the user's own code, by name
    """

    space: Space
    rows: list[Row]
    notes: tuple[str, ...]
    own: Mapping[str, Own] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model of a space, and what its points run on, by number of time steps.

    own  of the user's own code: the model of each number of time steps, or why there is none
    """

    name: str
    model: Model
    images: Mapping[int, ImageSet]
    own: Mapping[int, Model | SpikdeployError] = field(default_factory=dict)


def sweep_space(
    space: Space,
    folder: Path | None = None,
    *,
    own: Mapping[str, Own] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> Swept:
    """Run every point of a space that the folder does not have yet.

    own       models of the user's own code, by the names that the space has for them
    folder    gets a row after the other (folder.py); None: rows are given back, and no file is written
    workers, scheduler  as of inference.seam.pool
    allow_pickle        as of converters.models.load
    progress  called with (points done, points in all, a note)
    Raises InputError for what cannot be read, and for a folder of another sweep.  What a target cannot hold is a row.
    """
    parse_budget(space.budget)
    own = own or {}
    loading = _loading(space, allow_pickle)
    subjects = [_subject(space, name, loading, own.get(name)) for name in space.models]
    known = Folder(folder, _about(space, subjects, loading))
    wanted = [point for subject in subjects for point in points_of(space, subject.name, subject.images)]
    missing = {point for point in wanted if point not in known.rows}
    with pool(workers, scheduler) as crew:
        groups = list(_groups(subjects, missing, crew))
        done = len(wanted) - len(missing)

        def note_images(images: int, of: int, _note: str) -> None:
            progress(done, len(wanted), f"{images} of {of} images")

        home = os.getcwd() if crew.apart else ""
        made = {(subject.name, steps): model for subject in subjects for steps, model in subject.own.items()}
        study = Study(space.runtime, loading, made, space.calibrate or None, home)
        if not crew.elsewhere:
            study = replace(study, progress=note_images)
        progress(done, len(wanted), "")
        for number, rows in crew.map(study, groups, at_once=1):
            known.add(rows)
            done += len(rows)
            progress(done, len(wanted), groups[number].name)
    rows = known.finish()
    notes = [note for subject in subjects for note in subject.model.notes]
    notes += [note for row in rows for note in row.get("notes", ())]
    return Swept(space, rows, tuple(dict.fromkeys(notes)), own)


def _loading(space: Space, allow_pickle: bool) -> dict[str, Any]:
    """As of converters.models.load."""
    return {
        "arch": space.arch or None,
        "heads": space.heads or None,
        "levels": space.levels or None,
        "image_size": space.image_size or None,
        "dt": space.dt or None,
        "allow_pickle": allow_pickle,
    }


def _subject(space: Space, name: str, loading: Mapping[str, Any], own: Own | None) -> Subject:
    """A model and its images; raises what loading and reading raise."""
    found = {} if own is None else _own_models(own, space.time_steps)
    model = _loaded(name, space.time_steps, loading) if own is None else _one_of(found)
    steps = space.time_steps or (model.time_steps,)
    if space.calibrate:
        frames = model.time_steps if model.per_step else 0
        read(space.calibrate, model.preprocess, limit=1, split="train", frames=frames)
    return Subject(name, model, {number: _images(space, model, number) for number in steps}, found)


def _own_models(own: Own, time_steps: tuple[int, ...]) -> dict[int, Model | SpikdeployError]:
    """The models of the user's code by number of time steps, or why there is none; without `time_steps` of its own."""
    if not time_steps:
        model = own.model(None)
        return {model.time_steps: model}
    found: dict[int, Model | SpikdeployError] = {}
    for number in time_steps:
        try:
            found[number] = own.model(number)
        except (InputError, ModelError) as error:
            found[number] = error
    return found


def _one_of(found: Mapping[int, Model | SpikdeployError]) -> Model:
    """A model of those that there are; raises why there is none."""
    for model in found.values():
        if not isinstance(model, SpikdeployError):
            return model
    raise next(error for error in found.values() if isinstance(error, SpikdeployError))


def _loaded(name: str, time_steps: tuple[int, ...], loading: Mapping[str, Any]) -> Model:
    """The model for any number of steps that it can have: which others it cannot, its points say."""
    try:
        return load(name, **loading)
    except (InputError, ModelError):
        if not time_steps:
            raise
    for number in time_steps[:-1]:
        try:
            return load(name, time_steps=number, **loading)
        except (InputError, ModelError):
            continue
    return load(name, time_steps=time_steps[-1], **loading)


def _images(space: Space, model: Model, time_steps: int) -> ImageSet:
    """What a model of that many steps runs on, with its classes."""
    frames = time_steps if model.per_step else 0
    limit = space.limit or None
    images = read(space.input, model.preprocess, limit=limit, frames=frames, labels=space.labels or None)
    images = images.of_classes(model.labels, _classes(model))
    if not len(images):
        raise InputError("input", "there are no images", "Give at least one.")
    return images


def _classes(model: Model) -> int:
    """How many classes a model tells apart."""
    return model.graph.nodes[-1].shape[0] if isinstance(model, Imported) else model.config.num_classes


def _groups(subjects: list[Subject], missing: set[Point], crew: Pool) -> Iterator[Group]:
    """The missing points, those together that one run may serve; those of a model follow each other."""
    for subject in subjects:
        groups: dict[tuple[Any, ...], list[Point]] = {}
        for point in sorted(point for point in missing if point.model == subject.name):
            limits = load_profile(point.target).limits
            # recordings are cut into as many frames as there are steps: others are other images
            read = point.time_steps if subject.model.per_step else 0
            key = (point.weight_bits, point.granularity, point.rounding, limits, read)
            groups.setdefault(key, []).append(point)
        for points in groups.values():
            images = subject.images[points[0].time_steps]
            yield Group(tuple(points), found_anywhere(images) if crew.apart else images)


def _about(space: Space, subjects: list[Subject], loading: Mapping[str, Any]) -> dict[str, str]:
    """What decides the figures of all rows beside their settings, by name."""
    about = {
        "release": version("spikformer-deploy"),
        "input": space.input,
        "limit": str(space.limit or "none"),
        "labels": space.labels or "none",
        "calibrated on": space.calibrate or "as compile does it",
        "runtime": space.runtime,
        "loading": ", ".join(f"{name} {value}" for name, value in loading.items() if value) or "as it is",
    }
    for subject in subjects:
        if not subject.own:
            about[f"model {subject.name}"] = subject.model.sha256
        for steps, model in subject.own.items():
            # what cannot be of so many steps has rows, too: mended code is another model
            told = str(model) if isinstance(model, SpikdeployError) else fingerprint(model)
            about[f"model {subject.name} of {steps} steps"] = told
        for steps, images in subject.images.items():
            marks = np.zeros(0) if images.labels is None else images.labels
            read = f" of {steps} frames" if subject.model.per_step else ""
            about[f"images for {subject.name}{read}"] = digest([images.identity, marks])
    return about | {f"target {name}": digest(to_dict(load_profile(name))) for name in space.targets}
