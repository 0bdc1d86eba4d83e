"""The command `optimize`: from a trained model to one that costs less, with all that was tried."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.cli.options import as_json, input_option, model_options
from spikformer_deploy.cli.printing import print_json, print_line, print_notes, print_tables, progress_bar
from spikformer_deploy.cli.sweep import words

if TYPE_CHECKING:
    from spikformer_deploy.optimization.details import Asked

NAMES = {"input": "data"}
"""Of options, where they are others than their words."""
LOADING = ("arch", "heads", "levels", "time_steps", "image_size", "window", "variables", "dt", "allow_pickle")


def share_or_images(_context: click.Context, _parameter: click.Parameter, value: str) -> float | str:
    """0.1 is a share of the training images; all else names images."""
    try:
        return float(value)
    except ValueError:
        return value


def asked_in(
    context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, Asked] | tuple[None, None]:
    """A file and what it says; its options stand where the command line gives none."""
    if value is None:
        return None, None
    from spikformer_deploy.optimization.details import read_asked

    asked = read_asked(value)
    # a list is no word of a command line
    given = {name: said for name, said in asked.options.items() if name != "steps"}
    context.default_map = {NAMES.get(name, name): said for name, said in given.items()}
    return value, asked


@contextmanager
def naming(context: click.Context, file: str | None, asked: Asked | None) -> Iterator[None]:
    """Errors name options as the user gave them: on the command line, or in a file."""
    try:
        yield
    except InputError as error:
        name = error.place.removeprefix("--").replace("-", "_")
        parameter = NAMES.get(name, name)
        written = asked is not None and hasattr(asked, name)
        if written and context.get_parameter_source(parameter) is not ParameterSource.COMMANDLINE:
            raise InputError(f"{file}", f"{name}: {error.problem}", error.way_out) from None
        if parameter in context.params:
            raise InputError(f"--{name.replace('_', '-')}", error.problem, error.way_out) from None
        raise


@click.command("optimize")
@click.argument("model")
@input_option
@click.option(
    "--validation",
    required=True,
    callback=share_or_images,
    help="Images with labels that decide, none to report on; or a share of those of --input, as 0.1.",
)
@click.option("--target", default="loihi2", show_default=True, help="Its prices count; a name or a .toml file.")
@click.option("--max-drop", default=0.5, show_default=True, help="Points of accuracy that all steps together may lose.")
@click.option(
    "--steps", callback=words, metavar="A,B,...", help="Of steps, prune, stems, sparser, bits, exit. Default: all."
)
@click.option("--epochs", type=float, help="Of each stage of fine-tuning. Default: 2, and as many as make 600 batches.")
@click.option("--minutes", type=float, help="That fine-tuning may take. Default: until there is no more to try.")
@click.option("--seed", default=0, show_default=True, help="Of images, their order and augmentation.")
@click.option("-o", "--output", default="optimized", show_default=True, help="A folder; an equal call goes on there.")
@click.option(
    "--config",
    metavar="FILE",
    is_eager=True,
    callback=asked_in,
    help="A .toml whose [optimize] says these and details.",
)
@model_options
@as_json
@click.pass_context
def optimize_command(
    context: click.Context,
    model: str,
    data: str,
    validation: float | str,
    output: str,
    config: tuple[str, Asked] | tuple[None, None],
    as_json: bool,
    **options: Any,
) -> None:
    """Make MODEL cheaper on a target at nearly the same accuracy: fewer steps, channels, spikes, bits.

    MODEL is a checkpoint or a bundled model.  What is found is kept where the validation images say so.  OUTPUT gets
    program.spk, model.safetensors, before.html, after.html, and tried.csv with all that was tried.  Options win over
    what the file of --config says.
    """
    if options.pop("factory") or options.pop("arguments") or options.pop("weights"):
        raise click.UsageError("fine-tuning is of checkpoints: leave --factory, --arg and --weights out")
    from spikformer_deploy.api.optimization import optimize
    from spikformer_deploy.converters.checkpoints.read import Loaded
    from spikformer_deploy.converters.models import load
    from spikformer_deploy.optimization.optimize import MODEL, PROGRAM, STEPS
    from spikformer_deploy.report.optimize import AFTER, front_table, result_table, write_optimized

    asked = config[1]
    if asked is not None:
        options |= asdict(asked.details)
    if options["steps"] is None:
        steps = asked and asked.steps
        options["steps"] = STEPS if steps is None else steps
    with naming(context, *config), progress_bar("optimize", as_json) as progress:
        loaded = load(model, **{name: options.pop(name) for name in LOADING})
        if not isinstance(loaded, Loaded):
            raise InputError(model, "it is a graph, and fine-tuning is of checkpoints", "Give the checkpoint.")
        found = optimize(loaded, data, validation, folder=output, calibrate_on=data, progress=progress, **options)
    print_notes(found.notes)
    write_optimized(found, Path(output))
    if as_json:
        print_json(
            {
                "rows": [asdict(row) for row in found.rows],
                "front": found.front,
                "margin": found.exit.threshold if found.exit else None,
                "rounding": found.rounding,
            }
        )
        return
    print_tables([result_table(found), front_table(found)])
    folder = Path(output)
    settings = ("--target", options["target"], "--calibrate", data, "--rounding", found.rounding)
    print_line(f"the same program: {shlex.join(('spikdeploy', 'compile', str(folder / MODEL), *settings))}")
    if found.exit:
        running = ("spikdeploy", "run", str(folder / PROGRAM), "--early-exit", str(found.exit.threshold))
        print_line(f"early exit: {shlex.join(running)} --input IMAGES")
    print_line(f"wrote {folder / AFTER}")
