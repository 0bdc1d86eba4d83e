"""The command line: thin.  It parses, calls the API, prints tables with rich or JSON, and turns errors into exit codes.

0 done, 1 a check failed, 2 bad input (one clear message, no traceback), 130 interrupted, 141 the reader of a pipe is
gone.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from spikformer_deploy.base.errors import InputError, SpikdeployError, printable
from spikformer_deploy.base.formats import MOST_STEPS
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.executors.choose import DEVICES, EXECUTORS

WIDE = 160
READER_GONE = 128 + 13
"""The exit code that a shell gives a command which SIGPIPE ends."""


def main() -> None:
    """Entry point of `spikdeploy`."""
    # before torch is loaded: its threads wait for each other after every layer, and where other work shares the cores
    # those that wait busily keep the late one from running (7 times the time of a float pass)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # images.py has a limit of its own, and says so in one message
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")
    _open_streams()
    # Python's own words have the line of our source, and names as they are
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {' '.join(str(message).splitlines())}")
    try:
        code = _code()
    except BrokenPipeError:
        # whoever read has what they wanted, as `head` has; what is left to say goes nowhere
        _to_nowhere(1, 2)
        code = READER_GONE
    sys.exit(code)


def _code() -> int:
    """Run the command, and say what is wrong; its exit code."""
    try:
        code = _commanded()
        with _printing():
            sys.stdout.flush()
        return code
    except SpikdeployError as error:
        _say(f"error: {error}")
        return 2
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _say(shown.getvalue().rstrip("\n"))
        return 2
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted: no file is half-written; a run with -o goes on with --resume")
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:  # a disk that is full, a folder that is gone meanwhile, a device that fails
        if error.errno is None:
            raise
        _say(f"error: {error.filename or 'the system'}: {error.strerror}")
        return 2


def _commanded() -> int:
    """What the command ends with, where it ends by itself."""
    before = sys.stdout
    try:
        cli.main(standalone_mode=False)
    except SystemExit as end:
        if sys.stdout is not before:  # click wraps it where the reader is gone, and ends with the 1 of a failed check
            raise BrokenPipeError from None
        return end.code if isinstance(end.code, int) else 1
    return 0


@contextmanager
def _printing() -> Iterator[None]:
    """What the system says against standard output, as an InputError; a reader that is gone is no error."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _to_nowhere(1)  # else Python complains at the end of what is left to print
        raise InputError("standard output", f"it cannot be written: {error.strerror}") from None


def _open_streams() -> None:
    """Standard streams that the caller has closed lead nowhere; else the next file opened would get what is printed.

    A name that the terminal's encoding lacks is shown by escapes.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            _to_nowhere(descriptor)
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))  # noqa: SIM115
        elif descriptor and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _to_nowhere(*descriptors: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in descriptors:
        if descriptor != nowhere:
            os.dup2(nowhere, descriptor)
    if nowhere not in descriptors:
        os.close(nowhere)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spikformer-deploy")
def cli() -> None:
    """Compile trained Spikformers for neuromorphic chips, run them in exact integers, account for time and energy."""


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else there.")
input_option = click.option(
    "--input",
    "data",
    required=True,
    help="Folder or zip of images, .npz, .npy, idx, CIFAR .bin or .tar.gz, tonic:NAME:FOLDER, digits or drawn.",
)
timing_option = click.option(
    "--timing",
    default="estimate",
    show_default=True,
    type=click.Choice(["cycle", "estimate", "none"]),
    help="cycle: the first images message by message, besides the closed form.",
)
labels_option = click.option(
    "--labels", metavar="FILE", help="Classes of the images of a folder or zip: lines of `file or folder,class`."
)
limit_option = click.option("--limit", type=int, help="Use at most so many images.")


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """1500MiB, 2GiB or plain bytes."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"'{value}' is no size; give 2GiB or 800MiB")
    return int(float(match[1]) * 2 ** (10 * " KMGT".index(match[2].upper() or " ")))


