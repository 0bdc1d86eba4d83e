"""What the neurons of a node send: which integers, and which real number one of them stands for.

`sent_by` is the one place that says it.  build.py asks it when it makes the populations; shared_units.py asks it for
nodes whose populations are still to be made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spikformer_deploy.base.arrays import Float, Int, Shape
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.windows import means_of, one_window


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """How the integer input relates to what the model was trained on: real = (pixel / max_value - mean) / std.

    mean, std  (C,) float
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_value: int = 255


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """real[c] = scale[c] * (sum over `populations` of what they send) + offset[c], or offset[c, y, x].

    offset  (C,) or (C, Y, X): of a normalised image, of a constant that was added
    More than one population: a residual that is distributed over its consumers (targets with binary spikes).
    pooled   what is read is the sum over all positions (the 1 / positions of a mean is in `scale`)
    low      of a residual stream of currents: least and, as high, largest value a channel, (C,); None: 0 to max_out
    """

    populations: tuple[str, ...]
    shape: Shape
    scale: Float
    offset: Float
    max_out: int
    pooled: bool = False
    low: Int | None = None
    high: Int | None = None

    @property
    def range(self) -> tuple[Int, Int]:
        """(low, high) of every channel, (C,)."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return np.zeros(self.shape[0], np.int64), np.full(self.shape[0], self.max_out, np.int64)

    @property
    def share(self) -> int:
        """The largest value of each of its populations, rounded up where they share `max_out` unequally."""
        return -(-self.max_out // len(self.populations))

    def scaled(self, factor: float) -> Signal:
        """factor * the signal: the same integers, which stand for other numbers."""
        return replace(self, scale=self.scale * factor, offset=self.offset * factor)

    def plus(self, constant: Float) -> Signal:
        """The signal and a constant (C, Y, X): the same integers, and another offset."""
        return replace(self, offset=total(self.offset, as_vector(constant)))


def units_of(name: str, shape: Shape, max_out: int = 1) -> Signal:
    """What population `name` sends, one of it being the real number 1: spikes, unless `max_out` says otherwise."""
    return Signal((name,), shape, np.ones(shape[0]), np.zeros(shape[0]), max_out)


def of_image(name: str, shape: Shape, pixels: Pixels) -> Signal:
    """The normalised image, in terms of the pixels that the chip is sent."""
    mean = np.asarray(pixels.mean, np.float64)
    std = np.asarray(pixels.std, np.float64)
    return Signal((name,), shape, 1 / (pixels.max_value * std), -mean / std, pixels.max_value)


def sent_by(node: ir.Node, inputs: Sequence[Signal], weight_bits: int) -> Signal:
    """What the one population of a node sends, given what its inputs send; for nodes that combine signals.

    Whether integers can do what the node does is not asked here: build.py refuses what they cannot.
    """
    signal = units_of(node.name, node.shape)
    match node.op:
        case ir.Add():
            return replace(signal, scale=inputs[0].scale, max_out=inputs[0].max_out + inputs[1].max_out)
        case ir.Concat():
            largest = max(part.max_out for part in inputs)
            return replace(signal, scale=np.concatenate([part.scale for part in inputs]), max_out=largest)
        case ir.MaxPool2d() | ir.TokenPool():
            source = inputs[0]
            return replace(
                signal,
                scale=source.scale,
                offset=source.offset,
                max_out=source.max_out,
                low=source.low,
                high=source.high,
            )
        case ir.AvgPool2d() | ir.AdaptiveAvgPool2d() as pool:
            divisor, largest = _largest_mean(inputs[0], pool, weight_bits)
            return replace(signal, scale=inputs[0].scale / divisor, max_out=largest)
        case ir.SpikeMask():
            masked, mask = inputs
            # one channel of the mask may stand for several consecutive channels
            repeated = np.repeat(mask.scale, masked.shape[0] // mask.shape[0])
            return replace(signal, scale=masked.scale * repeated)
        case _:
            return signal


def _largest_mean(signal: Signal, pool: ir.AvgPool2d | ir.AdaptiveAvgPool2d, weight_bits: int) -> tuple[int, int]:
    """(divisor, largest integer) of a mean: a sum of what the signal sends, over the divisor."""
    extents = signal.shape[1:]
    plain = one_window(pool, extents)
    if plain is not None:
        kernel, _, _, divisor = plain
        return divisor, signal.max_out * kernel[0] * kernel[1]
    divisor, weights = means_of(pool, extents).in_units(extents)
    # The largest sum of each digit is counted by itself: that is the range that the projections of the digits prove.
    most = sum(int(part.sum((2, 3)).max()) << exponent for part, exponent in digits(weights, weight_bits))
    return divisor, signal.max_out * most


def digits(whole: Int, weight_bits: int) -> Iterator[tuple[Int, int]]:
    """(digit, exponent): numbers of at most `weight_bits` with sign that, times 2^exponent, add up to `whole` >= 0."""
    base = 2 ** (weight_bits - 1)
    exponent = 0
    while np.any(whole):
        yield whole % base, exponent
        whole = whole // base
        exponent += weight_bits - 1


def total(left: Float, right: Float) -> Float:
    """The sum of two offsets or biases, (C,) or (C, Y, X) each."""
    return left + right if left.ndim == right.ndim else as_map(left) + as_map(right)


def as_map(bias: Float) -> Float:
    """An offset or a bias as (C, Y, X), or as (C, 1, 1), which stands for all positions."""
    return bias if bias.ndim == 3 else bias[:, None, None]


def as_vector(bias: Float) -> Float:
    """A bias (C, Y, X) as (C,) where it is the same at all positions: a map costs the chip a word a neuron."""
    same = np.all(bias == bias[:, :1, :1])
    return np.ascontiguousarray(bias[:, 0, 0]) if same else bias


def by_input(values: Float, groups: int, outputs: int) -> Float:
    """(outputs, C / groups): of `values` (C,), those that each output of a grouped convolution reads."""
    of_group = values.reshape(groups, -1)
    return of_group[np.arange(outputs) // (outputs // groups)]
