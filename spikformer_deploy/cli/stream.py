"""`spikdeploy run PROGRAM --stream`: a time step a frame, and a line a step."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.cli.printing import print_line, print_notes

PIPE = "-"
OF_STREAMS = ("program", "data", "limit", "as_json")
"""What of `run` a stream has a use for."""


def frame_by_frame(command: Callable[..., None]) -> Callable[..., None]:
    """`run` with the two options that make a stream of it."""

    @click.option(
        "--stream",
        is_flag=True,
        help="A time step a frame, a line a step: --input is a folder of frames, an .npy, or - for .npy on a pipe.",
    )
    @click.option(
        "--reset-every", type=click.IntRange(1), metavar="N", help="Of a stream: begin anew after every N frames."
    )
    @wraps(command)
    def either(stream: bool, reset_every: int | None, **options: Any) -> None:
        if stream:
            _check_options()
            stream_frames(options["program"], options["data"], options["limit"], reset_every, options["as_json"])
        elif reset_every is not None:
            raise click.UsageError("--reset-every is for --stream")
        else:
            command(**options)

    return either


def _check_options() -> None:
    """Raise click.UsageError for options of a whole run."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and name not in (*OF_STREAMS, "stream", "reset_every"):
            raise click.UsageError(f"{max(parameter.opts, key=len)} is not for --stream: it is of a whole run")


def stream_frames(program: str, data: str, limit: int | None, reset_every: int | None, as_json: bool) -> None:
    """Run frames as they come, and print a line after each: of JSON, or for a person.

    Raises InputError, with the number of the frame, where one cannot be used: the lines before stand.
    """
    if limit is not None and limit < 1:
        raise InputError("--limit", f"{limit} frames", "Give a number of at least 1.")
    from spikformer_deploy.base.json_text import written
    from spikformer_deploy.data.frames import frames_at, frames_of_pipe
    from spikformer_deploy.inference.stream import Stream

    stream = Stream(program)
    preprocess = stream.program.preprocess
    if data == PIPE:
        frames = frames_of_pipe(_standard_input(), preprocess)
    else:
        frames, notes = frames_at(Path(data), preprocess)
        print_notes(notes)
    number = 0
    for number, frame in enumerate(frames, 1):
        try:
            after = stream.step(frame.values)
        except InputError as error:
            raise InputError(frame.place, error.problem, error.way_out) from None
        if as_json:
            print_line(written({"frame": number, **after.to_dict()}, compact=True))
        else:
            name = after.class_name or str(after.prediction)
            counted = f"{after.synaptic_ops:,} synaptic operations"
            logit = f"logit {after.logits[after.prediction]:.4g}"
            print_line(f"frame {number}  step {after.step}  {name}  {logit}  {counted}")
        if number == limit:
            return
        if after.step == reset_every:
            stream.reset()
    if not number:
        raise InputError(data, "there are no frames", "Give at least one.")


def _standard_input() -> io.BufferedReader:
    """The bytes of standard input.  Raises InputError where a person would have to type them."""
    if sys.stdin.isatty():
        raise InputError(PIPE, "frames are read from standard input, and this is a terminal", "Pipe .npy frames in.")
    # of a pipe or a file it is that already
    assert isinstance(sys.stdin.buffer, io.BufferedReader)
    return sys.stdin.buffer
