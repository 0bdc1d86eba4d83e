"""What the slices of a mapping are to a model of time: their synapses, their depth in the network, their sub-steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.loihi.latencies import Latencies
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Conv, Readout

# Kinds of synapses, as the latencies have them
CONVOLUTION = Latencies.KINDS.index("convolution")
DENSE = Latencies.KINDS.index("dense")
SPARSE = Latencies.KINDS.index("sparse")


@dataclass(frozen=True, slots=True, eq=False)
class SliceLayout:
    """What each slice is.

    synapse    (slices,) the kind of its synapses: an index into Latencies.synop
    level      (slices,) layers from the Source
    sub_steps  (slices,) sub-steps that a time step takes there, or in its attention; 0 for ordinary slices
    swept      (slices,) neurons that its core visits in a sub-step
    depth      layers from the Source to the Accumulator
    """

    synapse: NDArray[np.int64]
    level: NDArray[np.int64]
    sub_steps: NDArray[np.int64]
    swept: NDArray[np.int64]
    depth: int


def slice_layout(network: Network, mapping: Mapping) -> SliceLayout:
    """What each slice of `mapping` is: what holds for its site holds for the slice."""
    levels = depths(network)
    attention_steps = {site.population: site.sub_steps for site in mapping.sites if site.kind == "attention"}
    synapse: list[int] = []
    level: list[int] = []
    sub_steps: list[int] = []
    for site in mapping.sites:
        # a counter has a synapse of its own for every pair, as a full matrix has
        incoming = [_kind(projection) for projection in network.into(site.population)]
        synapse.append(DENSE if site.kind == "attention" else max(incoming, default=CONVOLUTION))
        level.append(levels[site.population])
        # the target of an attention works in the sub-steps of its counters
        sub_steps.append(max(attention_steps.get(site.population, 0), site.sub_steps))
    site_of = mapping.boxes[:, 0]
    return SliceLayout(
        synapse=np.array(synapse)[site_of],
        level=np.array(level)[site_of],
        sub_steps=np.array(sub_steps)[site_of],
        swept=mapping.swept,
        depth=max(levels.values()),
    )


def _kind(projection: Projection) -> int:
    """Index of the latency of its synapses: shared weights, a full matrix, or single synapses."""
    match projection.synapse:
        case Conv():
            return CONVOLUTION
        case Readout():
            return DENSE
        case _:
            return SPARSE


def depths(network: Network) -> dict[str, int]:
    """Layers on the longest way from the Source to each population."""
    depth: dict[str, int] = {}
    # populations stand in an order in which sources come first
    for population in network:
        sources = [source for projection in network.into(population.name) for source in projection.sources]
        depth[population.name] = max((depth[source] + 1 for source in sources), default=0)
    return depth
