"""The timeline of one image as a trace for the Perfetto UI (the Chrome trace event format, JSON).

Each chip is a process, each core has three tracks: its sweep with its stalls, its axon-out unit, its synapses.  One
more process holds the chip-wide steps with their barriers, and the load of the heaviest links as counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spikformer_deploy.base.json_text import written
from spikformer_deploy.timing.machine import TICK_PS, Machine
from spikformer_deploy.timing.timeline import StepRecord

if TYPE_CHECKING:
    from spikformer_deploy.pipeline.program import Program

Event: TypeAlias = dict[str, Any]

CHIP_WIDE = 1_000_000
"""The process of what is not of a single chip."""
BUSIEST_LINKS = 32
"""Counters of that many links: the heaviest ones."""
COMPASS = ("east", "west", "north", "south")
"""Directions of the links of a router, in the order of their numbers."""
MICROSECONDS = TICK_PS / 1e6
"""Of a tick."""
SWEEP, AXON_OUT, SYNAPSES = range(3)
"""Tracks of a core, from its first one on."""
TRACK_NAMES = ("sweep", "axon-out", "synapses")
PERCENT = 100


def trace(program: Program, machine: Machine, records: Iterable[StepRecord]) -> bytes:
    """The JSON of a trace; times in microseconds from the first step on."""
    records = list(records)
    # a step begins when the barrier of the one before it has passed
    starts = np.cumsum([0, *(r.times.quiet + machine.barrier + machine.runtime for r in records)]).tolist()
    events = [*_names(program, machine)]
    for record, start in zip(records, starts, strict=False):
        events += _chip_wide(machine, record, start)
        events += _cores(program, machine, record, start)
    events += _links(machine, records, starts)
    described = {"model": "message by message", "target": program.profile.name, "tick_ps": TICK_PS, "estimate": True}
    content = {"traceEvents": events, "displayTimeUnit": "ns", "otherData": described}
    return written(content, compact=True).encode()


def _names(program: Program, machine: Machine) -> Iterator[Event]:
    """Names of processes and tracks."""
    mapping = program.mapping
    yield _meta("process_name", CHIP_WIDE, 0, "chip-wide steps and links")
    for chip in np.unique(machine.cores // mapping.cores_per_chip).tolist():
        yield _meta("process_name", chip + 1, 0, f"chip {chip}")
    for core in machine.cores.tolist():
        chip, track = _place(program, core)
        site = mapping.sites[mapping.boxes[int(np.flatnonzero(mapping.cores == core)[0]), 0]]
        for number, name in enumerate(TRACK_NAMES):
            yield _meta("thread_name", chip, track + number, f"core {core} {name}: {site.name}")


def _place(program: Program, core: int) -> tuple[int, int]:
    """(process, first track) of a core."""
    chip, within = divmod(core, program.mapping.cores_per_chip)
    # Perfetto keeps process 0 and track 0 for itself
    return chip + 1, len(TRACK_NAMES) * within + 1


def _meta(name: str, process: int, track: int, value: str) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": track, "args": {"name": value}}


def _slice(name: str, process: int, track: int, start: int, ticks: int, **facts: int) -> Event:
    event = {"ph": "X", "name": name, "pid": process, "tid": track, "ts": start * MICROSECONDS}
    return {**event, "dur": ticks * MICROSECONDS, **({"args": facts} if facts else {})}


def _chip_wide(machine: Machine, record: StepRecord, start: int) -> Iterator[Event]:
    """The step and its barrier."""
    times = record.times
    yield _slice(record.name, CHIP_WIDE, 1, start, times.quiet, messages=int(times.received.sum()))
    yield _slice("barrier", CHIP_WIDE, 1, start + times.quiet, machine.barrier)
    if machine.runtime:
        yield _slice("runtime", CHIP_WIDE, 1, start + times.quiet + machine.barrier, machine.runtime)


def _cores(program: Program, machine: Machine, record: StepRecord, start: int) -> Iterator[Event]:
    """Sweeps, stalls, axon-out and synapses; of sub-steps only those cores that have something to send or to serve."""
    sends = np.unique(record.sends.core).tolist()
    busy = sends if "sub-step" in record.name else range(len(machine.cores))
    places = [_place(program, core) for core in machine.cores.tolist()]
    for core in busy:
        chip, track = places[core]
        stalled = int(record.times.stalled[core])
        yield _slice("soma sweep", chip, track, start, int(record.times.sweep_end[core]), stalled_ticks=stalled)
    parts = (
        ("stall", record.stalls, SWEEP),
        ("axon-out", record.sends, AXON_OUT),
        ("synapse service", record.serves, SYNAPSES),
    )
    for name, intervals, number in parts:
        columns = (intervals.core, intervals.start, intervals.end, intervals.messages)
        for core, first, end, messages in zip(*(c.tolist() for c in columns), strict=True):
            chip, track = places[core]
            yield _slice(name, chip, track + number, start + first, end - first, messages=messages)


def _links(machine: Machine, records: list[StepRecord], starts: list[int]) -> Iterator[Event]:
    """How much of the time the heaviest links are occupied, in percent."""
    load = np.zeros(len(machine.mesh.occupied), np.int64)
    for record in records:
        load += record.times.load * machine.mesh.occupied
    heaviest = np.argsort(-load, kind="stable")[:BUSIEST_LINKS]
    for link in heaviest[load[heaviest] > 0].tolist():
        name = link_name(machine, link)
        occupied = int(machine.mesh.occupied[link])
        for record, start in zip(records, starts, strict=False):
            for number, crossed in enumerate(record.crossings[link].tolist()):
                share = round(PERCENT * crossed * occupied / record.bin_ticks, 1)
                at = (start + number * record.bin_ticks) * MICROSECONDS
                yield {"ph": "C", "name": name, "pid": CHIP_WIDE, "ts": at, "args": {"occupied, %": share}}


def link_name(machine: Machine, link: int) -> str:
    """What a link connects, for a person."""
    mesh = machine.mesh
    # first those between routers, then one to each core in use, then those between chips
    if link < mesh.first_local:
        router, direction = divmod(link, len(COMPASS))
        return f"link {COMPASS[direction]} of router ({router % mesh.width}, {router // mesh.width})"
    if link < mesh.first_local + len(machine.cores):
        return f"link to core {machine.cores[link - mesh.first_local]}"
    chip, direction = divmod(link - mesh.first_local - len(machine.cores), len(COMPASS))
    return f"link {COMPASS[direction]} of chip {chip}"
