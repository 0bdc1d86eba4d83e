"""What `import spikformer_deploy as sd` offers beside the functions of the rooms: the whole way in one call each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from spikformer_deploy.accounting.operators import account
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.inference import results
from spikformer_deploy.inference.run import run as run_program
from spikformer_deploy.inference.timeline import first_image
from spikformer_deploy.operators import count
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import Model, compile_model
from spikformer_deploy.report.operations import layer_rows, table
from spikformer_deploy.report.sweep import write_sweep
from spikformer_deploy.report.write import write_report, write_timeline
from spikformer_deploy.space.axes import space_of
from spikformer_deploy.space.sweep import sweep_space

if TYPE_CHECKING:
    from torch import nn


class Counting(count.Counting):
    """What was counted while a model ran (see operators.count.Counting), which makes its own table."""

    __slots__ = ()

    def table(self, *conventions: str) -> str:
        """What each place of the model costs an image, by these conventions: `spikformer-paper` if none is named."""
        counts, names = self.counts, conventions or ("spikformer-paper",)
        rows = layer_rows(counts, [account(counts, name) for name in names])
        text = StringIO()
        Console(file=text, width=200).print(table(f"An image, by {', '.join(names)}", rows))
        return text.getvalue()


class Run(results.Run):
    """The record of a program on a set of images (see inference.results.Run), which writes its own reports."""

    def report(self, path: str | Path, float_accuracy: float | None = None, title: str | None = None) -> None:
        """Write the HTML report; title: in place of model and target."""
        write_report(self, Path(path), float_accuracy, title=title)

    def timeline(self, path: str | Path, progress: Progress = silent) -> None:
        """Write the first image's way through the chip, message by message, as a trace for the Perfetto UI."""
        write_timeline(first_image(self, progress), Path(path))


@contextmanager
def count_operations(model: nn.Module, time_steps: int | None = None, images: int | None = None) -> Iterator[Counting]:
    """Count what the forward passes of `model` cost; arguments and errors as operators.count.count_operations."""
    with count.count_operations(model, time_steps, images) as counting:
        yield Counting(counting.mode)


def compile(model: str | Path | Model, target: str = "loihi2", **options: Any) -> Program:
    """The Program of a model for a target; options and errors as compile_model, which gives the float graph too."""
    return compile_model(model, target, **options).program


def sweep(
    models: str | Sequence[str],
    data: str,
    *,
    output: str | Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    allow_pickle: bool = False,
    progress: Progress = silent,
    **axes: Any,
) -> list[dict[str, Any]]:
    """Run every setting against every other: a row a point, as docs/sweep.md says.

    models, data  files or names; axes and the rest: fields of space.axes.Space, each axis a tuple of values
    output        a folder that gets rows, page and CSV file, and whose rows are not run again; None: no file is written
    Raises InputError for what cannot be read, and for a folder of another sweep.  What a target cannot hold is a row.
    """
    space = space_of(models=[models] if isinstance(models, str) else list(models), input=data, **axes)
    folder = None if output is None else Path(output)
    options: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "allow_pickle": allow_pickle}
    swept = sweep_space(space, folder, progress=progress, **options)
    if folder is not None:
        write_sweep(swept, folder)
    return swept.rows


def run(program: Program, data: str | Path | Any | ImageSet, **options: Any) -> Run:
    """Run `program` on `data`; options and errors as inference.run.run."""
    record = run_program(program, data, **options)
    return Run(**{field.name: getattr(record, field.name) for field in fields(record)})
