"""How far long work is: the one callback that all of it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (done, total, note): units of work that are done, all of them, and a word on what comes next."""


def silent(done: int, total: int, note: str) -> None:
    """Nobody waits."""
