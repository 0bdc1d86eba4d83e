"""Run a program on images: stream batches through an executor, count events, estimate time, account for energy.

What has been found so far can be kept in a file as the run goes, and an interrupted run goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy import tally as tally_file
from spikformer_deploy.accounting.energy import Energy, account
from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.counts.events import Events, Geometry, count, geometry
from spikformer_deploy.errors import InputError
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Execution, Request
from spikformer_deploy.images import ImageSet, read
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.tally import Tally
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.hops import HopTable, hop_table, mean_hops
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.times import StepTimes, join_times, with_range_of
from spikformer_deploy.timing.traffic import check_spatial, traffic

SAVE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The record of a program on a set of images.

    accumulators  (N, classes) int64; logits (N, classes) float64 = accumulators * scale
    accuracy      None where the images have no labels
    times         by the closed form; None where no timing was asked for
    cycle         message by message, of the first images alone (its first axis but one); None where nobody asked
    notes         what a user must know of the images: files left out, pixels of another scale, events lost
    """

    program: Program
    data: ImageSet
    backend: str
    kernels: str
    accumulators: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    events: Events
    times: StepTimes | None
    cycle: StepTimes | None
    energies: tuple[Energy, ...]
    seconds: float
    peak_memory_mib: float
    notes: tuple[str, ...] = ()

    @property
    def logits(self) -> NDArray[np.float64]:
        """Logits of the classes."""
        head = self.program.network.output.neuron
        assert isinstance(head, Accumulator)
        return self.accumulators * head.scale

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class with the largest logit, the first of equals."""
        return self.accumulators.argmax(1)

    @property
    def accuracy(self) -> float | None:
        """Share of images whose prediction is their label."""
        return None if self.labels is None else float((self.predictions == self.labels).mean())

    def to_dict(self) -> dict[str, Any]:
        """The figures of the run as plain values: the JSON of `spikdeploy run`."""
        lifs = [p.name for p in self.program.network if p.max_out == 1]
        spikes = sum(int(self.events.populations[name].spikes.sum()) for name in lifs)
        neurons = sum(self.program.network[name].size for name in lifs)
        return {
            "images": len(self.accumulators),
            "accuracy": self.accuracy,
            "predictions": self.predictions.tolist(),
            "logits_sha256": hashlib.sha256(np.ascontiguousarray(self.accumulators, "<i8").tobytes()).hexdigest(),
            "notes": list(self.notes),
            "backend": self.backend,
            "kernels": self.kernels,
            "synaptic_ops": self.events.synops,
            "dense_macs": self.events.dense_macs,
            "firing_rate": spikes / (neurons * self.events.time_steps * self.events.images),
            "time": time_facts(self),
            "energy_mj": {e.convention: _range(e.total) for e in self.energies},
            "seconds": self.seconds,
            "peak_memory_mib": self.peak_memory_mib,
        }

    def timeline(self, path: str | Path, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Write the first image's way through the chip, message by message, as a trace for the Perfetto UI.

        progress  called with (steps done, all of them)
        """
        from spikformer_deploy.report import write_timeline

        write_timeline(self, Path(path), progress)

    def report(self, path: str | Path, float_accuracy: float | None = None) -> None:
        """Write the HTML report."""
        from spikformer_deploy.report import write_report

        write_report(self, Path(path), float_accuracy)


