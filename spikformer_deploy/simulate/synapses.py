"""Exact integer convolutions and attention on torch's fast kernels, for the engine.

Three kinds of arithmetic give the same integers:
    int8  oneDNN's quantized convolution: uint8 messages, int8 weights, int32 sums, delivered as fp32 (exact below 2^24)
    fp32  floating point whose every partial sum is an integer below 2^24, so that no rounding ever happens
    fp64  the same below 2^53
A processor without VNNI may saturate int8 products: `int8_works` compares the kernel with plain integers once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
import torch

from spikformer_deploy.errors import InputError
from spikformer_deploy.quantize.network import Attention, Conv

Maps: TypeAlias = torch.Tensor
"""(N * T, Y, X, C) contiguous."""

EXACT_FP32 = 2**24
"""All integers up to here are exact in fp32, and so are all their sums that stay below it, in any order."""


def convolution(conv: Conv, shape: tuple[int, int, int], max_in: int, largest_sum: int) -> Callable[[Maps], Maps]:
    """The function from uint8 or int32 messages (M, Y, X, C_in) to sums (M, Y', X', C_out), float but exact.

    shape        (C, Y, X) of the source; max_in: its largest message
    largest_sum  bound of every partial sum
    """
    if conv.weight.dtype == np.int8 and max_in < 256 and largest_sum < EXACT_FP32 and kernels() == "int8":
        return _int8_convolution(conv, shape)
    kind = torch.float32 if largest_sum < EXACT_FP32 else torch.float64
    weight = torch.tensor(conv.weight, dtype=kind).to(memory_format=torch.channels_last)

    def run(maps: Maps) -> Maps:
        channels_first = maps.permute(0, 3, 1, 2).to(kind)
        out = torch.conv2d(channels_first, weight, None, conv.stride, conv.padding, 1, conv.groups)
        return out.permute(0, 2, 3, 1).contiguous()

    return run


def attention(synapse: Attention, q: Maps, k: Maps, v: Maps, largest_sum: int) -> Maps:
    """weight * q (k^T v) per head, from messages (M, Y, X, C) to sums of the same shape, float but exact."""
    kind = torch.float32 if largest_sum < EXACT_FP32 else torch.float64
    maps, height, width, channels = q.shape
    heads = (maps, height * width, synapse.heads, channels // synapse.heads)
    query, key, value = (x.to(kind).reshape(heads).transpose(1, 2) for x in (q, k, v))
    out = query @ (key.transpose(2, 3) @ value)
    return (out * synapse.weight).transpose(1, 2).reshape(q.shape)


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
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (24, 40, 3, 3)).astype(np.int8)
    weight[0], weight[1] = 127, -127
    images = rng.integers(0, 256, (2, 9, 8, 40)).astype(np.uint8)
    images[0] = 255
    conv = Conv(weight, (1, 1), (1, 1))
    try:
        found = _int8_convolution(conv, (40, 9, 8))(torch.from_numpy(images))
    except (RuntimeError, AttributeError):
        return False
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    right = torch.conv2d(channels_first, torch.from_numpy(weight).double(), None, 1, 1)
    return bool((found.permute(0, 3, 1, 2) == right).all())


def _int8_convolution(conv: Conv, shape: tuple[int, int, int]) -> Callable[[Maps], Maps]:
    onednn = torch.ops.onednn
    outputs = len(conv.weight)
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
    stride, padding = list(conv.stride), list(conv.padding)
    weight = torch.tensor(conv.weight)
    packed = onednn.qconv_prepack(weight, ones, 1.0, 0, stride, padding, [1, 1], conv.groups, [1, *shape])

    def run(maps: Maps) -> Maps:
        channels_first = maps.permute(0, 3, 1, 2)
        out = onednn.qconv_pointwise(
            channels_first, 1.0, 0, packed, ones, zeros, None, stride, padding, [1, 1], conv.groups, 1.0, 0,
            torch.float32, "none", [], "",
        )  # fmt: skip
        return out.permute(0, 2, 3, 1).contiguous()

    return run
