"""What must be said beside the figures, where it applies to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from spikformer_deploy.accounting.layers import sparsity
from spikformer_deploy.accounting.uncertainty import Energy
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.counts.events import Events
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.times import StepTimes

WINNING_STEPS = 5
WINNING_RATE = 0.06
"""Where a spiking network was found to beat a matched quantized ANN: arXiv 2409.08290."""
GUESSED_SHARE = 0.1
"""Of the target's energy: less on guesses than that is not worth a note."""
SILENT_SHARE = 0.1
"""Of the neurons: fewer than that which never fire are not worth a note."""
NS_PER_US = 1e3


def notes(
    network: Network, events: Events, energies: Sequence[Energy], times: StepTimes | None = None
) -> tuple[str, ...]:
    """Statements about the counted figures for a person to read, most important first."""
    by_name = {energy.convention: energy for energy in energies}
    return (
        *_against_ann(network, events),
        *_operation_counts(by_name),
        *_target(by_name),
        *_sub_steps(times),
        *_attention(events),
        *_silent(network, events),
    )


def _against_ann(network: Network, events: Events) -> Iterator[str]:
    """Whether a spiking network of such steps and rates was found to win."""
    rate = sparsity(network, events).rate
    steps = events.time_steps
    inside = "inside" if steps <= WINNING_STEPS and rate < WINNING_RATE else "outside"
    yield (
        f"With T = {steps} and a mean firing rate of {rate:.1%} this network is {inside} the region where a spiking "
        f"network was found to win against a matched quantized ANN: T <= {WINNING_STEPS} and firing rates under about "
        f"{WINNING_RATE:.0%} (arXiv 2409.08290)."
    )


def _operation_counts(energies: dict[str, Energy]) -> Iterator[str]:
    """What counts of operations say against an ANN, and what they leave out."""
    spiking = energies["spikformer-paper"].total.nominal
    dense = energies["ann-equivalent-fp32"].total.nominal
    small = energies["ann-equivalent-int8"].total.nominal
    if spiking < dense:
        yield (
            f"By operation counts alone this network takes {dense / spiking:.1f} times less energy than its fp32 ANN; "
            "such counts overstate gains 2x to 12x (arXiv 2309.03388), as they leave memory and data movement out."
        )
    if small < spiking:
        yield (
            f"The same layers as an int8 ANN take {small:.3g} mJ of arithmetic, less than the {spiking:.3g} mJ of the "
            "paper's convention, which charges a synaptic operation as an fp32 addition."
        )
    ours = energies["memory-aware"].total.nominal
    theirs = energies["memory-aware-ann-int8"].total.nominal
    relation = f"{ours / theirs:.1f} times more" if ours > theirs else f"{theirs / ours:.1f} times less"
    yield f"With on-chip memory counted, this network takes {relation} energy than the same layers as an int8 ANN."


def _target(energies: dict[str, Energy]) -> Iterator[str]:
    """That the target's figures are estimates, and how much of them is guessed."""
    corners = [energy for name, energy in energies.items() if name.split(":")[0] == "profile"]
    if not corners:
        return
    yield "Times and energies on the target are estimates from a profile, not measurements."
    # the nominal corner comes first
    total = corners[0].total
    shares = corners[0].shares
    if shares.get("guess", 0.0) > GUESSED_SHARE:
        yield (
            f"{shares['guess']:.0%} of the target's energy rests on guesses; with all numbers at their ends it is "
            f"{total.low:.3g} to {total.high:.3g} mJ."
        )


def _sub_steps(times: StepTimes | None) -> Iterator[str]:
    """What attention costs in time where it is built of threshold neurons, and rules the step."""
    if times is not None and times.bound == "sub_steps":
        share = times.parts_ns["sub_steps"] / NS_PER_US / times.step_us_mean[NOMINAL]
        yield (
            f"The sub-steps that put spiking self-attention onto threshold neurons take {share:.0%} of a step: in each "
            "of them every core of the chip sweeps its neurons."
        )


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
    if silent > SILENT_SHARE:
        yield f"{silent:.0%} of the neurons never fired on these {events.images} images."
