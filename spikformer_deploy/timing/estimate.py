"""Closed-form step times of a finished mapping from exact counts of events, for every image and every corner.

The form itself stands in chips/loihi/steps.py.  Layers are pipelined: in chip-wide step s of images that follow each
other, all alike, the layer at level l works on time step s - l.  What reaches it was sent in the step before, and is
served in that step; the time at which a layer far above a shortcut sends is taken for that of the layer right above.
Token-serial populations work in the same sub-steps as attentions do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips import draws
from spikformer_deploy.chips.draws import NOMINAL, Points
from spikformer_deploy.chips.loihi.latencies import Latencies, latencies
from spikformer_deploy.chips.loihi.steps import Work, barrier, core_ns, link_ns, loads_ns, pause_ns
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.events import Events, SliceEvents, condensed
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.layout import SliceLayout, slice_layout
from spikformer_deploy.timing.times import StepTimes, Times


def estimate(events: Events, network: Network, mapping: Mapping, profile: Profile) -> StepTimes:
    """Step times of every image from its events on every core.

    Raises InputError where the events were counted without a mapping.
    """
    work = slice_work(events, network, mapping, profile)
    chip = _chip(mapping, profile, draws.corners)
    step = _step(work, chip)
    layout = work.layout
    return StepTimes(
        step_ns=step.total,
        fall_through_ns=_fall_through(work, chip),
        parts=step.parts(NOMINAL),
        busiest=step.busiest,
        depth=layout.depth,
        runtime_ns=chip.table.runtime,
        chip_steps=1 + chip.sub_steps,
        chip_steps_falling=1 + layout.depth + sum(layout.sub_steps_after.values()),
    )


def step_at(
    events: Events, network: Network, mapping: Mapping, profile: Profile, points: Points
) -> tuple[Float, Float]:
    """(pipelined, fall-through), (K,) each: mean ns of a time step at any points, of the events of the mean image."""
    work = slice_work(condensed(events), network, mapping, profile)
    chip = _chip(mapping, profile, points)
    return _step(work, chip).total.mean((1, 2)), _fall_through(work, chip).mean((1, 2))


@dataclass(frozen=True, slots=True, eq=False)
class SliceWork:
    """What each slice does in each time step, (images, T, slices): its neurons, and what reaches it."""

    slices: SliceEvents
    layout: SliceLayout
    own: Work
    arriving: Work


def slice_work(events: Events, network: Network, mapping: Mapping, profile: Profile) -> SliceWork:
    slices = events.slices
    if slices is None:
        raise InputError("estimate", "the events were counted without a mapping", "Pass the mapping to count().")
    layout = slice_layout(network, mapping, profile.core)
    # condensed events are sums over the images
    images = events.images / len(slices.spikes)
    working = slices.neurons - slices.idle / images
    fixed = layout.program == 0
    own = Work(
        updates=np.where(fixed, working, 0.0),
        programmed=np.where(fixed, 0.0, working),
        length=layout.program,
        idle=slices.idle / images,
        spikes=slices.spikes / images,
        sent=slices.messages_out / images,
    )
    arriving = Work(synops=slices.synops / images, messages=slices.messages_in / images, synapse=layout.synapse)
    return SliceWork(slices, layout, own, arriving)


@dataclass(frozen=True, slots=True, eq=False)
class _Chip:
    """What the target needs for a mapping, (K,) in ns.

    link   time of the heaviest link
    pause  a sub-step in which nothing is done; sub_steps: how many a time step takes
    """

    table: Latencies
    link: Times
    barrier: Times
    pause: Times
    sub_steps: int


def _chip(mapping: Mapping, profile: Profile, points: Points) -> _Chip:
    table = latencies(profile, points)
    barriers = barrier(table, profile, mapping)
    core = np.unique(mapping.cores, return_inverse=True)[1]
    fullest = int(np.bincount(core, mapping.swept).max())
    pause = pause_ns(fullest, barriers + table.runtime, table)
    return _Chip(table, link_ns(table, mapping), barriers, pause, mapping.chip_sub_steps)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A pipelined step: by part (K, images, T), and (images, T) the core with most work at the nominal values."""

    at_once: dict[str, Times]
    link: Times
    barrier: Times
    runtime: Times
    sub_steps: Times
    busiest: NDArray[np.int64]

    @property
    def total(self) -> Times:
        """(K, images, T)."""
        served = self.at_once["synapses"] + self.at_once["messages"]
        swept = np.maximum(self.at_once["neurons"], self.at_once["sending"])
        return np.maximum(np.maximum(swept, served), self.link) + self.barrier + self.runtime + self.sub_steps

    def parts(self, point: int) -> dict[str, Times]:
        """(images,) mean ns a step of each part."""
        added = {"link": self.link, "barrier": self.barrier, "runtime": self.runtime, "sub_steps": self.sub_steps}
        # (images, T) all of them, also those that are alike in all images: sums in one order, whatever the batch
        full = {name: np.broadcast_to(ns[point], self.busiest.shape) for name, ns in (self.at_once | added).items()}
        return {name: np.ascontiguousarray(ns).mean(1) for name, ns in full.items()}


