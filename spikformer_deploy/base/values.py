"""What all values of the pipeline share: read-only arrays and a digest over content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAID = "said"
"""Metadata of a field that is only said of a value, and is no part of its digest."""
SAID_IF_SET = "said if set"
"""Metadata of a field that is no part of a digest where it has its default: those of values of before stay."""


def frozen(array: Any, dtype: Any = None) -> NDArray[Any]:
    """A read-only, C-contiguous copy-if-needed view of `array` (with `dtype`, where given).

    Raises ValueError for values that an integer `dtype` does not hold: a cast of numpy's would wrap them.
    """
    out = np.ascontiguousarray(array, dtype=dtype)
    if out.dtype.kind in "iu" and out.dtype != np.asarray(array).dtype and not np.array_equal(out, array):
        raise ValueError(f"values of type {np.asarray(array).dtype} that do not fit {out.dtype}")
    # the caller's own array stays writeable
    if out.flags.writeable:
        out = out.copy() if out is array else out
        out.setflags(write=False)
    return out


def digest(value: Any) -> str:
    """sha256 over the content of a value (dataclasses, tuples, mappings, arrays, scalars), as hex."""
    state = hashlib.sha256()
    for piece in _pieces(value):
        # with its length: else ("ab", "c") and ("a", "bc") would be the same
        state.update(len(piece).to_bytes(8, "little"))
        state.update(piece)
    return state.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    """The content of a value as bytes, with types and names, so that different values differ."""
    if isinstance(value, np.ndarray):
        yield f"{value.dtype.str}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.encode()
        for field in fields(value):
            kept = field.metadata.get(SAID_IF_SET)
            if field.metadata.get(SAID) or (kept and getattr(value, field.name) == field.default):
                continue
            yield field.name.encode()
            yield from _pieces(getattr(value, field.name))
    elif isinstance(value, Enum):
        yield repr(value.value).encode()
    elif isinstance(value, dict):
        yield f"dict{len(value)}".encode()
        for key in sorted(value):
            yield str(key).encode()
            yield from _pieces(value[key])
    elif isinstance(value, (tuple, list)):
        yield f"tuple{len(value)}".encode()
        for item in value:
            yield from _pieces(item)
    else:
        yield repr(value).encode()
