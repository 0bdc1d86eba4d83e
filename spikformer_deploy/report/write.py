"""Reports as files, each whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikformer_deploy.base.files import write_whole, writing
from spikformer_deploy.report.data import report_data
from spikformer_deploy.report.figures import PICTURES, alone, figures
from spikformer_deploy.report.html import render
from spikformer_deploy.report.perfetto import trace
from spikformer_deploy.report.sheets import TABLES, sheets

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run, Verdict
    from spikformer_deploy.inference.timeline import Timeline

ENDINGS = {"csv": (TABLES, "csv"), "tex": (TABLES, "tex"), "figures": (PICTURES, "svg")}
"""What a folder of each kind may get."""


def write_report(
    run: Run,
    path: Path,
    float_accuracy: float | None = None,
    *,
    title: str | None = None,
    verdict: Verdict | None = None,
) -> None:
    """Write the HTML report; options as of data.report_data.  Raises InputError where `path` cannot be written."""
    write_page(report_data(run, float_accuracy, title=title, verdict=verdict), path)


def write_page(data: dict[str, Any], path: Path) -> None:
    """Write the page of data.report_data.  Raises InputError where `path` cannot be written."""
    write_whole(path, render(data).encode())


def files_of(kind: str) -> list[str]:
    """The files that a folder of that kind of ENDINGS may get, or lose."""
    names, ending = ENDINGS[kind]
    return [f"{name}.{ending}" for name in names]


def write_files(data: dict[str, Any], folders: Mapping[str, Path | None]) -> list[str]:
    """Write tables and pictures of data.report_data into folders, and say what was written in words.

    folders  of "csv" and "tex", a file for each table, and of "figures"; None: none is written
    What an earlier report wrote there and this one has nothing for is removed: it would be taken for this one's.
    Raises InputError where a folder cannot be made or written to.
    """
    tables = sheets(data)
    kinds = {
        "csv": {f"{name}.csv": sheet.csv for name, sheet in tables.items()},
        "tex": {f"{name}.tex": sheet.latex for name, sheet in tables.items()},
        "figures": {f"{name}.svg": alone(picture) for name, picture in figures(data).items()},
    }
    written = []
    for kind, folder in folders.items():
        if folder is not None:
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for name in set(files_of(kind)) - kinds[kind].keys():
                    (folder / name).unlink(missing_ok=True)
            for name, text in kinds[kind].items():
                write_whole(folder / name, text.encode())
            written.append(f"{len(kinds[kind])} {'pictures' if kind == 'figures' else f'{kind} files'} in {folder}")
    return written


def write_timeline(timeline: Timeline, path: Path) -> None:
    """Write a timeline for the Perfetto UI.  Raises InputError where `path` cannot be written."""
    write_whole(path, trace(timeline.program, timeline.machine, timeline.records))
