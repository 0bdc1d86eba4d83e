"""What must be said beside the figures, where it applies to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from spikformer_deploy.accounting.figures import interval, rounded
from spikformer_deploy.accounting.layers import slots, sparsity
from spikformer_deploy.accounting.uncertainty import Energy
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.counts.events import Events
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.times import StepTimes

WINNING_STEPS = 5
WINNING_RATE = 0.06
"""Where a spiking network was found to beat a matched quantized ANN: arXiv 2409.08290."""
ALIKE = 1.05
"""Energies whose ratio is less are about the same."""
GUESSED_SHARE = 0.1
"""Of the target's energy: less on guesses than that is not worth a note."""
RUNTIME_SHARE = 0.1
"""Of a step: a runtime that takes less of it in sub-steps than that is not worth a note."""
APART = 0.15
"""The two models of time differ by more than that: the note says why."""
SHARE_OF_DIFFERENCE = 0.1
"""Of what they differ by: what explains less is not worth a word."""
SILENT_SHARE = 0.1
"""Of the neurons: fewer than that which never fire are not worth a note."""
GROUPS = {
    "waiting": "waiting, of messages for places in queues and on links, and of sweeps that these hold up",
    "at_once": "the work of the busiest core or link",
    "sub_steps": "sub-steps, with what waits in them",
    "ends": "barrier and runtime",
}
"""What a step is the sum of, in words."""
NS_PER_US = 1e3


def notes(
    network: Network,
    events: Events,
    energies: Sequence[Energy],
    times: StepTimes | None = None,
    estimated: StepTimes | None = None,
) -> tuple[str, ...]:
    """Statements about the counted figures for a person to read, most important first.

    times  the finest that there are; estimated: those of the closed form, where times are message by message
    """
    by_name = {energy.convention: energy for energy in energies}
    return (
        *_against_ann(network, events),
        *_operation_counts(by_name),
        *_target(by_name),
        *_sub_steps(times),
        *_models_apart(times, estimated),
        *_attention(events),
        *_silent(network, events),
    )


def _against_ann(network: Network, events: Events) -> Iterator[str]:
    """Whether a spiking network of such steps and rates was found to win."""
    rate = sparsity(network, events).rate
    steps = events.time_steps
    slot = slots(network, events)
    inside = "inside" if slot.count <= WINNING_STEPS and slot.rate < WINNING_RATE else "outside"
    fired = f"T = {steps} and a mean firing rate of {rate:.1%}"
    if slot.count > steps:
        fired = (
            f"T = {steps} and integers up to {slot.count // steps}, which is {slot.count} slots of binary spikes, and "
            f"a mean firing rate of {slot.rate:.1%} in a slot ({rate:.1%} of the neurons send something in a step)"
        )
    yield (
        f"With {fired} this network is {inside} the region where a spiking "
        f"network was found to win against a matched quantized ANN: T <= {WINNING_STEPS} and firing rates under about "
        f"{WINNING_RATE:.0%} (arXiv 2409.08290)."
    )


def _operation_counts(energies: dict[str, Energy]) -> Iterator[str]:
    """What counts of operations say against an ANN, and what they leave out."""
    spiking = energies["spikformer-paper"].total.nominal
    dense = energies["ann-equivalent-fp32"].total.nominal
    small = energies["ann-equivalent-int8"].total.nominal
    if spiking < dense or _alike(spiking, dense):
        yield (
            f"By operation counts alone this network takes {_compared(spiking, dense)} its fp32 ANN; "
            "such counts overstate gains 2x to 12x (arXiv 2309.03388), as they leave memory and data movement out."
        )
    if small < spiking and not _alike(small, spiking):
        yield (
            f"The same layers as an int8 ANN take {small:.3g} mJ of arithmetic, less than the {spiking:.3g} mJ of the "
            "paper's convention, which charges a synaptic operation as an fp32 addition."
        )
    compared = _compared(energies["memory-aware"].total.nominal, energies["memory-aware-ann-int8"].total.nominal)
    yield f"With on-chip memory counted, this network takes {compared} the same layers as an int8 ANN."


def _compared(ours: float, theirs: float) -> str:
    """How an energy compares with another: "1.5 times less energy than", or "about as much energy as"."""
    if _alike(ours, theirs):
        return "about as much energy as"
    return (
        f"{ours / theirs:.1f} times more energy than"
        if ours > theirs
        else f"{theirs / ours:.1f} times less energy than"
    )


def _alike(ours: float, theirs: float) -> bool:
    """Whether two energies are so close that a factor between them would be no news."""
    return max(ours, theirs) < ALIKE * min(ours, theirs)


