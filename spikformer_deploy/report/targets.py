"""The targets as tables: a line each, or every number of one with its kind and source.  Needs no torch."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from spikformer_deploy.chips.profile import load_profile, profile_names, quantities
from spikformer_deploy.chips.quantity import Quantity


def target_tables(name: str | None) -> tuple[list[Table], Any]:
    """(tables, plain values) of all targets, or of the one called `name`."""
    return _all() if name is None else _one(name)


def _all() -> tuple[list[Table], Any]:
    """A line for each target."""
    table = Table(title="targets", title_justify="left")
    for column in ("name", "chips", "cores", "description"):
        table.add_column(column, justify="right" if column in ("chips", "cores") else "left")
    values = []
    for name in profile_names():
        profile = load_profile(name)
        chips = int(profile.board.chips)
        table.add_row(name, f"{chips:,}", f"{profile.cores:,}", profile.description)
        values.append({"name": name, "chips": chips, "cores": profile.cores, "description": profile.description})
    return [table], values


def _one(name: str) -> tuple[list[Table], Any]:
    """Every number of one target."""
    profile = load_profile(name)
    table = Table(title=f"{profile.name}: {profile.description}", title_justify="left")
    for column in ("number", "value", "range", "unit", "kind", "role", "calibrated on", "source"):
        table.add_column(column, justify="right" if column in ("value", "range") else "left")
    values = []
    for path, quantity in quantities(profile):
        span = f"{quantity.low:g} to {quantity.high:g}" if quantity.range else ""
        of = (quantity.unit, quantity.kind, quantity.role, quantity.calibrated_on or "", quantity.source)
        table.add_row(path, f"{quantity.value:g}", span, *of)
        values.append(quantity_values(path, quantity))
    return [table], {
        "name": profile.name,
        "description": profile.description,
        "corner": profile.corner,
        "numbers": values,
    }


def quantity_values(path: str, quantity: Quantity) -> dict[str, Any]:
    """A number of the hardware as plain values, with where it is from."""
    return {
        "path": path,
        "value": quantity.value,
        "low": quantity.low,
        "high": quantity.high,
        "unit": quantity.unit,
        "kind": quantity.kind,
        "role": quantity.role,
        "calibrated_on": quantity.calibrated_on,
        "source": quantity.source,
    }
