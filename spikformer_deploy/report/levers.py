"""What would help most: the energy of an image if one thing were otherwise, as far as the model of costs can say.

Each lever is worked out from the run alone, within the boundary of the target's figure.  Fewer bits of weights are no
lever: no constant of a target depends on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spikformer_deploy.accounting.energy import Duration
from spikformer_deploy.accounting.target import HOPS, NEURO_CORES, SWEEPS, on_target
from spikformer_deploy.accounting.uncertainty import NOTHING, Energy, Range
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.chips.draws import NOMINAL

if TYPE_CHECKING:
    from spikformer_deploy.inference.results import Run

MOST = 3
"""Levers that a report names."""
WORTH = 0.01
"""Share of the energy: what saves less is no lever."""
LOSS = 0.01
"""Of the accuracy: a program of fewer steps that loses more is not proposed."""
FEWER = 0.1
"""Share of the spikes that a lower firing rate leaves out."""
NS_PER_US = 1e3


@dataclass(frozen=True, slots=True)
class Lever:
    """One thing that could be otherwise.

    energy      mJ an image then; latency_us: nominal latency of the pipeline then, None: as it is
    accuracy    then, of the same images; None where nothing is known of it
    rests_on    what the estimate is worth, in words; way: how to get there
    """

    name: str
    energy: Range
    latency_us: float | None
    accuracy: float | None
    rests_on: str
    way: str


def levers(run: Run) -> tuple[Lever, ...]:
    """The largest, by the nominal energy that they save; () where no timing was asked for."""
    if run.timing is None:
        return ()
    energy = target_energy(run.energies)
    every = (*without_runtime(run), *_fewer_steps(run, energy), *_no_sub_steps(run, energy), *_together(run, energy))
    worth = [lever for lever in (*every, *_fewer_spikes(energy)) if saves(lever, energy) >= WORTH]
    return tuple(sorted(worth, key=lambda lever: lever.energy.nominal)[:MOST])


def target_energy(energies: tuple[Energy, ...]) -> Energy:
    """The one of the target's nominal corner."""
    return next(energy for energy in energies if energy.convention == "profile")


def saves(lever: Lever, energy: Energy) -> float:
    """Share of the nominal energy; 0 where there is none to save."""
    now = energy.total.nominal
    return 1 - lever.energy.nominal / now if now else 0.0


def without_runtime(run: Run) -> Iterator[Lever]:
    """The same program, where the runtime takes none of a step; none where the run is of that already."""
    timing = run.under.get("bare")
    if run.runtime == "bare" or timing is None:
        return
    duration = Duration(timing.finest, timing.spread)
    profile = hardware.under(run.program.profile, "bare")
    energy = on_target(run.events, run.program.mapping, profile, duration)[0].total
    yield Lever(
        "a runtime that costs nothing",
        energy,
        float(timing.finest.latency_us[NOMINAL]),
        run.accuracy,
        "a lower bound that nobody has measured",
        "--runtime bare",
    )


def _fewer_steps(run: Run, energy: Energy) -> Iterator[Lever]:
    """The fewest time steps that lose little accuracy, with the same integers."""
    # energies after each step are of the closed form, and compare with no others
    if run.accuracy is None or run.cycle is not None:
        return
    for after in run.by_step[:-1]:
        if after.accuracy is not None and after.energies and after.accuracy >= run.accuracy - LOSS:
            within = target_energy(after.energies).within(energy.scope)
            steps = f"{after.step} time step{'' if after.step == 1 else 's'} instead of {run.events.time_steps}"
            rests_on = "counted in this run, with the same integers; times by the closed form"
            yield Lever(
                steps,
                within,
                _latency_of_first(run, after.step),
                after.accuracy,
                rests_on,
                "a program of so many steps, as sweep --time-steps makes them",
            )
            return


def _latency_of_first(run: Run, steps: int) -> float | None:
    """In us, of a program of the first steps; None where that was not timed."""
    by_steps = {times.step_ns.shape[2]: times for times in run.shorter}
    return float(by_steps[steps].latency_us[NOMINAL]) if steps in by_steps else None


def _no_sub_steps(run: Run, energy: Energy) -> Iterator[Lever]:
    """Nothing that takes sub-steps of the chip; where tokens come in series, they stay whatever the attention is."""
    assert run.timing is not None
    times = run.timing.finest
    step_us = float(times.step_us_mean[NOMINAL])
    mapping = run.program.mapping
    if not mapping.chip_sub_steps or any(site.token_serial for site in mapping.sites) or step_us == 0:
        return
    rest = max(0.0, 1 - times.parts_ns["sub_steps"] / NS_PER_US / step_us)
    yield Lever(
        "no sub-steps of attention",
        _scaled(energy, {SWEEPS: 0.0}, rest),
        rest * float(times.latency_us[NOMINAL]),
        None,
        "at most that: what replaces this attention costs something, too",
        "a model with spike-driven attention, trained anew",
    )


def _together(run: Run, energy: Energy) -> Iterator[Lever]:
    """Several images at once, in cores of the same chips that are free."""
    mapping = run.program.mapping
    usable = mapping.chips * mapping.cores_per_chip
    copies = usable // mapping.cores_used
    if copies > 1:
        yield Lever(
            f"{copies} images at once on the same {'chip' if mapping.chips == 1 else 'chips'}",
            _scaled(energy, {}, 1 / copies),
            None,
            run.accuracy,
            "at most that: static power is shared; more tiles make a longer barrier",
            f"{copies} copies of the program, as {usable - mapping.cores_used:,} cores are free",
        )


def _fewer_spikes(energy: Energy) -> Iterator[Lever]:
    """A tenth of the spikes less, everywhere."""
    counted = ("synaptic operations", "spikes", "messages sent", *HOPS)
    yield Lever(
        f"firing rates {FEWER:.0%} lower everywhere",
        _scaled(energy, dict.fromkeys(counted, 1 - FEWER), 1.0),
        None,
        None,
        "events are linear in spikes; times are left as they are, and can only fall",
        "training with a penalty on firing rates",
    )


def _scaled(energy: Energy, factors: dict[str, float], power: float) -> Range:
    """The figure with these factors on parts of the cores, by name, and `power` on all that flows with time."""
    parts = [
        part.energy * (factors.get(part.name, 1.0) if part.boundary == NEURO_CORES else power) for part in energy.inside
    ]
    return sum(parts, NOTHING)
