"""The models, programs and images that people pass, as the rooms take them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.options import OptionError
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.converters.factory import Made
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model, load
from spikformer_deploy.converters.own import graph_of
from spikformer_deploy.data.given import gathered, images_alone
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.read import read
from spikformer_deploy.inference.forward import evaluating
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.quantization.rounding import MOST_IMAGES
from spikformer_deploy.space.own import Own, of_loaded, of_module

AnyModel: TypeAlias = "str | Path | Model | Made | nn.Module"
Models: TypeAlias = "AnyModel | Sequence[AnyModel] | Mapping[str, AnyModel]"
OnePath: TypeAlias = "str | Path"
"""Of a sweep, which says itself why it takes no others."""
Data: TypeAlias = Any
"""A path or word, an array, a tensor, (images, labels), a Dataset or DataLoader, an ImageSet: see data/given.py."""

MOST_CALIBRATION = MOST_IMAGES
"""Images that a compile asks a Dataset or a DataLoader for: as many as it ever looks at."""
OF_FILES = "The option says what a file does not tell: leave it out."


def model_of(
    model: AnyModel, loading: dict[str, Any], time_steps: int | None = None, data: Data = None
) -> str | Path | Model:
    """What the compiler takes: a path or name, or a model that is loaded; a module of the user's own becomes a graph.

    loading     options of sd.load that say what a file does not: they are for paths and names alone
    time_steps  of the module, or for the file
    data        images that say which a module takes, where it does not say so itself
    Warns of what had to be assumed of a module.
    Raises OptionError for options without use, InputError for what is no model.
    """
    if isinstance(model, (str, Path)):
        return model
    own = isinstance(model, (nn.Module, Made))
    check_unused({**loading, "time_steps": None if own else time_steps}, "the model is no file")
    if isinstance(model, nn.Module):
        model = Made(model, type(model).__name__)
    if isinstance(model, Made):
        with evaluating(model.module):
            imported = graph_of(model, time_steps, data)
        for note in imported.notes:
            warnings.warn(note, stacklevel=4)
        return imported
    if not isinstance(model, (Loaded, Imported)):
        raise _no_model("model", model)
    return model


def models_by_name(models: Models, images: str | None = None) -> tuple[list[str], dict[str, Own]]:
    """What a sweep takes: the names of all models, which are paths of files, and by name those that no file holds.

    A module is called by its class, or as a mapping calls it.
    images  a file that tells which images a module takes, where it does not say so itself
    A module warns of what had to be assumed of it.  Raises InputError for what is no model, and for two of one name.
    """
    named: list[tuple[str, Any]]
    if isinstance(models, Mapping):
        named = [(_model_name(name, model), model) for name, model in models.items()]
    else:
        several = models if isinstance(models, (list, tuple)) else [models]
        named = [(_name_of(model), model) for model in several]
    own: dict[str, Own] = {}
    for name, model in named:
        if isinstance(model, (str, Path)):
            continue
        if [other for other, _ in named].count(name) > 1:
            way_out = f"Give names of yours: models={{'first {name}': ..., 'second {name}': ...}}."
            raise InputError("models", f"two are called {name}", way_out)
        if isinstance(model, Made):
            model = model.module
        own[name] = _warning(of_module(name, model, images)) if isinstance(model, nn.Module) else of_loaded(name, model)
    return [name for name, _ in named], own


def _warning(own: Own) -> Own:
    """The same model, which warns of what had to be assumed of it."""

    def model(time_steps: int | None) -> Model:
        found = own.model(time_steps)
        for note in found.notes:
            warnings.warn(note, stacklevel=2)
        return found

    return Own(model)


def _name_of(model: Any) -> str:
    """What a model of a sweep is called that nobody named."""
    if isinstance(model, (str, Path)):
        return str(model)
    if isinstance(model, Made):
        return model.place
    if isinstance(model, Loaded):
        return type(model.module).__name__
    if isinstance(model, Imported):
        return model.kind
    if isinstance(model, nn.Module):
        return type(model).__name__
    raise _no_model("models", model)


def _model_name(name: Any, model: Any) -> str:
    """A name of the user's for a model that no file holds."""
    if not isinstance(name, str) or not name:
        raise InputError("models", f"the name {name!r} is no word", "Name each module by a string.")
    if isinstance(model, (str, Path)):
        raise InputError(
            "models", f"'{name}' is a file, whose path is its name", "Give files in a list, without names."
        )
    _name_of(model)
    return name


def _no_model(option: str, given: Any) -> InputError:
    what = "a program already" if isinstance(given, Program) else f"a {type(given).__name__}"
    way_out = "Give a path, the name of a bundled model, a torch.nn.Module, or what sd.load returned."
    return InputError(option, f"it is {what}, and no model", way_out)


def checkpoint_of(model: AnyModel) -> Loaded:
    """The model of a checkpoint, which can be trained and saved again.  Raises InputError for any other."""
    loaded = load(model) if isinstance(model, (str, Path)) else model
    if not isinstance(loaded, Loaded):
        problem = f"it is {'a graph' if isinstance(loaded, Imported) else f'a {type(loaded).__name__}'}, no checkpoint"
        raise InputError("model", problem, "Give a checkpoint, or what sd.load returned of one.")
    return loaded


def labelled_of(loaded: Loaded, data: Data, split: str) -> ImageSet:
    """Images to train or to judge a model by; of what has splits those of `split`."""
    if isinstance(data, ImageSet):
        return data
    frames = loaded.time_steps if loaded.per_step else 0
    return read(gathered(data), loaded.preprocess, split=split, frames=frames)


def check_unused(options: dict[str, Any], why: str) -> None:
    """Raise OptionError where one of these options was given."""
    for name, value in options.items():
        if value is not None and value is not False:
            raise OptionError(name, why, OF_FILES)


def calibration_of(data: Data) -> Any:
    """Images to calibrate on: paths and words as they are, all else as an array."""
    if data is None:
        return None
    if isinstance(data, ImageSet):
        return data.pixels_in(slice(0, min(len(data), MOST_CALIBRATION)))
    return images_alone(gathered(data, MOST_CALIBRATION))


def images_of(program: Program, data: Data, limit: int | None, labels: str | Path | None, task: str | None) -> ImageSet:
    """The images of `data` for a program; a set of them as it is.

    Raises InputError for what cannot be read, OptionError for options that would change a set.
    """
    if isinstance(data, ImageSet):
        for name, value in (("limit", limit), ("labels", labels), ("task", task)):
            if value is not None:
                raise OptionError(name, "the images are a set that is read already", "Give it to what reads them.")
        return data
    given = gathered(data, limit)
    return read(given, program.preprocess, limit=limit, frames=program.frames, labels=labels, task=task)
