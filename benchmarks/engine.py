"""The integer engine against the float PyTorch model that the program came from, in one run on the same threads.

    python benchmarks/engine.py [--quick] [--json FILE] [--threads N]

Time is the best of several rounds in which the contestants take turns.  The engine counts all events (messages,
synaptic operations, neuron updates of every core and step), PyTorch computes only logits.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from models import images, model, program

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.counts import events
from spikformer_deploy.counts.events import Geometry, count
from spikformer_deploy.executors.fast import engine, synapses
from spikformer_deploy.executors.fast.plan import Plan, make_plan
from spikformer_deploy.network.network import Population
from spikformer_deploy.nn.zoo import build, named
from spikformer_deploy.pipeline.program import Program

CASES = (("v1-4-384", "kapoho_point"), ("v1-8-512", "hala_point"), ("v2-8-512", "hala_point"))
BATCHES = (1, 16)
Contestant = Callable[[], Any]


@click.command()
@click.option("--quick", is_flag=True, help="Only V1-4-384, few rounds.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
def main(quick: bool, json_file: str | None, threads: int) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(threads)
    rows = []
    for name, target in CASES[:1] if quick else CASES:
        for batch in BATCHES:
            rows.append(measure(name, target, batch, rounds=7 if batch == 1 and not quick else 3))
            Console(stderr=True).print(rows[-1])
    Console().print(table(rows))
    figures = {
        "cpu": cpu(),
        "threads": threads,
        "kernels": synapses.kernels(),
        "torch": torch.__version__,
        "rows": rows,
    }
    if json_file:
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


def measure(name: str, target: str, batch: int, rounds: int) -> dict[str, Any]:
    """Seconds of every contestant, ratios to the best eager one, peak memory of a process of its own."""
    best = take_turns({kind: contestant(kind, name, target, batch) for kind in ("engine", *peers(name))}, rounds)
    eager = min(best["eager"], best["eager channels_last"])
    figures = {"model": name, "batch": batch, "seconds": best, "ratio": eager / best["engine"]}
    figures["ratio_without_counts"] = eager / best["engine without counts"]
    figures["count_share"] = best["engine"] / best["engine without counts"] - 1
    if "compiled" in best:
        figures["ratio_compiled"] = best["compiled"] / best["engine"]
    figures["firing_rate"] = firing_rate(name, target)
    figures["peak_mib"] = peaks(name, target, batch)
    return figures


def peers(name: str) -> list[str]:
    """Who runs besides the engine; torch.compile where it compiles this model at all."""
    kinds = ["engine without counts", "eager", "eager channels_last"]
    try:
        contestant("compiled", name, "", 1)()
    except Exception as error:  # whatever inductor raises: its reason is printed, the others run
        Console(stderr=True).print(f"torch.compile: {type(error).__name__}: {str(error)[:200]}")
        return kinds
    return [*kinds, "compiled"]


def contestant(kind: str, name: str, target: str, batch: int) -> Contestant:
    """A function that runs one batch."""
    if kind.startswith("engine"):
        compiled = program(name, target)
        pixels = images(compiled.preprocess.channels, compiled.preprocess.size, batch)
        geometry, plan, buffers = prepared(name, target)
        if kind == "engine":
            return lambda: count(geometry, engine.run(plan, pixels, buffers))
        return uncounted(plan, pixels, buffers)
    loaded = model(name)
    pixels = images(loaded.config.in_channels, loaded.config.image_size, batch)
    layout = torch.contiguous_format if kind == "eager" else torch.channels_last
    module = loaded.module.to(memory_format=layout)
    real = torch.from_numpy(loaded.preprocess.normalised(pixels)).contiguous(memory_format=layout)
    return inferring(torch.compile(module) if kind == "compiled" else module, real, layout)


def uncounted(plan: Plan, pixels: NDArray[np.uint8], buffers: engine.Buffers) -> Contestant:
    """A run that looks at no message to count it; how many there are in all, which chooses the kernels, it knows."""
    known: dict[tuple[str, int], tuple[NDArray[np.int64], NDArray[np.uint8]]] = {}
    observe = engine._observe

    def remember(batch: Any, population: Population, sent: NDArray[np.integer]) -> None:
        observe(batch, population, sent)
        totals = batch.counts[population.name].total[batch.place].copy()
        known[population.name, batch.place.start] = (totals, batch.active[population.name])

    def recall(batch: Any, population: Population, sent: NDArray[np.integer]) -> None:
        totals, active = known[population.name, batch.place.start]
        batch.counts[population.name].total[batch.place] = totals
        batch.active[population.name] = active

    with mock.patch.object(engine, "_observe", remember):
        engine.run(plan, pixels, buffers)

    def run() -> Any:
        with mock.patch.multiple(engine, _observe=recall, _observe_idle=lambda *_: None):
            return engine.run(plan, pixels, buffers)

    return run


@cache
def prepared(name: str, target: str) -> tuple[Geometry, Plan, engine.Buffers]:
    """What the engine needs, once: with two sets of buffers each would find the other's in the cache."""
    compiled = program(name, target)
    geometry = events.geometry(compiled.network, compiled.mapping)
    return geometry, make_plan(compiled.network, geometry.cells), engine.Buffers()


