"""An Execution from all that the populations sent: for executors that know nothing of cells and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Cells, Execution, check_state, one_cell
from spikformer_deploy.executors.reference import coincidences, observe
from spikformer_deploy.network.network import Network, graded_spikes
from spikformer_deploy.network.neurons import largest_recorded
from spikformer_deploy.network.synapses import Attention


def execution(
    network: Network,
    accumulators: Int,
    sent: Mapping[str, Int],
    potentials: Mapping[str, Int],
    record: Sequence[str],
    cells: Mapping[str, Cells] | None,
    kernels: str,
) -> Execution:
    """What reference.execute would give for the same messages.

    sent        (N, T, C, Y, X) of every population but the accumulator
    potentials  (N, T, C, Y, X) after the reset, of recorded LIFs and of those that `may_idle`, and of the accumulator
                where it is recorded
    peak_state is that of `potentials`, and of what Streams, Sums and Maxima send.
    Raises OverflowDetected where one of them leaves its bits, or a Stream sends more than it says.
    """
    peak = {p.name: largest_recorded(p.neuron, sent.get(p.name), potentials.get(p.name)) for p in network}
    for population in network:
        check_state(network, population, peak[population.name])
    head = network.output.name
    graded = graded_spikes(network)
    states = {name: potentials[name] if name in potentials else np.zeros_like(sent[name]) for name in record}
    return Execution(
        accumulators=accumulators,
        activity={
            p.name: observe(
                p.neuron,
                sent[p.name],
                potentials.get(p.name),
                (cells or {}).get(p.name, one_cell(p.shape)),
                p.name in graded,
            )
            for p in network
            if p.name != head
        },
        spikes={name: np.zeros_like(states[name]) if name == head else sent[name] for name in record},
        membranes={name: values.astype(np.int32) for name, values in states.items()},
        coincidences={
            p.target: coincidences(p.synapse.heads, *(sent[name] for name in p.sources[1:]))
            for p in network.projections
            if isinstance(p.synapse, Attention)
        },
        peak_state=peak,
        kernels=kernels,
    )
