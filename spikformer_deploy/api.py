"""What `import spikformer_deploy as sd` offers beside the functions of the rooms: the whole way in one call each."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.inference import results
from spikformer_deploy.inference.run import run as run_program
from spikformer_deploy.inference.timeline import first_image
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import Model, compile_model
from spikformer_deploy.report.write import write_report, write_timeline


class Run(results.Run):
    """The record of a program on a set of images (see inference.results.Run), which writes its own reports."""

    __slots__ = ()

    def report(self, path: str | Path, float_accuracy: float | None = None) -> None:
        """Write the HTML report."""
        write_report(self, Path(path), float_accuracy)

    def timeline(self, path: str | Path, progress: Progress = silent) -> None:
        """Write the first image's way through the chip, message by message, as a trace for the Perfetto UI."""
        write_timeline(first_image(self, progress), Path(path))


def compile(model: str | Path | Model, target: str = "loihi2", **options: Any) -> Program:
    """The Program of a model for a target; options and errors as compile_model, which gives the float graph too."""
    return compile_model(model, target, **options).program


def run(program: Program, data: str | Path | Any | ImageSet, **options: Any) -> Run:
    """Run `program` on `data`; options and errors as inference.run.run."""
    record = run_program(program, data, **options)
    return Run(**{field.name: getattr(record, field.name) for field in fields(record)})
