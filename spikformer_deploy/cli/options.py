"""Options that several commands share, and what their words mean."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.formats import MOST_STEPS

OBJECTIVES = ("energy", "latency", "cores", "tiles")
SCHEDULES = ("spatial", "token-serial")
TIMINGS = ("cycle", "estimate", "none")
RUNTIMES = ("lava", "bare")
TASKS = ("classification", "regression")
"""Words of options, as the stages know them: importing those here would load numpy before it is needed."""

UNITS = " KMGT"
"""Each is 1,024 times the one before it."""

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
    type=click.Choice(TIMINGS),
    help="cycle: the first images message by message, besides the closed form.",
)
runtime_option = click.option(
    "--runtime",
    default="lava",
    show_default=True,
    type=click.Choice(RUNTIMES),
    help="lava: what every time step of the chip costs today, whatever the network does; bare: nothing, a lower bound.",
)
exit_option = click.option(
    "--early-exit",
    type=int,
    metavar="MARGIN",
    help="Let an image go after the first time step in which its largest accumulator is that far ahead of the second.",
)
labels_option = click.option(
    "--labels", metavar="FILE", help="Classes of the images of a folder or zip: lines of `file or folder,class`."
)
task_option = click.option(
    "--task",
    type=click.Choice(TASKS),
    help="What stands beside the images of an .npz: classes, or real targets, for MSE, MAE, R2 and RSE; "
    "default: classes, and targets of a model on time series.",
)
limit_option = click.option(
    "--limit",
    type=int,
    metavar="N",
    help="Use at most N images: the first of arrays, else N of one fixed shuffle (docs/images.md).",
)


def bytes_of_size(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """1500MiB, 2GiB or plain bytes, as bytes."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"'{value}' is no size; give 2GiB or 800MiB")
    number, unit = match.groups()
    return int(float(number) * 2 ** (10 * UNITS.index(unit.upper() or " ")))


memory_option = click.option(
    "--memory-limit",
    callback=bytes_of_size,
    metavar="SIZE",
    help="What the process may take, 2GiB; batches are cut to fit.",
)

WORKER_OPTIONS = (
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        metavar="N",
        help="Share the images out to N processes of this machine (docs/cluster.md).",
    ),
    click.option(
        "--scheduler", metavar="ADDRESS", help="Share them out to the workers of a Dask scheduler, tcp://HOST:PORT."
    ),
    click.option(
        "--send-images", is_flag=True, help="Read image files here and send them, where workers cannot read them."
    ),
)

MODEL_OPTIONS = (
    click.option("--arch", help="Published size, v1-4-384, where the file does not tell."),
    click.option("--heads", type=click.IntRange(1), help="Attention heads, where the file does not tell."),
    click.option(
        "--levels", type=click.IntRange(1), help="Largest integer that integer neurons send, where no file tells."
    ),
    click.option(
        "--time-steps", type=click.IntRange(1, MOST_STEPS), help="Time steps T; default: what the model says."
    ),
    click.option(
        "--image-size",
        type=click.IntRange(1, 4096),
        metavar="PIXELS",
        help="Height and width of the images of an official checkpoint, where the file does not tell.",
    ),
    click.option(
        "--window",
        type=click.IntRange(1),
        help="Points of time series that a model sees, where the file does not tell.",
    ),
    click.option("--variables", type=click.IntRange(1), help="Variables of time series, where the file does not tell."),
    click.option("--dt", type=float, help="Seconds a time step, where a .nir does not tell."),
    click.option("--allow-pickle", is_flag=True, help="Load files that run code when loaded; only if you trust them."),
)


FACTORY_OPTIONS = (
    click.option(
        "--factory",
        metavar="MODULE:FUNCTION",
        help="In place of MODEL: your own function that makes it. This imports MODULE from the current folder and runs "
        "its code.",
    ),
    click.option(
        "--arg",
        "arguments",
        metavar="NAME=VALUE",
        multiple=True,
        help="Argument of that function: a number, true, false, none, a string or a list; may be given several times.",
    ),
    click.option("--weights", metavar="FILE", help="A state_dict for it, .pth or .safetensors, of exactly its keys."),
)


def factory_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that name the user's own function, which makes the model."""
    for option in reversed(FACTORY_OPTIONS):
        command = option(command)
    return command


def worker_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say who computes."""
    for option in reversed(WORKER_OPTIONS):
        command = option(command)
    return command


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what an official checkpoint does not, or that name another model than a file."""
    for option in (*MODEL_OPTIONS, *FACTORY_OPTIONS):
        command = option(command)
    return command


def files_among(*arguments: str | None) -> list[str]:
    """Those that are files: others are words, of a model, a target or images."""
    return [argument for argument in arguments if argument and os.path.isfile(argument)]


def output_path(path: str, *others: str) -> Path:
    """A path to write to.

    Raises InputError, before any work, where it cannot be written, or is one of `others`.
    """
    from spikformer_deploy.base.files import check_output

    if not path:
        raise InputError("-o", "the name is empty", "Give the name of a file.")
    if path.endswith("/"):
        raise InputError(path, "it names a folder", "Give the name of a file.")
    if os.path.realpath(path) in map(os.path.realpath, others):
        raise InputError(path, "the same command reads it, or writes something else to it", "Give another name.")
    check_output(Path(path))
    return Path(path)
