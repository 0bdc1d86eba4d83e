"""Worst cases: what the sum and the state of a neuron can be in any run, from weights and the largest inputs only."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int, Shape
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import (
    DECAY_BITS,
    DECAY_ONE,
    STOCK_SHIFT,
    Accumulator,
    And,
    Levels,
    Lif,
    LifKind,
    Max,
    Or,
    Source,
    Stream,
    Sum,
    most_current,
)
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window


def weighted_range(weight: NDArray[np.integer], max_out: int) -> tuple[Int, Int]:
    """Least and largest sum of each output channel, (C,): the inputs of one sign of weight at `max_out`."""
    flat = weight.reshape(len(weight), -1).astype(np.int64)
    return np.minimum(flat, 0).sum(1) * max_out, np.maximum(flat, 0).sum(1) * max_out


def membrane_range(
    low: Int, high: Int, threshold: Int, decay: int, time_steps: int, soft: bool = False, strict: bool = False
) -> tuple[Int, Int]:
    """Range of a LIF's potential before the reset, (C,), from the range of its drive in one step.

    Above, only one step counts with a hard reset: after the comparison the potential is below the threshold, or zero;
    with a soft one, what stays above it piles up.
    Strict neurons stay at their threshold without firing, and round up.
    Below, `time_steps` steps of the lowest drive pile up, decaying by floor (the worst of both kinds).
    """
    # the largest potential that does not fire, and what is added so that a division rounds up
    silent = threshold if strict else threshold - 1
    up = DECAY_ONE - 1 if strict else 0
    rest = np.maximum(silent, 0) * decay + up >> DECAY_BITS
    highest = np.maximum(rest, 0) + np.maximum(high, 0)
    for _ in range(time_steps - 1 if soft else 0):
        after = np.maximum(silent, highest - threshold)
        highest = (np.maximum(after, 0) * decay + up >> DECAY_BITS) + np.maximum(high, 0)
    lowest = np.zeros_like(low)
    for _ in range(time_steps):
        lowest = (lowest * decay >> DECAY_BITS) + np.minimum(low, 0)
    return lowest, highest


def levels_range(low: Int, high: Int, neuron: Levels, time_steps: int) -> tuple[Int, Int]:
    """Range of the potential of Levels before what is sent is taken off, (C,), from that of its drive in one step.

    What is left after a reset lies, of a neuron that sent s < D, below its next level, and of all that sent anything
    at or above the level that they reached.
    """
    if not neuron.decay:
        return low, high
    levels = neuron.levels
    sent = np.arange(levels.shape[1] + 1)
    taken_off = neuron.reset[:, None] * sent
    most_left = (levels - 1 - taken_off[:, :-1]).max(1)
    least_left = (levels - taken_off[:, 1:]).min(1)
    lowest, highest = low, high
    for _ in range(time_steps - 1):
        above = np.maximum(most_left, highest - taken_off[:, -1])
        # below the first level nothing is sent, and nothing is taken off
        below = np.minimum(lowest, least_left)
        lowest = np.minimum(low, (np.minimum(below, 0) * neuron.decay >> DECAY_BITS) + low)
        highest = np.maximum(high, (np.maximum(above, 0) * neuron.decay >> DECAY_BITS) + high)
    return lowest, highest


def largest_sum(network: Network, projection: Projection) -> int:
    """A bound of every partial sum of one projection, whatever the order of summation, before a Conv's shift."""
    source = network[projection.sources[0]]
    match projection.synapse:
        case Conv(weight):
            # of one position no output sees more than one tap
            apart = weight if source.shape[1:] != (1, 1) else _by_tap(weight)
            return int(_magnitudes(apart).max()) * source.max_out
        case Attention(heads, weight):
            # q and k may have fewer channels than v: those that a product of theirs adds up are q's
            channels, height, width = source.shape
            most = prod(network[s].max_out for s in projection.sources)
            return channels // heads * height * width * most * weight
        case DualSpike() as dual:
            return addends(dual, source.shape) * prod(network[s].max_out for s in projection.sources)
        case Window(kernel):
            _, height, width = source.shape
            return min(kernel[0], height) * min(kernel[1], width) * source.max_out
        case Readout(weight):
            return int(_magnitudes(weight).max()) * source.max_out * source.shape[1] * source.shape[2]
        case _:
            assert_never(projection.synapse)


def addends(synapse: DualSpike, y: Shape) -> int:
    """How many products each sum of a dual spike transformation has: y (C, Y', X') is its first source's shape."""
    return y[1] * y[2] if synapse.over_tokens else y[0] // synapse.heads


