"""Words and values that a user gave, and those that they may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

SHOWN = 80
"""Characters of a value that an error shows."""


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown word: "; did you mean X?", or nothing where no known word is near."""
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def shown(value: Any) -> str:
    """A value of a file as an error names it, which may be as large and as deep as it likes: of some, what they are."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > SHOWN:
        return f"a whole number of {value.bit_length():,} bits"
    return cut(repr(value))


def cut(text: str, most: int = SHOWN) -> str:
    """The text, or its beginning where it is longer."""
    return text if len(text) <= most else f"{text[:most]}..."
