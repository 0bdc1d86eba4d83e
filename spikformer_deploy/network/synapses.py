"""Kinds of synapses: what each one IS (its fields), OBEYS (its law) and DELIVERS in one time step.

`synaptic_sum` is the definition of right, in plain numpy: every executor is compared with it for equality, and no fast
path calls it.  `check_synapse` is the law for networks that come from files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int, Pair, Shape
from spikformer_deploy.base.flat import LATER
from spikformer_deploy.base.plain import require
from spikformer_deploy.base.values import digest


@dataclass(frozen=True, slots=True, eq=False)
class Conv:
    """Shared integer weights, cross-correlation with zero padding; a Linear over tokens is the 1x1 case.

    weight (C_out, C_in / groups, KY, KX) int8; a synapse has the weight `weight` * 2^shift
    """

    weight: NDArray[np.integer]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    shift: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Unit weights from a window of positions of the same channel; kernel = stride = (1, 1) is the identity.

    offset  (y, x) how far every window is moved over the source; what it then sees beyond the source is 0, as padding
    """

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    offset: Pair = field(default=(0, 0), metadata={LATER: True})


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """Every position of channel c reaches target o with weight[o, c]: (C, Y, X) -> (O, 1, 1).  weight (O, C)."""

    weight: NDArray[np.integer]


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Spiking self-attention from (q, k, v), spikes or small integers: weight * sum_m (sum_c q k) v per head.

    v has the target's shape; q and k may have another number of channels.  Each of the `heads` heads has an equal,
    consecutive range of the channels of each.
    """

    heads: int
    weight: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class DualSpike:
    """Dual spike transformation, the matrix product of what y sends and the spikes of s, from (y, s), head by head.

        z[h * M + m, p] = sum over c of y[h * d + c, m] * s[h * d + c, p]
        z[h * d + c, p] = sum over m of y[h * d + c, m] * s[h * M + m, p]     (over_tokens)

    y (C, Y', X') may be negative; M are its positions, row after row, p those of s.  Each of the `heads` heads has d
    channels of y, and M (d) consecutive channels of the target (heads * M, Y, X), or over tokens of s.
    """

    heads: int
    over_tokens: bool


Synapse: TypeAlias = Conv | Window | Readout | Attention | DualSpike


def shown(synapse: Synapse) -> str:
    """A synapse in one line, for a person to read and diff."""
    match synapse:
        case Conv(weight=weight):
            return f"Conv {'x'.join(map(str, weight.shape))} {digest(weight)[:8]}"
        case Readout(weight=weight):
            return f"Readout {'x'.join(map(str, weight.shape))} {digest(weight)[:8]}"
        case Window(kernel=kernel, offset=(y, x)):
            moved = f" moved by {y}, {x}" if (y, x) != (0, 0) else ""
            return f"Window {kernel[0]}x{kernel[1]}{moved}"
        case Attention(heads=heads, weight=weight):
            return f"Attention heads={heads} weight={weight}"
        case DualSpike(heads=heads, over_tokens=over_tokens):
            return f"DualSpike heads={heads} over {'tokens' if over_tokens else 'channels'}"


def synaptic_sum(synapse: Synapse, sources: list[Int], shape: Shape) -> Int:
    """What one projection delivers to its target in one step: (N, C, Y, X) of the target's `shape`."""
    match synapse:
        case Conv():
            return _convolution(synapse, sources[0], shape) << synapse.shift
        case Window():
            return _window(synapse, sources[0], shape)
        case Readout():
            return (sources[0].sum((2, 3)) @ synapse.weight.astype(np.int64).T)[:, :, None, None]
        case Attention():
            # (N, heads, channels of a head, tokens)
            by_head = [s.reshape(len(s), synapse.heads, -1, shape[1] * shape[2]) for s in sources]
            q, k, v = by_head
            scores = np.einsum("nhcp,nhcm->nhpm", q, k)
            return synapse.weight * np.einsum("nhpm,nhcm->nhcp", scores, v).reshape(-1, *shape)
        case DualSpike():
            y, spikes = (s.reshape(len(s), synapse.heads, -1, s.shape[2] * s.shape[3]) for s in sources)
            product = "nhcm,nhmp->nhcp" if synapse.over_tokens else "nhcm,nhcp->nhmp"
            return np.einsum(product, y, spikes).reshape(-1, *shape)
        case _:
            assert_never(synapse)


def _convolution(conv: Conv, x: Int, shape: Shape) -> Int:
    """The sum over all taps of a kernel and all input channels of a group: cross-correlation with zero padding."""
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in conv.padding)))
    # in 64 bits: products of int8 would wrap
    weight = conv.weight.astype(np.int64)
    inputs = x.shape[1] // conv.groups
    outputs = shape[0] // conv.groups
    total = np.zeros((len(x), *shape), np.int64)
    for group in range(conv.groups):
        read = slice(group * inputs, (group + 1) * inputs)
        written = slice(group * outputs, (group + 1) * outputs)
        for ky, kx in np.ndindex(*weight.shape[2:]):
            seen = _shifted(padded[:, read], ky, kx, conv.stride, shape[1:])
            # (N, inputs, Y, X) times (outputs, inputs) is (N, Y, X, outputs); the other way round the inputs of a sum
            # lie far apart in memory, and it takes three times as long
            products = np.tensordot(seen, weight[written, :, ky, kx], (1, 1))
            total[:, written] += products.transpose(0, 3, 1, 2)
    return total


