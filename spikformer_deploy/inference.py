"""Run a program on images: stream batches through an executor, count events, estimate time, account for energy.

What has been found so far can be kept in a file as the run goes, and an interrupted run goes on from there.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy import tally as tally_file
from spikformer_deploy.accounting.energy import Energy, account
from spikformer_deploy.errors import InputError
from spikformer_deploy.images import ImageSet, read
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.quantize.network import Accumulator
from spikformer_deploy.simulate.estimate import StepTimes, estimate, join_times, with_range_of
from spikformer_deploy.simulate.events import Events, Geometry, count, geometry
from spikformer_deploy.simulate.hops import HopTable, hop_table, mean_hops
from spikformer_deploy.simulate.machine import machine
from spikformer_deploy.simulate.run import Execution
from spikformer_deploy.simulate.traffic import check_spatial, traffic
from spikformer_deploy.tally import Tally

if TYPE_CHECKING:
    from spikformer_deploy.simulate.plan import Plan

BATCH = 32
"""Images at once, where memory allows: enough to keep the cores busy, few enough for progress to be seen."""
SAVE_SECONDS = 5.0
BACKENDS = ("engine", "reference", "lava", "onnx")


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
    progress: Callable[[int, int, str], None] | None = None,
) -> Run:
    """Run `program` on `data` (see images.read), in batches so that memory stays bounded.

    backend       "engine", "reference", "lava" or "onnx"
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

    def tell(remark: str) -> None:
        if progress is not None:
            progress(0 if tally is None else len(tally.accumulators), len(images), remark)

    execute, batch = _executor(backend, device, program, there, memory_limit, tell)
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
            if progress is not None:
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
    cycle = message_times(program, images, there, tally, tell) if timing == "cycle" else None
    times = cycle or tally.times
    mapped = (program.mapping, program.profile, times) if times else (None, None, None)
    return Run(
        program, images, backend, tally.kernels, tally.accumulators, images.labels, tally.events, tally.times, cycle,
        account(program.network, tally.events, *mapped), time.monotonic() - start, peak_memory_mib(),
        images.all_notes(tally.brightest, tally.lost),
    )  # fmt: skip


def message_times(
    program: Program, images: ImageSet, there: Geometry, tally: Tally, tell: Callable[[str], None]
) -> StepTimes:
    """Message-level times of the first images; their range is as wide as that of the closed form."""
    from spikformer_deploy.simulate import timing

    assert tally.times is not None
    assert tally.events.slices is not None
    sent = int(tally.events.slices.messages_out.sum()) / tally.events.images
    count = timing.images_to_time(len(images), sent)
    timer, found = timing.timer(there, program.profile), None
    for number, spikes in enumerate(recorded(program, images, there, count), 1):

        def told(messages: int, number: int = number) -> None:
            tell(f"messages of image {number} of {count}: {messages / 1e6:.1f} of about {2 * sent / 1e6:.1f} million")

        times = timing.time_image(timer, spikes, told)
        found = times if found is None else join_times(found, times)
    assert found is not None
    return with_range_of(found, tally.times)


def recorded(program: Program, images: ImageSet, there: Geometry, count: int) -> Iterator[dict[str, NDArray[Any]]]:
    """What every population sent, (T, C, Y, X) by name, for the first `count` images, one by one."""
    from spikformer_deploy.simulate import engine
    from spikformer_deploy.simulate.plan import make_plan

    plan, names = make_plan(program.network, there.cells), [p.name for p in program.network]
    for pixels, _ in islice(images.batches(1), count):
        yield {name: sent[0] for name, sent in engine.run(plan, pixels, engine.Buffers(), names).spikes.items()}


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


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss starts at the size of the process that this one was forked from
        high = next((x for x in status.read_text().splitlines() if x.startswith("VmHWM:")), None)
        if high is not None:
            return int(high.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _executor(
    backend: str, device: str, program: Program, there: Geometry, memory_limit: int | None, tell: Callable[[str], None]
) -> tuple[Callable[[NDArray[Any]], Execution], int]:
    """What runs a batch of images, and how many it takes."""
    from spikformer_deploy.reference import engine as reference
    from spikformer_deploy.simulate import engine
    from spikformer_deploy.simulate.plan import make_plan

    if backend not in BACKENDS:
        raise InputError("--backend", f"'{backend}' is none of {', '.join(BACKENDS)}")
    if device not in ("cpu", "cuda") or (device == "cuda" and backend != "engine"):
        raise InputError("--device", f"there is no {backend} on '{device}'", "Use cpu, or cuda with the engine.")
    plan = make_plan(program.network, there.cells)
    batch = min(BATCH, engine.batch_size(plan))
    if memory_limit is not None:
        batch = min(batch, _fitting(plan, memory_limit))
    if backend == "reference":
        return lambda pixels: reference.execute(program.network, pixels, cells=there.cells), max(1, batch // 8)
    if backend == "lava":
        from spikformer_deploy.lava_backend import execute as lava

        lava.check_installed()
        network = program.network
        return lambda pixels: lava.execute(network, pixels, cells=there.cells, tell=tell), lava.batch_size(network)
    if backend == "onnx":
        from spikformer_deploy import onnx_backend

        onnx_backend.check_installed()
        size = min(batch, onnx_backend.batch_size(program.network))
        return lambda pixels: onnx_backend.execute(program.network, pixels, cells=there.cells), size
    if device == "cuda":
        return _on_gpu(plan)
    buffers = engine.Buffers()
    return lambda pixels: engine.run(plan, pixels, buffers), batch


def _on_gpu(plan: Plan) -> tuple[Callable[[NDArray[Any]], Execution], int]:
    import torch

    from spikformer_deploy.simulate import device as gpu

    loaded = gpu.load(plan, gpu.cuda())
    batch = gpu.batch_size(loaded, torch.cuda.mem_get_info()[0])
    return lambda pixels: gpu.run(loaded, pixels), min(8 * BATCH, batch)


def _fitting(plan: Plan, memory_limit: int) -> int:
    """Images a batch within `memory_limit` bytes of the process."""
    left = memory_limit - int(peak_memory_mib() * 2**20) - plan.fixed_bytes
    if left < plan.image_bytes:
        needed = (memory_limit - left + plan.image_bytes) / 2**20
        raise InputError(
            "--memory-limit",
            f"{memory_limit / 2**20:,.0f} MiB, and one image at a time takes {needed:,.0f} MiB",
            "Give at least that.",
        )
    return left // plan.image_bytes


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
