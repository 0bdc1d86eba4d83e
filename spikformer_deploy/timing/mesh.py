"""One chip-wide step, message by message, compiled: equal to timing/reference.py in every tick.

Where the reference looks at everything at every tick, this looks at what an event touches.  Queues and units that serve
in order need no events: when a message leaves them is known as soon as it is let in.  What remains are three kinds of
events: a message is at the head of a port and ready, a place at a port is free again, a link is free again.

State is in arrays of records, handed on one by one; compiled code allocates nothing and counts no references.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.timing.machine import DIRECTIONS, Machine
from spikformer_deploy.timing.wave import Log, Routes, Wave, WaveTimes
from spikformer_deploy.timing.wheel import NOW, advance, compiled, make_wheel, schedule

Records: TypeAlias = NDArray[Any]


def _record(*names: str) -> np.dtype[Any]:
    return np.dtype([(name, np.int64) for name in names])


MESSAGE = _record("key", "entry", "arrive")
"""key = birth * cores + source; its entry in Routes; when it is where it is now."""
PORT = _record("head", "count", "leaves", "into", "behind", "pending", "feeder", "latency", "link", "x", "y")
"""Ports 4 * router + direction for what comes from other routers, then one a core for its axon-out unit.

head, count     the first message in its ring, and how many there are besides one on its way out, which is gone at
leaves          that tick
into, behind    the port that the first message goes to (-1: its core), and the port behind it that waits for that link
pending         the event that a place is free is in the queue
feeder, latency the link that it is fed by, and the ticks that a message takes from there
link            the link that leads from its router in its direction
x, y            its router
"""
LINK = _record("free", "waiting", "pending", "touched", "load", "occupied")
"""free: when it can take a message; waiting: the first port that waits for it, -1: none; the rest as its name says."""
CORE = _record(
    "tile",
    "x",
    "y",
    "firing",
    "end",
    "entry",
    "clock",
    "stalled",
    "last_sent",
    "served",
    "busy",
    "received",
    "last_served",
)
"""Sweep: next firing, end of firings, next entry, tick it has come to; places in the history; fields of WaveTimes."""
FIRING = _record("gap", "entry", "end")
ENTRY = _record("target", "service")
DELIVERY = _record("key", "entry", "arrive", "begin")


class Sizes(NamedTuple):
    """Numbers of a machine.  Events: the head of a port is ready; from `places` on: a place at it is free; from
    `first_link` on: a link is free."""

    width: int
    routed: int
    cores: int
    depth: int
    sending: int
    arriving: int
    local: int
    axon_out: int
    places: int
    first_link: int


class Layout(NamedTuple):
    """A machine as compiled loops take it: records before anything has happened."""

    sizes: Sizes
    ports: Records
    links: Records
    cores: Records


def layout(machine: Machine) -> Layout:
    """The machine as compiled loops take it."""
    mesh, cores = machine.mesh, len(machine.cores)
    routed = 4 * mesh.routers
    ports = np.zeros(routed + cores, PORT)
    ports["link"][:routed] = mesh.link
    for router in range(mesh.routers):
        x, y = router % mesh.width, router // mesh.width
        for direction, (dx, dy) in enumerate(DIRECTIONS):
            if 0 <= x - dx < mesh.width and 0 <= y - dy < mesh.height:
                origin = 4 * (router - dx - dy * mesh.width) + direction
                port = ports[4 * router + direction]
                port["feeder"], port["latency"] = mesh.link[origin], mesh.latency[origin]
    links = np.zeros(len(mesh.occupied), LINK)
    links["occupied"], links["waiting"] = mesh.occupied, -1
    state = np.zeros(cores, CORE)
    state["tile"], state["x"], state["y"] = mesh.tile, mesh.tile % mesh.width, mesh.tile // mesh.width
    routers = np.concatenate([np.repeat(np.arange(mesh.routers), 4), mesh.tile])
    ports["x"], ports["y"] = routers % mesh.width, routers // mesh.width
    sizes = Sizes(
        mesh.width, routed, cores, machine.ports, machine.sending, machine.arriving, mesh.local, machine.axon_out,
        routed + cores, 2 * routed + cores,
    )  # fmt: skip
    return Layout(sizes, ports, links, state)


def entries_of(routes: Routes) -> Records:
    """The routing tables as `run_wave` takes them."""
    entries = np.empty(len(routes.target), ENTRY)
    entries["target"], entries["service"] = routes.target, routes.service
    return entries


def run_wave(
    machine: Layout, entries: Records, wave: Wave, log: bool = False, bins: int = 0, bin_ticks: int = 1
) -> tuple[WaveTimes, Log | None, Int]:
    """All that happens in one chip-wide step; with `log` every message, with `bins` the (links, bins) crossings."""
    sizes, ports, links, cores = machine.sizes, machine.ports.copy(), machine.links.copy(), machine.cores.copy()
    cores["firing"], cores["end"] = wave.first[:-1], wave.first[1:]
    firings = np.empty(len(wave.gap), FIRING)
    firings["gap"], firings["entry"], firings["end"] = wave.gap, wave.routes[:, 0], wave.routes[:, 1]
    deliveries = np.empty(wave.messages if log else 0, DELIVERY)
    crossings = np.zeros((len(links), bins), np.int64)
    _run(
        sizes, ports, links, cores, np.empty((len(ports), sizes.depth), MESSAGE),
        np.zeros((sizes.cores, sizes.sending + sizes.arriving), np.int64), firings, entries,
        *make_wheel(sizes.first_link + len(links)), np.empty(len(links), np.int64), deliveries, crossings, bin_ticks,
    )  # fmt: skip
    assert cores["received"].sum() == wave.messages, "a message is stuck: the mesh must be free of deadlocks"
    counted = {name: cores[name].copy() for name in ("stalled", "served", "busy", "received")}
    times = WaveTimes(sweep_end=cores["clock"] + wave.tail, load=links["load"].copy(), **counted)
    return times, _log(deliveries, sizes.cores) if log else None, crossings


def _log(deliveries: Records, cores: int) -> Log:
    ordered = deliveries[np.argsort(deliveries["key"])]
    birth, source = np.divmod(ordered["key"], cores)
    return Log(birth, source, *(np.ascontiguousarray(ordered[f]) for f in ("entry", "arrive", "begin")))


@compiled
def _run(
    sizes: Sizes,
    ports: Records,
    links: Records,
    cores: Records,
    rings: Records,
    history: Int,
    firings: Records,
    entries: Records,
    events: Records,
    index: Int,
    touched: Int,
    deliveries: Records,
    crossings: Int,
    bin_ticks: int,
) -> None:
    """From tick 0 until nothing is left to happen.

    rings    (ports, depth) the messages in each port
    history  (cores, sending + arriving) when the axon-out unit took the last messages, and when the service of the last
             ones began: a queue has a place when the one that many before has left it
    """
    delivered = 0
    for core in range(sizes.cores):
        _start_firing(cores, firings, core)
        _offer(sizes, ports, cores, rings, history, firings, events, index, core, 0)
    event = advance(events, index)
    while event >= 0:
        now = index[NOW]
        for i in range(_touch(sizes, ports, links, cores, rings, entries, events, touched, event)):
            number = touched[i]
            link = links[number]
            link.touched = 0
            port = _oldest(sizes, ports, link, rings, events, index, now) if link.free <= now else -1
            if port >= 0:
                message = rings[port, ports[port].head]
                key, entry = message.key, message.entry
                link.free = now + link.occupied
                link.load += 1
                if bin_ticks and crossings.shape[1]:
                    crossings[number, min(now // bin_ticks, crossings.shape[1] - 1)] += 1
                if port < sizes.routed:
                    _leave(sizes, ports, links, rings, events, index, port, link.free)
                else:
                    _offer(sizes, ports, cores, rings, history, firings, events, index, port - sizes.routed, link.free)
                if ports[port].into >= 0:
                    _enter(sizes, ports, rings, events, index, ports[port].into, key, entry, now)
                else:
                    begin = _receive(sizes, cores, link, history, entries, entry, now)
                    if len(deliveries):
                        delivery = deliveries[delivered]
                        delivery.key, delivery.entry = key, entry
                        delivery.arrive, delivery.begin = now + sizes.local, begin
                        delivered += 1
            if link.waiting >= 0 and link.free > now and not link.pending:
                link.pending = 1
                schedule(events, index, sizes.first_link + number, link.free)
        event = advance(events, index)


@compiled
def _touch(
    sizes: Sizes,
    ports: Records,
    links: Records,
    cores: Records,
    rings: Records,
    entries: Records,
    events: Records,
    touched: Int,
    event: int,
) -> int:
    """The links that the events of this tick concern, each once, in `touched`; returns their number."""
    count = 0
    while event >= 0:
        if event >= sizes.first_link:
            number = event - sizes.first_link
            links[number].pending = 0
        elif event >= sizes.places:
            ports[event - sizes.places].pending = 0
            number = ports[event - sizes.places].feeder
        else:
            number = _queue_up(sizes, ports, links, cores, rings, entries, event)
        if not links[number].touched:
            links[number].touched = 1
            touched[count] = number
            count += 1
        event = events[event].after
    return count


@compiled
def _queue_up(
    sizes: Sizes, ports: Records, links: Records, cores: Records, rings: Records, entries: Records, number: int
) -> int:
    """The first message of a port is ready: the port waits for the link that it takes, X first, then Y."""
    port = ports[number]
    target = entries[rings[number, port.head].entry].target
    core = cores[target]
    if port.x == core.x and port.y == core.y:
        link, port.into = sizes.routed + target, -1
    else:
        if port.x != core.x:
            direction, step = (0, 1) if core.x > port.x else (1, -1)
        else:
            direction, step = (2, sizes.width) if core.y > port.y else (3, -sizes.width)
        router = port.y * sizes.width + port.x
        link, port.into = ports[4 * router + direction].link, 4 * (router + step) + direction
    port.behind = links[link].waiting
    links[link].waiting = number
    return link


@compiled
def _oldest(sizes: Sizes, ports: Records, link: Any, rings: Records, events: Records, index: Int, now: int) -> int:
    """Take out of the ports that wait for a link the one with the oldest message that has a place to go; -1: none."""
    best, best_key, before_best, before = -1, 0, -1, -1
    number = link.waiting
    while number >= 0:
        port, free = ports[number], True
        if port.into >= 0:
            goal = ports[port.into]
            free = goal.count + (goal.leaves > now) < sizes.depth
            if not free and goal.count < sizes.depth and not goal.pending:
                goal.pending = 1
                schedule(events, index, sizes.places + port.into, goal.leaves)
        if free:
            key = rings[number, port.head].key
            if best < 0 or key < best_key:
                best, best_key, before_best = number, key, before
        before, number = number, port.behind
    if best >= 0:
        if before_best < 0:
            link.waiting = ports[best].behind
        else:
            ports[before_best].behind = ports[best].behind
    return best


@compiled
def _leave(
    sizes: Sizes, ports: Records, links: Records, rings: Records, events: Records, index: Int, number: int, leaves: int
) -> None:
    """The first message of a port is on its way out."""
    port = ports[number]
    port.head = 0 if port.head + 1 == sizes.depth else port.head + 1
    port.count -= 1
    port.leaves = leaves
    if port.count:
        schedule(events, index, number, max(leaves, rings[number, port.head].arrive))
    if links[port.feeder].waiting >= 0 and not port.pending:
        port.pending = 1
        schedule(events, index, sizes.places + number, leaves)


@compiled
def _enter(
    sizes: Sizes,
    ports: Records,
    rings: Records,
    events: Records,
    index: Int,
    number: int,
    key: int,
    entry: int,
    now: int,
) -> None:
    """A message takes a place of a port, where it will be after the latency of the way there."""
    port = ports[number]
    slot = port.head + port.count
    message = rings[number, slot - sizes.depth if slot >= sizes.depth else slot]
    message.key, message.entry, message.arrive = key, entry, now + port.latency
    if not port.count:
        schedule(events, index, number, max(message.arrive, port.leaves))
    port.count += 1


@compiled
def _receive(sizes: Sizes, cores: Records, link: Any, history: Int, entries: Records, entry: int, now: int) -> int:
    """A message goes to its core, the next one can follow when the queue there has a place: when its service begins."""
    service, number = entries[entry].service, entries[entry].target
    core = cores[number]
    begin = max(now + sizes.local, core.served)
    core.served = begin + service
    core.busy += service
    history[number, sizes.sending + core.last_served] = begin
    core.received += 1
    core.last_served = 0 if core.last_served + 1 == sizes.arriving else core.last_served + 1
    link.free = max(link.free, history[number, sizes.sending + core.last_served])
    return begin


@compiled
def _start_firing(cores: Records, firings: Records, number: int) -> None:
    """Go on with the sweep of a core to the next neuron that sends something."""
    core = cores[number]
    while core.firing < core.end:
        firing = firings[core.firing]
        core.clock += firing.gap
        if firing.entry < firing.end:
            core.entry = firing.entry
            return
        core.firing += 1


@compiled
def _offer(
    sizes: Sizes,
    ports: Records,
    cores: Records,
    rings: Records,
    history: Int,
    firings: Records,
    events: Records,
    index: Int,
    number: int,
    idle: int,
) -> None:
    """The axon-out unit, idle from `idle` on, takes the next message of its core and offers it to the router."""
    core = cores[number]
    if core.firing == core.end:
        return
    place = core.last_sent
    core.last_sent = 0 if place + 1 == sizes.sending else place + 1
    handed = max(core.clock, history[number, place])
    core.stalled += handed - core.clock
    core.clock = handed
    start = max(handed, idle)
    history[number, place] = start
    message = rings[sizes.routed + number, 0]
    message.key, message.entry = (start + sizes.axon_out) * sizes.cores + number, core.entry
    schedule(events, index, sizes.routed + number, start + sizes.axon_out)
    core.entry += 1
    if core.entry == firings[core.firing].end:
        core.firing += 1
        _start_firing(cores, firings, number)
