"""What a run and a verification found, as plain data: the JSON of `spikdeploy run` and `spikdeploy verify`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.energy import Energy
from spikformer_deploy.counts.events import Events
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.times import StepTimes


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The record of a program on a set of images.

    accumulators  (N, classes) int64; logits (N, classes) float64 = accumulators * scale
    accuracy      None where the images have no labels
    times         by the closed form; None where no timing was asked for
    cycle         message by message, of the first images only (its first axis but one); None where nobody asked
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


@dataclass(slots=True)
class Verdict:
    """What a verification found.

    equal_spikes  share of equal spikes of each LIF population, float against integer; empty without a model
    notes         what a user must know of the images, as of a Run
    backends      by name: whether spikes, potentials and accumulators of every image equal the engine's
    """

    images: int = 0
    float_accuracy: float | None = None
    integer_accuracy: float | None = None
    equal_spikes: dict[str, float] = field(default_factory=dict)
    backends: dict[str, bool] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether all backends agree."""
        return all(self.backends.values())

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `spikdeploy verify`."""
        return {
            "images": self.images,
            "float_accuracy": self.float_accuracy,
            "integer_accuracy": self.integer_accuracy,
            "layers": [{"name": name, "equal_spikes": share} for name, share in self.equal_spikes.items()],
            "backends": {name: "equal" if equal else "different" for name, equal in self.backends.items()},
            "passed": self.passed,
            "notes": list(self.notes),
        }
