"""Published sizes at full size: checkpoint files in the official layout, random weights, compiled, run and verified.

    python benchmarks/published_sizes.py [--only NAME ...] [--target hala_point] [--backend reference]
        [--images N] [--no-check] [--seconds N] [--rows FILE] [--folder FOLDER]

Each step is a process of its own, a command as a user gives it: `spikdeploy compile FILE.pth`, `run` on two images,
`verify` on one.  A row is a line of JSON in --rows as soon as it is known; a size that has one is not measured again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

FAMILIES = ("sdt3", "sdt3-large", "qsd", "max-former", "ms-qkformer", "spiking-resformer")
"""Whose sizes are measured where none is named."""
COMMAND = (sys.executable, "-m", "spikformer_deploy")
COLUMNS = ("size", "parameters", "neurons", "cores", "chips", "compile", "GiB", "run", "GiB", "verify", "GiB", "equal?")
WIDE = 140
"""Columns of the table, also where it goes to a file."""


class WithSizes(click.Command):
    """A command whose help ends with the names of all sizes, for which torch is imported."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from spikformer_deploy.nn.zoo import published

        formatter.write_paragraph()
        formatter.write_text(f"Sizes: {', '.join(sorted(published()))}.")


@click.command(cls=WithSizes)
@click.option("--only", multiple=True, metavar="NAME", help="This size, of those below; may be given several times.")
@click.option("--target", default="hala_point", show_default=True)
@click.option("--backend", default="reference", show_default=True, help="What the engine is compared with.")
@click.option("--images", default=2, show_default=True, type=click.IntRange(1), help="How many run.")
@click.option("--check/--no-check", default=True, show_default=True, help="Of compile: every pass on an image.")
@click.option("--seconds", default=1800, show_default=True, help="The most that a verification may take.")
@click.option("--rows", default="published_sizes.jsonl", show_default=True, type=click.Path(dir_okay=False))
@click.option("--folder", type=click.Path(file_okay=False), help="Keep checkpoints and programs here.")
def main(only: tuple[str, ...], rows: str, folder: str | None, **how: Any) -> None:
    """Measure what --rows lacks, print a table of all that it has."""
    file = Path(rows)
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    known = [row["size"] for row in read_rows(file)]
    for name in [name for name in only or default_sizes() if name not in known]:
        with tempfile.TemporaryDirectory() as scratch:
            row = measure(name, Path(folder or scratch), **how)
        with file.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        Console(stderr=True).print(row)
    Console(width=WIDE).print(table(read_rows(file)))


def default_sizes() -> list[str]:
    """The published sizes of FAMILIES, the smallest images first."""
    from spikformer_deploy.nn.zoo import published

    chosen = [(config.image_size, name) for name, config in published().items() if config.family in FAMILIES]
    return [name for _, name in sorted(chosen, key=lambda pair: pair[0])]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """What has been measured so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# --- a size -------------------------------------------------------------------------------------------------------


def measure(
    name: str, folder: Path, target: str, backend: str, images: int, check: bool, seconds: int
) -> dict[str, Any]:
    """Its row; what a command refuses, or has no time for, is in the row by the command's name."""
    checkpoint, program, several, one = (folder / f"{name}{end}" for end in (".pth", ".spk", ".npy", "-one.npy"))
    # a process of its own, so that no memory of the model is counted among that of the commands
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        parameters = pool.apply(save_checkpoint, (name, checkpoint, several, one, images))
    row: dict[str, Any] = {
        "size": name,
        "target": target,
        "checked": check,
        "parameters": parameters,
        "checkpoint_bytes": checkpoint.stat().st_size,
    }
    checked = "--check" if check else "--no-check"
    row["compile"] = command("compile", str(checkpoint), "--target", target, checked, "-o", str(program))
    if "refused" not in row["compile"]:
        row["run"] = command("run", str(program), "--input", str(several), "--timing", "estimate")
        row["program_bytes"] = program.stat().st_size
        words = ("verify", str(program), "--input", str(one), "--backend", backend)
        row[f"verify {backend}"] = command(*words, seconds=seconds)
    return row


def save_checkpoint(name: str, checkpoint: Path, several: Path, one: Path, images: int) -> int:
    """Write a checkpoint as the official scripts do, and random images for it; the number of its parameters."""
    from spikformer_deploy.converters.checkpoints.random_weights import random_inputs, save_random

    loaded = save_random(name, checkpoint)
    pixels = random_inputs(loaded.config, images)
    np.save(several, pixels)
    np.save(one, pixels[:1])
    return sum(parameter.numel() for parameter in loaded.module.parameters())


def command(*words: str, seconds: int | None = None) -> dict[str, Any]:
    """The JSON of a command, with its wall and CPU seconds and the most memory that its process took.

    Instead of it, what it says where it fails, or that it took longer than `seconds`.
    """
    start = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen((*COMMAND, *words, "--json"), stdout=out, stderr=errors)
        timer = threading.Timer(seconds or threading.TIMEOUT_MAX, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        late = not timer.is_alive()
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        said = json.loads(out.read()) if process.returncode == 0 else {"refused": errors.read().decode()[-2000:]}
    said["wall_seconds"] = time.monotonic() - start
    said["cpu_seconds"] = usage.ru_utime + usage.ru_stime
    said["peak_gib"] = usage.ru_maxrss / 2**20
    said.pop("predictions", None)
    return {**said, "refused": f"more than {seconds} s"} if late else said


# --- the table ----------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> Table:
    """All rows for a person."""
    targets = ", ".join(sorted({row["target"] for row in rows}))
    out = Table(title=f"Random weights, on {targets}: CPU seconds of a command, all threads, and its most memory")
    for column in COLUMNS:
        out.add_column(column, justify="left" if column in (COLUMNS[0], COLUMNS[-1]) else "right")
    for row in rows:
        out.add_row(*shown(row))
    return out


def shown(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a row."""
    compiled = row["compile"]
    start = (row["size"], f"{row['parameters']:,}")
    if "refused" in compiled:
        return (*start, *[""] * 9, compiled["refused"].strip())
    sizes = tuple(f"{compiled[size]:,}" for size in ("neurons", "cores", "chips"))
    (key,) = [key for key in row if key.startswith("verify ")]
    commands = (compiled, row["run"], row[key])
    spent = (cell for done in commands for cell in (f"{done['cpu_seconds']:.0f}", f"{done['peak_gib']:.1f}"))
    return (*start, *sizes, *spent, verdict(row[key], key.removeprefix("verify ")))


def verdict(found: dict[str, Any], backend: str) -> str:
    """What a verification found: "reference: equal"."""
    return f"{backend}: {found['refused'] if 'refused' in found else found['backends'][backend]}"


if __name__ == "__main__":
    main()