memory_option = click.option(
    "--memory-limit", callback=_bytes, metavar="SIZE", help="What the process may take, 2GiB; batches are cut to fit."
)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that tell what an official checkpoint does not."""
    for option in (
        click.option("--arch", help="Published size, v1-4-384, where the file does not tell."),
        click.option("--heads", type=int, help="Attention heads, where the file does not tell."),
        click.option(
            "--time-steps", type=click.IntRange(1, MOST_STEPS), help="Time steps T, where the file does not tell."
        ),
        click.option("--dt", type=float, help="Seconds a time step, where a .nir does not tell."),
        click.option(
            "--allow-pickle", is_flag=True, help="Load files that run code when loaded; only if you trust them."
        ),
    ):
        command = option(command)
    return command


# --- commands ---------------------------------------------------------------------------------------------------


@cli.command("compile")
@click.argument("model")
@click.option(
    "--target", default="loihi2", show_default=True, help="A target (see `spikdeploy targets`) or a .toml file."
)
@click.option("--calibrate", "calibrate_on", help="Images to calibrate on (as --input of run).")
@click.option("--weight-bits", default=8, show_default=True, type=click.IntRange(2, 8))
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
    type=click.Choice(["energy", "latency", "cores", "tiles"]),
    help="What the cut into cores is best in; tiles: as Intel's compiler cuts.",
)
@click.option(
    "--schedule",
    default="spatial",
    show_default=True,
    type=click.Choice(["spatial", "token-serial"]),
    help="token-serial: tokens stream through the blocks, in far fewer cores and longer steps.",
)
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Compare spikes with the model after each pass."
)
@click.option("--dump-ir", help="A folder that gets every stage as text.")
@click.option("-o", "--output", help="Program file; default: the model's name + .spk.")
@model_options
@as_json
def compile_command(model: str, target: str, output: str | None, as_json: bool, **options: Any) -> None:
    """Compile MODEL (a checkpoint, .nir, .onnx, .pt2, a .net of lava-dl, digits-v1, digits-v2, cifar10) to a program.

    The integers and the neurons of a .net are taken as they are.
    """
    name = f"{Path(model).name.split('.')[0]}.spk" if output is None else output
    path = _output(name, *_files(model, target, options["calibrate_on"]))
    from spikformer_deploy.base.memory import peak_memory_mib
    from spikformer_deploy.pipeline.stages import compile_model
    from spikformer_deploy.report.tables import compile_summary

    report = None if as_json else _print_step
    compiled = compile_model(model, target, report=report, **options)
    compiled.program.save(path)
    summary = compile_summary(compiled.program, str(path), compiled.seconds, peak_memory_mib())
    summary["stage_seconds"] = compiled.stages
    _tell(compiled.notes)
    _show(summary, as_json, f"{path}")


@cli.command("run")
@click.argument("program")
@input_option
@click.option("--backend", default="engine", show_default=True, type=click.Choice(list(EXECUTORS)))
@click.option("--device", default="cpu", show_default=True, type=click.Choice(DEVICES), help="Of the engine.")
@timing_option
@limit_option
@labels_option
@memory_option
@click.option("-o", "--output", help="Write the JSON to a file too.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run that had the same -o.")
@as_json
def run_command(program: str, data: str, output: str | None, resume: bool, as_json: bool, **options: Any) -> None:
    """Run PROGRAM on images: exact integers, accuracy, time and energy.

    With -o FILE what has been found so far is kept in FILE.partial, from which --resume goes on.
    """
    from spikformer_deploy.base.files import write_whole
    from spikformer_deploy.report.tables import run_tables

    if resume and not output:
        raise click.UsageError("--resume needs the -o of the interrupted run")
    path = _output(output, *_files(program, data, options["labels"])) if output is not None else None
    unfinished = _output(f"{output}.partial") if path else None
    result = _run(program, data, as_json, unfinished=unfinished, resume=resume, **options)
    values = result.to_dict()
    if path and unfinished:
        write_whole(path, (_json(values) + "\n").encode())
        unfinished.unlink(missing_ok=True)
    if as_json:
        _print_json(values)
    else:
        _print_tables(run_tables(result))


@cli.command("report")
@click.argument("program")
@input_option
@limit_option
@labels_option
@click.option("-o", "--output", default="report.html", show_default=True)
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    help="Write the report as JSON too; alone: to standard output.",
)
@timing_option
@click.option("--timeline", help="Write the first image's way through the chip, for Perfetto.")
def report_command(
    program: str, data: str, output: str, json_file: str | None, timeline: str | None, **options: Any
) -> None:
    """Write the energy and sparsity report of PROGRAM on images."""
    from spikformer_deploy.base.files import write_whole
    from spikformer_deploy.report import report_data, write_report, write_timeline

    quiet = json_file == "-"
    read = _files(program, data, options["labels"])
    path = _output(output, *read)
    if json_file is not None and not quiet:
        _output(json_file, *read, output)
    if timeline is not None:
        _output(timeline, *read, output, json_file or output)
    result = _run(program, data, quiet, **options)
    write_report(result, path)
    if timeline:
        with _progress("timeline", quiet) as advance:
            write_timeline(result, Path(timeline), advance)
    if quiet:
        _print_json(report_data(result))
        return
    if json_file:
        write_whole(Path(json_file), (_json(report_data(result)) + "\n").encode())
    _print("wrote " + " and ".join(file for file in (output, json_file, timeline) if file))


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
@labels_option
@model_options
@as_json
def verify_command(
    program: str,
    model: str | None,
    data: str,
    backends: tuple[str, ...],
    limit: int | None,
    labels: str | None,
    as_json: bool,
    **loading: Any,
) -> None:
    """Compare PROGRAM with its float MODEL, layer by layer, and the engine with other executors.

    Spikes and membrane potentials of every LIF neuron and all logits must be equal.
    """
    from spikformer_deploy.converters.models import load
    from spikformer_deploy.inference.verify import verify
    from spikformer_deploy.pipeline.program import Program
    from spikformer_deploy.report.tables import verify_tables

    loaded = load(model, **loading) if model else None
    compiled = Program.load(program)
    with _progress("verify", as_json) as advance:
        verdict = verify(compiled, data, model=loaded, backends=backends, limit=limit, labels=labels, progress=advance)
    _tell(verdict.notes)
    if as_json:
        _print_json(verdict.to_dict())
    else:
        _print_tables(verify_tables(verdict))
    if not verdict.passed:
        sys.exit(1)


@cli.command("compare")
@click.argument("model")
@click.option("--targets", required=True, help="Targets or .toml files, with commas between: loihi2,kapoho_point.")
@input_option
@click.option("--calibrate", "calibrate_on", help="Images to calibrate on (as --input).")
@click.option(
    "--objective", default="energy", show_default=True, type=click.Choice(["energy", "latency", "cores", "tiles"])
)
@limit_option
@labels_option
@model_options
@as_json
def compare_command(model: str, targets: str, data: str, as_json: bool, **options: Any) -> None:
    """MODEL on several targets side by side: cores, time, energy, or why it cannot run there."""
    from spikformer_deploy.inference.compare import compare
    from spikformer_deploy.report.tables import compare_table

    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    with _progress("compare", as_json) as advance:
        rows = compare(model, names, data, progress=advance, **options)
    # all rows are of the same images
    notes: list[str] = next(iter([row.pop("notes") for row in rows if "notes" in row]), [])
    _tell(notes)
    if as_json:
        _print_json({"model": model, "targets": rows, "notes": notes})
        return
    _print_tables([compare_table(rows)])
    for row in rows:
        if "refused" in row:
            _print(f"{row['target']}, {row['schedule']}: {row['refused']}")


@cli.command("export")
@click.argument("file")
@click.option(
    "--to",
    required=True,
    type=click.Choice(["lava", "netx", "nir", "onnx", "pt2"]),
    help="lava: a folder that runs with lava-nc alone. netx: a .net for lava-dl, of what it can hold. "
    "nir: a float model, of what NIR can hold. onnx: standard operators, the integers of a program or a float model. "
    "pt2: torch.export, of a checkpoint.",
)
@click.option("-o", "--output", required=True)
@model_options
def export_command(file: str, to: str, output: str, **loading: Any) -> None:
    """Write FILE, a program (lava, netx, onnx) or a float model (nir, onnx, pt2), in another form."""
    from spikformer_deploy.pipeline.export import export

    export(file, to, Path(output) if to == "lava" else _output(output, *_files(file)), **loading)
    _print(f"wrote {output}")


@cli.command("inspect")
@click.argument("file")
@model_options
@as_json
def inspect_command(file: str, as_json: bool, **loading: Any) -> None:
    """Show what is in FILE: a program, a model or a hardware profile."""
    from spikformer_deploy.report.inspect import inspect_file

    tables, values = inspect_file(file, loading)
    if as_json:
        _print_json(values)
    else:
        _print_tables(tables)


@cli.command("targets")
@click.argument("name", required=False)
@as_json
def targets_command(name: str | None, as_json: bool) -> None:
    """List the targets, or every number of target NAME with its kind and source."""
    from spikformer_deploy.report.targets import target_tables

    tables, values = target_tables(name)
    if as_json:
        _print_json(values)
    else:
        _print_tables(tables)


@cli.command("train")
@click.argument("recipe")
@click.option("-o", "--output", help="Checkpoint; default: the recipe's.")
@as_json
def train_command(recipe: str, output: str | None, as_json: bool) -> None:
    """Train a Spikformer by a TOML RECIPE; an interrupted training goes on where it stopped.

    Several devices: torchrun --nproc-per-node N --no-python spikdeploy train RECIPE
    """
    from spikformer_deploy.training.supervised import train

    if output is not None:
        _output(output, *_files(recipe))
    others = os.environ.get("RANK", "0") != "0"
    with _progress("train", as_json or others) as advance:
        result = train(recipe, output, progress=advance)
    if not others:
        _show(result, as_json, result["output"])


@cli.command("pretrain")
@click.argument("recipe")
@click.option("-o", "--output", help="Checkpoint; default: the recipe's.")
@as_json
def pretrain_command(recipe: str, output: str | None, as_json: bool) -> None:
    """Pre-train a V2 encoder by a TOML RECIPE without labels: patches are masked, and painted again."""
    from spikformer_deploy.training.pretrain import pretrain

    if output is not None:
        _output(output, *_files(recipe))
    others = os.environ.get("RANK", "0") != "0"
    with _progress("pretrain", as_json or others) as advance:
        result = pretrain(recipe, output, progress=advance)
    if not others:
        _show(result, as_json, result["output"])


@cli.command("demo")
@click.option(
    "--model", default="digits-v2", show_default=True, type=click.Choice(["digits-v1", "digits-v2", "cifar10"])
)
@click.option("-o", "--output", default="report.html", show_default=True)
@as_json
def demo_command(model: str, output: str, as_json: bool) -> None:
    """The whole story: compile a bundled trained model, run it on real images, verify it, write the report."""
    from spikformer_deploy.cli.demo import demo

    with _progress("verify", as_json) as advance:
        result, tables = demo(model, _output(output), None if as_json else _print_step, advance)
    if as_json:
        _print_json(result)
    else:
        _print_tables(tables)
        _print(f"wrote {output}")
    if not result["passed"]:
        sys.exit(1)


# --- printing ---------------------------------------------------------------------------------------------------


def _files(*given: str | None) -> list[str]:
    """Those that are files: others are words, of a model, a target or images."""
    return [name for name in given if name and os.path.isfile(name)]


def _output(path: str, *others: str) -> Path:
    """A path to write to; InputError before any work where it cannot be written, or is one of `others`."""
    from spikformer_deploy.base.files import check_output

    if not path:
        raise InputError("-o", "the name is empty", "Give the name of a file.")
    if path.endswith("/"):
        raise InputError(path, "it names a folder", "Give the name of a file.")
    if os.path.realpath(path) in map(os.path.realpath, others):
        raise InputError(path, "the same command reads it, or writes something else to it", "Give another name.")
    check_output(Path(path))
    return Path(path)


def _run(program: str, data: str, quiet: bool, **options: Any) -> Any:
    from spikformer_deploy.inference.run import run
    from spikformer_deploy.pipeline.program import Program

    loaded = Program.load(program)
    with _progress("run", quiet) as advance:
        result = run(loaded, data, progress=advance, **options)
    _tell(result.notes)
    return result


def _tell(notes: Iterable[str]) -> None:
    """Notes go to standard error, with the control characters of names shown."""
    for note in notes:
        _say(f"note: {note}")


def _print_step(step: Any) -> None:
    remark = f"  {step.remark}" if step.remark else ""
    _say(f"{step.name:<10} [{step.number}/{step.of}] {step.seconds:7.2f} s{remark}")


def _say(text: str) -> None:
    """A line on standard error, where anybody reads it."""
    try:
        click.echo(printable(text), err=True)
        sys.stderr.flush()
    except OSError:
        _to_nowhere(2)


def _print(text: str) -> None:
    """A line on standard output."""
    with _printing():
        click.echo(printable(text))


@contextmanager
def _progress(word: str, quiet: bool) -> Iterator[Progress]:
    """A function of (done, total, note) that moves a bar on standard error; nothing where `quiet`."""
    if quiet:
        yield silent
        return
    from rich.progress import Progress, TextColumn

    from spikformer_deploy.report.terminal import console

    plain = TextColumn("{task.description}", markup=False)
    with Progress(plain, *Progress.get_default_columns()[1:], console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task(word, total=None)
        yield lambda done, total, note: bar.update(
            task, completed=done, total=total, description=printable(f"{word}  {note}" if note else word)
        )


def _show(values: dict[str, Any], as_json: bool, title: str) -> None:
    from spikformer_deploy.report.tables import facts_table

    if as_json:
        _print_json(values)
    else:
        _print_tables([facts_table(title, values)])


def _print_json(values: Any) -> None:
    _print(_json(values))


def _json(values: Any) -> str:
    from spikformer_deploy.base.json_text import written

    return written(values, indent=2)


def _print_tables(tables: list[Any]) -> None:
    from spikformer_deploy.report.terminal import console

    # a pipe has no width: nothing is cut there
    out = console(sys.stdout, None if sys.stdout.isatty() else WIDE)
    with _printing():
        for table in tables:
            out.print(table)


if __name__ == "__main__":
    main()
