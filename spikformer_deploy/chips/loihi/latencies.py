"""The durations of a profile as arrays of three corners: every number at its low end, its value, its high end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.chips.quantity import Quantity
from spikformer_deploy.network.mapping import Mapping

Times: TypeAlias = NDArray[np.float64]

CORNERS = ("low", "nominal", "high")
"""The first axis of every array of times: all latencies of the profile at their low end, value, high end."""

NOMINAL = CORNERS.index("nominal")


@dataclass(frozen=True, slots=True, eq=False)
class Latencies:
    """Durations in ns, (3,) each: low, nominal, high.

    neuron, idle_neuron  a neuron's update in the sweep, and a visit that finds nothing to do
    spike_out            added where the neuron fires
    synop                (3, kinds) one synaptic operation, by the kinds of KINDS
    message_in           one message at the core that receives it
    link                 the heaviest link's time for the messages of a step, on a chip or between chips; 0 where the
                         mapping has no such metrics
    barrier              the end of a step, for the tiles and chips that the mapping uses
    """

    KINDS: ClassVar[tuple[str, ...]] = ("convolution", "dense", "sparse")

    neuron: Times
    idle_neuron: Times
    spike_out: Times
    synop: Times
    message_in: Times
    link: Times
    barrier: Times


def latencies(profile: Profile, mapping: Mapping) -> Latencies:
    """The durations of `profile` for the tiles and chips of `mapping`."""
    time = profile.time
    synapses = (time.synapse_conv, time.synapse_dense, time.synapse_sparse)
    on_chip, between = (mapping.metrics.get(f"max_{name}_load", 0.0) for name in ("link", "chip_link"))
    return Latencies(
        neuron=corners(time.neuron_update),
        idle_neuron=corners(time.neuron_idle),
        spike_out=corners(time.spike_out),
        synop=np.stack([corners(q) for q in synapses], 1),
        message_in=corners(time.axon_in),
        link=np.maximum(on_chip / corners(time.link_rate)[::-1], between / corners(time.chip_link_rate)[::-1]),
        barrier=barrier(profile, mapping),
    )


def corners(quantity: Quantity) -> Times:
    """(3,) low, nominal, high."""
    return np.array([quantity.low, quantity.value, quantity.high], np.float64)


def barrier(profile: Profile, mapping: Mapping) -> Times:
    """On a chip it grows linearly with the tiles in use; a board adds a constant and a time for each hop across."""
    time, chip = profile.time, profile.chip
    tiles, most = tiles_used(profile, mapping), int(chip.tiles_x) * int(chip.tiles_y)
    share = (tiles - 1) / (most - 1) if most > 1 else 0.0
    on_chip = (1 - share) * corners(time.barrier_one_tile) + share * corners(time.barrier_chip)
    if mapping.chips == 1:
        return on_chip
    rows, columns = np.divmod(np.unique(mapping.cores // mapping.cores_per_chip), int(profile.board.columns))
    diameter = np.ptp(rows) + np.ptp(columns)
    return on_chip + corners(time.barrier_board) + diameter * corners(time.barrier_chip_hop)


def tiles_used(profile: Profile, mapping: Mapping) -> int:
    """Tiles in use on the chip that uses most of them."""
    chips, local = np.divmod(np.unique(mapping.cores), mapping.cores_per_chip)
    tiles = np.unique(np.stack([chips, local // int(profile.chip.cores_per_tile)]), axis=1)
    return int(np.bincount(tiles[0]).max())
