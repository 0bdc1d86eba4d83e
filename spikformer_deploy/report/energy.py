"""The tables of `spikdeploy energy`: what a float model costs under each convention, and layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.report.operations import (
    Row,
    caption,
    convention_rows,
    csv_text,
    figures_table,
    latex_text,
    layer_rows,
    left_out,
    sources,
    split,
    table,
)
from spikformer_deploy.report.tables import facts_table, with_scores

if TYPE_CHECKING:
    from spikformer_deploy.inference.energy import Counted


def energy_tables(counted: Counted, by_layer: bool) -> list[Table]:
    """Facts, then a row a convention or a row a layer, then conventions without prices in their own names."""
    counts = counted.counts
    facts = {
        "images": counts.images,
        "time_steps": counts.time_steps,
        "accuracy": counted.accuracy,
        "parameters": counts.parameters.parameters,
        "not_understood": ", ".join(counts.not_understood) or None,
    }
    tables = [facts_table(counted.model, with_scores(facts, counted.task, {"": counted.regression}))]
    rows = table_rows(counted, by_layer)
    if rows and by_layer:
        work, energies = split(rows)
        tables.append(table("operations of one image, by layer", work))
        tables += [table("energy of one image, by layer, estimated", group) for group in energies]
    elif rows:
        tables.append(table("one image, estimated", rows))
    return tables + [figures_table(account) for account in counted.accounts if account.energy is None]


def table_rows(counted: Counted, by_layer: bool) -> list[Row]:
    """The rows of the one table that files hold, too."""
    return layer_rows(counted.counts, counted.accounts) if by_layer else convention_rows(counted.accounts)


def write_tables(
    counted: Counted, by_layer: bool, csv_file: str | Path | None = None, latex_file: str | Path | None = None
) -> None:
    """The same rows as CSV and for LaTeX, with the conventions below it.

    Raises InputError where no convention has prices: the table would be empty.
    """
    rows = table_rows(counted, by_layer)
    asked = next((path for path in (csv_file, latex_file) if path is not None), None)
    unpriced = [account.convention for account in counted.accounts if account.energy is None]
    if asked is not None and unpriced and not any(account.energy for account in counted.accounts):
        problem = f"{', '.join(unpriced)} has no prices, so that there is no table of energies"
        raise InputError(str(asked), problem, "Its counts are in --json; or name a convention with prices.")
    if csv_file is not None:
        write_whole(Path(csv_file), csv_text(rows).encode())
    if latex_file is not None:
        label, note = "tab:energy-by-layer" if by_layer else "tab:energy", sources(counted.accounts)
        write_whole(Path(latex_file), latex_text(rows, caption(counted.counts), label=label, note=note).encode())


def sentences(counted: Counted) -> list[str]:
    """What each convention leaves out of this model; those that leave out the same are named together."""
    names: dict[str, list[str]] = {}
    for account in counted.accounts:
        what = left_out(account).removeprefix(f"{account.convention} leaves out ")
        if what:
            names.setdefault(what, []).append(account.convention)
    return [f"left out by {', '.join(conventions)}: {what}" for what, conventions in names.items()]
