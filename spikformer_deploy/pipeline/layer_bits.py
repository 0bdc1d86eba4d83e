"""Weight bits by layer: as a user writes them, and as a checkpoint says them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import text_of
from spikformer_deploy.base.words import shown
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.converters.models import Model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OPTION = "--layer-bits"
DEFAULT_BITS = 8
"""Of a weight, where nobody says anything."""


def read_layer_bits(path: str | Path) -> dict[str, int]:
    """The bits of a TOML file: a line a layer, as `block.0.fc1 = 4`; its dots may stand in quotes or not.

    Raises InputError for what is no such file.
    """
    try:
        raw = tomllib.loads(text_of(Path(path), "Write a line a layer: block.0.fc1 = 4."))
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"it is no readable TOML: {error}") from None
    found: dict[str, int] = {}
    for name, value in _flat(raw):
        if name in found:
            raise InputError(str(path), f"'{name}' stands twice", "Leave one of them.")
        if type(value) is not int:
            raise InputError(str(path), f"{name} = {shown(value)}, and bits are a whole number", "Write 2 to 8.")
        found[name] = value
    if not found:
        raise InputError(str(path), "it names no layer", "Write a line a layer: block.0.fc1 = 4.")
    return found


def _flat(raw: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Names with dots, and values: TOML makes tables of dots without quotes."""
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def bits_for(
    loaded: Model, weight_bits: int, asked: Mapping[str, int] | None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """(bits by layer, notes): what was asked for, else those that a checkpoint of ours was made for.

    A checkpoint's are left out where another number of bits was asked for all layers.
    Raises InputError where what was asked for is no table.
    """
    if asked is not None:
        if not isinstance(asked, Mapping):
            raise InputError(OPTION, f"{shown(asked)} is no table of bits by layer", "Name layers: {'head': 6}.")
        return {str(name): bits for name, bits in asked.items()}, ()
    own = loaded.layer_bits if isinstance(loaded, Loaded) else {}
    if not own:
        return {}, ()
    if weight_bits != DEFAULT_BITS:
        return {}, (f"the checkpoint was made for bits by layer: they give way to {weight_bits} bits for all",)
    fewest, most = min(own.values()), max(own.values())
    return dict(own), (f"the checkpoint says the bits of {len(own)} layers ({fewest} to {most}): they are used",)
