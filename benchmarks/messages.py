"""One image of a published size, message by message: how long `run --timing cycle` takes, and how much memory.

    python benchmarks/messages.py [--model NAME] [--target PROFILE] [--threads N] [--json FILE]

Weights and pixels are random.  The program is compiled in a process of its own, so that the peak of memory is that of
the run: the closed form first, then all messages twice, in the pipeline and in the fall-through.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numba
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from engine import cpu
from models import images, program

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.inference.run import run
from spikformer_deploy.nn.zoo import named
from spikformer_deploy.pipeline.program import Program


@click.command()
@click.option("--model", "name", default="v1-8-512", show_default=True)
@click.option("--target", default="hala_point", show_default=True)
@click.option("--threads", default=numba.get_num_threads(), show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
def main(name: str, target: str, threads: int, json_file: str | None) -> None:
    """Compile, run, print the figures, write JSON."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.spk"
        apart(compiled, name, target, file)
        found = apart(measured, name, file, threads)
    figures = {"cpu": cpu(), "model": name, "target": target, "threads": threads, **found}
    Console().print(figures)
    if json_file:
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` gives in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def compiled(name: str, target: str, file: Path) -> None:
    """Write the program."""
    program(name, target).save(file)


def measured(name: str, file: Path, threads: int) -> dict[str, Any]:
    """Times and memory of the run; messages as the events count them, once for each step."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    config = named(name)
    pixels = images(config.in_channels, config.image_size, 1)
    start = time.monotonic()
    spent = time.process_time()
    found = run(Program.load(file), pixels, timing="cycle")
    seconds = time.monotonic() - start
    assert found.cycle is not None
    slices = found.events.slices
    assert slices is not None
    return {
        "messages": int(slices.messages_out.sum()),
        "seconds": seconds,
        "cpu_seconds": time.process_time() - spent,
        "peak_mib": found.peak_memory_mib,
        "step_us": float(found.cycle.step_us_mean[NOMINAL]),
    }


if __name__ == "__main__":
    main()
