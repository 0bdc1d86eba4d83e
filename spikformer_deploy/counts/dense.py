"""What the counts say of a projection whatever is sent: its kind, and its multiply-accumulates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.network.heads import factors_of, heads_of
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.neurons import And
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window


class Described(NamedTuple):
    """Fields of ProjectionEvents that no image changes."""

    kind: str
    graded: bool
    dense: int


def described(network: Network, projection: Projection) -> Described:
    """What the events of a projection say of it."""
    return Described(
        kind="window" if only_compares(network, projection) else type(projection.synapse).__name__.lower(),
        graded=any(network[source].max_out > 1 for source in projection.sources),
        dense=dense_macs(network, projection),
    )


def dense_macs(network: Network, projection: Projection) -> int:
    """Multiply-accumulates of one image and step where nothing is skipped, as papers count them.

    Zero padding is included; of an attention both products in the cheaper order; a readout works on the pooled map;
    windows (pooling, residual sums) multiply nothing.
    """
    if only_compares(network, projection):
        return 0
    _, height, width = network[projection.target].shape
    positions = height * width
    match projection.synapse:
        case Conv(weight=weight):
            return weight.size * positions
        case Readout(weight=weight):
            return weight.size
        case Attention():
            heads = heads_of(network, projection)
            kv_first = 2 * heads.depth * heads.width
            return heads.heads * positions * min(kv_first, positions * (heads.depth + heads.width))
        case DualSpike():
            return factors_of(network, projection).dense
        case Window():
            return 0
        case _:
            assert_never(projection.synapse)


def only_compares(network: Network, projection: Projection) -> bool:
    """Whether a convolution of ones and zeros leads to neurons that fire where any spike arrives: a pool of spikes."""
    neuron = network[projection.target].neuron
    if not (isinstance(projection.synapse, Conv) and isinstance(neuron, And) and neuron.inputs == 1):
        return False
    return bool(np.isin(projection.synapse.weight, (0, 1)).all())
