"""The command `random-checkpoint`: a published size with random weights, to try the others out at full size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.cli.options import as_json, output_path
from spikformer_deploy.cli.printing import print_facts, print_json, print_tables

if TYPE_CHECKING:
    from spikformer_deploy.nn.family import ModelConfig

IMAGES = 4
"""Random ones that --images writes: enough to try with, and quick to run."""


@click.command("random-checkpoint")
@click.argument("size", required=False)
@click.option(
    "-o", "--output", metavar="FILE", help="Checkpoint; default: the size + .pth, of our own layout .safetensors."
)
@click.option("--images", metavar="FILE", help=f"Write {IMAGES} random images (or recordings) for it too, as .npy.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Of weights and images.")
@click.option("--list", "listed", is_flag=True, help="Show all sizes, and write nothing.")
@as_json
def random_checkpoint_command(
    size: str | None, output: str | None, images: str | None, seed: int, listed: bool, as_json: bool
) -> None:
    """Write a published SIZE with random weights, as its official training script would (v1-4-384, qsd-8-384, ...).

    It compiles and runs as a trained one of that size does, and its neurons fire; its accuracy means nothing.  Sizes
    whose code is not public (Spikformer V2) are written as our own checkpoints.
    """
    if listed:
        if size is not None or output is not None or images is not None:
            raise click.UsageError("--list writes nothing: leave the rest out")
        _list(as_json)
        return
    if size is None:
        raise click.UsageError("give SIZE, or --list to see all of them")
    from spikformer_deploy.converters.checkpoints.random_weights import is_official, random_inputs, save_random, size_of

    official = is_official(size_of(size))
    checkpoint = output_path(size + (".pth" if official else ".safetensors") if output is None else output)
    pixels = None if images is None else output_path(images, str(checkpoint))
    if pixels is not None and pixels.suffix != ".npy":
        raise InputError(images or "", "images are written as .npy", "Give a name that ends so.")
    from spikformer_deploy.base.files import write_whole

    loaded = save_random(size, checkpoint, seed)
    facts = {
        "file": str(checkpoint),
        "size": size,
        **_facts(loaded.config),
        "parameters": sum(parameter.numel() for parameter in loaded.module.parameters()),
        "bytes": checkpoint.stat().st_size,
        "weights": f"random, seed {seed}",
        "layout": "official" if official else "ours",
    }
    if pixels is not None:
        import io

        import numpy as np

        content = io.BytesIO()
        np.save(content, random_inputs(loaded.config, IMAGES, seed))
        write_whole(pixels, content.getvalue())
        facts["images_file"] = str(pixels)
    print_facts(facts, as_json, str(checkpoint))


def _facts(config: ModelConfig) -> dict[str, Any]:
    """What a person picks a size by."""
    from spikformer_deploy.nn.zoo import FAMILIES

    shape = (*((config.time_steps,) if config.per_step else ()), config.in_channels, *(config.image_size,) * 2)
    return {
        "family": FAMILIES[config.family].title,
        "images": "x".join(map(str, shape)),
        "time_steps": config.time_steps,
        "classes": config.num_classes,
    }


def _list(as_json: bool) -> None:
    from rich.table import Table

    from spikformer_deploy.converters.checkpoints.random_weights import is_official, sizes

    rows = [
        {"size": name, **_facts(config), "layout": "official" if is_official(config) else "ours"}
        for name, config in sizes().items()
    ]
    if as_json:
        print_json(rows)
        return
    table = Table(title=f"{len(rows)} published sizes", title_justify="left")
    for column in rows[0]:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*map(str, row.values()))
    print_tables([table])
