"""What happened when in the chip-wide steps of one image: intervals of every core and crossings of every link."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.timing import mesh
from spikformer_deploy.timing.messages import Timer
from spikformer_deploy.timing.traffic import Spikes, pipelined
from spikformer_deploy.timing.wave import Log, Wave, WaveTimes

DETAIL = 50
"""Intervals closer than this part of a step are drawn as one: a core has some tens a step, whatever its messages."""
BINS = 200
"""Crossings of links are counted in so many parts of a chip-wide step; in a sub-step in BINS_OF_SUB_STEP."""
BINS_OF_SUB_STEP = 4


@dataclass(frozen=True, slots=True, eq=False)
class Busy:
    """Intervals of cores, close ones joined: (n,) core, start and end in ticks from the start of the step, messages."""

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


def record(timer: Timer, spikes: Spikes, progress: Progress = silent) -> Iterator[StepRecord]:
    """All chip-wide steps of the pipeline for one image, each followed by its sub-steps.

    progress  called with (steps and sub-steps done, all of them, a note)
    """
    steps = timer.traffic.network.time_steps
    for step in range(steps):
        waves = pipelined(timer.traffic, spikes, step)
        detail = 0
        for number, wave in enumerate(waves):
            name = f"step {step}" if number == 0 else f"step {step}, sub-step {number}"
            found = _record(timer, wave, name, detail, BINS_OF_SUB_STEP if number else BINS)
            detail = detail or found.times.quiet // DETAIL
            progress(step * len(waves) + number + 1, steps * len(waves), "")
            yield found


def _record(timer: Timer, wave: Wave, name: str, detail: int, bins: int) -> StepRecord:
    times, _, _ = mesh.run_wave(timer.at_rest, timer.entries, wave)
    bin_ticks = times.quiet // bins + 1
    _, log, crossings = mesh.run_wave(timer.at_rest, timer.entries, wave, True, bins, bin_ticks)
    assert log is not None
    detail = detail or times.quiet // DETAIL
    routes, axon_out = timer.traffic.routes, timer.machine.axon_out
    target = routes.target[log.entry].astype(np.int64)
    return StepRecord(
        name,
        times,
        _joined(*stalls(timer, wave, log), detail),
        _joined(log.source, log.birth - axon_out, log.birth, detail),
        _joined(target, log.begin, log.begin + routes.service[log.entry], detail),
        crossings,
        bin_ticks,
    )


def stalls(timer: Timer, wave: Wave, log: Log) -> tuple[Int, Int, Int]:
    """(core, start, end) of all intervals in which a sweep waits for its axon-out queue."""
    order = np.lexsort((log.birth, log.source))
    started = log.birth[order] - timer.machine.axon_out
    due = np.empty_like(started)
    handed = np.empty_like(started)
    _hand_over(wave.first, wave.gap, wave.routes, started, timer.machine.sending, due, handed)
    waited = handed > due
    return log.source[order][waited], due[waited], handed[waited]


@njit(cache=True, nogil=True)
def _hand_over(first: Int, gap: Int, routes: Int, started: Int, sending: int, due: Int, handed: Int) -> None:
    """When each message is due in its sweep, and when it is handed over; started: taken by the axon-out unit."""
    message = 0
    for core in range(len(first) - 1):
        clock, base = 0, message
        for firing in range(first[core], first[core + 1]):
            clock += gap[firing]
            for _ in range(routes[firing, 0], routes[firing, 1]):
                due[message] = clock
                if message - base >= sending:
                    clock = max(clock, started[message - sending])
                handed[message] = clock
                message += 1


def _joined(core: Int, start: Int, end: Int, detail: int) -> Busy:
    """Intervals of each core that are at most `detail` ticks apart as one."""
    order = np.lexsort((start, core))
    core, start, end = core[order], start[order], end[order]
    # a core's intervals do not overlap: each begins after the one before has ended
    fresh = np.ones(len(core), bool)
    fresh[1:] = (core[1:] != core[:-1]) | (start[1:] - end[:-1] > detail)
    heads = np.flatnonzero(fresh)
    last = np.append(heads, len(core))[1:]
    return Busy(core[heads], start[heads], end[last - 1], last - heads)
