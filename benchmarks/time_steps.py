"""What time steps buy: one recipe trained with T = 1, 2 and 4, each compiled and run on all test images.

    python benchmarks/time_steps.py [RECIPE.toml] [--output FOLDER] [--json FILE] [--plot FILE.svg] [--quick]

Accuracy, synaptic operations and energy are those of the compiled 8-bit programs on loihi2, exact engine, calibrated on
training images.  What is finished in the folder is not trained again.  The plot needs matplotlib (the extra `bench`).
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

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.data.read import read
from spikformer_deploy.inference.run import run
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.training.recipe import Recipe, read_recipe
from spikformer_deploy.training.supervised import train

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TIME_STEPS = (1, 2, 4)
TARGET = "loihi2"
CALIBRATED_ON = 256
SHOWN = (
    ("accuracy", "accuracy, %", 100.0),
    ("synaptic_ops", "synaptic operations an image, millions", 1e-6),
    ("energy_mj", "energy an image, mJ", 1.0),
)


@click.command()
@click.argument("recipe", default=str(EXAMPLES / "cifar10_time_steps.toml"))
@click.option("--output", default="time_steps", show_default=True, help="Checkpoints go here.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
@click.option("--plot", "plot_file", type=click.Path(dir_okay=False), help="Draw them: a name ending in .svg or .png.")
@click.option("--quick", is_flag=True, help="Digits, one epoch: shows that it runs.")
def main(recipe: str, output: str, json_file: str | None, plot_file: str | None, quick: bool) -> None:
    """Train, compile, run; print the table, write JSON, draw."""
    chosen = read_recipe(EXAMPLES / "digits_v2.toml" if quick else recipe)
    if quick:
        chosen = attrs.evolve(chosen, optimiser=attrs.evolve(chosen.optimiser, epochs=1, warmup_epochs=0.0))
    Path(output).mkdir(exist_ok=True)
    rows = [measured(chosen, steps, Path(output)) for steps in TIME_STEPS]
    Console().print(table(rows))
    if json_file:
        figures = {"cpu": cpu(), "threads": torch.get_num_threads(), "target": TARGET, "rows": rows}
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())
    if plot_file:
        plot(rows, plot_file)


def measured(recipe: Recipe, steps: int, folder: Path) -> dict[str, Any]:
    """Train with T = `steps`, compile, run on the test images."""
    checkpoint = folder / f"t{steps}.safetensors"
    if not checkpoint.exists():
        train(attrs.evolve(recipe, model=attrs.evolve(recipe.model, time_steps=steps)), checkpoint)
    loaded = load(checkpoint)
    images = read(recipe.data.source, loaded.preprocess, split="train").pixels
    some = images[np.linspace(0, len(images) - 1, CALIBRATED_ON).astype(int)]
    compiled = compile_model(loaded, TARGET, calibrate_on=some, check=False)
    result = run(compiled.program, recipe.data.source).to_dict()
    row = {
        "time_steps": steps,
        "float_accuracy": loaded.training["test_accuracy"],
        "accuracy": result["accuracy"],
        "images": result["images"],
        "firing_rate": result["firing_rate"],
        "synaptic_ops": result["synaptic_ops"],
        "energy_mj": result["energy_mj"]["profile"],
    }
    Console(stderr=True).print(row)
    return row


def table(rows: list[dict[str, Any]]) -> Table:
    """One line a number of time steps."""
    out = Table(title=f"{rows[0]['images']:,} test images, programs for {TARGET}")
    for column in ("T", "float, %", "8-bit program, %", "firing rate", "SOPs an image", "energy an image, mJ (range)"):
        out.add_column(column, justify="right")
    for row in rows:
        energy = row["energy_mj"]
        out.add_row(
            str(row["time_steps"]),
            f"{100 * row['float_accuracy']:.2f}",
            f"{100 * row['accuracy']:.2f}",
            f"{row['firing_rate']:.3f}",
            f"{row['synaptic_ops'] / 1e6:.2f} M",
            f"{energy['nominal']:.3g} ({energy['low']:.2g} to {energy['high']:.2g})",
        )
    return out


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Three panels over the time steps; whiskers where a figure has a range."""
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "time steps"  # the same picture from the same figures
    figure, panels = pyplot.subplots(1, len(SHOWN), figsize=(10, 3), layout="constrained")
    steps = [row["time_steps"] for row in rows]
    for panel, (name, title, scale) in zip(panels, SHOWN, strict=True):
        ranges = [row[name] if isinstance(row[name], dict) else dict.fromkeys(("low", "nominal", "high"), row[name])
                  for row in rows]  # fmt: skip
        middle = scale * np.array([r["nominal"] for r in ranges])
        around = scale * np.array([[r["nominal"] - r["low"], r["high"] - r["nominal"]] for r in ranges]).T
        panel.errorbar(steps, middle, around, marker="o", capsize=3, color="#2c728e")
        panel.set(title=title, xlabel="T", xticks=steps)
        panel.title.set_fontsize("medium")
        if name != "accuracy":
            panel.set_ylim(bottom=0)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


if __name__ == "__main__":
    main()
