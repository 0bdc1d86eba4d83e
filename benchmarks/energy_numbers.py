"""Where the energy numbers of one model come apart: its operations, part by part, under every convention.

    python benchmarks/energy_numbers.py                       # V1-4-384, the CIFAR-10 row of the paper
    python benchmarks/energy_numbers.py spikingformer-4-384   # another published size
    python benchmarks/energy_numbers.py --syops --neurobench  # with the packages themselves beside ours

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
from spikformer_deploy.accounting.tools import SYNAPTIC
from spikformer_deploy.counts.operations import OperationCounts
from spikformer_deploy.nn import zoo
from spikformer_deploy.report import operations

GIGA, MEGA = 1e9, 1e6
BATCH = 8


@click.command()
@click.argument("size", default="v1-4-384")
@click.option("--images", default=2)
@click.option("--syops", "with_syops", is_flag=True)
@click.option("--neurobench", "with_neurobench", is_flag=True)
def main(size: str, images: int, with_syops: bool, with_neurobench: bool) -> None:
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
    for account in accounts:
        screen.print(operations.left_out(account))
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "compare"))
    if with_syops:
        import packages

        screen.print("syops 0.0.5 itself:", packages.syops(model, batch))
    if with_neurobench:
        import packages

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
    """A row for all places whose names differ by numbers alone: dense MACs, spikes met, and the figures in M."""
    shown = [a for a in accounts if a.convention in ("spikformer-paper", "syops", "syops-counter", "neurobench")]
    table = Table(title="by part, an image: multiply-accumulates + additions in M", title_justify="left")
    for name in ("part", "reads", "not zero", "dense MACs", "synaptic operations", *(a.convention for a in shown)):
        table.add_column(name, justify="left" if name in ("part", "reads") else "right")
    works = {a.convention: {p.name: p.work for p in a.places} for a in shown}
    parts: dict[str, list[str]] = {}
    for name in [o.name for o in counts.operations] + [r.name for r in counts.neurons]:
        parts.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    known = {o.name: o for o in counts.operations}
    for part, names in parts.items():
        calls = [c for name in names if name in known for c in known[name].counted]
        synaptic = [c for name in names if name in known and known[name].kind in SYNAPTIC for c in known[name].counted]
        cells = [
            "" if not any(name in works[a.convention] for name in names) else _work(works[a.convention], names)
            for a in shown
        ]
        read = sum(c.elements_in for c in calls)
        table.add_row(
            part,
            ", ".join(dict.fromkeys(c.operand if c.other is None else f"{c.operand} x {c.other}" for c in calls)),
            f"{sum(c.nonzero_in for c in calls) / read:.1%}" if read else "",
            f"{sum(c.dense_padded for c in synaptic) / counts.images / MEGA:,.2f}" if synaptic else "",
            f"{sum(c.pairs for c in synaptic) / counts.images / MEGA:,.2f}" if synaptic else "",
            *cells,
        )
    return table


def _work(works: dict[str, operators.Work], names: list[str]) -> str:
    """Multiply-accumulates + additions, in M."""
    macs = sum(works[name].macs for name in names if name in works)
    acs = sum(works[name].acs for name in names if name in works)
    return f"{macs / MEGA:,.3f} + {acs / MEGA:,.3f}"


if __name__ == "__main__":
    main()
