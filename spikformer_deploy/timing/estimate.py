"""Closed-form step times of a finished mapping from exact counts of events, for every image and every corner.

The form itself stands in chips/loihi/steps.py: the busiest core or link rules, then the barrier; an attention adds its
sub-steps.  Token-serial populations work in the same sub-steps as attentions do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.loihi.latencies import CORNERS, NOMINAL, Latencies, latencies
from spikformer_deploy.chips.loihi.steps import Work, barrier, link_ns, loads_ns, passing_ns, pause_ns, step_ns
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
    chip = _Chip(latencies(profile), link_ns(profile, mapping), barrier(profile, mapping))
    layout = slice_layout(network, mapping)
    corners = [_corner(slices, layout, chip, corner) for corner in range(len(CORNERS))]
    nominal = corners[NOMINAL]
    return StepTimes(
        np.stack([corner.step for corner in corners]),
        np.stack([corner.fall_through for corner in corners]),
        nominal.parts,
        nominal.busiest,
        layout.depth,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Chip:
    """What the target needs for a mapping: its latencies, the time of the heaviest link, the barrier; (3,) in ns."""

    table: Latencies
    link: Times
    barrier: Times


@dataclass(frozen=True, slots=True, eq=False)
class _Corner:
    """Times of one corner: step and fall_through (images, T), busiest core of each step, mean of each part."""

    step: Times
    fall_through: Times
    busiest: NDArray[np.int64]
    parts: dict[str, float]


def _corner(slices: SliceEvents, layout: SliceLayout, chip: _Chip, corner: int) -> _Corner:
    serial = layout.sub_steps > 0
    end = float(chip.barrier[corner])
    pause = pause_ns(slices.by_core(layout.swept)[1].max(), end, chip.table, corner)
    work = Work(slices.neurons, slices.spikes, slices.synops, slices.messages_in, layout.synapse)
    load = loads_ns(work, chip.table, corner)
    at_once = {name: _busiest(slices.of(~serial), values[..., ~serial]) for name, values in load.items()}
    at_once["link"] = np.full(slices.synops.shape[:2], chip.link[corner])
    in_turn = [_busiest(slices.of(serial), values[..., serial]) for values in load.values()]
    # one part of the report: the pauses with the work that is done in them
    sub_steps = layout.sub_steps.max(initial=0) * pause + np.max(in_turn, 0)
    parts = {name: float(values.mean()) for name, values in at_once.items()}
    cores, total = slices.by_core(np.max(list(load.values()), 0))
    return _Corner(
        step_ns(np.max(list(at_once.values()), 0), end, sub_steps),
        sum(_levels(slices, layout, load, pause, end), np.zeros(slices.synops.shape[:2])),
        cores[total.argmax(-1)],
        {**parts, "barrier": end, "sub_steps": float(sub_steps.mean())},
    )


def _busiest(slices: SliceEvents, values: Times) -> Times:
    """(images, T) of the core with most."""
    return slices.by_core(values)[1].max(-1, initial=0.0)


def _levels(
    slices: SliceEvents, layout: SliceLayout, load: dict[str, Times], pause: float, end: float
) -> Iterator[Times]:
    """(images, T) time of each layer where the layers work one after the other.

    end  the barrier of a step
    """
    for level in range(layout.depth + 1):
        of_level = np.flatnonzero(layout.level == level)
        busy = [_busiest(slices.of(of_level), values[..., of_level]) for values in load.values()]
        yield passing_ns(np.max(busy, 0), layout.sub_steps[of_level].max(), pause, end)