def _window(window: Window, x: Int, shape: Shape) -> Int:
    """The sum of each window."""
    # zeros as far as any moved window sees, on all sides
    reach = [(p + abs(o), p + abs(o)) for p, o in zip(window.padding, window.offset, strict=True)]
    padded = np.pad(x, ((0, 0), (0, 0), *reach))
    first_y, first_x = (abs(o) + o for o in window.offset)
    total = np.zeros((len(x), *shape), np.int64)
    for ky, kx in np.ndindex(*window.kernel):
        total += _shifted(padded, first_y + ky, first_x + kx, window.stride, shape[1:])
    return total


def largest_of(synapse: Synapse, x: Int, shape: Shape) -> Int:
    """The largest value of each window, (N, C, Y, X) of the target's `shape`; padding is no value."""
    assert isinstance(synapse, Window)
    lowest = np.iinfo(np.int64).min
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in synapse.padding)), constant_values=lowest)
    seen = [_shifted(padded, ky, kx, synapse.stride, shape[1:]) for ky, kx in np.ndindex(*synapse.kernel)]
    return np.maximum.reduce(seen)


def _shifted(padded: Int, ky: int, kx: int, stride: Pair, size: Pair) -> Int:
    """What kernel tap (ky, kx) sees at every output position of a map of `size`."""
    last_row = ky + stride[0] * (size[0] - 1)
    last_column = kx + stride[1] * (size[1] - 1)
    return padded[:, :, ky : last_row + 1 : stride[0], kx : last_column + 1 : stride[1]]


# --- what each kind obeys -----------------------------------------------------------------------------------------

MOST_PADDING = 64
"""Of a window on a map that is smaller."""


class Incoming(NamedTuple):
    """The synapses of one projection, and what laws ask of its sources.

    shapes    (C, Y, X) of each source
    max_out   largest magnitude that the first source sends
    negative  whether a source can send negative values; last_negative: whether the last one can
    """

    synapse: Synapse
    shapes: tuple[Shape, ...]
    max_out: int
    negative: bool
    last_negative: bool = False

    @property
    def most_of_window(self) -> int:
        """The largest sum of the unit synapses of a Window; 0 of other kinds."""
        if not isinstance(self.synapse, Window):
            return 0
        return self.max_out * self.synapse.kernel[0] * self.synapse.kernel[1]


def check_synapse(incoming: Incoming, target: Shape, weight_bits: int) -> None:
    """Raise ValueError where synapses do not fit their sources and their target, or weights their bits."""
    shapes = incoming.shapes
    match incoming.synapse:
        case Conv(weight, stride, padding, groups, shift):
            good = weight.ndim == 4 and weight.dtype == np.int8 and groups >= 1 and 0 <= shift < 32
            require(good, f"weights of shape {weight.shape} and type {weight.dtype}, shift {shift}")
            _check_weights(weight, weight_bits)
            fits = shapes[0][0] == weight.shape[1] * groups and len(weight) % groups == 0 and len(weight) == target[0]
            require(fits and len(shapes) == 1, f"weights {weight.shape} in {groups} groups on {shapes[0]}")
            _check_windows(shapes[0], target, Window(weight.shape[2:], stride, padding))
        case Window() as window:
            require(len(shapes) == 1 and shapes[0][0] == target[0], f"channels {shapes[0][0]} and {target[0]}")
            _check_windows(shapes[0], target, window)
        case Readout(weight):
            good = weight.shape == (target[0], shapes[0][0]) and weight.dtype == np.int8 and len(shapes) == 1
            require(good, f"a readout of shape {weight.shape} on {shapes[0]}")
            _check_weights(weight, weight_bits)
        case Attention(heads, weight):
            good = len(shapes) == 3 and shapes[0] == shapes[1] and shapes[2] == target
            good = (
                good and shapes[0][1:] == target[1:] and heads >= 1 and shapes[0][0] % heads == 0 == target[0] % heads
            )
            good = good and not incoming.negative and 0 < weight < 2**20
            require(good, f"an attention of {heads} heads over {list(shapes)}")
        case DualSpike(heads, over_tokens):
            require(len(shapes) == 2 and heads >= 1, f"a product of {list(shapes)} in {heads} heads")
            y, spikes = shapes
            by_position = heads * y[1] * y[2]
            read, made = (by_position, y[0]) if over_tokens else (y[0], by_position)
            good = y[0] % heads == 0 and spikes == (read, *target[1:]) and target[0] == made
            require(good and not incoming.last_negative, f"a product of {list(shapes)} in {heads} heads to {target}")
        case _:
            assert_never(incoming.synapse)


def _check_weights(weight: NDArray[np.integer], bits: int) -> None:
    most = 2 ** (bits - 1)
    least, largest = int(weight.min(initial=0)), int(weight.max(initial=0))
    require(-most <= least and largest < most, f"weights from {least} to {largest} in {bits} bits")


def _check_windows(source: Shape, target: Shape, window: Window) -> None:
    """The windows fit the maps on both sides, and do not lose themselves in padding."""
    kernel, stride, padding = window.kernel, window.stride, window.padding
    geometry = f"kernel {tuple(kernel)}, stride {stride}, padding {padding} from {source} to {target}"
    require(min(*kernel, *stride) >= 1 and min(padding) >= 0 and max(*kernel, *stride) < 2**16, geometry)
    sizes = [(e + 2 * p - k) // s + 1 for e, k, s, p in zip(source[1:], kernel, stride, padding, strict=True)]
    require(tuple(sizes) == target[1:], geometry)
    most = max(MOST_PADDING, *source[1:], *target[1:])
    require(max(*padding, *map(abs, window.offset)) < most, f"{geometry}, moved by {window.offset}")
