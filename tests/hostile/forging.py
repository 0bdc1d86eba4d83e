"""Programs whose every field is forged in turn, each under a checksum that fits."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from spikformer_deploy.base.flat import checksum

ENTRY = "spikformer_deploy"
HOSTILE: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 7, 2**31, 2**53, 2**63, 2**70, -(2**62), 0.0, 0.5, -0.5, 1e9, 1e308, float("nan"), float("inf"),
    True, False, None, "", "x", "[/x]", [], [1, 1], {}, {"tensor": "x"},
)  # fmt: skip
"""In place of any plain value."""
FILLINGS = (0, 1, -1, 2, -128, 127, 2**23, 2**31, 2**62, -(2**62), -(2**63))
"""In place of the numbers of an array, as far as its type holds them."""

Forged = tuple[str, bytes]
"""(what was done, the file)"""


def opened(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(structure, tensors) of a program file."""
    size = int.from_bytes(content[:8], "little")
    structure = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][ENTRY])
    structure.pop("sha256")
    return structure, load(content)


def sealed(structure: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
    """The file with a checksum that fits; where no checksum can be made, any."""
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    try:
        told = checksum(structure, tensors)
    except ValueError:
        told = "0" * 64
    return save(tensors, {ENTRY: json.dumps({**structure, "sha256": told}, sort_keys=True)})


def forged_structures(content: bytes, section: str, rng: np.random.Generator, count: int) -> Iterator[Forged]:
    """Every kind of field of a section, at one of the places where it stands, with `count` hostile values."""
    structure, tensors = opened(content)
    for kind, paths in _kinds(structure, section).items():
        path = paths[int(rng.integers(len(paths)))]
        for what, change in _some(list(_changes(_at(structure, path))), rng, count):
            changed = copy.deepcopy(structure)
            _put(changed, path, change)
            if json.dumps(changed, sort_keys=True) != json.dumps(structure, sort_keys=True):
                yield f"{kind} at {'.'.join(map(str, path))}: {what}", sealed(changed, tensors)


def forged_arrays(content: bytes, rng: np.random.Generator, count: int) -> Iterator[Forged]:
    """Every kind of array, at one of its places, with `count` other numbers, shapes or types."""
    structure, tensors = opened(content)
    kinds: dict[str, list[str]] = {}
    for name in tensors:
        kinds.setdefault(re.sub(r"\.\d+\b", ".*", name), []).append(name)
    for names in kinds.values():
        name = names[int(rng.integers(len(names)))]
        for what, array in _some(list(_arrays(tensors[name], rng)), rng, count):
            yield f"{name}: {what}", sealed(structure, {**tensors, name: array})


def _some(changes: list[Any], rng: np.random.Generator, count: int) -> list[Any]:
    return [changes[i] for i in np.sort(rng.permutation(len(changes))[:count])]


def _kinds(structure: dict[str, Any], section: str) -> dict[str, list[tuple[Any, ...]]]:
    """Paths of all values of a section, by kind: numbers of list entries and names of quantities make no difference."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for path in _paths(structure[section], (section,)):
        words = ["*" if isinstance(key, int) else key for key in path]
        if section == "profile" and len(words) > 3:
            words[1:-1] = ["*", _at(structure, path[:3]).get("unit", "*") if len(words) == 4 else "*"]
        of = _at(structure, path[:-1])
        kind = of.get("type", "") if isinstance(of, dict) else ""
        found.setdefault(f"{'.'.join(words)} {kind}", []).append(path)
    return found


def _paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _changes(value: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """(what is done, the value it leaves) of one value."""
    for hostile in HOSTILE:
        yield f"{hostile!r}", lambda _, h=hostile: h
    if type(value) in (int, float):
        yield "one more", lambda v: v + 1
        yield "one less", lambda v: v - 1
        yield "negative", lambda v: -v
        yield "a thousand times", lambda v: v * 1000
    if isinstance(value, list) and value:
        yield "reversed", lambda v: v[::-1]
        yield "the first twice", lambda v: [v[0], *v]
        yield "without the last", lambda v: v[:-1]
    if isinstance(value, dict):
        yield "one field more", lambda v: {**v, "secret": 1}
        for key in value:
            yield f"without {key}", lambda v, k=key: {n: i for n, i in v.items() if n != k}


def _arrays(array: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    flat = array.reshape(-1)
    fillings = (*FILLINGS, *((np.nan, np.inf, -np.inf, 1e308) if array.dtype.kind == "f" else ()))
    for value in fillings:
        with np.errstate(all="ignore"):
            if array.dtype.kind == "i" and not np.iinfo(array.dtype).min <= value <= np.iinfo(array.dtype).max:
                continue
        yield f"all {value}", np.full_like(array, value)
        one = flat.copy()
        one[int(rng.integers(len(one)))] = value
        yield f"one {value}", one.reshape(array.shape)
    yield "reversed", flat[::-1].reshape(array.shape)
    yield "rows changed", np.roll(array, 1, 0)
    yield "one row less", array[:-1]
    yield "one row more", np.concatenate([array, array[:1]])
    yield "flat", flat
    yield "one axis more", array[None]
    yield "transposed", array.T
    for kind in (np.int8, np.int16, np.int64, np.uint8, np.float32, np.float64, np.bool_):
        if array.dtype != kind:
            yield f"as {kind.__name__}", array.astype(kind)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _put(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> None:
    of = _at(value, path[:-1])
    of[path[-1]] = change(of[path[-1]])
