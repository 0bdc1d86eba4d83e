"""How long a chip-wide time step takes, said once: for the objective of the mapping and for the estimate.

Every core sweeps its neurons, serves its messages and does its synaptic operations, all at once; the longest of these
over all cores rules.  A barrier ends the step.  An attention adds sub-steps, which are chip-wide: each costs a pause (a
sweep over idle neurons and a barrier), and the work that is done in sub-steps comes after all else, in turn.

    step = at once + barrier + sub-steps * pause + in turn

Source of the form: Timcheck, Pierro, Shrestha, arXiv 2601.10035, validated there on Loihi 2 (correlation >= 0.97).
All times are in ns.  The objective looks at a cut before it is placed, the estimate at a finished mapping and at every
corner of the latencies: the functions take what both have, plain numbers or arrays.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.chips.loihi.latencies import Latencies, Times, corners
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.network.mapping import Mapping

Number: TypeAlias = Array | float
Time = TypeVar("Time", float, Times)
"""A time of one step, or those of many."""


class Work(NamedTuple):
    """What is done in a step, by cores, slices or boxes: numbers or arrays that broadcast.

    neurons   updates, and spikes of these neurons; synops: synaptic operations; messages: received
    synapse   the kind of the synapses, an index into Latencies.KINDS
    """

    neurons: Number
    spikes: Number
    synops: Number
    messages: Number
    synapse: Array | int


def loads_ns(work: Work, table: Latencies, corner: int) -> dict[str, Times]:
    """The time for which each resource of a core works: "neurons", "synapses", "messages"."""
    return {
        "neurons": work.neurons * table.neuron[corner] + work.spikes * table.spike_out[corner],
        "synapses": work.synops * table.synop[corner][work.synapse],
        "messages": work.messages * table.message_in[corner],
    }


def pause_ns(swept: int, barrier: float, table: Latencies, corner: int) -> float:
    """A sub-step: the fullest core visits its `swept` neurons and finds nothing to do, then the barrier."""
    return float(swept * table.idle_neuron[corner]) + barrier


def step_ns(at_once: Time, barrier: float, sub_steps: Time, in_turn: float = 0.0) -> Time:
    """A step with all layers at work.

    at_once    the longest that a core or a link works, of all that do not work in sub-steps
    sub_steps  their number times pause_ns; in_turn: the work that is done in them, where `sub_steps` is without it
    The sum runs from left to right.  A caller that adds sub_steps and in_turn first may get a
    result that differs in the last bit.
    """
    return at_once + barrier + sub_steps + in_turn


def passing_ns(busy: Times, sub_steps: int, pause: float, barrier: float) -> Times:
    """A step in which one layer works, while all other cores sweep idle neurons."""
    return np.maximum(busy + barrier, pause) + sub_steps * pause


def link_ns(profile: Profile, mapping: Mapping) -> Times:
    """(3,) the heaviest link's time for the messages of a step, on a chip or between chips.

    0 where the mapping has no such metrics.
    """
    # a high rate is a short time: the corners of a rate are those of a time in reverse
    on_chip = mapping.metrics.get("max_link_load", 0.0) / corners(profile.time.link_rate)[::-1]
    between = mapping.metrics.get("max_chip_link_load", 0.0) / corners(profile.time.chip_link_rate)[::-1]
    return np.maximum(on_chip, between)


def barrier(profile: Profile, mapping: Mapping) -> Times:
    """(3,) the end of a step, for the tiles and chips that the mapping uses."""
    tiles = tiles_used(profile, mapping)
    most = int(profile.chip.tiles_x) * int(profile.chip.tiles_y)
    share = (tiles - 1) / (most - 1) if most > 1 else 0.0
    rows, columns = np.divmod(np.unique(mapping.cores // mapping.cores_per_chip), int(profile.board.columns))
    return _barrier(profile, share, mapping.chips, float(np.ptp(rows) + np.ptp(columns)))


def barrier_before_placement(profile: Profile, chips: int) -> Times:
    """(3,) the end of a step that `chips` chips take: as if they stood in a square, with all of their tiles in use."""
    return _barrier(profile, 1.0, chips, float(2 * (np.sqrt(chips) - 1)))


def _barrier(profile: Profile, share: float, chips: int, diameter: float) -> Times:
    """On a chip it grows linearly with the tiles in use; a board adds a constant and a time for each hop across.

    share     of the tiles, beyond the first, that are in use
    diameter  hops from chip to chip between the two that are farthest apart
    """
    time = profile.time
    on_chip = (1 - share) * corners(time.barrier_one_tile) + share * corners(time.barrier_chip)
    if chips == 1:
        return on_chip
    return on_chip + corners(time.barrier_board) + diameter * corners(time.barrier_chip_hop)


def tiles_used(profile: Profile, mapping: Mapping) -> int:
    """Tiles in use on the chip that uses most of them."""
    chips, local = np.divmod(np.unique(mapping.cores), mapping.cores_per_chip)
    tiles = np.unique(np.stack([chips, local // int(profile.chip.cores_per_tile)]), axis=1)
    return int(np.bincount(tiles[0]).max())
