"""A run with early exit: images leave when the margin of the accumulators says so, and are accounted for up to there.

An image that leaves after t steps has what a program of t steps gives it (network/steps.py): spikes, counts and times.
So a run is a run of the programs of 1, 2, ... T steps, each on the images that leave after so many, and all figures are
means over the images.  On the chip this is so where each time step passes all layers before the next one begins: in a
pipeline the later steps of an image are in flight when its margin is known, and nothing of them would be saved.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.deciding import LAYERS, SOURCE, Deciding, deciding, deciding_parts, decision_ns
from spikformer_deploy.accounting.energy import Duration, Energy, account
from spikformer_deploy.accounting.figures import energy_values, range_values
from spikformer_deploy.accounting.uncertainty import Range, mixed, spread_of
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.base.notebook import as_html, as_text
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.base.words import check_word
from spikformer_deploy.chips import draws
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.events import Geometry, geometry
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors import leaving
from spikformer_deploy.executors.execution import BATCH, Leave, Request
from spikformer_deploy.inference.parts import Part, Source, check_sending, read_part, source
from spikformer_deploy.inference.record import of_program, on_silence
from spikformer_deploy.inference.run import images_for
from spikformer_deploy.inference.seam import Pool, Work, in_order, pool
from spikformer_deploy.inference.tallied import recorded_in, tally_of
from spikformer_deploy.inference.tally import Tally, added
from spikformer_deploy.network.exits import LEAVE_OUT, check_exit, check_margin
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.steps import first_steps
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.hops import HopTable, hop_table
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.spread import spread
from spikformer_deploy.timing.times import StepTimes
from spikformer_deploy.timing.traffic import traffic

TIMINGS = ("estimate", "none")
"""How long the chip takes: by the closed form, or not at all."""
FALL_THROUGH = "fall-through"
"""The schedule in which early exit saves something."""


@dataclass(frozen=True, slots=True, eq=False)
class Leavers:
    """The images of a run that left after the same step.

    steps   1 to T; share: of all images
    tally   what they did: of a program of so many steps
    latency us from the image to its answer, decisions included; None where no timing was asked for
    energies  mean of these images
    """

    steps: int
    share: float
    tally: Tally
    latency: Range | None
    energies: tuple[Energy, ...]

    @property
    def images(self) -> int:
        """How many there are."""
        return self.tally.events.images


@dataclass(frozen=True, eq=False, repr=False)
class ExitRun:
    """The record of a program on a set of images that leave when they are done.

    margin        the threshold, in units of the accumulators
    steps         (N,) int64 the time step, 1 to T, after which each image left
    accumulators  (N, classes) int64 of the head of a program of so many steps
    groups        the images by that step, ascending
    deciding      what a decision takes on the chip; None where no timing was asked for
    decision_us   by which it makes a time step longer, nominal
    energies      mean over all images
    """

    program: Program
    data: ImageSet
    backend: str
    kernels: str
    margin: int
    steps: NDArray[np.int64]
    accumulators: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    groups: tuple[Leavers, ...]
    deciding: Deciding | None
    decision_us: float | None
    runtime: str
    energies: tuple[Energy, ...]
    seconds: float
    peak_memory_mib: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return as_text("ExitRun", self._facts())

    def _repr_html_(self) -> str:
        return as_html("ExitRun", self._facts())

    def _facts(self) -> dict[str, str]:
        """What it shows of itself, in words."""
        steps = self.program.network.time_steps
        facts = {"images": f"{len(self.steps):,}", "mean steps": f"{self.mean_steps:.3f} of {steps}"}
        if self.accuracy is not None:
            facts["accuracy"] = f"{self.accuracy:.2%}"
        facts["synaptic operations"] = f"{self.synaptic_ops:,.0f} an image"
        if self.latency is not None:
            facts["latency, fall-through"] = f"{self.latency.nominal:.4g} us (estimate)"
        for energy in self.energies:
            facts[energy.convention] = f"{energy.total.nominal:.4g} mJ an image"
        facts["ran"] = f"{self.backend} ({self.kernels}) in {self.seconds:.3g} s"
        return facts

    @property
    def mean_steps(self) -> float:
        """Mean over the images of the step after which each left."""
        return float(self.steps.mean())

    @property
    def exits(self) -> list[int]:
        """How many images left after 1, 2, ... T steps."""
        return np.bincount(self.steps, minlength=self.program.network.time_steps + 1)[1:].tolist()

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class with the largest logit, the first of equals."""
        return self.accumulators.argmax(1)

    @property
    def accuracy(self) -> float | None:
        """Share of images whose prediction is their label."""
        return None if self.labels is None else float((self.predictions == self.labels).mean())

    @property
    def logits(self) -> NDArray[np.float64]:
        """(N, classes) the mean over the steps that an image took."""
        head = self.program.network.output.neuron
        assert isinstance(head, Accumulator)
        scale = np.repeat(head.scale, self.accumulators.shape[1] // len(head.scale))
        taken: NDArray[np.float64] = self.program.network.time_steps / self.steps
        return self.accumulators * (taken[:, None] * scale)

    @property
    def synaptic_ops(self) -> float:
        """An image, mean over the images."""
        return sum(int(g.tally.events.synops_by_step.sum()) for g in self.groups) / len(self.steps)

    @property
    def dense_macs(self) -> float:
        """Multiply-accumulates an image where nothing is skipped, of the steps that were taken."""
        return sum(g.tally.events.dense_macs * g.images for g in self.groups) / len(self.steps)

    @property
    def latency(self) -> Range | None:
        """us from the image to its answer where time steps fall through the layers, mean over the images."""
        latencies = [g.latency * g.share for g in self.groups if g.latency is not None]
        return sum(latencies[1:], latencies[0]) if latencies else None

    @property
    def logits_sha256(self) -> str:
        """Of the integers that logits are multiples of."""
        return hashlib.sha256(np.ascontiguousarray(self.accumulators, "<i8").tobytes()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The figures of the run as plain values: the JSON of `spikdeploy run --early-exit`."""
        return {
            "images": len(self.steps),
            "accuracy": self.accuracy,
            "predictions": self.predictions.tolist(),
            "logits_sha256": self.logits_sha256,
            "notes": list(self.notes),
            "backend": self.backend,
            "kernels": self.kernels,
            "synaptic_ops": self.synaptic_ops,
            "dense_macs": self.dense_macs,
            "early_exit": self._exits(),
            "time": self._time(),
            "energy_mj": {energy.convention: energy_values(energy) for energy in self.energies},
            "seconds": self.seconds,
            "peak_memory_mib": self.peak_memory_mib,
        }

    def _exits(self) -> dict[str, Any]:
        return {
            "margin": self.margin,
            "mean_steps": self.mean_steps,
            "time_steps": self.program.network.time_steps,
            "steps": self.steps.tolist(),
            "after": [self._after(group) for group in self.groups],
            "deciding": self._deciding(),
        }

    def _after(self, group: Leavers) -> dict[str, Any]:
        """What is known of the images that left after the same step."""
        chosen = self.steps == group.steps
        right = None if self.labels is None else float((self.predictions == self.labels)[chosen].mean())
        return {
            "step": group.steps,
            "images": group.images,
            "accuracy": right,
            "synaptic_ops": group.tally.events.synops,
            "latency_us": None if group.latency is None else range_values(group.latency),
            "energy_mj": {energy.convention: range_values(energy.total) for energy in group.energies},
        }

    def _deciding(self) -> dict[str, Any] | None:
        """A decision on the chip, and what its figures rest on."""
        if self.deciding is None:
            return None
        return {
            "cores": self.deciding.cores,
            "memory_words": self.deciding.words,
            "events": self.deciding.counts,
            "us": self.decision_us,
            "layers": LAYERS,
            "kind": "derived",
            "source": SOURCE,
        }

    def _time(self) -> dict[str, Any] | None:
        if self.latency is None:
            return None
        return {
            "schedule": FALL_THROUGH,
            "runtime": self.runtime,
            "latency_us": self.latency.nominal,
            "latency_us_likely": list(self.latency.likely),
            "latency_us_range": [self.latency.low, self.latency.high],
            "images_per_second": 1e6 / self.latency.nominal,
        }


@dataclass(frozen=True, slots=True, eq=False)
class ExitTally:
    """What a run with early exit has found: the step after which each image left, and what was found by that step."""

    steps: NDArray[np.int64]
    groups: dict[int, Tally]


def run_with_exit(
    program: Program,
    data: str | Path | NDArray[Any] | ImageSet,
    margin: int,
    *,
    backend: str = "engine",
    device: str = "cpu",
    timing: str = "estimate",
    runtime: str = "lava",
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    memory_limit: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    send_images: bool = False,
    progress: Progress = silent,
) -> ExitRun:
    """Run `program` on `data` as inference.run.run does, but let images go that are done.

    margin  how far the largest accumulator is to be ahead of the second largest, in their units; at it an image leaves
    timing  "estimate", for time steps that fall through the layers one after the other; or "none"
    Raises InputError for a margin below 1, a program whose images cannot leave early (network.exits.check_exit), the
    timing "cycle", and as inference.run.run.
    """
    check_sending(send_images, workers, scheduler)
    check_margin(margin)
    check_exit(program.network)
    if timing == "cycle":
        problem = "messages are not followed where images leave early"
        raise InputError("--timing", f"'cycle': {problem}", "Use --timing estimate, or leave out --early-exit.")
    check_word("--timing", timing, TIMINGS)
    if device != "cpu" and workers is not None:
        problem = f"processes of one machine would share its GPU, and {workers} are asked for"
        raise InputError("--workers", problem, "Leave it out, or start a worker for each GPU and give --scheduler.")
    images = images_for(program, data, limit, labels, task)
    if images.forecast is not None:
        raise InputError("--early-exit", "results are no classes, and a margin is between two classes", LEAVE_OUT)
    under = replace(program, profile=hardware.under(program.profile, runtime))
    decision = deciding(program.network, under.profile) if timing != "none" else None
    with pool(workers, scheduler) as crew:
        origin = source(images, crew, send_images)
        work = ExitBatches(under, origin.sent, margin, backend, device, timing != "none", memory_limit)
        start = time.monotonic()
        tally, peak_mib = _all_batches(work, origin, crew, progress)
    seconds = time.monotonic() - start
    return _record(program, under, images, tally, margin, backend, runtime, decision, seconds, peak_mib)


@dataclass(frozen=True, eq=False)
class ExitBatches(Work):
    """The tally of a part of `images`, and the peak memory of the process in MiB; fields as of inference.batches."""

    program: Program
    images: ImageSet
    margin: int
    backend: str
    device: str
    timed: bool
    memory_limit: int | None

    @cached_property
    def geometry(self) -> Geometry:
        """Of the counts of all steps."""
        return geometry(self.program.network, self.program.mapping)

    @cached_property
    def executor(self) -> Leave:
        """Prepared where the work is done."""
        network, mapping = self.program.network, self.program.mapping
        request = Request(network, self.geometry.cells, self.device, self.memory_limit, ways=mapping.ways)
        return leaving.prepare(self.backend, request, self.margin)

    @cached_property
    def hops(self) -> HopTable | None:
        """None without times."""
        if not self.timed:
            return None
        mesh = machine(self.program.profile, self.program.mapping).mesh
        return hop_table(traffic(self.geometry, self.program.profile), mesh, self.geometry.cells)

    def __call__(self, part: Part | slice) -> tuple[ExitTally, float]:
        read = read_part(self.images, part)
        tally: ExitTally | None = None
        for first in range(0, len(read.pixels), self.executor.batch):
            more = self._tally(read.pixels[first : first + self.executor.batch])
            tally = _added(tally, more)
        assert tally is not None
        # events that frames do not hold are those of all images: they stand with the first of them
        some = min(tally.groups)
        return replace(
            tally, groups=tally.groups | {some: replace(tally.groups[some], lost=read.lost)}
        ), peak_memory_mib()

    def _tally(self, pixels: NDArray[np.integer]) -> ExitTally:
        steps = np.zeros(len(pixels), np.int64)
        groups = {}
        for left in self.executor.execute(pixels, recorded_in(self.program.network)):
            steps[left.places] = left.steps
            fewer = replace(self.program, network=first_steps(self.program.network, left.steps))
            brightest = int(pixels.max())
            groups[left.steps] = tally_of(fewer, self.geometry, self.hops, left.execution, brightest, shorter=False)
        return ExitTally(steps, groups)


def _added(first: ExitTally | None, more: ExitTally) -> ExitTally:
    """The tally of the images of both."""
    groups = {} if first is None else dict(first.groups)
    for steps, tally in more.groups.items():
        groups[steps] = added(groups.get(steps), tally)
    return ExitTally(more.steps if first is None else np.concatenate([first.steps, more.steps]), groups)


def _all_batches(work: ExitBatches, origin: Source, crew: Pool, progress: Progress) -> tuple[ExitTally, float]:
    """The tally of all images, and the largest peak memory of a process in MiB."""
    tally: ExitTally | None = None
    peak_mib = 0.0
    for more, mib in in_order(crew.map(work, origin.parts(BATCH if crew.elsewhere else work.executor.batch))):
        peak_mib = max(peak_mib, mib)
        tally = _added(tally, more)
        progress(len(tally.steps), len(origin.images), f"mean steps {tally.steps.mean():.3f}")
    assert tally is not None
    return tally, max(peak_mib, peak_memory_mib())


def _record(
    program: Program,
    under: Program,
    images: ImageSet,
    tally: ExitTally,
    margin: int,
    backend: str,
    runtime: str,
    decision: Deciding | None,
    seconds: float,
    peak_mib: float,
) -> ExitRun:
    """The record of `program`, as its file has it; `under`: the same under the runtime."""
    groups = tuple(_leavers(under, tally, steps, decision) for steps in sorted(tally.groups))
    accumulators = np.zeros((len(tally.steps), program.network.output.size), np.int64)
    for group in groups:
        accumulators[tally.steps == group.steps] = group.tally.accumulators
    brightest = max(group.tally.brightest for group in groups)
    lost = sum(group.tally.lost for group in groups)
    by_convention = zip(*(group.energies for group in groups), strict=True)
    shares = [group.share for group in groups]
    us = None
    if decision is not None:
        us = float(decision_ns(decision, under.mapping, under.profile)[NOMINAL]) / 1e3
    return ExitRun(
        program=program,
        data=images,
        backend=backend,
        kernels="; ".join(sorted({kernel for group in groups for kernel in group.tally.kernels.split("; ")})),
        margin=margin,
        steps=tally.steps,
        accumulators=accumulators,
        labels=images.labels,
        groups=groups,
        deciding=decision,
        decision_us=us,
        runtime=runtime,
        energies=tuple(mixed(energies, shares) for energies in by_convention),
        seconds=seconds,
        peak_memory_mib=peak_mib,
        notes=(
            *images.all_notes(brightest, lost),
            *of_program(program),
            *on_silence(program, (group.tally for group in groups)),
        ),
    )


def _leavers(program: Program, tally: ExitTally, steps: int, decision: Deciding | None) -> Leavers:
    """The images that left after `steps` steps."""
    own = tally.groups[steps]
    share = own.events.images / len(tally.steps)
    network = first_steps(program.network, steps)
    if decision is None or own.times is None:
        return Leavers(steps, share, own, None, account(network, own.events))
    decisions = decisions_after(steps, program.network.time_steps)
    profile, mapping = program.profile, program.mapping
    seconds, duration = _falling(network, own, profile, program, decision, decisions)
    energies = tuple(
        with_decisions(energy, decision, decisions, program)
        for energy in account(network, own.events, mapping, profile, duration)
    )
    return Leavers(steps, share, own, seconds * 1e6, energies)


def decisions_after(steps: int, time_steps: int) -> int:
    """How often it was decided of an image that left after `steps` steps: after the last one nothing is to decide."""
    return min(steps, time_steps - 1)


def with_decisions(energy: Energy, decision: Deciding, decisions: float, program: Program) -> Energy:
    """An energy of the target with what the decisions of an image take; others know no neurons, and stay."""
    convention, _, corner = energy.convention.partition(":")
    if convention != "profile":
        return energy
    profile = program.profile
    more = deciding_parts(decision, decisions, program.mapping, profile, corner or profile.corner)
    return replace(energy, parts=(*energy.parts, *more))


def _falling(
    network: Network, tally: Tally, profile: Profile, program: Program, decision: Deciding, decisions: int
) -> tuple[Range, Duration]:
    """Seconds that an image has the chip, time steps falling through and decisions included."""
    times = tally.times
    assert isinstance(times, StepTimes)
    mapping = program.mapping
    sure = spread(tally.events, network, mapping, profile)
    corners = times.fall_through_us * 1e-6 + decisions * decision_ns(decision, mapping, profile) * 1e-9
    own = float(times.fall_through_us[NOMINAL]) * 1e-6
    drawn = own * sure.fall_through + decisions * decision_ns(decision, mapping, profile, draws.drawn) * 1e-9
    low, nominal, high = corners.tolist()
    seconds = spread_of(low, nominal, high, drawn / nominal)
    return seconds, Duration(times, sure, seconds)
