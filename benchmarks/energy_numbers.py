"""Where the energy numbers of one model come apart: its operations, part by part, under every convention.

    python benchmarks/energy_numbers.py                       # V1-4-384, the CIFAR-10 row of the paper
    python benchmarks/energy_numbers.py spikingformer-4-384   # another published size
    python benchmarks/energy_numbers.py --packages            # with syops and NeuroBench themselves

The weights are random and the images are noise.  Batch normalization takes the statistics of one batch, so that neurons
fire at rates that are common for trained models; shapes, and with them all dense figures, are those of the paper.
The packages are in the extra `compare`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.accounting import operators
from spikformer_deploy.accounting.tools import NO_WORK, SYNAPTIC, Work
from spikformer_deploy.counts.operations import Operation, OperationCounts
from spikformer_deploy.nn import zoo
from spikformer_deploy.report import operations

MEGA = 1e6
BATCH = 8
"""Images whose statistics the normalization takes."""
SHOWN = ("spikformer-paper", "syops", "syops-counter", "syops-slots", "neurobench")
"""Conventions of the table by part."""


@click.command()
@click.argument("size", default="v1-4-384")
@click.option("--images", default=2)
@click.option("--packages", "beside", is_flag=True, help="Run syops and NeuroBench as well.")
def main(size: str, images: int, beside: bool) -> None:
    """Count, print by part and by convention."""
    config = zoo.named(size)
    torch.manual_seed(0)
    model = balanced(zoo.build(config), torch.randn(BATCH, config.in_channels, config.image_size, config.image_size))
    batch = torch.randn(images, config.in_channels, config.image_size, config.image_size)
    with sd.count_operations(model) as counting, torch.no_grad():
        model(batch)
    counts = counting.counts
    accounts = operators.accounts(counts)
    screen = Console(width=180)
    screen.print(operations.table(f"{size}, an image", operations.convention_rows(accounts)))
    screen.print(by_part(counts, accounts))
    neurobench = next(account for account in accounts if account.convention == "neurobench")
    screen.print(operations.figures_table(neurobench))
    if beside:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from support import packages

        screen.print("syops 0.0.5 itself:", packages.syops(model, batch))
        screen.print("NeuroBench 2.3.0 itself:", packages.neurobench(model, batch))


def balanced(model: nn.Module, batch: torch.Tensor) -> nn.Module:
    """The model, its normalization with the statistics of `batch`; in eval mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(batch)
    return model.eval()


def by_part(counts: OperationCounts, accounts: tuple[operators.Account, ...]) -> Table:
    """A row for all places whose names differ by numbers of blocks alone."""
    table = Table(title="by part, an image: MACs + ACs in millions", title_justify="left")
    shown = [account for account in accounts if account.convention in SHOWN]
    for name in ("part", "reads", "not zero", "dense", "met", *SHOWN):
        table.add_column(name, justify="left" if name in ("part", "reads") else "right")
    works = [{place.name: place.work for place in account.places} for account in shown]
    parts: dict[str, list[Operation]] = {}
    for operation in counts.operations:
        parts.setdefault(re.sub(r"\.\d+\b", ".*", operation.name), []).append(operation)
    for part, alike in parts.items():
        names = [operation.name for operation in alike]
        table.add_row(part, *_counts(alike, counts.images), *(_work(by_name, names) for by_name in works))
    return table


def _counts(alike: list[Operation], images: int) -> tuple[str, str, str, str]:
    """What they read, the share that is not zero, and millions of dense and met pairs an image."""
    if alike[0].kind not in operations.LOOKED_AT:
        return "", "", "", ""
    calls = [counted for operation in alike for counted in operation.counted]
    reads = dict.fromkeys(c.operand if c.other is None else f"{c.operand} x {c.other}" for c in calls)
    rate = sum(c.nonzero_in for c in calls) / sum(c.elements_in for c in calls)
    if alike[0].kind not in SYNAPTIC:
        return ", ".join(reads), f"{rate:.1%}", "", ""
    dense, met = (sum(getattr(c, name) for c in calls) / images / MEGA for name in ("dense_padded", "pairs"))
    return ", ".join(reads), f"{rate:.1%}", f"{dense:,.3f}", f"{met:,.3f}"


def _work(by_name: dict[str, Work], names: list[str]) -> str:
    """MACs and ACs in millions; empty where the convention does not see them."""
    if not any(name in by_name for name in names):
        return ""
    work = sum((by_name[name] for name in names if name in by_name), NO_WORK)
    return f"{work.macs / MEGA:,.3f} + {work.acs / MEGA:,.3f}"


if __name__ == "__main__":
    main()
