"""Compile of the published sizes, and their placement beside row-major, random, greedy and a Hilbert curve alone.

    python benchmarks/mapping.py [--quick] [--json FILE] [--threads N]

Each model is compiled, trace to .spk, in a process of its own (weights are random, calibration takes 4 images, the
comparison of spikes after each pass is left out).  Work is that of the busiest core in a step, expected from the firing
rates, beside a uniform cut: boxes of the same most neurons for all layers, on the same number of cores.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
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

from spikformer_deploy.errors import MappingError
from spikformer_deploy.files import write_whole
from spikformer_deploy.hardware import load_profile
from spikformer_deploy.inference import peak_memory_mib
from spikformer_deploy.mapping.objective import Cuts
from spikformer_deploy.mapping.partition import cuts, sites_of
from spikformer_deploy.mapping.place import NONE, greedy, hilbert, random, row_major
from spikformer_deploy.mapping.route import metrics, nets_of
from spikformer_deploy.pipeline import compile_model

CASES = (
    ("v1-4-384", "kapoho_point"),
    ("v1-8-512", "hala_point"),
    ("v2-8-512", "hala_point"),
    ("v2-16-768", "hala_point"),
)
TIGHT = ("v2-8-512", "alia_point")
"""Does it fit the smaller board with the fewest cores?"""
BASELINES = (row_major, random, greedy, hilbert)
COMPARED = ("packet_hops", "max_link_load", "max_chip_link_load")


@click.command()
@click.option("--quick", is_flag=True, help="V1-4-384 alone.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
def main(quick: bool, json_file: str | None, threads: int) -> None:
    """Measure, print tables, write JSON."""
    rows = []
    for name, target in CASES[:1] if quick else CASES:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (name, target, threads)))
        Console(stderr=True).print(rows[-1])
    figures: dict[str, Any] = {"cpu": cpu(), "threads": threads, "rows": rows}
    if len(rows) > 1:
        sizes, seconds = (np.log([row[key] for row in rows]) for key in ("neurons", "seconds"))
        figures["growth"] = float(np.polyfit(sizes, seconds, 1)[0])
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            figures["tight"] = pool.apply(fits, TIGHT)
    for shown in tables(rows):
        Console().print(shown)
    if "growth" in figures:
        Console().print(f"seconds grow as neurons to the power {figures['growth']:.2f}; {figures['tight']}")
    if json_file:
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


def measure(name: str, target: str, threads: int) -> dict[str, Any]:
    """Compile time and memory, placement beside the baselines, work beside the uniform cut."""
    torch.set_num_threads(threads)
    loaded, profile = model(name), load_profile(target)
    pixels = images(loaded.config.in_channels, loaded.config.image_size, 4)
    start = time.monotonic()
    compiled = compile_model(loaded, target, calibrate_on=pixels, check=False)
    with tempfile.TemporaryDirectory() as folder:
        compiled.program.save(Path(folder) / "program.spk")
    seconds, peak = time.monotonic() - start, peak_memory_mib()
    mapping, network, rates = compiled.program.mapping, compiled.program.network, compiled.rates
    expected = compiled.program.provenance["mapping"]["expected"]
    nets = nets_of(network, mapping.sites, mapping.boxes, rates)
    peers = {p.__name__: metrics(nets, p(len(mapping.boxes), nets, profile, NONE), profile) for p in BASELINES}
    serial = next(site.serial for site in mapping.sites if site.serial)
    sites = sites_of(network, profile.core, serial)
    choices = [cuts(network, site, profile, rates, 0, serial) for site in sites]
    return {
        "model": name,
        "target": target,
        "seconds": seconds,
        "stage_seconds": compiled.stages,
        "peak_mib": peak,
        "neurons": sum(p.size for p in network),
        "cores": len(mapping.boxes),
        "chips": mapping.chips,
        "chips_of_target": int(profile.board.chips),
        "attention": serial,
        "metrics": mapping.metrics,
        "share_of": {
            peer: {m: mapping.metrics[m] / (found[m] or 1.0) for m in COMPARED} for peer, found in peers.items()
        },
        "busiest_core_us": expected["busiest_core_us"],
        "uniform_us": uniform(choices, len(mapping.boxes), profile.time.neuron_idle.value * expected["sub_steps"])
        / 1e3,
    }


def uniform(choices: list[Cuts], budget: int, idle: float) -> float:
    """Work in ns of the busiest core where all layers have boxes of the same most neurons and as many cores suffice."""
    for most in np.unique(np.concatenate([c.neurons for c in choices])):
        allowed = [np.flatnonzero(c.neurons <= most) for c in choices]
        if all(len(a) for a in allowed):
            picks = [a[c.cores[a].argmin()] for c, a in zip(choices, allowed, strict=True)]
            if sum(int(c.cores[i]) for c, i in zip(choices, picks, strict=True)) <= budget:
                return max(float(c.work[i] + idle * c.neurons[i]) for c, i in zip(choices, picks, strict=True))
    raise AssertionError("the largest boxes need no more cores than the budget")


def fits(name: str, target: str) -> str:
    """Whether the model fits the target with the fewest cores, or by how much not."""
    loaded = model(name)
    pixels = images(loaded.config.in_channels, loaded.config.image_size, 4)
    try:
        mapping = compile_model(loaded, target, calibrate_on=pixels, check=False, objective="cores").program.mapping
    except MappingError as error:
        return f"{name} on {target}: {error}"
    return f"{name} fits {target}: {len(mapping.boxes):,} cores"


def tables(rows: list[dict[str, Any]]) -> list[Table]:
    """Compile and placement, for a person."""
    first = Table(title="compile, trace to .spk")
    for column in ("model", "s", "of it map", "MiB", "neurons", "cores", "chips", "busiest core, us", "uniform cut"):
        first.add_column(column, justify="left" if column == "model" else "right")
    second = Table(title="placement: packets x hops / heaviest link / heaviest link between chips, as shares of")
    for column in ("model", *(peer.__name__ for peer in BASELINES), "mean hops"):
        second.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        first.add_row(
            row["model"], f"{row['seconds']:.1f}", f"{row['stage_seconds']['map']:.1f}", f"{row['peak_mib']:,.0f}",
            f"{row['neurons']:,}", f"{row['cores']:,}", f"{row['chips']} of {row['chips_of_target']:,}",
            f"{row['busiest_core_us']:,.0f}", f"{row['uniform_us']:,.0f}",
        )  # fmt: skip
        shares = [" / ".join(f"{row['share_of'][p.__name__][m]:.2f}" for m in COMPARED) for p in BASELINES]
        second.add_row(row["model"], *shares, f"{row['metrics']['mean_hops']:.2f}")
    return [first, second]


if __name__ == "__main__":
    main()
