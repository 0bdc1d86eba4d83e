"""What the slices of a mapping are to a model of time: their synapses, their depth in the network, their sub-steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.loihi.sites import program_length, synapse_kind
from spikformer_deploy.chips.profile import Core
from spikformer_deploy.network.mapping import OPERANDS, Mapping, Site
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Attention


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
    sub_steps_after  by level: the sub-steps that follow the chip-wide step in which it alone works; none: 0
    """

    synapse: NDArray[np.int64]
    program: NDArray[np.float64]
    level: NDArray[np.int64]
    sub_steps: NDArray[np.int64]
    in_turn: NDArray[np.bool_]
    swept: NDArray[np.int64]
    depth: int
    sub_steps_after: dict[int, int]


def slice_layout(network: Network, mapping: Mapping, core: Core) -> SliceLayout:
    """What each slice of `mapping` is: what holds for its site holds for the slice."""
    levels = depths(network, mapping)
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
        sub_steps_after=_sub_steps_after(network, mapping, levels),
    )


def depths(network: Network, mapping: Mapping) -> dict[str, int]:
    """Layers on the longest way from the Source to each population: chip-wide steps that a time step is there later.

    An attention whose channels come in series has its turns when all tokens are there: where the tokens of an operand
    come in series too, that is in the chip-wide step after theirs, and a layer more.
    """
    streamed = {site.population for site in mapping.sites if site.token_serial}
    by_channels = {site.population for site in mapping.sites if site.kind == "attention" and site.serial == "channels"}
    depth: dict[str, int] = {}
    # populations stand in an order in which sources come first
    for population in network:
        ways = [0]
        for projection in network.into(population.name):
            waits = population.name in by_channels and isinstance(projection.synapse, Attention)
            ways += [depth[source] + 1 + (waits and source in streamed) for source in projection.sources]
        depth[population.name] = max(ways)
    return depth


def _sub_steps_after(network: Network, mapping: Mapping, levels: dict[str, int]) -> dict[int, int]:
    """By level: the sub-steps of attentions and products that it feeds, and those in which tokens come one by one."""
    longest: dict[int, int] = {}
    for site in mapping.sites:
        for level in _working_in_turn(network, site, levels):
            longest[level] = max(longest.get(level, 0), site.chip_sub_steps)
    return longest


def _working_in_turn(network: Network, site: Site, levels: dict[str, int]) -> set[int]:
    """The levels whose chip-wide step is followed by the sub-steps of a site."""
    level = levels[site.population]
    if site.kind == "attention" or site.serial == OPERANDS:
        return {level - 1}
    if not site.token_serial:
        return set()
    # its own tokens, and those that others send to it: an attention's answers come in the sub-steps of its counters
    incoming = [p for p in network.into(site.population) if not isinstance(p.synapse, Attention)]
    return {level, *(levels[source] for projection in incoming for source in projection.sources)}
