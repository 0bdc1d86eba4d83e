"""The commands: each parses, calls the API, and prints tables or JSON.

What a command needs is imported in it: `spikdeploy --help` loads neither numpy nor torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikformer_deploy.cli.installation import print_version
from spikformer_deploy.cli.models import default_name, made_model, own_graph
from spikformer_deploy.cli.options import (
    OBJECTIVES,
    SCHEDULES,
    as_json,
    exit_option,
    files_among,
    input_option,
    labels_option,
    limit_option,
    memory_option,
    model_options,
    output_path,
    runtime_option,
    task_option,
    timing_option,
    worker_options,
)
from spikformer_deploy.cli.printing import (
    json_text,
    print_facts,
    print_json,
    print_line,
    print_notes,
    print_step,
    print_tables,
    progress_bar,
)
from spikformer_deploy.cli.running import run_of, run_until_sure
from spikformer_deploy.cli.stream import frame_by_frame
from spikformer_deploy.executors.choose import DEVICES, EXECUTORS

if TYPE_CHECKING:
    from spikformer_deploy.converters.models import Model

CHECK_FAILED = 1
"""The exit code of a verification that found a difference: the input was good, and so was the run."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Compile trained Spikformers for neuromorphic chips, run them in exact integers, account for time and energy."""


@cli.command("compile")
@click.argument("model", required=False)
@click.option(
    "--target", default="loihi2", show_default=True, help="A target (see `spikdeploy targets`) or a .toml file."
)
@click.option(
    "--calibrate",
    "calibrate_on",
    help="Images to calibrate on (as --input of run): the first 64; for calibrated rounding up to 1,024.",
)
@click.option("--weight-bits", default=8, show_default=True, type=click.IntRange(2, 8))
@click.option("--layer-bits", help="A .toml file of weight bits by layer: a line each, as block.0.fc1 = 4.")
@click.option("--granularity", default="group", show_default=True, type=click.Choice(["group", "tensor", "channel"]))
@click.option(
    "--rounding",
    default="nearest",
    show_default=True,
    type=click.Choice(["nearest", "calibrated"]),
    help="calibrated: for few bits; weights are rounded together, by what reaches them on the calibration images.",
)
@click.option("--neuron", type=click.Choice(["programmable", "stock"]), help="Kind of the LIF; default: the target's.")
@click.option(
    "--objective",
    default="energy",
    show_default=True,
    type=click.Choice(OBJECTIVES),
    help="What the cut into cores is best in; tiles: as Intel's compiler cuts.",
)
@runtime_option
@click.option(
    "--schedule",
    default="spatial",
    show_default=True,
    type=click.Choice(SCHEDULES),
    help="token-serial: tokens stream through the blocks, in far fewer cores and longer steps.",
)
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Compare spikes with the model after each pass."
)
@click.option("--dump-ir", help="A folder that gets every stage as text.")
@click.option("-o", "--output", help="Program file; default: the model's name + .spk.")
@model_options
@as_json
def compile_command(
    model: str | None, target: str, layer_bits: str | None, output: str | None, as_json: bool, **options: Any
) -> None:
    """Compile MODEL to a program: a checkpoint, .nir, .onnx, .pt2, a .net of lava-dl, or a model in the box.
    Those are digits-v1, digits-v2, digits-levels, cifar10.

    The integers and the neurons of a .net are taken as they are.  Without MODEL: what --factory makes.
    """
    read = files_among(model, target, layer_bits, options["calibrate_on"], options["weights"])
    name = f"{default_name(model, options['factory'])}.spk" if output is None else output
    path = output_path(name, *read)
    own = own_graph(model, options, options["calibrate_on"])
    from spikformer_deploy.base.memory import peak_memory_mib
    from spikformer_deploy.pipeline.layer_bits import read_layer_bits
    from spikformer_deploy.pipeline.stages import compile_model
    from spikformer_deploy.report.tables import compile_summary, program_table

    options["layer_bits"] = read_layer_bits(layer_bits) if layer_bits else None
    report = None if as_json else print_step
    compiled = compile_model(own or str(model), target, report=report, **options)
    compiled.program.save(path)
    summary = compile_summary(compiled.program, str(path), compiled.seconds, peak_memory_mib())
    summary["stage_seconds"] = compiled.stages
    print_notes(compiled.notes)
    if as_json:
        print_json(summary)
    else:
        print_tables([program_table(f"{path}", summary)])


