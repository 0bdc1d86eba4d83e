"""From a recorded image to the messages of every chip-wide step: which core sends what, when in its sweep, where to.

A time step is one chip-wide step in which all neurons are visited, and then the sub-steps of its attentions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import idle
from spikformer_deploy.timing.ranges import starts_of
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
    """

    place: Int
    routes: Int


NOBODY = Firings(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))


def recorded_image(network: Network, execution: Execution, number: int) -> Recorded:
    """The image of that number in an execution that has recorded all populations."""
    sent = {p.name: execution.spikes[p.name][number] for p in network}
    found = {p.name: idle(p.neuron, sent[p.name], execution.membranes[p.name][number]) for p in network}
    return Recorded(sent, {name: marked for name, marked in found.items() if marked is not None})


def pipelined(traffic: Traffic, image: Recorded, step: int) -> list[Wave]:
    """The waves of chip-wide step `step` of a pipeline that one image after the other, all like this one, runs through.

    A layer at level l works on what the Source sent l steps before.
    """
    steps = traffic.network.time_steps
    sub_steps = max(traffic.sub_steps.values(), default=0)
    return _waves(traffic, image, range(traffic.levels), lambda level: (step - level) % steps, sub_steps)


def falling_through(traffic: Traffic, image: Recorded, level: int, step: int) -> list[Wave]:
    """The waves in which the layer at `level` works on time step `step`, and all others find nothing to do."""
    return _waves(traffic, image, [level], lambda _: step, traffic.sub_steps.get(level, 0))


def _waves(traffic: Traffic, image: Recorded, levels: Collection[int], time_of: TimeOf, sub_steps: int) -> list[Wave]:
    """The chip-wide step in which the layers at `levels` work, each on its own time step, and its sub-steps.

    In a sub-step nothing is updated but the neurons that send.
    """
    costs = traffic.costs
    now, *later = _by_sub_step(_firings(traffic, image, levels, time_of), sub_steps)
    waves = [_wave(traffic, now, starts_of(_visits(traffic, image, levels, time_of)), costs.spike)]
    if not later:
        return waves
    slice_at = traffic.sweep.slice_at
    clock = costs.idle * np.arange(len(slice_at) + 1)
    # sub-steps in which nobody sends are all the same, and many
    quiet = _wave(traffic, NOBODY, clock, 0)
    for sent in later:
        added = costs.spike + costs.update[slice_at[sent.place]] - costs.idle
        waves.append(_wave(traffic, sent, clock, added) if len(sent.place) else quiet)
    return waves


def _visits(traffic: Traffic, image: Recorded, levels: Collection[int], time_of: TimeOf) -> Int:
    """(places,) ticks of each visit of a chip-wide step: at `levels` an update, but of neurons that are idle there."""
    costs = traffic.costs
    works = np.isin(traffic.layout.level, list(levels)) & ~traffic.counters
    visits = np.where(works, costs.update, costs.idle)[traffic.sweep.slice_at]
    for name, idle_neurons in image.idle.items():
        level = traffic.level[name]
        if level in levels:
            visits[traffic.own[name][idle_neurons[time_of(level)]]] = costs.idle
    return visits


def _firings(traffic: Traffic, image: Recorded, levels: Collection[int], time_of: TimeOf) -> tuple[Int, Firings]:
    """What the layers at `levels` send, each at its own time step: (firings,) sub-steps, ascending, and the firings."""
    sub_steps = [NOBODY.place]
    places = [NOBODY.place]
    routes = [NOBODY.routes]
    for sender in traffic.senders:
        if sender.level not in levels:
            continue
        if sender.always:
            fired = np.arange(len(sender.sub_step))
        else:
            fired = np.flatnonzero(image.sent[sender.population][time_of(sender.level)])
        sub_step, sent = _sent(sender, fired)
        sub_steps.append(sub_step)
        places.append(sent.place)
        routes.append(sent.routes)
    sub_step = np.concatenate(sub_steps)
    place = np.concatenate(places)
    # by sub-step, then by place; stable, so that what one neuron sends stays in the order of the senders
    order = np.argsort(sub_step * len(traffic.sweep.slice_at) + place, kind="stable")
    return sub_step[order], Firings(place[order], np.concatenate(routes)[order])


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
    return sub_step[sends], Firings(place[sends], routes[sends])


def _by_sub_step(firings: tuple[Int, Firings], sub_steps: int) -> list[Firings]:
    """The firings of the chip-wide step, then those of each of its sub-steps."""
    sub_step, every = firings
    edges = np.searchsorted(sub_step, np.arange(sub_steps + 2)).tolist()
    return [Firings(every.place[first:end], every.routes[first:end]) for first, end in pairwise(edges)]


def _wave(traffic: Traffic, firings: Firings, clock: Int, added: int | Int) -> Wave:
    """The wave of these firings.

    clock  (places + 1,) ticks: when each place is visited, as if the sweeps of all cores were one after the other
    added  ticks that a neuron that sends takes more, or (firings,) that each does
    """
    begin = clock[traffic.sweep.begin]
    visited = clock[firings.place + 1]
    first = np.searchsorted(firings.place, traffic.sweep.begin)
    sending = np.flatnonzero(first[1:] > first[:-1])
    # gaps are from the firing before, the first one of a core's from the begin of its sweep
    before = np.concatenate([[0], visited])[:-1]
    before[first[sending]] = begin[sending]
    last = begin[:-1].copy()
    last[sending] = visited[first[sending + 1] - 1]
    return Wave(first, visited - before + added, firings.routes, begin[1:] - last)
