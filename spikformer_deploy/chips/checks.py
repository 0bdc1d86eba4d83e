"""What is wrong with the tables of a profile: all of it at once, each problem with its path and line."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias, get_args, get_origin

import attrs
import cattrs

from spikformer_deploy.base.validation import problems, strict_converter
from spikformer_deploy.base.words import cut
from spikformer_deploy.chips.quantity import Quantity

WHOLE = ("tiles", "cores", "chips", "words", "neurons", "sets", "bits", "axons", "messages", "yes/no")
"""Units of what is counted."""
MOST_OF_ONE = {"bits": 64, "yes/no": 1, "tiles": 2**12, "chips": 2**16}
"""Larger numbers are of no chip that could be laid out here."""
MOST_COUNTED = 2**31
"""Of everything else that is counted: indices of 32 bits."""
LONGEST = 80
"""Characters of a key or a value that an error shows."""
MOST_WORDS = 300
"""Characters of what is said of a value."""

MOST_LISTED = 50
"""Problems that an error lists."""
IN_FILES = "in_files"
"""Metadata of a field: the key that a file has for it, where that is another."""

Path: TypeAlias = tuple[str, ...]
"""Keys from the top of the file: ("time", "synapse_conv", "unit")."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    path: Path
    words: str

    def shown(self, lines: Mapping[Path, int]) -> str:
        """The problem with its path, and with its line where `lines` has it or a table around it."""
        around = (self.path[:length] for length in range(len(self.path), 0, -1))
        line = next((lines[path] for path in around if path in lines), None)
        where = ".".join(("$", *(cut(key, LONGEST) for key in self.path)))
        return f"{self.words} @ {where}" + ("" if line is None else f" (line {line})")


def wrong_in(raw: Any, kind: type, path: Path = ()) -> Iterator[Problem]:
    """Everything for which the table `raw` is no `kind`, an attrs class of a profile."""
    if not isinstance(raw, dict):
        yield Problem(path, "no table")
        return
    known = attrs.fields_dict(attrs.resolve_types(kind))
    names = [attribute.metadata.get(IN_FILES, name) for name, attribute in known.items()]
    unknown = [str(key) for key in raw if key not in known]
    for place, key in enumerate(unknown):
        # looking for the nearest takes long, and no more than so many are listed
        yield Problem((*path, key), "unknown key" + (_nearest(key, names) if place < MOST_LISTED else ""))
    for name, attribute in known.items():
        if name in raw:
            yield from _wrong_value(raw, attribute, (*path, name))
        elif attribute.default is attrs.NOTHING:
            yield Problem((*path, name), "required field missing")


def most_of(unit: str) -> float:
    """The largest number that a field of this unit may have; infinite where only that of all numbers counts."""
    return MOST_OF_ONE.get(unit, MOST_COUNTED if unit in WHOLE else math.inf)


def lines_of(text: str) -> dict[Path, int]:
    """The line (from 1) of each table and each key of a TOML file; nothing of a file with texts of several lines."""
    if '"""' in text or "'''" in text:
        return {}
    found: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$", line):
            table = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            found.setdefault(table, number)
        elif key := re.match(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*=", line):
            found.setdefault((*table, key[1].strip("\"'")), number)
    return found


def _nearest(key: str, known: Iterable[str]) -> str:
    """The known key that is meant, if one is like it; else all of them."""
    close = difflib.get_close_matches(key[:LONGEST], known, 1)
    return f", the nearest is '{close[0]}'" if close else f"; known: {', '.join(known)}"


def _wrong_value(raw: Mapping[str, Any], attribute: attrs.Attribute[Any], path: Path) -> Iterator[Problem]:
    """What is wrong with the value of one field of the table `raw`."""
    kind, value = attribute.type, raw[attribute.name]
    if kind is Quantity:
        wrong = list(wrong_in(value, Quantity, path))
        yield from wrong
        yield from _wrong_number(value, {problem.path[len(path) :] for problem in wrong}, attribute, path)
    elif isinstance(kind, type) and attrs.has(kind):
        yield from wrong_in(value, kind, path)
    elif get_origin(kind) is dict:
        if not isinstance(value, dict):
            yield Problem(path, "no table")
            return
        for name, inner in value.items():
            yield from wrong_in(inner, get_args(kind)[1], (*path, name))
    else:
        yield from _wrong_leaf(raw, attribute, path)


def _wrong_leaf(raw: Mapping[str, Any], attribute: attrs.Attribute[Any], path: Path) -> Iterator[Problem]:
    """What is wrong with a text, a number or a range, by its type and then by the check of its field."""
    assert attribute.type is not None
    try:
        value = strict_converter().structure(raw[attribute.name], attribute.type)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        yield from (Problem(path, cut(words.removesuffix(" @ $"), MOST_WORDS)) for words in problems(error))
        return
    # a range is held against its value, which has a problem of its own where it is no number
    if attribute.validator is None or (attribute.name == "range" and type(raw.get("value")) not in (int, float)):
        return
    try:
        attribute.validator(SimpleNamespace(**raw), attribute, value)
    except ValueError as error:
        yield Problem(path, cut(str(error.args[0]), MOST_WORDS))


def _wrong_number(raw: Any, wrong: set[Path], attribute: attrs.Attribute[Any], path: Path) -> Iterator[Problem]:
    """What is wrong with a number as that of this field; wrong: keys of it that are wrong by themselves."""
    unit = attribute.metadata["unit"]
    if not wrong & {(), ("unit",)} and raw["unit"] != unit:
        yield Problem((*path, "unit"), f"unit '{raw['unit']}' instead of '{unit}'"[:LONGEST])
        return
    if wrong & {(), ("value",), ("range",)}:
        return
    value = float(raw["value"])
    low = (raw.get("range") or (value,))[0]
    if unit in WHOLE and not value.is_integer():
        yield Problem((*path, "value"), f"{value} is no whole number of {unit}")
    elif value > most_of(unit):
        yield Problem((*path, "value"), f"{value:g} {unit}, and at most {most_of(unit)} are possible")
    elif attribute.metadata["positive"] and not low:
        yield Problem(path, f"0 {unit}, and some are needed")
