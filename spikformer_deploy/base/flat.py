"""Dataclasses to JSON and tensors, and back: what program files and the files of unfinished runs are made of."""

from __future__ import annotations

import hashlib
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.json_text import sealed
from spikformer_deploy.base.plain import LARGEST_WHOLE, shown

LATER = "later"
"""Metadata of a field that came after the format: left out at its default, so that files of before stay as they are."""


def flat(value: Any, path: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """Plain JSON for `value`; arrays go to `tensors` under their path, and leave {"tensor": path}."""
    if isinstance(value, np.ndarray):
        tensors[path] = value
        return {"tensor": path}
    if is_dataclass(value):
        written = [f for f in fields(value) if f.init and not _left_out(f, getattr(value, f.name))]
        plain = {f.name: flat(getattr(value, f.name), f"{path}.{f.name}", tensors) for f in written}
        return {"type": type(value).__name__, **plain}
    if isinstance(value, (tuple, list)):
        return [flat(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): flat(item, f"{path}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    return value


def _left_out(field: Field[Any], value: Any) -> bool:
    return bool(field.metadata.get(LATER)) and value == field.default


def built(kind: Any, raw: Any, tensors: dict[str, NDArray[Any]], path: str) -> Any:
    """A value of the annotated type `kind` from what flat wrote; ValueError, naming `path`, where it does not fit."""
    origin = get_origin(kind)
    if origin is np.ndarray:
        return _array(kind, raw, tensors, path)
    if origin in (Union, UnionType):
        return _one_of(get_args(kind), raw, tensors, path)
    if is_dataclass(kind):
        return _dataclass(kind, raw, tensors, path)
    if origin is tuple and isinstance(raw, list):
        return _tuple(get_args(kind), raw, tensors, path)
    if origin is dict and isinstance(raw, dict):
        return {key: built(get_args(kind)[1], item, tensors, f"{path}.{key}") for key, item in raw.items()}
    if isinstance(kind, type) and issubclass(kind, Enum) and raw in [member.value for member in kind]:
        return kind(raw)
    if kind is float and type(raw) is int and abs(raw) < LARGEST_WHOLE:
        return float(raw)
    # not isinstance: Python takes True for an int
    if kind in (int, float, str, bool) and type(raw) is kind:
        return raw
    raise ValueError(f"{path}: {shown(raw)} instead of {getattr(kind, '__name__', kind)}")


def _one_of(kinds: tuple[Any, ...], raw: Any, tensors: dict[str, NDArray[Any]], path: str) -> Any:
    """A value of that one of several dataclasses whose name the value has, or None where that is one of them.

    Beside None an array may stand, too.
    """
    if raw is None and NoneType in kinds:
        return None
    arrays = [kind for kind in kinds if get_origin(kind) is np.ndarray]
    if arrays:
        return built(arrays[0], raw, tensors, path)
    by_name = {getattr(kind, "__name__", ""): kind for kind in kinds}
    word = raw.get("type") if isinstance(raw, dict) else None
    if not isinstance(word, str) or word not in by_name:
        raise ValueError(f"{path}.type: {shown(word)} is none of {', '.join(sorted(by_name))}")
    return built(by_name[word], raw, tensors, path)


def _tuple(inner: tuple[Any, ...], raw: list[Any], tensors: dict[str, NDArray[Any]], path: str) -> tuple[Any, ...]:
    """A tuple of some length and kind each (tuple[int, str]), or of any length and one kind (tuple[int, ...])."""
    kinds = [inner[0]] * len(raw) if inner[-1] is Ellipsis else inner
    if len(kinds) != len(raw):
        raise ValueError(f"{path}: {len(raw)} values instead of {len(kinds)}")
    numbered = enumerate(zip(kinds, raw, strict=True))
    return tuple(built(kind, item, tensors, f"{path}.{i}") for i, (kind, item) in numbered)


def _array(kind: Any, raw: Any, tensors: dict[str, NDArray[Any]], path: str) -> NDArray[Any]:
    """The tensor of this very place, of the type that NDArray[...] says: each stands under its own path."""
    if raw != {"tensor": path} or path not in tensors:
        raise ValueError(f"{path}: {shown(raw)} instead of the tensor of that name")
    # NDArray[np.int64] is ndarray[shape, dtype[int64]]
    (scalar,) = get_args(get_args(kind)[1])
    if not issubclass(tensors[path].dtype.type, scalar):
        raise ValueError(f"{path}: values of type {tensors[path].dtype} instead of {scalar.__name__}")
    return tensors[path]


def _dataclass(kind: Any, raw: Any, tensors: dict[str, NDArray[Any]], path: str) -> Any:
    """An instance of `kind`, all of whose fields are there and known."""
    hints = _hints(kind)
    names = {f.name for f in fields(kind) if f.init}
    needed = {f.name for f in fields(kind) if f.init and not f.metadata.get(LATER)}
    if not isinstance(raw, dict) or raw.get("type") != kind.__name__:
        raise ValueError(f"{path}: {shown(raw)} instead of a {kind.__name__}")
    present = set(raw) - {"type"}
    if not needed <= present <= names:
        wrong = sorted(needed - present) or sorted(present - names)
        raise ValueError(f"{path}: the fields of a {kind.__name__} lack or do not know {', '.join(wrong)}")
    return kind(**{name: built(hints[name], raw[name], tensors, f"{path}.{name}") for name in names & present})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def checksum(structure: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    """sha256 over both; ValueError for a float that is not finite."""
    state = hashlib.sha256(sealed(structure).encode())
    for name in sorted(tensors):
        array = tensors[name]
        state.update(f"{name}{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
