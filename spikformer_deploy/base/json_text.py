"""JSON as every file and every output has it: NaN and infinity are neither written nor read.

What is for people and their scripts says null for a number that is not finite: there is no such number.
What we read again ourselves must not hold one.
"""

from __future__ import annotations

import json
import math
from typing import Any


def written(value: Any, *, indent: int | None = None, compact: bool = False, sort_keys: bool = False) -> str:
    """`value` as JSON; a float that is not finite becomes null."""
    separators = (",", ":") if compact else None
    # most values are finite: only others are walked through
    try:
        return json.dumps(value, indent=indent, separators=separators, sort_keys=sort_keys, allow_nan=False)
    except ValueError:
        finite = _finite(value)
        return json.dumps(finite, indent=indent, separators=separators, sort_keys=sort_keys, allow_nan=False)


def sealed(value: Any) -> str:
    """`value` as JSON for a file with a checksum: the same value, the same text.

    Raises ValueError for a float that is not finite.
    """
    return json.dumps(value, sort_keys=True, allow_nan=False)


def parsed(text: str | bytes, *, of_before: bool = False) -> Any:
    """The value of a JSON text.

    of_before  infinity is read as null, which is what we write of it: exports of before wrote it as it was
    Raises ValueError for text that is no JSON, is too deep, or holds NaN, infinity or a number beyond double precision.
    """
    try:
        return json.loads(text, parse_constant=_of_before if of_before else _refused, parse_float=_number)
    except RecursionError:
        raise ValueError("its tables are too deep") from None


def _finite(value: Any) -> Any:
    """The same value with None for every float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _of_before(word: str) -> float | None:
    return None if word == "Infinity" else _refused(word)


def _number(word: str) -> float:
    """A float of JSON; ValueError where it is beyond double precision: Python would read infinity."""
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{word[:20]} is too large for a number")
    return number
