"""The tables of `spikdeploy energy`: what a float model costs under each convention, and layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from spikformer_deploy.accounting.operators import Account
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.counts.operations import OperationCounts
from spikformer_deploy.report.operations import (
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
    without_noise,
)
from spikformer_deploy.report.tables import facts_table, with_scores

if TYPE_CHECKING:
    from spikformer_deploy.inference.energy import Counted


def energy_tables(counted: Counted, by_layer: bool) -> list[Table]:
    """Facts, a row a convention, a row a layer where asked for, and conventions without prices in their own names."""
    counts = counted.counts
    facts = {
        "images": counts.images,
        "time_steps": counts.time_steps,
        "accuracy": counted.accuracy,
        "parameters": counts.parameters.parameters,
        "not_understood": ", ".join(counts.not_understood) or None,
    }
    tables = [facts_table(counted.model, with_scores(facts, counted.task, {"": counted.regression}))]
    if any(account.energy for account in counted.accounts):
        tables.append(table("one image, estimated", convention_rows(counted.accounts)))
    if by_layer:
        work, energies = split(layer_rows(counts, counted.accounts))
        tables.append(table("operations of one image, by layer", work))
        tables += [table("energy of one image, by layer, estimated", group) for group in energies]
    return tables + [figures_table(account) for account in counted.accounts if account.energy is None]


def write_tables(
    counts: OperationCounts,
    accounts: Sequence[Account],
    by_layer: bool,
    *,
    csv_file: str | Path | None = None,
    latex_file: str | Path | None = None,
) -> None:
    """A row a convention, or a row a layer, as CSV and for LaTeX, with the conventions below it.

    Raises InputError where no convention has prices: the table would be empty.
    """
    rows = layer_rows(counts, accounts) if by_layer else convention_rows(accounts)
    asked = next((path for path in (csv_file, latex_file) if path is not None), None)
    unpriced = [account.convention for account in accounts if account.energy is None]
    if asked is not None and unpriced and not any(account.energy for account in accounts):
        problem = f"{', '.join(unpriced)} has no prices, so that there is no table of energies"
        raise InputError(str(asked), problem, "Its counts are in --json; or name a convention with prices.")
    if csv_file is not None:
        write_whole(Path(csv_file), csv_text(without_noise(rows)).encode())
    if latex_file is not None:
        label, note = "tab:energy-by-layer" if by_layer else "tab:energy", sources(accounts)
        write_whole(Path(latex_file), latex_text(rows, caption(counts), label=label, note=note).encode())


def sentences(counted: Counted) -> list[str]:
    """What each convention leaves out of this model; those that leave out the same are named together."""
    names: dict[str, list[str]] = {}
    for account in counted.accounts:
        what = left_out(account).removeprefix(f"{account.convention} leaves out ")
        if what:
            names.setdefault(what, []).append(account.convention)
    return [f"left out by {', '.join(conventions)}: {what}" for what, conventions in names.items()]
