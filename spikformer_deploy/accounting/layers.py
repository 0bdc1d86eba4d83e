"""Counts a layer: dense work, synaptic operations, firing rates, silent neurons, sparsity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.counts.events import Events
from spikformer_deploy.network.network import Network, graded_spikes
from spikformer_deploy.network.neurons import kind_of
from spikformer_deploy.network.synapses import Conv, Readout


@dataclass(frozen=True, slots=True, eq=False)
class LayerCounts:
    """One population and the synapses that reach it.

    rate        (T,) share of the neurons that send something in a step, whatever it is, mean over the images
    mean_sent   (T,) mean of the whole numbers that its neurons send in a step, zeros included; equal to `rate` of
                binary spikes.  None where messages are no numbers of spikes: of pixels, currents, and the head
    synops      (T,) synaptic operations that reach the layer, mean over the images; see Events.synops_of
    dense_macs  multiply-accumulates of the layer for one image and step where nothing is skipped
    silent      neurons that sent nothing in any step of any image; None where that is not known
    graded      it sends values beyond 1
    """

    name: str
    kind: str
    shape: Shape
    neurons: int
    rate: NDArray[np.float64]
    mean_sent: NDArray[np.float64] | None
    synops: NDArray[np.float64]
    dense_macs: int
    silent: int | None
    graded: bool


@dataclass(frozen=True, slots=True, eq=False)
class Sparsity:
    """Shares of zeros as NeuroBench defines them (Yik et al., arXiv 2304.04640), and the firing of LIFs and Levels.

    activation  zeros among all outputs of all these neurons, steps and images
    connection  zeros among all stored weights
    rate        share of these neurons that send something in a step, 1 - activation
    mean_sent   mean of the integers that they send in a step, zeros included: `rate` where all send binary spikes
    silent      share of these neurons that never did; None where that is not known
    """

    activation: float
    connection: float
    rate: float
    mean_sent: float
    silent: float | None


def layers(network: Network, events: Events) -> tuple[LayerCounts, ...]:
    """The counts of every population, in the order of the network."""
    numbers = graded_spikes(network)
    out = []
    for population in network:
        counted = events.populations[population.name]
        spiking = population.name in numbers or population.max_out == 1
        incoming = [p for p in events.projections if p.target == population.name]
        out.append(
            LayerCounts(
                population.name,
                kind_of(population.neuron),
                population.shape,
                population.size,
                counted.spikes / (events.images * population.size),
                counted.values / (events.images * population.size) if spiking else None,
                events.synops_of(population.name) / events.images,
                sum(p.dense for p in incoming),
                counted.silent,
                population.max_out > 1,
            )
        )
    return tuple(out)


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """Small integers as binary spikes, a slot of time for each unit.

    count  slots that an image takes: its time steps, times the largest integer that neurons send (1 of binary spikes)
    rate   mean firing rate of LIFs and Levels in a slot
    """

    count: int
    rate: float


def slots(network: Network, events: Events) -> Slots:
    """The network as one of binary spikes would be counted: equal to its own steps and rate where it is one."""
    firing = [p for p in network if p.neuron.fires]
    count = events.time_steps * max((p.max_out for p in firing), default=1)
    spikes = sum(int(events.populations[p.name].values.sum()) for p in firing)
    return Slots(count, _share(spikes, sum(p.size for p in firing) * count * events.images))


def sparsity(network: Network, events: Events) -> Sparsity:
    """Sparsity of activations and weights, and the shares of firing and silent LIFs and Levels."""
    lifs = [(p.size, events.populations[p.name]) for p in network if p.neuron.fires]
    neurons = sum(size for size, _ in lifs)
    spikes = sum(int(counted.spikes.sum()) for _, counted in lifs)
    visits = neurons * events.time_steps * events.images
    rate = _share(spikes, visits)
    silent = [counted.silent for _, counted in lifs if counted.silent is not None]
    weights = [p.synapse.weight for p in network.projections if isinstance(p.synapse, (Conv, Readout))]
    zeros = sum(int((w == 0).sum()) for w in weights)
    return Sparsity(
        activation=1 - rate,
        connection=zeros / sum(w.size for w in weights),
        rate=rate,
        mean_sent=_share(sum(int(counted.values.sum()) for _, counted in lifs), visits),
        silent=_share(sum(silent), neurons) if len(silent) == len(lifs) else None,
    )


def _share(part: int, whole: int) -> float:
    """0 of a network without neurons: a linear classifier is one, and nothing in it fires."""
    return part / whole if whole else 0.0
