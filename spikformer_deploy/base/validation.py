"""Files that are validated as a whole: nothing is converted, and every problem is said with its path."""

from __future__ import annotations

import math
from functools import cache
from inspect import signature
from typing import Any, get_origin

import cattrs
import cattrs.v

from spikformer_deploy.base.plain import LARGEST_WHOLE
from spikformer_deploy.base.words import meant, shown

LARGEST_NUMBER = 1e300
"""Products of a few numbers of a file stay finite."""


@cache
def strict_converter() -> cattrs.Converter:
    """A converter from plain values that takes each as what it is: "3" is no number, and neither are true and NaN.

    A text is no list of its letters either.
    """
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, hook in ((float, _number), (int, _whole), (str, _word), (bool, _truth)):
        converter.register_structure_hook(kind, hook)
    of_items = converter.copy()
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) is tuple, lambda raw, kind: of_items.structure(_list(raw), kind)
    )
    return converter


def _number(raw: Any, _: type) -> float:
    if type(raw) not in (int, float) or abs(raw) > LARGEST_NUMBER or math.isnan(raw):
        raise ValueError(f"{shown(raw)} is no finite number")
    return float(raw)


def _whole(raw: Any, _: type) -> int:
    if type(raw) is not int or abs(raw) > LARGEST_WHOLE:
        raise ValueError(f"{shown(raw)} is no whole number of at most {LARGEST_WHOLE}")
    return raw


def _word(raw: Any, _: type) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{shown(raw)} is no text")
    return raw


def _list(raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise ValueError(f"{shown(raw)} is no list")
    return raw


def _truth(raw: Any, _: type) -> bool:
    if not isinstance(raw, bool):
        raise ValueError(f"{shown(raw)} is neither true nor false")
    return raw


def problems(error: BaseException) -> list[str]:
    """Every error of a structured file with its path; the checks of single values in their own words.

    An unknown key has the nearest that there is beside it.
    """

    def words(problem: BaseException, kind: type | None) -> str:
        if isinstance(problem, cattrs.ForbiddenExtraKeysError):
            known = signature(problem.cl).parameters
            extra = (f"{key}{meant(key, known)}" for key in sorted(problem.extra_fields))
            return f"extra fields found ({', '.join(extra)})"
        return str(problem.args[0]) if isinstance(problem, ValueError) and problem.args else default(problem, kind)

    default = cattrs.v.format_exception
    return cattrs.transform_error(error, format_exception=words)
