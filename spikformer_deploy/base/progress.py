"""How far long work is: the one callback that all of it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (done, total, note): units of work that are done, all of them, and a word on what comes next."""


def silent(done: int, total: int, note: str) -> None:
    """Nobody waits."""


_listeners: list[Callable[[str], None]] = []


def say_through(listener: Callable[[str], None]) -> None:
    """From now on, `listener` gets what nobody handed a callback down for: a word on work that comes unexpectedly."""
    _listeners.append(listener)


def say(note: str) -> None:
    """A word on such work, to whoever listens."""
    for listener in _listeners:
        listener(note)
