"""The command `sweep`: a design space on the command line, or in a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from spikformer_deploy.cli.models import factory_among
from spikformer_deploy.cli.options import (
    OBJECTIVES,
    RUNTIMES,
    SCHEDULES,
    as_json,
    factory_options,
    labels_option,
    limit_option,
)
from spikformer_deploy.cli.printing import print_json, print_line, print_notes, print_tables, progress_bar

if TYPE_CHECKING:
    from spikformer_deploy.space.axes import Space
    from spikformer_deploy.space.own import Own

BESIDE_A_FILE = ("models", "output", "budget", "workers", "scheduler", "allow_pickle", "as_json")
"""What may be given where a TOML file says the rest."""
ROUNDINGS = ("nearest", "calibrated")
GRANULARITIES = ("group", "tensor", "channel")


def words(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Words with commas between."""
    if value is None:
        return None
    found = tuple(word.strip() for word in value.split(","))
    if not all(found):
        raise click.BadParameter(f"'{value}' has an empty place between its commas")
    return found


def numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Whole numbers with commas between."""
    found = words(context, parameter, value)
    try:
        return None if found is None else tuple(map(int, found))
    except ValueError:
        raise click.BadParameter(f"'{value}' is no list of whole numbers, as 8,4,3") from None


def _axis(name: str, default: str, known: tuple[str, ...] = (), help: str = "") -> Any:
    """An option that takes several values."""
    listed = f"Of {', '.join(known)}. " if known else ""
    kind = numbers if name in ("--weight-bits", "--time-steps") else words
    shown = f"Default: {default}." if default else ""
    return click.option(name, callback=kind, metavar="A,B,...", help=f"{help}{listed}{shown}")


@click.command("sweep")
@click.argument("models", nargs=-1)
@click.option("--input", "data", help="Images, as of run; a TOML file says them itself.")
@_axis("--weight-bits", "8", help="2 to 8. ")
@_axis("--rounding", "nearest", ROUNDINGS)
@_axis("--time-steps", "each model's own")
@_axis("--granularity", "group", GRANULARITIES)
@_axis("--targets", "loihi2", help="Names or .toml files. ")
@_axis("--schedule", "spatial", SCHEDULES)
@_axis("--objective", "energy", OBJECTIVES)
@click.option("--calibrate", help="Images to calibrate on (as --input).")
@click.option("--runtime", type=click.Choice(RUNTIMES), help="As of run.  Default: lava.")
@labels_option
@limit_option
@click.option("--arch", help="Published size, where a checkpoint does not tell.")
@click.option("--heads", type=int, help="Attention heads, where a checkpoint does not tell.")
@click.option(
    "--levels", type=click.IntRange(1), help="Largest integer that integer neurons send, where no file tells."
)
@click.option(
    "--image-size",
    type=click.IntRange(1, 4096),
    metavar="PIXELS",
    help="Height and width of the images of an official checkpoint, where the file does not tell.",
)
@click.option("--dt", type=float, help="Seconds a time step, where a .nir does not tell.")
@click.option("--allow-pickle", is_flag=True, help="Load files that run code when loaded; only if you trust them.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Share the points out to N processes.")
@click.option("--scheduler", metavar="ADDRESS", help="Share them out to the workers of a Dask scheduler.")
@click.option("--budget", help='What a point must keep to: "energy<1mJ, accuracy>0.98", or ">=best-1%".')
@factory_options
@click.option("-o", "--output", default="sweep", show_default=True, help="A folder; what it has already is not run.")
@as_json
@click.pass_context
def sweep_command(
    context: click.Context,
    models: tuple[str, ...],
    data: str | None,
    output: str,
    workers: int | None,
    scheduler: str | None,
    allow_pickle: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Every setting against every other: compile MODELS in all ways, run them, and show which are worth having.

    Lists have commas between.  MODELS may be one TOML file that says it all.  Without MODELS: what --factory makes;
    its argument T or time_steps, where it has one, is given --time-steps.  Results land one by one in
    OUTPUT/results.jsonl; index.html shows the fronts.  An interrupted sweep goes on where it was.
    """
    factory = factory_among(" ".join(models) or None, options)
    from spikformer_deploy.report.sweep import PAGE, refusals, sweep_tables, write_sweep
    from spikformer_deploy.space.sweep import sweep_space

    space = _space(context, models if factory is None else factory[:1], data, options)
    own = {} if factory is None else _own(factory, space, allow_pickle)
    with progress_bar("sweep", as_json) as progress:
        swept = sweep_space(
            space,
            Path(output),
            own=own,
            workers=workers,
            scheduler=scheduler,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    print_notes(swept.notes)
    write_sweep(swept, Path(output))
    if as_json:
        print_json(swept.rows)
        return
    print_tables(sweep_tables(swept))
    for line in refusals(swept):
        print_line(line)
    print_line(f"wrote {Path(output) / PAGE}")


def _own(factory: tuple[str, tuple[str, ...], str | None], space: Space, allow_pickle: bool) -> dict[str, Own]:
    """What --factory makes, by the name that it has in the space."""
    from spikformer_deploy.space.own import of_factory

    name, arguments, weights = factory
    images = space.calibrate or None
    return {name: of_factory(name, arguments, weights, allow_pickle=allow_pickle, images=images)}


def _space(context: click.Context, models: tuple[str, ...], data: str | None, options: dict[str, Any]) -> Space:
    from spikformer_deploy.space.axes import read_space, space_of, with_budget

    files = [model for model in models if model.endswith(".toml")]
    if not files:
        if data is None:
            raise click.UsageError("Missing option '--input'.")
        return space_of(models=models, input=data, **options)
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    beside = [f"--{name.replace('_', '-')}" for name in given if name not in BESIDE_A_FILE]
    if len(models) > 1 or beside:
        more = ", ".join([*(model for model in models if model != files[0]), *beside])
        raise click.UsageError(f"{files[0]} says what is swept: leave {more.replace('--data', '--input')} out")
    return with_budget(read_space(files[0]), options["budget"])
