"""The way of one image through the chip, step by step: its spikes are recorded once more, and timed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.chips.profile import under
from spikformer_deploy.inference.messages import ImageTimes
from spikformer_deploy.inference.results import Run
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.machine import Machine
from spikformer_deploy.timing.timeline import StepRecord, record


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """What happened when on the chips.

    records  of the chip-wide steps, in order; they are made while they are read, and can be read once
    """

    program: Program
    machine: Machine
    records: Iterable[StepRecord]


def first_image(run: Run, progress: Progress = silent) -> Timeline:
    """The timeline of the first image of a run; progress  as of timing.timeline.record."""
    program = replace(run.program, profile=under(run.program.profile, run.runtime))
    first = ImageTimes(program, run.data)
    return Timeline(program, first.timer.machine, record(first.timer, first.recorded(slice(0, 1)), progress))
