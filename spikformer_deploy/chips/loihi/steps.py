"""How long a chip-wide time step takes, said once: for the objective of the mapping and for the estimate.

A core sweeps its neurons and sends what they fire, and beside that serves its messages, each with its synaptic
operations after it.  All cores work at once; the longest of this over all cores rules, or the heaviest link.  A barrier
ends the step, and the runtime takes its time.  An attention adds sub-steps, which are time steps of the chip: each is a
pause (a sweep over idle neurons, barrier and runtime), and the work that is done in sub-steps comes after all else.

    step = at once + barrier + runtime + sub-steps * pause + in turn

Source of the form: Timcheck, Pierro, Shrestha, arXiv 2601.10035, validated there on Loihi 2 (correlation >= 0.97);
messages and synapses in series, and the runtime: benchmarks/silicon.py.  All times are in ns.  The objective looks at a
cut before it is placed, the estimate at a finished mapping: the functions take what both have, plain numbers or arrays.
The first axis of every time are the points of the table (latencies.py).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.chips.loihi.latencies import Latencies, Times
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.network.mapping import Mapping

Number: TypeAlias = Array | float

TILES = (1, 2, 4, 29)
SHARES = (0.0, 1 / 3, 2 / 3, 1.0)
"""How far the barrier has grown from that of one tile to that of a chip: 0.6, 1.0, 1.4 and 1.8 us of a Nahuku board.
Source: Boyle et al. (SANA-FE), IEEE TCAD 44(8), 2025, table of barriers by tiles in use."""


class Work(NamedTuple):
    """What is done in a step, by cores, slices or boxes: numbers or arrays that broadcast.

    updates     of fixed-function neurons
    programmed  of microcoded ones; length: of their program, in units of the reference program
    idle        visits that find nothing to do
    spikes      of these neurons; sent: messages of these spikes
    synops      synaptic operations; synapse: their kind, an index into Latencies.KINDS
    messages    received
    """

    updates: Number = 0
    programmed: Number = 0
    length: Number = 0
    idle: Number = 0
    spikes: Number = 0
    sent: Number = 0
    synops: Number = 0
    messages: Number = 0
    synapse: Array | int = 0


def loads_ns(work: Work, table: Latencies) -> dict[str, Times]:
    """(K, ...) time for which each resource of a core works: "neurons", "sending", "synapses", "messages"."""
    axes = max(np.ndim(count) for count in work)

    def of(duration: Times, count: Number) -> Times:
        """(K, ...) of a count of events; the durations are (K,), or (K, n) along the last axis of the count."""
        between = axes - (duration.ndim - 1)
        return duration.reshape(len(duration), *[1] * between, *duration.shape[1:]) * np.asarray(count)

    # no program is shorter than the visit that finds nothing to do
    program = np.maximum(
        np.multiply.outer(table.programmed, work.length), table.idle_neuron.reshape(-1, *[1] * np.ndim(work.length))
    )
    return {
        "neurons": of(table.neuron, work.updates)
        + of(program, work.programmed)
        + of(table.idle_neuron, work.idle)
        + of(table.spike_out, work.spikes),
        "sending": of(table.message_out, work.sent),
        "synapses": of(table.synop[:, work.synapse], work.synops),
        "messages": of(table.message_in, work.messages),
    }


def core_ns(loads: dict[str, Times]) -> Times:
    """How long a core works: its sweep, its sending, and its messages with their synapses go on side by side."""
    return np.maximum(np.maximum(loads["neurons"], loads["sending"]), loads["synapses"] + loads["messages"])


def pause_ns(swept: int, end: Times, table: Latencies) -> Times:
    """(K,) a sub-step: the fullest core visits its `swept` neurons and finds nothing to do, then the end of a step."""
    return swept * table.idle_neuron + end


def link_ns(table: Latencies, mapping: Mapping) -> Times:
    """(K,) the heaviest link's time for the messages of a step, on a chip or between chips.

    0 where the mapping has no such metrics.
    """
    on_chip = mapping.metrics.get("max_link_load", 0.0) * table.link
    return np.maximum(on_chip, mapping.metrics.get("max_chip_link_load", 0.0) * table.chip_link)


def barrier(table: Latencies, profile: Profile, mapping: Mapping) -> Times:
    """(K,) the end of a step, for the tiles and chips that the mapping uses."""
    rows, columns = np.divmod(np.unique(mapping.cores // mapping.cores_per_chip), int(profile.board.columns))
    return barrier_ns(table, tiles_used(profile, mapping), mapping.chips, float(np.ptp(rows) + np.ptp(columns)))


def barrier_before_placement(table: Latencies, profile: Profile, chips: int) -> Times:
    """(K,) the end of a step that `chips` chips take: as if they stood in a square, with all of their tiles in use."""
    tiles = int(profile.chip.tiles_x) * int(profile.chip.tiles_y)
    return barrier_ns(table, tiles, chips, float(2 * (np.sqrt(chips) - 1)))


def barrier_ns(table: Latencies, tiles: int, chips: int, diameter: float) -> Times:
    """(K,) the barrier: on a chip it grows with the tiles in use; a board adds a time for each hop across.

    tiles     in use on the chip that uses most of them
    diameter  hops from chip to chip between the two that are farthest apart
    """
    share = float(np.interp(tiles, TILES, SHARES))
    on_chip = (1 - share) * table.barrier_one_tile + share * table.barrier_chip
    if chips == 1:
        return on_chip
    return on_chip + table.barrier_board + diameter * table.barrier_chip_hop


def tiles_used(profile: Profile, mapping: Mapping) -> int:
    """Tiles in use on the chip that uses most of them."""
    chips, local = np.divmod(np.unique(mapping.cores), mapping.cores_per_chip)
    tiles = np.unique(np.stack([chips, local // int(profile.chip.cores_per_tile)]), axis=1)
    return int(np.bincount(tiles[0]).max())
