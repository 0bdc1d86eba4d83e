"""The algebra between a float graph and integer populations: what a value of the graph is in terms of spikes.

A value is a Signal (integers that populations send, with a scale) or a Current (synapses on signals, plus a bias).
Linear operations stay symbolic here until a neuron takes the current: only then are scale and rounding chosen, since
only the neuron's threshold says how fine they must be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Float, Int, Pair, Shape
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.graph.ir import Conv2d
from spikformer_deploy.network.synapses import DualSpike, Window
from spikformer_deploy.quantization.signals import Signal, as_map, as_vector, by_input, total


@dataclass(frozen=True, slots=True, eq=False)
class ConvTerm:
    """Convolution with real `weight` of the integers that `source` sends (scales already multiplied in).

    layer  the node whose weights they are
    """

    layer: str
    source: str
    weight: Float
    stride: Pair
    padding: Pair
    groups: int
    max_out: int


@dataclass(frozen=True, slots=True, eq=False)
class ReadoutTerm:
    """Real weight (O, C) on the sum over positions of what `source` sends, of either sign where `signed`.

    layer  the node whose weights they are
    """

    layer: str
    source: str
    weight: Float
    positions: int
    max_out: int
    signed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AttentionTerm:
    """factor * (q k^T) v of integers; `limit` is the largest value of the integer product, `layer` the node."""

    layer: str
    sources: tuple[str, str, str]
    heads: int
    factor: float
    limit: int


@dataclass(frozen=True, slots=True, eq=False)
class UnitTerm:
    """scale[c] * (sum over a window of the integers that `source` sends): synapses of weight 1, nothing to round.

    low, high  (C,) least and largest sum
    """

    source: str
    window: Window
    scale: Float
    low: Int
    high: Int


@dataclass(frozen=True, slots=True, eq=False)
class DualTerm:
    """scale[c] * (the integer product of what y and s send, `sources`): as UnitTerm, nothing to round.

    low, high  (C,) least and largest sum of each channel; layer: the node
    """

    layer: str
    sources: tuple[str, str]
    synapse: DualSpike
    scale: Float
    low: Int
    high: Int


Term: TypeAlias = ConvTerm | ReadoutTerm | AttentionTerm | UnitTerm | DualTerm


@dataclass(frozen=True, slots=True, eq=False)
class Current:
    """Sum of terms and a bias, (C,) or (C, Y, X): what a neuron receives in a step."""

    terms: tuple[Term, ...]
    bias: Float
    shape: Shape


Value: TypeAlias = Signal | Current


def layers_of(current: Current) -> tuple[str, ...]:
    """The layers whose weights a current adds up."""
    return tuple(term.layer for term in current.terms if isinstance(term, ConvTerm | ReadoutTerm))


def convolve(place: str, value: Value, conv: Conv2d, shape: Shape) -> Current:
    """A convolution (or Linear: 1x1) of a signal; the offset of an image becomes a bias map, exact at the borders.

    shape  of the current
    """
    signal = as_signal(place, value)
    if signal.pooled:
        return _read_out(place, signal, _at_the_mean(place, conv, shape), conv.bias, shape)
    if signal.low is not None and signal.shape[1:] == (1, 1) == conv.weight.shape[2:]:
        return _read_out(place, signal, conv.weight, conv.bias, shape)
    if signal.low is not None:
        raise QuantizeError(
            place, "it reads the mean of a residual stream with no neuron in between", "Put neurons there."
        )
    weight = conv.weight * by_input(signal.scale, conv.groups, len(conv.weight))[:, :, None, None]
    bias = conv.bias
    if np.any(signal.offset):
        # Zero padding stands around the normalised image: there the offset is missing, and the bias is a map.
        bias = as_vector(bias[:, None, None] + _offset_map(signal, conv, shape))
    terms = tuple(
        ConvTerm(place, population, weight, conv.stride, conv.padding, conv.groups, signal.share)
        for population in signal.populations
    )
    return Current(terms, bias, shape)


def add(place: str, left: Value, right: Value) -> Current:
    """The sum of two values as a current (two signals are the business of the caller)."""
    first = as_current(place, left)
    second = as_current(place, right)
    return Current(first.terms + second.terms, total(first.bias, second.bias), first.shape)


def offset(place: str, value: Value, constant: Float) -> Value:
    """value + constant (C, Y, X): an offset of a signal, a bias of a current."""
    if isinstance(value, Current):
        return replace(value, bias=total(value.bias, as_vector(constant)))
    if value.pooled or value.low is not None:
        # These reach a neuron by synapses of weight 1, in which an offset has no place: the bias takes it.
        return offset(place, _unit(place, value), constant)
    return value.plus(constant)


def joined(place: str, currents: Sequence[Current], shape: Shape) -> Current:
    """The channels of `currents`, one after the other: weights of zero from what feeds the others."""
    terms: list[Term] = []
    before = 0
    for current in currents:
        after = shape[0] - before - current.shape[0]
        terms += [_in_rows(place, term, (before, after), shape[1:] == (1, 1)) for term in current.terms]
        before += current.shape[0]
    if all(current.bias.ndim == 1 for current in currents):
        biases = [current.bias for current in currents]
    else:
        biases = [np.broadcast_to(as_map(current.bias), current.shape) for current in currents]
    return Current(tuple(terms), np.concatenate(biases), shape)


def _in_rows(place: str, term: Term, rows: tuple[int, int], one_position: bool) -> Term:
    """A term with `rows` more channels (before, after) its own, which get nothing of it.

    one_position  of a current at one position, where unit synapses are a mean without a layer behind it
    """
    match term:
        case ConvTerm(weight=weight, groups=groups):
            # Rows of zeros belong to no group: the groups are written out as zeros first.
            dense = dense_weight(weight, groups)
            return replace(term, weight=np.pad(dense, (rows, (0, 0), (0, 0), (0, 0))), groups=1)
        case ReadoutTerm(weight=weight):
            return replace(term, weight=np.pad(weight, (rows, (0, 0))))
        case UnitTerm() if one_position:
            return _in_rows(place, _readout_of(place, term), rows, one_position)
        case _:
            problem = "it joins an attention or a residual stream with other currents"
            raise QuantizeError(place, problem, "Put neurons on each branch before the join.")


def scaled(value: Value, factor: float) -> Value:
    """factor * value."""
    if isinstance(value, Signal):
        return value.scaled(factor)
    return Current(tuple(_scaled_term(t, factor) for t in value.terms), value.bias * factor, value.shape)


def as_signal(place: str, value: Value) -> Signal:
    """`value`, where it is a signal; QuantizeError where it is a current (two synaptic layers in a row)."""
    if isinstance(value, Current):
        raise QuantizeError(
            place,
            "its input comes from another synaptic layer with no neuron in between",
            "Put neurons between the two layers, or merge them into one.",
        )
    return value


def as_current(place: str, value: Value) -> Current:
    """`value` as a current: a signal becomes unit synapses, channel by channel."""
    if isinstance(value, Current):
        return value
    if value.pooled or value.low is not None:
        return _unit(place, value)
    channels = value.shape[0]
    identity = Conv2d(np.ones((channels, 1, 1, 1)), np.zeros(channels), groups=channels)
    return convolve(place, value, identity, value.shape)


def at_one_position(place: str, current: Current) -> Current:
    """The same current with 1x1 convolutions of one position, and sums over positions, as readouts: a head's terms."""
    if current.shape[1:] != (1, 1):
        return current
    return replace(current, terms=tuple(_readout_of(place, term) for term in current.terms))