@cli.command("run")
@click.argument("program")
@input_option
@click.option("--backend", default="engine", show_default=True, type=click.Choice(list(EXECUTORS)))
@click.option("--device", default="cpu", show_default=True, type=click.Choice(DEVICES), help="Of the engine.")
@timing_option
@runtime_option
@limit_option
@task_option
@labels_option
@memory_option
@worker_options
@exit_option
@click.option("-o", "--output", help="Write the JSON to a file too.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run that had the same -o.")
@as_json
@frame_by_frame
def run_command(
    program: str,
    data: str,
    output: str | None,
    resume: bool,
    early_exit: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run PROGRAM on images: exact integers, accuracy, time and energy.

    With -o FILE what has been found so far is kept in FILE.partial, from which --resume goes on.
    """
    from spikformer_deploy.base.files import write_whole
    from spikformer_deploy.report.tables import run_tables

    if early_exit is not None:
        if resume:
            raise click.UsageError("--resume is not for --early-exit, which keeps no file of what it has found so far")
        run_until_sure(program, data, early_exit, output, as_json, options)
        return
    if resume and not output:
        raise click.UsageError("--resume needs the -o of the interrupted run")
    path = None
    unfinished = None
    if output is not None:
        path = output_path(output, *files_among(program, data, options["labels"]))
        unfinished = output_path(f"{output}.partial")
    result = run_of(program, data, as_json, unfinished=unfinished, resume=resume, **options)
    values = result.to_dict()
    if path and unfinished:
        write_whole(path, (json_text(values) + "\n").encode())
        # after the result is safe: without either file an interrupted run would begin anew
        unfinished.unlink(missing_ok=True)
    if as_json:
        print_json(values)
    else:
        print_tables(run_tables(result))


@cli.command("verify")
@click.argument("program")
@click.argument("model", required=False)
@input_option
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=("reference",),
    show_default=True,
    type=click.Choice([name for name in EXECUTORS if name != "engine"]),
    help="What the engine is compared with; may be given several times.",
)
@limit_option
@task_option
@labels_option
@worker_options
@model_options
@as_json
def verify_command(
    program: str,
    model: str | None,
    data: str,
    backends: tuple[str, ...],
    limit: int | None,
    labels: str | None,
    task: str | None,
    workers: int | None,
    scheduler: str | None,
    send_images: bool,
    as_json: bool,
    **loading: Any,
) -> None:
    """Compare PROGRAM with its float MODEL (or what --factory makes), layer by layer, and the engine with others.

    Spikes and membrane potentials of every LIF neuron and all logits must be equal.
    """
    from spikformer_deploy.converters.models import load
    from spikformer_deploy.inference.verify import verify
    from spikformer_deploy.pipeline.program import Program
    from spikformer_deploy.report.tables import verify_tables

    loaded: Model | None = own_graph(model, loading, data, needed=False)
    if loaded is not None:
        print_notes(loaded.notes)
    elif model:
        loaded = load(model, **loading)
    compiled = Program.load(program)
    options: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "send_images": send_images}
    options |= {"backends": backends, "limit": limit, "labels": labels, "task": task}
    with progress_bar("verify", as_json) as progress:
        verdict = verify(compiled, data, model=loaded, progress=progress, **options)
    print_notes(verdict.notes)
    if as_json:
        print_json(verdict.to_dict())
    else:
        print_tables(verify_tables(verdict))
    if not verdict.passed:
        sys.exit(CHECK_FAILED)


@cli.command("compare")
@click.argument("model", required=False)
@click.option("--targets", required=True, help="Targets or .toml files, with commas between: loihi2,kapoho_point.")
@input_option
@click.option("--calibrate", "calibrate_on", help="Images to calibrate on (as --input).")
@click.option("--objective", default="energy", show_default=True, type=click.Choice(OBJECTIVES))
@runtime_option
@limit_option
@labels_option
@model_options
@as_json
def compare_command(model: str | None, targets: str, data: str, as_json: bool, **options: Any) -> None:
    """MODEL (or what --factory makes) on several targets: cores, time, energy, or why it cannot run there."""
    from spikformer_deploy.inference.compare import compare
    from spikformer_deploy.report.tables import compare_table

    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    title = model or options["factory"]
    own = own_graph(model, options, data)
    if own is not None:
        print_notes(own.notes)
    with progress_bar("compare", as_json) as progress:
        rows = compare(own or str(model), names, data, progress=progress, **options)
    # all rows are of the same model, and those with figures of the same images
    notes = list(dict.fromkeys(note for row in rows for note in row.pop("notes")))
    print_notes(note for note in notes if own is None or note not in own.notes)
    if as_json:
        print_json({"model": title, "targets": rows, "notes": notes})
        return
    print_tables([compare_table(rows)])
    for row in rows:
        if "refused" in row:
            print_line(f"{row['target']}, {row['schedule']}: {row['refused']}")


@cli.command("energy")
@click.argument("model", required=False)
@input_option
@click.option(
    "--convention", "conventions", metavar="NAME", multiple=True, help="May be given several times; default: all."
)
@click.option("--by-layer", is_flag=True, help="A row for every place of the model, too; files hold these rows alone.")
@click.option("--csv", "csv_file", metavar="FILE", help="Write the table as CSV.")
@click.option("--latex", "latex_file", metavar="FILE", help="Write the table for a paper, with booktabs.")
@limit_option
@task_option
@labels_option
@model_options
@as_json
def energy_command(
    model: str | None,
    data: str,
    conventions: tuple[str, ...],
    by_layer: bool,
    csv_file: str | None,
    latex_file: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Operations and energy of MODEL as it is, in float, by the conventions of papers and tools; no chip, no compile.

    MODEL: everything that `compile` takes, or what --factory makes.  It runs on the images, and what it reads and
    computes is counted.
    """
    read = files_among(model, data, options["labels"], options["weights"])
    outputs = [name for name in (csv_file, latex_file) if name is not None]
    for number, name in enumerate(outputs):
        output_path(name, *read, *outputs[:number])
    own = made_model(model, options)
    from spikformer_deploy.inference.energy import energy
    from spikformer_deploy.report.energy import energy_tables, sentences, write_tables

    with progress_bar("energy", as_json) as progress:
        counted = energy(own or str(model), data, conventions=conventions, progress=progress, **options)
    print_notes(counted.notes)
    write_tables(counted.counts, counted.accounts, by_layer, csv_file=csv_file, latex_file=latex_file)
    if as_json:
        print_json(counted.to_dict())
        return
    print_tables(energy_tables(counted, by_layer))
    for sentence in sentences(counted):
        print_line(sentence)
    if outputs:
        print_line("wrote " + " and ".join(outputs))


@cli.command("export")
@click.argument("file", required=False)
@click.option(
    "--to",
    required=True,
    type=click.Choice(["lava", "netx", "nir", "onnx", "pt2"]),
    help="lava: a folder that runs with lava-nc only. netx: a .net for lava-dl, of what it can hold. "
    "nir: a float model, of what NIR can hold. onnx: standard operators, the integers of a program or a float model. "
    "pt2: torch.export, of a checkpoint.",
)
@click.option("-o", "--output", required=True)
@click.option("--input", "data", help="To lava: images (as --input of run); ten go along, with the spikes to expect.")
@model_options
def export_command(file: str | None, to: str, output: str, data: str | None, **loading: Any) -> None:
    """Write FILE, a program (lava, netx, onnx) or a float model (nir, onnx, pt2), in another form.

    Without FILE: what --factory makes, to nir or onnx.
    """
    path = Path(output) if to == "lava" else output_path(output, *files_among(file, loading["weights"]))
    own = own_graph(file, loading)
    if own is not None:
        print_notes(own.notes)
    from spikformer_deploy.pipeline.export import export

    export(own or str(file), to, path, data=data, **loading)
    print_line(f"wrote {output}")


@cli.command("inspect")
@click.argument("file", required=False)
@model_options
@as_json
def inspect_command(file: str | None, as_json: bool, **loading: Any) -> None:
    """Show what is in FILE: a program, a model or a hardware profile; without FILE: what --factory makes."""
    title = str(file or loading["factory"])
    own = own_graph(file, loading)
    from spikformer_deploy.cli.inspect import inspect_file, inspect_model

    tables, values = inspect_file(title, loading) if own is None else inspect_model(title, own)
    if as_json:
        print_json(values)
    else:
        print_tables(tables)
        print_notes(values.get("notes", ()))


@cli.command("train")
@click.argument("recipe")
@click.option("-o", "--output", help="Checkpoint; default: the recipe's.")
@as_json
def train_command(recipe: str, output: str | None, as_json: bool) -> None:
    """Train a Spikformer by a TOML RECIPE; an interrupted training goes on where it stopped.

    Several devices: torchrun --nproc-per-node N --no-python spikdeploy train RECIPE
    """
    from spikformer_deploy.training.supervised import train

    _trained(train, "train", recipe, output, as_json)


@cli.command("pretrain")
@click.argument("recipe")
@click.option("-o", "--output", help="Checkpoint; default: the recipe's.")
@as_json
def pretrain_command(recipe: str, output: str | None, as_json: bool) -> None:
    """Pre-train a V2 encoder by a TOML RECIPE without labels: patches are masked, and painted again."""
    from spikformer_deploy.training.pretrain import pretrain

    _trained(pretrain, "pretrain", recipe, output, as_json)


@cli.command("demo")
@click.option(
    "--model",
    default="digits-v2",
    show_default=True,
    type=click.Choice(["digits-v1", "digits-v2", "digits-levels", "cifar10"]),
)
@click.option("-o", "--output", default="report.html", show_default=True)
@as_json
def demo_command(model: str, output: str, as_json: bool) -> None:
    """The whole story: compile a bundled trained model, run it on real images, verify it, write the report."""
    from spikformer_deploy.cli.demo import demo

    with progress_bar("verify", as_json) as progress:
        result, tables = demo(model, output_path(output), None if as_json else print_step, progress)
    if as_json:
        print_json(result)
    else:
        print_tables(tables)
        print_line(f"wrote {output}")
    if not result["passed"]:
        sys.exit(CHECK_FAILED)


def _trained(train: Callable[..., dict[str, Any]], word: str, recipe: str, output: str | None, as_json: bool) -> None:
    """Train, and print what came of it."""
    if output is not None:
        output_path(output, *files_among(recipe))
    # torchrun starts this command several times: the first process speaks for all
    is_first = os.environ.get("RANK", "0") == "0"
    with progress_bar(word, as_json or not is_first) as progress:
        result = train(recipe, output, progress=progress)
    if is_first:
        print_facts(result, as_json, result["output"])
