"""How a function of the API refuses what it does not know, in the words of Python."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from spikformer_deploy.base.errors import InputError, SpikdeployError
from spikformer_deploy.base.words import meant

P = ParamSpec("P")
R = TypeVar("R")

OPTION = re.compile(r"(?<!\S)--([a-z][a-z-]*)(?![\w-]|[./]\w)")
"""A word of its own, and no part of a path."""
MODEL = "MODEL"
"""The place of errors of the command line's argument."""
PYTHON_NAMES = {
    "calibrate": "calibrate_on",
    "convention": "conventions",
    "input": "data",
    "backend": "backends",
    "target": "targets",
}
"""Options of the command line that have another name here; all others are spelled with underscores."""


class OptionError(InputError, TypeError):
    """An option that a function does not have, or has no use for with what else it is given.

    It is a TypeError too: that is what Python raises for a wrong keyword, and what callers catch.
    """


def named(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, with the same signature, whose errors name its own options.

    One that it does not have is refused with the nearest that it has; what the rooms say of `--time-steps` is said of
    `time_steps`.
    """
    known = inspect.signature(function).parameters

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                problem = f"unknown option '{name}'{meant(name, known)}"
                raise OptionError(function.__name__, problem, f"help(sd.{function.__name__}) lists them all.")
        try:
            return function(*args, **kwargs)
        except SpikdeployError as error:
            raise _in_python(error, known).with_traceback(error.__traceback__) from error.__cause__

    return checked


def _in_python(error: SpikdeployError, known: object) -> SpikdeployError:
    """The same error in which options have the names that the function gives them."""

    def word(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        name = name if name in known else PYTHON_NAMES.get(name, name)  # type: ignore[operator]
        return name if name in known else match[0]  # type: ignore[operator]

    place = MODEL.lower() if error.place == MODEL else error.place
    if place.startswith("--"):  # others are names and paths of the user's own
        place = OPTION.sub(word, place)
    return type(error)(place, *(OPTION.sub(word, text) for text in (error.problem, error.way_out)))
