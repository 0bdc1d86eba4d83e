"""A float model from any file that holds one, whatever its format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.words import check_positive, meant
from spikformer_deploy.converters.checkpoints import read as checkpoint
from spikformer_deploy.converters.checkpoints.read import BUNDLED, Loaded
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.kinds import Kind, kind_of

CHECKPOINTS = (Kind.CHECKPOINT, Kind.SAFETENSORS, Kind.TORCH, Kind.TORCHSCRIPT)
"""Kinds of files that hold weights, and no graph."""

Model: TypeAlias = Loaded | Imported
"""A module with its weights, that is traced, or a graph."""


def load(
    path: str | Path,
    *,
    arch: str | None = None,
    heads: int | None = None,
    levels: int | None = None,
    time_steps: int | None = None,
    dt: float | None = None,
    image_size: int | None = None,
    window: int | None = None,
    variables: int | None = None,
    allow_pickle: bool = False,
) -> Model:
    """The float model in a file, or a bundled one by name ("digits-v2").

    arch, heads, levels, time_steps  where an official checkpoint does not tell: "v1-4-384", 12, 4, 4
    image_size  pixels, of the (square) images of an official checkpoint, whose keys tell none
    window, variables  where an official checkpoint of a model on time series does not tell
    time_steps, dt  where a .nir, .pt2 or .onnx does not tell: T; where a .nir does not: the seconds of a step
    allow_pickle    load files that run code when loaded; only if you trust them
    Raises InputError for a file that cannot be read or is no model, ModelError for a model that is not supported.
    """
    check_positive(heads=heads, levels=levels, time_steps=time_steps, dt=dt, image_size=image_size)
    check_positive(window=window, variables=variables)
    if str(path) in BUNDLED:
        return checkpoint.load(path, heads=heads, levels=levels, time_steps=time_steps, image_size=image_size)
    kind = _kind_of(path)
    path = Path(path)
    if image_size is not None and kind not in CHECKPOINTS:
        problem = f"{path} is {kind.value}, and the option is for official checkpoints"
        raise InputError("--image-size", problem, "Leave it out.")
    # readers are imported where they are used: a format costs its own imports only
    match kind:
        case Kind.CHECKPOINT | Kind.SAFETENSORS | Kind.TORCH | Kind.TORCHSCRIPT:
            sizes = {
                "heads": heads,
                "levels": levels,
                "time_steps": time_steps,
                "image_size": image_size,
                "window": window,
                "variables": variables,
            }
            return checkpoint.load(path, arch=arch, allow_pickle=allow_pickle, **sizes)
        case Kind.NIR:
            from spikformer_deploy.converters.nir.read import read_model as read_nir

            return read_nir(path, time_steps=time_steps, dt=dt)
        case Kind.PT2:
            from spikformer_deploy.converters.pt2 import read_model as read_pt2

            return read_pt2(path, time_steps=time_steps, allow_pickle=allow_pickle)
        case Kind.ONNX:
            from spikformer_deploy.converters.onnx.read import read_model as read_onnx

            return read_onnx(path, time_steps=time_steps)
        case Kind.NETX:
            raise InputError(str(path), "it holds integers already, and no float model", "Compile it.")
        case Kind.PROGRAM:
            raise InputError(
                str(path),
                "it is a program already, not a model",
                "Run it: spikdeploy run, or sd.run and sd.Stream in Python.",
            )
        case _:
            raise InputError(str(path), f"it is {kind.value}, not a model", "Give a model.")


def is_netx(model: str | Path) -> bool:
    """Whether `model` is a .net file of lava-dl, whose integers are compiled as they are."""
    return str(model) not in BUNDLED and _kind_of(model) is Kind.NETX


def _kind_of(path: str | Path) -> Kind:
    """As kind_of; a bare word that is no file may have been meant for a bundled model."""
    word = str(path)
    if word and os.path.basename(word) == word and "." not in word and not os.path.lexists(word):
        problem = f"there is no such file, and no bundled model of that name{meant(word, BUNDLED)}"
        raise InputError(word, problem, f"Bundled models: {', '.join(BUNDLED)}.")
    return kind_of(Path(path))
