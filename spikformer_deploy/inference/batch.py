"""What one batch of images adds to a run: its events, its times, and its classes after every time step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.counts.events import Geometry, count
from spikformer_deploy.counts.steps import first_steps
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.inference.by_step import timed
from spikformer_deploy.inference.tally import Tally
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.steps import states_after
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.hops import HopTable, mean_hops
from spikformer_deploy.timing.times import StepTimes


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a run must know of the images of a batch beside their execution.

    brightest  their largest pixel; lost: events that frames do not hold
    labels     (images,), None where there are none
    """

    brightest: int
    lost: int
    labels: NDArray[np.int64] | None


def seen(images: ImageSet, place: slice, pixels: NDArray[np.integer]) -> Seen:
    """Of the images at `place` in their set, whose pixels were just read."""
    labels = None if images.labels is None else images.labels[place]
    return Seen(int(pixels.max()), images.lost_in(place), labels)


def recorded_in(network: Network) -> Sequence[str]:
    """What an executor must record for `tally_of`: the head, of which the classes after each step are known."""
    return (network.output.name,)


def tally_of(program: Program, geometry: Geometry, hops: HopTable | None, execution: Execution, of: Seen) -> Tally:
    """What a batch adds to the run.

    hops       None where no times are asked for
    execution  with `recorded_in` the network recorded; of: its images
    """
    events = count(geometry, execution)
    times: list[StepTimes] = []
    if hops is not None:
        for steps in timed(program.network.time_steps):
            of_steps = estimate(first_steps(events, steps), program.network, program.mapping, program.profile)
            times.append(replace(of_steps, hops=mean_hops(hops, execution.activity, steps)))
    return Tally(
        accumulators=execution.accumulators,
        events=events,
        right=_right(program.network, execution, of.labels),
        times=times[-1] if times else None,
        shorter=tuple(times[:-1]),
        kernels=execution.kernels,
        brightest=of.brightest,
        lost=of.lost,
    )


def _right(network: Network, execution: Execution, labels: NDArray[np.int64] | None) -> Int:
    """(T,) images whose class after each step is their label."""
    head = network.output
    assert isinstance(head.neuron, Accumulator)
    if labels is None:
        return np.zeros(network.time_steps, np.int64)
    states = execution.membranes[head.name].reshape(len(labels), network.time_steps, -1).astype(np.int64)
    return np.sum(states_after(head.neuron, states).argmax(2) == labels[:, None], 0)
