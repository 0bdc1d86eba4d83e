"""A run with a bar and notes on standard error, as several commands have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikformer_deploy.cli.printing import print_notes, progress_bar

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run


def run_of(program: str, data: str, quiet: bool, **options: Any) -> Run:
    """Run a program file; quiet: without a bar."""
    from spikformer_deploy.inference.run import run
    from spikformer_deploy.pipeline.program import Program

    loaded = Program.load(program)
    with progress_bar("run", quiet) as progress:
        result = run(loaded, data, progress=progress, **options)
    print_notes(result.notes)
    return result
