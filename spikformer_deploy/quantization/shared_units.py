"""The unit in which all populations of a residual stream count, and the exponents of the weights that add to it.

A stream is added up from convolutions and read by several LIFs.  One unit a channel serves all of them, anchored at the
readers' threshold, so that sums and thresholds are exact.  The weights of each convolution have an exponent of their
own, so that none loses bits to a layer with larger ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.graph import ir
from spikformer_deploy.network.bounds import addends
from spikformer_deploy.network.neurons import STOCK_SHIFT, LifKind
from spikformer_deploy.network.synapses import DualSpike
from spikformer_deploy.quantization.fitting import OBSERVED_MARGIN, Observed
from spikformer_deploy.quantization.residuals import Feeder, Feeders, check_readers, residual_streams
from spikformer_deploy.quantization.scales import check_units, gain_of, kept_by, largest_thresholds, scale_groups
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.signals import Signal
from spikformer_deploy.quantization.weights import wider

MOST_FRACTION_BITS = 4
"""Fractional bits of a stream beyond the finest weights: more change no bias that the rounding of weights would not."""
MOST_EXPONENT = 8
"""Exponents are raised by less than this, for weights that are large beside the threshold."""
SPANS = (1000, 16, 12, 8, 4)
"""Of the exponents of a stream's layers, where a wider one does not fit: of scales that were trained to almost nothing,
weights may be less than 2^-20 of others, and nothing that reads the stream sees what is left of them."""
MOST_LOST_BITS = 4
"""Weights give up no more bits than this where the range does not fit."""
THRESHOLD_HEADROOM_BITS = 5
"""Bits of the state that the threshold of a reader leaves free for the sums (one of them is the sign)."""
LEAST_HEADROOM = 2.0
"""States have room for twice what is sent, for readers of any decay up to 1/2 (1 + 1/2 + 1/4 + ...)."""
FACTOR_BITS = 2
"""Bits of a neuron's input above a current: the spike that it is multiplied with, and the sign of both."""
ROUNDING_HEADROOM = 1.05
"""The worst case is that of real weights; rounded ones and biases may add up to a little more."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedUnit:
    """What all populations of a residual stream have in common.

    unit       (C,) real value of one, in every population of the stream
    exponents  by convolution that adds to it: a synapse has its integer weight times 2^exponent
    proven     its range is that of the worst case; else the observed one must do
    bits       of its messages, the sign among them
    """

    unit: Float
    exponents: dict[str, int]
    proven: bool
    bits: int


def plan_shared_units(
    graph: ir.Graph, image: Signal, observed: Observed, limits: CoreLimits, settings: Settings
) -> dict[str, SharedUnit]:
    """The SharedUnit of every node that is a population of a residual stream.

    Planned before anything is made: convolutions far behind the first population of a stream add to it, too.
    image     what the input of the graph sends
    observed  of the nodes in calibration
    Raises QuantizeError, naming a node, where no unit fits.
    """
    planned: dict[str, SharedUnit] = {}
    for members in residual_streams(graph):
        check_readers(graph, members)
        names = [node.name for node in graph if node.name in members]
        search = Feeders(graph, members, image, settings.weight_bits)
        feeders = [feeder for name in names for feeder in search.into(name)]
        anchor = _anchor(graph, members)
        room = _Room(
            max(max(map(abs, observed(name))) for name in members),
            _largest_pooled(graph, members, observed),
            anchor.addends,
            _message_bits(anchor, limits),
            limits.state_bits - _bits_of_readers(graph, settings),
            _headroom(graph, members),
        )
        unit = _shared_unit(names[0], feeders, anchor, room, limits, settings)
        planned |= dict.fromkeys(members, unit)
    return planned


def _message_bits(anchor: _Anchor, limits: CoreLimits) -> int:
    """Bits of a stream's messages.  What is multiplied with spikes shares one input, a state wide, with a spike."""
    most = limits.state_bits - FACTOR_BITS if anchor.addends else limits.state_bits
    return min(limits.message_bits, most)


def _bits_of_readers(graph: ir.Graph, settings: Settings) -> int:
    """Bits of a state that stock neurons which read a stream need below its unit: their shift, and those of decays."""
    return STOCK_SHIFT + graph.time_steps - 1 if settings.neuron == LifKind.STOCK else 0


