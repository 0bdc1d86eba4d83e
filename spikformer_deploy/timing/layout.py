"""What the slices of a mapping are to a model of time: their synapses, their depth in the network, their sub-steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.loihi.sites import program_length, synapse_kind
from spikformer_deploy.chips.profile import Core
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network


@dataclass(frozen=True, slots=True, eq=False)
class SliceLayout:
    """What each slice is.

    synapse    (slices,) the kind of its synapses: an index into Latencies.synop
    program    (slices,) length of its neurons' program in units of the reference program; 0: fixed-function neurons
    level      (slices,) layers from the Source
    sub_steps  (slices,) sub-steps in which messages reach it, in a time step; 0 for ordinary slices
    in_turn    (slices,) whether its neurons work in sub-steps too: counters, and neurons whose tokens come in series
    swept      (slices,) neurons that its core visits in a sub-step
    depth      layers from the Source to the Accumulator
    """

    synapse: NDArray[np.int64]
    program: NDArray[np.float64]
    level: NDArray[np.int64]
    sub_steps: NDArray[np.int64]
    in_turn: NDArray[np.bool_]
    swept: NDArray[np.int64]
    depth: int


def slice_layout(network: Network, mapping: Mapping, core: Core) -> SliceLayout:
    """What each slice of `mapping` is: what holds for its site holds for the slice."""
    levels = depths(network)
    sites = mapping.sites
    # the target of an attention hears its counters in their sub-steps
    attention = {site.population: site.chip_sub_steps for site in sites if site.kind == "attention"}
    site_of = mapping.boxes[:, 0]
    return SliceLayout(
        synapse=np.array([synapse_kind(network, site) for site in sites])[site_of],
        program=np.array([program_length(network, site, core) for site in sites])[site_of],
        level=np.array([levels[site.population] for site in sites])[site_of],
        sub_steps=np.array([max(attention.get(s.population, 0), s.chip_sub_steps) for s in sites])[site_of],
        in_turn=np.array([site.sub_steps > 0 for site in sites])[site_of],
        swept=mapping.swept,
        depth=max(levels.values()),
    )


def depths(network: Network) -> dict[str, int]:
    """Layers on the longest way from the Source to each population."""
    depth: dict[str, int] = {}
    # populations stand in an order in which sources come first
    for population in network:
        sources = [source for projection in network.into(population.name) for source in projection.sources]
        depth[population.name] = max((depth[source] + 1 for source in sources), default=0)
    return depth
