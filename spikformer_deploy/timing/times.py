"""How long the chip takes: the record that the closed form and the message-level model both fill."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.draws import NOMINAL

Times: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StepTimes:
    """How long the chip takes; an image takes T steps.

    The first axis of times are the CORNERS of chips/draws.py.

    step_ns            (3, images, T) one chip-wide step with all layers at work on different steps (pipelined)
    fall_through_ns    (3, images, T) one step that passes all layers one after the other
    parts              (images,) nominal ns a step of each thing that can rule it ("neurons", "sending", "synapses" and
                       "messages", which come one after the other, "link"), and of what is added ("barrier", "runtime",
                       "sub_steps")
    busiest            (images, T) the core with most work
    depth              layers that a spike passes from the Source to the Accumulator
    runtime_ns         (3,) what the runtime takes of every time step of the chip
    chip_steps         time steps of the chip in a pipelined step: it and its sub-steps
    chip_steps_falling those in which a time step passes all layers
    model              "estimate" (estimate.py) or "cycle" (messages.py, which adds the part "waiting")
    hop_counts         (images, 2) messages * hops, east-west and north-south (hops.py); of no image where not counted

    What is of an image is kept by image: means do not depend on how the images were cut into batches.
    """

    step_ns: Times
    fall_through_ns: Times
    parts: dict[str, Times]
    busiest: NDArray[np.int64]
    depth: int
    runtime_ns: Times
    chip_steps: int
    chip_steps_falling: int
    model: str = "estimate"
    hop_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    def __repr__(self) -> str:
        _, images, steps = self.step_ns.shape
        us = self.step_us_mean
        step = f"{us[NOMINAL]:.4g} us a step, {us.min():.4g} to {us.max():.4g}"
        return f"StepTimes({self.model}: {step}; {images:,} images of {steps} steps)"

    @property
    def parts_ns(self) -> dict[str, float]:
        """The parts of the mean image."""
        return {name: float(ns.mean()) for name, ns in self.parts.items()}

    @property
    def hops(self) -> tuple[float, ...]:
        """Messages * hops of the mean image, east-west and north-south; () where not counted."""
        return tuple(self.hop_counts.mean(0).tolist()) if len(self.hop_counts) else ()

    @property
    def bound(self) -> str:
        """What rules the step: the largest of parts_ns; synapses and messages of a core count together."""
        served = ("synapses", "messages")
        parts = self.parts_ns
        together = sum(parts[name] for name in served)
        return max(parts, key=lambda name: (together if name in served else parts[name], parts[name]))

    @property
    def busiest_core(self) -> int:
        """The core with most work in most steps."""
        return int(np.bincount(self.busiest.ravel()).argmax())

    @property
    def step_us_mean(self) -> Times:
        """(3,) mean time of a pipelined step in us."""
        return self.step_ns.mean((1, 2)) / 1e3

    @property
    def images_per_second(self) -> Times:
        """(3,) throughput of the pipeline, an image every T steps, ascending: the first is that of the slow corner."""
        return np.sort(1e9 / self.step_ns.sum(2).mean(1))

    @property
    def latency_us(self) -> Times:
        """(3,) mean time from the image to its logits in the pipeline: (T + depth - 1) steps."""
        return (self.step_ns.shape[2] + self.depth - 1) * self.step_us_mean

    @property
    def fall_through_us(self) -> Times:
        """(3,) mean time from the image to its logits where the layers work one after the other."""
        return self.fall_through_ns.sum(2).mean(1) / 1e3


def with_range_of(times: StepTimes, estimated: StepTimes) -> StepTimes:
    """Times of which only the nominal values count, with a range as wide as that of an estimate of the same network."""
    step = (estimated.step_us_mean / estimated.step_us_mean[NOMINAL])[:, None, None]
    fall_through = (estimated.fall_through_us / estimated.fall_through_us[NOMINAL])[:, None, None]
    return replace(
        times,
        step_ns=times.step_ns[NOMINAL] * step,
        fall_through_ns=times.fall_through_ns[NOMINAL] * fall_through,
        runtime_ns=estimated.runtime_ns,
    )


def under_runtime(times: StepTimes, runtime_ns: Times) -> StepTimes:
    """The same times where the runtime takes (3,) `runtime_ns` of every time step of the chip."""
    more = (runtime_ns - times.runtime_ns)[:, None, None]
    nominal = float(more[NOMINAL, 0, 0])
    parts = dict(times.parts)
    parts["runtime"] = parts["runtime"] + nominal
    parts["sub_steps"] = parts["sub_steps"] + (times.chip_steps - 1) * nominal
    return replace(
        times,
        step_ns=times.step_ns + times.chip_steps * more,
        fall_through_ns=times.fall_through_ns + times.chip_steps_falling * more,
        parts=parts,
        runtime_ns=runtime_ns,
    )


def join_times(first: StepTimes, more: StepTimes) -> StepTimes:
    """The times of the images of both, in order."""
    return StepTimes(
        step_ns=np.concatenate([first.step_ns, more.step_ns], 1),
        fall_through_ns=np.concatenate([first.fall_through_ns, more.fall_through_ns], 1),
        parts={name: np.concatenate([ns, more.parts[name]]) for name, ns in first.parts.items()},
        busiest=np.concatenate([first.busiest, more.busiest]),
        depth=first.depth,
        runtime_ns=first.runtime_ns,
        chip_steps=first.chip_steps,
        chip_steps_falling=first.chip_steps_falling,
        model=first.model,
        hop_counts=np.concatenate([first.hop_counts, more.hop_counts]),
    )
