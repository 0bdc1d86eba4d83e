"""Which model a command means: MODEL, or what the user's own --factory makes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from spikformer_deploy.converters.factory import Made
    from spikformer_deploy.converters.imported import Imported

OF_FACTORY = ("factory", "arguments", "weights")
OF_FILES = ("arch", "heads", "levels", "image_size", "window", "variables", "dt")
"""Options, of those that all commands with a model share."""


def made_model(model: str | None, options: dict[str, Any], *, needed: bool = True) -> Made | None:
    """What --factory makes; None where there is none, and MODEL is meant.  The options of it leave `options`.

    needed  whether there must be one of the two
    Raises click.UsageError where both are given, or neither.
    """
    found = factory_among(model, options, needed=needed)
    if found is None:
        return None
    from spikformer_deploy.converters.factory import arguments_of, make

    factory, arguments, weights = found
    return make(factory, arguments_of(arguments), weights, allow_pickle=options.pop("allow_pickle"))


def factory_among(
    model: str | None, options: dict[str, Any], *, needed: bool = True
) -> tuple[str, tuple[str, ...], str | None] | None:
    """--factory, --arg and --weights, else as made_model.

    They leave `options`, and so do those that say what files do not tell.
    """
    factory, arguments, weights = (options.pop(name) for name in OF_FACTORY)
    if factory is None:
        if arguments or weights:
            raise click.UsageError("--arg and --weights are for --factory")
        if model is None and needed:
            raise click.UsageError("give MODEL, or --factory module:function for a model of your own")
        return None
    if model is not None:
        raise click.UsageError(f"--factory makes the model: leave '{model}' out")
    others = [f"--{name.replace('_', '-')}" for name in OF_FILES if options.pop(name, None) is not None]
    if others:
        raise click.UsageError(f"{', '.join(others)}: give such settings to your function, by --arg")
    return factory, arguments, weights


def own_graph(model: str | None, options: dict[str, Any], data: Any = None, *, needed: bool = True) -> Imported | None:
    """The float graph of what --factory makes; else as made_model.

    data  images that tell which the model takes, where it does not say so itself
    """
    made = made_model(model, options, needed=needed)
    if made is None:
        return None
    from spikformer_deploy.converters.own import graph_of

    return graph_of(made, options.pop("time_steps"), data)


def default_name(model: str | None, factory: str | None) -> str:
    """What the model is called, without folders and endings: "net" of a/net.pth, and of package.net:build."""
    if factory is not None:
        return factory.partition(":")[0].rpartition(".")[2]
    return Path(model or "").name.split(".")[0]
