"""Runs with a bar and notes on standard error, as several commands have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikformer_deploy.cli.options import files_among, output_path
from spikformer_deploy.cli.printing import json_text, print_json, print_notes, print_tables, progress_bar

if TYPE_CHECKING:
    from spikformer_deploy.inference.exits import ExitRun
    from spikformer_deploy.inference.results import Run


def run_of(program: str, data: str, quiet: bool, **options: Any) -> Run:
    """Run a program file; quiet: without a bar."""
    from spikformer_deploy.inference.run import run
    from spikformer_deploy.pipeline.program import Program

    loaded = Program.load(program)
    with progress_bar("run", quiet) as progress:
        result = run(loaded, data, progress=progress, **options)
    print_notes(result.notes)
    return result


def early_run_of(program: str, data: str, margin: int, quiet: bool, **options: Any) -> ExitRun:
    """Run a program file with early exit; quiet: without a bar."""
    from spikformer_deploy.inference.exits import run_with_exit
    from spikformer_deploy.pipeline.program import Program

    loaded = Program.load(program)
    with progress_bar("early exit", quiet) as progress:
        return run_with_exit(loaded, data, margin, progress=progress, **options)


def run_until_sure(
    program: str, data: str, margin: int, output: str | None, as_json: bool, options: dict[str, Any]
) -> None:
    """`spikdeploy run --early-exit`: run, write the JSON where there is an `output`, and print.

    options  of inference.exits.run_with_exit
    """
    from spikformer_deploy.base.files import write_whole
    from spikformer_deploy.report.exits import exit_tables

    path = None if output is None else output_path(output, *files_among(program, data, options["labels"]))
    result = early_run_of(program, data, margin, as_json, **options)
    print_notes(result.notes)
    values = result.to_dict()
    if path is not None:
        write_whole(path, (json_text(values) + "\n").encode())
    if as_json:
        print_json(values)
    else:
        print_tables(exit_tables(result))
