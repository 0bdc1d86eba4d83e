"""What early exit saves: bundled digits models, and a recipe trained with several seeds.

    python benchmarks/early_exit.py [RECIPE.toml] [--seeds 1,2] [--max-drop 0.3] [--output FOLDER] [--json FILE]
                                    [--quick]

The margin is chosen on images that are kept apart, and the test images are looked at once.  Of the digits there are
360 that no training saw: each half is tested with the margin that the other half chose.  What is finished in the folder
is not trained again.  Without a recipe: the digits only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from engine import cpu

import spikformer_deploy as sd
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.data.read import read
from spikformer_deploy.inference.exits import ExitRun
from spikformer_deploy.inference.results import Run
from spikformer_deploy.training.data import Labelled, read_training
from spikformer_deploy.training.recipe import Recipe, read_recipe
from spikformer_deploy.training.supervised import train

TARGET = "loihi2"
DIGITS = ("digits-v1", "digits-v2")
CALIBRATED_ON = 256
QUICK_IMAGES = 64
Images = tuple[np.ndarray, np.ndarray]
"""Pixels and labels."""


@click.command()
@click.argument("recipe", required=False)
@click.option("--seeds", default="1", show_default=True, help="Seeds of the recipe, with commas between.")
@click.option("--max-drop", default=0.3, show_default=True, help="Points of accuracy that may be lost.")
@click.option("--output", default="early_exit", show_default=True, help="Checkpoints go here.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
@click.option("--quick", is_flag=True, help="A few digits: shows that it runs.")
def main(recipe: str | None, seeds: str, max_drop: float, output: str, json_file: str | None, quick: bool) -> None:
    """Choose, run, print the table, write JSON."""
    rows = [row for name in DIGITS for row in of_digits(name, max_drop, quick)]
    if recipe is not None and not quick:
        Path(output).mkdir(exist_ok=True)
        rows += [trained(read_recipe(recipe), int(seed), max_drop, Path(output)) for seed in seeds.split(",")]
    Console().print(table(rows))
    if json_file:
        figures = {
            "cpu": cpu(),
            "threads": torch.get_num_threads(),
            "target": TARGET,
            "max_drop": max_drop,
            "rows": rows,
        }
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


def of_digits(name: str, max_drop: float, quick: bool) -> list[dict[str, Any]]:
    """A row for each half of the digits, tested with what the other half chose."""
    program = sd.compile(name, target=TARGET, check=False)
    images = read("digits", program.preprocess, limit=QUICK_IMAGES if quick else None)
    assert images.labels is not None
    halves = [(images.pixels[first::2], images.labels[first::2]) for first in (0, 1)]
    return [row_of(f"{name}, half {i + 1}", program, halves[1 - i], halves[i], max_drop) for i in (0, 1)]


def trained(recipe: Recipe, seed: int, max_drop: float, folder: Path) -> dict[str, Any]:
    """Train with a seed, compile, choose on the images that training kept apart, run on the test images."""
    checkpoint = folder / f"seed{seed}.safetensors"
    if not checkpoint.exists():
        train(attrs.evolve(recipe, optimiser=attrs.evolve(recipe.optimiser, seed=seed)), checkpoint)
    data = read_training(recipe.data)
    assert isinstance(data.training, Labelled)
    assert isinstance(data.validation, Labelled)
    some = data.training.pixels[np.linspace(0, len(data.training) - 1, CALIBRATED_ON).astype(int)]
    program = sd.compile(checkpoint, target=TARGET, calibrate_on=some, check=False)
    test = read(recipe.data.test or recipe.data.source, program.preprocess)
    assert test.labels is not None
    apart = (data.validation.pixels, data.validation.labels)
    return row_of(f"{checkpoint.stem}", program, apart, (test.pixels, test.labels), max_drop)


def row_of(name: str, program: sd.Program, validation: Images, test: Images, max_drop: float) -> dict[str, Any]:
    """The margin of the validation images on the test images, beside all steps."""
    chosen = sd.choose_exit(program, validation, max_drop=max_drop)
    whole = sd.run(program, test)
    early = sd.run(program, test, early_exit=chosen.threshold)
    assert whole.times is not None
    assert whole.accuracy is not None
    assert early.accuracy is not None
    assert early.latency is not None
    row = {
        "model": name,
        "images": len(test[1]),
        "time_steps": program.network.time_steps,
        "margin": chosen.threshold,
        "accuracy": {"all": whole.accuracy, "exit": early.accuracy},
        "drop": 100 * (whole.accuracy - early.accuracy),
        "mean_steps": early.mean_steps,
        "exits": early.exits,
        "synaptic_ops": {"all": whole.events.synops, "exit": early.synaptic_ops},
        "latency_us": {
            "all, pipelined": float(whole.times.latency_us[NOMINAL]),
            "all, fall-through": float(whole.times.fall_through_us[NOMINAL]),
            "exit": early.latency.nominal,
        },
        "energy_mj": {
            "all, pipelined": energy_of(whole),
            # of the validation images: a run of all steps has energies of the pipeline
            "all, fall-through": chosen.tried[-1].energy_mj,
            "exit": energy_of(early),
        },
        "validation": chosen.to_dict(),
    }
    Console(stderr=True).print({key: value for key, value in row.items() if key != "validation"})
    return row


def energy_of(found: Run | ExitRun) -> float:
    """Nominal mJ within the chips."""
    return next(e for e in found.energies if e.convention == "profile").total.nominal


def table(rows: list[dict[str, Any]]) -> Table:
    """One line a model; nominal figures an image."""
    out = Table(title=f"early exit on {TARGET}: test images; all steps, then early exit")
    for column in ("model", "images", "accuracy, %", "drop, points", "mean steps", "SOPs", "latency, us", "energy, mJ"):
        out.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        right, synops, latency, energy = (row[key] for key in ("accuracy", "synaptic_ops", "latency_us", "energy_mj"))
        out.add_row(
            row["model"],
            f"{row['images']:,}",
            f"{100 * right['all']:.2f}, {100 * right['exit']:.2f}",
            f"{row['drop']:.2f}",
            f"{row['mean_steps']:.3f} of {row['time_steps']}",
            f"{synops['all'] / 1e6:.2f} M, {synops['exit'] / 1e6:.2f} M",
            ", ".join(f"{value:.0f}" for value in latency.values()),
            ", ".join(f"{value:.3g}" for value in energy.values()),
        )
    return out


if __name__ == "__main__":
    main()