def _step(work: SliceWork, chip: _Chip) -> _Step:
    """The steps of a pipeline that one image after the other, all alike, runs through."""
    layout = work.layout
    of_cores = work.slices.by_core
    sweeps = loads_ns(_shifted(work.own, layout.level), chip.table)
    served = loads_ns(_shifted(work.arriving, layout.level - 1), chip.table)
    serial = layout.sub_steps > 0
    swept, sending = (_most(work.slices, sweeps[name], ~layout.in_turn) for name in ("neurons", "sending"))
    synapses, messages = _busiest(work.slices, served, ~serial)
    swept_in_turn = [_most(work.slices, sweeps[name], layout.in_turn) for name in ("neurons", "sending")]
    in_turn = np.maximum.reduce([*swept_in_turn, _busiest(work.slices, served, serial).sum(0)])
    every = core_ns(sweeps | {name: served[name] for name in ("synapses", "messages")})
    cores, busy = of_cores(every[min(NOMINAL, len(every) - 1)])
    return _Step(
        at_once={"neurons": swept, "sending": sending, "synapses": synapses, "messages": messages},
        link=_of_steps(chip.link),
        barrier=_of_steps(chip.barrier),
        runtime=_of_steps(chip.table.runtime),
        # one part of the report: the pauses with the work that is done in them
        sub_steps=_of_steps(chip.sub_steps * chip.pause) + in_turn,
        busiest=cores[busy.argmax(-1)],
    )


def _of_steps(times: Times) -> Times:
    """(K, 1, 1) of (K,): the same for every image and step."""
    return times[:, None, None]


def _shifted(work: Work, level: NDArray[np.int64]) -> Work:
    """In chip-wide step s, slices of a level do what time step s - level asks for."""
    counts = {name: getattr(work, name) for name in work._fields if name not in ("length", "synapse")}
    return work._replace(**{name: _rolled(values, level) for name, values in counts.items() if np.ndim(values)})


def _rolled(values: Float, level: NDArray[np.int64]) -> Float:
    """(images, T, slices), each slice `level` steps later; the images before were alike."""
    steps = values.shape[1]
    index = (np.arange(steps)[:, None] - level) % steps
    return np.take_along_axis(values, index[None], 1)


def _most(slices: SliceEvents, values: Times, chosen: NDArray[np.bool_]) -> Times:
    """(K, images, T) of the core with most, of some slices."""
    return slices.by_core(values, chosen)[1].max(-1, initial=0.0)


def _busiest(slices: SliceEvents, served: dict[str, Times], chosen: NDArray[np.bool_]) -> Times:
    """(2, K, images, T) synapses and messages of the core that is busy longest with both, one after the other."""
    resources = [slices.by_core(served[name], chosen)[1] for name in ("synapses", "messages")]
    of_cores = np.stack(resources)
    if not of_cores.shape[-1]:
        return np.zeros(of_cores.shape[:-1])
    core = of_cores.sum(0).argmax(-1)
    return np.take_along_axis(of_cores, core[None, ..., None], -1)[..., 0]


def _fall_through(work: SliceWork, chip: _Chip) -> Times:
    """(K, images, T): the layers work one after the other, a chip-wide step each with its sub-steps.

    In the step of a layer its neurons send, what they sent is served, and all others are visited.
    """
    layout = work.layout
    sweeps = loads_ns(work.own, chip.table)
    served = loads_ns(work.arriving, chip.table)
    swept = [_most_of_levels(work, sweeps[name]) for name in ("neurons", "sending")]
    busy = np.maximum.reduce([*swept, _most_of_levels(work, served["synapses"], served["messages"], below=1)])
    total = np.zeros(())
    for level in range(layout.depth + 1):
        end = _of_steps(chip.barrier + chip.table.runtime)
        total = (
            total
            + np.maximum(busy[..., level] + end, _of_steps(chip.pause))
            + _of_steps(layout.sub_steps_after.get(level, 0) * chip.pause)
        )
    return total


def _most_of_levels(work: SliceWork, *loads: Times, below: int = 0) -> Times:
    """(K, images, T, depth + 1) of the core with most in each level, or `below` levels further down; 0 where none is.

    loads  (K, images, T, slices), which a core does one after the other
    """
    layout = work.layout
    order = np.lexsort((work.slices.cores, layout.level))
    levels, cores = layout.level[order], work.slices.cores[order]
    starts = np.flatnonzero(np.diff(levels, prepend=-1) | np.diff(cores, prepend=-1))
    of_cores = np.add.reduce([np.add.reduceat(load[..., order], starts, axis=-1) for load in loads])
    present, first = np.unique(levels[starts], return_index=True)
    most = np.zeros((*of_cores.shape[:-1], below + layout.depth + 1))
    most[..., present] = np.maximum.reduceat(of_cores, first, axis=-1)
    return most[..., below:]
