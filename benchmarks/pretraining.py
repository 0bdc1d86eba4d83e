"""Does masked pre-training pay?  One pre-trained encoder fine-tuned, and the same trained from random weights.

    python benchmarks/pretraining.py [PRETRAIN.toml TRAIN.toml] [--seeds 3] [--output FOLDER] [--json FILE] [--quick]

The encoder is pre-trained once, by the seed of its recipe; fine-tuning and training from scratch take one seed after
another.  From scratch, the recipe of fine-tuning is used without its encoder and its layer decay, and with the
normalisation gain that pre-training started from.  What is finished in the folder is not trained again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import attrs
import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from engine import cpu

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.training.pretrain import pretrain
from spikformer_deploy.training.recipe import Recipe, Start, read_recipe
from spikformer_deploy.training.supervised import train

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@click.command()
@click.argument("pretraining", default=str(EXAMPLES / "cifar10_pretrain.toml"))
@click.argument("training", default=str(EXAMPLES / "cifar10_few_labels.toml"))
@click.option("--seeds", default=3, show_default=True)
@click.option("--output", default="pretraining", show_default=True, help="Checkpoints go here.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
@click.option("--quick", is_flag=True, help="Digits, two seeds, two epochs: shows that it runs.")
def main(pretraining: str, training: str, seeds: int, output: str, json_file: str | None, quick: bool) -> None:
    """Train, print the table, write JSON."""
    if quick:
        pretraining, training = (str(EXAMPLES / f"digits_{name}.toml") for name in ("pretrain", "finetune"))
        seeds = 2
    first, second = (_short(read_recipe(p)) if quick else read_recipe(p) for p in (pretraining, training))
    Path(output).mkdir(exist_ok=True)
    encoder = Path(output) / "encoder.safetensors"
    if not encoder.exists():
        pretrain(first, encoder)
    second = attrs.evolve(second, start=attrs.evolve(second.start, encoder=str(encoder)))
    rows = [compared(first, second, seed, Path(output)) for seed in range(1, seeds + 1)]
    figures = {
        "cpu": cpu(),
        "threads": torch.get_num_threads(),
        "pretraining_loss": load(encoder).training["loss"],
        "rows": rows,
    }
    Console().print(table(rows))
    if json_file:
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


def compared(first: Recipe, second: Recipe, seed: int, folder: Path) -> dict[str, Any]:
    """Accuracies of one seed; `second` starts from the encoder."""
    scratch = attrs.evolve(second, start=Start(norm_gain=first.start.norm_gain))
    scratch = attrs.evolve(scratch, optimiser=attrs.evolve(second.optimiser, layer_decay=1.0))
    row: dict[str, Any] = {"seed": seed}
    for name, recipe in (("pretrained", second), ("scratch", scratch)):
        target = folder / f"{name}-{seed}.safetensors"
        if not target.exists():
            train(_seeded(recipe, seed), target)
        row[name] = load(target).training["test_accuracy"]
        row[f"{name}_train"] = load(target).training["train_accuracy"]
    Console(stderr=True).print(row)
    return row


def table(rows: list[dict[str, Any]]) -> Table:
    """Accuracies by seed, their mean and standard deviation."""
    out = Table(title="test accuracy, percent")
    for column in ("seed", "from masked pre-training", "from scratch"):
        out.add_column(column, justify="right")
    ways = [[100 * row[name] for row in rows] for name in ("pretrained", "scratch")]
    for row, *values in zip(rows, *ways, strict=True):
        out.add_row(str(row["seed"]), *(f"{v:.2f}" for v in values))
    if len(rows) > 1:
        out.add_row("mean +- deviation", *(f"{mean(way):.2f} +- {stdev(way):.2f}" for way in ways))
    return out


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    return attrs.evolve(recipe, optimiser=attrs.evolve(recipe.optimiser, seed=seed))


def _short(recipe: Recipe) -> Recipe:
    return attrs.evolve(recipe, optimiser=attrs.evolve(recipe.optimiser, epochs=2, warmup_epochs=0.0))


if __name__ == "__main__":
    main()
