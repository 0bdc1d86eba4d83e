"""Words of 64 bits that a box of neurons needs in a core, section by section.

The rules for Loihi 2 are those that reproduce the rows printed by Intel's compiler (tests/mapping); what those rows do
not show is marked as a guess below.  All functions take box sizes as arrays, so that a search evaluates many at once.

    neurons   1 word a neuron (fitted); 2 where every channel has a threshold of its own, beyond the parameter sets;
              of Levels beyond the parameter sets, D words a channel for its levels, and one for its reset (guess);
              1 for each position of its window where it takes the largest, as messages only add up (guess)
              a fan-in that no core holds is split: partial sums go on as graded values (partition.py)
    syn_mem   shared weights: one list for each kernel position and input channel, of all output channels of the box
              (fitted); unit weights of pooling and identity: one word a kernel position and channel (guess)
    axon_in   2 words a convolution (fitted: 1 to 2); 1 for each channel that a readout or an attention reads (guess);
              of a product of currents and spikes 1 for each channel of the box, and 2 (guess)
    axon_map  1 word a position where convolutions read the box, 1 a neuron where anything else does (fitted)
    state     1 word a token and channel where tokens come in series, to neurons that are one a channel (guess);
              none of Levels that keep nothing
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
from spikformer_deploy.network.heads import Factors, factors_of, heads_into
from spikformer_deploy.network.mapping import SECTIONS, SITE, Site, sizes_of
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.neurons import Accumulator, Levels, Lif, Max, Source
from spikformer_deploy.network.reach import axes_of, groups_met, most_taps
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Synapse, Window

WORD = 64
"""Bits of a word."""
CONV_AXON_WORDS = 2
"""Axon words of a convolution or a window, however many lists it has."""


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

    def each(self, value: Int | int) -> Int:
        """`value` for each of the boxes."""
        return value + np.zeros_like(self.neurons)


def words(network: Network, site: Site, box: BoxSizes, core: Core) -> Int:
    """(..., 6) words in each section (network.mapping.SECTIONS) of boxes of `site`; axon_mem is 0 here."""
    if site.kind == "attention":
        axons, lists = _counters(network, site, box, core)
    else:
        axons = box.each(0)
        lists = box.each(0)
        for projection in network.into(site.population):
            more_axons, more_lists = _incoming(network, site, projection, box, core)
            axons = axons + more_axons
            lists = lists + more_lists
    served = box.channels if site.token_serial else box.neurons
    sections = {
        "axon_in": axons,
        "neurons": served * _words_a_neuron(network, site, core) + box.channels * _words_a_channel(network, site, core),
        "syn_mem": lists,
        "axon_map": _axon_map(network, site, box),
        "state": box.neurons if site.token_serial and _keeps_words(network, site) else box.each(0),
        "axon_mem": box.each(0),
    }
    return np.stack(np.broadcast_arrays(*(sections[name] for name in SECTIONS)), -1)


def box_words(network: Network, sites: tuple[Site, ...], boxes: Int, core: Core) -> Int:
    """(slices, 6) words of the boxes of a mapping, (slices, 7); axon_mem is 0 here."""
    out = np.zeros((len(boxes), len(SECTIONS)), np.int64)
    for index, site in enumerate(sites):
        chosen = np.flatnonzero(boxes[:, SITE] == index)
        out[chosen] = words(network, site, BoxSizes(*sizes_of(boxes[chosen]).T), core)
    return out


def list_words(targets: Int, bits: int, core: Core) -> Int:
    """Words of one synapse list: `bits` for each target and the header, rounded up to words."""
    return -(-(targets * bits + int(core.list_header_bits)) // WORD)


def _synapse_bits(network: Network, projection: Projection, core: Core) -> int:
    """Of a synapse in a list of any kind."""
    return network.bits_of(projection) + int(core.index_bits)


def _incoming(network: Network, site: Site, projection: Projection, box: BoxSizes, core: Core) -> tuple[Int, Int]:
    """(axon words, synapse words) of one projection into boxes of its target."""
    source = network[projection.sources[0]].shape
    match projection.synapse:
        case Conv() as conv:
            return _convolution(site, conv, box, _synapse_bits(network, projection, core), core)
        case Window() as window:
            rows, columns = axes_of(window, source)
            # Counted as if the stride were 1: too few taps for a strided window that is wider than its source.  Words
            # are stored in programs and checked when they load, so the count stays.
            taps = most_taps(box.rows, rows._replace(stride=1), source[1])
            taps = taps * most_taps(box.columns, columns._replace(stride=1), source[2])
            return box.each(box.channels if site.token_serial else CONV_AXON_WORDS), box.channels * taps
        case Readout():
            channels = box.each(source[0])
            return channels, channels * list_words(box.channels, _synapse_bits(network, projection, core), core)
        case Attention():
            return box.each(box.channels), box.each(box.channels)
        case DualSpike():
            return _products(factors_of(network, projection), box, _synapse_bits(network, projection, core), core)
        case _:
            assert_never(projection.synapse)


def _convolution(site: Site, conv: Conv, box: BoxSizes, bits: int, core: Core) -> tuple[Int, Int]:
    """(axon words, synapse words): a list for each tap and source channel, of the output channels of the box."""
    outputs, inputs, rows, columns = conv.weight.shape
    per_group = outputs // conv.groups
    # a box that does not begin where a group begins meets one more
    groups = np.minimum(conv.groups, groups_met(box.channels, per_group) + (conv.groups > 1))
    first, end = site.channels(inputs)
    lists = (end - first) * rows * columns * groups
    # where the fan-in is split, the last part also takes the sums of the others, channel by channel
    gathered = box.channels if site.kind == "population" and first else box.each(0)
    axons = lists if site.token_serial else box.each(CONV_AXON_WORDS)
    return axons + gathered, lists * list_words(np.minimum(box.channels, per_group), bits, core) + gathered


def _products(factors: Factors, box: BoxSizes, bits: int, core: Core) -> tuple[Int, Int]:
    """(axon words, synapse words) of a dual spike transformation: one pair of factors is served at a time.

    A current has an axon for each channel of the box, with a list over its positions; spikes have lists over the
    channels of their head, as a 1x1 convolution has (guess).
    """
    heads = np.minimum(factors.heads, groups_met(box.channels, factors.reached) + (factors.heads > 1))
    of_spikes = heads * list_words(np.minimum(box.channels, factors.reached), bits, core)
    return box.channels + CONV_AXON_WORDS, box.channels * list_words(box.positions, bits, core) + of_spikes


def _counters(network: Network, site: Site, box: BoxSizes, core: Core) -> tuple[Int, Int]:
    """Axons and lists of attention counters: one operand reaches rows, one columns, the third replays rows.

    tokens in series: rows are channels of k (and of the replayed q), columns channels of v within the head
    channels in series: rows are tokens of q (and of the replayed v), columns tokens of k
    """
    (attention,) = (p for p in network.into(site.population) if isinstance(p.synapse, Attention))
    bits = _synapse_bits(network, attention, core)
    if site.serial == "tokens":
        depth = heads_into(network, site.population).depth
        rows = box.channels
        heads = groups_met(box.channels, depth) + 1  # a box may begin within a head
        rows_of_head = np.minimum(box.channels, depth)
    else:
        rows = box.channels * box.rows
        heads = box.channels
        rows_of_head = box.rows
    # two operands have an axon for each row, with a list over its columns; one for each column, with a list over rows
    axons = 2 * rows + heads * box.columns
    along_rows = 2 * rows * list_words(box.columns, bits, core)
    along_columns = heads * box.columns * list_words(rows_of_head, bits, core)
    # copies send sums to each other's counters, channel by channel, as the parts of a split fan-in do
    gathered = box.channels * (site.copies > 1)
    return axons + gathered, along_rows + along_columns + gathered


def _words_a_neuron(network: Network, site: Site, core: Core) -> int:
    """Words of the section `neurons` that each neuron or counter of a site takes."""
    neuron = network[site.population].neuron
    if isinstance(neuron, Max):
        (window,) = (p.synapse for p in network.into(site.population) if isinstance(p.synapse, Window))
        return window.kernel[0] * window.kernel[1]
    # thresholds that parameter sets cannot share stand beside each neuron; partial sums have no threshold
    unshared = isinstance(neuron, Lif) and len(np.unique(neuron.threshold)) > int(core.parameter_sets)
    return 2 if unshared and site.kind == "population" else 1


def _words_a_channel(network: Network, site: Site, core: Core) -> int:
    """Words of the same section for what the neurons of a channel have in common: levels beyond the parameter sets."""
    neuron = network[site.population].neuron
    if not isinstance(neuron, Levels) or site.kind != "population":
        return 0
    own = np.concatenate([neuron.levels, neuron.reset[:, None]], 1)
    if len(np.unique(own, axis=0)) <= int(core.parameter_sets):
        return 0
    return neuron.count + (neuron.decay > 0)


def _keeps_words(network: Network, site: Site) -> bool:
    """Whether the neurons of a token-serial site have a word for each token: all but Levels that keep nothing."""
    neuron = network[site.population].neuron
    return not (isinstance(neuron, Levels) and neuron.decay == 0 and site.kind == "population")


def _axon_map(network: Network, site: Site, box: BoxSizes) -> Int:
    """Entries that lead from neurons to axons, a word each."""
    if site.kind != "population":
        return box.each(box.channels) if site.token_serial else box.neurons
    serial = token_wise(network) if site.token_serial else {}
    total = box.each(0)
    for projection in network.out_of(site.population):
        shared = isinstance(projection.synapse, (Conv, Window))
        # a reader in the same series of tokens needs no position; counters with channels in series do
        if projection.target in serial and (shared or site.serial == "tokens"):
            total = total + box.channels
        else:
            total = total + (box.positions if shared else box.neurons)
    return total


def token_wise(network: Network) -> dict[str, int]:
    """The tokens of each population of a block that may take them in series, by name.

    Every projection into it looks at its own position only, or is an attention, and it has as many positions as an
    attention of the network has tokens.
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
    """Whether each target reads only the position at which it stands itself; an attention takes tokens in turn."""
    match synapse:
        case Conv(weight=weight, stride=stride, padding=padding):
            return (weight.shape[2:], stride, padding) == ((1, 1), (1, 1), (0, 0))
        case Window(kernel, stride, padding, offset):
            return (kernel, stride, padding, offset) == ((1, 1), (1, 1), (0, 0), (0, 0))
        case Readout():
            return False
        case Attention():
            return True
        case DualSpike():
            return False
        case _:
            assert_never(synapse)
