"""What the walk over a float graph has made so far, and how a population is added to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.graph import ir
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import Neuron
from spikformer_deploy.quantization.currents import Value
from spikformer_deploy.quantization.fitting import Quantized
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.shared_units import SharedUnit
from spikformer_deploy.quantization.signals import Pixels, Signal
from spikformer_deploy.quantization.stream_neurons import relay

Accumulated: TypeAlias = Callable[[Network], int]
"""Largest |accumulator| at any time when a network runs on the calibration images."""


@dataclass(slots=True)
class Walk:
    """What the walk over the graph reads, and what it has made so far.

    values     of the nodes that it has passed, by name
    quantized  the populations, in the order of the graph, which is the order they run in
    """

    graph: ir.Graph
    pixels: Pixels
    calibration: Calibration
    limits: CoreLimits
    settings: Settings
    accumulated: Accumulated | None
    shared_units: dict[str, SharedUnit]
    values: dict[str, Value] = field(default_factory=dict)
    quantized: dict[str, Quantized] = field(default_factory=dict)

    def population(self, name: str) -> Population:
        """A population that has been made."""
        return self.quantized[name].population

    @property
    def shapes(self) -> dict[str, Shape]:
        """Of the populations that have been made."""
        return {name: quantized.population.shape for name, quantized in self.quantized.items()}

    def place(self, quantized: Quantized) -> None:
        """Add a population; what it reads has been added before."""
        self.quantized[quantized.population.name] = quantized

    def place_neurons(self, signal: Signal, neuron: Neuron, *projections: Projection) -> Signal:
        """Add neurons without state, which send `signal`; and `signal`."""
        (name,) = signal.populations
        self.place(Quantized(Population(name, signal.shape, neuron, signal.max_out), projections))
        return signal

    def place_relay(self, signal: Signal, projections: tuple[Projection, ...], layer: str, problem: str) -> Signal:
        """Add neurons that send what they receive, which is `signal`; and `signal`.

        Raises QuantizeError for `layer`, whose `problem` it is, where the target's messages do not hold that.
        """
        self.place(relay(signal, projections, layer, problem, self.limits))
        return signal
