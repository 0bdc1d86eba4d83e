"""From recorded spikes to the messages of every chip-wide step: which core sends what, when in its sweep, and where to.

A time step is one chip-wide step in which all neurons are visited, and then the sub-steps of its attentions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.timing.ranges import starts_of
from spikformer_deploy.timing.senders import Sender
from spikformer_deploy.timing.traffic import Traffic
from spikformer_deploy.timing.wave import Wave

Spikes: TypeAlias = Mapping[str, NDArray[np.integer]]
"""By population name: (T, C, Y, X), what one image made it send."""


@dataclass(frozen=True, slots=True, eq=False)
class Firings:
    """Neurons that send something in a chip-wide step or a sub-step, in the order of their places.

    place   (firings,) in the sweeps
    routes  (firings, 2) first entry and end in Routes
    """

    place: Int
    routes: Int


NOBODY = Firings(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))


def pipelined(traffic: Traffic, spikes: Spikes, step: int) -> list[Wave]:
    """The waves of chip-wide step `step` of a pipeline that one image after the other, all like this one, runs through.

    A layer at level l works on what the Source sent l steps before.
    """
    steps = traffic.network.time_steps
    sub_steps = max(traffic.sub_steps.values(), default=0)
    firings = _firings(traffic, spikes, range(traffic.levels), lambda level: (step - level) % steps)
    return _waves(traffic, _by_sub_step(firings, sub_steps), ~traffic.counters)


def falling_through(traffic: Traffic, spikes: Spikes, level: int, step: int) -> list[Wave]:
    """The waves in which the layer at `level` works on time step `step`, and all others find nothing to do."""
    sub_steps = traffic.sub_steps.get(level, 0)
    firings = _firings(traffic, spikes, [level], lambda _: step)
    busy = (traffic.layout.level == level) & ~traffic.counters
    return _waves(traffic, _by_sub_step(firings, sub_steps), busy)


def _firings(
    traffic: Traffic, spikes: Spikes, levels: Collection[int], time_of: Callable[[int], int]
) -> tuple[Int, Firings]:
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
            fired = np.flatnonzero(spikes[sender.population][time_of(sender.level)])
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


def _waves(traffic: Traffic, firings: list[Firings], busy: NDArray[np.bool_]) -> list[Wave]:
    """The chip-wide step, in which the neurons of `busy` slices are updated, and its sub-steps.

    In a sub-step nothing is updated but the neurons that send.
    """
    costs = traffic.costs
    idle = np.full(len(busy), costs.idle)
    waves = [_wave(traffic, firings[0], np.where(busy, costs.update, costs.idle), costs.spike)]
    # sub-steps in which nobody sends are all the same, and many
    quiet = _wave(traffic, NOBODY, idle, 0)
    added = costs.spike + costs.update - costs.idle
    for sent in firings[1:]:
        waves.append(_wave(traffic, sent, idle, added) if len(sent.place) else quiet)
    return waves


def _wave(traffic: Traffic, firings: Firings, visit: Int, added: int) -> Wave:
    """The wave of these firings.

    visit  (slices,) ticks of the visit of a neuron
    added  ticks that a neuron that sends takes more
    """
    sweep = traffic.sweep
    cores = np.arange(traffic.cores + 1)
    # the sweeps of all cores one after the other, as if they were one: ticks are then a running sum
    edges = starts_of((sweep.neurons * visit)[sweep.order])
    start = np.empty(len(visit), np.int64)
    start[sweep.order] = edges[:-1]
    slices = sweep.slice_at[firings.place]
    visited = start[slices] + (firings.place - sweep.first[slices] + 1) * visit[slices]
    # where the sweep of each core begins in it, and which firings are the core's
    begin = edges[np.searchsorted(sweep.core[sweep.order], cores)]
    first = np.searchsorted(sweep.core[slices], cores)
    sending = np.flatnonzero(first[1:] > first[:-1])
    # gaps are from the firing before, the first one of a core's from the begin of its sweep
    before = np.concatenate([[0], visited])[:-1]
    before[first[sending]] = begin[sending]
    last = begin[:-1].copy()
    last[sending] = visited[first[sending + 1] - 1]
    return Wave(first, visited - before + added, firings.routes, begin[1:] - last)