def _readout_of(place: str, term: Term) -> Term:
    """The readout that gives what `term` gives at one position; `term` itself where there is none.

    place  whose weights unit synapses are, which belong to no layer
    """
    match term:
        case UnitTerm(window=window):
            # a mean without a linear layer behind it: one class a channel
            taps = window.kernel[0] * window.kernel[1]
            most = int(max(-term.low.min(), term.high.max())) // taps
            return ReadoutTerm(place, term.source, np.diag(term.scale), taps, most, bool((term.low < 0).any()))
        case ConvTerm(padding=(0, 0)) if term.weight.shape[2:] == (1, 1):
            weight = dense_weight(term.weight, term.groups)[:, :, 0, 0]
            return ReadoutTerm(term.layer, term.source, weight, 1, term.max_out)
        case _:
            return term


def _unit(place: str, signal: Signal) -> Current:
    """A stream, or the sum over all positions of any signal, as unit synapses."""
    if len(signal.populations) != 1 or np.any(signal.offset):
        problem = "a token mean of a sum of spikes on a target of binary ones, or of spikes with a constant added"
        raise QuantizeError(place, problem, "Put neurons before the mean, or a layer behind it.")
    channels, height, width = signal.shape
    low, high = signal.range
    window = Window((height, width)) if signal.pooled else Window()
    taps = height * width if signal.pooled else 1
    term = UnitTerm(signal.populations[0], window, signal.scale, low * taps, high * taps)
    return Current((term,), np.zeros(channels), (channels, 1, 1) if signal.pooled else signal.shape)