def _by_tap(weight: NDArray[np.integer]) -> NDArray[np.integer]:
    """The taps of each output as outputs of their own: (C_out * KY * KX, C_in, 1, 1), taps of an output together."""
    return weight.transpose(0, 2, 3, 1).reshape(-1, weight.shape[1], 1, 1)


def _magnitudes(weight: NDArray[np.integer]) -> Int:
    """(C_out,) sums of |w|."""
    return np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(1)


def shift_of(projection: Projection) -> int:
    """The exponent of the weights of a projection."""
    return projection.synapse.shift if isinstance(projection.synapse, Conv) else 0


# --- whole networks --------------------------------------------------------------------------------------------


class Worst(NamedTuple):
    """The worst case of a population over all inputs.

    low, high  (C,) least and largest value that its neurons send
    state      (least, largest) potential, accumulator or current of a stream; (0, 0) where it keeps and sends no such
    largest    magnitude of anything that the executors hold against the bits of the state
    """

    low: Int
    high: Int
    state: tuple[int, int]
    largest: int


def worst_cases(network: Network) -> dict[str, Worst]:
    """The worst case of every population, from weights, biases and the largest input only."""
    worst: dict[str, Worst] = {}
    # in topological order: the worst case of every source is known before that of its target
    for population in network:
        worst[population.name] = _worst(network, population, worst)
    return worst


def is_proven(network: Network) -> bool:
    """Whether every state fits the bits of the state, and every stream sends no more than it says, for any input."""
    limit = 2 ** (network.state_bits - 1) - 1
    worst = worst_cases(network)
    for population in network:
        allowed = most_current(population.neuron, population.max_out)
        if allowed is not None and max(map(abs, worst[population.name].state)) > allowed:
            return False
    return all(case.largest <= limit for case in worst.values())


def _worst(network: Network, population: Population, before: dict[str, Worst]) -> Worst:
    """before: the worst cases of its sources."""
    channels = population.shape[0]
    none = np.zeros(channels, np.int64)
    ones = np.ones(channels, np.int64)
    low = high = none
    for projection in network.into(population.name):
        least, most = _sums(network, projection, before)
        low = low + least
        high = high + most
    largest = _largest(low, high)
    match population.neuron:
        case Source():
            return Worst(none, none + population.max_out, (0, 0), 0)
        case Or() | And():
            return Worst(none, ones, (0, 0), largest)
        case Sum():
            return Worst(low, high, (0, 0), largest)
        case Max():
            source = before[network.into(population.name)[0].sources[0]]
            return Worst(source.low, source.high, (0, 0), _largest(source.low, source.high))
        case Stream(bias=bias, drop=drop):
            low = low + _over_maps(bias, np.min)
            high = high + _over_maps(bias, np.max)
            half = 1 << drop >> 1
            state = (int(low.min()), int(high.max()))
            return Worst(low + half >> drop, high + half >> drop, state, max(map(abs, state)))
        case Lif() as lif:
            state, largest = _potentials(lif, low, high, network.time_steps)
            return Worst(none, ones, state, largest)
        case Levels(bias=bias, shift=shift) as levels:
            low = (low << shift) + _over_maps(bias, np.min)
            high = (high << shift) + _over_maps(bias, np.max)
            lowest, highest = levels_range(low, high, levels, network.time_steps)
            state = (int(lowest.min()), int(highest.max()))
            return Worst(none, none + levels.count, state, max(_largest(low, high), *map(abs, state)))
        case Accumulator(bias=bias, last=True):
            state = (int((bias + low).min()), int((bias + high).max()))
            return Worst(none, none, state, max(largest, *map(abs, state)))
        case Accumulator(bias=bias):
            steps = network.time_steps
            # the extreme is met after one step or after the last, whichever the sign of what is added says
            least = bias + np.minimum(low, low * steps)
            most = bias + np.maximum(high, high * steps)
            # an accumulator starts at its bias, and what one step adds is looked at as well
            state = (int(np.minimum(least, bias).min()), int(np.maximum(most, bias).max()))
            return Worst(none, none, state, max(largest, *map(abs, state)))
        case _:
            assert_never(population.neuron)


