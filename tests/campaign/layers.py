"""Layers of random models: lines, constants that are added, and pools of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]


class Line(nn.Module):
    """Layers of one dimension on images of one row, (B, C, 1, L)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(2)).unsqueeze(2)


class Constant(nn.Module):
    """A position embedding: the same for all images and time steps; `value` broadcasts to (C, Y, X)."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class TokenConstant(Constant):
    """The same as vision transformers do it, `value` (1, Y * X, C)."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(3).transpose(2, 3) + self.value
        return tokens.transpose(2, 3).unflatten(3, x.shape[3:])


def by_image(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of images on (T, B, C, Y, X)."""
    return layer(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))


def by_token(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer on the channels of each position of (T, B, C, Y, X)."""
    return layer(x.flatten(3).transpose(2, 3)).transpose(2, 3).unflatten(3, x.shape[3:])


def out_shape(layer: nn.Module, shape: Shape) -> Shape:
    """What a layer of images makes of one; (0, 0, 0) where torch takes none of that size."""
    try:
        with torch.no_grad():
            channels, height, width = layer(torch.zeros(1, *shape)).shape[1:]
    except RuntimeError:
        return 0, 0, 0
    return channels, height, width


def flattened(numbers: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a layer of one dimension: those along rows."""
    return {name: n[1] if isinstance(n, tuple) else n for name, n in numbers.items()}


def largest_pool(rng: np.random.Generator, shape: Shape) -> nn.Module:
    """Maxima over windows: padded, dilated, with windows that `ceil_mode` adds."""
    kernel, stride = _windows(rng, shape)
    fits = [2 * (k - 1) < extent for k, extent in zip(kernel, shape[1:], strict=True)]
    numbers = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": tuple(int(rng.choice([0, k // 2])) for k in kernel),
        "dilation": tuple(int(rng.choice([1, 1, 2])) if fit else 1 for fit in fits),
        "ceil_mode": bool(rng.random() < 0.3),
    }
    return _pool(rng, shape, nn.MaxPool2d, nn.MaxPool1d, numbers)


def mean_pool(rng: np.random.Generator, shape: Shape) -> nn.Module:
    """Means over windows: padded, counted or not, with another divisor; or over ranges, of one size or not."""
    if rng.random() < 0.3:
        size = tuple(int(rng.integers(1, extent + 1)) for extent in shape[1:])
        return _pool(rng, shape, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d, {"output_size": size})
    kernel, stride = _windows(rng, shape)
    numbers = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": tuple(int(rng.choice([0, 0, k // 2])) for k in kernel),
        "ceil_mode": bool(rng.random() < 0.3),
        "count_include_pad": bool(rng.random() < 0.7),
    }
    if rng.random() < 0.2:
        return nn.AvgPool2d(**numbers, divisor_override=int(rng.choice([1, 2, 3, 8])))
    return _pool(rng, shape, nn.AvgPool2d, nn.AvgPool1d, numbers)


def _windows(rng: np.random.Generator, shape: Shape) -> tuple[tuple[int, int], tuple[int, int]]:
    """(kernel, stride), strides larger than kernels among them."""
    kernel = (min(shape[1], int(rng.choice([1, 2, 3]))), min(shape[2], int(rng.choice([2, 3]))))
    return kernel, (int(rng.choice([1, 2, 3])), int(rng.choice([1, 2])))


def _pool(rng: np.random.Generator, shape: Shape, of_maps: Any, of_lines: Any, numbers: dict[str, Any]) -> nn.Module:
    if shape[1] == 1 and rng.random() < 0.5:
        return Line(of_lines(**flattened(numbers)))
    return of_maps(**numbers)
