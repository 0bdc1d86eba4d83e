"""What the slices of a mapping are to a model of time: their synapses, their depth in the network, their sub-steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.loihi.latencies import Latencies
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Conv, Readout


@dataclass(frozen=True, slots=True, eq=False)
class SliceLayout:
    """What each slice is: its synapses' kind (an index into Latencies.synop), its level, whether it works in sub-steps.

    level      (slices,) layers from the Source
    sub_steps  (slices,) sub-steps that a time step takes there, or in its attention; 0 for ordinary slices
    swept      (slices,) neurons that its core visits in a sub-step
    """

    synapse: NDArray[np.int64]
    level: NDArray[np.int64]
    sub_steps: NDArray[np.int64]
    swept: NDArray[np.int64]
    depth: int


def slice_layout(network: Network, mapping: Mapping) -> SliceLayout:
    levels = depths(network)
    waiting = {site.population: site.sub_steps for site in mapping.sites if site.kind == "attention"}
    kind, level, sub_steps = [], [], []
    for site in mapping.sites:
        incoming = network.into(site.population)
        counters = site.kind == "attention"
        kind.append(Latencies.KINDS.index("dense") if counters else max(map(_kind, incoming), default=0))
        level.append(levels[site.population])
        sub_steps.append(max(waiting.get(site.population, 0), site.sub_steps))
    of = mapping.boxes[:, 0]
    return SliceLayout(
        np.array(kind)[of], np.array(level)[of], np.array(sub_steps)[of], mapping.swept, max(levels.values())
    )


def _kind(projection: Projection) -> int:
    """Index of the latency of its synapses: shared weights, a full matrix, or single synapses."""
    match projection.synapse:
        case Conv():
            return Latencies.KINDS.index("convolution")
        case Readout():
            return Latencies.KINDS.index("dense")
        case _:
            return Latencies.KINDS.index("sparse")


def depths(network: Network) -> dict[str, int]:
    """Layers on the longest way from the Source to each population."""
    out: dict[str, int] = {}
    for population in network:
        sources = [s for projection in network.into(population.name) for s in projection.sources]
        out[population.name] = max((out[s] + 1 for s in sources), default=0)
    return out
