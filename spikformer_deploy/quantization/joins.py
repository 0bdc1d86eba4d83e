"""Where signals meet: sums, joined branches, masks, attention and products of currents and spikes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import ir
from spikformer_deploy.network.bounds import dual_sums
from spikformer_deploy.network.network import Projection
from spikformer_deploy.network.neurons import And, Sum
from spikformer_deploy.network.synapses import Conv, DualSpike, Window
from spikformer_deploy.quantization.currents import AttentionTerm, Current, DualTerm, Value, add, as_current, joined
from spikformer_deploy.quantization.signals import Signal, sent_by
from spikformer_deploy.quantization.walk import Walk


def residual(walk: Walk, node: ir.Node, left: Value, right: Value) -> Value:
    """Signals of one scale make a graded sum, or stay apart on a binary target; anything else adds as currents."""
    if not (isinstance(left, Signal) and isinstance(right, Signal)) or left.pooled or right.pooled:
        return add(node.name, left, right)
    if not np.array_equal(left.scale, right.scale) or np.any(left.offset) or np.any(right.offset):
        return add(node.name, left, right)
    sent = sent_by(node, [left, right], walk.settings.weight_bits)
    if walk.limits.message_bits == 1:
        # Nothing can send the sum: what reads it gets both, with the same weights.
        return replace(left, populations=left.populations + right.populations, max_out=sent.max_out)
    return place_sum(walk, sent, [(left, Window()), (right, Window())])


def place_sum(walk: Walk, sent: Signal, parts: Sequence[tuple[Signal, Window]]) -> Signal:
    """The population that sends `sent`: the sum of `parts`, each a signal seen through a window."""
    (name,) = sent.populations
    if sent.max_out >= 2**walk.limits.message_bits:
        problem = f"graded spikes up to {sent.max_out}, and the target sends {walk.limits.message_bits} bits a message"
        raise QuantizeError(name, problem, "Use a target with wider graded spikes.")
    projections = tuple(
        Projection((population,), name, window) for signal, window in parts for population in signal.populations
    )
    if any(walk.population(projection.sources[0]).signed for projection in projections):
        # Signed messages can only be read by neurons that add with sign, even where none of them is negative.
        return walk.place_relay(sent, projections, name, f"its sums reach {sent.max_out}")
    return walk.place_neurons(sent, Sum(), *projections)


def concatenated(walk: Walk, node: ir.Node, values: Sequence[Value]) -> Value:
    """Branches that are needed in one piece: their spikes repeated by one population, or one current."""
    signals = [value for value in values if isinstance(value, Signal)]
    if len(signals) < len(values) or not all(_is_plain(signal) for signal in signals):
        return joined(node.name, [as_current(node.name, value) for value in values], node.shape)
    projections: list[Projection] = []
    first = 0
    for signal in signals:
        channels = signal.shape[0]
        # ones on a diagonal that starts at the branch's first channel
        identity = np.eye(node.shape[0], channels, -first, np.int8).reshape(-1, channels, 1, 1)
        conv = Conv(frozen(identity, np.int8))
        projections += [Projection((population,), node.name, conv) for population in signal.populations]
        first += channels
    sent = sent_by(node, signals, walk.settings.weight_bits)
    return walk.place_relay(sent, tuple(projections), node.name, f"it joins branches of values up to {sent.max_out}")


def _is_plain(signal: Signal) -> bool:
    """Whether a signal is unsigned integers times a scale, and nothing else."""
    return not (signal.pooled or signal.low is not None or np.any(signal.offset))


def masked(walk: Walk, node: ir.Node, signal: Signal, mask: Signal) -> Signal:
    """Spikes that a mask lets pass: a neuron fires where both fire.  What spreads the mask has unit synapses."""
    for part in (signal, mask):
        if len(part.populations) != 1 or part.max_out != 1 or np.any(part.offset) or part.pooled:
            raise QuantizeError(node.name, "a mask of something else than single spikes", "Mask the spikes of one LIF.")
    projections = (
        Projection(signal.populations, node.name, Window()),
        Projection(mask.populations, node.name, _spread(node, mask)),
    )
    return walk.place_neurons(sent_by(node, [signal, mask], walk.settings.weight_bits), And(2), *projections)


def _spread(node: ir.Node, mask: Signal) -> Window | Conv:
    """Synapses that bring a mask to every neuron that it is for."""
    channels, height, width = node.shape
    masks, *positions = mask.shape
    if masks < channels and positions == [height, width]:
        # one channel of the mask for several consecutive channels
        return Conv(frozen(np.ones((channels, 1, 1, 1), np.int8), np.int8), groups=masks)
    if masks == channels and positions == [1, 1] and (height, width) != (1, 1):
        # one position for all: padded so that every window holds it, and nothing else
        return Window((height, width), (1, 1), (height - 1, width - 1))
    if mask.shape != node.shape:
        raise QuantizeError(node.name, f"a mask of {mask.shape} for {node.shape}", "Mask either channels or tokens.")
    return Window()


def attention(walk: Walk, node: ir.Node, qkv: Sequence[Signal], op: ir.Attention) -> Current:
    """(q k^T) v of integers, times the scales of all three and that of the attention."""
    for signal in qkv:
        shared = len(signal.populations) != 1 or walk.population(signal.populations[0]).signed
        if shared or np.any(signal.offset) or np.ptp(signal.scale):
            problem = "q, k and v must each be the messages of one population"
            way_out = "Put a LIF on each of q, k and v; integers need a target with graded spikes (loihi2)."
            raise QuantizeError(node.name, problem, way_out)
    factor = op.scale * float(np.prod([signal.scale[0] for signal in qkv]))
    if factor <= 0:
        raise QuantizeError(node.name, f"an attention scale of {factor}", "It must be positive.")
    # Each output sums over the channels that q and k have in its head, and over all tokens.
    channels, height, width = qkv[0].shape
    most_each = int(np.prod([signal.max_out for signal in qkv]))
    limit = most_each * (channels // op.heads) * height * width
    q, k, v = (signal.populations[0] for signal in qkv)
    return Current((AttentionTerm(node.name, (q, k, v), op.heads, factor, limit),), np.zeros(node.shape[0]), node.shape)


def dual_spike(walk: Walk, node: ir.Node, y: Signal, spikes: Signal, op: ir.DualSpike) -> Current:
    """The product of a current's population and one of spikes, times the scales of both and that of each head."""
    _check_factors(walk, node, y, spikes, op)
    positions = y.shape[1] * y.shape[2]
    by_channel = np.repeat(op.scale, y.shape[0] // op.heads) * y.scale * spikes.scale[0]
    low, high = y.range
    least, most = (
        dual_sums(extreme, op.heads, op.over_tokens, positions) * spikes.max_out
        for extreme in (np.minimum(low, 0), np.maximum(high, 0))
    )
    # over channels, all of a head are added up: they have one unit
    scale = by_channel if op.over_tokens else np.repeat(by_channel.reshape(op.heads, -1)[:, 0], positions)
    sources = (y.populations[0], spikes.populations[0])
    term = DualTerm(node.name, sources, DualSpike(op.heads, op.over_tokens), scale, least, most)
    return Current((term,), np.zeros(node.shape[0]), node.shape)


def _check_factors(walk: Walk, node: ir.Node, y: Signal, spikes: Signal, op: ir.DualSpike) -> None:
    """Raise QuantizeError where a product is not that of currents, in the units it needs, and of spikes."""
    if y.low is None or y.pooled or len(y.populations) != 1:
        problem = "the first factor of the product is no current of a layer"
        raise QuantizeError(node.name, problem, "Put neurons on none but the second factor, or on all three.")
    shared = len(spikes.populations) != 1 or walk.population(spikes.populations[0]).signed or spikes.pooled
    if shared or np.any(spikes.offset) or np.ptp(spikes.scale):
        raise QuantizeError(node.name, "the second factor of the product is no spikes", "Put a LIF on it.")
    of_heads = y.scale.reshape(op.heads, -1)
    if not op.over_tokens and not np.allclose(of_heads, of_heads[:, :1], rtol=1e-12, atol=0):
        problem = "the channels of its first factor have different units, and it adds them up"
        raise QuantizeError(node.name, problem, "Use each half of the layer in one product only.")