def _read_out(place: str, signal: Signal, weight: Float, bias: Float, shape: Shape) -> Current:
    """The readout of a sum over positions by `weight` (O, C, 1, 1)."""
    per_class = weight[:, :, 0, 0]
    positions = signal.shape[1] * signal.shape[2]
    signed = signal.low is not None
    effective = per_class * signal.scale
    terms = tuple(ReadoutTerm(place, p, effective, positions, signal.share, signed) for p in signal.populations)
    return Current(terms, bias + per_class @ signal.offset, shape)


def _at_the_mean(place: str, conv: Conv2d, shape: Shape) -> Float:
    """The dense weights (O, C, 1, 1) of the one tap of a kernel that sees a map of one position."""
    if shape[1:] != (1, 1):
        problem = f"a convolution pads a mean over positions to a map of {shape[1]}x{shape[2]}"
        raise QuantizeError(place, problem, "Use a linear layer after the mean.")
    # The padding stands before the position: as many taps of the kernel see only zeros, and the next one sees the mean.
    above, before = conv.padding
    tap = conv.weight[:, :, above:, before:][:, :, :1, :1]
    return dense_weight(tap, conv.groups)


def dense_weight(weight: Float, groups: int) -> Float:
    """The weights (O, C, KY, KX) of a convolution without groups: zeros between channels of different groups."""
    outputs = len(weight) // groups
    inputs = weight.shape[1]
    dense = np.zeros((len(weight), inputs * groups, *weight.shape[2:]))
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        columns = slice(group * inputs, (group + 1) * inputs)
        dense[rows, columns] = weight[rows]
    return dense


def at_all_positions(current: Current, shapes: Mapping[str, Shape]) -> Current:
    """The same current with readouts of spikes as kernels of the size of their maps, which neurons take.

    shapes  of the populations that send
    """
    terms = tuple(_whole_map(t, shapes[t.source]) if isinstance(t, ReadoutTerm) else t for t in current.terms)
    return replace(current, terms=terms)


def _whole_map(term: ReadoutTerm, shape: Shape) -> Term:
    """A kernel as large as the map, with one weight at all positions: their sum, weighted."""
    if term.signed:
        # only a head reads the mean of a residual stream by weights; the neuron that takes this refuses it by name
        return term
    weight = np.tile(term.weight[:, :, None, None], (1, 1, *shape[1:]))
    return ConvTerm(term.layer, term.source, weight, (1, 1), (0, 0), 1, term.max_out)


def _offset_map(signal: Signal, conv: Conv2d, shape: Shape) -> Float:
    """Convolution of the offset with zero padding: (C_out, Y, X)."""
    if signal.offset.ndim == 3:
        return _convolved(signal.offset, conv, shape)
    # One offset a channel: a map of ones says where a tap sees the image, and where it sees padding.
    inside = _padded(np.ones((1, *signal.shape[1:])), conv.padding)[0]
    offsets = by_input(signal.offset, conv.groups, len(conv.weight))
    out = np.zeros(shape)
    for ky, kx in np.ndindex(*conv.weight.shape[2:]):
        rows, columns = _seen_by_tap((ky, kx), conv.stride, shape)
        out += (conv.weight[:, :, ky, kx] * offsets).sum(1)[:, None, None] * inside[rows, columns]
    return out


def _convolved(maps: Float, conv: Conv2d, shape: Shape) -> Float:
    """Convolution of `maps` (C, Y, X) with zero padding, without the bias: (C_out, Y, X)."""
    padded = _padded(maps, conv.padding)
    weight = dense_weight(conv.weight, conv.groups)
    out = np.zeros(shape)
    for ky, kx in np.ndindex(*weight.shape[2:]):
        rows, columns = _seen_by_tap((ky, kx), conv.stride, shape)
        out += np.tensordot(weight[:, :, ky, kx], padded[:, rows, columns], 1)
    return out


def _padded(maps: Float, padding: Pair) -> Float:
    return np.pad(maps, ((0, 0), (padding[0], padding[0]), (padding[1], padding[1])))


def _seen_by_tap(tap: Pair, stride: Pair, shape: Shape) -> tuple[slice, slice]:
    """The (rows, columns) of a padded map that one tap of a kernel sees, at all positions of an output of `shape`."""
    _, height, width = shape
    rows = slice(tap[0], tap[0] + stride[0] * (height - 1) + 1, stride[0])
    columns = slice(tap[1], tap[1] + stride[1] * (width - 1) + 1, stride[1])
    return rows, columns


def _scaled_term(term: Term, factor: float) -> Term:
    """factor * term."""
    if isinstance(term, AttentionTerm):
        return replace(term, factor=term.factor * factor)
    if isinstance(term, UnitTerm | DualTerm):
        return replace(term, scale=term.scale * factor)
    return replace(term, weight=term.weight * factor)
