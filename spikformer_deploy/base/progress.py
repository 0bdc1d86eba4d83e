"""How far long work is, said to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called with (done, total, note)."""


def silent(done: int, total: int, note: str) -> None:
    """Nobody waits."""
