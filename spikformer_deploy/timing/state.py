"""The state of a chip-wide step as compiled loops take it: arrays of records, in one NamedTuple.

A record holds what one message, port, link or core needs, side by side in one cache line: an event touches few of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.timing.machine import DIRECTIONS, SIDES, TICK_PS, Machine
from spikformer_deploy.timing.wave import Routes, Wave
from spikformer_deploy.timing.wheel import Wheel, make_wheel

Records: TypeAlias = NDArray[Any]


def _record(wide: str, narrow: str = "") -> np.dtype[Any]:
    """Fields of 64 bits, for ticks and sums of them, then fields of 32 bits, for numbers of things."""
    return np.dtype([(n, np.int64) for n in wide.split()] + [(n, np.int32) for n in narrow.split()], align=True)


MESSAGE = _record("key arrive", "service target x y")
"""A message in a port.

key     birth * cores + source: the smaller one goes first, as in the specification
arrive  the tick at which it is in this port
others  as in its entry (ENTRY)
"""
PORT = _record("leaves latency", "head count into behind pending feeder link x y ring")
"""A port: SIDES * router + direction for what comes from other routers, then one a core for its axon-out unit.

head, count     the first message in its ring, and how many there are besides one on its way out, which is gone at
leaves          that tick
into, behind    the port that the first message goes to (-1: its core), and the port behind it that waits for that link
pending         the event that a place is free is in the queue
feeder, latency the link that it is fed by, and the ticks that a message takes from there
link            the link that leads from its router in its direction
x, y            its router
ring            where its ring begins in State.rings
"""
LINK = _record("free load occupied", "waiting pending touched")
"""A link.

free      the tick at which it can take a message
load      messages that have crossed it
occupied  ticks for which a message keeps it from others
waiting   the first port that waits for it (PORT.behind: the next one), -1: none
pending   the event that it is free is in the queue
touched   it is in State.touched already
"""
CORE = _record("firing end entry clock served busy received", "last_sent last_served")
"""A core: 64 bytes.

