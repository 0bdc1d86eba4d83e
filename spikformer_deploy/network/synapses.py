"""Kinds of synapses: what each one IS (its fields) and what it DELIVERS in one time step, in plain numpy.

`synaptic_sum` is the definition of right: every executor is compared with it for equality, and no fast path calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int, Pair
from spikformer_deploy.base.values import digest


@dataclass(frozen=True, slots=True, eq=False)
class Conv:
    """Shared integer weights, cross-correlation with zero padding; a Linear over tokens is the 1x1 case.

    weight (C_out, C_in / groups, KY, KX) int8 or int16; a synapse has the weight `weight` * 2^shift
    """

    weight: NDArray[np.integer]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    shift: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Unit weights from a window of positions of the same channel; kernel = stride = (1, 1) is the identity."""

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """Every position of channel c reaches target o with weight[o, c]: (C, Y, X) -> (O, 1, 1).  weight (O, C)."""

    weight: NDArray[np.integer]


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Spiking self-attention from (q, k, v), all of the target's shape: weight * sum_m (sum_c q k) v per head."""

    heads: int
    weight: int = 1


Synapse: TypeAlias = Conv | Window | Readout | Attention


def _show_synapse(synapse: Synapse) -> str:
    match synapse:
        case Conv(weight=weight):
            return f"Conv {'x'.join(map(str, weight.shape))} {digest(weight)[:8]}"
        case Readout(weight=weight):
            return f"Readout {'x'.join(map(str, weight.shape))} {digest(weight)[:8]}"
        case Window(kernel=kernel):
            return f"Window {kernel[0]}x{kernel[1]}"
        case Attention(heads=heads, weight=weight):
            return f"Attention heads={heads} weight={weight}"


def synaptic_sum(synapse: Conv | Window | Readout | Attention, sources: list[Int], shape: tuple[int, int, int]) -> Int:
    """What one projection delivers to its target in one step: (N, C, Y, X) of the target's `shape`."""
    match synapse:
        case Conv():
            return _convolution(synapse, sources[0], shape) << synapse.shift
        case Window():
            return _window(synapse, sources[0], shape)
        case Readout():
            return (sources[0].sum((2, 3)) @ synapse.weight.astype(np.int64).T)[:, :, None, None]
        case Attention():
            q, k, v = (s.reshape(len(s), synapse.heads, -1, shape[1] * shape[2]) for s in sources)
            scores = np.einsum("nhcp,nhcm->nhpm", q, k)
            return synapse.weight * np.einsum("nhpm,nhcm->nhcp", scores, v).reshape(-1, *shape)
        case _:
            assert_never(synapse)


def _convolution(conv: Conv, x: Int, shape: tuple[int, int, int]) -> Int:
    groups, (channels, height, width) = conv.groups, shape
    per_group = x.shape[1] // groups
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in conv.padding)))
    weight = conv.weight.astype(np.int64).reshape(groups, channels // groups, *conv.weight.shape[1:])
    out = np.zeros((groups, channels // groups, len(x), height, width), np.int64)
    for ky, kx in np.ndindex(*conv.weight.shape[2:]):
        seen = _shifted(padded, ky, kx, conv.stride, (height, width))
        for g in range(groups):
            part = seen[:, g * per_group : (g + 1) * per_group]
            out[g] += np.tensordot(weight[g, :, :, ky, kx], part, (1, 1))
    return out.reshape(channels, len(x), height, width).swapaxes(0, 1)


def _window(window: Window, x: Int, shape: tuple[int, int, int]) -> Int:
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in window.padding)))
    taps = np.ndindex(*window.kernel)
    return sum(
        (_shifted(padded, ky, kx, window.stride, shape[1:]) for ky, kx in taps),
        np.zeros((len(x), *shape), np.int64),
    )


def largest_of(synapse: Synapse, x: Int, shape: tuple[int, int, int]) -> Int:
    """The largest value of each window, (N, C, Y, X) of the target's `shape`; padding is no value."""
    assert isinstance(synapse, Window)
    lowest = np.iinfo(np.int64).min
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in synapse.padding)), constant_values=lowest)
    seen = [_shifted(padded, ky, kx, synapse.stride, shape[1:]) for ky, kx in np.ndindex(*synapse.kernel)]
    return np.maximum.reduce(seen)


def _shifted(padded: Int, ky: int, kx: int, stride: tuple[int, int], size: tuple[int, int]) -> Int:
    """What kernel tap (ky, kx) sees at every output position."""
    (sy, sx), (height, width) = stride, size
    return padded[:, :, ky : ky + sy * (height - 1) + 1 : sy, kx : kx + sx * (width - 1) + 1 : sx]
