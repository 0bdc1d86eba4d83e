"""Energy on a target: its energies of single events, and its static power for as long as an image takes."""

from __future__ import annotations

from spikformer_deploy.accounting.uncertainty import Energy, Part, Range, priced, weakest
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.profile import Energy as EventEnergies
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.events import Events, SliceEvents
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.timing.times import StepTimes

SECONDS_PER_NANO = 1e-9


def on_target(events: Events, mapping: Mapping, profile: Profile, times: StepTimes) -> tuple[Energy, ...]:
    """The energy of an image in the pipeline, one for each corner of the profile's energies, the nominal one first.

    The nominal corner is called "profile", the others "profile:<corner>".
    Raises InputError where the events were counted without a mapping.
    """
    if events.slices is None:
        raise InputError("energy", "the events were counted without a mapping", "Pass the mapping to count().")
    names = sorted(profile.corners, key=lambda name: name != profile.corner)
    return tuple(
        Energy(
            "profile" if name == profile.corner else f"profile:{name}",
            f"Estimate for the cores, the network on chip and the static power of {mapping.chips} chip(s) of "
            f"{profile.name}, energies '{name}'; no host, no DRAM, no input or output of the board.",
            (
                *_dynamic(events, events.slices, mapping, profile.corners[name], times),
                *_static(mapping, profile, times),
            ),
        )
        for name in names
    )


def _dynamic(
    events: Events, slices: SliceEvents, mapping: Mapping, energy: EventEnergies, times: StepTimes
) -> tuple[Part, ...]:
    """What the events of an image cost, those parts only that occur."""
    images = events.images
    steps = events.time_steps
    counters = [i for i, site in enumerate(mapping.sites) if site.kind == "attention"]
    at_counters = [s for s, site in enumerate(slices.sites.tolist()) if site in counters]
    everywhere = int(slices.neurons.sum())
    swept = int(mapping.swept.sum())
    # counters of attention wait for its sub-steps: their updates are priced as sweeps of those
    waiting = int(slices.neurons[at_counters].sum())
    sub_steps = max((site.sub_steps for site in mapping.sites), default=0) * steps
    # the least: cores without attention sleep through its sub-steps; else every core of the chip sweeps its neurons
    idle = Range(sub_steps * waiting, sub_steps * swept, sub_steps * swept)
    # counted, or what the mapper expected from the firing rates of calibration
    expected_across = mapping.metrics.get("packet_hops_east_west", 0.0) * steps
    expected_along = mapping.metrics.get("packet_hops_north_south", 0.0) * steps
    across, along = times.hops or (expected_across, expected_along)
    parts = (
        priced("synaptic operations", int(slices.synops.sum()) / images, energy.synapse),
        priced("neuron updates", (everywhere - waiting) * steps, energy.neuron_update),
        priced("sweeps of sub-steps", idle, energy.neuron_idle),
        priced("spikes", int(slices.spikes.sum()) / images, energy.spike_out),
        priced("messages sent", int(slices.messages_out.sum()) / images, energy.axon_out),
        priced("hops east-west", across, energy.hop_east_west),
        priced("hops north-south", along, energy.hop_north_south),
    )
    return tuple(part for part in parts if part.events > 0)


def _static(mapping: Mapping, profile: Profile, times: StepTimes) -> tuple[Part, ...]:
    """Power of the chips in use for T pipelined steps."""
    # step_ns is (corner, image, step): an image takes all its steps, and figures are means over the images
    low, nominal, high = (times.step_ns.sum(2).mean(1) * SECONDS_PER_NANO).tolist()
    seconds = Range(low, nominal, high)
    kind = _kind_of_time(profile, times)
    power = (("static power, chips", profile.power.static_chip), ("static power, board", profile.power.static_board))
    return tuple(
        Part(name, nominal, Range.of(mw) * seconds * mapping.chips, weakest((mw.kind, kind)), mw.source)
        for name, mw in power
    )


def _kind_of_time(profile: Profile, times: StepTimes) -> str:
    """The kind of the duration that rules the step."""
    time = profile.time
    ruling = {
        "neurons": time.neuron_update,
        "synapses": time.synapse_conv,
        "messages": time.axon_in,
        "link": time.link_rate,
        "barrier": time.barrier_chip,
        "sub_steps": time.neuron_idle,
        "waiting": profile.chip.port_messages,
    }
    return ruling[times.bound].kind