def _headroom(graph: ir.Graph, members: frozenset[str]) -> float:
    """How much larger than what it receives in one step the potential of a reader may be: of decay d, 1 + d + d^2 + ...

    Spikes do not lower it: what is received may be negative in all steps, and then none is sent.
    """
    decays = [kept_by(neuron) for neuron in _readers(graph, members)]
    return max([LEAST_HEADROOM, *(sum(decay**step for step in range(graph.time_steps)) for decay in decays)])


def _readers(graph: ir.Graph, members: frozenset[str]) -> Iterator[ir.Neuron]:
    """The neurons that read a stream, or what is pooled or multiplied of it."""
    carriers = set(members)
    for node in graph:
        if carriers.isdisjoint(node.inputs):
            continue
        if isinstance(node.op, ir.Neuron):
            yield node.op
        else:
            carriers.add(node.name)


@dataclass(frozen=True, slots=True, eq=False)
class _Room:
    """Largest real value seen in a stream, and in what its readers sum of it; the bits that must hold them.

    addends   of the sums that a product with spikes makes of it; 0 where there is none
    headroom  the potential of a reader over what it receives in one step
    """

    seen: float
    pooled: float
    addends: int
    message_bits: int
    state_bits: int
    headroom: float

    def holds(self, most: float, summed: float) -> bool:
        """Whether messages hold values up to `most`, and states those and sums up to `summed`."""
        states = self.headroom * max(most, summed) < 2 ** (self.state_bits - 1)
        return states and most < 2 ** (self.message_bits - 1) - 1


def _largest_pooled(graph: ir.Graph, members: frozenset[str], observed: Observed) -> float:
    """The largest sum of a stream that is seen: a mean has it divided by its positions, a product times its scale."""
    largest = 0.0
    for node in graph.of(ir.DualSpike):
        if node.inputs[0] in members:
            assert isinstance(node.op, ir.DualSpike)
            seen = max(max(map(abs, observed(neuron.name))) for neuron in _neurons_at(graph, node))
            largest = max(largest, seen / float(node.op.scale.min()))
    for node in graph.of(ir.Mean):
        if node.inputs[0] in members:
            _, height, width = graph[node.inputs[0]].shape
            largest = max(largest, max(map(abs, observed(node.name))) * height * width)
    return largest


@dataclass(frozen=True, slots=True, eq=False)
class _Anchor:
    """The threshold that the unit of a stream is anchored at.

    gain     (C,) or () current in units of the threshold = current * gain, for the first neuron that reads the stream
    heads    channels of each have one unit, as a product with spikes adds them up; 0: each may have its own
    addends  of the sums of that product; 0: there is none
    """

    gain: Float
    heads: int = 0
    addends: int = 0


def _anchor(graph: ir.Graph, members: frozenset[str]) -> _Anchor:
    """That of the first neuron that reads the stream, itself or a product of it with spikes."""
    for node in graph:
        if not node.inputs or node.inputs[0] not in members:
            continue
        if isinstance(node.op, ir.Neuron):
            return _Anchor(np.array(gain_of(node.op)))
        if isinstance(node.op, ir.DualSpike):
            return _of_product(graph, node, node.op)
    return _Anchor(np.array(gain_of(ir.Lif())))


