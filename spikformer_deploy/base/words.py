"""Words of messages: those that a user may have meant, and numbers of things."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown word: "; did you mean X?", or nothing where no known word is near."""
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def counted(number: int, thing: str) -> str:
    """A number of things: "1 chip", "1,152 chips"."""
    return f"{number:,} {thing}" + "s" * (number != 1)
