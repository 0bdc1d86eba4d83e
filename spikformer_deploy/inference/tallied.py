"""What one batch of images adds to a run: its events, its times, and its classes after every time step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.counts.events import Geometry, count
from spikformer_deploy.counts.steps import first_steps
from spikformer_deploy.executors.execution import Execution, check_state
from spikformer_deploy.inference.by_step import timed
from spikformer_deploy.inference.tally import Tally
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.steps import states_after
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.hops import HopTable, hops_of_images
from spikformer_deploy.timing.times import StepTimes


def recorded_in(network: Network) -> Sequence[str]:
    """What an executor must record for `tally_of`: the head, of which the classes after each step are known."""
    return (network.output.name,)


def tally_of(
    program: Program,
    geometry: Geometry,
    hops: HopTable | None,
    execution: Execution,
    brightest: int,
    shorter: bool = True,
) -> Tally:
    """What a batch adds to the run; events that its frames do not hold are not known here.

    geometry   of the network that ran: the program's, or one of more steps with the same integers up to the head's bias
    hops       None where no times are asked for
    execution  of that network, with `recorded_in` it recorded
    brightest  the largest pixel of the batch
    shorter    whether times of the first steps are wanted too
    """
    steps = program.network.time_steps
    events = first_steps(count(geometry, execution), steps)
    times: list[StepTimes] = []
    if hops is not None:
        for some in timed(steps) if shorter else (steps,):
            of_some = estimate(first_steps(events, some), program.network, program.mapping, program.profile)
            times.append(replace(of_some, hop_counts=hops_of_images(hops, execution.activity, some)))
    states = _states(program.network, geometry.network, execution)
    head = program.network.output.neuron
    assert isinstance(head, Accumulator)
    return Tally(
        accumulators=states[:, -1],
        classes=states_after(head, states).argmax(2).astype(np.int32),
        events=events,
        times=times[-1] if times else None,
        shorter=tuple(times[:-1]),
        kernels=execution.kernels,
        brightest=brightest,
        lost=0,
    )


def _states(network: Network, ran: Network, execution: Execution) -> Int:
    """(N, T, classes) what the head of `network` holds after each of its steps.

    Raises OverflowDetected where it leaves its bits.
    """
    kept = execution.membranes[ran.output.name].astype(np.int64)
    states = kept.reshape(len(kept), ran.time_steps, -1)[:, : network.time_steps]
    if network is not ran:
        ours, theirs = network.output.neuron, ran.output.neuron
        assert isinstance(ours, Accumulator)
        assert isinstance(theirs, Accumulator)
        states = states - theirs.bias + ours.bias
        check_state(network, network.output, int(np.abs(states).max(initial=0)))
    return states
