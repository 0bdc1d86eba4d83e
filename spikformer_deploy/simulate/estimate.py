"""Closed-form step time: the busiest core or link rules, then the barrier.

Source of the form: Timcheck, Pierro, Shrestha, arXiv 2601.10035, validated there on Loihi 2 (correlation >= 0.97).
One chip step: every core sweeps its neurons, serves its messages and does its synaptic operations; the longest of
these, over all cores, and the heaviest link give the time, plus the barrier.  An attention adds its sub-steps, which
are chip-wide: each costs a sweep over idle neurons and a barrier, and the work at the counters comes on top.  So does
that of token-serial populations, whose tokens come in the same sub-steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.errors import InputError
from spikformer_deploy.hardware import Profile
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Conv, Readout
from spikformer_deploy.simulate.events import Events, SliceEvents
from spikformer_deploy.simulate.latencies import CORNERS, Latencies, latencies

Times: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """How long the chip takes; an image takes T steps.

    step_ns            (3, images, T) one chip-wide step with all layers at work on different steps (pipelined)
    fall_through_ns    (3, images, T) one step that passes all layers one after the other
    parts_ns           mean nominal time of each thing that can rule a step ("neurons", "synapses", "messages", "link")
                       and of what is added ("barrier", "sub_steps")
    busiest            (images, T) the core with most work
    depth              layers that a spike passes from the Source to the Accumulator
    model              "estimate" (this file) or "cycle" (timing.py, which adds the part "waiting")
    hops               messages * hops of an image, east-west and north-south (hops.py); empty where not counted
    """

    step_ns: Times
    fall_through_ns: Times
    parts_ns: dict[str, float]
    busiest: NDArray[np.int64]
    depth: int
    model: str = "estimate"
    hops: tuple[float, ...] = ()

    @property
    def bound(self) -> str:
        """The largest of parts_ns."""
        return max(self.parts_ns, key=lambda name: self.parts_ns[name])

    @property
    def busiest_core(self) -> int:
        """The core with most work in most steps."""
        return int(np.bincount(self.busiest.ravel()).argmax())

    @property
    def step_us_mean(self) -> Times:
        """(3,) mean time of a pipelined step in us."""
        return self.step_ns.mean((1, 2)) / 1e3

    @property
    def images_per_second(self) -> Times:
        """(3,) throughput of the pipeline, an image every T steps, ascending: the first is that of the slow corner."""
        return np.sort(1e9 / self.step_ns.sum(2).mean(1))

    @property
    def latency_us(self) -> Times:
        """(3,) mean time from the image to its logits in the pipeline: (T + depth - 1) steps."""
        return (self.step_ns.shape[2] + self.depth - 1) * self.step_us_mean

    @property
    def fall_through_us(self) -> Times:
        """(3,) mean time from the image to its logits where the layers work one after the other."""
        return self.fall_through_ns.sum(2).mean(1) / 1e3


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


def with_range_of(times: StepTimes, estimated: StepTimes) -> StepTimes:
    """Times known at their nominal value alone, with a range as wide as that of an estimate of the same network."""
    spread = (estimated.step_us_mean / estimated.step_us_mean[1])[:, None, None]
    passing = (estimated.fall_through_us / estimated.fall_through_us[1])[:, None, None]
    return replace(times, step_ns=times.step_ns * spread, fall_through_ns=times.fall_through_ns * passing)


def join_times(first: StepTimes, more: StepTimes) -> StepTimes:
    """The times of the images of both."""
    share = first.step_ns.shape[1] / (first.step_ns.shape[1] + more.step_ns.shape[1])
    return StepTimes(
        np.concatenate([first.step_ns, more.step_ns], 1),
        np.concatenate([first.fall_through_ns, more.fall_through_ns], 1),
        {name: share * first.parts_ns[name] + (1 - share) * more.parts_ns[name] for name in first.parts_ns},
        np.concatenate([first.busiest, more.busiest]),
        first.depth,
        first.model,
        tuple(share * a + (1 - share) * b for a, b in zip(first.hops, more.hops, strict=True)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class SliceLayout:
    """What each slice is: its synapses' kind (an index into Latencies.synop), its level, whether it works in sub-steps.

    level      (slices,) layers from the Source
    sub_steps  (slices,) sub-steps that a time step takes there, or in its attention; 0 for ordinary slices
    swept      (slices,) neurons that its core visits in a sub-step
    """

    synapse: NDArray[np.int64]
    level: NDArray[np.int64]
    sub_steps: NDArray[np.int64]
    swept: NDArray[np.int64]
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class _Corner:
    """Times of one corner: step and fall_through (images, T), busiest core of each step, mean of each part."""

    step: Times
    fall_through: Times
    busiest: NDArray[np.int64]
    parts: dict[str, float]


def slice_layout(network: Network, mapping: Mapping) -> SliceLayout:
    levels = depths(network)
    waiting = {site.population: site.sub_steps for site in mapping.sites if site.kind == "attention"}
    kind, level, sub_steps = [], [], []
    for site in mapping.sites:
        incoming = network.into(site.population)
        counters = site.kind == "attention"
        kind.append(Latencies.KINDS.index("dense") if counters else max(map(_kind, incoming), default=0))
        level.append(levels[site.population])
        sub_steps.append(max(waiting.get(site.population, 0), site.sub_steps))
    of = mapping.boxes[:, 0]
    return SliceLayout(
        np.array(kind)[of], np.array(level)[of], np.array(sub_steps)[of], mapping.swept, max(levels.values())
    )


def _kind(projection: Projection) -> int:
    """Index of the latency of its synapses: shared weights, a full matrix, or single synapses."""
    match projection.synapse:
        case Conv():
            return Latencies.KINDS.index("convolution")
        case Readout():
            return Latencies.KINDS.index("dense")
        case _:
            return Latencies.KINDS.index("sparse")


def depths(network: Network) -> dict[str, int]:
    """Layers on the longest way from the Source to each population."""
    out: dict[str, int] = {}
    for population in network:
        sources = [s for projection in network.into(population.name) for s in projection.sources]
        out[population.name] = max((out[s] + 1 for s in sources), default=0)
    return out


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
