"""The integer network: populations of neurons with integer state, and projections of integer synapses between them.

neurons.py and synapses.py say what its parts are and, bit for bit, what they do; law.py, what it must obey.
All values on wires are integers (C, Y, X) per image and time step: pixels, spikes (0 or 1), graded spikes; only
residual streams of membrane currents (Stream, Max) send negative ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.base.flat import LATER
from spikformer_deploy.base.values import SAID, digest
from spikformer_deploy.network import neurons, synapses
from spikformer_deploy.network.neurons import Levels, Lif, Neuron
from spikformer_deploy.network.synapses import Synapse

ROUNDING_UNKNOWN = -1.0


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """A layer of neurons (C, Y, X).

    max_out   largest magnitude a neuron can send in one step (1 for spikes, 0 for an Accumulator)
    bounds    (low, high) of the state in any run, proven or observed (see Network.bounds)
    rounding  largest relative error that rounding left: of a weight (against the largest of its channel), of a bias or
              threshold (against the threshold; a bias of what has none: against the largest weight); 0: none;
              ROUNDING_UNKNOWN in programs that were written before
    """

    name: str
    shape: Shape
    neuron: Neuron
    max_out: int
    bounds: tuple[int, int] = (0, 0)
    rounding: float = field(default=ROUNDING_UNKNOWN, metadata={LATER: True})

    @property
    def size(self) -> int:
        """Number of neurons."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def signed(self) -> bool:
        """Whether its neurons may send negative values."""
        return self.neuron.sends_negative


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Synapses from `sources` (one population; q, k, v for Attention) to `target`.

    weight_bits  of each of them in the memory of a core; 0: as many as Network.weight_bits
    """

    sources: tuple[str, ...]
    target: str
    synapse: Synapse
    weight_bits: int = field(default=0, metadata={LATER: True, SAID: True})


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Populations in topological order (the Source first, the Accumulator last) and the projections between them.

    bounds      "static": every state and sum is proven to fit state_bits; "observed": only the calibrated range is,
                with `margin` (range of the state over its largest value), and every run checks
    mean, std   (C,) float64 normalisation folded into the first weights: real input = (pixel / max_value - mean) / std
    """

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    time_steps: int
    state_bits: int
    weight_bits: int
    bounds: str
    margin: float
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    _by_name: dict[str, Population] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {p.name: p for p in self.populations})

    def __getitem__(self, name: str) -> Population:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Population]:
        return iter(self.populations)

    def into(self, name: str) -> tuple[Projection, ...]:
        """The projections that reach population `name`."""
        return tuple(p for p in self.projections if p.target == name)

    def out_of(self, name: str) -> tuple[Projection, ...]:
        """The projections that start (also) at population `name`."""
        return tuple(p for p in self.projections if name in p.sources)

    def bits_of(self, projection: Projection) -> int:
        """Bits of each synapse of a projection in the memory of a core."""
        return projection.weight_bits or self.weight_bits

    @property
    def input(self) -> Population:
        """The population of kind Source."""
        return self.populations[0]

    @property
    def output(self) -> Population:
        """The population of kind Accumulator."""
        return self.populations[-1]

    @property
    def exact(self) -> bool:
        """Whether every neuron with a potential executes the real-valued one with the same integer weights exactly."""
        return all(p.neuron.exact for p in self.populations if isinstance(p.neuron, (Levels, Lif)))

    @property
    def rounding(self) -> float | None:
        """The largest relative error that the rounding of weights, biases and thresholds left; None: not recorded."""
        rounded = [p.rounding for p in self.populations if p.neuron.keeps_state]
        return None if ROUNDING_UNKNOWN in rounded else max(rounded)

    def digest(self) -> str:
        """sha256 over all that decides spikes: not what is only said of them (bounds, margin, bits of the weights)."""
        return digest([self.populations, self.projections, self.time_steps, self.state_bits, self.mean, self.std])

    def dump(self) -> str:
        """The network as text, for a person to read and diff."""
        lines = [f"network T={self.time_steps} state_bits={self.state_bits} bounds={self.bounds} exact={self.exact}"]
        for population in self.populations:
            shape = "x".join(map(str, population.shape))
            low, high = population.bounds
            lines.append(f"  {population.name}: {shape} {neurons.shown(population.neuron)} state [{low}, {high}]")
            for projection in self.into(population.name):
                lines.append(f"    <- {synapses.shown(projection.synapse)} {', '.join(projection.sources)}")
        return "\n".join(lines) + "\n"


def graded_spikes(network: Network) -> frozenset[str]:
    """The populations whose messages are numbers of spikes, of 2 and more: Levels, and sums and maxima of spikes.

    A message of s stands for s binary ones.  That of a pixel, or of a membrane current, is a value and stands for none.
    """
    spiking: set[str] = set()
    for population in network:
        sources = [name for projection in network.into(population.name) for name in projection.sources]
        sends = population.neuron.sends_spikes
        if sends or (sends is None and spiking.issuperset(sources)):
            spiking.add(population.name)
    return frozenset(name for name in spiking if network[name].max_out > 1)
