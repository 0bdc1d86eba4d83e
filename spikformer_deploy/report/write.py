"""Reports as files, each whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.report.data import report_data
from spikformer_deploy.report.html import render
from spikformer_deploy.report.perfetto import trace

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run
    from spikformer_deploy.inference.timeline import Timeline


def write_report(run: Run, path: Path, float_accuracy: float | None = None) -> None:
    """Write the HTML report.  Raises InputError where `path` cannot be written."""
    write_whole(path, render(report_data(run, float_accuracy)).encode())


def write_timeline(timeline: Timeline, path: Path) -> None:
    """Write a timeline for the Perfetto UI.  Raises InputError where `path` cannot be written."""
    write_whole(path, trace(timeline.program, timeline.machine, timeline.records))
