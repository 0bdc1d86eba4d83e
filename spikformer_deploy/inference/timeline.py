"""The way of one image through the chip, step by step: its spikes are recorded once more, and timed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.chips.profile import under
from spikformer_deploy.counts.events import geometry
from spikformer_deploy.inference.messages import recorded
from spikformer_deploy.inference.results import Run
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.machine import Machine
from spikformer_deploy.timing.messages import timer
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
    layout = geometry(program.network, program.mapping)
    timed = timer(layout, program.profile)
    image = next(recorded(program, run.data, layout, 1))
    return Timeline(program, timed.machine, record(timed, image, progress))