def run(
    program: Program,
    data: str | Path | NDArray[Any] | ImageSet,
    *,
    backend: str = "engine",
    device: str = "cpu",
    timing: str = "estimate",
    limit: int | None = None,
    labels: str | Path | None = None,
    memory_limit: int | None = None,
    unfinished: Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Run:
    """Run `program` on `data` (see images.read), in batches so that memory stays bounded.

    backend       one of executors.choose.EXECUTORS
    timing        "estimate": the closed form; "cycle": besides, the first images message by message; or "none"
    device        "cpu", or "cuda" for the engine on a GPU: the same integers
    labels        a file of the classes of the images (see labels.py)
    memory_limit  bytes that the process may take
    unfinished    a file that holds what has been found so far, every few seconds; the caller removes it at the end
    resume        go on from that file, where there is one
    progress      called with (images done, images in all, a remark)
    Raises InputError for images that do not fit, a limit that is too low, or a file of another run; OverflowDetected
    where a state leaves its bits.
    """
    if not isinstance(data, ImageSet):
        data = read(data, program.preprocess, limit=limit, frames=program.frames, labels=labels)
    images = data.of_classes(program.labels, program.network.output.size)
    if not len(images):
        raise InputError("input", "there are no images", "Give at least one.")
    there = geometry(program.network, program.mapping)
    if timing == "cycle":
        check_spatial(program.mapping)

    def note_batch(_done: int, _total: int, note: str) -> None:
        progress(0 if tally is None else len(tally.accumulators), len(images), note)

    execute, batch = prepare(backend, Request(program.network, there.cells, device, memory_limit, note_batch))
    closed = "none" if timing == "none" else "estimate"
    table = None if timing == "none" else _hop_table(program, there)
    identity = {"program": program.digest(), "images": images.identity, "backend": backend, "timing": closed}
    tally = tally_file.load(unfinished, identity) if resume and unfinished and unfinished.exists() else None
    start = saved = time.monotonic()
    try:
        for pixels, _ in images.batches(batch, 0 if tally is None else len(tally.accumulators)):
            done = 0 if tally is None else len(tally.accumulators)
            seen = int(pixels.max()), images.lost_in(slice(done, done + len(pixels)))
            tally = tally_file.added(tally, _batch(program, there, execute(pixels), table, seen))
            progress(len(tally.accumulators), len(images), _remark(tally, images))
            if unfinished and time.monotonic() - saved > SAVE_SECONDS:
                tally_file.save(tally, unfinished, identity)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if unfinished and tally is not None:
            tally_file.save(tally, unfinished, identity)
        raise
    assert tally is not None
    if unfinished and timing == "cycle":
        tally_file.save(tally, unfinished, identity)
    cycle = message_times(program, images, there, tally, progress) if timing == "cycle" else None
    times = cycle or tally.times
    mapped = (program.mapping, program.profile, times) if times else (None, None, None)
    return Run(
        program, images, backend, tally.kernels, tally.accumulators, images.labels, tally.events, tally.times, cycle,
        account(program.network, tally.events, *mapped), time.monotonic() - start, peak_memory_mib(),
        images.all_notes(tally.brightest, tally.lost),
    )  # fmt: skip


def message_times(program: Program, images: ImageSet, there: Geometry, tally: Tally, progress: Progress) -> StepTimes:
    """Message-level times of the first images; their range is as wide as that of the closed form."""
    from spikformer_deploy.timing import messages as timing

    assert tally.times is not None
    assert tally.events.slices is not None
    sent = int(tally.events.slices.messages_out.sum()) / tally.events.images
    count = timing.images_to_time(len(images), sent)
    timer, found = timing.timer(there, program.profile), None
    for number, spikes in enumerate(recorded(program, images, there, count), 1):

        def note_messages(messages: int, number: int = number) -> None:
            note = f"messages of image {number} of {count}: {messages / 1e6:.1f} of about {2 * sent / 1e6:.1f} million"
            progress(len(images), len(images), note)

        times = timing.time_image(timer, spikes, note_messages)
        found = times if found is None else join_times(found, times)
    assert found is not None
    return with_range_of(found, tally.times)


def recorded(program: Program, images: ImageSet, there: Geometry, count: int) -> Iterator[dict[str, NDArray[Any]]]:
    """What every population sent, (T, C, Y, X) by name, for the first `count` images, one by one."""
    execute = prepare("engine", Request(program.network, there.cells)).execute
    names = [p.name for p in program.network]
    for pixels, _ in islice(images.batches(1), count):
        yield {name: sent[0] for name, sent in execute(pixels, names).spikes.items()}


def _hop_table(program: Program, there: Geometry) -> HopTable:
    mesh = machine(program.profile, program.mapping).mesh
    return hop_table(traffic(there, program.profile), mesh, there.cells)


def _batch(
    program: Program, there: Geometry, execution: Execution, table: HopTable | None, seen: tuple[int, int]
) -> Tally:
    """What a batch adds; seen: its largest pixel, and the events that are lost in it."""
    events = count(there, execution)
    times = None
    if table is not None:
        times = estimate(events, program.network, program.mapping, program.profile)
        times = replace(times, hops=mean_hops(table, execution.activity))
    return Tally(execution.accumulators, events, times, execution.kernels, *seen)


def _remark(tally: Tally, images: ImageSet) -> str:
    if images.labels is None:
        return ""
    done = len(tally.accumulators)
    return f"accuracy {(tally.accumulators.argmax(1) == images.labels[:done]).mean():.2%}"


def time_facts(run: Run) -> dict[str, Any] | None:
    """The times of a run: of the message-level model where it ran, with the closed form's beside it."""
    if run.times is None:
        return None
    if run.cycle is None:
        return _time(run.times, run.program)
    ratio = float(run.cycle.step_us_mean[1] / run.times.step_us_mean[1])
    return {**_time(run.cycle, run.program), "estimate": _time(run.times, run.program), "ratio": ratio}


def _time(times: StepTimes, program: Program) -> dict[str, Any]:
    low, nominal, high = times.step_us_mean.tolist()
    return {
        "model": times.model,
        "images": times.step_ns.shape[1],
        "step_us_mean": nominal,
        "step_us_range": [low, high],
        "latency_us": float(times.latency_us[1]),
        "fall_through_us": float(times.fall_through_us[1]),
        "images_per_second": float(times.images_per_second[1]),
        "bound": times.bound,
        "busiest_core": times.busiest_core,
        "busiest_population": program.mapping.population_on(times.busiest_core),
    }


def _range(total: Any) -> dict[str, float]:
    return {"low": total.low, "nominal": total.nominal, "high": total.high}
