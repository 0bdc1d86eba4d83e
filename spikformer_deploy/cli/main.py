"""The entry of the command line: it runs a command, and turns errors into messages and exit codes.

0 done, 1 a check failed, 2 bad input (one clear message, no traceback), 130 interrupted, 141 the reader of a pipe is
gone.
"""

from __future__ import annotations

import gc
import io
import sys
import warnings
from pathlib import Path

import click

from spikformer_deploy.base.errors import SpikdeployError
from spikformer_deploy.base.progress import say_through
from spikformer_deploy.cli.commands import CHECK_FAILED, cli
from spikformer_deploy.cli.installation import complete_files, completion_command, setup_command
from spikformer_deploy.cli.machine import machine_command
from spikformer_deploy.cli.optimize import optimize_command
from spikformer_deploy.cli.printing import print_error_line, print_notes
from spikformer_deploy.cli.random_checkpoint import random_checkpoint_command
from spikformer_deploy.cli.report import report_command
from spikformer_deploy.cli.streams import STDERR, STDOUT, open_streams, to_nowhere, writing_to_output
from spikformer_deploy.cli.sweep import sweep_command
from spikformer_deploy.cli.targets import targets_command

cli.add_command(sweep_command)
cli.add_command(optimize_command)
cli.add_command(machine_command)
cli.add_command(random_checkpoint_command)
cli.add_command(report_command)
cli.add_command(targets_command)
cli.add_command(completion_command)
cli.add_command(setup_command)
complete_files(cli)

PROGRAM = "spikdeploy"
"""What help calls it, however it was started."""
PACKAGE = Path(__file__).parents[1]
RARELY = 1000
"""Collections of the middle generation before old objects are looked at, 100 times as many as by default."""
BAD_INPUT = 2
INTERRUPTED = 128 + 2
READER_GONE = 128 + 13
"""The exit codes that a shell gives a command which SIGINT or SIGPIPE ends."""


def main() -> None:
    """Entry point of `spikdeploy`."""
    # what is imported stays: looking for garbage among all of it, as it grows, takes a sixth of a short run
    gc.set_threshold(*gc.get_threshold()[:2], RARELY)
    # data/files.py has a limit of its own, and says so in one message
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    open_streams()
    say_through(lambda note: print_notes([note]))
    warnings.showwarning = _show_warning
    try:
        code = _code()
    except BrokenPipeError:
        # the reader has what it wanted, as `head` has; what is left to say goes nowhere
        to_nowhere(STDOUT, STDERR)
        code = READER_GONE
    sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
    """What our functions warn of is a note of a command; Python's words have source lines, and names as they are."""
    ours = Path(filename).is_relative_to(PACKAGE)
    print_error_line(f"{'note' if ours else 'warning'}: {' '.join(str(message).splitlines())}")


def _code() -> int:
    """Run the command, and print what is wrong; returns the exit code."""
    try:
        code = _commanded()
        with writing_to_output():
            sys.stdout.flush()
        return code
    except SpikdeployError as error:
        print_notes(error.notes)
        print_error_line(f"error: {error}")
        return BAD_INPUT
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)
        print_error_line(message.getvalue().rstrip("\n"))
        return BAD_INPUT
    except (click.Abort, KeyboardInterrupt):
        print_error_line(
            "interrupted: no file is half-written; a run with -o goes on with --resume, a sweep with the same line"
        )
        return INTERRUPTED
    except BrokenPipeError:  # an OSError, too, but no mistake: `main` deals with it
        raise
    except OSError as error:  # a disk that is full, a folder that is gone meanwhile, a device that fails
        if error.errno is None:
            raise
        print_error_line(f"error: {error.filename or 'the system'}: {error.strerror}")
        return BAD_INPUT


def _commanded() -> int:
    """What the command ends with, where it ends by itself."""
    before = sys.stdout
    try:
        cli.main(prog_name=PROGRAM, standalone_mode=False)
    except SystemExit as end:
        if sys.stdout is not before:  # click wraps it where the reader is gone, and ends with the 1 of a failed check
            raise BrokenPipeError from None
        return end.code if isinstance(end.code, int) else CHECK_FAILED
    return 0


if __name__ == "__main__":
    main()
