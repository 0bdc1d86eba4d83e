"""Where the engine's time goes, layer by layer, on one thread, beside what the processor can do.

    python benchmarks/layers.py [MODEL] [--images N] [--quick] [--json FILE]

For each population: synaptic sums (which kernel, GMAC/s as if dense), neuron updates or windows, and counting.  The
last lines are limits of this machine, measured in the same run: int8 multiply-accumulates of a large 1x1 convolution,
fp32 ones of a large matrix product, and bytes a second of a copy that fits no cache.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import click
import numba
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from models import images, program

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.counts.events import geometry
from spikformer_deploy.executors.fast import engine, sums, synapses
from spikformer_deploy.executors.fast.plan import make_plan
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.synapses import Conv

BOARD = {"v1-4-384": "kapoho_point"}
PARTS = ("sums", "neurons", "counting")
Times = dict[str, dict[str, float]]
"""Seconds by population and part."""


class Round(NamedTuple):
    """One run: how long it took in all and in its parts, and which convolution ran by population."""

    seconds: float
    times: Times
    kinds: dict[str, str]


@click.command()
@click.argument("model", default="v1-4-384")
@click.option("--images", "count", default=8, show_default=True)
@click.option("--quick", is_flag=True, help="Two rounds instead of seven.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
def main(model: str, count: int, quick: bool, json_file: str | None) -> None:
    """Measure, print a table, write JSON."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    compiled = program(model, BOARD.get(model, "hala_point"))
    network = compiled.network
    plan = make_plan(network, geometry(network, compiled.mapping).cells)
    pixels = images(compiled.preprocess.channels, compiled.preprocess.size, count)
    buffers = engine.Buffers()
    rounds: list[Round] = []
    # the first round compiles, and packs the weights; it does not count
    for _ in range(3 if quick else 8):
        with watched() as (times, kinds):
            start = time.perf_counter()
            execution = engine.run(plan, pixels, buffers)
            rounds.append(Round(time.perf_counter() - start, times, kinds))
    fastest = min(rounds[1:], key=lambda r: r[0])
    dense = {name: i.layer.kinds[0] for name, part in plan.sums.items() for i in part.incoming if i.layer}
    fastest = fastest._replace(kinds={**dense, **fastest.kinds})
    sent = {name: activity.total.sum() for name, activity in execution.activity.items()}
    rows = [row(network, p, fastest, sent, count) for p in network if p is not network.output]
    figures = {"model": model, "images": count, "seconds": fastest.seconds, "rows": rows, "limits": limits()}
    show(figures)
    if json_file:
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


@contextmanager
def watched() -> Iterator[tuple[Times, dict[str, str]]]:
    """(seconds by population and part, kernel by population) of the engine's runs inside."""
    times: Times = defaultdict(lambda: dict.fromkeys(PARTS, 0.0))
    kinds: dict[str, str] = {}
    now: list[str] = []

    def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if part == "neurons":
                now[:] = [arguments[1].name]
            start = time.perf_counter()
            result = function(*arguments)
            times[now[0]][part] += time.perf_counter() - start
            return result

        return run

    def chosen(*arguments: Any) -> bool:
        events = cheaper(*arguments)
        kinds[now[0]] = "events" if events else arguments[-1]
        return events

    # sums and counting are computed inside a population's turn: its own time is what is left without them
    cheaper = synapses._events_are_cheaper
    with (
        mock.patch.object(engine, "_run_population", timed(engine._run_population, "neurons")),
        mock.patch.object(sums, "sums_at", timed(sums.sums_at, "sums")),
        mock.patch.object(engine, "_observe", timed(engine._observe, "counting")),
        mock.patch.object(synapses, "_events_are_cheaper", chosen),
    ):
        yield times, kinds
    for parts in times.values():
        parts["neurons"] -= parts["sums"] + parts["counting"]


def row(network: Network, population: Population, measured: Round, sent: dict[str, Any], count: int) -> dict[str, Any]:
    """What one population took, and how much it did, for `count` images that sent values of these sums."""
    convs = [(p.synapse, p.sources[0]) for p in network.into(population.name) if isinstance(p.synapse, Conv)]
    per_position = sum(conv.weight.size // conv.groups for conv, _ in convs)
    steps = 1 if convs and convs[0][1] == network.input.name else network.time_steps
    neurons = population.size * network.time_steps * count
    source = network[convs[0][1]] if convs else None
    return {
        "layer": population.name,
        "shape": "x".join(map(str, population.shape)),
        "kernel": measured.kinds.get(population.name, ""),
        "inputs": None if source is None else float(sent[source.name] / (source.size * network.time_steps * count)),
        "macs": per_position * population.shape[1] * population.shape[2] * steps * count,
        "neuron_steps": neurons,
        **{f"{part}_ms": 1e3 * measured.times[population.name][part] for part in PARTS},
    }


def limits() -> dict[str, float]:
    """What one thread can do here: int8 and fp32 GMAC/s, GB/s of a copy."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (1024, 1024, 1, 1), generator=generator, dtype=torch.int8)
    maps = torch.randint(0, 2, (4, 32, 32, 1024), generator=generator, dtype=torch.uint8)
    convolve = synapses.convolution(Conv(weight.numpy()), (1024, 32, 32), 1, 2**23).convolve
    left = torch.rand(4096, 1024)
    right = torch.rand(1024, 1024)
    data = np.zeros(2**28, np.uint8)
    macs = 4 * 32 * 32 * 1024 * 1024 / 1e9
    return {
        "int8_gmacs": macs / best(lambda: convolve(maps, maps.numel() * 255, 0, 32)),
        "fp32_gmacs": macs / best(lambda: left @ right),
        "copy_gbytes": 2 * data.nbytes / 1e9 / best(lambda: data.copy()),
    }


def best(run: Callable[[], Any], rounds: int = 7) -> float:
    """Seconds of the fastest round."""
    seconds = []
    with torch.inference_mode():
        for _ in range(rounds):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    return min(seconds)


def show(figures: dict[str, Any]) -> None:
    """The table for a person."""
    title = f"{figures['model']}, {figures['images']} images, one thread: {1e3 * figures['seconds']:.1f} ms"
    out = Table(title=title)
    columns = ("layer", "shape", "inputs", "kernel", "sums ms", "GMAC/s", "neurons ms", "G/s", "counting ms")
    for index, column in enumerate(columns):
        out.add_column(column, justify="left" if index < 2 else "right", no_wrap=True)
    for r in figures["rows"]:
        inputs = "" if r["inputs"] is None else f"{r['inputs']:.2f}"
        speed = f"{r['macs'] / r['sums_ms'] / 1e6:,.0f}" if r["macs"] and r["sums_ms"] else ""
        updates = f"{r['neuron_steps'] / r['neurons_ms'] / 1e6:.1f}"
        ms = [f"{r[f'{part}_ms']:.2f}" for part in PARTS]
        out.add_row(r["layer"], r["shape"], inputs, r["kernel"], ms[0], speed, ms[1], updates, ms[2])
    totals = [f"{sum(r[f'{part}_ms'] for r in figures['rows']):.1f}" for part in PARTS]
    out.add_section()
    out.add_row("all", "", "", "", totals[0], "", totals[1], "", totals[2])
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(out)
    console.print(
        "limits of one thread: " + ", ".join(f"{name} {value:,.0f}" for name, value in figures["limits"].items())
    )


if __name__ == "__main__":
    main()
