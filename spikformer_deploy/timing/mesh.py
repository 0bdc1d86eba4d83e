"""One chip-wide step, message by message, compiled: equal to timing/reference.py in every tick.

Where the reference looks at everything at every tick, this looks at what an event touches.  Queues and units that serve
in order need no events: when a message leaves them is known as soon as it is let in.  What remains are three kinds of
events: a message is at the head of a port and ready, a place at a port is free again, a link is free again.

State is in arrays of records (timing/state.py), handed on as one value; compiled code allocates nothing and counts no
references.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.timing.machine import EAST, NORTH, SIDES, SOUTH, WEST
from spikformer_deploy.timing.ranges import numbers_in
from spikformer_deploy.timing.state import MachineAtRest, Records, State, Watch, begin, watch_of
from spikformer_deploy.timing.wave import Log, Wave, WaveTimes
from spikformer_deploy.timing.wheel import NOW, advance, compiled, entered, schedule

Followed: TypeAlias = Callable[[int], None]
"""Called with a number of messages that have been followed."""
AT_ONCE = 100_000
"""Messages between two calls of it: some tens of milliseconds."""


def unheard(messages: int) -> None:
    """Nobody asks how far it is."""


def run_wave(
    machine: MachineAtRest,
    entries: Records,
    wave: Wave,
    log: bool = False,
    bins: int = 0,
    bin_ticks: int = 1,
    followed: Followed = unheard,
) -> tuple[WaveTimes, Log | None, Int]:
    """All that happens in one chip-wide step; with `log` every message, with `bins` the (links, bins) crossings.

    followed  called with the number of messages that have come to their cores since it was last called, every
              AT_ONCE messages: what it raises ends the work
    """
    state = begin(machine, entries, wave)
    messages = wave.messages
    watch = watch_of(messages if log else 0, len(state.links), bins, bin_ticks)
    delivered = 0
    fresh = True
    while fresh or delivered < messages:
        _run(state, watch, fresh, min(delivered + AT_ONCE, messages))
        fresh = False
        more = int(watch.delivered[0]) - delivered
        assert more or not messages, "a message is stuck: the mesh must be free of deadlocks"
        followed(more)
        delivered += more
    cores = state.cores
    times = WaveTimes(
        sweep_end=cores["clock"] + wave.tail,
        # the clock has gone on by all gaps, and by what it stood still
        stalled=cores["clock"] + wave.tail - wave.sweep_ends,
        served=cores["served"].copy(),
        busy=cores["busy"].copy(),
        received=cores["received"].copy(),
        load=state.links["load"].copy(),
    )
    return times, _log(watch.deliveries, wave) if log else None, watch.crossings


def _log(deliveries: Records, wave: Wave) -> Log:
    """Deliveries in the order of their keys, which is that of (birth, source)."""
    ordered = deliveries[np.argsort(deliveries["key"])]
    birth, source = np.divmod(ordered["key"], len(wave.tail))
    entry = np.empty_like(source)
    # a core sends its messages in the order of its firings, and they are born in it
    entry[np.argsort(source, kind="stable")] = numbers_in(wave.routes[:, 0], wave.routes[:, 1] - wave.routes[:, 0])
    return Log(birth, source, entry, np.ascontiguousarray(ordered["arrive"]), np.ascontiguousarray(ordered["begin"]))


@entered
def _run(state: State, watch: Watch, fresh: bool, until: int) -> None:
    """From where the state is until so many messages have come to their cores, or nothing is left to happen.

    fresh  it is tick 0, and nothing has happened yet
    """
    if fresh:
        for core in range(state.sizes.cores):
            _next_firing(state, core)
            _offer(state, core, 0)
    while watch.delivered[0] < until:
        event = advance(state.wheel)
        if event < 0:
            return
        now = state.wheel.words[NOW]
        # first everything that becomes ready at this tick, then who goes: no order of events matters
        for position in range(_touch(state, event)):
            _start(state, watch, state.touched[position], now)


@compiled
def _touch(state: State, event: int) -> int:
    """The links that the events of this tick concern, each once, in State.touched; returns their number."""
    sizes = state.sizes
    count = 0
    while event >= 0:
        if event >= sizes.first_link:
            number = event - sizes.first_link
            state.links[number].pending = 0
        elif event >= sizes.places:
            port = state.ports[event - sizes.places]
            port.pending = 0
            number = port.feeder
        else:
            number = _queue_up(state, event)
        if not state.links[number].touched:
            state.links[number].touched = 1
            state.touched[count] = number
            count += 1
        event = state.wheel.events[event].after
    return count


@compiled
def _queue_up(state: State, number: int) -> int:
    """The first message of a port is ready: the port waits for the link that it takes, X first, then Y."""
    port = state.ports[number]
    message = state.rings[port.ring + port.head]
    router = port.y * state.sizes.width + port.x
    if port.x < message.x:
        link = state.ports[SIDES * router + EAST].link
        port.into = SIDES * (router + 1) + EAST
    elif port.x > message.x:
        link = state.ports[SIDES * router + WEST].link
        port.into = SIDES * (router - 1) + WEST
    elif port.y < message.y:
        link = state.ports[SIDES * router + NORTH].link
        port.into = SIDES * (router + state.sizes.width) + NORTH
    elif port.y > message.y:
        link = state.ports[SIDES * router + SOUTH].link
        port.into = SIDES * (router - state.sizes.width) + SOUTH
    else:
        link = state.sizes.routed + message.target
        port.into = -1
    port.behind = state.links[link].waiting
    state.links[link].waiting = number
    return link


@compiled
def _start(state: State, watch: Watch, number: int, now: int) -> None:
    """Where a link is free, the oldest message that has a place to go starts on it."""
    link = state.links[number]
    link.touched = 0
    if link.free <= now:
        port = _take_oldest(state, link, now)
        if port >= 0:
            _move(state, watch, number, port, now)
    # where nobody had a place to go, the event that a place is free looks at this link again
    if link.waiting >= 0 and link.free > now and not link.pending:
        link.pending = 1
        schedule(state.wheel, state.sizes.first_link + number, link.free)


@compiled
def _take_oldest(state: State, link: Any, now: int) -> int:
    """Take out of the ports that wait for a link the one with the oldest message that has a place to go; -1: none."""
    best = -1
    best_key = 0
    before_best = -1
    before = -1
    number = link.waiting
    while number >= 0:
        port = state.ports[number]
        if _has_place(state, port.into, now):
            key = state.rings[port.ring + port.head].key
            if best < 0 or key < best_key:
                best = number
                best_key = key
                before_best = before
        before = number
        number = port.behind
    if best >= 0:
        if before_best < 0:
            link.waiting = state.ports[best].behind
        else:
            state.ports[before_best].behind = state.ports[best].behind
    return best


@compiled
def _has_place(state: State, into: int, now: int) -> bool:
    """Whether a port has a place; where one is on its way out, see to it that an event says when."""
    # a core (-1): the link to it is not free before its queue has a place (`_receive`)
    if into < 0:
        return True
    goal = state.ports[into]
    if goal.count + (goal.leaves > now) < state.sizes.depth:
        return True
    if goal.count < state.sizes.depth and not goal.pending:
        goal.pending = 1
        schedule(state.wheel, state.sizes.places + into, goal.leaves)
    return False


@compiled
def _move(state: State, watch: Watch, number: int, origin: int, now: int) -> None:
    """The first message of port `origin` starts on link `number`."""
    link = state.links[number]
    message = state.rings[state.ports[origin].ring + state.ports[origin].head]
    into = state.ports[origin].into
    link.free = now + link.occupied
    link.load += 1
    bins = watch.crossings.shape[1]
    if bins:
        watch.crossings[number, min(now // watch.bin_ticks, bins - 1)] += 1
    if into >= 0:
        _enter(state, into, message, now)
    else:
        begins = _receive(state, number, message.service, now)
        if len(watch.deliveries):
            delivery = watch.deliveries[watch.delivered[0]]
            delivery.key = message.key
            delivery.arrive = now + state.sizes.local
            delivery.begin = begins
        watch.delivered[0] += 1
    # last: `_offer` puts the next message into the same place
    if origin < state.sizes.routed:
        _leave(state, origin, now + link.occupied)
    else:
        _offer(state, origin - state.sizes.routed, now + link.occupied)


@compiled
def _leave(state: State, number: int, leaves: int) -> None:
    """The first message of a port is on its way out, until `leaves`."""
    port = state.ports[number]
    port.count -= 1
    port.leaves = leaves
    if port.count:
        port.head = _after(port.head, state.sizes.depth)
        schedule(state.wheel, number, max(leaves, state.rings[port.ring + port.head].arrive))
    else:
        # most ports hold one message or none: theirs is always the same cache line
        port.head = 0
    # the place is of interest only where somebody waits for the link that leads here
    if state.links[port.feeder].waiting >= 0 and not port.pending:
        port.pending = 1
        schedule(state.wheel, state.sizes.places + number, leaves)


@compiled
def _enter(state: State, number: int, arriving: Any, now: int) -> None:
    """A message takes a place of a port, where it will be after the latency of the way there."""
    port = state.ports[number]
    slot = port.head + port.count
    if slot >= state.sizes.depth:
        slot -= state.sizes.depth
    message = state.rings[port.ring + slot]
    message.key = arriving.key
    message.arrive = now + port.latency
    message.service = arriving.service
    message.target = arriving.target
    message.x = arriving.x
    message.y = arriving.y
    if not port.count:
        schedule(state.wheel, number, max(message.arrive, port.leaves))
    port.count += 1


@compiled
def _receive(state: State, number: int, service: int, now: int) -> int:
    """A message goes to its core over link `number`: returns the tick at which its service begins."""
    sizes = state.sizes
    link = state.links[number]
    target = number - sizes.routed
    core = state.cores[target]
    begins = max(now + sizes.local, core.served)
    core.served = begins + service
    core.busy += service
    core.received += 1
    state.history[target, sizes.sending + core.last_served] = begins
    core.last_served = _after(core.last_served, sizes.arriving)
    # the next one can follow when the queue has a place: when the service of the oldest of `arriving` messages begins
    link.free = max(link.free, state.history[target, sizes.sending + core.last_served])
    return begins


@compiled
def _next_firing(state: State, number: int) -> None:
    """Go on with the sweep of a core to the next neuron that sends something."""
    core = state.cores[number]
    while core.firing < core.end:
        firing = state.firings[core.firing]
        core.clock += firing.gap
        if firing.entry < firing.end:
            core.entry = firing.entry
            return
        core.firing += 1


@compiled
def _offer(state: State, number: int, idle: int) -> None:
    """The axon-out unit, idle from `idle` on, takes the next message of its core and offers it to the router."""
    sizes = state.sizes
    core = state.cores[number]
    if core.firing == core.end:
        return
    place = core.last_sent
    core.last_sent = _after(place, sizes.sending)
    # handed over when the queue has a place: when the message `sending` before has been taken
    handed = max(core.clock, state.history[number, place])
    core.clock = handed
    taken = max(handed, idle)
    state.history[number, place] = taken
    birth = taken + sizes.axon_out
    message = state.rings[sizes.routed * sizes.depth + number]
    entry = state.entries[core.entry]
    message.key = birth * sizes.cores + number
    message.service = entry.service
    message.target = entry.target
    message.x = entry.x
    message.y = entry.y
    schedule(state.wheel, sizes.routed + number, birth)
    core.entry += 1
    if core.entry == state.firings[core.firing].end:
        core.firing += 1
        _next_firing(state, number)


@compiled
def _after(place: int, size: int) -> int:
    """The next place of a ring; a comparison is faster than a division."""
    return 0 if place + 1 == size else place + 1
