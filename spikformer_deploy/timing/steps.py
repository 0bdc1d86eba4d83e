"""From a recorded image to the messages of every chip-wide step: which core sends what, when in its sweep, where to.

A time step is one chip-wide step in which all neurons are visited, and then the sub-steps of its attentions and of the
tokens that come one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import idle
from spikformer_deploy.timing.senders import Sender
from spikformer_deploy.timing.traffic import Traffic
from spikformer_deploy.timing.wave import Wave

TimeOf: TypeAlias = Callable[[int], int]
"""The time step that the layers at a level work on."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """What one image made of a network.

    sent  by population: (T, C, Y, X) what it sent
    idle  by population: (T, C, Y, X) its neurons that had nothing to do; none of those whose neurons always have
    """

    sent: dict[str, NDArray[np.integer]]
    idle: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Firings:
    """Neurons that send something in a chip-wide step or a sub-step, in the order of their places.

    place   (firings,) in the sweeps
    routes  (firings, 2) first entry and end in Routes
    own     (firings,) whether the visit that updates the neuron sends it: see Sender
    """

    place: Int
    routes: Int
    own: NDArray[np.bool_]


SUB_STEPS_AT_ONCE = 16
"""Sub-steps whose firings are in memory together: those of all sub-steps are several times the step's own."""
NOBODY = Firings(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0, bool))


def recorded_image(network: Network, execution: Execution, number: int) -> Recorded:
    """The image of that number in an execution that has recorded all populations."""
    sent = {p.name: execution.spikes[p.name][number] for p in network}
    found = {p.name: idle(p.neuron, sent[p.name], execution.membranes[p.name][number]) for p in network}
    return Recorded(sent, {name: marked for name, marked in found.items() if marked is not None})


def pipelined(traffic: Traffic, image: Recorded, step: int) -> Iterator[Wave]:
    """The waves of chip-wide step `step` of a pipeline that one image after the other, all like this one, runs through.

    A layer at level l works on what the Source sent l steps before.
    """
    steps = traffic.network.time_steps
    sub_steps = traffic.sub_steps_pipelined
    return _waves(traffic, image, range(traffic.levels), lambda level: (step - level) % steps, sub_steps)


def falling_through(traffic: Traffic, image: Recorded, level: int, step: int) -> Iterator[Wave]:
    """The waves in which the layer at `level` works on time step `step`, and all others find nothing to do."""
    return _waves(traffic, image, [level], lambda _: step, traffic.sub_steps.get(level, 0))


def _waves(
    traffic: Traffic, image: Recorded, levels: Collection[int], time_of: TimeOf, sub_steps: int
) -> Iterator[Wave]:
    """The chip-wide step in which the layers at `levels` work, each on its own time step, and its sub-steps.

    In a sub-step nothing is updated but the neurons whose token comes in it, and those that send.  Waves are made while
    they are read.
    """
    yield _first_wave(traffic, image, levels, time_of)
    # sub-steps in which nobody works are all the same, and many
    quiet = _sub_step(traffic, NOBODY, NOBODY.place)
    for first in range(1, sub_steps + 1, SUB_STEPS_AT_ONCE):
        within = range(first, min(first + SUB_STEPS_AT_ONCE, sub_steps + 1))
        for number, sent in zip(within, _firings(traffic, image, levels, time_of, within), strict=True):
            updated = _updated(traffic, image, levels, time_of, number)
            yield _sub_step(traffic, sent, updated) if len(sent.place) or len(updated) else quiet


def _sub_step(traffic: Traffic, sent: Firings, updated: Int) -> Wave:
    """A sub-step; updated: places of the neurons whose token comes, ascending."""
    costs = traffic.costs
    sweep = traffic.sweep

    def longer(places: Int) -> Int:
        """Ticks that an update takes more than an idle visit."""
        return costs.update[sweep.slice_at[places]] - costs.idle

    # by how much the first of the updates delay all visits behind them
    delay = np.concatenate([[0], np.cumsum(longer(updated))])
    begin = costs.idle * sweep.begin + delay[np.searchsorted(updated, sweep.begin)]
    visited = costs.idle * (sent.place + 1) + delay[np.searchsorted(updated, sent.place, side="right")]
    added = costs.spike + longer(sent.place)
    own = np.flatnonzero(sent.own)
    # one visit sends all that a neuron has to send, by however many tables
    _, first = np.unique(sent.place[own], return_index=True)
    added[own] = 0
    added[own[first]] = costs.spike
    return _wave(traffic, sent, begin, visited, added)


def _updated(traffic: Traffic, image: Recorded, levels: Collection[int], time_of: TimeOf, sub_step: int) -> Int:
    """The places, ascending, of the neurons at `levels` whose token comes in a sub-step, but of those that are idle."""
    token = sub_step - 1
    found = [NOBODY.place]
    for series in traffic.series:
        if series.level not in levels or token >= series.tokens:
            continue
        works = np.ones(len(series.place), bool)
        if not series.sums and series.population in image.idle:
            works = ~image.idle[series.population][time_of(series.level)].reshape(len(works), -1)[:, token]
        found.append(series.place[works])
    return np.sort(np.concatenate(found))


