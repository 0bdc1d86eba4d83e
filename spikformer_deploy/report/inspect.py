"""Any file as tables: a program, a model, a hardware profile."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from spikformer_deploy.errors import InputError
from spikformer_deploy.mapping.mapping import SECTIONS
from spikformer_deploy.program import Program, is_program
from spikformer_deploy.report.tables import compile_summary, facts_table
from spikformer_deploy.report.targets import target_tables


def inspect_file(file: str, loading: dict[str, Any]) -> tuple[list[Table], Any]:
    """(tables, plain values) of what `file` holds; told by its content.  Raises InputError for others."""
    path = Path(file)
    if path.suffix == ".toml":
        return target_tables(file)
    if path.is_dir():
        raise InputError(file, "it is a folder", "Give a program, a model or a profile.")
    if path.is_file() and is_program(path):
        return _program(Program.load(path), file)
    return _model(file, loading)


def _program(program: Program, file: str) -> tuple[list[Table], Any]:
    summary = compile_summary(program, file, 0.0, 0.0)
    for name in ("seconds", "peak_memory_mib"):
        summary.pop(name)
    sites = []
    table = Table(title="cores", title_justify="left")
    for column in ("site", "shape", "slices", *(f"{s} words" for s in SECTIONS), "serial"):
        table.add_column(column, justify="left" if column in ("site", "serial") else "right")
    for index, site in enumerate(program.mapping.sites):
        chosen = program.mapping.slices_of(index)
        words = program.mapping.words[chosen].sum(0)
        shape = "x".join(map(str, site.shape))
        serial = f"{site.serial}, {site.sub_steps} sub-steps" if site.serial else ""
        table.add_row(site.name, shape, str(len(chosen)), *(f"{w:,}" for w in words), serial)
        sites.append(
            {"name": site.name, "slices": len(chosen), "words": dict(zip(SECTIONS, map(int, words), strict=True))}
        )
    values = {
        "kind": "program",
        **summary,
        "sites": sites,
        "labels": list(program.labels),
        "provenance": program.provenance,
    }
    settings = facts_table("provenance", {k: str(v) for k, v in program.provenance.items() if k != "training"})
    return [facts_table(file, summary), table, settings], values


def _model(file: str, loading: dict[str, Any]) -> tuple[list[Table], Any]:
    from spikformer_deploy.converters.checkpoint import load

    loaded = load(file, **loading)
    parameters = sum(int(np.prod(p.shape)) for p in loaded.module.parameters())
    training = {k: v for k, v in loaded.training.items() if isinstance(v, (int, float, str))}
    values = {
        "kind": "model",
        "parameters": parameters,
        **asdict(loaded.config),
        "sha256": loaded.sha256,
        "labels": list(loaded.labels),
        "training": training,
        "notes": list(loaded.notes),
    }
    shown = {k: v for k, v in values.items() if k not in ("labels", "training", "notes")} | training
    return [facts_table(file, shown)], values