def _of_product(graph: ir.Graph, node: ir.Node, op: ir.DualSpike) -> _Anchor:
    """The anchor of the current that a product reads: a current of 1 counts as much as the scale of its head."""
    y = graph[node.inputs[0]].shape
    (neuron, *_) = _neurons_at(graph, node)
    assert isinstance(neuron.op, ir.Neuron)
    gain = np.repeat(op.scale, y[0] // op.heads) * gain_of(neuron.op)
    check_units(node.name, gain)
    return _Anchor(gain, 0 if op.over_tokens else op.heads, addends(DualSpike(op.heads, op.over_tokens), y))


def _neurons_at(graph: ir.Graph, product: ir.Node) -> list[ir.Node]:
    """The neurons that read a product of currents and spikes; QuantizeError where something else does."""
    readers = graph.consumers(product.name)
    if not all(isinstance(reader.op, ir.Neuron) for reader in readers):
        problem = "a product of currents and spikes is read by something else than neurons"
        raise QuantizeError(product.name, problem, "Put a LIF behind it.")
    return list(readers)


def _shared_unit(
    place: str, feeders: Sequence[Feeder], anchor: _Anchor, room: _Room, limits: CoreLimits, settings: Settings
) -> SharedUnit:
    """The largest thresholds that weights and state allow; fractional bits while the range fits."""
    channels = len(feeders[0].weight)
    peaks = [np.abs(feeder.weight).reshape(channels, -1).max(1) for feeder in feeders]
    largest_weight = settings.widest(feeder.layer for feeder in feeders)
    # of a layer with fewer bits, those weights that fill the widest where its own are filled
    full = [
        peak * wider(largest_weight, settings.largest_weight(feeder.layer))
        for feeder, peak in zip(feeders, peaks, strict=True)
    ]
    cap = 2 ** max(1, room.state_bits - THRESHOLD_HEADROOM_BITS) - 1
    # Lost bits vary fastest: larger exponents let thresholds grow, which only helps where those are below 1.
    for span, extra, lost in product(SPANS, range(MOST_EXPONENT), range(MOST_LOST_BITS + 1)):
        exponents = [exponent + extra for exponent in _relative_exponents(full, span)]
        # what the weights of all layers are once their exponents are taken out: the same channel has one threshold
        normal = np.max([peak / 2.0**e for peak, e in zip(full, exponents, strict=True)], 0)
        weighed = normal * anchor.gain
        groups = _groups(weighed, anchor.heads, limits, settings)
        thresholds = largest_thresholds(weighed, groups, 1.0, largest_weight, cap) >> lost
        if thresholds.min() < 1:
            continue
        unit = 1 / (anchor.gain * thresholds)
        fitting = _fraction_bits(feeders, unit, room)
        if fitting is not None:
            bits, proven = fitting
            shared = unit / 2**bits
            # where bits were lost for the range, smaller exponents give them back to layers that have the room
            shifted = {
                feeder.layer: min(
                    exponent + bits, _least_exponent(peak / shared, settings.largest_weight(feeder.layer))
                )
                for feeder, exponent, peak in zip(feeders, exponents, peaks, strict=True)
            }
            return SharedUnit(shared, shifted, proven, room.message_bits)
    raise QuantizeError(
        place,
        f"the sums of its residual stream do not fit {room.state_bits} bits of state and messages",
        "Use a target with a wider state.",
    )


def _groups(peaks: Float, heads: int, limits: CoreLimits, settings: Settings) -> Int:
    """(C,) the group of each channel: those with one threshold.  With `heads`, all channels of one have it."""
    if not heads:
        return scale_groups(peaks, settings.granularity, limits.parameter_sets)
    of_heads = scale_groups(peaks.reshape(heads, -1).max(1), settings.granularity, limits.parameter_sets)
    return np.repeat(of_heads, len(peaks) // heads)


def _least_exponent(peaks: Float, largest_weight: int) -> int:
    """The smallest exponent with which weights up to `peaks` (C,), in the unit of a stream, round to what they have."""
    largest = float(peaks.max())
    exponent = 0
    while np.rint(largest / 2.0**exponent) > largest_weight:
        exponent += 1
    return exponent


def _relative_exponents(peaks: Sequence[Float], span: int) -> list[int]:
    """The exponent of each layer over that of the layer with the smallest weights, from its peaks (C,).

    Rounded up: the weights that are left are at most those of the smallest layer, and lose less than one bit.
    span  of the exponents: layers whose weights are smaller still have that of 0, and lose the bits below
    """
    tops = [float(peak.max()) for peak in peaks]
    least = max(min((top for top in tops if top > 0), default=1.0), max(tops, default=0.0) / 2.0**span)
    return [max(0, int(np.ceil(np.log2(top / least)))) if top > 0 else 0 for top in tops]


def _fraction_bits(feeders: Sequence[Feeder], unit: Float, room: _Room) -> tuple[int, bool] | None:
    """(fractional bits, whether the range is proven): as many as fit, a proof before more bits; None where none fit."""
    finest = float(unit.min())
    seen = room.seen / finest * OBSERVED_MARGIN
    pooled = room.pooled / finest * OBSERVED_MARGIN
    worst = _worst(feeders, unit)
    for proven, most, summed in ((True, worst, max(pooled, worst * room.addends)), (False, seen, pooled)):
        for bits in range(MOST_FRACTION_BITS, -1, -1):
            if room.holds(most * 2**bits, summed * 2**bits):
                return bits, proven
    return None


def _worst(feeders: Sequence[Feeder], unit: Float) -> float:
    """A bound of the whole stream in its units, rounding included."""
    total = np.zeros(len(unit))
    for feeder in feeders:
        sums = np.abs(feeder.weight).reshape(len(unit), -1).sum(1) * feeder.most
        total += (sums + np.abs(feeder.bias)) / unit
    return float(total.max()) * ROUNDING_HEADROOM