def _potentials(lif: Lif, low: Int, high: Int, time_steps: int) -> tuple[tuple[int, int], int]:
    """((least, largest) potential before a reset, largest magnitude of potential, drive and current)."""
    least = _over_maps(lif.bias, np.min)
    most = _over_maps(lif.bias, np.max)
    current = 0
    if lif.kind == LifKind.PROGRAMMABLE:
        low = (low << lif.shift) + least
        high = (high << lif.shift) + most
        lowest, highest = membrane_range(low, high, lif.threshold, lif.decay, time_steps, lif.soft, lif.strict)
    else:
        shift = lif.shift + STOCK_SHIFT
        low = piled_up(np.minimum(low << shift, 0), lif.current, time_steps)
        high = piled_up(np.maximum(high << shift, 0), lif.current, time_steps)
        if lif.current:
            # what the current holds is a state of its own where it outlives a step
            current = _largest(low, high)
        low = low + (least << STOCK_SHIFT)
        high = high + (most << STOCK_SHIFT)
        # stock neurons fire above their threshold: one more is the least that fires
        lowest, highest = membrane_range(low, high, (lif.threshold << STOCK_SHIFT) + 1, lif.decay, time_steps)
    state = (int(lowest.min()), int(highest.max()))
    return state, max(current, *map(abs, state))


def piled_up(extreme: Int, current: int, time_steps: int) -> Int:
    """The extreme of a current that decays toward zero by current / 4096, its input at that extreme in every step."""
    total = np.zeros_like(extreme)
    for _ in range(time_steps):
        total = np.sign(total) * (np.abs(total) * current >> DECAY_BITS) + extreme
    return total


def _sums(network: Network, projection: Projection, worst: dict[str, Worst]) -> tuple[Int, Int]:
    """Least and largest sum of one projection at each channel of its target, (C,)."""
    source = network[projection.sources[0]]
    low = worst[source.name].low
    high = worst[source.name].high
    match projection.synapse:
        case Conv(weight, groups=groups, shift=shift):
            # of one position no output sees more than one tap
            apart = weight if source.shape[1:] != (1, 1) else _by_tap(weight)
            # padding lets any tap see nothing: 0 is always within reach
            least, most = _weighted(apart, groups, np.minimum(low, 0), np.maximum(high, 0))
            least = least.reshape(len(weight), -1).min(1)
            most = most.reshape(len(weight), -1).max(1)
            return least << shift, most << shift
        case Window(kernel, padding=padding, offset=offset):
            _, height, width = source.shape
            taps = min(kernel[0], height) * min(kernel[1], width)
            least = low * taps
            most = high * taps
            if max(padding) or any(offset):
                # a window may lie in padding, or beyond the source, for the most part
                return np.minimum(least, 0), np.maximum(most, 0)
            return least, most
        case Readout(weight):
            positions = source.shape[1] * source.shape[2]
            return _weighted(weight[:, :, None, None], 1, low * positions, high * positions)
        case Attention():
            most = np.full(network[projection.target].shape[0], largest_sum(network, projection), np.int64)
            return 0 * most, most
        case DualSpike(heads, over_tokens):
            # without a spike a product is 0
            most_spikes = network[projection.sources[1]].max_out
            positions = source.shape[1] * source.shape[2]
            return (
                dual_sums(np.minimum(low, 0) * most_spikes, heads, over_tokens, positions),
                dual_sums(np.maximum(high, 0) * most_spikes, heads, over_tokens, positions),
            )
        case _:
            assert_never(projection.synapse)


def dual_sums(extreme: Int, heads: int, over_tokens: bool, positions: int) -> Int:
    """The same extreme of the sums of a dual spike transformation, by channel of the target.

    extreme  (C,) of each product, by channel of y; positions: those of y
    """
    if over_tokens:
        return extreme * positions
    return np.repeat(extreme.reshape(heads, -1).sum(1), positions)


def _weighted(weight: NDArray[np.integer], groups: int, low: Int, high: Int) -> tuple[Int, Int]:
    """Least and largest weighted sum of inputs in [low, high] (C_in,), (C_out,)."""
    flat = weight.reshape(*weight.shape[:2], -1)
    positive = np.maximum(flat, 0).sum(2, dtype=np.int64)
    # in 16 bits: -(-128) is no int8
    negative = np.maximum(-flat.astype(np.int16), 0).sum(2, dtype=np.int64)
    group_of = np.arange(len(weight)) // (len(weight) // groups)
    low = low.reshape(groups, -1)[group_of]
    high = high.reshape(groups, -1)[group_of]
    return (positive * low - negative * high).sum(1), (positive * high - negative * low).sum(1)


def _over_maps(bias: Int, extreme: Callable[..., Int]) -> Int:
    """(C,) the extreme of a bias (C,) or (C, Y, X) over the positions."""
    return extreme(bias.reshape(len(bias), -1), 1)


def _largest(low: Int, high: Int) -> int:
    return int(max(-low.min(initial=0), high.max(initial=0)))
