"""The command `machine`: what the engine finds here, what its kernels cost, and which of them will run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from spikformer_deploy.cli.options import as_json
from spikformer_deploy.cli.printing import print_json, print_tables

if TYPE_CHECKING:
    from rich.table import Table

FACTS = ("processor", "cores", "threads", "instructions", "int8_exact_up_to", "costs_file", "forced")


@click.command("machine")
@as_json
def machine_command(as_json: bool) -> None:
    """Measure what the kernels of the engine cost on this machine, keep it, and show what will run.

    It takes about two seconds.  Runs choose between kernels by these costs; integers never depend on them.
    """
    from spikformer_deploy.executors.fast.machine import describe_machine

    found = describe_machine()
    if as_json:
        print_json(found)
    else:
        print_tables([_facts(found), _costs(found), _kernels(found)])


def _facts(found: dict[str, Any]) -> Table:
    from spikformer_deploy.report.tables import facts_table

    limits = {f"{name}_limited_to": value for name, value in found["limits"].items() if value}
    shown = {name: found[name] for name in FACTS if found[name] is not None}
    return facts_table("machine", {**shown, **limits, **found["versions"]})


def _costs(found: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title="costs, nanoseconds of one thread", title_justify="left")
    for column in found["costs_ns"]:
        table.add_column(column, justify="right")
    table.add_row(*(f"{cost:.4g}" for cost in found["costs_ns"].values()))
    return table


def _kernels(found: dict[str, Any]) -> Table:
    """What runs, by the largest message of a layer."""
    from rich.table import Table

    table = Table(title="kernels of a 3x3 convolution of 128 channels", title_justify="left")
    for column in ("messages up to", "dense", "by events below a mean of"):
        table.add_column(column, justify="left" if column == "dense" else "right")
    for row in found["kernels"]:
        most = "more" if row is found["kernels"][-1] else str(row["messages_up_to"])
        table.add_row(most, row["dense"], f"{row['events_below_mean']:.3f}")
    return table
