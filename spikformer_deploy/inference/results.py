"""What a run and a verification found, as plain data: the JSON of `spikdeploy run` and `spikdeploy verify`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.energy import Energy
from spikformer_deploy.accounting.figures import energy_values, time_figures
from spikformer_deploy.accounting.layers import sparsity
from spikformer_deploy.base.notebook import as_html, as_text
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.counts.events import Events
from spikformer_deploy.data.images import TASKS, ImageSet
from spikformer_deploy.inference.by_step import AfterStep, by_step
from spikformer_deploy.inference.regression import scores
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.spread import Spread
from spikformer_deploy.timing.times import StepTimes


@dataclass(frozen=True, slots=True, eq=False)
class Timing:
    """The times of a run under one runtime.

    times   by the closed form
    cycle   message by message, of the first images only (its first axis but one); None where nobody asked
    spread  how sure they are
    """

    times: StepTimes
    cycle: StepTimes | None
    spread: Spread

    @property
    def finest(self) -> StepTimes:
        """Of the message-level model where it ran."""
        return self.cycle or self.times


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """The record of a program on a set of images.

    accumulators  (N, classes) int64; logits (N, classes) float64 = accumulators * scale
    classes       (N, T) int32: the class after each time step
    accuracy      None where the images have no labels, or results are no classes
    runtime       what energies and figures are under, one of chips.profile.RUNTIMES
    under         by runtime: times; {} where no timing was asked for
    shorter       times of the first steps, see by_step.timed, under the run's runtime; () where there are none
    notes         what a user must know of the images: files left out, pixels of another scale, events lost
    """

    program: Program
    data: ImageSet
    backend: str
    kernels: str
    accumulators: NDArray[np.int64]
    classes: NDArray[np.int32]
    labels: NDArray[np.int64] | None
    events: Events
    runtime: str
    under: dict[str, Timing]
    shorter: tuple[StepTimes, ...]
    energies: tuple[Energy, ...]
    seconds: float
    peak_memory_mib: float
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return as_text("Run", self._facts())

    def _repr_html_(self) -> str:
        return as_html("Run", self._facts())

    def _facts(self) -> dict[str, str]:
        """What it shows of itself, in words."""
        facts = {"images": f"{len(self.accumulators):,} of {self.events.time_steps} time steps"}
        if self.accuracy is not None and self.results is None:
            facts["accuracy"] = f"{self.accuracy:.2%}"
        for name, error in (self.regression or {}).items():
            facts[name] = "unknown" if error is None else f"{error:.4g}"
        facts["synaptic operations"] = f"{self.events.synops:,.0f} an image, of {self.events.dense_macs:,} dense"
        if self.timing is not None:
            step = time_figures(self.timing.finest, self.timing.spread)["step_us"]
            low, high = step.likely
            facts["step"] = f"{step.nominal:.3g} us, likely {low:.3g} to {high:.3g} (estimate)"
        for energy in self.energies:
            low, high = energy.total.likely
            likely = f", likely {low:.3g} to {high:.3g}" if high > low else ""
            facts[energy.convention] = f"{energy.total.nominal:.4g} mJ an image{likely}, within {energy.scope}"
        facts["ran"] = f"{self.backend} ({self.kernels}) in {self.seconds:.3g} s"
        return facts

    @property
    def timing(self) -> Timing | None:
        """Under the run's runtime; None where no timing was asked for."""
        return self.under.get(self.runtime)

    @property
    def times(self) -> StepTimes | None:
        """By the closed form; None where no timing was asked for."""
        return self.timing.times if self.timing else None

    @property
    def cycle(self) -> StepTimes | None:
        """Message by message, of the first images; None where nobody asked."""
        return self.timing.cycle if self.timing else None

    @property
    def logits(self) -> NDArray[np.float64]:
        """Logits of the classes."""
        head = self.program.network.output.neuron
        assert isinstance(head, Accumulator)
        scale: NDArray[np.float64] = np.repeat(head.scale, self.accumulators.shape[1] // len(head.scale))
        return self.accumulators * scale

    @property
    def results(self) -> NDArray[np.float64] | None:
        """(N, O) of a regression, in the units of its targets; None where results are classes."""
        forecast = self.data.forecast
        return None if forecast is None else forecast.of(self.logits)

    @property
    def regression(self) -> dict[str, float | None] | None:
        """The errors of a regression (see regression.scores); None where there are no targets."""
        results, forecast = self.results, self.data.forecast
        if results is None or forecast is None or forecast.targets is None:
            return None
        return scores(results, forecast.targets)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class with the largest logit, the first of equals."""
        return self.accumulators.argmax(1)

    @property
    def accuracy(self) -> float | None:
        """Share of images whose prediction is their label."""
        return None if self.labels is None else float((self.predictions == self.labels).mean())

    @property
    def logits_sha256(self) -> str:
        """Of the integers that logits are multiples of."""
        return hashlib.sha256(np.ascontiguousarray(self.accumulators, "<i8").tobytes()).hexdigest()

    @cached_property
    def by_step(self) -> tuple[AfterStep, ...]:
        """Accuracy, synaptic operations and energies after every time step (see by_step.py)."""
        return by_step(self)

    def to_dict(self) -> dict[str, Any]:
        """The figures of the run as plain values: the JSON of `spikdeploy run`."""
        shares = sparsity(self.program.network, self.events)
        return {
            "images": len(self.accumulators),
            "task": self.data.task,
            "accuracy": self.accuracy,
            "regression": self.regression,
            "predictions": (self.predictions if self.results is None else self.results).tolist(),
            "logits_sha256": self.logits_sha256,
            "notes": list(self.notes),
            "backend": self.backend,
            "kernels": self.kernels,
            "synaptic_ops": self.events.synops,
            "synaptic_ops_as_slots": self.events.slot_synops,
            "dense_macs": self.events.dense_macs,
            "firing_rate": shares.rate,
            "mean_sent": shares.mean_sent,
            "time": time_facts(self),
            "energy_mj": {energy.convention: energy_values(energy) for energy in self.energies},
            "by_step": [after.to_dict() for after in self.by_step],
            "seconds": self.seconds,
            "peak_memory_mib": self.peak_memory_mib,
        }


def time_facts(run: Run) -> dict[str, Any] | None:
    """The times of a run: of the message-level model where it ran, with the closed form's beside it."""
    timing = run.timing
    if timing is None:
        return None
    out = {
        **_time(timing.finest, timing.spread, run.program),
        "runtime": run.runtime,
        "rulers": timing.spread.rulers,
        "under": {name: _figures(other.finest, other.spread) for name, other in run.under.items()},
    }
    if timing.cycle is not None:
        out["estimate"] = _time(timing.times, timing.spread, run.program)
        out["ratio"] = float(timing.cycle.step_us_mean[NOMINAL] / timing.times.step_us_mean[NOMINAL])
    return out


def _time(times: StepTimes, spread: Spread, program: Program) -> dict[str, Any]:
    return {
        "model": times.model,
        "images": times.step_ns.shape[1],
        "depth": times.depth,
        **_figures(times, spread),
        "bound": times.bound,
        "busiest_core": times.busiest_core,
        "busiest_population": program.mapping.population_on(times.busiest_core),
    }


def _figures(times: StepTimes, spread: Spread) -> dict[str, Any]:
    """A step, and what follows from it; each with its likely interval and its envelope."""
    figures = time_figures(times, spread)
    step = figures.pop("step_us")
    likely_low, likely_high = step.likely
    out: dict[str, Any] = {
        "step_us_mean": step.nominal,
        "likely_low": likely_low,
        "likely_high": likely_high,
        "step_us_range": [step.low, step.high],
    }
    for name, figure in figures.items():
        out |= {name: figure.nominal, f"{name}_likely": list(figure.likely), f"{name}_range": [figure.low, figure.high]}
    return out


@dataclass(slots=True, repr=False)
class Verdict:
    """What a verification found.

    task          "classification" or "regression"
    float_regression, integer_regression  errors of a regression (see regression.scores); None without targets
    equal_spikes  share of equal spikes of each LIF population, float against integer; empty without a model
    predictions_changed  images of which the integers predict another class than the float model; None of a regression
                  and without a model
    notes         what a user must know of the images, as of a Run, and of the model
    backends      by name: whether spikes, potentials and accumulators of every image equal the engine's
    """

    images: int = 0
    task: str = TASKS[0]
    float_accuracy: float | None = None
    integer_accuracy: float | None = None
    float_regression: dict[str, float | None] | None = None
    integer_regression: dict[str, float | None] | None = None
    equal_spikes: dict[str, float] = field(default_factory=dict)
    backends: dict[str, bool] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    predictions_changed: int | None = None

    def __repr__(self) -> str:
        return as_text("Verdict", self._facts())

    def _repr_html_(self) -> str:
        return as_html("Verdict", self._facts())

    def _facts(self) -> dict[str, str]:
        """What it shows of itself, in words."""
        facts = {"images": f"{self.images:,}"}
        for name, accuracy in (("float", self.float_accuracy), ("integer", self.integer_accuracy)):
            if accuracy is not None:
                facts[f"{name} accuracy"] = f"{accuracy:.2%}"
        if self.predictions_changed is not None:
            facts["predictions changed"] = f"{self.predictions_changed:,} of {self.images:,}"
        if self.equal_spikes:
            worst = min(self.equal_spikes, key=self.equal_spikes.__getitem__)
            share = self.equal_spikes[worst]
            facts["equal spikes"] = f"{share:.3%} at least ({worst}), of {len(self.equal_spikes)} layers"
        return facts | {f"engine = {name}": "equal" if same else "different" for name, same in self.backends.items()}

    @property
    def passed(self) -> bool:
        """Whether all backends agree."""
        return all(self.backends.values())

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `spikdeploy verify`."""
        return {
            "images": self.images,
            "task": self.task,
            "float_accuracy": self.float_accuracy,
            "integer_accuracy": self.integer_accuracy,
            "predictions_changed": self.predictions_changed,
            "float_regression": self.float_regression,
            "integer_regression": self.integer_regression,
            "layers": [{"name": name, "equal_spikes": share} for name, share in self.equal_spikes.items()],
            "backends": {name: "equal" if equal else "different" for name, equal in self.backends.items()},
            "passed": self.passed,
            "notes": list(self.notes),
        }
