"""Closed-form step time: the busiest core or link rules, then the barrier.

Source of the form: Timcheck, Pierro, Shrestha, arXiv 2601.10035, validated there on Loihi 2 (correlation >= 0.97).
One chip step: every core sweeps its neurons, serves its messages and does its synaptic operations; the longest of
these, over all cores, and the heaviest link give the time, plus the barrier.  An attention adds its sub-steps, which
are chip-wide: each costs a sweep over idle neurons and a barrier, and the work at the counters comes on top.  So does
that of token-serial populations, whose tokens come in the same sub-steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.loihi.latencies import CORNERS, Latencies, latencies
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.events import Events, SliceEvents
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.layout import SliceLayout, slice_layout
from spikformer_deploy.timing.times import StepTimes, Times


def estimate(events: Events, network: Network, mapping: Mapping, profile: Profile) -> StepTimes:
    """Step times of every image from its events on every core.

    Raises InputError where the events were counted without a mapping.
    """
    slices = events.slices
    if slices is None:
        raise InputError("estimate", "the events were counted without a mapping", "Pass the mapping to count().")
    table = latencies(profile, mapping)
    layout = slice_layout(network, mapping)
    corners = [_corner(slices, layout, table, corner) for corner in range(len(CORNERS))]
    nominal = corners[CORNERS.index("nominal")]
    step, fall = (np.stack([getattr(c, f) for c in corners]) for f in ("step", "fall_through"))
    return StepTimes(step, fall, nominal.parts, nominal.busiest, layout.depth)


@dataclass(frozen=True, slots=True, eq=False)
class _Corner:
    """Times of one corner: step and fall_through (images, T), busiest core of each step, mean of each part."""

    step: Times
    fall_through: Times
    busiest: NDArray[np.int64]
    parts: dict[str, float]


def _corner(slices: SliceEvents, layout: SliceLayout, table: Latencies, corner: int) -> _Corner:
    serial = layout.sub_steps > 0
    barrier = float(table.barrier[corner])
    # the fullest core visits all its neurons and finds nothing to do
    pause = float(slices.by_core(layout.swept)[1].max() * table.idle_neuron[corner]) + barrier
    load = _loads(slices, layout, table, corner)
    busy = {name: _busiest(slices.of(~serial), values[..., ~serial]) for name, values in load.items()}
    at_counters = {name: _busiest(slices.of(serial), values[..., serial]) for name, values in load.items()}
    link = np.full(slices.synops.shape[:2], table.link[corner])
    sub_steps = layout.sub_steps.max(initial=0) * pause + np.max(list(at_counters.values()), 0)
    parts = {name: float(values.mean()) for name, values in {**busy, "link": link}.items()}
    cores, total = slices.by_core(np.max(list(load.values()), 0))
    return _Corner(
        np.max([*busy.values(), link], 0) + barrier + sub_steps,
        sum(_levels(slices, layout, load, pause, barrier), np.zeros(link.shape)),
        cores[total.argmax(-1)],
        {**parts, "barrier": barrier, "sub_steps": float(sub_steps.mean())},
    )


def _loads(slices: SliceEvents, layout: SliceLayout, table: Latencies, corner: int) -> dict[str, Times]:
    """Time (images, T, slices) in ns that each resource of a core works for each slice, by the names of parts_ns."""
    return {
        "neurons": slices.neurons * table.neuron[corner] + slices.spikes * table.spike_out[corner],
        "synapses": slices.synops * table.synop[corner][layout.synapse],
        "messages": slices.messages_in * table.message_in[corner],
    }


def _busiest(slices: SliceEvents, values: Times) -> Times:
    """(images, T) of the core with most."""
    return slices.by_core(values)[1].max(-1, initial=0.0)


def _levels(
    slices: SliceEvents, layout: SliceLayout, load: dict[str, Times], pause: float, barrier: float
) -> Iterator[Times]:
    """(images, T) time of each layer that works alone, while all other cores sweep idle neurons."""
    for level in range(layout.depth + 1):
        here = np.flatnonzero(layout.level == level)
        busy = [_busiest(slices.of(here), values[..., here]) for values in load.values()]
        yield np.maximum(np.max(busy, 0) + barrier, pause) + layout.sub_steps[here].max() * pause
