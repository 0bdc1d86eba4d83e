"""Words of messages: those that a user may have meant, values that a user gave, and numbers of things."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from spikformer_deploy.base.errors import InputError

SHOWN = 80
"""Characters of a value that an error shows."""


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown word: "; did you mean X?", or nothing where no known word is near."""
    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def check_word(option: str, word: object, known: Iterable[str]) -> None:
    """Raise InputError where the word of an option is none that it knows."""
    words = list(known)
    if word not in words:
        raise InputError(option, f"'{word}' is none of {', '.join(words)}{meant(str(word), words)}")


def check_positive(**options: float | None) -> None:
    """Raise InputError for a number that is none above 0, by the name of its option; None: it is not given."""
    for name, value in options.items():
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')}", f"{value}, and it is above 0", "Give a larger one.")


def counted(number: int, thing: str) -> str:
    """A number of things: "1 chip", "1,152 chips"."""
    return f"{number:,} {thing}" + "s" * (number != 1)


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
