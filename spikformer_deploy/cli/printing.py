"""What the command line prints: results on standard output, everything else on standard error.

Libraries that draw are imported when something is drawn: `spikdeploy --help` needs none of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from spikformer_deploy.base.errors import printable
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.cli.streams import STDERR, to_nowhere, writing_to_output

if TYPE_CHECKING:
    from rich.table import Table

    from spikformer_deploy.pipeline.stages import Step

WIDE = 160
"""Columns of a table that goes to a file or a pipe."""
SECONDS_A_LINE = 30.0
"""Between two lines on how far work is, where no bar can be drawn."""


def print_error_line(text: str) -> None:
    """A line on standard error, where anybody reads it."""
    try:
        click.echo(printable(text), err=True)
        sys.stderr.flush()
    except OSError:
        to_nowhere(STDERR)


def print_notes(notes: Iterable[str]) -> None:
    """Notes go to standard error, with the control characters of names shown."""
    for note in notes:
        print_error_line(f"note: {note}")


def print_step(step: Step) -> None:
    """A stage of the compiler that is done, on standard error."""
    remark = f"  {step.remark}" if step.remark else ""
    print_error_line(f"{step.name:<10} [{step.number}/{step.of}] {step.seconds:7.2f} s{remark}")


@contextmanager
def progress_bar(word: str, quiet: bool) -> Iterator[Progress]:
    """A callback that moves a bar on standard error, or prints lines if that is no terminal; nothing where `quiet`."""
    if quiet:
        yield silent
        return
    from rich.progress import Progress as Bar
    from rich.progress import TextColumn

    from spikformer_deploy.report.terminal import console

    screen = console(sys.stderr)
    if not screen.is_terminal:
        yield progress_lines(word)
        return
    # the columns of rich, but the text as it stands: a name may look like markup
    text = TextColumn("{task.description}", markup=False)
    with Bar(text, *Bar.get_default_columns()[1:], console=screen, transient=True) as bar:
        task = bar.add_task(word, total=None)

        def progress(done: int, total: int, note: str) -> None:
            description = printable(f"{word}  {note}" if note else word)
            bar.update(task, completed=done, total=total, description=description)

        yield progress


def progress_lines(word: str, clock: Callable[[], float] = time.monotonic) -> Progress:
    """A callback that prints a line on standard error every SECONDS_A_LINE at most; clock: seconds."""
    last = clock()

    def progress(done: int, total: int, note: str) -> None:
        nonlocal last
        now = clock()
        if now - last >= SECONDS_A_LINE and total:
            last = now
            print_error_line(f"{word}  {100 * done // total} %" + (f"  {note}" if note else ""))

    return progress


def print_line(text: str) -> None:
    """A line on standard output."""
    with writing_to_output():
        click.echo(printable(text))


def print_json(values: Any) -> None:
    """Plain values as JSON on standard output."""
    print_line(json_text(values))


def json_text(values: Any) -> str:
    """Plain values as JSON, as standard output and files have it."""
    from spikformer_deploy.base.json_text import written

    return written(values, indent=2)


def print_tables(tables: Iterable[Table]) -> None:
    """Tables on standard output."""
    from spikformer_deploy.report.terminal import console

    # a pipe has no width: nothing is cut there
    out = console(sys.stdout, None if sys.stdout.isatty() else WIDE)
    with writing_to_output():
        for table in tables:
            out.print(table)


def print_facts(values: dict[str, Any], as_json: bool, title: str) -> None:
    """Names and values, as JSON or as one table."""
    from spikformer_deploy.report.tables import facts_table

    if as_json:
        print_json(values)
    else:
        print_tables([facts_table(title, values)])
