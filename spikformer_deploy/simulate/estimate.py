"""Closed-form step time: the busiest core or link rules, then the barrier.

Source of the form: Timcheck, Pierro, Shrestha, arXiv 2601.10035, validated there on Loihi 2 (correlation >= 0.97).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

CORNERS = ("low", "nominal", "high")
"""The first axis of every array of StepTimes: all ranges of the profile at their low end, value, high end."""


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """How long the chip takes, estimated; an image takes `time_steps` steps.

    step_ns            (3, images, T) one chip-wide step with all layers at work on different steps (pipelined)
    fall_through_ns    (3, images, T) one step that passes all layers one after the other
    parts_ns           mean nominal time of each thing that can rule a step: "neurons", "synapses", "messages", "link"
                       (each of its busiest core or link), and what is added: "barrier", "sub_steps"
    bound              the part that rules most steps
    busiest_core       the core that is busiest in most steps; busiest_population what stands on it
    depth              layers that a spike passes from the Source to the Accumulator
    """

    step_ns: Times
    fall_through_ns: Times
    parts_ns: dict[str, float]
    bound: str
    busiest_core: int
    busiest_population: str
    depth: int

    @property
    def step_us_mean(self) -> Times:
        """(3,) mean time of a pipelined step in us."""
        return self.step_ns.mean((1, 2)) / 1e3

    @property
    def images_per_second(self) -> Times:
        """(3,) throughput of the pipeline, an image every T steps, from the slow corner to the fast: low first."""
        return np.sort(1e9 / (self.step_ns.mean(1).sum(1)))

    @property
    def latency_us(self) -> Times:
        """(3,) mean time from the image to its logits in the pipeline: (T + depth - 1) steps."""
        steps = self.step_ns.shape[2]
        return (steps + self.depth - 1) * self.step_us_mean

    @property
    def fall_through_us(self) -> Times:
        """(3,) mean time from the image to its logits where layers work one after the other."""
        return self.fall_through_ns.mean(1).sum(1) / 1e3
