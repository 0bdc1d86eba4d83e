"""Message-level time of images: every chip-wide step of the pipeline and of the fall-through, on all threads.

Steps are independent given the spikes, so that each is a task of its own; no more of them than threads are in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TypeAlias

import numba
import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.slices import Geometry
from spikformer_deploy.timing import mesh
from spikformer_deploy.timing.machine import TICK_PS, Machine, machine
from spikformer_deploy.timing.state import MachineAtRest, Records, at_rest, entries_of
from spikformer_deploy.timing.times import StepTimes
from spikformer_deploy.timing.traffic import Spikes, Traffic, alone, check_spatial, pipelined, traffic
from spikformer_deploy.timing.wave import Wave, WaveTimes

Tell: TypeAlias = Callable[[int], None]

MOST_IMAGES, MOST_MESSAGES = 8, 30_000_000
"""So many images are timed message by message: some seconds on a few threads."""


@dataclass(frozen=True, slots=True, eq=False)
class Timer:
    """A network on a machine, ready to be timed."""

    traffic: Traffic
    machine: Machine
    at_rest: MachineAtRest
    entries: Records


@dataclass(frozen=True, slots=True)
class Parts:
    """Ticks of one chip-wide step with its sub-steps.

    neurons, synapses, messages, link  how long the busiest sweep, synapse unit, axon-in unit and link work
    waiting                            what the step takes beyond the longest of these: queues, hops, stalled sweeps
    barrier, sub_steps                 what is added
    """

    neurons: int
    synapses: int
    messages: int
    link: int
    waiting: int
    barrier: int
    sub_steps: int

    @property
    def total(self) -> int:
        """Ticks of the step."""
        longest = max(self.neurons, self.synapses, self.messages, self.link)
        return longest + self.waiting + self.barrier + self.sub_steps


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A chip-wide step with its sub-steps: ticks, (cores,) ticks that each serves messages, (links,) messages."""

    parts: Parts
    busy: Int
    load: Int


def timer(geometry: Geometry, profile: Profile) -> Timer:
    """What timing the network of `geometry`, which must have a mapping, on `profile` needs."""
    mapping = geometry.mapping
    assert mapping is not None
    check_spatial(mapping)
    there, around = traffic(geometry, profile), machine(profile, mapping)
    return Timer(there, around, at_rest(around), entries_of(there.routes))


def images_to_time(images: int, messages: float) -> int:
    """How many of some images to time where one of them sends so many messages: at least the first."""
    return max(1, min(images, MOST_IMAGES, int(MOST_MESSAGES / max(messages, 1))))


def time_image(timer: Timer, spikes: Spikes, tell: Tell = lambda messages: None) -> StepTimes:
    """Times of an image, all corners at their nominal values.

    spikes  by population: (T, C, Y, X)
    tell    called with the messages that have been followed so far; all of them go twice: in the pipeline, and alone
    """
    steps, levels = timer.traffic.network.time_steps, timer.traffic.levels
    whole = [(-1, step) for step in range(steps)]
    single = [(level, step) for level in range(levels) for step in range(steps)]
    done = 0

    def task(which: tuple[int, int]) -> Step:
        level, step = which
        waves = pipelined(timer.traffic, spikes, step) if level < 0 else alone(timer.traffic, spikes, level, step)
        return time_step(timer, waves, count)

    def count(messages: int) -> None:
        nonlocal done
        done += messages
        tell(done)

    with ThreadPoolExecutor(numba.get_num_threads()) as pool:
        found = list(pool.map(task, whole + single))
    nanoseconds = np.array([step.parts.total for step in found]) * (TICK_PS / 1000)
    passing = nanoseconds[steps:].reshape(levels, steps).sum(0)
    stream = found[:steps]
    means = {f.name: float(np.mean([getattr(step.parts, f.name) for step in stream])) for f in fields(Parts)}
    busiest = [int(step.busy.argmax()) for step in stream]
    return StepTimes(
        np.broadcast_to(nanoseconds[:steps], (3, 1, steps)).copy(),
        np.broadcast_to(passing, (3, 1, steps)).copy(),
        {name: ticks * TICK_PS / 1000 for name, ticks in means.items()},
        timer.machine.cores[busiest][None],
        timer.traffic.layout.depth,
        "cycle",
        timer.machine.mesh.hops(sum((step.load for step in stream), np.zeros_like(stream[0].load))),
    )


def time_step(timer: Timer, waves: list[Wave], tell: Tell = lambda messages: None) -> Step:
    """A chip-wide step, waves[0], and its sub-steps; `tell` is called with the messages of each when it is done."""
    found = [_times(timer, wave, tell) for wave in waves]
    barrier, main = timer.machine.barrier, found[0]
    per_message = timer.traffic.message_in
    occupied = timer.machine.mesh.occupied
    work = {
        "neurons": waves[0].sweep,
        "synapses": int((main.busy - main.received * per_message).max(initial=0)),
        "messages": int((main.received * per_message).max(initial=0)),
        "link": int((main.load * occupied).max(initial=0)),
    }
    waiting = main.quiet - max(work.values())
    parts = Parts(**work, waiting=waiting, barrier=barrier, sub_steps=sum(t.quiet + barrier for t in found[1:]))
    return Step(parts, np.sum([t.busy for t in found], 0), np.sum([t.load for t in found], 0))


def _times(timer: Timer, wave: Wave, tell: Tell) -> WaveTimes:
    """One wave; without messages it is over when the last sweep is."""
    if wave.messages:
        times = mesh.run_wave(timer.at_rest, timer.entries, wave)[0]
        tell(wave.messages)
        return times
    cores = np.repeat(np.arange(len(wave.tail)), np.diff(wave.first))
    ends = np.bincount(cores, wave.gap, len(wave.tail)).astype(np.int64) + wave.tail
    none = np.zeros_like(ends)
    return WaveTimes(ends, none, none, none, none, np.zeros(len(timer.machine.mesh.occupied), np.int64))