def _target(energies: dict[str, Energy]) -> Iterator[str]:
    """That the target's figures are estimates, how sure they are, and how much of them is guessed."""
    corners = [energy for name, energy in energies.items() if name.split(":")[0] == "profile"]
    if not corners:
        return
    yield (
        "Times and energies on the target are estimates from a profile, not measurements; docs/silicon.md says how "
        "such estimates did beside networks that others measured: times better than energies, of which none of Loihi 2 "
        "is confirmed."
    )
    # the nominal corner comes first
    energy = corners[0]
    total = energy.total
    guessed = energy.shares.get("guess", 0.0)
    basis = f"; {guessed:.0%} of it rests on guesses" if guessed > GUESSED_SHARE else ""
    yield (
        f"The target's energy within the boundary '{energy.scope}' is likely {interval(*total.likely)} mJ an image "
        f"(nominal {rounded(total.nominal)}; with all numbers at their ends at once {interval(total.low, total.high)})"
        f"{basis}."
    )


def _sub_steps(times: StepTimes | None) -> Iterator[str]:
    """What attention costs in time where it is built of threshold neurons, and rules the step."""
    if times is None or times.bound != "sub_steps":
        return
    step_us = times.step_us_mean[NOMINAL]
    share = times.parts_ns["sub_steps"] / NS_PER_US / step_us
    sub_steps = times.chip_steps - 1
    runtime_us = times.runtime_ns[NOMINAL] / NS_PER_US
    of_runtime = sub_steps * runtime_us / step_us
    paid = ""
    if of_runtime > RUNTIME_SHARE:
        paid = (
            f"; each is a time step of the chip, for which the runtime takes {rounded(runtime_us)} us, and "
            f"{sub_steps:,} of these are {of_runtime:.0%} of a step"
        )
    yield (
        f"The sub-steps that put spiking self-attention onto threshold neurons take {share:.0%} of a step: in each of "
        f"them every core of the chip sweeps its neurons{paid}."
    )


def _models_apart(times: StepTimes | None, estimated: StepTimes | None) -> Iterator[str]:
    """Why a step takes another time message by message than by the closed form, where they differ by much."""
    if times is None or estimated is None:
        return
    followed, closed = times.step_us_mean[NOMINAL], estimated.step_us_mean[NOMINAL]
    difference = followed - closed
    if abs(difference) <= APART * closed:
        return
    of_times, of_estimated = _groups_us(times), _groups_us(estimated)
    apart = {name: of_times[name] - of_estimated[name] for name in GROUPS}
    told = sorted(
        (name for name in apart if abs(apart[name]) > SHARE_OF_DIFFERENCE * abs(difference)),
        key=lambda name: -abs(apart[name]),
    )
    between = "; ".join(f"{'+' if apart[name] > 0 else ''}{rounded(apart[name])} us of {GROUPS[name]}" for name in told)
    yield (
        f"Message by message a step takes {rounded(followed)} us, {followed / closed:.2f} times that of the closed "
        f"form ({rounded(closed)} us). Between them lie {between}."
    )


def _groups_us(times: StepTimes) -> dict[str, float]:
    """What a nominal step in us is the sum of; at_once: the longest of what goes on side by side."""
    parts = times.parts_ns
    waiting = parts.get("waiting", 0.0) / NS_PER_US
    sub_steps = parts["sub_steps"] / NS_PER_US
    ends = (parts["barrier"] + parts["runtime"]) / NS_PER_US
    at_once = float(times.step_us_mean[NOMINAL]) - waiting - sub_steps - ends
    return {"waiting": waiting, "at_once": at_once, "sub_steps": sub_steps, "ends": ends}


def _attention(events: Events) -> Iterator[str]:
    """How many of the synaptic operations are an upper bound only."""
    delivered = sum(int(p.delivered.sum()) for p in events.projections) / events.images
    if events.slices is not None and delivered:
        share = delivered * events.images / int(events.slices.synops.sum())
        yield (
            f"{delivered:,.0f} graded values an image from attention counters ({share:.1%} of the synaptic operations) "
            "are an upper bound: counters at zero send none."
        )


def _silent(network: Network, events: Events) -> Iterator[str]:
    """How many neurons never fired."""
    silent = sparsity(network, events).silent
    if silent is not None and silent > SILENT_SHARE:
        seen = "this one image" if events.images == 1 else f"these {events.images:,} images"
        yield f"{silent:.0%} of the neurons never fired on {seen}."
