"""The record of a run from what was found on its images: times under every runtime, energies, notes."""

from __future__ import annotations

from collections.abc import Iterable

from spikformer_deploy.accounting.energy import Duration, account
from spikformer_deploy.base.formats import RANDOM, RANDOM_NOTE
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.counts.silence import note_on_silence
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.inference.results import Run, Timing
from spikformer_deploy.inference.tally import Tally
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.spread import spread
from spikformer_deploy.timing.times import StepTimes, under_runtime, with_range_of


def record(
    program: Program,
    images: ImageSet,
    tally: Tally,
    backend: str,
    runtime: str,
    cycle: StepTimes | None,
    seconds: float,
    peak_memory_mib: float,
) -> Run:
    """The record of `program`, as its file has it, on all of `images`.

    tally   of all of them; its times are under `runtime`
    cycle   message-level times of the first of them under it; None where nobody asked
    """
    under = _under_runtimes(program, runtime, tally, cycle)
    profile = hardware.under(program.profile, runtime)
    mapped = (program.mapping, profile, Duration(under[runtime].finest, under[runtime].spread)) if under else ()
    return Run(
        program=program,
        data=images,
        backend=backend,
        kernels=tally.kernels,
        accumulators=tally.accumulators,
        classes=tally.classes,
        labels=images.labels,
        events=tally.events,
        runtime=runtime,
        under=under,
        shorter=tally.shorter,
        energies=account(program.network, tally.events, *mapped),
        seconds=seconds,
        peak_memory_mib=peak_memory_mib,
        notes=(*images.all_notes(tally.brightest, tally.lost), *of_program(program), *on_silence(program, (tally,))),
    )


def _under_runtimes(program: Program, runtime: str, tally: Tally, cycle: StepTimes | None) -> dict[str, Timing]:
    """Times under every runtime, of times under one of them; {} where there are none."""
    if tally.times is None:
        return {}
    out = {}
    for name in hardware.RUNTIMES:
        profile = hardware.under(program.profile, name)
        runtime_ns = latencies(profile).runtime
        estimated = tally.times if name == runtime else under_runtime(tally.times, runtime_ns)
        followed = cycle
        if cycle is not None and name != runtime:
            followed = with_range_of(under_runtime(cycle, runtime_ns), estimated)
        sure = spread(tally.events, program.network, program.mapping, profile)
        out[name] = Timing(estimated, followed, sure)
    return out


def on_silence(program: Program, tallies: Iterable[Tally]) -> tuple[str, ...]:
    """A note on layers of neurons that never fired, in none of the tallies."""
    layers = [p.name for p in program.network if p.neuron.fires]
    fired = {name for tally in tallies for name in layers if tally.events.populations[name].spikes.any()}
    silent = [name for name in layers if name not in fired]
    return note_on_silence(silent, len(layers))


def of_weights(program: Program) -> tuple[str, ...]:
    """A note where a program is of random weights."""
    return (RANDOM_NOTE,) if RANDOM in program.provenance.get("training", {}) else ()


def of_program(program: Program) -> tuple[str, ...]:
    """Notes on what a program is of: random weights, and an earlier release, whose times and energies are others."""
    notes = of_weights(program)
    if not hardware.of_before(program.profile):
        return notes
    return (
        *notes,
        "The program holds the hardware profile of an earlier release, which knows no runtime of a step and no running "
        "power: its times and energies are today's form with that release's constants, and figures of neither. Compile "
        "it again.",
    )
