"""How a function of the API refuses what it does not know, or what is of another type, in the words of Python."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from spikformer_deploy.base.errors import InputError, SpikdeployError
from spikformer_deploy.base.words import meant

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type[Any])

OPTION = re.compile(r"(?<!\S)--([a-z][a-z-]*)(?![\w-]|[./]\w)")
"""A word of its own, and no part of a path."""
MODEL = "MODEL"
"""The place of errors of the command line's argument."""
CALLED = ("Progress",)
"""Names of types of functions."""
LONGEST_SHOWN = 60
"""Characters of a value that an error repeats."""
ALTERNATIVE = re.compile(r" \| (?![^\[]*\])")
SEQUENCE = re.compile(r"(?:Sequence|tuple)\[(.+?)(?:, \.\.\.)?\]")
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


KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "bool": ((bool, np.bool_), "True or False"),
    "str": (str, "a string"),
    "Path": (Path, "a path"),
    "None": (type(None), "None"),
}
"""What an annotation means: types, and words for a person."""


def named(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, with the same signature, whose errors name its own options.

    One that it does not have is refused with the nearest that it has, and so is a value of another type than those of
    its annotation, where that is made of KINDS; what the rooms say of `--time-steps` is said of `time_steps`.
    """
    signature = inspect.signature(function)
    known = {name: parameter for name, parameter in signature.parameters.items() if name != "self"}
    owner, _, last = function.__qualname__.rpartition(".")
    name_of_call = owner if last == "__init__" else function.__name__

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_known(name_of_call, kwargs, known)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise OptionError(name_of_call, f"{error}", _by_position(known)) from None
        for name, value in given.items():
            if name in known:
                _check_type(name, value, known[name].annotation)
        try:
            return function(*args, **kwargs)
        except SpikdeployError as error:
            raise _in_python(error, known).with_traceback(error.__traceback__) from error.__cause__

    return checked


def named_class(cls: C) -> C:
    """The same class, whose constructor is `named`."""
    cls.__init__ = named(cls.__init__)
    return cls


def check_known(call: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise OptionError, with the nearest that there is, for an option that a call does not have."""
    for name in given:
        if name not in known:
            raise OptionError(call, f"unknown option '{name}'{meant(name, known)}", f"help(sd.{call}) lists them all.")


def _by_position(known: Mapping[str, inspect.Parameter]) -> str:
    """Which arguments need no name."""
    bare = [name for name, parameter in known.items() if parameter.kind is not parameter.KEYWORD_ONLY]
    example = next((name for name in known if name not in bare), None)
    others = f", and all others by name, as {example}=..." if example else ""
    return f"Give {', '.join(bare)}{others}."


def _check_type(name: str, value: Any, annotation: Any) -> None:
    """Raise OptionError for a value of none of the types of an annotation; of those that are not KINDS all is taken."""
    parts = ALTERNATIVE.split(str(annotation))
    if not any(_is_of(value, part) for part in parts):
        shown = repr(value) if len(repr(value)) <= LONGEST_SHOWN else "it"
        words = " or ".join(_word(part) for part in parts if part != "None")
        raise OptionError(name, f"{shown} is a {type(value).__name__}", f"Give {words}.")


def _is_of(value: Any, part: str) -> bool:
    """Whether a value is of one type of an annotation."""
    if part in KINDS:
        return isinstance(value, KINDS[part][0]) and (part == "bool" or not isinstance(value, bool))
    if match := SEQUENCE.fullmatch(part):
        if isinstance(value, (str, bytes, Path)) or not isinstance(value, Iterable):
            return False
        items = value if isinstance(value, Collection) else ()
        return all(any(_is_of(item, inner) for inner in ALTERNATIVE.split(match[1])) for item in items)
    return callable(value) if part in CALLED or part.startswith("Callable[") else True


def _word(part: str) -> str:
    """A type of an annotation in words."""
    if match := SEQUENCE.fullmatch(part):
        return f"a list, each of them {' or '.join(map(_word, ALTERNATIVE.split(match[1])))}"
    return KINDS[part][1] if part in KINDS else "a function"


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
