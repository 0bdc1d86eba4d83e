"""Profiles as files: the TOML text of one, and the JSON schema by which editors check such files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import attrs

from spikformer_deploy.chips.checks import WHOLE, most_of
from spikformer_deploy.chips.profile import Energy, Profile, profile_names
from spikformer_deploy.chips.quantity import KINDS, LARGEST, Quantity

DRAFT = "https://json-schema.org/draft/2020-12/schema"
HEAD = f"""\
# Use it with:  spikdeploy compile MODEL --target ./THIS_FILE.toml
# Every number has a value, its unit (fixed for each number), a kind and a source in words;
# a range, [low, high], where it is not sure; calibrated_on: the case of benchmarks/silicon.py that it was fitted to.
# Kinds: {", ".join(KINDS)}.
"""
TEXT = {"type": "string", "pattern": r"\S"}
"""Of a JSON schema: a text that says something."""


def as_toml(profile: Profile) -> str:
    """The whole profile as a file that loads back to an equal one; comments say what sections and keys are."""
    plain = [f"{name} = {_text(getattr(profile, name))}\n" for name in ("name", "description", "corner")]
    parts = [HEAD + "\n" + "".join(plain)]
    for name, kind in _sections().items():
        section = getattr(profile, name)
        parts += [_comment(name, kind), *_tables(name, section)]
    parts.append(_comment("energy.CORNER", Energy))
    for corner, energy in profile.corners.items():
        parts += _tables(f"energy.{_key(corner)}", energy)
    return "\n".join(parts)


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a profile's file, from the fields and limits that profiles are validated by.

    Four laws are beyond it: a range holds its value, `corner` is one of `energy`, the cores fit a board, and a corner
    that the base of a file does not have needs all its numbers.
    """
    sections = _sections()
    tables = {name: _table(kind) for name, kind in sections.items()}
    tables["energy"] = {"type": "object", "additionalProperties": _table(Energy)}
    whole = {name: _all_of(kind) for name, kind in sections.items()}
    whole["energy"] = {"minProperties": 1, "additionalProperties": _all_of(Energy)}
    words = {"name": TEXT, "description": {"type": "string"}, "corner": {"type": "string"}}
    base = {"enum": list(profile_names()), "description": "The target whose numbers stand where the file has none."}
    return {
        "$schema": DRAFT,
        "title": "Hardware profile of spikformer_deploy",
        "type": "object",
        "properties": {**words, "base": base, **tables},
        "additionalProperties": False,
        "required": ["name"],
        "if": {"required": ["base"]},
        "else": {"required": [*words, *tables], "properties": whole},
    }


def _sections() -> dict[str, type]:
    """Name and class of the tables of a profile, but for the corners of its energies."""
    fields = attrs.fields(attrs.resolve_types(Profile))
    return {field.name: field.type for field in fields if field.type is not None and attrs.has(field.type)}


# --- TOML --------------------------------------------------------------------------------------------------------


def _comment(table: str, kind: type) -> str:
    return f"# [{table}] {(kind.__doc__ or '').splitlines()[0]}\n"


def _tables(path: str, section: Any) -> Iterator[str]:
    """A table for each number of a section."""
    for field in attrs.fields(type(section)):
        number: Quantity = getattr(section, field.name)
        lines = [f"[{path}.{field.name}]", f"value  = {_number(number.value)}"]
        lines += [f"{key:<6} = {_text(getattr(number, key))}" for key in ("unit", "kind", "source")]
        if number.range is not None:
            lines.append(f"range  = [{', '.join(map(_number, number.range))}]")
        if number.calibrated_on is not None:
            lines.append(f"calibrated_on = {_text(number.calibrated_on)}")
        yield "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _text(text: str) -> str:
    """A basic string of TOML: JSON's, where DEL is written out too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


# --- JSON schema -------------------------------------------------------------------------------------------------


def _table(kind: type) -> dict[str, Any]:
    """A section, any of its numbers left out."""
    properties = {field.name: _quantity(field) for field in attrs.fields(kind)}
    about = (kind.__doc__ or "").splitlines()[0]
    return {"type": "object", "description": about, "properties": properties, "additionalProperties": False}


def _all_of(kind: type) -> dict[str, Any]:
    """What a section needs besides, in a file without a base: all numbers."""
    names = [field.name for field in attrs.fields(kind)]
    return {"required": names, "properties": {name: {"required": ["value"]} for name in names}}


def _quantity(field: attrs.Attribute[Any]) -> dict[str, Any]:
    """A number of the unit of `field`; one without a value changes the rest of what its base says."""
    unit = field.metadata["unit"]
    number: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": LARGEST}
    if field.metadata["positive"]:
        number = {"type": "number", "exclusiveMinimum": 0, "maximum": LARGEST}
    value = {**number, "maximum": min(LARGEST, most_of(unit)), **({"multipleOf": 1} if unit in WHOLE else {})}
    known = {
        "value": value,
        "unit": {"const": unit},
        "kind": {"enum": list(KINDS)},
        "range": {"type": "array", "items": number, "minItems": 2, "maxItems": 2},
    }
    fields = attrs.fields(Quantity)
    needed = [of.name for of in fields if of.default is attrs.NOTHING and of.name != "value"]
    return {
        "type": "object",
        "properties": {of.name: known.get(of.name, TEXT) for of in fields},
        "additionalProperties": False,
        "dependentRequired": {"value": needed},
    }
