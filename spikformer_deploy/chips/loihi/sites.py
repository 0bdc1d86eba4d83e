"""What a site is to the clock of a chip: the kind of its synapses, and how long the program of its neurons is.

Said once: for the objective of the mapping and for the models of time.
"""

from __future__ import annotations

from spikformer_deploy.chips.loihi.latencies import Latencies
from spikformer_deploy.chips.loihi.microcode import RELAY, Program, counter_program, product_program, program_of
from spikformer_deploy.chips.profile import Core
from spikformer_deploy.network.heads import heads_into
from spikformer_deploy.network.mapping import OPERANDS, Site
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Conv, DualSpike, Readout, Window


def synapse_kind(network: Network, site: Site) -> int:
    """The kind of the synapses that a site receives on, an index into Latencies.KINDS.

    A core has one kind: that of the weights, where a convolution and unit synapses meet, as they are the most.
    """
    kinds = {type(projection.synapse) for projection in network.into(site.population)}
    if site.kind == "attention":
        # a counter has a synapse of its own for every pair, as a full matrix has
        kind = "dense"
    elif DualSpike in kinds:
        # lists over a whole box, or over a head
        kind = "dense"
    elif Conv in kinds or not kinds:
        kind = "convolution"
    else:
        kind = "dense" if kinds == {Readout} else "sparse"
    return Latencies.KINDS.index(kind)


def program_at(network: Network, site: Site, core: Core) -> Program | None:
    """The program of its neurons; None: they are fixed-function neurons."""
    if not core.programmable.value:
        return None
    if site.kind == "attention":
        return counter_program(max(heads_into(network, site.population).most), site.copies)
    if site.kind == "partial":
        return RELAY
    neuron = network[site.population].neuron
    if site.serial == OPERANDS:
        return product_program(neuron)
    # of all kinds only one that takes the largest of a window depends on its synapses
    windows = [p.synapse for p in network.into(site.population) if isinstance(p.synapse, Window)]
    return program_of(neuron, max((window.kernel[0] * window.kernel[1] for window in windows), default=0))


def program_length(network: Network, site: Site, core: Core) -> float:
    """Length of that program in units of the reference program; 0: they are fixed-function neurons."""
    program = program_at(network, site, core)
    return 0.0 if program is None else program.share