def inferring(module: Callable[..., Any], real: torch.Tensor, layout: torch.memory_format) -> Contestant:
    """The module on `real` without gradients; the weights in `layout` (contestants share the module)."""

    def run() -> Any:
        if isinstance(module, torch.nn.Module):
            module.to(memory_format=layout)
        with torch.inference_mode():
            return module(real)

    return run


def take_turns(contestants: dict[str, Contestant], rounds: int) -> dict[str, float]:
    """Seconds of the best of `rounds` runs of each, after one that does not count."""
    times: dict[str, list[float]] = {kind: [] for kind in contestants}
    for number in range(rounds + 1):
        for kind, run in contestants.items():
            start = time.perf_counter()
            run()
            if number:
                times[kind].append(time.perf_counter() - start)
    return {kind: min(values) for kind, values in times.items()}


def firing_rate(name: str, target: str) -> float:
    """Spikes a LIF neuron and step."""
    network = program(name, target).network
    source = network.input.shape
    activity = engine.execute(network, images(source[0], source[1], 1)).activity
    lifs = [p for p in network if p.max_out == 1]
    spikes = sum(int(activity[p.name].total.sum()) for p in lifs)
    return spikes / (sum(p.size for p in lifs) * network.time_steps)


def peaks(name: str, target: str, batch: int) -> dict[str, float]:
    """Peak resident MiB of a fresh process that runs one batch, of both."""
    with tempfile.TemporaryDirectory() as folder:
        program(name, target).save(Path(folder) / "program.spk")
        jobs = {"engine": (_run_engine, f"{folder}/program.spk"), "eager": (_run_eager, name)}
        mebibytes = {}
        for kind, (job, what) in jobs.items():
            # a process that has run the other one would remember its peak
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                mebibytes[kind] = pool.apply(job, (what, batch))
        return mebibytes


def _run_engine(path: str, batch: int) -> float:
    loaded = Program.load(Path(path))
    geometry = events.geometry(loaded.network, loaded.mapping)
    pixels = images(loaded.preprocess.channels, loaded.preprocess.size, batch)
    count(geometry, engine.run(make_plan(loaded.network, geometry.cells), pixels, engine.Buffers()))
    return peak_memory_mib()


def _run_eager(name: str, batch: int) -> float:
    config = named(name)
    module = build(config).eval()
    pixels = images(config.in_channels, config.image_size, batch)
    with torch.inference_mode():
        module(torch.from_numpy(pixels).float() / 255)
    return peak_memory_mib()


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a person."""
    out = Table(title="milliseconds a batch of n, T = 4; ratio: best eager PyTorch over the engine with counts")
    for column in ("model", "n", "engine", "counts", "eager", "ch. last", "compiled", "ratio", "MiB", "eager MiB"):
        out.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for row in rows:
        seconds = row["seconds"]
        peak = row["peak_mib"]
        shown = (seconds["engine"], seconds["eager"], seconds["eager channels_last"], seconds.get("compiled"))
        engine_ms, *others = (f"{1000 * x:,.0f}" if x else "-" for x in shown)
        out.add_row(
            row["model"], str(row["batch"]), engine_ms, f"{row['count_share']:+.0%}", *others,
            f"{row['ratio']:.1f}", f"{peak['engine']:,.0f}", f"{peak['eager']:,.0f}",
        )  # fmt: skip
    return out


def cpu() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    names = (
        [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
