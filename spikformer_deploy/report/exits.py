"""Tables of a run with early exit, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from spikformer_deploy.accounting.figures import by_boundary, interval
from spikformer_deploy.accounting.uncertainty import Range
from spikformer_deploy.report.tables import facts_table, number

if TYPE_CHECKING:
    from spikformer_deploy.inference.exits import ExitRun

FACTS = ("images", "accuracy", "synaptic_ops", "dense_macs", "backend", "kernels", "seconds")
"""Of the JSON of such a run, what its first table shows."""


def exit_tables(result: ExitRun) -> list[Table]:
    """Accuracy and mean steps, the images by the step after which they left, time and energies, what deciding takes."""
    values = result.to_dict()
    exits = values["early_exit"]
    facts = facts_table("run with early exit", {name: values[name] for name in FACTS})
    facts.add_row("margin", number(result.margin))
    facts.add_row("mean steps", f"{result.mean_steps:.3f} of {exits['time_steps']}")
    tables = [facts, _by_step(result), _figures(result)]
    if exits["deciding"] is not None:
        decision = exits["deciding"]
        shown = {
            "cores": decision["cores"],
            "memory_words": decision["memory_words"],
            **{name: count for name, count in decision["events"].items()},
            "us": decision["us"],
            "basis": decision["source"],
        }
        tables.append(facts_table("a decision after a time step (derived)", shown))
    return tables


def _by_step(result: ExitRun) -> Table:
    """A row for each step after which images left."""
    table = Table(title="images by the time step after which they left", title_justify="left")
    for name in ("step", "images", "share", "accuracy", "synaptic ops"):
        table.add_column(name, justify="right")
    for row in result.to_dict()["early_exit"]["after"]:
        share = f"{row['images'] / len(result.steps):.1%}"
        table.add_row(
            *(number(row[n]) for n in ("step", "images")), share, number(row["accuracy"]), number(row["synaptic_ops"])
        )
    return table


def _figures(result: ExitRun) -> Table:
    """Time and energies of the mean image."""
    title = "an image, mean (estimates; its time steps fall through the layers: a pipeline would save nothing)"
    table = Table(title=title, title_justify="left")
    for name in ("", "likely", "nominal", "envelope"):
        table.add_column(name, justify="left" if not name else "right")
    if result.latency is not None:
        table.add_row(f"latency, us, under {result.runtime}", *_cells(result.latency))
    for energy in result.energies:
        for boundary, within in by_boundary(energy).items():
            table.add_row(f"{energy.convention}: {boundary}, mJ", *_cells(within.total))
    return table


def _cells(figure: Range) -> tuple[str, str, str]:
    """The likely interval, the nominal value, the envelope."""
    return interval(*figure.likely), number(figure.nominal), interval(figure.low, figure.high)
