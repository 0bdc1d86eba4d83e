"""Layers with weights of exported models: convolutions, linear layers, batch normalisation; and padding for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from spikformer_deploy.base.arrays import Pair
from spikformer_deploy.base.values import frozen
from spikformer_deploy.graph import axes, ir
from spikformer_deploy.graph.axes import axis
from spikformer_deploy.graph.calls import Call, Handler, Padded, Value, bias_of, float64, pair_of
from spikformer_deploy.graph.maps import add_spatial, line_of, maps_of, on_line
from spikformer_deploy.graph.windows import framed, widened

# --- padding --------------------------------------------------------------------------------------------------


def _pad(call: Call) -> Padded:
    """Zeros that the next convolution reads; any other operation refuses them.

    torch lists sizes from the last dimension to the first: (left, right), then (top, bottom).
    """
    value = call.value()
    sizes = [int(n) for n in call.args[1]]
    mode = call.argument(2, "constant")
    filling = call.argument(3, 0.0)
    if mode != "constant" or filling != 0:
        what = f"padding of mode '{mode}'" if mode != "constant" else f"padding with {filling}"
        raise call.refuse(f"{what} is not supported", "Pad with zeros.")
    if len(sizes) not in (2, 4) or min(sizes) < 0:
        raise call.refuse(f"padding by {sizes} is not supported", "Pad positions, and cut none off.")
    if len(value.dims) == 3 and len(sizes) == 2:
        line = line_of(call, value)
        return Padded(value, on_line(line, sizes[0], 0), on_line(line, sizes[1], 0))
    maps_of(call, value)
    left, right, top, bottom = (*sizes, 0, 0)[:4]
    return Padded(value, (top, left), (bottom, right))


def _padded(call: Call) -> Padded:
    """What a convolution reads: padding that stands before it, or a value without any."""
    source = call.args[0]
    return source if isinstance(source, Padded) else Padded(call.value(), (0, 0), (0, 0))


def _margins(padding: Pair | str, extents: Pair) -> tuple[Pair, Pair]:
    """Zeros (before, after) the map that a convolution pads with by itself; `extents` are those of its kernel."""
    if not isinstance(padding, str):
        return padding, padding
    total = [extent - 1 if padding == "same" else 0 for extent in extents]
    before = (total[0] // 2, total[1] // 2)
    # where "same" needs an odd number of zeros, torch puts the odd one behind
    return before, (total[0] - before[0], total[1] - before[1])


# --- convolutions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Geometry:
    """How the kernel of a convolution goes over a map, (y, x) each; `padding` may be torch's "same" or "valid"."""

    stride: Pair
    dilation: Pair
    padding: Pair | str


def _conv2d(call: Call) -> Value:
    """Arguments: x, weight, bias, stride, padding, dilation, groups."""
    padded = _padded(call)
    maps_of(call, padded.value)
    padding = call.argument(4, 0)
    geometry = _Geometry(
        stride=pair_of(call.argument(3, 1)),
        dilation=pair_of(call.argument(5, 1)),
        padding=padding if isinstance(padding, str) else pair_of(padding),
    )
    return _convolution(call, padded, _weight(call), geometry)


def _conv1d(call: Call) -> Value:
    """A linear layer over tokens where the kernel is 1; else a convolution of maps of one row or one column.

    Arguments: x, weight, bias, stride, padding, dilation, groups.
    """
    weight = _weight(call)
    stride = pair_of(call.argument(3, 1))[0]
    padding = call.argument(4, 0)
    dilation = pair_of(call.argument(5, 1))[0]
    groups = int(call.argument(6, 1))
    is_unpadded = padding in ("same", "valid") or pair_of(padding) == (0, 0)
    # transformers write their linear layers so; tokens of several rows are no line, and need none
    if weight.shape[2] == stride == groups == 1 and is_unpadded and isinstance(call.args[0], Value):
        return _dense(call, call.value(), weight[:, :, 0], 1)
    padded = _padded(call)
    line = line_of(call, padded.value)
    geometry = _Geometry(
        stride=on_line(line, stride, 1),
        dilation=on_line(line, dilation, 1),
        padding=padding if isinstance(padding, str) else on_line(line, pair_of(padding)[0], 0),
    )
    return _convolution(call, padded, weight.unsqueeze(2 if line == "X" else 3), geometry)


