"""The terminal: names come from files, and neither steer it nor mean anything to rich."""

from __future__ import annotations

from typing import IO, Any

from rich.console import Console
from rich.text import Text

from spikformer_deploy.base.errors import printable


class _PlainConsole(Console):
    """Shows every text as it stands, control characters as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """The command line says what follows; rich would end with the 1 of a failed check."""
        raise BrokenPipeError


def console(stream: IO[str], width: int | None = None) -> Console:
    """A console of rich that writes to `stream`; width: columns, None: those of the terminal."""
    return _PlainConsole(file=stream, width=width, markup=False, emoji=False)
