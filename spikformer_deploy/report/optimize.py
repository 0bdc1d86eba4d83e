"""What `optimize` found, for people: before and after, the front of all that was tried, and two report pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.report.spreadsheet import csv_of
from spikformer_deploy.report.tables import number
from spikformer_deploy.report.write import write_report

if TYPE_CHECKING:
    from spikformer_deploy.optimization.optimize import Optimized, Tried

BEFORE, AFTER, TABLE = "before.html", "after.html", "tried.csv"
FIGURES = {
    "accuracy": "accuracy",
    "synaptic_ops": "synaptic operations",
    "neuro_cores_mj": "cores and network on chip, mJ",
    "energy_mj": "chips, mJ",
    "memory_words": "memory words",
    "cores": "cores",
    "mean_steps": "time steps",
}
"""Of a row, in words; an image, nominal."""


def result_table(found: Optimized) -> Table:
    """Before, after each step that was kept, and how many times less that is."""
    kept = [row for row in found.rows if row.kept]
    table = Table(title="an image on the validation images, nominal", title_justify="left")
    table.add_column("")
    for row in kept:
        table.add_column(f"{row.step}: {row.setting}", justify="right", overflow="fold")
    table.add_column("before / after", justify="right")
    for name, words in FIGURES.items():
        values = [getattr(row, name) for row in kept]
        table.add_row(words, *(number(value) for value in values), _ratio(name, values[0], values[-1]))
    return table


def _ratio(name: str, before: float | None, after: float | None) -> str:
    if name == "accuracy" or not before or not after:
        return ""
    return f"{before / after:.2f}"


def front_table(found: Optimized) -> Table:
    """What no other beats in both accuracy and energy."""
    table = Table(title="what was tried and nothing beats in accuracy and energy", title_justify="left")
    for heading in ("step", "setting", "accuracy", "drop, points", "chips, mJ"):
        table.add_column(heading, justify="left" if heading in ("step", "setting") else "right")
    for row in sorted((found.rows[i] for i in found.front), key=lambda row: (row.energy_mj or 0.0, -row.accuracy)):
        table.add_row(row.step, row.setting, f"{row.accuracy:.2%}", f"{row.drop:.2f}", number(row.energy_mj))
    return table


def write_optimized(found: Optimized, folder: Path) -> None:
    """Write the reports of both programs on the validation images, and all rows as CSV."""
    write_report(found.run_before, folder / BEFORE, title="Before")
    write_report(found.run, folder / AFTER, title="After")
    lines = [("step", "setting", *FIGURES, "drop", "kept"), *(_line(row) for row in found.rows)]
    write_whole(folder / TABLE, csv_of(lines).encode())


def _line(row: Tried) -> tuple[object, ...]:
    return (row.step, row.setting, *(getattr(row, name) for name in FIGURES), row.drop, row.kept)