def _weight(call: Call) -> torch.Tensor:
    if not isinstance(call.args[1], torch.Tensor):
        raise call.refuse("a convolution with computed weights is not supported")
    return call.args[1]


def _convolution(call: Call, padded: Padded, weight: torch.Tensor, geometry: _Geometry) -> Value:
    """A convolution of maps with `weight` (C_out, C_in / groups, KY, KX)."""
    extents = widened((weight.shape[2], weight.shape[3]), geometry.dilation)
    low, high = _margins(geometry.padding, extents)
    before = (padded.before[0] + low[0], padded.before[1] + low[1])
    after = (padded.after[0] + high[0], padded.after[1] + high[1])
    kernel, padding = framed(float64(weight), geometry.dilation, before, after)
    groups = int(call.argument(6, 1))
    op = ir.Conv2d(frozen(kernel), bias_of(call, 2, len(weight)), geometry.stride, padding, groups)
    return add_spatial(call, op, padded.value, len(weight))


# --- linear layers and normalisation --------------------------------------------------------------------------


def _linear(call: Call) -> Value:
    """Arguments: x, weight, bias; the layer runs over the last dimension of x."""
    value = call.value()
    return _dense(call, value, call.args[1], len(value.dims) - 1)


def _dense(call: Call, value: Value, weight: torch.Tensor, at: int) -> Value:
    """A linear layer over dimension `at`: the whole channel axis, or a whole flattened map.

    A layer of a flattened map is a convolution whose kernel has the size of the map.
    """
    channels, height, width = call.node_shape(value)
    flattened = (*axis("C", channels), *axis("Y", height), *axis("X", width))
    is_flattened = value.dims[at] == flattened and (height, width) != (1, 1)
    if not is_flattened and value.dims[at] != axis("C", channels):
        raise call.refuse(f"a linear layer over dimension {at} of {axes.show(value.dims)} mixes axes")
    outputs = len(weight)
    bias = bias_of(call, 2, outputs)
    dims = axes.replaced(value.dims, at, axis("C", outputs))
    if is_flattened:
        kernel = float64(weight.reshape(-1, channels, height, width))
        return call.add(ir.Conv2d(kernel, bias), (value.name,), (outputs, 1, 1), dims)
    return call.add(ir.Linear(float64(weight), bias), (value.name,), (outputs, height, width), dims)


def _batch_norm(call: Call) -> Value:
    """Arguments: x, gamma, beta, mean, variance, training, momentum, eps."""
    value = call.value()
    gamma, beta, mean, var = call.args[1:5]
    shape = call.node_shape(value)
    if call.argument(5) or mean is None or var is None:
        raise call.refuse("batch normalisation without running statistics", "Call model.eval() before compiling.")
    if value.dims[1] != axis("C", shape[0]):
        raise call.refuse(f"batch normalisation over dimension 1 of {axes.show(value.dims)} mixes axes")
    if bool((var < 0).any()):
        raise call.refuse("a negative running variance")
    # affine=False
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    op = ir.BatchNorm(float64(gamma), float64(beta), float64(mean), float64(var), float(call.args[7]))
    return call.add(op, (value.name,), shape, value.dims)


LAYERS: dict[str, Handler] = {
    "aten.pad": _pad,
    "aten.conv2d": _conv2d,
    "aten.conv1d": _conv1d,
    "aten.linear": _linear,
    "aten.batch_norm": _batch_norm,
}
"""Exported operation -> handler."""
