"""One time step after the other, for frames that come as they come: what the neurons hold is carried from step to step.

Synapses are the engine's, by a plan of one time step.  Neurons that hold something take their step as
network/neurons.py defines it; all others hold nothing, and do in this step what they do in any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Cells, Execution
from spikformer_deploy.executors.fast import engine, sums, threads
from spikformer_deploy.executors.fast.batch import Batch, Buffers, Sent, empty_counts
from spikformer_deploy.executors.fast.kept import Kept
from spikformer_deploy.executors.fast.plan import make_plan
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Accumulator, Levels, Lif, potential_of, step


class Stepper:
    """A network that stands after some time steps.

    network  of one time step, with the integers of the whole one
    states   by population, of those that hold something: as network.neurons.step takes and gives them, N = 1; empty at
             rest
    """

    def __init__(self, network: Network, cells: Mapping[str, Cells]) -> None:
        self.network = network
        self.states: dict[str, Int] = {}
        self._plan = make_plan(network, cells)
        self._buffers = Buffers()

    def step(self, frame: NDArray[np.integer], record: Sequence[str]) -> Execution:
        """One more time step, in which the Source sends `frame` (C, Y, X).

        Gives what an executor gives of a single image and step: its accumulators are the states of the head, with the
        bias of all steps from the first one on.  Where it raises OverflowDetected, the states are those of before.
        """
        counts = empty_counts(self._plan, 1)
        batch = Batch(self._plan, slice(0, 1), self._buffers, counts, Kept(self.network, record))
        states = dict(self.states)
        with threads.as_many_as_torch(), torch.inference_mode():
            batch.threads = numba.get_num_threads()
            for population in self.network:
                _one(batch, population, frame[None, None], states)
                for name in self._plan.last_read.get(population.name, ()):
                    batch.buffers.give(batch.sent.pop(name))
            numba.set_num_threads(batch.threads)
        self.states = states
        return engine._joined([batch])


def _one(batch: Batch, population: Population, inputs: Sent, states: dict[str, Int]) -> None:
    """A time step of one population."""
    neuron = population.neuron
    if isinstance(neuron, (Lif, Levels)):
        _fire(batch, population, states)
    elif isinstance(neuron, Accumulator):
        _accumulate(batch, population, states)
    else:
        engine._run_population(batch, population, inputs)


def _fire(batch: Batch, population: Population, states: dict[str, Int]) -> None:
    neuron = population.neuron
    assert isinstance(neuron, (Lif, Levels))
    channels, height, width = population.shape
    total = np.empty((1, height * width, channels), np.int64)
    for _, first, values in sums.pieces(batch, population):
        # sums of what is alike in all steps are those of this one; some are whole numbers held in floats
        total[:, first : first + values.shape[2]] = values[:, 0]
    before = states.get(population.name)
    sent, after, largest = step(neuron, _maps(total, population), before)
    states[population.name] = after
    spikes = batch.buffers.take((1, 1, height * width, channels), np.uint8)
    spikes[...] = _rows(sent)
    potential = potential_of(neuron, after)
    engine._keep(batch, population, spikes, largest, None)
    if population.name in batch.plan.may_idle:
        kept = isinstance(neuron, Lif) or neuron.decay
        held = potential if before is None or not kept else np.abs(potential) + np.abs(potential_of(neuron, before))
        # the loop takes the step for the first one: a neuron that held something before is none that rests
        engine._observe_idle(batch, population, spikes, _rows((held != 0).astype(np.int32)))
    if population.name in batch.kept.record:
        batch.kept.membranes[population.name] = potential[:, None].astype(np.int32)


def _accumulate(batch: Batch, population: Population, states: dict[str, Int]) -> None:
    """The head: `step` of its neurons, with what reaches it from the engine."""
    total = engine._read_out(batch, population).reshape(1, *population.shape)
    _, after, largest = step(population.neuron, total, states.get(population.name))
    batch.kept.note_peak(population, largest)
    states[population.name] = after
    batch.kept.accumulators = after.reshape(1, -1)
    if population.name in batch.kept.record:
        batch.kept.membranes[population.name] = after[:, None].astype(np.int32)
        batch.kept.spikes[population.name] = np.zeros_like(batch.kept.membranes[population.name])


def _maps(rows: Int, population: Population) -> Int:
    """(1, C, Y, X) from (1, P, C)."""
    return np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(1, *population.shape)


def _rows(maps: NDArray[np.integer]) -> NDArray[np.integer]:
    """(1, 1, P, C) from (1, C, Y, X)."""
    return np.ascontiguousarray(maps.reshape(1, len(maps[0]), -1).transpose(0, 2, 1))[:, None]
