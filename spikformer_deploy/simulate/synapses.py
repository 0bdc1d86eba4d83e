"""Exact integer convolutions on torch's fast kernels, for the engine.

Three kinds of arithmetic give the same integers:
    int8  oneDNN's quantized convolution: uint8 messages, int8 weights, int32 sums, delivered as fp32 (exact below 2^24)
    fp32  floating point whose every partial sum is an integer below 2^24, so that no rounding ever happens
    fp64  the same below 2^53
A processor without VNNI may saturate int8 products: `int8_works` compares the kernel with plain integers once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, lru_cache
from typing import TypeAlias

import torch
import torch.nn.functional as F

from spikformer_deploy.errors import InputError
from spikformer_deploy.quantize.network import Conv

Maps: TypeAlias = torch.Tensor
"""(N * T, Y, X, C) contiguous."""
Convolve: TypeAlias = Callable[[Maps, int, int], Maps]
"""(messages of all rows, first row, end row) -> sums of these rows."""
Convolution: TypeAlias = Callable[[Maps, tuple[int, int]], Maps]
"""(messages, padding) -> sums."""

PACKINGS = 6
"""Packed weights kept: parts of two sizes, each cut into whole ones and a rest, of images or of rows."""
EXACT_FP32 = 2**24
"""All integers up to here are exact in fp32, and so are all their sums that stay below it, in any order."""


def convolution(conv: Conv, shape: tuple[int, int, int], max_in: int, largest_sum: int) -> Convolve:
    """The function from uint8 or int32 messages (M, Y, X, C_in) to sums (M, end - first, X', C_out), float but exact.

    shape        (C, Y, X) of the source; max_in: its largest message
    largest_sum  bound of every partial sum
    """
    height, (kernel, stride, padding) = shape[1], (conv.weight.shape[2], conv.stride[0], conv.padding[0])
    rows = (height + 2 * padding - kernel) // stride + 1
    small = conv.weight.dtype.itemsize == 1 and max_in < 256 and largest_sum < EXACT_FP32
    if small and kernels() == "int8":
        run = _int8_convolution(conv)
    else:
        run = _float_convolution(conv, torch.float32 if largest_sum < EXACT_FP32 else torch.float64)

    def convolve(maps: Maps, first: int, end: int) -> Maps:
        if (first, end) == (0, rows):
            return run(maps, conv.padding)
        low, high = first * stride - padding, (end - 1) * stride - padding + kernel
        seen = maps[:, max(0, low) : min(high, height)]
        band = F.pad(seen, (0, 0, 0, 0, max(0, -low), max(0, high - height))).contiguous()
        return run(band, (0, conv.padding[1]))

    return convolve


def kernels() -> str:
    """Which convolutions run: "int8" where it is exact on this machine, else "fp32".

    The environment variable SPIKDEPLOY_KERNELS forces one: "int8" or "plain".
    """
    forced = os.environ.get("SPIKDEPLOY_KERNELS", "")
    if forced not in ("", "plain", "int8"):
        raise InputError("SPIKDEPLOY_KERNELS", f"'{forced}' is no kind of kernel", "Use plain or int8, or unset it.")
    if forced:
        return "int8" if forced == "int8" else "fp32"
    return "int8" if int8_works() else "fp32"


@cache
def int8_works() -> bool:
    """Whether oneDNN's int8 convolution gives exact integers here, extreme and random operands alike."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (24, 40, 3, 3), generator=generator, dtype=torch.int8)
    weight[0], weight[1] = 127, -127
    images = torch.randint(0, 256, (2, 9, 8, 40), generator=generator, dtype=torch.uint8)
    images[0] = 255
    conv = Conv(weight.numpy(), (1, 1), (1, 1))
    try:
        found = _int8_convolution(conv)(images, conv.padding)
    except (RuntimeError, AttributeError):
        return False
    right = torch.conv2d(images.permute(0, 3, 1, 2).double(), weight.double(), None, 1, 1)
    return bool((found.permute(0, 3, 1, 2) == right).all())


def _int8_convolution(conv: Conv) -> Convolution:
    onednn = torch.ops.onednn
    outputs = len(conv.weight)
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    stride = list(conv.stride)

    @lru_cache(maxsize=PACKINGS)
    def packed(shape: tuple[int, ...], padding: tuple[int, int]) -> torch.Tensor:
        # the layout that oneDNN chooses depends on the shape, and that of another one costs up to 50 times the time
        geometry = stride, list(padding), [1, 1], conv.groups
        return onednn.qconv_prepack(torch.tensor(conv.weight), ones, 1.0, 0, *geometry, list(shape))

    def run(maps: Maps, padding: tuple[int, int]) -> Maps:
        channels_first = maps.permute(0, 3, 1, 2)
        out = onednn.qconv_pointwise(
            channels_first, 1.0, 0, packed(tuple(channels_first.shape), padding), ones, zeros, None, stride,
            list(padding), [1, 1], conv.groups, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return out.permute(0, 2, 3, 1).contiguous()

    return run


def _float_convolution(conv: Conv, kind: torch.dtype) -> Convolution:
    weight = torch.tensor(conv.weight).to(kind).to(memory_format=torch.channels_last)

    def run(maps: Maps, padding: tuple[int, int]) -> Maps:
        out = torch.conv2d(maps.permute(0, 3, 1, 2).to(kind), weight, None, conv.stride, padding, 1, conv.groups)
        return out.permute(0, 2, 3, 1).contiguous()

    return run