def _first_wave(traffic: Traffic, image: Recorded, levels: Collection[int], time_of: TimeOf) -> Wave:
    """The chip-wide step itself."""
    (sent,) = _firings(traffic, image, levels, time_of, range(1))
    clock = _clock(traffic, image, levels, time_of)
    return _wave(traffic, sent, clock[traffic.sweep.begin], clock[sent.place + 1], traffic.costs.spike)


def _clock(traffic: Traffic, image: Recorded, levels: Collection[int], time_of: TimeOf) -> Int:
    """(places + 1,) ticks: when each place is visited, as if the sweeps of all cores were one after the other.

    At `levels` a visit is an update, but of neurons that are idle there.
    """
    costs = traffic.costs
    works = np.isin(traffic.layout.level, list(levels)) & ~traffic.layout.in_turn
    clock = np.zeros(len(traffic.sweep.slice_at) + 1, np.int64)
    visits = clock[1:]
    visits[:] = np.where(works, costs.update, costs.idle)[traffic.sweep.slice_at]
    for name, idle_neurons in image.idle.items():
        level = traffic.level[name]
        if level in levels:
            visits[traffic.own[name][idle_neurons[time_of(level)]]] = costs.idle
    return np.cumsum(clock, out=clock)


def _firings(
    traffic: Traffic, image: Recorded, levels: Collection[int], time_of: TimeOf, sub_steps: range
) -> list[Firings]:
    """What the layers at `levels` send in each of `sub_steps` (0: the step itself), each at its own time step."""
    when = [NOBODY.place]
    places = [NOBODY.place]
    routes = [NOBODY.routes]
    own = [NOBODY.own]
    for sender in traffic.senders:
        if sender.level not in levels:
            continue
        if sender.always:
            fired = np.arange(len(sender.sub_step))
        else:
            fired = np.flatnonzero(image.sent[sender.population][time_of(sender.level)])
        sub_step = sender.sub_step[fired]
        fired = fired[(sub_step >= sub_steps.start) & (sub_step < sub_steps.stop)]
        if not len(fired):
            continue
        sub_step, sent = _sent(sender, fired)
        when.append(sub_step)
        places.append(sent.place)
        routes.append(sent.routes)
        own.append(sent.own)
    sent = Firings(np.concatenate(places), np.concatenate(routes), np.concatenate(own))
    return _by_sub_step(traffic, np.concatenate(when), sent, sub_steps)


def _sent(sender: Sender, fired: Int) -> tuple[Int, Firings]:
    """What the spikes of some neurons of a population make this sender send: sub-steps and firings.

    fired  flat indices of the neurons
    """
    neuron = np.unravel_index(fired, sender.place.shape[:-1])
    place = sender.place[neuron]
    row = sender.row[neuron]
    routes = np.stack([sender.table[row], sender.table[row + 1]], -1)
    sub_step = np.broadcast_to(sender.sub_step[fired][:, None], place.shape)
    sends = routes[..., 1] > routes[..., 0]
    return sub_step[sends], Firings(place[sends], routes[sends], np.full(int(sends.sum()), sender.own))


def _by_sub_step(traffic: Traffic, when: Int, sent: Firings, sub_steps: range) -> list[Firings]:
    """The firings of each of `sub_steps`; when: (firings,) the sub-step of each."""
    # by sub-step, then by place; stable, so that what one neuron sends stays in the order of the senders
    order = np.argsort(when * len(traffic.sweep.slice_at) + sent.place, kind="stable")
    edges = np.searchsorted(when[order], np.arange(sub_steps.start, sub_steps.stop + 1)).tolist()
    found = [order[first:end] for first, end in pairwise(edges)]
    return [Firings(sent.place[chosen], sent.routes[chosen], sent.own[chosen]) for chosen in found]


def _wave(traffic: Traffic, firings: Firings, begin: Int, visited: Int, added: int | Int) -> Wave:
    """The wave of these firings.

    begin    (cores + 1,) ticks at which the sweep of each core begins, as if one came after the other, and all end
    visited  (firings,) ticks at which the visits of these neurons end
    added    ticks that a neuron that sends takes more, or (firings,) that each does
    """
    first = np.searchsorted(firings.place, traffic.sweep.begin)
    sending = np.flatnonzero(first[1:] > first[:-1])
    # gaps are from the firing before, the first one of a core's from the begin of its sweep
    before = np.concatenate([[0], visited])[:-1]
    before[first[sending]] = begin[sending]
    last = begin[:-1].copy()
    last[sending] = visited[first[sending + 1] - 1]
    return Wave(first, visited - before + added, firings.routes, begin[1:] - last)
