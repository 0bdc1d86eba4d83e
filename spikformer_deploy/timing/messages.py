"""Message-level time of images: every chip-wide step of the pipeline and of the fall-through, on all threads.

Steps are independent given the spikes, so that each is a task of its own; no more of them than threads are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from threading import Lock

import numba
import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.draws import CORNERS
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.slices import Geometry
from spikformer_deploy.timing import mesh
from spikformer_deploy.timing.machine import TICK_PS, Machine, machine
from spikformer_deploy.timing.mesh import Followed
from spikformer_deploy.timing.state import MachineAtRest, Records, at_rest, entries_of
from spikformer_deploy.timing.steps import Recorded, falling_through, pipelined
from spikformer_deploy.timing.times import StepTimes
from spikformer_deploy.timing.traffic import Traffic, check_timed, traffic
from spikformer_deploy.timing.wave import Wave, WaveTimes

MOST_IMAGES = 8
"""Images that are timed message by message, at most."""
MOST_MESSAGES = 30_000_000
"""Messages that these images send together, at most: some seconds on a few threads."""

PIPELINE = -1
"""In the place of a level: the step has all levels at work."""


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

    neurons, sending, link             how long the busiest sweep, axon-out unit and link work
    synapses, messages                 of the core that is busy longest with both, one after the other
    waiting                            what the step takes beyond the longest of these: queues, hops, stalled sweeps
    barrier, runtime, sub_steps        what is added
    """

    neurons: int
    sending: int
    synapses: int
    messages: int
    link: int
    waiting: int
    barrier: int
    runtime: int
    sub_steps: int

    @property
    def total(self) -> int:
        """Ticks of the step."""
        longest = max(self.neurons, self.sending, self.synapses + self.messages, self.link)
        return longest + self.waiting + self.barrier + self.runtime + self.sub_steps


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
    check_timed(mapping)
    sent = traffic(geometry, profile)
    chips = machine(profile, mapping)
    return Timer(sent, chips, at_rest(chips), entries_of(chips, sent.routes))


def images_to_time(images: int, messages: float) -> int:
    """How many of some images to time where each sends that many messages: at least the first."""
    affordable = int(MOST_MESSAGES / max(messages, 1))
    return max(1, min(images, MOST_IMAGES, affordable))


def time_image(timer: Timer, image: Recorded, messages_done: Followed = mesh.unheard) -> StepTimes:
    """Times of an image, all corners at their nominal values.

    messages_done  called with the messages that have been followed so far; all of them go twice: in the pipeline, and
                   in the fall-through
    """
    steps = timer.traffic.network.time_steps
    levels = timer.traffic.levels
    tasks = [(PIPELINE, step) for step in range(steps)]
    tasks += [(level, step) for level in range(levels) for step in range(steps)]
    count = _Count(messages_done)

    def run(task: tuple[int, int]) -> Step:
        level, step = task
        if level == PIPELINE:
            return time_step(timer, pipelined(timer.traffic, image, step), count.more)
        return time_step(timer, falling_through(timer.traffic, image, level, step), count.more)

    # compiled code runs without the lock, so that threads do
    with ThreadPoolExecutor(numba.get_num_threads()) as pool, count.ended():
        results = list(pool.map(run, tasks))
    return _times_of_image(timer, results[:steps], results[steps:])


class _Count:
    """How many messages all threads have followed; threads that count after the end are stopped by it."""

    def __init__(self, messages_done: Followed) -> None:
        self._done = 0
        self._lock = Lock()
        self._over = False
        self._messages_done = messages_done

    @contextmanager
    def ended(self) -> Iterator[None]:
        """What is raised in here, by Ctrl-C too, ends the threads that are at work."""
        try:
            yield
        finally:
            self._over = True

    def more(self, messages: int) -> None:
        """So many more have been followed."""
        if self._over:
            raise CancelledError
        with self._lock:
            self._done += messages
            self._messages_done(self._done)


def _times_of_image(timer: Timer, stream: list[Step], passing: list[Step]) -> StepTimes:
    """Times of an image from the steps of the pipeline, and those of the fall-through, level by level."""
    steps = len(stream)
    step_ns = np.array([step.parts.total for step in stream]) * (TICK_PS / 1000)
    passing_ns = np.array([step.parts.total for step in passing]) * (TICK_PS / 1000)
    fall_through_ns = passing_ns.reshape(-1, steps).sum(0)
    parts = {
        part.name: np.mean([[getattr(step.parts, part.name) for step in stream]], 1) * TICK_PS / 1000
        for part in fields(Parts)
    }
    busiest = [int(step.busy.argmax()) for step in stream]
    load = np.sum([step.load for step in stream], 0)
    return StepTimes(
        step_ns=np.broadcast_to(step_ns, (len(CORNERS), 1, steps)).copy(),
        fall_through_ns=np.broadcast_to(fall_through_ns, (len(CORNERS), 1, steps)).copy(),
        parts=parts,
        busiest=timer.machine.cores[busiest][None],
        depth=timer.traffic.layout.depth,
        runtime_ns=np.full(len(CORNERS), timer.machine.runtime * TICK_PS / 1000),
        chip_steps=1 + timer.traffic.sub_steps_pipelined,
        chip_steps_falling=timer.traffic.levels + sum(timer.traffic.sub_steps.values()),
        model="cycle",
        hop_counts=np.array([timer.machine.mesh.hops(load)], np.int64),
    )


def time_step(timer: Timer, waves: Iterable[Wave], followed: Followed = mesh.unheard) -> Step:
    """A chip-wide step, the first of `waves`, and its sub-steps; followed: as of mesh.run_wave."""
    machine = timer.machine
    end = machine.barrier + machine.runtime
    remaining = iter(waves)
    wave = next(remaining)
    main = _times(timer, wave, followed)
    neurons = wave.sweep
    sending = int(wave.sent.max(initial=0)) * machine.axon_out
    # it is as large as all sub-steps together
    del wave
    busy = main.busy.copy()
    load = main.load.copy()
    sub_steps = 0
    for times in (_times(timer, sub_step, followed) for sub_step in remaining):
        busy += times.busy
        load += times.load
        sub_steps += times.quiet + end
    # what the axon-in unit does for the messages of each core, whatever they make there
    axon_in = main.received * timer.traffic.message_in
    busiest = int(main.busy.argmax())
    messages = int(axon_in[busiest])
    synapses = int(main.busy[busiest]) - messages
    link = int((main.load * machine.mesh.occupied).max(initial=0))
    parts = Parts(
        neurons=neurons,
        sending=sending,
        synapses=synapses,
        messages=messages,
        link=link,
        waiting=main.quiet - max(neurons, sending, synapses + messages, link),
        barrier=machine.barrier,
        runtime=machine.runtime,
        sub_steps=sub_steps,
    )
    return Step(parts, busy, load)


def _times(timer: Timer, wave: Wave, followed: Followed) -> WaveTimes:
    """One wave; without messages it is over when the last sweep is."""
    if wave.messages:
        return mesh.run_wave(timer.at_rest, timer.entries, wave, followed=followed)[0]
    links = len(timer.machine.mesh.occupied)
    sweep_end = wave.sweep_ends
    none = np.zeros_like(sweep_end)
    return WaveTimes(sweep_end, none, none, none, none, np.zeros(links, np.int64))
