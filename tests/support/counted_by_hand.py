"""Operations of layers counted by their definition: every output, every tap, every pair; slow, meant to be read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Sums:
    """What the calls of one layer cost; of a product, first and second are pairs where that operand is not 0."""

    dense: int = 0
    pairs: int = 0
    effective: int = 0
    weighted: float = 0.0
    first: int = 0
    second: int = 0

    def meet(self, x: Array, w: Array) -> Array:
        """x (N, C) with weights w (O, C): the products, summed over C, and their pairs counted."""
        fires, useful = (x != 0).astype(int), (w != 0).astype(int)
        self.dense += x.size * len(w)
        self.pairs += int(fires.sum()) * len(w)
        self.effective += int((fires @ useful.T).sum())
        self.weighted += float(np.abs(x).sum()) * len(w)
        return x @ w.T


def convolution(x: Array, w: Array, s: Any, sums: Sums) -> Array:
    """A convolution of x (N, C, Y, X); s: stride, padding, dilation (pairs), groups, transposed, output_padding."""
    if s["transposed"]:
        return _spread(x, w, s, sums)
    kernel, groups = w.shape[2:], s["groups"]
    size = [
        (n + 2 * p - d * (k - 1) - 1) // stride + 1
        for n, k, stride, p, d in zip(x.shape[2:], kernel, s["stride"], s["padding"], s["dilation"], strict=True)
    ]
    out = np.zeros((len(x), len(w), *size))
    fan_in, fan_out = w.shape[1], len(w) // groups
    for g, at, tap in product(range(groups), np.ndindex(*size), np.ndindex(*kernel)):
        here = [a * s["stride"][i] - s["padding"][i] + tap[i] * s["dilation"][i] for i, a in enumerate(at)]
        if all(0 <= h < n for h, n in zip(here, x.shape[2:], strict=True)):
            inputs = x[(slice(None), slice(g * fan_in, (g + 1) * fan_in), *here)]
            outputs = slice(g * fan_out, (g + 1) * fan_out)
            out[(slice(None), outputs, *at)] += sums.meet(inputs, w[(outputs, slice(None), *tap)])
    return out


def _spread(x: Array, w: Array, s: Any, sums: Sums) -> Array:
    """A transposed convolution; w (C, O / groups, ky, kx)."""
    kernel, groups = w.shape[2:], s["groups"]
    size = [
        (x.shape[2 + i] - 1) * s["stride"][i]
        - 2 * s["padding"][i]
        + s["dilation"][i] * (kernel[i] - 1)
        + s["output_padding"][i]
        + 1
        for i in range(2)
    ]
    fan_in, fan_out = len(w) // groups, w.shape[1]
    out = np.zeros((len(x), groups * fan_out, *size))
    for g, at, tap in product(range(groups), np.ndindex(*x.shape[2:]), np.ndindex(*kernel)):
        there = [a * s["stride"][i] - s["padding"][i] + tap[i] * s["dilation"][i] for i, a in enumerate(at)]
        if all(0 <= o < n for o, n in zip(there, size, strict=True)):
            inputs = slice(g * fan_in, (g + 1) * fan_in)
            outputs = slice(g * fan_out, (g + 1) * fan_out)
            fires = x[(slice(None), inputs, *at)]
            out[(slice(None), outputs, *there)] += sums.meet(fires, w[(inputs, slice(None), *tap)].T)
    return out


def linear(x: Array, w: Array, sums: Sums) -> Array:
    """x (..., C) with weights (O, C)."""
    return sums.meet(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], len(w))


def matmul(a: Array, b: Array, sums: Sums) -> Array:
    """Activations a (..., n, k) times b (..., k, m): every pair of every row and column."""
    out = np.zeros((*a.shape[:-1], b.shape[-1]))
    for lead in np.ndindex(*a.shape[:-2]):
        for row, column, inner in product(range(a.shape[-2]), range(b.shape[-1]), range(a.shape[-1])):
            x, y = a[(*lead, row, inner)], b[(*lead, inner, column)]
            out[(*lead, row, column)] += x * y
            sums.dense += 1
            sums.first += int(x != 0)
            sums.second += int(y != 0)
            sums.pairs += int(x != 0 and y != 0)
            sums.weighted += float(abs(x * y))
    sums.effective = sums.pairs
    return out


class Neurons:
    """v += x; s = v >= threshold; v -= s * threshold: whole numbers stay whole."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.v: Array | float = 0.0
        self.spikes: list[int] = []

    def __call__(self, x: Array) -> Array:
        self.v = self.v + x
        spikes = (self.v >= self.threshold).astype(float)
        self.v = self.v - spikes * self.threshold
        self.spikes.append(int(spikes.sum()))
        return spikes
