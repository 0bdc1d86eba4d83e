"""The threshold of early exit, chosen on validation images for the accuracy that may be lost.

One run of all steps says of every image and step the margin, whether the class would be right, what the chip does and
how long it takes.  So every threshold is tried, and nothing runs again.  Time steps fall through the layers one after
the other, and decisions are paid for, as in a run with early exit (inference/exits.py), whose nominal figures
these are.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.deciding import Deciding, deciding, deciding_parts, decision_ns
from spikformer_deploy.accounting.energy import Duration
from spikformer_deploy.accounting.target import CHIPS, NEURO_CORES, SECONDS_PER_NANO, falling_by_step, on_target
from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.counts.events import Events, condensed, count, geometry, join
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Request
from spikformer_deploy.inference.exits import decisions_after
from spikformer_deploy.inference.run import images_for
from spikformer_deploy.network.exits import check_exit, exit_steps, margins
from spikformer_deploy.network.steps import states_after
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.hops import hop_table, hops_of_images
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.spread import spread
from spikformer_deploy.timing.times import StepTimes, join_times
from spikformer_deploy.timing.traffic import traffic

MOST_TRIED = 200
"""Thresholds: more of them differ by single images of most validation sets."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What early exit at a threshold gives on the validation images, means an image, nominal.

    threshold     in units of the accumulators
    accuracy      share of the images whose class is right when they leave
    mean_steps    after which they leave; exits: how many leave after 1, 2, ... T steps
    energy_mj     within the boundary "chips"; neuro_cores_mj: what cores and the network on chip do
    latency_us    from the image to its answer, where time steps fall through the layers
    """

    threshold: int
    accuracy: float
    mean_steps: float
    exits: tuple[int, ...]
    synaptic_ops: float
    energy_mj: float
    neuro_cores_mj: float
    latency_us: float


@dataclass(frozen=True, slots=True)
class ChosenExit:
    """The threshold that was chosen, and all that were tried.

    threshold   the smallest from which on no larger one loses more than is allowed
    chosen      what it gives; tried: all thresholds, ascending; at the last one no image leaves before all steps
    pipelined   energy_mj, neuro_cores_mj and latency_us of all T steps in a pipeline, which early exit cannot use
    """

    threshold: int
    chosen: Tried
    tried: tuple[Tried, ...]
    pipelined: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def choose_exit(
    program: Program,
    validation_images: str | Path | NDArray[Any] | ImageSet,
    *,
    max_drop: float,
    runtime: str = "lava",
    limit: int | None = None,
    labels: str | Path | None = None,
    progress: Progress = silent,
) -> ChosenExit:
    """Choose the threshold of early exit of a program on validation images, which are to be no test images.

    validation_images  with their classes, as of inference.run.run
    max_drop           points of accuracy that may be lost: 0.3 of 98.9 % leaves 98.6 %
    runtime            "lava", or "bare": one that costs nothing
    limit              at most that many images; None: all
    labels             a file of the classes of the images, for a folder or zip
    progress           called with (images done, images in all, a note)
    Raises InputError for a negative drop, images without classes, a program whose images cannot leave early
    (network.exits.check_exit), and a target whose neurons cannot compare accumulators.
    """
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise InputError("--max-drop", f"{max_drop} points", "Give 0 or more.")
    check_exit(program.network)
    images = images_for(program, validation_images, limit, labels)
    if images.labels is None:
        problem = "there are no classes, and without them no accuracy"
        raise InputError("--validation-images", problem, "Give images with classes.")
    under = replace(program, profile=hardware.under(program.profile, runtime))
    decision = deciding(under.network, under.profile)
    seen = _seen(under, images, progress)
    price = _price(under, decision)
    tried = tuple(_tried(seen, price, threshold) for threshold in _thresholds(seen.ahead))
    allowed = math.floor(max_drop * len(images) / 100 + 1e-9)
    chosen = _smallest(tried, len(images), allowed)
    return ChosenExit(chosen.threshold, chosen, tried, _pipelined(under, seen))


class _Seen(NamedTuple):
    """What all images said and did, after or in each of T steps.

    ahead   (N, T) margins; right (N, T) bool
    synops  (N, T) synaptic operations; cores_mj (N, T) of cores and network on chip; falling_ns (N, T)
    events, times  of all of them and all steps, as a run has them
    """

    ahead: Int
    right: NDArray[np.bool_]
    synops: Int
    cores_mj: Float
    falling_ns: Float
    events: Events
    times: StepTimes


def _seen(program: Program, images: ImageSet, progress: Progress) -> _Seen:
    """Run all steps of all images."""
    network, mapping, profile = program.network, program.mapping, program.profile
    where = geometry(network, mapping)
    hops = hop_table(traffic(where, profile), machine(profile, mapping).mesh, where.cells)
    executor = prepare("engine", Request(network, where.cells))
    head = check_exit(network)
    assert images.labels is not None
    parts: list[_Seen] = []
    done = 0
    for pixels, _ in images.batches(executor.batch):
        execution = executor.execute(pixels, (network.output.name,))
        kept = execution.membranes[network.output.name].astype(np.int64)
        states = kept.reshape(len(pixels), network.time_steps, -1)
        events = count(where, execution)
        assert events.slices is not None
        times = estimate(events, network, mapping, profile)
        until = [hops_of_images(hops, execution.activity, steps) for steps in range(1, network.time_steps + 1)]
        times = replace(times, hop_counts=until[-1])
        of_steps = np.stack([until[0], *(after - before for before, after in pairwise(until))], 1)
        labels = images.labels[done : done + len(pixels), None]
        parts.append(
            _Seen(
                ahead=margins(head, states),
                right=states_after(head, states).argmax(2) == labels,
                synops=events.slices.synops.sum(2),
                cores_mj=falling_by_step(events, events.slices, mapping, profile, of_steps, times),
                falling_ns=times.fall_through_ns[NOMINAL],
                events=condensed(events),
                times=times,
            )
        )
        done += len(pixels)
        progress(done, len(images), "")
    first = parts[0]
    events, times = first.events, first.times
    for part in parts[1:]:
        events, times = condensed(join([events, part.events])), join_times(times, part.times)
    return _Seen(
        ahead=np.concatenate([part.ahead for part in parts]),
        right=np.concatenate([part.right for part in parts]),
        synops=np.concatenate([part.synops for part in parts]),
        cores_mj=np.concatenate([part.cores_mj for part in parts]),
        falling_ns=np.concatenate([part.falling_ns for part in parts]),
        events=events,
        times=times,
    )


class _Price(NamedTuple):
    """Nominal prices: mJ of a decision's events, ns that it takes, mJ of a ns of the chips in use."""

    decision_mj: float
    decision_ns: float
    mj_a_ns: float


