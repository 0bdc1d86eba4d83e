"""Accuracy, synaptic operations and energies after 1, 2, ... T time steps, out of one run of T steps.

They are those of a program of fewer steps with the same integers and the same mapping (network/steps.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spikformer_deploy.accounting.energy import Duration, Energy, account
from spikformer_deploy.accounting.figures import range_values
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.counts.steps import first_steps
from spikformer_deploy.network.steps import first_steps as network_of_first
from spikformer_deploy.timing.spread import spread

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run

MOST_TIMED = 8
"""Numbers of steps that are timed: with more steps, these are as many, evenly spaced."""


def timed(time_steps: int) -> tuple[int, ...]:
    """After which steps of T times and energies are worked out, ascending; T is the last of them."""
    count = min(time_steps, MOST_TIMED)
    return tuple(time_steps * number // count for number in range(1, count + 1))


@dataclass(frozen=True, slots=True, eq=False)
class AfterStep:
    """What is known after the first `step` steps, 1 to T: means an image.

    accuracy  None where the images have no labels
    energies  by the closed form of the times, as those of a run; None of steps that are not `timed`
    """

    step: int
    accuracy: float | None
    synops: float
    energies: tuple[Energy, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """An entry of `by_step` in the JSON of a run."""
        energies = None
        if self.energies is not None:
            energies = {energy.convention: range_values(energy.total) for energy in self.energies}
        return {
            "step": self.step,
            "accuracy": self.accuracy,
            "synaptic_ops": self.synops,
            "energy_mj": energies,
        }


def by_step(run: Run) -> tuple[AfterStep, ...]:
    """What a run says of each of its steps."""
    events = run.events
    synops = np.cumsum(events.synops_by_step)
    durations = _durations(run)
    return tuple(
        AfterStep(
            step=step,
            accuracy=None if run.labels is None else float((run.classes[:, step - 1] == run.labels).mean()),
            synops=int(synops[step - 1]) / events.images,
            energies=_energies(run, step, durations),
        )
        for step in range(1, events.time_steps + 1)
    )


def _durations(run: Run) -> dict[int, Duration]:
    """How long an image of a number of steps takes, by that number; {} where no timing was asked for."""
    timing = run.timing
    if timing is None:
        return {}
    program = run.program
    profile = hardware.under(program.profile, run.runtime)
    every = dict(zip(timed(run.events.time_steps), (*run.shorter, timing.times), strict=True))
    spreads = {
        steps: spread(
            first_steps(run.events, steps), network_of_first(program.network, steps), program.mapping, profile
        )
        for steps in every
        if steps < run.events.time_steps
    }
    spreads[run.events.time_steps] = timing.spread
    return {steps: Duration(times, spreads[steps]) for steps, times in every.items()}


def _energies(run: Run, step: int, durations: dict[int, Duration]) -> tuple[Energy, ...] | None:
    if step not in timed(run.events.time_steps):
        return None
    program = run.program
    network, events = network_of_first(program.network, step), first_steps(run.events, step)
    if not durations:
        return account(network, events)
    return account(network, events, program.mapping, hardware.under(program.profile, run.runtime), durations[step])
