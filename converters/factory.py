"""A model of the user's own: their function makes the module, and a state_dict fills it.

This runs the user's code, from the current folder, and is done only where they ask for it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.base.files import check_file
from spikformer_deploy.converters.checkpoints.contents import read_contents
from spikformer_deploy.graph.source import of_library

SEED = 0
"""Of the weights of a module that no file fills: the same factory then makes the same model again."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""
SHOWN_KEYS = 4
"""Keys that an error lists, of all that are wrong."""
LONGEST_LITERAL = 2**12
"""Characters of an argument: no list of numbers that a person types is longer."""
LONGEST_PROBLEM = 300
"""Characters of the user's own error that are passed on."""
WORDS = {"true": True, "false": False, "none": None, "True": True, "False": False, "None": None}
QUOTED_OR_LISTED = ("[", "(", "{", "'", '"')
"""What begins so is no bare word."""
STANDARD_LIBRARY = sysconfig.get_path("stdlib")


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A module of the user's, in evaluation mode, and where it is from.

    place  "net:build"; notes: what was done to the keys of its weights
    """

    module: nn.Module
    place: str
    notes: tuple[str, ...] = ()


def make(
    factory: str,
    arguments: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    *,
    allow_pickle: bool = False,
) -> Made:
    """The module that `factory` makes, a function or a class "module:function" of the current folder or installed.

    arguments  of that function, by name
    weights    a state_dict, .pth or .safetensors, whose keys are exactly the module's; None: as the function made them
    Raises InputError for a module or function that is not there, arguments that are not its own, and files that cannot
    be read; ModelError where the user's code fails, makes no module, or has other weights than the file.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made = _called(factory, dict(arguments or {}))
    if not isinstance(made, nn.Module):
        raise ModelError(
            factory, f"it returns {described(made)}, and no torch.nn.Module", "Let it return the model alone."
        )
    if any(isinstance(layer, torch.jit.ScriptModule) for layer in made.modules()):
        way_out = "Let it return the model as it is before torch.jit.script."
        raise ModelError(factory, "it returns TorchScript, whose operators cannot be seen", way_out)
    module = made.cpu().eval()
    if weights is None:
        return Made(module, factory, (f"{factory}: without --weights, the weights are those that it makes",))
    notes = _fill(module, Path(weights), allow_pickle=allow_pickle)
    return Made(module, factory, notes)


def _called(factory: str, arguments: dict[str, Any]) -> Any:
    """What the function returns, whatever it is."""
    function = function_of(factory)
    _check_arguments(factory, function, arguments)
    # once more: importing the module may have drawn numbers, and does so only once
    torch.manual_seed(SEED)
    with theirs(factory, "it raises"):
        return function(**arguments)


# --- the user's code ---------------------------------------------------------------------------------------------


@contextmanager
def theirs(place: str, what: str) -> Iterator[None]:
    """Whatever the user's code raises, as a ModelError with its type, its message and their line of it.

    What it prints goes to standard error: standard output is for results.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise
    # their code may raise anything; an argument parser at the top of a script ends the program
    except BaseException as error:
        raise _raised(place, what, error) from error


def _raised(place: str, what: str, error: BaseException) -> ModelError:
    words = " ".join(str(error).split())[:LONGEST_PROBLEM]
    line = their_line(error)
    problem = f"{what} {type(error).__name__}{f': {words}' if words else ''}{f' ({line})' if line else ''}"
    return ModelError(place, problem)


def their_line(error: BaseException) -> str:
    """The innermost line of the user's own code that an exception came through, "net.py:12: x = ..."; "" for none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}: {(error.text or '').strip()}".rstrip(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _is_theirs(path: str) -> bool:
    library = of_library(path) or "-packages/" in path or path.startswith((STANDARD_LIBRARY, "<"))
    return not library and "/spikformer_deploy/" not in path


def function_of(factory: str) -> Callable[..., Any]:
    """The function or class that a factory names; a module that is there already is what it "makes".

    Raises InputError for what is not there or cannot be called, ModelError where importing the user's code fails.
    """
    name, _, function = factory.partition(":")
    as_module = name.removesuffix(".py").strip("./").replace("/", ".")
    if as_module != name or not all(part.isidentifier() for part in (*name.split("."), *function.split("."))):
        way_out = f"Write --factory {as_module or 'net'}:{function or 'build'}, of a module as in an import."
        raise InputError("--factory", f"'{factory}' is no module:function", way_out)
    module = _imported(factory, name)
    found: Any = module
    for part in function.split("."):
        found = getattr(found, part, None)
    if isinstance(found, nn.Module):
        model = found
        return lambda: model
    if not callable(found):
        known = ", ".join(sorted(_functions(module))[:SHOWN_KEYS]) or "none"
        problem = f"{name} has no function '{function}'" if found is None else f"it is of type {type(found).__name__}"
        raise InputError(factory, problem, f"Functions and classes of {name}: {known}.")
    return found


