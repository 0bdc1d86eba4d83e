"""Words of 64 bits that a box of neurons needs in a core, section by section.

The rules for Loihi 2 are those that reproduce the rows printed by Intel's compiler (tests/mapping); what those rows do
not show is marked as a guess below.  All functions take box sizes as arrays, so that a search evaluates many at once.

    neurons   1 word a neuron (fitted); 2 where every channel has a threshold of its own, beyond the parameter sets;
              1 for each position of its window where it takes the largest, as messages only ever add up (guess)
              a fan-in that no core holds is split: partial sums go on as graded values (partition.py)
    syn_mem   shared weights: one list for each kernel position and input channel, of all output channels of the box
              (fitted); unit weights of pooling and identity: one word a kernel position and channel (guess)
    axon_in   2 words a convolution (fitted: 1 to 2); 1 for each channel that a readout or an attention reads (guess)
    axon_map  1 word a position where convolutions read the box, 1 a neuron where anything else does (fitted)
    state     1 word a token and channel where tokens come in series, to neurons that are one a channel (guess)
    axon_mem  1 word a destination core (guess; added after the partition, see route.py)

A token-serial population takes one axon a source channel, as messages say no position: they come in their token's turn.
It needs an entry of the axon map for each position only where a reader asks for positions (guess).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.profile import Core
from spikformer_deploy.network.mapping import SECTIONS, Site
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.neurons import Accumulator, Lif, Max, Source
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Synapse, Window

WORD = 64
CONV_AXON_WORDS = 2


@dataclass(frozen=True, slots=True, eq=False)
class BoxSizes:
    """Channels, rows and columns of boxes, broadcastable int64 arrays."""

    channels: Int
    rows: Int
    columns: Int

    @property
    def neurons(self) -> Int:
        """Neurons of each box."""
        return self.channels * self.rows * self.columns

    @property
    def positions(self) -> Int:
        """Positions of each box."""
        return self.rows * self.columns


def words(network: Network, site: Site, box: BoxSizes, core: Core) -> Int:
    """(..., 6) words in each section (mapping.SECTIONS) of boxes of `site`; axon_mem is 0 here."""
    if site.kind == "attention":
        axons, lists = _counters(network, site, box, core)
    else:
        axons, lists = np.zeros_like(box.neurons), np.zeros_like(box.neurons)
        for projection in network.into(site.population):
            more_axons, more_lists = _incoming(network, site, projection, box, core)
            axons, lists = axons + more_axons, lists + more_lists
    neurons = (box.channels if site.token_serial else box.neurons) * _words_a_neuron(network, site, core)
    state = box.neurons if site.token_serial else np.zeros_like(box.neurons)
    nothing = np.zeros_like(box.neurons)
    parts = np.broadcast_arrays(axons, neurons, lists, _axon_map(network, site, box), state, nothing)
    return np.stack(parts, -1)


def box_words(network: Network, sites: tuple[Site, ...], boxes: Int, core: Core) -> Int:
    """(slices, 6) words of the boxes of a mapping, (slices, 7); axon_mem is 0 here."""
    out = np.zeros((len(boxes), len(SECTIONS)), np.int64)
    for index, site in enumerate(sites):
        chosen = np.flatnonzero(boxes[:, 0] == index)
        edges = boxes[chosen][:, 1:].reshape(-1, 3, 2)
        channels, rows, columns = (edges[:, :, 1] - edges[:, :, 0]).T
        out[chosen] = words(network, site, BoxSizes(channels, rows, columns), core)
    return out


def list_words(targets: Int, bits: int, core: Core) -> Int:
    """Words of one synapse list: `bits` for each target and the header, rounded up to words."""
    return -(-(targets * bits + int(core.list_header_bits)) // WORD)


def _incoming(network: Network, site: Site, projection: Projection, box: BoxSizes, core: Core) -> tuple[Int, Int]:
    """(axon words, synapse words) of one projection into boxes of its target."""
    source = network[projection.sources[0]]
    bits = network.weight_bits + int(core.index_bits)
    match projection.synapse:
        case Conv(weight=weight, groups=groups):
            inside = len(weight) // groups
            touched = np.minimum(groups, -(-box.channels // inside) + (groups > 1))
            first, end = site.channels(weight.shape[1])
            lists = (end - first) * weight.shape[2] * weight.shape[3] * touched
            # where the fan-in is split, the last part also takes the sums of the others, channel by channel
            gathered = box.channels if site.kind == "population" and first else 0 * box.channels
            lengths = list_words(np.minimum(box.channels, inside), bits, core)
            axons = lists if site.token_serial else np.full_like(box.neurons, CONV_AXON_WORDS)
            return axons + gathered, lists * lengths + gathered
        case Window(kernel=kernel):
            # a window that is wider than its source (a mask for all tokens) has no more offsets than the box lets it
            rows = np.minimum(kernel[0], box.rows + source.shape[1] - 1)
            columns = np.minimum(kernel[1], box.columns + source.shape[2] - 1)
            axons = box.channels + 0 * box.neurons if site.token_serial else np.full_like(box.neurons, CONV_AXON_WORDS)
            return axons, box.channels * rows * columns
        case Readout():
            channels = np.full_like(box.neurons, source.shape[0])
            return channels, channels * list_words(box.channels, bits, core)
        case Attention():
            return box.channels + 0 * box.neurons, box.channels + 0 * box.neurons
        case _:
            assert_never(projection.synapse)


def _counters(network: Network, site: Site, box: BoxSizes, core: Core) -> tuple[Int, Int]:
    """Axons and lists of attention counters: one operand reaches rows, one columns, the third replays rows.

    tokens in series: rows are channels of k (and of the replayed q), columns channels of v within the head
    channels in series: rows are tokens of q (and of the replayed v), columns tokens of k
    """
    bits = network.weight_bits + int(core.index_bits)
    if site.serial == "tokens":
        depth = site.shape[2]
        rows, heads = box.channels, -(-box.channels // depth) + 1
        across, along = np.minimum(box.channels, depth), box.columns
    else:
        rows, heads = box.channels * box.rows, box.channels
        across, along = box.rows, box.columns
    axons = 2 * rows + heads * box.columns
    return axons, 2 * rows * list_words(along, bits, core) + heads * box.columns * list_words(across, bits, core)


def _words_a_neuron(network: Network, site: Site, core: Core) -> int:
    neuron = network[site.population].neuron
    if isinstance(neuron, Max):
        (window,) = (p.synapse for p in network.into(site.population) if isinstance(p.synapse, Window))
        return window.kernel[0] * window.kernel[1]
    own = isinstance(neuron, Lif) and len(np.unique(neuron.threshold)) > int(core.parameter_sets)
    return 2 if own and site.kind == "population" else 1


def _axon_map(network: Network, site: Site, box: BoxSizes) -> Int:
    serial = token_wise(network) if site.token_serial else {}
    if site.kind != "population":
        return box.channels + 0 * box.neurons if site.token_serial else box.neurons
    total = np.zeros_like(box.neurons)
    for projection in network.out_of(site.population):
        shared = isinstance(projection.synapse, (Conv, Window))
        in_turn = projection.target in serial and (shared or site.serial == "tokens")
        total = total + (box.channels if in_turn else box.positions if shared else box.neurons)
    return total


def token_wise(network: Network) -> dict[str, int]:
    """The tokens of each population of a block that may take them in series: every projection looks at its own position
    alone, or is an attention, and there are as many positions as an attention of the network has tokens.
    """
    attentions = [p for p in network.projections if isinstance(p.synapse, Attention)]
    grids = {network[p.target].shape[1:] for p in attentions}
    return {
        population.name: population.shape[1] * population.shape[2]
        for population in network
        if population.shape[1:] in grids and not isinstance(population.neuron, Source | Accumulator)
        if all(_own_position(projection.synapse) for projection in network.into(population.name))
    }


def _own_position(synapse: Synapse) -> bool:
    match synapse:
        case Conv(weight=weight, stride=stride, padding=padding):
            return (weight.shape[2:], stride, padding) == ((1, 1), (1, 1), (0, 0))
        case Window(kernel=kernel, stride=stride, padding=padding):
            return (kernel, stride, padding) == ((1, 1), (1, 1), (0, 0))
        case Readout():
            return False
        case Attention():
            return True
        case _:
            assert_never(synapse)
