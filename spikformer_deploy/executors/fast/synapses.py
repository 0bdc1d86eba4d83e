"""Exact integer convolutions for the engine, each layer by the fastest of several ways to the same integers.

    int8    oneDNN's quantized convolution: uint8 messages, int8 weights, int32 sums, as fp32 (exact below 2^24)
    fp32    floating point whose every partial sum is an integer below 2^24, so that no rounding ever happens
    fp64    the same below 2^53
    events  rows of int8 weights added up, one for each spike (gather.py): cheaper where few neurons fire
A processor without VNNI may saturate int8 products: int8 and events are compared with plain sums once, at the start.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache
from typing import TypeAlias

import torch
import torch.nn.functional as F

from spikformer_deploy.base.arrays import EXACT_FP32
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.executors.fast.gather import event_convolution
from spikformer_deploy.network.synapses import Conv

Maps: TypeAlias = torch.Tensor
"""(N * T, Y, X, C) contiguous."""
Convolve: TypeAlias = Callable[[Maps, int, int, int], Maps]
"""(messages of all rows, their total value, first row, end row) -> sums of these rows."""
Convolution: TypeAlias = Callable[[Maps, tuple[int, int]], Maps]
"""(messages, padding) -> sums."""

PACKINGS = 6
"""Packed weights kept of a layer: for parts of two sizes, each cut into equal pieces and a rest, of images or rows."""

# What decides between multiplications and events, in nanoseconds of one thread of a Zen 4 core at 3.7 GHz, fitted to
# times of layers (benchmarks/layers.py).  Only speed depends on these.
MULTIPLIED = {"int8": 1 / 220, "fp32": 1 / 55}
"""A multiply-accumulate."""
PER_POSITION = 50.0
"""Of events: an output position."""
PER_WINDOW = 12.0
"""Of events: each position of its window."""
PER_ROW = 0.7
"""Of events: each row of weights that is added."""
PER_WEIGHT = 0.017
"""Of events: each weight of such a row."""


def exact_in_fp32(bound: int) -> bool:
    """Whether fp32 holds all partial sums that stay below a bound; fp64 holds all others that there are."""
    return bound < EXACT_FP32


def convolution(conv: Conv, shape: tuple[int, int, int], max_in: int, largest_sum: int) -> Convolve:
    """The function from uint8 or int32 messages (M, Y, X, C_in) to sums (M, end - first, X', C_out), float but exact.

    shape        (C, Y, X) of the source; max_in: its largest message
    largest_sum  bound of every partial sum
    """
    small = conv.weight.dtype.itemsize == 1 and max_in < 256 and exact_in_fp32(largest_sum)
    kinds = _kinds()
    gathered = event_convolution(conv, shape[0]) if small and "events" in kinds else None
    stepped, columns = without_idle_stride(conv, shape[2])
    if small and "int8" in kinds:
        run = _int8_convolution(stepped)
    else:
        run = _float_convolution(stepped, torch.float32 if exact_in_fp32(largest_sum) else torch.float64)
    multiplied = _by_bands(conv, shape[1], run if stepped is conv else _first_column(run, columns))

    def convolve(maps: Maps, total: int, first: int, end: int) -> Maps:
        if gathered is not None and (len(kinds) == 1 or _events_are_cheaper(conv, maps, total, kinds[0])):
            return torch.from_numpy(gathered(maps.numpy(), first, end))
        return multiplied(maps, first, end)

    return convolve


def without_idle_stride(conv: Conv, width: int) -> tuple[Conv, int]:
    """A convolution of maps `width` wide, without a stride between columns where it makes only one column.

    And how many columns of its input that column needs: of its outputs the first one is meant.
    oneDNN (of torch 2.13, at least) gives other sums there, if a group has one input channel.
    """
    kernel = conv.weight.shape[3]
    stride = conv.stride[1]
    padding = conv.padding[1]
    if stride == 1 or (width + 2 * padding - kernel) // stride > 0:
        return conv, width
    return replace(conv, stride=(conv.stride[0], 1)), min(width, max(1, kernel - padding))


def _first_column(run: Convolution, columns: int) -> Convolution:
    """`run` on the first columns, of which the first output is kept."""

    def convolve(maps: Maps, padding: tuple[int, int]) -> Maps:
        return run(maps[:, :, :columns].contiguous(), padding)[:, :, :1].contiguous()

    return convolve


def _by_bands(conv: Conv, height: int, run: Convolution) -> Callable[[Maps, int, int], Maps]:
    """`run` for only some rows: their windows, padded where they reach beyond the map."""
    kernel = conv.weight.shape[2]
    stride = conv.stride[0]
    padding = conv.padding[0]
    rows = (height + 2 * padding - kernel) // stride + 1

    def convolve(maps: Maps, first: int, end: int) -> Maps:
        if (first, end) == (0, rows):
            return run(maps, conv.padding)
        low = first * stride - padding
        high = (end - 1) * stride - padding + kernel
        # padding may be wider than a kernel, so that a band sees nothing else: both edges may be beyond the map
        start = min(max(0, low), height)
        stop = min(max(0, high), height)
        above = min(-min(0, low), high - low)
        below = high - low - above - (stop - start)
        band = F.pad(maps[:, start:stop], (0, 0, 0, 0, above, below)).contiguous()
        return run(band, (0, conv.padding[1]))

    return convolve


def _events_are_cheaper(conv: Conv, maps: Maps, total: int, kind: str) -> bool:
    """Whether adding a row for each of `total` messages takes less time than all multiplications of `kind`."""
    outputs, _, height, width = conv.weight.shape
    window = height * width
    strides = conv.stride[0] * conv.stride[1]
    positions = maps[..., 0].numel() / strides
    # each message is seen by window / strides outputs, borders left out of account
    rows = total * window / strides
    added = positions * (PER_POSITION + PER_WINDOW * window) + rows * (PER_ROW + PER_WEIGHT * outputs)
    return added < positions * conv.weight.size * MULTIPLIED[kind]


def kernels() -> str:
    """Which convolutions run, as a note: "int8, events" where all is exact on this machine.

    The environment variable SPIKDEPLOY_KERNELS forces one: "int8", "plain" or "events".
    """
    return ", ".join(_kinds())


def _kinds() -> tuple[str, ...]:
    """How sums may be computed here: the way to multiply first, then events."""
    forced = os.environ.get("SPIKDEPLOY_KERNELS", "")
    match forced:
        case "":
            return ("int8" if int8_works() else "fp32", *(["events"] if events_work() else []))
        case "int8" | "events":
            if not (int8_works() if forced == "int8" else events_work()):
                problem = f"'{forced}' does not give exact integers on this processor"
                raise InputError("SPIKDEPLOY_KERNELS", problem, "Use plain, or unset it.")
            return (forced,)
        case "plain":
            return ("fp32",)
    raise InputError(
        "SPIKDEPLOY_KERNELS", f"'{forced}' is no kind of kernel", "Use plain, int8 or events, or unset it."
    )


@cache
def int8_works() -> bool:
    """Whether oneDNN's int8 convolution gives exact integers here, extreme and random operands alike."""
    # (channels, kernel, groups): oneDNN has other code for images of few channels, for single positions and for groups
    kinds = ((40, 3, 1), (3, 3, 1), (40, 1, 1), (24, 3, 24))
    try:
        return all(_int8_is_exact(*_extremes(255, *kind)) for kind in kinds)
    except (RuntimeError, AttributeError):  # no such kernel on this processor, or in this torch
        return False


def _int8_is_exact(conv: Conv, images: Maps) -> bool:
    return bool((_int8_convolution(conv)(images, conv.padding) == _plain(conv, images)).all())


@cache
def events_work() -> bool:
    """Whether our compiled sums of weight rows are exact here; a processor that cannot compile them goes without."""
    conv, images = _extremes(3)
    try:
        convolve = event_convolution(conv, images.shape[3])
        sums = None if convolve is None else torch.from_numpy(convolve(images.numpy(), 0, images.shape[1]))
    except Exception:  # whatever the compiler raises: the other kernels do not need it
        return False
    return sums is not None and bool((sums == _plain(conv, images)).all())


def _extremes(largest: int, channels: int = 40, kernel: int = 3, groups: int = 1) -> tuple[Conv, Maps]:
    """A convolution and messages with the largest and smallest operands and random ones, more than any chunk holds."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (24, channels // groups, kernel, kernel), generator=generator, dtype=torch.int8)
    weight[0] = 127
    weight[1] = -127
    images = torch.randint(0, largest + 1, (2, 9, 8, channels), generator=generator, dtype=torch.uint8)
    images[0] = largest
    return Conv(weight.numpy(), (1, 1), (kernel // 2, kernel // 2), groups), images


def _plain(conv: Conv, images: Maps) -> Maps:
    """What is right, in doubles that hold every sum."""
    weight = torch.tensor(conv.weight).double()
    sums = torch.conv2d(images.permute(0, 3, 1, 2).double(), weight, None, conv.stride, conv.padding, 1, conv.groups)
    return sums.permute(0, 2, 3, 1)


def _int8_convolution(conv: Conv) -> Convolution:
    """oneDNN's, with scales of 1 and zero points of 0: integers in, integers out."""
    onednn = torch.ops.onednn
    ones = torch.ones(len(conv.weight))
    zeros = torch.zeros(len(conv.weight), dtype=torch.int64)
    stride = list(conv.stride)

    @lru_cache(maxsize=PACKINGS)
    def packed(shape: tuple[int, ...], padding: tuple[int, int]) -> torch.Tensor:
        # oneDNN chooses a layout for a shape, and with the layout of another shape it takes up to 50 times as long
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
    """torch's, in a type that holds every partial sum; channels last, as the messages are."""
    weight = torch.tensor(conv.weight).to(kind).to(memory_format=torch.channels_last)

    def run(maps: Maps, padding: tuple[int, int]) -> Maps:
        out = torch.conv2d(maps.permute(0, 3, 1, 2).to(kind), weight, None, conv.stride, padding, 1, conv.groups)
        return out.permute(0, 2, 3, 1).contiguous()

    return run
