"""Compile of the published sizes, their placement beside simpler placers (row-major, random, greedy, and the Hilbert
curve that refinement starts from), the ways of the attentions that were looked at, and the spatial schedule beside the
token-serial one.

    python benchmarks/mapping.py [--quick] [--json FILE] [--threads N]

Each model is compiled, trace to .spk, in a process of its own, with all that `spikdeploy compile` does: spikes compared
after each pass, calibration on 64 images (weights and pixels are random).  CPU seconds are those of all threads.  Work
is that of the busiest core in a step, expected from the firing rates, beside a uniform cut: boxes of the same most
neurons for all layers, on the same number of cores.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from engine import cpu
from models import images, model

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.counts.dense import dense_macs
from spikformer_deploy.mapping.map import SCHEDULES, map_explained
from spikformer_deploy.mapping.objective import Cuts
from spikformer_deploy.mapping.partition import cuts, sites_of, way_of
from spikformer_deploy.mapping.place import NONE, greedy, hilbert, random, row_major
from spikformer_deploy.mapping.route import metrics, nets_of
from spikformer_deploy.pipeline.stages import compile_model

CASES = (
    ("v1-4-384", "kapoho_point"),
    ("v1-8-512", "hala_point"),
    ("v2-8-512", "hala_point"),
    ("v2-16-768", "hala_point"),
)
SCHEDULED = (("v1-4-384", ("kapoho_point",)), ("v2-8-512", ("alia_point", "hala_point")))
"""Both schedules on these targets, by these objectives."""
SCHEDULED_BY = ("energy", "cores")
IMAGES = 64
"""As many as `spikdeploy compile --calibrate` reads."""
SCHEDULED_IMAGES = 8
"""Schedules are compared by the same rates: a few images give them."""
SIZES = ("neurons", "synapses", "cores")
BASELINES = (row_major, random, greedy, hilbert)
WAY_COLUMNS = ("way", "cores", "chips", "sub-steps", "step, us", "energy a step, mJ")
COMPARED = ("packet_hops", "max_link_load", "max_chip_link_load")


@click.command()
@click.option("--quick", is_flag=True, help="Only V1-4-384.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@click.option("--model", "names", multiple=True, help="Only these.")
def main(quick: bool, json_file: str | None, threads: int, names: tuple[str, ...]) -> None:
    """Measure, print tables, write JSON."""
    rows = []
    cases = [case for case in CASES if case[0] in names] or (CASES[:1] if quick else CASES)
    for name, target in cases:
        # a process of its own: its peak of memory and its compiled kernels are of this model
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (name, target, threads)))
        Console(stderr=True).print(rows[-1])
    figures: dict[str, Any] = {"cpu": cpu(), "threads": threads, "rows": rows}
    if len(rows) > 1:
        figures["growth"] = growth(rows)
    figures["schedules"] = []
    measured = [row["model"] for row in rows]
    for name, targets in [scheduled for scheduled in SCHEDULED if scheduled[0] in measured]:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures["schedules"] += pool.apply(schedules, (name, targets))
    for shown in (*tables(rows), schedule_table(figures["schedules"])):
        Console().print(shown)
    for size, power in figures.get("growth", {}).items():
        Console().print(f"CPU seconds grow as {size} to the power {power:.2f}")
    if json_file:
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


def measure(name: str, target: str, threads: int) -> dict[str, Any]:
    """Compile time and memory, placement beside the baselines, work beside the uniform cut."""
    torch.set_num_threads(threads)
    loaded = model(name)
    profile = load_profile(target)
    pixels = images(loaded.config.in_channels, loaded.config.image_size, IMAGES)
    start = time.monotonic()
    spent = [time.process_time()]
    compiled = compile_model(loaded, target, calibrate_on=pixels, report=lambda _: spent.append(time.process_time()))
    with tempfile.TemporaryDirectory() as folder:
        compiled.program.save(Path(folder) / "program.spk")
    seconds = time.monotonic() - start
    peak = peak_memory_mib()
    spent.append(time.process_time())
    mapping = compiled.program.mapping
    network = compiled.program.network
    rates = compiled.rates
    expected = compiled.program.provenance["mapping"]["expected"]
    nets = nets_of(network, mapping.sites, mapping.boxes, rates)
    peers = {p.__name__: metrics(nets, p(len(mapping.boxes), nets, profile, NONE), profile) for p in BASELINES}
    attention = compiled.program.provenance["mapping"]["attention"]
    way = way_of(attention["chosen"])
    assert way is not None
    sites = sites_of(network, profile.core, way.serial, copies=way.copies)
    choices = [cuts(network, site, profile, rates, 0, way.serial) for site in sites]
    idle = profile.time.neuron_idle.value * expected["sub_steps"]
    shares = {
        peer: {name: mapping.metrics[name] / (found[name] or 1.0) for name in COMPARED} for peer, found in peers.items()
    }
    return {
        "model": name,
        "target": target,
        "seconds": seconds,
        "cpu_seconds": spent[-1] - spent[0],
        "stage_seconds": compiled.stages,
        "stage_cpu_seconds": dict(zip([*compiled.stages, "save"], np.diff(spent).tolist(), strict=True)),
        "peak_mib": peak,
        "neurons": sum(p.size for p in network),
        "synapses": sum(dense_macs(network, p) for p in network.projections),
        "cores": len(mapping.boxes),
        "chips": mapping.chips,
        "chips_of_target": int(profile.board.chips),
        "attention": attention,
        "metrics": mapping.metrics,
        "share_of": shares,
        "busiest_core_us": expected["busiest_core_us"],
        "uniform_us": uniform(choices, len(mapping.boxes), idle) / 1e3,
    }


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The power of each size with which CPU seconds grow, least squares over the models."""
    seconds = np.log([row["cpu_seconds"] for row in rows])
    return {size: float(np.polyfit(np.log([row[size] for row in rows]), seconds, 1)[0]) for size in SIZES}


