"""Pools of spikes and of residual streams, as neurons without state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spikformer_deploy.base.arrays import Shape
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.windows import framed, means_of, one_window, overhang
from spikformer_deploy.network.network import Projection
from spikformer_deploy.network.neurons import And, Max, Or
from spikformer_deploy.network.synapses import Conv, Window
from spikformer_deploy.quantization.joins import place_sum
from spikformer_deploy.quantization.rows import row_of
from spikformer_deploy.quantization.signals import Signal, digits, sent_by
from spikformer_deploy.quantization.walk import Walk

MOST_PAIRS = 2**24
"""Weights of a pool that has one for each pair of positions, at most."""


def max_pool_of_currents(walk: Walk, node: ir.Node, signal: Signal, pool: ir.MaxPool2d) -> Signal:
    """The largest integer of a window: units are positive, so that it stands for the largest real value."""
    if not _is_window(walk, node, pool):
        raise QuantizeError(
            node.name,
            "max-pooling of currents with dilation or with windows that ceil_mode adds is not supported",
            "Put neurons before the pool, or pool with ceil_mode=False and dilation 1.",
        )
    projection = Projection(signal.populations, node.name, Window(pool.kernel, pool.stride, pool.padding))
    return walk.place_neurons(sent_by(node, [signal], walk.settings.weight_bits), Max(), projection)


def max_pool_of_spikes(walk: Walk, node: ir.Node, signal: Signal, pool: ir.MaxPool2d) -> Signal:
    """The largest that a window sends: of integers that integer; of zeros and ones, 1 where any neuron fires."""
    if signal.max_out > 1 and len(signal.populations) == 1 and _is_window(walk, node, pool):
        _check_scale(node, signal)
        return max_pool_of_currents(walk, node, signal, pool)
    _check_spikes(node, signal)
    sent = sent_by(node, [signal], walk.settings.weight_bits)
    if _is_window(walk, node, pool):
        window = Window(pool.kernel, pool.stride, pool.padding)
        return walk.place_neurons(sent, Or(), Projection(signal.populations, node.name, window))
    return walk.place_neurons(sent, And(1), Projection(signal.populations, node.name, _kernel_of(pool, signal)))


def token_pool_of_spikes(walk: Walk, node: ir.Node, signal: Signal, pool: ir.TokenPool) -> Signal:
    """Neurons that fire where a neighbouring token does in a neighbouring channel: first over channels, then tokens."""
    _check_spikes(node, signal)
    if pool.tokens > 3:
        problem = f"a pool of {pool.tokens} neighbouring tokens: 3 are supported"
        raise QuantizeError(node.name, problem, "Pool 3 tokens, twice if need be.")
    sent = sent_by(node, [signal], walk.settings.weight_bits)
    sources = signal.populations
    if pool.channels > 1:
        name = f"{node.name}.channels"
        while name in walk.graph:  # a module of the user's may be called so
            name += "_"
        band = Projection(sources, name, _neighbours(signal.shape[0], pool))
        sources = walk.place_neurons(replace(sent, populations=(name,)), And(1), band).populations
    windows = [Projection(sources, node.name, window) for window in _token_windows(pool.tokens, signal.shape)]
    return walk.place_neurons(sent, Or(), *windows)


def _neighbours(channels: int, pool: ir.TokenPool) -> Conv:
    """Ones from the channels of a window to the one in its middle, head by head."""
    per_head = channels // pool.heads
    of_head = np.arange(per_head)
    near = np.abs(of_head[:, None] - of_head) <= pool.channels // 2
    return Conv(frozen(np.tile(near[:, :, None, None], (pool.heads, 1, 1, 1)), np.int8), groups=pool.heads)


def _token_windows(tokens: int, shape: Shape) -> list[Window]:
    """Windows that see the token at each position and its neighbours: in its row, and across the ends of rows."""
    _, height, width = shape
    if tokens == 1:
        return [Window()]
    in_row = Window((1, 3), (1, 1), (0, 1))
    if height == 1:
        return [in_row]
    # Moved over the whole map, a window meets it in one place: the last token of the row before is seen by the first
    # one of a row, and by no other; and the first token of the next row by the last one.
    return [in_row, Window(offset=(-1, width - 1)), Window(offset=(1, 1 - width))]


def _check_spikes(node: ir.Node, signal: Signal) -> None:
    """QuantizeError for what is not the spikes of one population: their largest is no OR."""
    if signal.max_out != 1 or len(signal.populations) != 1:
        raise QuantizeError(
            node.name,
            f"max-pooling of graded spikes (values up to {signal.max_out}) is no OR of spikes",
            "Pool what one layer of neurons sends, with dilation 1 and ceil_mode=False; or use average pooling.",
        )
    _check_scale(node, signal)


def _check_scale(node: ir.Node, signal: Signal) -> None:
    """QuantizeError where the largest integer does not stand for the largest real value."""
    if signal.offset.ndim == 3 or np.any(signal.scale <= 0):
        problem = "max-pooling of spikes with a constant added at each position, or scaled by a negative number"
        raise QuantizeError(node.name, problem, "Pool the spikes themselves.")


def _is_window(walk: Walk, node: ir.Node, pool: ir.MaxPool2d) -> bool:
    """Whether a Window says it, which has no gaps and the same padding on all sides."""
    extents = walk.graph[node.inputs[0]].shape[1:]
    return pool.dilation == (1, 1) and overhang(pool, extents) == (0, 0)


def _kernel_of(pool: ir.MaxPool2d, signal: Signal) -> Conv:
    """A window with gaps, or with more padding behind than before, as a kernel of ones and zeros."""
    channels, *extents = signal.shape
    beyond = overhang(pool, (extents[0], extents[1]))
    after = (pool.padding[0] + beyond[0], pool.padding[1] + beyond[1])
    kernel, padding = framed(np.ones((channels, 1, *pool.kernel)), pool.dilation, pool.padding, after)
    return Conv(frozen(kernel, np.int8), pool.stride, padding, channels)


def average_pool(walk: Walk, node: ir.Node, signal: Signal, pool: ir.AvgPool2d | ir.AdaptiveAvgPool2d) -> Signal:
    """A mean as a sum: the division is in the scale of what is sent."""
    if np.any(signal.offset):
        raise QuantizeError(node.name, "average pooling of the raw image", "Pool after the first LIF.")
    plain = one_window(pool, signal.shape[1:])
    if plain is None:
        return _weighted_means(walk, node, signal, pool)
    kernel, stride, padding, _ = plain
    sent = sent_by(node, [signal], walk.settings.weight_bits)
    return place_sum(walk, sent, [(signal, Window(kernel, stride, padding))])


def _weighted_means(walk: Walk, node: ir.Node, signal: Signal, pool: ir.AvgPool2d | ir.AdaptiveAvgPool2d) -> Signal:
    """Means over different numbers of positions, in units of 1 / their least common multiple: all of them are whole.

    There is a weight for each pair of positions: the map stands as a row of channels, whose kernels are maps.
    """
    channels, height, width = signal.shape
    rows, columns = node.shape[1:]
    if channels * height * width * rows * columns > MOST_PAIRS:
        raise QuantizeError(
            node.name,
            f"means over different numbers of positions need a weight for each pair of {height}x{width} and "
            f"{rows}x{columns} positions, in {channels} channels",
            "Pool with windows of one size: count_include_pad=True, ceil_mode=False, or a size that divides the map.",
        )
    weight_bits = walk.settings.weight_bits
    _, weights = means_of(pool, (height, width)).in_units((height, width))
    # A convolution of a single position, padded so that every output sees one tap of the kernel, each its own.  The
    # first output sees the last tap: kernels stand the other way round.
    flipped = weights[::-1, ::-1].transpose(2, 3, 0, 1).reshape(1, -1, rows, columns)
    kernels = np.tile(flipped, (channels, 1, 1, 1))
    convolutions = [
        Conv(frozen(digit, np.int8), (1, 1), (rows - 1, columns - 1), channels, exponent)
        for digit, exponent in digits(kernels, weight_bits)
    ]
    projections = tuple(
        Projection((row,), node.name, conv)
        for row in [row_of(walk, node.name, population) for population in signal.populations]
        for conv in convolutions
    )
    sent = sent_by(node, [signal], weight_bits)
    return walk.place_relay(sent, projections, node.name, f"its sums reach {sent.max_out}")
