"""Pools of exported graphs, in one and two dimensions: those of a line are those of maps with one row or one column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spikformer_deploy.base.arrays import Pair
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.operations import Call, Value, line_of, maps_of, on_line, pair_of, spatial


def _max_pool2d(call: Call) -> Value:
    value = call.value()
    channels = maps_of(call, value)[0]
    kernel, padding, dilation = pair_of(call.args[1]), pair_of(call.argument(3, 0)), pair_of(call.argument(4, 1))
    stride = pair_of(call.argument(2) or kernel)
    return spatial(call, ir.MaxPool2d(kernel, stride, padding, dilation, call.argument(5, False)), value, channels)


def _max_pool1d(call: Call) -> Value:
    value = call.value()
    line = line_of(call, value)
    kernel, stride, padding, dilation = _numbers(call, line, (1, 1, 0, 1))
    op = ir.MaxPool2d(kernel, stride, padding, dilation, call.argument(5, False))
    return spatial(call, op, value, call.batch.shape(value.name)[0])


def _avg_pool2d(call: Call) -> Value:
    value = call.value()
    channels = maps_of(call, value)[0]
    kernel, padding, divisor = pair_of(call.args[1]), pair_of(call.argument(3, 0)), call.argument(6)
    stride = pair_of(call.argument(2) or kernel)
    op = ir.AvgPool2d(kernel, stride, padding, call.argument(4, False), call.argument(5, True), divisor)
    return spatial(call, op, value, channels)


def _avg_pool1d(call: Call) -> Value:
    value = call.value()
    if call.batch.shape(value.name)[1:] == (1, 1):
        raise call.refuse(
            "avg_pool1d of single positions averages over classes",
            "Take the mean over groups of classes (VotingLayer) out of the module, or fold it into a layer.",
        )
    line = line_of(call, value)
    kernel, stride, padding = _numbers(call, line, (1, 1, 0))
    op = ir.AvgPool2d(kernel, stride, padding, call.argument(4, False), call.argument(5, True))
    return spatial(call, op, value, call.batch.shape(value.name)[0])


def _numbers(call: Call, line: str, across: tuple[int, ...]) -> list[Pair]:
    """Kernel, stride, padding (and dilation) of a pool along a line; `across` it they are those of no window."""
    kernel = pair_of(call.args[1])[0]
    given = [kernel, pair_of(call.argument(2) or kernel)[0], pair_of(call.argument(3, 0))[0]]
    if len(across) > len(given):
        given.append(pair_of(call.argument(4, 1))[0])
    return [on_line(line, number, other) for number, other in zip(given, across, strict=True)]


def _adaptive_avg_pool2d(call: Call) -> Value:
    value = call.value()
    channels, *extents = maps_of(call, value)
    size = [extent if n is None else int(n) for n, extent in zip(call.args[1], extents, strict=True)]
    return _adaptive(call, value, channels, (size[0], size[1]))


def _adaptive_avg_pool1d(call: Call) -> Value:
    value = call.value()
    line = line_of(call, value)
    return _adaptive(call, value, call.batch.shape(value.name)[0], on_line(line, pair_of(call.args[1])[0], 1))


def _adaptive(call: Call, value: Value, channels: int, size: Pair) -> Value:
    if size == (1, 1):
        return call.add(ir.Mean(), (value.name,), (channels, 1, 1), (*value.dims[:2], *((),) * (len(value.dims) - 2)))
    return spatial(call, ir.AdaptiveAvgPool2d(size), value, channels)


POOLS: dict[str, Callable[[Call], Any]] = {
    "aten.max_pool2d": _max_pool2d,
    "aten.max_pool1d": _max_pool1d,
    "aten.avg_pool2d": _avg_pool2d,
    "aten.avg_pool1d": _avg_pool1d,
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "aten.adaptive_avg_pool1d": _adaptive_avg_pool1d,
}
"""Exported operation -> handler."""
