"""The command `report`: what a program does on images, as a page, and its tables and pictures as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikformer_deploy.cli.models import own_graph
from spikformer_deploy.cli.options import (
    exit_option,
    files_among,
    input_option,
    labels_option,
    limit_option,
    model_options,
    output_path,
    runtime_option,
    task_option,
    timing_option,
    worker_options,
)
from spikformer_deploy.cli.printing import json_text, print_json, print_line, print_notes, progress_bar
from spikformer_deploy.cli.running import early_run_of, run_of

if TYPE_CHECKING:
    from spikformer_deploy.converters.models import Model
    from spikformer_deploy.inference.results import Verdict

FOLDERS = ("csv", "tex", "figures")
"""Options that name a folder for files of that kind."""
OF_RUN = ("limit", "task", "labels", "timing", "runtime", "workers", "scheduler", "send_images")
OF_VERIFY = ("limit", "task", "labels", "workers", "scheduler", "send_images")
"""Options that go to the run, and to the comparison with a model; all others are of that model."""


@click.command("report")
@click.argument("program")
@input_option
@limit_option
@task_option
@labels_option
@click.option("-o", "--output", default="report.html", show_default=True)
@click.option("--title", help="Of the page; default: the model (by its recipe, or the program's file) and the target.")
@click.option("--model", metavar="MODEL", help="The float model: its accuracy, and spikes, beside the program's.")
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    help="Write the report as JSON too; without FILE: to standard output.",
)
@click.option("--csv", metavar="DIR", help="Write every table of the report as a CSV file.")
@click.option("--tex", metavar="DIR", help="Write every table for LaTeX, with booktabs.")
@click.option("--figures", metavar="DIR", help="Write every picture as an SVG file.")
@timing_option
@runtime_option
@worker_options
@exit_option
@click.option("--timeline", help="Write the first image's way through the chip, for Perfetto.")
@model_options
def report_command(
    program: str,
    data: str,
    output: str,
    title: str | None,
    model: str | None,
    json_file: str | None,
    timeline: str | None,
    early_exit: int | None,
    **options: Any,
) -> None:
    """Write the energy and sparsity report of PROGRAM on images: a page that works offline (docs/report.md).

    --csv, --tex and --figures may name the same folder.
    """
    from spikformer_deploy.base.files import write_whole
    from spikformer_deploy.inference.timeline import first_image
    from spikformer_deploy.report.data import report_data
    from spikformer_deploy.report.write import write_files, write_page, write_timeline

    quiet = json_file == "-"
    read = files_among(program, data, options["labels"], model, options["weights"])
    path = output_path(output, *read)
    if json_file is not None and not quiet:
        output_path(json_file, *read, output)
    if timeline is not None:
        output_path(timeline, *read, output, json_file or output)
    others = [*read, output, *(file for file in (json_file, timeline) if file)]
    folders = {name: _folder(name, options.pop(name), others) for name in FOLDERS}
    float_model = _loaded(model, data, {name: options[name] for name in options if name not in OF_RUN})
    verdict = None
    if float_model is not None:
        # first, as it refuses a model that is not the program's
        verdict = _compared(program, data, float_model, quiet, {name: options[name] for name in OF_VERIFY})
    of_run = {name: options[name] for name in OF_RUN}
    # it refuses what cannot leave early, before all steps run
    early = None if early_exit is None else early_run_of(program, data, early_exit, quiet, **of_run)
    result = run_of(program, data, quiet, **of_run)
    values = report_data(result, title=title, file=program, verdict=verdict, early=early)
    write_page(values, path)
    written = write_files(values, folders)
    if timeline:
        with progress_bar("timeline", quiet) as progress:
            write_timeline(first_image(result, progress), Path(timeline))
    if quiet:
        print_json(values)
        return
    if json_file:
        write_whole(Path(json_file), (json_text(values) + "\n").encode())
    print_line("wrote " + " and ".join([*(file for file in (output, json_file, timeline) if file), *written]))


def _folder(option: str, folder: str | None, others: Sequence[str]) -> Path | None:
    """A folder to write to.

    Raises InputError, before any work, where it cannot be made or written to, or one of `others` would be overwritten.
    """
    from spikformer_deploy.base.errors import InputError
    from spikformer_deploy.base.files import check_folder_output
    from spikformer_deploy.report.write import files_of

    if folder is None:
        return None
    if not folder:
        raise InputError(f"--{option}", "the name is empty", "Give the name of a folder.")
    taken = set(map(os.path.realpath, others))
    for file in (os.path.join(folder, name) for name in files_of(option)):
        if os.path.realpath(file) in taken:
            problem = f"--{option} writes to it, and the same command reads it or writes something else to it"
            raise InputError(file, problem, "Give another folder.")
    check_folder_output(Path(folder))
    return Path(folder)


def _loaded(model: str | None, data: str, options: dict[str, Any]) -> Model | None:
    """The float model that is meant; None where there is none."""
    own = own_graph(model, options, data, needed=False)
    if own is not None:
        print_notes(own.notes)
        return own
    if model is None:
        given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
        if given:
            raise click.UsageError(f"{', '.join(given)}: for --model")
        return None
    from spikformer_deploy.converters.models import load

    return load(model, **options)


def _compared(program: str, data: str, model: Model, quiet: bool, options: dict[str, Any]) -> Verdict:
    """The program beside its float model, on the same images."""
    from spikformer_deploy.inference.verify import verify
    from spikformer_deploy.pipeline.program import Program

    with progress_bar("float model", quiet) as progress:
        return verify(Program.load(program), data, model=model, backends=(), progress=progress, **options)
