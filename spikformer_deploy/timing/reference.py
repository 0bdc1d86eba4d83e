"""The specification of a chip-wide step, message by message (docs/timing.md): plain Python, no cleverness.

Time goes from one tick at which something can happen to the next; at each of them everything is looked at:

1. what has left a router's port or an axon-out unit is gone, and its place free
2. sweeps hand messages to their queue while it has a place; an idle axon-out unit takes the first one
3. an idle synapse unit takes the first message that has arrived at its core
4. every free link takes the oldest of the messages that are ready for it and have a place to go to
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from heapq import heappop, heappush

import numpy as np

from spikformer_deploy.timing.machine import DIRECTIONS, SIDES, Machine
from spikformer_deploy.timing.wave import Log, Routes, Wave, WaveTimes


@dataclass(slots=True)
class _Message:
    """A message, ticks of its way as far as they are known.

    source, target  cores
    service         ticks of its service at the target
    entry           its entry in Routes
    birth           when the axon-out unit offers it to the router
    arrive          when it reaches the place where it is now
    begin           when its service begins
    """

    source: int
    target: int
    service: int
    entry: int
    birth: int = 0
    arrive: int = 0
    begin: int = 0


@dataclass(slots=True)
class _Place:
    """Messages in order of arrival; the first one is on its way out until `leaves`."""

    messages: deque[_Message] = field(default_factory=deque)
    leaves: int | None = None


@dataclass(slots=True)
class _Core:
    """A core: its sweep, its queues and units.

    firings   those still to come: (gap, messages) of each
    tail      ticks of the sweep after the last one
    due       when the next message is, or the end of the sweep
    queue     messages that wait for the axon-out unit
    sender    the message that the axon-out unit offers to the router
    arriving  messages on their way to this core over the last link, or waiting for their service
    The others are as in WaveTimes.
    """

    firings: deque[tuple[int, deque[_Message]]]
    tail: int
    due: int = 0
    sweep_end: int | None = None
    stalled: int = 0
    queue: deque[_Message] = field(default_factory=deque)
    sender: _Place = field(default_factory=_Place)
    arriving: deque[_Message] = field(default_factory=deque)
    served: int = 0
    busy: int = 0
    received: int = 0


def run_wave(machine: Machine, routes: Routes, wave: Wave) -> tuple[WaveTimes, Log]:
    """All that happens in one chip-wide step."""
    return _Chip(machine, routes, wave).run()


class _Chip:
    """The state of all cores, ports and links at one tick."""

    def __init__(self, machine: Machine, routes: Routes, wave: Wave) -> None:
        self.machine = machine
        self.mesh = machine.mesh
        self.cores = [_Core(deque(_firings(routes, wave, c)), int(wave.tail[c])) for c in range(len(machine.cores))]
        self.ports = [_Place() for _ in range(SIDES * self.mesh.routers)]
        self.free_at = [0] * len(self.mesh.occupied)
        self.load = [0] * len(self.mesh.occupied)
        self.log: list[_Message] = []
        self.ticks: list[int] = []

    def run(self) -> tuple[WaveTimes, Log]:
        """From tick 0 until nothing is left to happen."""
        for core in self.cores:
            core.due = core.firings[0][0] if core.firings else core.tail
            self.at(core.due)
        while self.ticks:
            now = heappop(self.ticks)
            while self.ticks and self.ticks[0] == now:
                heappop(self.ticks)
            self.leave(now)
            for core in self.cores:
                self.send(core, now)
                self.serve(core, now)
            # all links choose before any message moves: what one takes must not depend on the others
            for winner in [self.oldest(ready) for ready in self.contenders(now).values()]:
                self.move(*winner, now)
        return self.result()

    def at(self, tick: int) -> None:
        """Something can happen at this tick."""
        heappush(self.ticks, tick)

    def leave(self, now: int) -> None:
        """What was on its way out until now is gone."""
        for place in (*self.ports, *(core.sender for core in self.cores)):
            if place.leaves == now:
                place.messages.popleft()
                place.leaves = None

    def send(self, core: _Core, now: int) -> None:
        """The sweep goes on as far as it can, and the axon-out unit takes a message where it is idle."""
        while True:
            if not core.sender.messages and core.queue:
                message = core.queue.popleft()
                message.birth = now + self.machine.axon_out
                message.arrive = message.birth
                core.sender.messages.append(message)
                self.at(message.birth)
            if core.sweep_end is not None or core.due > now or not self.visit(core, now):
                return

    def visit(self, core: _Core, now: int) -> bool:
        """One step of a sweep that is due: hand over a message, or go on to the next firing; False where it stalls."""
        if not core.firings:
            core.sweep_end = core.due
            return False
        messages = core.firings[0][1]
        if messages:
            if len(core.queue) == self.machine.sending:
                return False
            core.stalled += now - core.due
            core.due = now
            core.queue.append(messages.popleft())
        if not messages:
            core.firings.popleft()
            core.due += core.firings[0][0] if core.firings else core.tail
            self.at(core.due)
        return True

    def serve(self, core: _Core, now: int) -> None:
        """Axon-in and synapses: the first message that has arrived."""
        if core.served <= now and core.arriving and core.arriving[0].arrive <= now:
            message = core.arriving.popleft()
            message.begin = now
            core.served = now + message.service
            core.busy += message.service
            core.received += 1
            self.log.append(message)
            self.at(core.served)

    def contenders(self, now: int) -> dict[int, list[tuple[_Place, int]]]:
        """By free link: (place, router) of the messages that are ready for it and have a place to go to."""
        ready: dict[int, list[tuple[_Place, int]]] = {}
        places = [(place, port // SIDES) for port, place in enumerate(self.ports)]
        places += [(core.sender, int(self.mesh.tile[c])) for c, core in enumerate(self.cores)]
        for place, router in places:
            if place.messages and place.leaves is None and place.messages[0].arrive <= now:
                link, port = self.way(place, router)
                if self.free_at[link] <= now and self.has_room(place.messages[0], port):
                    ready.setdefault(link, []).append((place, router))
        return ready

    def oldest(self, contenders: list[tuple[_Place, int]]) -> tuple[_Place, int]:
        """Who gets a link: the oldest message, of equals that of the lowest core."""
        return min(contenders, key=lambda c: (c[0].messages[0].birth, c[0].messages[0].source))

    def way(self, place: _Place, router: int) -> tuple[int, int | None]:
        """(link, port at its end, None for a core) that the first message of a place takes: X first, then Y."""
        target = place.messages[0].target
        width = self.mesh.width
        goal = int(self.mesh.tile[target])
        if goal == router:
            return self.mesh.first_local + target, None
        dx = goal % width - router % width
        dy = goal // width - router // width
        step = (np.sign(dx), 0) if dx else (0, np.sign(dy))
        direction = DIRECTIONS.index(step)
        following = router + step[0] + step[1] * width
        return int(self.mesh.link[SIDES * router + direction]), SIDES * following + direction

    def has_room(self, message: _Message, port: int | None) -> bool:
        """Whether a place is free at the port that a message goes to, or at its core."""
        if port is None:
            return len(self.cores[message.target].arriving) < self.machine.arriving
        return len(self.ports[port].messages) < self.machine.ports

    def move(self, place: _Place, router: int, now: int) -> None:
        """Send the first message of a place over its link: both are taken for a while, it arrives after the latency."""
        link, port = self.way(place, router)
        message = place.messages[0]
        leaves = now + int(self.mesh.occupied[link])
        place.leaves = leaves
        self.free_at[link] = leaves
        self.load[link] += 1
        if port is None:
            message.arrive = now + self.mesh.local
            self.cores[message.target].arriving.append(message)
        else:
            # it is in two places until it has left the first one
            arrive = now + int(self.mesh.latency[SIDES * router + port % SIDES])
            moved = _Message(message.source, message.target, message.service, message.entry, message.birth, arrive)
            self.ports[port].messages.append(moved)
            message = moved
        self.at(leaves)
        self.at(message.arrive)

    def result(self) -> tuple[WaveTimes, Log]:
        """All times, once nothing can happen any more."""
        cores = self.cores
        assert not any(p.messages for p in self.ports)
        assert not any(c.queue or c.sender.messages or c.arriving or c.firings for c in cores)
        names = ("sweep_end", "stalled", "served", "busy", "received")
        times = {name: np.array([getattr(c, name) for c in cores], np.int64) for name in names}
        log = sorted(self.log, key=lambda m: (m.birth, m.source))
        columns = {f.name: np.array([getattr(m, f.name) for m in log], np.int64) for f in fields(Log)}
        return WaveTimes(load=np.array(self.load, np.int64), **times), Log(**columns)


def _firings(routes: Routes, wave: Wave, core: int) -> Iterator[tuple[int, deque[_Message]]]:
    """(gap, messages) of each firing of a core."""
    for f in range(int(wave.first[core]), int(wave.first[core + 1])):
        entries = range(*wave.routes[f].tolist())
        sent = (_Message(core, int(routes.target[e]), int(routes.service[e]), e) for e in entries)
        yield int(wave.gap[f]), deque(sent)