def uniform(choices: list[Cuts], budget: int, idle: float) -> float:
    """Work in ns of the busiest core where all layers have boxes of the same most neurons and as many cores suffice.

    idle  ns for which a neuron is swept in all sub-steps of a step
    """
    for most in np.unique(np.concatenate([c.neurons for c in choices])):
        allowed = [np.flatnonzero(c.neurons <= most) for c in choices]
        if all(len(a) for a in allowed):
            picks = [a[c.cores[a].argmin()] for c, a in zip(choices, allowed, strict=True)]
            taken = list(zip(choices, picks, strict=True))
            if sum(int(choice.cores[pick]) for choice, pick in taken) <= budget:
                return max(float(choice.work[pick] + idle * choice.swept[pick]) for choice, pick in taken)
    raise AssertionError("the largest boxes need no more cores than the budget")


def schedules(name: str, targets: tuple[str, ...]) -> list[dict[str, Any]]:
    """Both schedules on each target, by both objectives: what the firing rates let expect, or why it does not fit."""
    loaded = model(name)
    pixels = images(loaded.config.in_channels, loaded.config.image_size, SCHEDULED_IMAGES)
    compiled = compile_model(loaded, "hala_point", calibrate_on=pixels, check=False)
    found = []
    for target, objective, schedule in product(targets, SCHEDULED_BY, SCHEDULES):
        row: dict[str, Any] = {"model": name, "target": target, "objective": objective, "schedule": schedule}
        arguments = compiled.program.network, load_profile(target), compiled.rates, objective
        try:
            row |= map_explained(*arguments, schedule=schedule)[1]["expected"]
        except MappingError as error:
            row["refused"] = error.problem
        found.append(row)
    return found


def schedule_table(rows: list[dict[str, Any]]) -> Table:
    """A line a schedule."""
    columns = ("target", "objective", "schedule", *WAY_COLUMNS[1:])
    table = _table("schedules, expected from the firing rates", *columns)
    for row in rows:
        about = row["model"], row["target"], row["objective"], row["schedule"]
        if "refused" in row:
            table.add_row(*about, row["refused"])
            continue
        table.add_row(*about, *_of_way(row))
    return table


def tables(rows: list[dict[str, Any]]) -> list[Table]:
    """Compile, its stages and placement, for a person."""
    sizes = ("neurons", "synapses", "cores", "chips", "busiest core, us", "uniform cut")
    first = _table("compile, trace to .spk", "s", "CPU s", "MiB", *sizes)
    stages = _table(
        "CPU seconds a stage; quantize holds the run on the calibration images", *rows[0]["stage_cpu_seconds"]
    )
    title = "placement: packets x hops / heaviest link / heaviest link between chips, as shares of"
    placed = _table(title, *(peer.__name__ for peer in BASELINES), "mean hops")
    for row in rows:
        first.add_row(
            row["model"], f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{row['peak_mib']:,.0f}",
            f"{row['neurons']:,}", f"{row['synapses'] / 1e9:.2f} G", f"{row['cores']:,}",
            f"{row['chips']} of {row['chips_of_target']:,}", f"{row['busiest_core_us']:,.0f}",
            f"{row['uniform_us']:,.0f}",
        )  # fmt: skip
        stages.add_row(row["model"], *(f"{seconds:.1f}" for seconds in row["stage_cpu_seconds"].values()))
        shares = [" / ".join(f"{row['share_of'][p.__name__][m]:.2f}" for m in COMPARED) for p in BASELINES]
        placed.add_row(row["model"], *shares, f"{row['metrics']['mean_hops']:.2f}")
    return [first, stages, placed, _ways(rows)]


def _ways(rows: list[dict[str, Any]]) -> Table:
    """A line a way of the attentions."""
    table = _table("attentions, expected from the firing rates", *WAY_COLUMNS)
    for row in rows:
        ways = dict(row["attention"])
        chosen = ways.pop("chosen")
        for name, way in ways.items():
            shown = name + " *" * (name == chosen)
            table.add_row(row["model"], shown, *(["refused"] if "refused" in way else _of_way(way)))
    return table


def _of_way(way: dict[str, Any]) -> tuple[str, ...]:
    """What a mapping is expected to cost, column by column."""
    sizes = (f"{way[name]:,}" for name in ("cores", "chips", "sub_steps"))
    return (*sizes, f"{way['step_us']:,.0f}", f"{way['energy_uj'] / 1e3:,.1f}")


def _table(title: str, *columns: str) -> Table:
    table = Table("model", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


if __name__ == "__main__":
    main()
