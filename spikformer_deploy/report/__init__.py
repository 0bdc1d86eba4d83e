"""Figures for people: tables for the terminal, one self-contained HTML page, and the same content as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikformer_deploy.inference import Run


def report_data(run: Run, float_accuracy: float | None = None) -> dict[str, Any]:
    """Everything that the report shows, as plain values for JSON."""
    from spikformer_deploy.report.data import gather

    return gather(run, float_accuracy)


def write_report(run: Run, path: Path, float_accuracy: float | None = None) -> None:
    """Write the HTML report, whole or not at all.  Raises InputError where `path` cannot be written."""
    from spikformer_deploy.files import write_whole
    from spikformer_deploy.report.html import render

    write_whole(path, render(report_data(run, float_accuracy)).encode())
