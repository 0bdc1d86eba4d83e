"""Energy from operation counts and the cost of one operation in 45 nm: the conventions of papers and tools.

They differ by what they call an operation and by what they leave out; so each figure carries its convention's name.
All constants are those of hw_profiles/asic45nm.toml (Horowitz, ISSCC 2014, unless it says otherwise).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.uncertainty import Energy, Part, priced
from spikformer_deploy.chips.profile import operation_energies
from spikformer_deploy.chips.quantity import Quantity
from spikformer_deploy.counts.dense import dense_macs
from spikformer_deploy.counts.events import Events, ProjectionEvents
from spikformer_deploy.network.heads import heads_of
from spikformer_deploy.network.network import Network, Projection, graded_spikes
from spikformer_deploy.network.neurons import Source
from spikformer_deploy.network.synapses import Attention

WORD_BITS = 64
"""Width of the words that the memory energies of asic45nm.toml are for."""
ANN_BITS = 8
"""Of the weights and activations of the ANN that the memory-aware convention compares with."""


ARITHMETIC = "arithmetic"
MEMORY = "arithmetic and memory"
PRODUCTS = ("attention", "dualspike")
"""Kinds of projections that multiply messages with messages: what they add up are their `products`."""
"""Boundaries of these conventions: each has one."""


@cache
def _cost(operation: str) -> Quantity:
    """Energy in pJ of one operation in 45 nm, by its name in asic45nm.toml."""
    return operation_energies()[operation]


def _costs(name: str, count: float, operation: str, boundary: str, factor: float = 1.0) -> Part:
    """`count` operations an image, each at factor * the energy of one in 45 nm."""
    return priced(name, count, f"asic45nm.{operation}", _cost(operation), boundary, factor)


# --- arithmetic only -----------------------------------------------------------------------------------------------


def paper(macs: float, sops: float, name: str = "spikformer-paper") -> Energy:
    """4.6 pJ for each MAC of the first convolution, 0.9 pJ for each synaptic operation of all other layers.

    macs, sops  an image, over all T steps
    Source: Zhou et al. 2023 (Spikformer), App. C.2.
    """
    parts = (*mac_parts("first convolution", macs, "fp32_multiply", "fp32_add"), ac_part("SOPs of the paper", sops))
    boundary = "Arithmetic in 45 nm fp32; no memory, no neurons, no messages, no static power."
    return Energy(name, {ARITHMETIC: boundary}, ARITHMETIC, parts)


def syops(events: Events) -> Energy:
    """As the paper, but a layer that reads values other than 0 and 1 counts all its MACs in every step.

    That is the rule of syops-counter and of Spikingformer's energy tool: the integer residual stream of Spikformer
    makes MAC layers of those that read it; the head reads a mean, and once.  (The 12.43, 18.82 and 32.07 mJ that
    Spikingformer prints for V1 cannot be derived from what is published: they need the firing rate of every layer.)
    """
    head = sum(p.dense for p in events.projections if p.kind == "readout")
    layers = [p for p in events.projections if p.kind in ("conv", *PRODUCTS)]
    macs = sum(p.dense for p in layers if p.graded) * events.time_steps + head
    sops = sum(int(additions(p).sum()) for p in layers if not p.graded) / events.images
    parts = (
        *mac_parts("layers that read graded values", macs, "fp32_multiply", "fp32_add"),
        ac_part("layers that read binary spikes", sops),
    )
    boundary = "Arithmetic in 45 nm fp32, layers with graded inputs dense; no memory, neurons, messages, static power."
    return Energy("syops", {ARITHMETIC: boundary}, ARITHMETIC, parts)


def ann(macs: float, number: str) -> Energy:
    """The ANN that one would run instead: one pass, no time steps, every MAC dense.  number "fp32" | "int8"."""
    adder = "fp32_add" if number == "fp32" else "int32_add"
    parts = mac_parts("all layers", macs, f"{number}_multiply", adder)
    boundary = f"Arithmetic in 45 nm {number} of the same layers in one dense pass, attention as (q k^T) v; no memory, "
    boundary += "no static power."
    return Energy(f"ann-equivalent-{number}", {ARITHMETIC: boundary}, ARITHMETIC, parts)


def mac_parts(name: str, count: float, multiply: str, add: str, boundary: str = ARITHMETIC) -> tuple[Part, Part]:
    """`count` multiply-accumulates an image: multiplications and additions, by their names in asic45nm.toml."""
    return (
        _costs(f"{name}: multiplications", count, multiply, boundary),
        _costs(f"{name}: additions", count, add, boundary),
    )


def ac_part(name: str, count: float) -> Part:
    """`count` additions in fp32 an image."""
    return _costs(name, count, "fp32_add", ARITHMETIC)


def memory_part(name: str, count: float) -> Part:
    """`count` bytes that are read or written an image."""
    return _costs(name, count, "memory_byte", MEMORY)


# --- with memory -----------------------------------------------------------------------------------------------------


def memory_aware(network: Network, events: Events) -> Energy:
    """Integer arithmetic and every access to on-chip memory, weights and states resident.

    A synaptic operation reads its weight and reads and writes its neuron's sum (32 KB banks); an update reads and
    writes the state (8 KB banks); a message is written and read once, a word each.
    """
    images = events.images
    projections = events.projections
    # (synaptic operations, bits of the weight that each reads)
    pairs = zip(projections, network.projections, strict=True)
    reads = [(int(p.synops.sum()), network.bits_of(of)) for p, of in pairs if p.kind in ("conv", "readout")]
    read = sum(count for count, _ in reads)
    width = sum(count * bits for count, bits in reads) / max(1, read)
    operations = sum(int(additions(p).sum()) for p in projections) / images
    graded = [p for p in projections if p.graded]
    # of two numbers, each addition of a product is a multiplication as well
    products = sum(int((p.products if p.kind in PRODUCTS else p.synops).sum()) for p in graded if p.kind != "window")
    updates = sum(int(p.updates.sum()) for p in events.populations.values()) / images
    messages = sum(int(p.spikes.sum()) for p in events.populations.values()) / images
    # a state is narrower than a word: several share one, and each is read and written
    state = 2 * network.state_bits / WORD_BITS
    parts = (
        _costs("multiplications of graded values", products / images, "int8_multiply", MEMORY),
        _costs("additions", operations, "int32_add", MEMORY),
        _costs("weight reads", read / images, "sram_32kb", MEMORY, width / WORD_BITS),
        _costs("sums read and written", operations, "sram_32kb", MEMORY, state),
        _costs("neuron updates", updates, "int32_add", MEMORY),
        _costs("states read and written", updates, "sram_8kb", MEMORY, state),
        _costs("messages written and read", messages, "sram_8kb", MEMORY, 2),
    )
    boundary = "Integer arithmetic and on-chip SRAM in 45 nm; no network on chip, no DRAM, no static power."
    return Energy("memory-aware", {MEMORY: boundary}, MEMORY, parts)


def memory_aware_ann(network: Network) -> Energy:
    """The int8 ANN with the same memories: a MAC reads a weight and an activation, an output is written once."""
    macs = ann_macs(network)
    outputs = sum(p.size for p in network)
    share = ANN_BITS / WORD_BITS
    parts = (
        *mac_parts("all layers", macs, "int8_multiply", "int32_add", MEMORY),
        _costs("weight reads", macs, "sram_32kb", MEMORY, share),
        _costs("activation reads", macs, "sram_32kb", MEMORY, share),
        _costs("outputs written", outputs, "sram_32kb", MEMORY, share),
    )
    boundary = "Integer arithmetic and on-chip SRAM in 45 nm, sums in registers, no reuse of operands; no DRAM."
    return Energy("memory-aware-ann-int8", {MEMORY: boundary}, MEMORY, parts)


# --- counts ----------------------------------------------------------------------------------------------------------


def first_macs(network: Network) -> int:
    """MACs of the layers that read the image, in all T steps of an image (so the papers count them)."""
    return sum(dense_macs(network, p) for p in network.projections if _reads_image(network, p)) * network.time_steps


def exact_sops(network: Network, events: Events) -> float:
    """Synaptic operations an image of all layers behind the first, spike by spike, borders exact.

    A message that is a number of spikes counts as that many, as in papers that multiply FLOPs by the mean of what is
    sent.  As in the paper, pooling and residual sums are no operations; an attention counts its products.
    """
    behind = _behind(network, events)
    return sum(int((p.slot_products if p.kind in PRODUCTS else p.slots).sum()) for p in behind) / events.images


def message_sops(network: Network, events: Events) -> float:
    """The same where a message is one operation a synapse, whatever it carries, as on a chip with graded messages."""
    return sum(int(additions(p).sum()) for p in _behind(network, events)) / events.images


def beyond_sops(network: Network, events: Events) -> dict[str, float]:
    """What the synaptic operations of a chip have more (or less) an image than the paper's SOPs, by the reason.

    The values add up to Events.synops - exact_sops.
    """
    names = ("first layer", "pooling and residual sums", "attention", "numbers of spikes", "partial sums")
    total = dict.fromkeys(names, 0)
    behind = {id(p) for p in _behind(network, events)}
    for p in events.projections:
        arriving = int((p.synops + p.delivered).sum())
        if p.kind == "window":
            total["pooling and residual sums"] += arriving
        elif id(p) not in behind:
            total["first layer"] += arriving
        elif p.kind in PRODUCTS:
            total["attention"] += arriving - int(p.products.sum())
            total["numbers of spikes"] -= int((p.slot_products - p.products).sum())
        else:
            total["numbers of spikes"] -= int(p.slots.sum()) - arriving
    total["partial sums"] = sum(int(p.gathered.sum()) for p in events.populations.values())
    return {name: count / events.images for name, count in total.items() if count}


def approximate_sops(network: Network, events: Events) -> float:
    """The paper's approximation of the same: sum over layers of fr * T * FLOPs, fr the mean value of an input element.

    It takes borders for interior, a graded spike for as many spikes as its value, and the head to read pooled spikes.
    Currents have no such value: each that is not zero counts as a spike.
    """
    graded = graded_spikes(network)
    total = 0.0
    for p in _behind(network, events):
        if p.kind in PRODUCTS:
            total += int(p.slot_products.sum()) / events.images
        else:
            source = p.sources[0]
            sent = events.populations[source]
            values = int((sent.values if source in graded else sent.spikes).sum())
            total += values / (network[source].size * events.images) * p.dense
    return total


def ann_macs(network: Network) -> int:
    """MACs of the network as an ANN in one pass: layers dense, attention as q k^T and A v (softmax fixes the order)."""
    total = 0
    for p in network.projections:
        if isinstance(p.synapse, Attention):
            heads = heads_of(network, p)
            # every token with every other, once for the scores and once for the values
            total += heads.heads * heads.tokens**2 * (heads.depth + heads.width)
        else:
            total += dense_macs(network, p)
    return total


def additions(projection: ProjectionEvents) -> NDArray[np.int64]:
    """(T,) additions of an engine that skips zeros: an attention's `products`, else the synaptic operations."""
    return projection.products if projection.kind in PRODUCTS else projection.synops


def _behind(network: Network, events: Events) -> list[ProjectionEvents]:
    """The projections that the paper counts as synaptic operations."""
    return [p for p in events.projections if p.kind != "window" and not _reads_image(network, p)]


def _reads_image(network: Network, projection: Projection | ProjectionEvents) -> bool:
    return isinstance(network[projection.sources[0]].neuron, Source)
