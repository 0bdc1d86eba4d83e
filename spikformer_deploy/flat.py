"""Dataclasses to JSON and tensors, and back: what program files and the files of unfinished runs are made of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

LATER = "later"
"""Metadata of a field that came after the format: left out at its default, so that files of before stay as they are."""


def flat(value: Any, path: str, tensors: dict[str, NDArray[Any]]) -> Any:
    """Plain JSON for `value`; arrays go to `tensors` under their path, and leave {"tensor": path}."""
    if isinstance(value, np.ndarray):
        tensors[path] = value
        return {"tensor": path}
    if is_dataclass(value):
        written = [f for f in fields(value) if f.init and not _left_out(f, getattr(value, f.name))]
        kept = {f.name: flat(getattr(value, f.name), f"{path}.{f.name}", tensors) for f in written}
        return {"type": type(value).__name__, **kept}
    if isinstance(value, (tuple, list)):
        return [flat(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): flat(item, f"{path}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return value


def _left_out(field: Field[Any], value: Any) -> bool:
    return bool(field.metadata.get(LATER)) and value == field.default


def built(kind: Any, raw: Any, tensors: dict[str, NDArray[Any]]) -> Any:
    """A value of the annotated type `kind` from what flat wrote; ValueError or KeyError where it does not fit."""
    origin = get_origin(kind)
    if isinstance(raw, dict) and set(raw) == {"tensor"}:
        return tensors[raw["tensor"]]
    if origin in (Union, UnionType):
        if raw is None and NoneType in get_args(kind):
            return None
        named = {getattr(k, "__name__", ""): k for k in get_args(kind)}
        return built(named[raw["type"]], raw, tensors)
    if is_dataclass(kind):
        return _dataclass(kind, raw, tensors)
    if origin is tuple:
        inner = get_args(kind)
        kinds = [inner[0]] * len(raw) if inner[-1] is Ellipsis else inner
        return tuple(built(k, item, tensors) for k, item in zip(kinds, raw, strict=True))
    if origin is dict:
        return {key: built(get_args(kind)[1], item, tensors) for key, item in raw.items()}
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if kind in (int, float, str, bool) and type(raw) is kind:
        return raw
    raise ValueError(f"{raw!r} instead of {getattr(kind, '__name__', kind)}")


def _dataclass(kind: Any, raw: Any, tensors: dict[str, NDArray[Any]]) -> Any:
    hints = get_type_hints(kind)
    names = {f.name for f in fields(kind) if f.init}
    needed = {f.name for f in fields(kind) if f.init and not f.metadata.get(LATER)}
    if not needed <= set(raw) - {"type"} <= names or raw["type"] != kind.__name__:
        raise ValueError(f"fields {sorted(raw)} instead of those of {kind.__name__}")
    return kind(**{name: built(hints[name], raw[name], tensors) for name in names & set(raw)})


def checksum(structure: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    """sha256 over both."""
    state = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        state.update(f"{name}{array.dtype.str}{array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()
