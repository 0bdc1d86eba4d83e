"""Energy on a target: its energies of single events, and power for as long as an image takes, by boundary."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.uncertainty import (
    MILLI_PER_PICO,
    Energy,
    Part,
    Range,
    exactly,
    priced,
    spread_of,
    weakest,
    weakest_role,
)
from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.chips.quantity import Quantity
from spikformer_deploy.counts.events import Events, SliceEvents
from spikformer_deploy.counts.slices import PER_IMAGE
from spikformer_deploy.network.mapping import OPERANDS, Mapping
from spikformer_deploy.timing.spread import Spread
from spikformer_deploy.timing.times import StepTimes

SECONDS_PER_NANO = 1e-9

NEURO_CORES = "neuro_cores"
CHIPS = "chips"
BOARD = "board"
LEFT_OUT = "no host, no DRAM, no input or output of the board, no waiting of what skips layers"
SWEEPS = "sweeps of sub-steps"
HOPS = ("hops east-west", "hops north-south")
COSTS = {
    "synaptic operations": "synapse",
    "neuron updates": "neuron_update",
    "idle neurons": "neuron_idle",
    SWEEPS: "neuron_idle",
    "spikes": "spike_out",
    "messages sent": "axon_out",
    HOPS[0]: "hop_east_west",
    HOPS[1]: "hop_north_south",
}
"""Kinds of events, and the energy of a profile that one of them takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Duration:
    """How long an image has the chip, and how sure that is: mean times, and their spread.

    falling  seconds, where each of its time steps passes all layers before the next one begins; None: in the pipeline
    """

    times: StepTimes
    spread: Spread
    falling: Range | None = None

    @property
    def seconds(self) -> Range:
        """T steps, mean over the images."""
        if self.falling is not None:
            return self.falling
        # step_ns is (corner, image, step): an image takes all its steps
        low, nominal, high = (self.times.step_ns.sum(2).mean(1) * SECONDS_PER_NANO).tolist()
        return spread_of(low, nominal, high, self.spread.step)


def on_target(events: Events, mapping: Mapping, profile: Profile, duration: Duration) -> tuple[Energy, ...]:
    """The energy of an image, one for each corner of the profile's energies, the nominal one first.

    The nominal corner is called "profile", the others "profile:<corner>".  The figure is that of the boundary CHIPS.
    Raises InputError where the events were counted without a mapping.
    """
    if events.slices is None:
        raise InputError("energy", "the events were counted without a mapping", "Pass the mapping to count().")
    names = sorted(profile.corners, key=lambda name: name != profile.corner)
    return tuple(
        Energy(
            "profile" if name == profile.corner else f"profile:{name}",
            _boundaries(mapping, profile, name),
            CHIPS,
            (
                *_dynamic(events, events.slices, mapping, profile, name, duration),
                *_constant(mapping, profile, duration),
            ),
        )
        for name in names
    )


def _boundaries(mapping: Mapping, profile: Profile, corner: str) -> dict[str, str]:
    """What each boundary holds and leaves out."""
    chips = int(profile.board.chips)
    return {
        NEURO_CORES: f"Estimate for what the cores and the network on chip of {profile.name} do, energies '{corner}'; "
        f"no static power, no embedded processors, {LEFT_OUT}.",
        CHIPS: f"Estimate for {mapping.chips} chip(s) of {profile.name}, energies '{corner}': cores, network on chip, "
        f"static power, embedded processors and what else runs with every step; {LEFT_OUT}.",
        BOARD: f"Estimate for the board {profile.name}, energies '{corner}': all its {chips:,} chip(s), used or not, "
        f"and what else draws static power; {LEFT_OUT}.",
    }


def _dynamic(
    events: Events, slices: SliceEvents, mapping: Mapping, profile: Profile, corner: str, duration: Duration
) -> tuple[Part, ...]:
    """What the events of an image cost, those parts only that occur."""
    images, steps = events.images, events.time_steps
    counts = slice_counts(events, slices, mapping)
    # the least: cores without attention sleep through its sub-steps; else every core of the chip sweeps its neurons
    waiting = int(slices.neurons[_at_counters(slices, mapping)].sum())
    least = mapping.chip_sub_steps * steps * waiting + _turns(mapping, slices) * steps
    visits = int(counts.pop(SWEEPS).sum()) + _sweeps_of_falling(mapping, duration) * steps
    sweeps = Range(least, visits, visits, np.array([float(visits)]))
    # counted, or what the mapper expected from the firing rates of calibration
    expected_across = mapping.metrics.get("packet_hops_east_west", 0.0) * steps
    expected_along = mapping.metrics.get("packet_hops_north_south", 0.0) * steps
    across, along = duration.times.hops or (expected_across, expected_along)

    def part(name: str, count: float | Range, cost: str) -> Part:
        return priced(name, count, f"energy.{corner}.{cost}", getattr(profile.corners[corner], cost), NEURO_CORES)

    means: dict[str, float | Range] = {name: int(count.sum()) / images for name, count in counts.items()}
    means |= {SWEEPS: sweeps, HOPS[0]: across, HOPS[1]: along}
    parts = (part(name, means[name], cost) for name, cost in COSTS.items())
    return tuple(part for part in parts if part.events > 0)