firing, end            the sweep's next firing that sends something, and the end of the core's firings
entry                  the entry of that firing's next message
clock                  the tick that the sweep has come to
served, busy, received as in WaveTimes
last_sent, last_served places in State.history: where the next message's ticks go, and the oldest ones still are
"""
FIRING = _record("gap", "entry end")
"""Ticks from the firing before, and its entries in Routes: from which to which."""
ENTRY = _record("", "service target x y")
"""As in Routes, with the router of the target."""
DELIVERY = _record("key arrive begin")
"""A message that has come to its core, for the Log."""
WIDEST = 2**31 - 1
"""What a field of 32 bits holds."""


class Sizes(NamedTuple):
    """Numbers of a machine, and of its ports and events.

    Events: the head of port n is ready: n; a place at port n is free: places + n; link n is free: first_link + n.

    width              routers in a row of the mesh
    routed             ports of routers; those of the cores' axon-out units follow.  Links to cores follow the links of
                       routers in the same way: `routed` is the first of these, too
    depth              messages that a port holds
    sending, arriving  messages that wait for the axon-out unit, and at a core for their service
    local, axon_out    ticks of the last hop to a core, and of the axon-out unit
    """

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


class MachineAtRest(NamedTuple):
    """A machine before anything has happened: each chip-wide step begins with a copy."""

    sizes: Sizes
    ports: Records
    links: Records
    cores: Records


class State(NamedTuple):
    """All that a chip-wide step changes or looks at.

    ports, links, cores  (n,) PORT, LINK, CORE
    rings                (routed * depth + cores,) MESSAGE: a ring for each port of a router, then one place for each
                         axon-out unit
    history              (cores, sending + arriving) ticks: when the axon-out unit took the last messages, and when the
                         service of the last ones began.  A queue has a place when the one that many before has left
    firings              (firings,) FIRING, core by core
    entries              (entries,) ENTRY
    wheel                the queue of events
    touched              (links,) numbers of the links that the events of a tick concern
    """

    sizes: Sizes
    ports: Records
    links: Records
    cores: Records
    rings: Records
    history: Int
    firings: Records
    entries: Records
    wheel: Wheel
    touched: Int


class Watch(NamedTuple):
    """What is written down besides.

    deliveries  (messages,) DELIVERY, or none of them where no log is wanted
    delivered   (1,) messages that have come to their cores so far
    crossings   (links, bins) messages that started on a link in each `bin_ticks`, the rest in the last bin; no bins
                where they are not wanted
    """

    deliveries: Records
    delivered: Int
    crossings: Int
    bin_ticks: int


def at_rest(machine: Machine) -> MachineAtRest:
    """The machine as `begin` takes it."""
    mesh = machine.mesh
    cores = len(machine.cores)
    routed = SIDES * mesh.routers
    links = np.zeros(len(mesh.occupied), LINK)
    links["occupied"] = mesh.occupied
    links["waiting"] = -1
    places = routed + cores
    sizes = Sizes(
        width=mesh.width,
        routed=routed,
        cores=cores,
        depth=machine.ports,
        sending=machine.sending,
        arriving=machine.arriving,
        local=mesh.local,
        axon_out=machine.axon_out,
        places=places,
        first_link=places + routed,
    )
    return MachineAtRest(sizes, _ports(machine), links, np.zeros(cores, CORE))


def _ports(machine: Machine) -> Records:
    """All ports, empty."""
    mesh = machine.mesh
    routed = SIDES * mesh.routers
    ports = np.zeros(routed + len(machine.cores), PORT)
    ports["link"][:routed] = mesh.link
    routers = np.concatenate([np.repeat(np.arange(mesh.routers), SIDES), mesh.tile])
    ports["x"] = routers % mesh.width
    ports["y"] = routers // mesh.width
    ports["ring"][:routed] = machine.ports * np.arange(routed)
    ports["ring"][routed:] = machine.ports * routed + np.arange(len(machine.cores))
    for number in range(routed):
        router, direction = divmod(number, SIDES)
        dx, dy = DIRECTIONS[direction]
        x = router % mesh.width - dx
        y = router // mesh.width - dy
        # what comes in going east was sent by the router in the west; at the border there is none
        if 0 <= x < mesh.width and 0 <= y < mesh.height:
            origin = SIDES * (y * mesh.width + x) + direction
            ports[number]["feeder"] = mesh.link[origin]
            ports[number]["latency"] = mesh.latency[origin]
    return ports


def entries_of(machine: Machine, routes: Routes) -> Records:
    """The routing tables as `begin` takes them."""
    longest = int(routes.service.max(initial=0))
    if max(longest, len(routes.target)) > WIDEST:
        found = (
            f"{len(routes.target):,} routes, of which the longest keeps its core for {longest:,} ticks of {TICK_PS} ps"
        )
        problem = f"{found}: neither may be more than {WIDEST:,} where time is taken message by message"
        raise InputError("--timing", problem, "Use --timing estimate.")
    entries = np.empty(len(routes.target), ENTRY)
    entries["target"] = routes.target
    entries["service"] = routes.service
    entries["y"], entries["x"] = np.divmod(machine.mesh.tile[routes.target], machine.mesh.width)
    return entries


def begin(machine: MachineAtRest, entries: Records, wave: Wave) -> State:
    """The state at tick 0 of the chip-wide step `wave`."""
    sizes = machine.sizes
    cores = machine.cores.copy()
    cores["firing"] = wave.first[:-1]
    cores["end"] = wave.first[1:]
    firings = np.empty(len(wave.gap), FIRING)
    firings["gap"] = wave.gap
    firings["entry"] = wave.routes[:, 0]
    firings["end"] = wave.routes[:, 1]
    return State(
        sizes=sizes,
        ports=machine.ports.copy(),
        links=machine.links.copy(),
        cores=cores,
        rings=np.empty(sizes.routed * sizes.depth + sizes.cores, MESSAGE),
        history=np.zeros((sizes.cores, sizes.sending + sizes.arriving), np.int64),
        firings=firings,
        entries=entries,
        wheel=make_wheel(sizes.first_link + len(machine.links)),
        touched=np.empty(len(machine.links), np.int64),
    )


def watch_of(messages: int, links: int, bins: int, bin_ticks: int) -> Watch:
    """Room for that many deliveries, and bins of crossings for each link; 0 where they are not wanted."""
    return Watch(np.empty(messages, DELIVERY), np.zeros(1, np.int64), np.zeros((links, bins), np.int64), bin_ticks)
