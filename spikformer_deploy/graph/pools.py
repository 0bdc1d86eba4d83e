"""Pools of exported models, in one and two dimensions: a pool of a line is one of a map with one row or one column."""

from __future__ import annotations

from spikformer_deploy.base.arrays import Pair
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.axes import Dim
from spikformer_deploy.graph.calls import Call, Handler, Value, pair_of
from spikformer_deploy.graph.maps import add_spatial, line_of, maps_of, on_line


def _max_pool2d(call: Call) -> Value:
    """Arguments: x, kernel, stride, padding, dilation, ceil_mode."""
    value = call.value()
    channels, _, _ = maps_of(call, value)
    kernel = pair_of(call.args[1])
    # torch's default stride is the kernel; an exported default is an empty list, or is left out
    stride = pair_of(call.argument(2) or kernel)
    padding = pair_of(call.argument(3, 0))
    dilation = pair_of(call.argument(4, 1))
    op = ir.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=call.argument(5, False))
    return add_spatial(call, op, value, channels)


def _max_pool1d(call: Call) -> Value:
    """As _max_pool2d, along a line."""
    value = call.value()
    line = line_of(call, value)
    kernel, stride, padding = _line_windows(call, line)
    dilation = on_line(line, pair_of(call.argument(4, 1))[0], 1)
    op = ir.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=call.argument(5, False))
    return add_spatial(call, op, value, call.node_shape(value)[0])


def _avg_pool2d(call: Call) -> Value:
    """Arguments: x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override."""
    value = call.value()
    channels, _, _ = maps_of(call, value)
    kernel = pair_of(call.args[1])
    op = ir.AvgPool2d(
        kernel,
        stride=pair_of(call.argument(2) or kernel),
        padding=pair_of(call.argument(3, 0)),
        ceil_mode=call.argument(4, False),
        count_include_pad=call.argument(5, True),
        divisor=call.argument(6),
    )
    return add_spatial(call, op, value, channels)


def _avg_pool1d(call: Call) -> Value:
    """As _avg_pool2d, along a line, without divisor_override."""
    value = call.value()
    if call.node_shape(value)[1:] == (1, 1):
        raise call.refuse(
            "avg_pool1d of single positions averages over classes",
            "Take the mean over groups of classes (VotingLayer) out of the module, or fold it into a layer.",
        )
    line = line_of(call, value)
    kernel, stride, padding = _line_windows(call, line)
    op = ir.AvgPool2d(
        kernel, stride, padding, ceil_mode=call.argument(4, False), count_include_pad=call.argument(5, True)
    )
    return add_spatial(call, op, value, call.node_shape(value)[0])


def _line_windows(call: Call, line: str) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and padding (y, x) of a pool along a line; across it, each window is one position."""
    kernel = pair_of(call.args[1])[0]
    stride = pair_of(call.argument(2) or kernel)[0]
    padding = pair_of(call.argument(3, 0))[0]
    return on_line(line, kernel, 1), on_line(line, stride, 1), on_line(line, padding, 0)


def _adaptive_avg_pool2d(call: Call) -> Value:
    """Arguments: x, size; None in the size leaves an axis as it is."""
    value = call.value()
    channels, *extents = maps_of(call, value)
    size = [extent if n is None else int(n) for n, extent in zip(call.args[1], extents, strict=True)]
    return _adaptive(call, value, channels, pair_of(size))


def _adaptive_avg_pool1d(call: Call) -> Value:
    value = call.value()
    line = line_of(call, value)
    size = on_line(line, pair_of(call.args[1])[0], 1)
    return _adaptive(call, value, call.node_shape(value)[0], size)


def _adaptive(call: Call, value: Value, channels: int, size: Pair) -> Value:
    """A pool to `size` positions; one to a single position is a mean, which a head can take without neurons."""
    if size != (1, 1):
        return add_spatial(call, ir.AdaptiveAvgPool2d(size), value, channels)
    no_positions: tuple[Dim, ...] = ((),) * (len(value.dims) - 2)
    return call.add(ir.Mean(), (value.name,), (channels, 1, 1), (*value.dims[:2], *no_positions))


POOLS: dict[str, Handler] = {
    "aten.max_pool2d": _max_pool2d,
    "aten.max_pool1d": _max_pool1d,
    "aten.avg_pool2d": _avg_pool2d,
    "aten.avg_pool1d": _avg_pool1d,
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "aten.adaptive_avg_pool1d": _adaptive_avg_pool1d,
}
"""Exported operation -> handler."""
