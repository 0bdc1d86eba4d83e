"""Run a program on images: stream batches through an executor, count events, estimate time, account for energy."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.energy import Energy, account
from spikformer_deploy.errors import InputError
from spikformer_deploy.images import ImageSet, read
from spikformer_deploy.program import Program
from spikformer_deploy.quantize.network import Accumulator
from spikformer_deploy.simulate.estimate import StepTimes, estimate
from spikformer_deploy.simulate.events import Events, count, geometry, join

BATCH = 32


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The record of a program on a set of images.

    accumulators  (N, classes) int64; logits (N, classes) float64 = accumulators * scale
    accuracy      None where the images have no labels
    times         None where no timing was asked for
    """

    program: Program
    backend: str
    kernels: str
    accumulators: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    events: Events
    times: StepTimes | None
    energies: tuple[Energy, ...]
    seconds: float
    peak_memory_mib: float

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
            "backend": self.backend,
            "kernels": self.kernels,
            "synaptic_ops": self.events.synops,
            "dense_macs": self.events.dense_macs,
            "firing_rate": spikes / (neurons * self.events.time_steps * self.events.images),
            "time": None if self.times is None else _time(self.times),
            "energy_mj": {e.convention: _range(e.total) for e in self.energies},
            "seconds": self.seconds,
            "peak_memory_mib": self.peak_memory_mib,
        }

    def report(self, path: str | Path, float_accuracy: float | None = None) -> None:
        """Write the HTML report."""
        from spikformer_deploy.report import write_report

        write_report(self, Path(path), float_accuracy)


def run(
    program: Program,
    data: str | Path | NDArray[Any] | ImageSet,
    *,
    backend: str = "engine",
    timing: str = "estimate",
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Run `program` on `data` (see images.read), in batches so that memory stays bounded.

    backend   "engine" or "reference"; timing: "estimate" or "none"
    progress  called with (images done, images in all)
    Raises InputError for images that do not fit, OverflowDetected where a state leaves its bits.
    """
    execute = _executor(backend)
    images = data if isinstance(data, ImageSet) else read(data, program.preprocess, limit=limit)
    there = geometry(program.network, program.mapping)
    start, parts, accumulators, kernels = time.monotonic(), [], [], ""
    for pixels, _ in images.batches(_batch(program, backend)):
        execution = execute(program.network, pixels, cells=there.cells)
        parts.append(count(there, execution))
        accumulators.append(execution.accumulators)
        kernels = execution.kernels
        if progress is not None:
            progress(sum(map(len, accumulators)), len(images))
    if not parts:
        raise InputError("input", "there are no images", "Give at least one.")
    events = join(parts)
    times = estimate(events, program.network, program.mapping, program.profile) if timing != "none" else None
    mapped = (program.mapping, program.profile, times) if times else (None, None, None)
    energies = account(program.network, events, *mapped)
    return Run(
        program, backend, kernels, np.concatenate(accumulators), images.labels, events, times, energies,
        time.monotonic() - start, peak_memory_mib(),
    )  # fmt: skip


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _executor(backend: str) -> Callable[..., Any]:
    from spikformer_deploy.reference import engine as reference
    from spikformer_deploy.simulate import engine

    executors: dict[str, Callable[..., Any]] = {"engine": engine.execute, "reference": reference.execute}
    if backend not in executors:
        raise InputError("--backend", f"'{backend}' is none of {', '.join(executors)}")
    return executors[backend]


def _batch(program: Program, backend: str) -> int:
    """Images a batch: bounded in memory, and small enough for progress to be seen."""
    from spikformer_deploy.simulate.engine import batch_size
    from spikformer_deploy.simulate.plan import make_plan

    size = batch_size(make_plan(program.network))
    return max(1, min(BATCH, size if backend == "engine" else size // 8))


def _time(times: StepTimes) -> dict[str, Any]:
    low, nominal, high = times.step_us_mean.tolist()
    return {
        "model": "estimate",
        "step_us_mean": nominal,
        "step_us_range": [low, high],
        "latency_us": float(times.latency_us[1]),
        "fall_through_us": float(times.fall_through_us[1]),
        "images_per_second": float(times.images_per_second[1]),
        "bound": times.bound,
        "busiest_core": times.busiest_core,
        "busiest_population": times.busiest_population,
    }


def _range(total: Any) -> dict[str, float]:
    return {"low": total.low, "nominal": total.nominal, "high": total.high}
