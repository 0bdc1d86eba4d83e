"""What happened when in the chip-wide steps of one image: intervals of every core and crossings of every link."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.compiled import single
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.timing import mesh
from spikformer_deploy.timing.messages import Timer
from spikformer_deploy.timing.steps import Recorded, pipelined
from spikformer_deploy.timing.wave import Log, Wave, WaveTimes

DETAIL = 50
"""Intervals closer than this part of a step are drawn as one: a core has some tens a step, whatever its messages."""
BINS = 200
"""Parts of a chip-wide step in each of which the crossings of links are counted."""
BINS_OF_SUB_STEP = 4
"""The same of a sub-step, which is short."""


@dataclass(frozen=True, slots=True, eq=False)
class Busy:
    """Intervals of cores, close ones joined.

    core      (n,) index into Machine.cores
    start     (n,) ticks from the start of the step
    end       (n,) likewise
    messages  (n,) messages in the interval
    """

    core: Int
    start: Int
    end: Int
    messages: Int


@dataclass(frozen=True, slots=True, eq=False)
class StepRecord:
    """One chip-wide step or sub-step.

    stalls, sends, serves  sweeps that wait, axon-out units and synapse units at work
    crossings              (links, bins) messages, each bin `bin_ticks` long
    """

    name: str
    times: WaveTimes
    stalls: Busy
    sends: Busy
    serves: Busy
    crossings: Int
    bin_ticks: int


def record(timer: Timer, image: Recorded, progress: Progress = silent) -> Iterator[StepRecord]:
    """All chip-wide steps of the pipeline for one image, each followed by its sub-steps.

    progress  called with (steps and sub-steps done, all of them, a note)
    """
    steps = timer.traffic.network.time_steps
    waves = 1 + timer.traffic.sub_steps_pipelined
    for step in range(steps):
        detail = 0
        for number, wave in enumerate(pipelined(timer.traffic, image, step)):
            name = f"step {step}" if number == 0 else f"step {step}, sub-step {number}"
            record = _record(timer, wave, name, detail, BINS_OF_SUB_STEP if number else BINS)
            # sub-steps are drawn in the detail of their step: by their own short time they would be crowded
            detail = detail or record.times.quiet // DETAIL
            progress(step * waves + number + 1, steps * waves, "")
            yield record


def _record(timer: Timer, wave: Wave, name: str, detail: int, bins: int) -> StepRecord:
    """One wave; detail: ticks, 0 where the wave's own time says it."""
    # once to know how long it takes, and so how long a bin is; then again for the log
    times, _, _ = mesh.run_wave(timer.at_rest, timer.entries, wave)
    bin_ticks = times.quiet // bins + 1
    _, log, crossings = mesh.run_wave(timer.at_rest, timer.entries, wave, log=True, bins=bins, bin_ticks=bin_ticks)
    assert log is not None
    detail = detail or times.quiet // DETAIL
    routes = timer.traffic.routes
    target = routes.target[log.entry].astype(np.int64)
    served = log.begin + routes.service[log.entry]
    return StepRecord(
        name=name,
        times=times,
        stalls=_joined(*stalls(timer, wave, log), detail),
        sends=_joined(log.source, log.birth - timer.machine.axon_out, log.birth, detail),
        serves=_joined(target, log.begin, served, detail),
        crossings=crossings,
        bin_ticks=bin_ticks,
    )


def stalls(timer: Timer, wave: Wave, log: Log) -> tuple[Int, Int, Int]:
    """(core, start, end) of all intervals in which a sweep waits for its axon-out queue."""
    # the axon-out unit of a core takes messages in the order of its sweep
    order = np.lexsort((log.birth, log.source))
    started = log.birth[order] - timer.machine.axon_out
    due = np.empty_like(started)
    handed = np.empty_like(started)
    _hand_over(wave.first, wave.gap, wave.routes, started, timer.machine.sending, due, handed)
    waited = handed > due
    return log.source[order][waited], due[waited], handed[waited]


@single
def _hand_over(first: Int, gap: Int, routes: Int, started: Int, sending: int, due: Int, handed: Int) -> None:
    """When each message is due in its sweep, and when it is handed over; started: taken by the axon-out unit."""
    message = 0
    for core in range(len(first) - 1):
        clock = 0
        first_of_core = message
        for firing in range(first[core], first[core + 1]):
            clock += gap[firing]
            for _ in range(routes[firing, 0], routes[firing, 1]):
                due[message] = clock
                if message - first_of_core >= sending:
                    # the queue has a place when the message `sending` before has been taken
                    clock = max(clock, started[message - sending])
                handed[message] = clock
                message += 1


def _joined(core: Int, start: Int, end: Int, detail: int) -> Busy:
    """Intervals of each core that are at most `detail` ticks apart as one."""
    order = np.lexsort((start, core))
    core = core[order]
    start = start[order]
    end = end[order]
    # a core's intervals do not overlap: each begins after the one before has ended
    fresh = np.ones(len(core), bool)
    fresh[1:] = (core[1:] != core[:-1]) | (start[1:] - end[:-1] > detail)
    heads = np.flatnonzero(fresh)
    last = np.append(heads, len(core))[1:]
    return Busy(core[heads], start[heads], end[last - 1], last - heads)
