"""Exact integer convolutions for the engine, each layer by the fastest of several ways to the same integers.

    int8    oneDNN's quantized convolution: uint8 messages, int8 weights, int32 sums, as fp32 (exact below 2^24)
    pairs   sums of pairs of products in 16 bits (pairs.py), where the layer's weights and messages cannot leave them
    fp32    floating point whose every partial sum is an integer below 2^24, so that no rounding ever happens
    fp64    the same below 2^53
    events  rows of int8 weights added up, one for each spike (gather.py): cheaper where few neurons fire
A processor without VNNI saturates int8 products of large messages: oneDNN is compared with plain sums once, at the
start, for messages up to several sizes, and a layer takes it if its own are not larger.  So are pairs and events.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F

from spikformer_deploy.base.arrays import EXACT_FP32, Array
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.executors.fast.costs import Costs, kept, usual
from spikformer_deploy.executors.fast.gather import event_convolution
from spikformer_deploy.executors.fast.pairs import STEP, pair_convolution, processor_has_pairs, segments_of
from spikformer_deploy.network.synapses import Conv

Maps: TypeAlias = torch.Tensor
"""(N * T, Y, X, C) contiguous."""
Convolve: TypeAlias = Callable[[Maps, int, int, int], Maps]
"""(messages of all rows, their total value, first row, end row) -> sums of these rows."""
Convolution: TypeAlias = Callable[[Maps, tuple[int, int]], Maps]
"""(messages, padding) -> sums."""

PACKINGS = 6
"""Packed weights kept of a layer: for parts of two sizes, each cut into equal pieces and a rest, of images or rows."""

LARGEST_MESSAGES = (255, 128, 64, 8, 1)
"""Up to which int8 is compared with plain sums.  Two products of 128 and an int8 just fit 16 bits together."""
WIDENING = 2
"""Of pairs: a widening of sums takes about as long as so many steps over inputs."""


def exact_in_fp32(bound: int) -> bool:
    """Whether fp32 holds all partial sums that stay below a bound; fp64 holds all others that there are."""
    return bound < EXACT_FP32


class Layer(NamedTuple):
    """A convolution that is ready to run.

    kinds         the kernels that it may run by
    events_below  the mean message below which it runs by events
    """

    convolve: Convolve
    kinds: tuple[str, ...]
    events_below: float


def convolution(conv: Conv, shape: tuple[int, int, int], max_in: int, largest_sum: int) -> Layer:
    """From uint8 or int32 messages (M, Y, X, C_in) to sums (M, end - first, X', C_out), float but exact.

    shape        (C, Y, X) of the source; max_in: its largest message
    largest_sum  bound of every partial sum
    """
    small = conv.weight.dtype.itemsize == 1 and max_in < 256 and exact_in_fp32(largest_sum)
    allowed = _kinds()
    gathered = event_convolution(conv, shape[0]) if small and "events" in allowed else None
    if gathered is not None and allowed == ("events",):
        return Layer(_from_arrays(gathered), allowed, math.inf)
    kind, cost, multiplied = _dense(conv, shape, max_in, largest_sum, allowed if small else ())
    if gathered is None:
        return Layer(lambda maps, total, first, end: multiplied(maps, first, end), (kind,), 0.0)
    below = events_below(conv, cost)

    def convolve(maps: Maps, total: int, first: int, end: int) -> Maps:
        if _events_are_cheaper(maps, total, below, kind):
            return torch.from_numpy(gathered(maps.numpy(), first, end))
        return multiplied(maps, first, end)

    return Layer(convolve, (kind, "events"), below)


def _from_arrays(run: Callable[[Array, int, int], Array]) -> Convolve:
    return lambda maps, total, first, end: torch.from_numpy(run(maps.numpy(), first, end))


def _dense(
    conv: Conv, shape: tuple[int, int, int], max_in: int, largest_sum: int, allowed: Sequence[str]
) -> tuple[str, float, Callable[[Maps, int, int], Maps]]:
    """The cheapest of the `allowed` ways to multiply that is exact for this layer, else floating point.

    Its name, nanoseconds of a multiply-accumulate, and from (messages of all rows, first row, end row) to sums.
    """
    ways: dict[str, float] = {}
    costs = current()
    if "int8" in allowed and max_in <= int8_limit():
        ways["int8"] = costs.int8
    # what cannot be the cheapest is not worked out
    possible = "pairs" in allowed and costs.pairs < ways.get("int8", math.inf)
    segments = segments_of(conv, max_in) if possible else None
    if segments is not None:
        ways["pairs"] = pairs_cost(conv, len(segments))
    if "fp32" in allowed or not ways:
        ways["fp32" if exact_in_fp32(largest_sum) else "fp64"] = costs.fp32
    kind = min(ways, key=lambda name: ways[name])
    if kind == "pairs":
        assert segments is not None
        run = pair_convolution(conv, shape[0], segments)
        return kind, ways[kind], lambda maps, first, end: torch.from_numpy(run(maps.numpy(), first, end))
    stepped, columns = without_idle_stride(conv, shape[2])
    if kind == "int8":
        multiplied = _int8_convolution(stepped)
    else:
        multiplied = _float_convolution(stepped, torch.float32 if kind == "fp32" else torch.float64)
    multiplied = multiplied if stepped is conv else _first_column(multiplied, columns)
    return kind, ways[kind], _by_bands(conv, shape[1], multiplied)


def pairs_cost(conv: Conv, segments: int) -> float:
    """Nanoseconds of a multiply-accumulate of pairs, where the inputs of a sum are cut into some segments."""
    return current().pairs * (1 + WIDENING * segments / (conv.weight[0].size / STEP))


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


def events_below(conv: Conv, multiplied: float) -> float:
    """The mean message below which adding a row for each takes less time than all multiplications.

    multiplied  nanoseconds of a multiply-accumulate
    """
    outputs, channels, height, width = conv.weight.shape
    window = height * width
    costs = current()
    # of an output position; borders are left out of account
    left = conv.weight.size * multiplied - costs.position - costs.window * window
    of_mean = channels * window * (costs.row + costs.weight * outputs)
    return max(0.0, left / of_mean) if of_mean else math.inf


def _events_are_cheaper(maps: Maps, total: int, below: float, kind: str) -> bool:
    """Whether messages of that total value are few enough; `kind` would multiply."""
    return total < below * maps.numel()


def current() -> Costs:
    """The costs that were measured on this machine, else usual ones."""
    return kept() or usual(int8_limit())


def kernels() -> str:
    """Which kernels convolutions may run by, as a note: "int8, events" where all is exact on this machine.

    The environment variable SPIKDEPLOY_KERNELS forces one: "int8", "pairs", "plain" or "events".  A layer for which
    that one is not exact runs in floating point, and the note of the run has it.
    """
    return ", ".join(_kinds())


def note(layers: Iterable[Layer]) -> str:
    """The kernels by which some layers may run."""
    met = {kind for layer in layers for kind in layer.kinds}
    return ", ".join(kind for kind in ("int8", "pairs", "fp32", "fp64", "events") if kind in met) or kernels()


def _kinds() -> tuple[str, ...]:
    """How sums may be computed here: the ways to multiply first, then events."""
    forced = os.environ.get("SPIKDEPLOY_KERNELS", "")
    works: dict[str, Callable[[], object]] = {"int8": int8_limit, "pairs": pairs_work, "events": events_work}
    match forced:
        case "":
            # nothing is compiled that no layer would take
            wanted = ("int8", "pairs", "events") if _pairs_may_pay() else ("int8", "events")
            return (*(kind for kind in wanted if works[kind]()), "fp32")
        case "int8" | "pairs" | "events":
            if not works[forced]():
                problem = f"'{forced}' does not give exact integers on this processor"
                raise InputError("SPIKDEPLOY_KERNELS", problem, "Use plain, or unset it.")
            return (forced,)
        case "plain":
            return ("fp32",)
    raise InputError(
        "SPIKDEPLOY_KERNELS", f"'{forced}' is no kind of kernel", "Use plain, int8, pairs or events, or unset it."
    )


def _pairs_may_pay() -> bool:
    """Whether pairs may be the cheapest way of a layer of small messages."""
    costs = current()
    return int8_limit() < LARGEST_MESSAGES[0] or costs.pairs < costs.int8


@cache
def int8_limit() -> int:
    """The largest message up to which oneDNN's int8 convolution gives exact integers here; 0 where it never does."""
    return next((largest for largest in LARGEST_MESSAGES if _int8_works(largest)), 0)


def _int8_works(largest: int) -> bool:
    """Whether it is exact for messages up to `largest`, extreme and random operands alike."""
    # (channels, kernel, groups): oneDNN has other code for images of few channels, for single positions and for groups
    kinds = ((40, 3, 1), (3, 3, 1), (40, 1, 1), (24, 3, 24))
    try:
        return all(_int8_is_exact(*_extremes(largest, *kind)) for kind in kinds)
    except (RuntimeError, AttributeError):  # no such kernel on this processor, or in this torch
        return False


def _int8_is_exact(conv: Conv, images: Maps) -> bool:
    return bool((_int8_convolution(conv)(images, conv.padding) == _plain(conv, images)).all())


@cache
def pairs_work() -> bool:
    """Whether our compiled sums of pairs are there, and exact, on this processor."""
    if not processor_has_pairs():
        return False
    try:
        return all(_pairs_are_exact(*_extremes(largest, 40, kernel)) for largest in (1, 63) for kernel in (1, 3))
    except Exception:  # whatever the compiler raises: the other kernels do not need it
        return False


def _pairs_are_exact(conv: Conv, images: Maps) -> bool:
    segments = segments_of(conv, int(images.max()))
    assert segments is not None
    sums = pair_convolution(conv, images.shape[3], segments)(images.numpy(), 0, images.shape[1])
    return bool((torch.from_numpy(sums) == _plain(conv, images)).all())


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
    weight = torch.randint(-128, 128, (24, channels // groups, kernel, kernel), generator=generator, dtype=torch.int8)
    weight[0] = 127
    weight[1] = -128
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
