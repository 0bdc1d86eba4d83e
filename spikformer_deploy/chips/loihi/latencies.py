"""The durations of a profile as arrays over points of their ranges (chips/draws.py): three corners, or many draws.

The one table of durations.  What a step takes is computed from it in steps.py, before and after placement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips import draws
from spikformer_deploy.chips.draws import Points
from spikformer_deploy.chips.profile import Profile

Times: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Latencies:
    """Durations in ns, (K,) each, K points.

    neuron              a fixed-function neuron's update in the sweep
    programmed          a microcoded neuron's, with the reference program of microcode.py
    idle_neuron         a visit that finds nothing to do
    spike_out           added where the neuron fires
    synop               (K, kinds) one synaptic operation, by the kinds of KINDS
    message_out         one message at the core that sends it
    message_in          one message at the core that receives it
    link, chip_link     one message on a link of the mesh, and on one between chips
    barrier_...         the end of a step: see steps.barrier
    runtime             what every chip-wide step costs besides
    """

    KINDS: ClassVar[tuple[str, ...]] = ("convolution", "dense", "sparse")

    neuron: Times
    programmed: Times
    idle_neuron: Times
    spike_out: Times
    synop: Times
    message_out: Times
    message_in: Times
    link: Times
    chip_link: Times
    barrier_one_tile: Times
    barrier_chip: Times
    barrier_board: Times
    barrier_chip_hop: Times
    runtime: Times


def latencies(profile: Profile, points: Points = draws.corners) -> Latencies:
    """The durations of `profile` at `points`."""

    def of(name: str) -> Times:
        return draws.values(f"time.{name}", getattr(profile.time, name), points)

    return Latencies(
        neuron=of("neuron_update"),
        programmed=of("neuron_programmable"),
        idle_neuron=of("neuron_idle"),
        spike_out=of("spike_out"),
        synop=np.stack([of("synapse_conv"), of("synapse_dense"), of("synapse_sparse")], 1),
        message_out=of("axon_out"),
        message_in=of("axon_in"),
        link=1 / of("link_rate"),
        chip_link=1 / of("chip_link_rate"),
        barrier_one_tile=of("barrier_one_tile"),
        barrier_chip=of("barrier_chip"),
        barrier_board=of("barrier_board"),
        barrier_chip_hop=of("barrier_chip_hop"),
        runtime=of("step_runtime"),
    )
