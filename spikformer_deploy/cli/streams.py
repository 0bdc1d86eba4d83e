"""The standard streams: closed, full, or left by their reader, they end no work and get no file."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from spikformer_deploy.base.errors import InputError

STDIN, STDOUT, STDERR = range(3)


def open_streams() -> None:
    """Standard streams that the caller has closed lead nowhere; else the next file opened would get what is printed.

    A name that the terminal's encoding lacks is shown by escapes.
    """
    for descriptor, name in ((STDIN, "stdin"), (STDOUT, "stdout"), (STDERR, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            to_nowhere(descriptor)
            setattr(sys, name, open(descriptor, "r" if descriptor == STDIN else "w", closefd=False))  # noqa: SIM115
        elif descriptor != STDIN and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def to_nowhere(*descriptors: int) -> None:
    """Let what is written to these descriptors vanish."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        if descriptor != nowhere:
            os.dup2(nowhere, descriptor)
    # a new descriptor is the lowest that is free: where one of these was closed, it is that one, and stays open
    if nowhere not in descriptors:
        os.close(nowhere)


@contextmanager
def writing_to_output() -> Iterator[None]:
    """What the system says against standard output, as an InputError; a reader that is gone is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        to_nowhere(STDOUT)  # else Python complains at the end of what is left to print
        raise InputError("standard output", f"it cannot be written: {error.strerror}") from None
