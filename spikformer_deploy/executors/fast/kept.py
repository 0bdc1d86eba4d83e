"""What is kept of a batch of images, the same on every device: records, magnitudes and the head's accumulators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import check_state
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Accumulator


@dataclass(slots=True)
class Kept:
    """Results of one batch, by population, as in Execution; `record` names those whose spikes are asked for."""

    network: Network
    record: Sequence[str]
    spikes: dict[str, NDArray[np.integer]] = field(default_factory=dict)
    membranes: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    coincidences: dict[str, Int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    accumulators: Int = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def note_peak(self, population: Population, largest: int) -> None:
        """Keep the largest magnitude that was met; raises OverflowDetected where it leaves the bits of a state."""
        check_state(self.network, population, largest)
        self.peak[population.name] = largest

    def accumulate(self, population: Population, neuron: Accumulator, total: Int) -> None:
        """The head's states from what reaches it in every step, (N, T, classes); a map (C, Y, X) is one row."""
        bias = np.repeat(neuron.bias, population.size // len(neuron.bias))
        states = bias + (total if neuron.last else total.cumsum(1))
        largest = max(int(np.abs(states).max(initial=0)), int(np.abs(total).max(initial=0)))
        self.note_peak(population, largest)
        self.accumulators = states[:, -1]
        if population.name in self.record:
            membranes = states.reshape(*states.shape[:2], *population.shape).astype(np.int32)
            self.membranes[population.name] = membranes
            self.spikes[population.name] = np.zeros_like(membranes)
