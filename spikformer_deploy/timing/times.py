"""How long the chip takes: the record that the closed form and the message-level model both fill."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.loihi.latencies import NOMINAL

Times: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """How long the chip takes; an image takes T steps.

    The first axis of times are the CORNERS of latencies.py.

    step_ns            (3, images, T) one chip-wide step with all layers at work on different steps (pipelined)
    fall_through_ns    (3, images, T) one step that passes all layers one after the other
    parts_ns           mean nominal time of each thing that can rule a step ("neurons", "synapses", "messages", "link")
                       and of what is added ("barrier", "sub_steps")
    busiest            (images, T) the core with most work
    depth              layers that a spike passes from the Source to the Accumulator
    model              "estimate" (estimate.py) or "cycle" (messages.py, which adds the part "waiting")
    hops               messages * hops of an image, east-west and north-south (hops.py); empty where not counted
    """

    step_ns: Times
    fall_through_ns: Times
    parts_ns: dict[str, float]
    busiest: NDArray[np.int64]
    depth: int
    model: str = "estimate"
    hops: tuple[float, ...] = ()

    @property
    def bound(self) -> str:
        """The largest of parts_ns."""
        return max(self.parts_ns, key=lambda name: self.parts_ns[name])

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
    """Times that have nominal values only, with a range as wide as that of an estimate of the same network."""
    step = (estimated.step_us_mean / estimated.step_us_mean[NOMINAL])[:, None, None]
    fall_through = (estimated.fall_through_us / estimated.fall_through_us[NOMINAL])[:, None, None]
    return replace(times, step_ns=times.step_ns * step, fall_through_ns=times.fall_through_ns * fall_through)


def join_times(first: StepTimes, more: StepTimes) -> StepTimes:
    """The times of the images of both; means are weighted by their images."""
    images = first.step_ns.shape[1]
    share = images / (images + more.step_ns.shape[1])

    def mean(of_first: float, of_more: float) -> float:
        return share * of_first + (1 - share) * of_more

    return StepTimes(
        step_ns=np.concatenate([first.step_ns, more.step_ns], 1),
        fall_through_ns=np.concatenate([first.fall_through_ns, more.fall_through_ns], 1),
        parts_ns={name: mean(ns, more.parts_ns[name]) for name, ns in first.parts_ns.items()},
        busiest=np.concatenate([first.busiest, more.busiest]),
        depth=first.depth,
        model=first.model,
        hops=tuple(mean(*pair) for pair in zip(first.hops, more.hops, strict=True)),
    )