def _imported(factory: str, name: str) -> Any:
    """The module, from the current folder first, as `python -m` finds it."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        with redirect_stdout(sys.stderr), _without_triton():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # a module that their module imports may be missing as well: that is raised in their code
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _raised(factory, f"importing {name} raises", error) from error
        problem = f"there is no module '{error.name}', in the current folder or installed"
        raise InputError(factory, problem, "Give module:function, of module.py in the current folder.") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _raised(factory, f"importing {name} raises", error) from error


@contextmanager
def _without_triton() -> Iterator[None]:
    """No word of torch's that there is no Triton: operators that spikingjelly registers look for its kernels.

    That one message is left out, and everything else that is logged stays.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Triton not available")

    logger = logging.getLogger("torch._library.triton")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _functions(module: Any) -> list[str]:
    """What a module of the user's defines itself and can be called."""
    defined = [(name, value) for name, value in vars(module).items() if not name.startswith("_") and callable(value)]
    return [name for name, value in defined if getattr(value, "__module__", None) == module.__name__]


def _check_arguments(factory: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise InputError for arguments that a function has not, and for those that it needs."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # of a function in C: calling it says what is wrong
        return
    try:
        signature.bind(**arguments)
    except TypeError:
        parameters = signature.parameters.values()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        unknown = sorted(set(arguments) - {p.name for p in named})
        missing = [p.name for p in named if p.default is p.empty and p.name not in arguments]
        problems = [f"it has no argument {', '.join(unknown)}"] if unknown else []
        problems += [f"it needs {', '.join(missing)}"] if missing else []
        name = factory.partition(":")[2]
        way_out = f"It is {name}{signature}{f': give --arg {missing[0]}=...' if missing else '.'}"
        raise InputError(factory, " and ".join(problems), way_out) from None


def described(made: Any) -> str:
    """What a function returned in place of what it should, for a person."""
    if isinstance(made, type):
        return f"the class {made.__name__}"
    if made is None:
        return "nothing"
    if isinstance(made, (tuple, list)):
        return (
            f"a {type(made).__name__} of {len(made)} ({', '.join(type(part).__name__ for part in made[:SHOWN_KEYS])})"
        )
    return f"a {type(made).__name__}"


# --- its arguments -----------------------------------------------------------------------------------------------


def arguments_of(pairs: Iterable[str]) -> dict[str, Any]:
    """Arguments of a function from "name=value": whole and real numbers, true, false, none, strings, and lists of them.

    A word that is none of these is a string as it stands.  Raises InputError for anything else.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError("--arg", f"'{pair}' is no name=value", "Write --arg depth=4.")
        if name in arguments:
            raise InputError("--arg", f"{name} is given twice", "Give it once.")
        arguments[name] = _literal(name, text)
    return arguments


def _literal(name: str, text: str) -> Any:
    if text in WORDS:
        return WORDS[text]
    try:
        if len(text) > LONGEST_LITERAL:
            raise ValueError
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if len(text) <= LONGEST_LITERAL and not text.startswith(QUOTED_OR_LISTED):
            return text
        raise _no_literal(name, text) from None
    if not _is_plain(value):
        raise _no_literal(name, text)
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _no_literal(name: str, text: str) -> InputError:
    way_out = "Write a number, true, false, none, a string, or a list of them: [64, 128]."
    return InputError(f"--arg {name}", f"{text[:60]} cannot be read", way_out)


# --- its weights -------------------------------------------------------------------------------------------------


def _fill(module: nn.Module, path: Path, *, allow_pickle: bool) -> tuple[str, ...]:
    """Load the weights of a file into a module; what was done to their keys."""
    check_file(path, "Give a state_dict: .pth or .safetensors.")
    contents = read_contents(path, allow_pickle=allow_pickle)
    notes = [f"{path}: the state_dict is its '{contents.wrapper}'"] if contents.wrapper else []
    wanted = module.state_dict()
    tensors = contents.tensors
    for prefix in PREFIXES:
        if tensors.keys() != wanted.keys() and tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
            notes.append(f"{path}: '{prefix}' is taken off its keys")
    _check_keys(path, wanted, tensors)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:LONGEST_PROBLEM]
        raise ModelError(str(path), f"the model does not take its weights: {words}") from None
    return tuple(notes)


def _check_keys(path: Path, wanted: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError where a file has other keys than the module, or tensors of other shapes."""
    missing = sorted(set(wanted) - set(tensors))
    unexpected = sorted(set(tensors) - set(wanted))
    if missing or unexpected:
        problems = [f"{word} keys: {_few(keys)}" for word, keys in (("missing", missing), ("unexpected", unexpected))]
        problem = "; ".join(text for text, keys in zip(problems, (missing, unexpected), strict=True) if keys)
        raise ModelError(str(path), problem, "Its keys must be the model's: look at the arguments, --arg name=value.")
    for key, value in tensors.items():
        model_has = getattr(wanted[key], "shape", None)
        if model_has is not None and value.shape != model_has:
            problem = f"{key} is {tuple(value.shape)}, and the model's is {tuple(model_has)}"
            raise ModelError(str(path), problem, "Look at the arguments of the factory, --arg name=value.")


def _few(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS:,} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
