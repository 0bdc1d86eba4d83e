"""Figures for people: tables for the terminal, one self-contained HTML page, and the same content as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikformer_deploy.base.progress import Progress, silent

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run


def report_data(run: Run, float_accuracy: float | None = None) -> dict[str, Any]:
    """Everything that the report shows, as plain values for JSON."""
    from spikformer_deploy.report.data import gather

    return gather(run, float_accuracy)


def write_timeline(run: Run, path: Path, progress: Progress = silent) -> None:
    """Write the timeline of the first image of `run`; progress: see timeline.record.

    Raises InputError where `path` cannot be written.
    """
    from spikformer_deploy.base.files import write_whole
    from spikformer_deploy.counts.events import geometry
    from spikformer_deploy.inference.messages import recorded
    from spikformer_deploy.report.perfetto import trace
    from spikformer_deploy.timing.messages import timer
    from spikformer_deploy.timing.timeline import record

    program = run.program
    there = geometry(program.network, program.mapping)
    timed = timer(there, program.profile)
    spikes = next(recorded(program, run.data, there, 1))
    write_whole(path, trace(program, timed.machine, record(timed, spikes, progress)))


def write_report(run: Run, path: Path, float_accuracy: float | None = None) -> None:
    """Write the HTML report, whole or not at all.  Raises InputError where `path` cannot be written."""
    from spikformer_deploy.base.files import write_whole
    from spikformer_deploy.report.html import render

    write_whole(path, render(report_data(run, float_accuracy)).encode())
