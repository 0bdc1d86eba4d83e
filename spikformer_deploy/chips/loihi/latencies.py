"""The durations of a profile as arrays of three corners: every number at its low end, its value, its high end.

The one table of durations.  What a step takes is computed from it in steps.py, before and after placement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.chips.quantity import Quantity

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
    """

    KINDS: ClassVar[tuple[str, ...]] = ("convolution", "dense", "sparse")

    neuron: Times
    idle_neuron: Times
    spike_out: Times
    synop: Times
    message_in: Times


def latencies(profile: Profile) -> Latencies:
    """The durations of `profile`."""
    time = profile.time
    synapses = (time.synapse_conv, time.synapse_dense, time.synapse_sparse)
    return Latencies(
        neuron=corners(time.neuron_update),
        idle_neuron=corners(time.neuron_idle),
        spike_out=corners(time.spike_out),
        synop=np.stack([corners(quantity) for quantity in synapses], 1),
        message_in=corners(time.axon_in),
    )


def corners(quantity: Quantity) -> Times:
    """(3,) low, nominal, high."""
    return np.array([quantity.low, quantity.value, quantity.high], np.float64)
