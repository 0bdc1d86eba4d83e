"""Pools of exported models, in one and two dimensions: a pool of a line is one of a map with one row or one column."""

from __future__ import annotations

from typing import Any

from spikformer_deploy.base.arrays import Pair
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import Dim, axis
from spikformer_deploy.graph.calls import Call, Handler, Value, pair_of
from spikformer_deploy.graph.maps import add_spatial, line_of, maps_of, on_line


def _max_pool2d(call: Call) -> Value:
    """Arguments: x, kernel, stride, padding, dilation, ceil_mode."""
    value = call.value()
    kernel = pair_of(call.args[1])
    # torch's default stride is the kernel; an exported default is an empty list, or is left out
    stride = pair_of(call.argument(2) or kernel)
    padding = pair_of(call.argument(3, 0))
    dilation = pair_of(call.argument(4, 1))
    op = ir.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=call.argument(5, False))
    if _has_tokens(call, value):
        return _token_pool(call, op)
    channels, _, _ = maps_of(call, value)
    return add_spatial(call, op, value, channels)


def _max_pool3d(call: Call) -> Value:
    """As _max_pool2d, of (..., D, Y, X) with windows that see one D alone, as of time steps (T, B, C, Y, X)."""
    value = call.value()
    kernel = _three(call.args[1])
    stride = _three(call.argument(2) or kernel)
    padding = _three(call.argument(3, 0))
    dilation = _three(call.argument(4, 1))
    if (kernel[0], stride[0], padding[0]) != (1, 1, 0):
        problem = f"max_pool3d of {axes.show(value.dims)} over three dimensions"
        raise call.refuse(problem, "Pool over the last two dimensions only: kernel (1, k, k).")
    op = ir.MaxPool2d(kernel[1:], stride[1:], padding[1:], dilation[1:], ceil_mode=call.argument(5, False))
    if _has_tokens(call, value):
        return _token_pool(call, op)
    channels, *extents = call.node_shape(value)
    maps = (axis("C", channels), axis("Y", extents[0]), axis("X", extents[1]))
    if value.dims[-3:] != maps:
        raise call.refuse(f"max_pool3d sees {axes.show(value.dims)} instead of (T, B, C, Y, X)")
    height, width = call.shape[-2:]
    dims = (*value.dims[:-2], axis("Y", height), axis("X", width))
    return call.add(op, (value.name,), (channels, height, width), dims)


def _three(value: Any) -> tuple[int, int, int]:
    """(z, y, x) from one number or three."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return (int(values[0]), int(values[len(values) // 2]), int(values[-1]))


def _has_tokens(call: Call, value: Value) -> bool:
    """Whether the last two dimensions of a value are tokens and channels of a head, in either order."""
    _, height, width = call.node_shape(value)
    tokens = (*axis("Y", height), *axis("X", width))
    pair = value.dims[-2:]
    return any(one == tokens and axes.roles(other) == {"C"} for one, other in (pair, pair[::-1]))


def _token_pool(call: Call, pool: ir.MaxPool2d) -> Value:
    """A pool over the tokens and the channels of each head, which may stand in either order."""
    value = call.value()
    channels_first = axes.roles(value.dims[-2]) == {"C"}
    of_head = value.dims[-2 if channels_first else -1]
    channels, tokens = pool.kernel if channels_first else pool.kernel[::-1]
    halves = (pool.kernel[0] // 2, pool.kernel[1] // 2)
    keeps_size = channels % 2 == tokens % 2 == 1 and pool.padding == halves
    if (pool.stride, pool.dilation) != ((1, 1), (1, 1)) or not keeps_size or of_head[-1].stride != 1:
        raise call.refuse(
            f"{call.what} of tokens and channels, {axes.show(value.dims)}, with kernel {pool.kernel}, stride "
            f"{pool.stride}, padding {pool.padding}",
            "Pool neighbouring ones with stride 1, an odd kernel and a padding of half of it.",
        )
    shape = call.node_shape(value)
    return call.add(ir.TokenPool(shape[0] // axes.size(of_head), tokens, channels), (value.name,), shape, value.dims)


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
    "aten.max_pool3d": _max_pool3d,
    "aten.max_pool1d": _max_pool1d,
    "aten.avg_pool2d": _avg_pool2d,
    "aten.avg_pool1d": _avg_pool1d,
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "aten.adaptive_avg_pool1d": _adaptive_avg_pool1d,
}
"""Exported operation -> handler."""