def slice_counts(events: Events, slices: SliceEvents, mapping: Mapping) -> dict[str, Int]:
    """(slices,) of each kind of event by its name in COSTS, but of hops: where it happens, summed over the images.

    Sweeps are the nominal ones, of one image, where every core of the chip sweeps its neurons in every sub-step.
    """
    steps = events.time_steps
    idle = slices.idle.sum((0, 1))
    # counters of attention wait for its sub-steps: their updates are priced as sweeps of those
    updated = np.where(_at_counters(slices, mapping), 0, slices.neurons)
    # tokens that come in series are updated in visits of sub-steps, which are then no sweeps over idle neurons
    serial = [i for i, site in enumerate(mapping.sites) if site.token_serial]
    in_turn = np.where(np.isin(slices.sites, serial), slices.neurons, 0) * steps
    return {
        "synaptic operations": slices.synops.sum((0, 1)),
        "neuron updates": updated * steps * events.images - idle,
        "idle neurons": idle,
        SWEEPS: mapping.chip_sub_steps * steps * mapping.swept - in_turn,
        "spikes": slices.spikes.sum((0, 1)),
        "messages sent": slices.messages_out.sum((0, 1)),
    }


def falling_by_step(
    events: Events, slices: SliceEvents, mapping: Mapping, profile: Profile, hops: Int, times: StepTimes
) -> NDArray[np.float64]:
    """(images, T) nominal mJ of what the cores and the network on chip do in each time step of each image.

    Time steps fall through the layers: all first steps of an image together are the NEURO_CORES of `on_target`.
    slices  of each image by itself; hops: (images, T, 2) messages * hops, east-west and north-south
    """
    idle = slices.idle.sum(2)
    # what is the same in every step of every image: one without idle visits, spikes and messages
    every = replace(slices, **{name: np.zeros_like(getattr(slices, name)[:1, :1]) for name in PER_IMAGE})
    one = slice_counts(replace(events, images=1, time_steps=1, slices=every), every, mapping)
    falling = (times.chip_steps_falling - times.chip_steps) * int(mapping.swept.sum())
    counts = {
        "synaptic operations": slices.synops.sum(2),
        "neuron updates": int(one["neuron updates"].sum()) - idle,
        "idle neurons": idle,
        SWEEPS: np.full(idle.shape, int(one[SWEEPS].sum()) + falling),
        "spikes": slices.spikes.sum(2),
        "messages sent": slices.messages_out.sum(2),
        HOPS[0]: hops[:, :, 0],
        HOPS[1]: hops[:, :, 1],
    }
    priced_at = {name: getattr(profile.energy, cost).value * MILLI_PER_PICO for name, cost in COSTS.items()}
    total: NDArray[np.float64] = sum((count * priced_at[name] for name, count in counts.items()), np.zeros(idle.shape))
    return total


def _at_counters(slices: SliceEvents, mapping: Mapping) -> NDArray[np.bool_]:
    """(slices,) whether they are counters of an attention."""
    return np.isin(slices.sites, [i for i, site in enumerate(mapping.sites) if site.kind == "attention"])


def _sweeps_of_falling(mapping: Mapping, duration: Duration) -> int:
    """Visits of a time step that passes the layers one after the other, beyond those of a pipelined one.

    In each of its steps of the chip every core sweeps its neurons, and those of one layer have something to do.
    """
    if duration.falling is None:
        return 0
    return (duration.times.chip_steps_falling - duration.times.chip_steps) * int(mapping.swept.sum())


def _turns(mapping: Mapping, slices: SliceEvents) -> int:
    """Visits in a time step of neurons that sum products, a pair of factors in each of their own sub-steps."""
    turns = np.array([site.sub_steps if site.serial == OPERANDS else 0 for site in mapping.sites])
    return int((turns[slices.sites] * slices.neurons).sum())


def _constant(mapping: Mapping, profile: Profile, duration: Duration) -> tuple[Part, ...]:
    """Power that flows while an image has the chip, whatever the network does, those parts only that there are."""
    power = profile.power
    chips = int(profile.board.chips)
    unused = chips - mapping.chips
    seconds = duration.seconds
    ruling = _ruling(profile, duration)

    def part(name: str, path: str, number: Quantity, count: int, boundary: str) -> Part:
        return Part(
            name,
            seconds.nominal,
            Range.of(path, number) * seconds * exactly(float(count)),
            weakest((number.kind, ruling.kind)),
            number.source,
            weakest_role((number.role, ruling.role)),
            (*((path,) if number.range else ()), *duration.spread.paths),
            boundary,
            unit="s",
        )

    static = ("power.static_chip", power.static_chip)
    running = ("power.running_chip", power.running_chip)
    parts = (
        part("static power of the chips", *static, mapping.chips, CHIPS),
        part("running power of the chips", *running, mapping.chips, CHIPS),
        part("static power of unused chips", *static, unused, BOARD),
        part("running power of unused chips", *running, unused, BOARD),
        part("static power of the board besides", "power.static_board", power.static_board, chips, BOARD),
    )
    return tuple(part for part in parts if part.energy.high > 0)


def _ruling(profile: Profile, duration: Duration) -> Quantity:
    """The duration that rules the step."""
    time, times = profile.time, duration.times
    of_runtimes = times.chip_steps_falling * float(times.runtime_ns[NOMINAL]) * times.fall_through_ns.shape[2]
    if duration.falling is not None and 2 * of_runtimes * SECONDS_PER_NANO > duration.falling.nominal:
        return time.step_runtime
    visits = time.neuron_programmable if profile.core.programmable.value else time.neuron_update
    runtime = (times.chip_steps - 1) * float(times.runtime_ns[NOMINAL])
    mostly_runtime = 2 * runtime > times.parts_ns["sub_steps"]
    ruling = {
        "neurons": visits,
        "sending": time.axon_out,
        "synapses": time.synapse_conv,
        "messages": time.axon_in,
        "link": time.link_rate,
        "barrier": time.barrier_chip,
        "runtime": time.step_runtime,
        "sub_steps": time.step_runtime if mostly_runtime else time.neuron_idle,
        "waiting": profile.chip.port_messages,
    }
    return ruling[times.bound]