def _price(program: Program, decision: Deciding) -> _Price:
    mapping, profile = program.mapping, program.profile
    parts = deciding_parts(decision, 1.0, mapping, profile, profile.corner)
    power = profile.power.static_chip.value + profile.power.running_chip.value
    return _Price(
        sum(part.energy.nominal for part in parts),
        float(decision_ns(decision, mapping, profile)[NOMINAL]),
        power * mapping.chips * SECONDS_PER_NANO,
    )


def _thresholds(ahead: Int) -> list[int]:
    """Margins that images have before the last step, at most MOST_TRIED, and one that none has; ascending."""
    found = np.unique(ahead[:, :-1])
    found = found[found > 0]
    if len(found) > MOST_TRIED:
        places = np.linspace(0, 1, MOST_TRIED)
        flat = np.sort(ahead[:, :-1].ravel())
        found = np.unique(np.quantile(flat[flat > 0], places, method="nearest"))
    return [*found.tolist(), int(ahead[:, :-1].max()) + 1]


def _tried(seen: _Seen, price: _Price, threshold: int) -> Tried:
    """What a threshold gives."""
    steps = exit_steps(seen.ahead, threshold)
    time_steps = seen.ahead.shape[1]
    taken = np.arange(time_steps) < steps[:, None]
    decisions = np.array([decisions_after(step, time_steps) for step in range(time_steps + 1)])[steps]
    ns = (seen.falling_ns * taken).sum(1) + decisions * price.decision_ns
    cores_mj = (seen.cores_mj * taken).sum(1) + decisions * price.decision_mj
    right = np.take_along_axis(seen.right, steps[:, None] - 1, 1)
    return Tried(
        threshold=threshold,
        accuracy=float(right.mean()),
        mean_steps=float(steps.mean()),
        exits=tuple(np.bincount(steps, minlength=time_steps + 1)[1:].tolist()),
        synaptic_ops=int((seen.synops * taken).sum()) / len(steps),
        energy_mj=float((cores_mj + ns * price.mj_a_ns).mean()),
        neuro_cores_mj=float(cores_mj.mean()),
        latency_us=float(ns.mean()) / 1e3,
    )


def _smallest(tried: tuple[Tried, ...], images: int, allowed: int) -> Tried:
    """The smallest threshold from which on none loses more than `allowed` images against all steps, the last one tried.

    A smaller one that happens to lose less is left out: what a few images decide is chance.
    """
    right = [round(one.accuracy * images) for one in tried]
    chosen = tried[-1]
    for one, found in zip(reversed(tried), reversed(right), strict=True):
        if right[-1] - found > allowed:
            break
        chosen = one
    return chosen


def _pipelined(program: Program, seen: _Seen) -> dict[str, float]:
    """All steps, in a pipeline."""
    network, mapping, profile = program.network, program.mapping, program.profile
    duration = Duration(seen.times, spread(seen.events, network, mapping, profile))
    energy = on_target(seen.events, mapping, profile, duration)[0]
    return {
        "energy_mj": energy.within(CHIPS).nominal,
        "neuro_cores_mj": energy.within(NEURO_CORES).nominal,
        "latency_us": float(seen.times.latency_us[NOMINAL]),
    }
