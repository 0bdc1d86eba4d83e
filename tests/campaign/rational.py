"""What a float graph and an integer network mean, in rational numbers: slow, plain, and without any rounding."""

from __future__ import annotations

from fractions import Fraction
from math import isinf
from typing import Any

import numpy as np

from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.graph import ir
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import DECAY_ONE, Lif
from spikformer_deploy.network.synapses import synaptic_sum

Rational = Any
"""An object array of Fractions."""
ZERO = Fraction(0)


def rational(values: Any) -> Rational:
    """Fractions of numbers that are what they say, floats too."""
    flat = [Fraction(v) for v in np.asarray(values).ravel().tolist()]
    out = np.empty(len(flat), object)
    out[:] = flat
    return out.reshape(np.shape(values))


def zeros(*shape: int) -> Rational:
    return np.full(shape, ZERO, object)


def execute(graph: ir.Graph, images: np.ndarray, preprocess: Preprocess) -> dict[str, Rational]:
    """Every value of a graph, (T, C, Y, X), of one image (C, Y, X) or frames (T, C, Y, X); of the Output (classes,)."""
    (first, *rest), steps = graph.nodes, graph.time_steps
    # a third of a third is a float, and means 1
    scale = [Fraction(1 / (preprocess.max_value * s)).limit_denominator(1000) for s in preprocess.std]
    assert isinstance(first.op, ir.Input)
    offset = [Fraction(m) / Fraction(s) for m, s in zip(preprocess.mean, preprocess.std, strict=True)]
    frames = images if first.op.per_step else np.broadcast_to(images, (steps, *images.shape))
    factor, shift = (np.array(v, object)[:, None, None] for v in (scale, offset))
    values = {first.name: rational(frames) * factor - shift}
    for node in rest:
        given = [values[name] for name in node.inputs]
        if isinstance(node.op, ir.Lif):
            values[node.name] = lif(node.op, given[0])
        elif isinstance(node.op, ir.Output):
            values[node.name] = given[0][-1].ravel() if node.op.last else given[0].sum(0).ravel() / Fraction(steps)
        else:
            values[node.name] = np.stack([value(node, [g[t] for g in given]) for t in range(steps)])
    return values


def lif(op: ir.Lif, current: Rational) -> Rational:
    """The spikes of all time steps, (T, ...)."""
    leak = ZERO if isinf(op.tau) else 1 / Fraction(op.tau)
    gain = leak if op.decay_input else Fraction(1)
    threshold = Fraction(op.v_threshold)
    out, v = zeros(*current.shape), zeros(*current.shape[1:])
    for t in range(len(current)):
        v = v * (1 - leak) + current[t] * gain
        fires = (v > threshold if op.strict else v >= threshold).astype(bool)
        out[t][fires] = Fraction(1)
        v[fires] = v[fires] - threshold if op.soft_reset else ZERO
    return out


def value(node: ir.Node, inputs: list[Rational]) -> Rational:
    """One operation of one time step, (C, Y, X)."""
    x = inputs[0]
    match node.op:
        case ir.Conv2d(weight, bias, stride, padding, groups):
            return convolution(x, rational(weight), stride, padding, groups, node.shape) + rational(bias)[:, None, None]
        case ir.Linear(weight, bias):
            wide = rational(weight)[:, :, None, None]
            return convolution(x, wide, (1, 1), (0, 0), 1, node.shape) + rational(bias)[:, None, None]
        case ir.BatchNorm(gamma, beta, mean, var, eps):
            root = [Fraction(float(np.sqrt(v + eps))) for v in var]
            assert all(r * r == Fraction(float(v)) + Fraction(eps) for r, v in zip(root, var, strict=True))
            scale = (rational(gamma) / np.array(root, object))[:, None, None]
            return (x - rational(mean)[:, None, None]) * scale + rational(beta)[:, None, None]
        case ir.MaxPool2d(kernel, stride, padding, dilation):
            windows = [
                axis_windows(*axis) for axis in zip(node.shape[1:], kernel, stride, padding, dilation, strict=True)
            ]
            return pooled(x, windows, node.shape, max)
        case ir.AvgPool2d():
            return averaged(x, node.op, node.shape)
        case ir.AdaptiveAvgPool2d(size):
            ranges = [
                [range(i * extent // n, -(-(i + 1) * extent // n)) for i in range(n)]
                for extent, n in zip(x.shape[1:], size, strict=True)
            ]
            return pooled(x, ranges, node.shape, lambda seen: sum(seen) / len(seen))
        case ir.Concat():
            return np.concatenate(inputs)
        case ir.Offset(value=added):
            return x + rational(added)
        case ir.Add():
            return x + inputs[1]
        case ir.Scale(factor):
            return x * Fraction(factor)
        case ir.Attention(heads, scale):
            q, k, v = (i.reshape(heads, i.shape[0] // heads, -1) for i in inputs)
            out = [v[h] @ (k[h].T @ q[h]) for h in range(heads)]
            return np.stack(out).reshape(node.shape) * Fraction(scale)
        case ir.SpikeMask():
            return x * np.repeat(inputs[1], x.shape[0] // inputs[1].shape[0], 0)
        case ir.TokenSum():
            return x.sum((1, 2), keepdims=True)
        case ir.Mean():
            return x.sum((1, 2), keepdims=True) / Fraction(x.shape[1] * x.shape[2])
        case op:
            raise TypeError(type(op).__name__)


def convolution(
    x: Rational, weight: Rational, stride: ir.Pair, padding: ir.Pair, groups: int, shape: ir.Shape
) -> Rational:
    """Each input that is not zero is added to every output that sees it."""
    out, depth, per_group = zeros(*shape), weight.shape[1], weight.shape[0] // groups
    for c, y, column in np.argwhere(x != 0).tolist():
        outputs = slice(c // depth * per_group, (c // depth + 1) * per_group)
        for ky, kx in np.ndindex(*weight.shape[2:]):
            (ty, off_y), (tx, off_x) = (
                divmod(y + padding[0] - ky, stride[0]),
                divmod(column + padding[1] - kx, stride[1]),
            )
            if off_y == off_x == 0 and 0 <= ty < shape[1] and 0 <= tx < shape[2]:
                out[outputs, ty, tx] += weight[outputs, c % depth, ky, kx] * x[c, y, column]
    return out


def axis_windows(count: int, kernel: int, stride: int, padding: int, dilation: int) -> list[range]:
    """Where the windows along an axis stand, in the padding too."""
    starts = [i * stride - padding for i in range(count)]
    return [range(start, start + (kernel - 1) * dilation + 1, dilation) for start in starts]


def pooled(x: Rational, windows: list[list[range]], shape: ir.Shape, of: Any) -> Rational:
    """`of` the values that each window sees; padding is no value."""
    out = zeros(*shape)
    for c, y, column in np.ndindex(*shape):
        rows, columns = (
            [i for i in axis[at] if 0 <= i < extent]
            for axis, at, extent in zip(windows, (y, column), x.shape[1:], strict=True)
        )
        out[c, y, column] = of(x[c][np.ix_(rows, columns)].ravel().tolist())
    return out


def averaged(x: Rational, op: ir.AvgPool2d, shape: ir.Shape) -> Rational:
    """Sums of windows over the number of values there, with the padding or without; none beyond it counts."""
    windows, counts = [], []
    for axis in zip(shape[1:], op.kernel, op.stride, op.padding, x.shape[1:], strict=True):
        *numbers, extent = axis
        windows.append(axis_windows(*numbers, 1))
        reach = op.padding[len(counts)] if op.count_include_pad else 0
        counts.append([sum(-reach <= i < extent + reach for i in window) for window in windows[-1]])
    divisors = np.outer(*counts) if op.divisor is None else np.full(shape[1:], op.divisor)
    return pooled(x, windows, shape, sum) / rational(divisors)


def exact_spikes(network: Network, name: str, run: Execution) -> Rational:
    """(N, T, C, Y, X) spikes of the real-valued LIF with the integer weights of a population, on what reached it."""
    neuron = network[name].neuron
    assert isinstance(neuron, Lif)
    assert not neuron.current
    one = 2**neuron.shift
    threshold, bias = (
        rational(values if values.ndim == 3 else values[:, None, None]) / one
        for values in (neuron.threshold, neuron.bias)
    )
    sums = [
        sum(
            synaptic_sum(p.synapse, [run.spikes[s][:, t].astype(np.int64) for s in p.sources], network[name].shape)
            for p in network.into(name)
        )
        for t in range(network.time_steps)
    ]
    out, v = [], zeros(*np.shape(sums[0]))
    for total in sums:
        v = v * Fraction(neuron.decay, DECAY_ONE) + rational(total) + bias
        above = neuron.strict or neuron.kind == "stock"
        fires = (v > threshold if above else v >= threshold).astype(bool)
        out.append(fires)
        v = np.where(fires, v - threshold if neuron.soft else ZERO, v)
    return np.stack(out, 1)
