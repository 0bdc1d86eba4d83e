"""The algebra between a float graph and integer populations: what a value of the graph is in terms of spikes.

A value is a Signal (integers that populations send, with a scale) or a Current (synapses on signals, plus a bias).
Linear operations stay symbolic here until a neuron takes the current: only then are scale and rounding chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Float, Int, Pair, Shape
from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.network.synapses import Window


@dataclass(frozen=True, slots=True, eq=False)
class Signal:
    """real[c] = scale[c] * (sum over `populations` of what they send) + offset[c], or offset[c, y, x].

    offset  (C,) or (C, Y, X): of a normalised image, of a constant that was added
    More than one population: a residual that is distributed over its consumers (targets with binary spikes).
    pooled   what is read is the sum over all positions (the 1 / positions of a mean is in `scale`)
    low      of a residual stream of currents: least and, as high, largest value a channel, (C,); None: 0 to max_out
    """

    populations: tuple[str, ...]
    shape: Shape
    scale: Float
    offset: Float
    max_out: int
    pooled: bool = False
    low: Int | None = None
    high: Int | None = None

    @property
    def range(self) -> tuple[Int, Int]:
        """(low, high) of every channel, (C,)."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return np.zeros(self.shape[0], np.int64), np.full(self.shape[0], self.max_out, np.int64)


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
    """Real weight (O, C) on the sum over positions of what `source` sends, of either sign where `signed`."""

    source: str
    weight: Float
    positions: int
    max_out: int
    signed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AttentionTerm:
    """factor * (q k^T) v of integers; `limit` is the largest value of the integer product."""

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


Term: TypeAlias = ConvTerm | ReadoutTerm | AttentionTerm | UnitTerm


@dataclass(frozen=True, slots=True, eq=False)
class Current:
    """Sum of terms and a bias, (C,) or (C, Y, X): what a neuron receives in a step."""

    terms: tuple[Term, ...]
    bias: Float
    shape: Shape


Value: TypeAlias = Signal | Current


def convolve(
    place: str,
    value: Value,
    weight: Float,
    bias: Float,
    stride: Pair,
    padding: Pair,
    groups: int,
    shape: Shape,
) -> Current:
    """A convolution (or Linear: 1x1) of a signal; the offset of an image becomes a bias map, exact at the borders."""
    signal = as_signal(place, value)
    if signal.pooled:
        return _read_out(place, signal, _at_the_mean(place, weight, padding, groups, shape), bias, shape)
    if signal.low is not None and signal.shape[1:] == (1, 1) == weight.shape[2:]:
        return _read_out(place, signal, weight, bias, shape)
    if signal.low is not None:
        raise QuantizeError(
            place, "it reads the mean of a residual stream with no neuron in between", "Put a LIF there."
        )
    per_group = weight.shape[1]
    scale = signal.scale.reshape(groups, per_group)[np.arange(weight.shape[0]) // (weight.shape[0] // groups)]
    effective = weight * scale[:, :, None, None]
    total = bias
    if np.any(signal.offset):
        total = bias[:, None, None] + _offset_map(signal, weight, stride, padding, groups, shape)
        if np.all(total == total[:, :1, :1]):
            total = np.ascontiguousarray(total[:, 0, 0])
    terms = tuple(ConvTerm(place, p, effective, stride, padding, groups, _share(signal)) for p in signal.populations)
    return Current(terms, total, shape)


def add(place: str, left: Value, right: Value) -> Current:
    """The sum of two values as a current (two signals are the business of the caller)."""
    a, b = as_current(place, left), as_current(place, right)
    return Current(a.terms + b.terms, _total(a.bias, b.bias), a.shape)


def offset(place: str, value: Value, constant: Float) -> Value:
    """value + constant (C, Y, X): an offset of a signal, a bias of a current."""
    own = constant[:, 0, 0] if np.all(constant == constant[:, :1, :1]) else constant
    if isinstance(value, Signal):
        if value.pooled or value.low is not None:
            return offset(place, _unit(place, value), constant)
        return replace(value, offset=_total(value.offset, own))
    return replace(value, bias=_total(value.bias, own))


def joined(place: str, currents: Sequence[Current], shape: Shape) -> Current:
    """The channels of `currents`, one after the other: weights of zero from what feeds the others."""
    terms: list[Term] = []
    first = 0
    for current in currents:
        rows = (first, shape[0] - first - current.shape[0])
        terms += [_in_rows(place, term, rows, shape[1:] == (1, 1)) for term in current.terms]
        first += current.shape[0]
    flat = all(current.bias.ndim == 1 for current in currents)
    whole = [c.bias if flat else np.broadcast_to(_map(c.bias), c.shape) for c in currents]
    return Current(tuple(terms), np.concatenate(whole), shape)


def _in_rows(place: str, term: Term, rows: tuple[int, int], one_position: bool) -> Term:
    """A term with so many channels before and after its own that get nothing of it.

    one_position  of a current at one position, where unit synapses are a mean without a layer behind it
    """
    match term:
        case ConvTerm(weight=weight, groups=groups):
            dense = dense_weight(weight, groups)
            return replace(term, weight=np.pad(dense, (rows, (0, 0), (0, 0), (0, 0))), groups=1)
        case ReadoutTerm(weight=weight):
            return replace(term, weight=np.pad(weight, (rows, (0, 0))))
        case UnitTerm() if one_position:
            return _in_rows(place, _readout_of(term), rows, one_position)
        case _:
            problem = "it joins an attention or a residual stream with other currents"
            raise QuantizeError(place, problem, "Put a LIF on each branch before the join.")


def scaled(value: Value, factor: float) -> Value:
    """factor * value."""
    if isinstance(value, Signal):
        return replace(value, scale=value.scale * factor, offset=value.offset * factor)
    return Current(tuple(_scaled_term(t, factor) for t in value.terms), value.bias * factor, value.shape)


def as_signal(place: str, value: Value) -> Signal:
    """`value`, where it is a signal; QuantizeError where it is a current (two synaptic layers in a row)."""
    if isinstance(value, Current):
        raise QuantizeError(
            place,
            "its input comes from another synaptic layer with no neuron in between",
            "Put a LIF between the two layers, or merge them into one.",
        )
    return value


def as_current(place: str, value: Value) -> Current:
    """`value` as a current: a signal becomes unit synapses, channel by channel."""
    if isinstance(value, Current):
        return value
    if value.pooled or value.low is not None:
        return _unit(place, value)
    ones = np.ones((value.shape[0], 1, 1, 1))
    zero = np.zeros(value.shape[0])
    return convolve(place, value, ones, zero, (1, 1), (0, 0), value.shape[0], value.shape)


def at_one_position(current: Current) -> Current:
    """The same current with 1x1 convolutions of one position, and sums over positions, as readouts: a head's terms."""
    if current.shape[1:] != (1, 1):
        return current
    return replace(current, terms=tuple(_readout_of(term) for term in current.terms))


def _readout_of(term: Term) -> Term:
    if isinstance(term, UnitTerm):
        # a mean without a linear layer behind it: one class a channel
        taps = term.window.kernel[0] * term.window.kernel[1]
        most = int(max(-term.low.min(), term.high.max())) // taps
        return ReadoutTerm(term.source, np.diag(term.scale), taps, most, bool((term.low < 0).any()))
    if not isinstance(term, ConvTerm) or term.weight.shape[2:] != (1, 1) or term.padding != (0, 0):
        return term
    return ReadoutTerm(term.source, dense_weight(term.weight, term.groups)[:, :, 0, 0], 1, term.max_out)


def _unit(place: str, signal: Signal) -> Current:
    """A stream, or the sum over all positions of any signal, as unit synapses."""
    if len(signal.populations) != 1 or np.any(signal.offset):
        problem = "a token mean of a sum of spikes on a target of binary ones, or of spikes with a constant added"
        raise QuantizeError(place, problem, "Put a LIF before the mean, or a layer behind it.")
    channels, height, width = signal.shape
    window, taps = (Window((height, width)), height * width) if signal.pooled else (Window(), 1)
    low, high = signal.range
    term = UnitTerm(signal.populations[0], window, signal.scale, low * taps, high * taps)
    return Current((term,), np.zeros(channels), (channels, 1, 1) if signal.pooled else signal.shape)


def _read_out(place: str, signal: Signal, weight: Float, bias: Float, shape: Shape) -> Current:
    effective = weight[:, :, 0, 0] * signal.scale
    positions = signal.shape[1] * signal.shape[2]
    signed = signal.low is not None
    terms = tuple(ReadoutTerm(p, effective, positions, _share(signal), signed) for p in signal.populations)
    return Current(terms, bias + weight[:, :, 0, 0] @ signal.offset, shape)


def _at_the_mean(place: str, weight: Float, padding: Pair, groups: int, shape: Shape) -> Float:
    """The dense weights (O, C, 1, 1) of the one tap of a kernel that sees a map of one position."""
    if shape[1:] != (1, 1):
        problem = f"a convolution pads a mean over positions to a map of {shape[1]}x{shape[2]}"
        raise QuantizeError(place, problem, "Use a linear layer after the mean.")
    return dense_weight(weight[:, :, padding[0] :, padding[1] :][:, :, :1, :1], groups)


def dense_weight(weight: Float, groups: int) -> Float:
    """The weights (O, C, KY, KX) of a convolution without groups: zeros between channels of different groups."""
    outputs, inputs = len(weight) // groups, weight.shape[1]
    full = np.zeros((len(weight), inputs * groups, *weight.shape[2:]))
    for group in range(groups):
        rows, columns = (slice(group * n, (group + 1) * n) for n in (outputs, inputs))
        full[rows, columns] = weight[rows]
    return full


def at_all_positions(layer: str, current: Current, shapes: Mapping[str, Shape]) -> Current:
    """The same current with readouts of spikes as kernels of the size of their maps, which neurons take.

    shapes  of the populations that send
    """
    terms = tuple(_whole_map(layer, t, shapes[t.source]) if isinstance(t, ReadoutTerm) else t for t in current.terms)
    return replace(current, terms=terms)


def _whole_map(layer: str, term: ReadoutTerm, shape: Shape) -> Term:
    if term.signed:
        return term
    weight = np.tile(term.weight[:, :, None, None], (1, 1, *shape[1:]))
    return ConvTerm(layer, term.source, weight, (1, 1), (0, 0), 1, term.max_out)


def _offset_map(signal: Signal, weight: Float, stride: Pair, padding: Pair, groups: int, shape: Shape) -> Float:
    """Convolution of the offset with zero padding: (C_out, Y, X)."""
    if signal.offset.ndim == 3:
        return _convolved(signal.offset, dense_weight(weight, groups), stride, padding, shape)
    _, height, width = signal.shape
    padded = np.pad(np.ones((height, width)), tuple((p, p) for p in padding))
    out_channels, per_group = weight.shape[:2]
    offsets = signal.offset.reshape(groups, per_group)[np.arange(out_channels) // (out_channels // groups)]
    out = np.zeros(shape)
    for ky, kx in np.ndindex(*weight.shape[2:]):
        rows = slice(ky, ky + stride[0] * (shape[1] - 1) + 1, stride[0])
        columns = slice(kx, kx + stride[1] * (shape[2] - 1) + 1, stride[1])
        out += (weight[:, :, ky, kx] * offsets).sum(1)[:, None, None] * padded[rows, columns]
    return out


def _convolved(maps: Float, weight: Float, stride: Pair, padding: Pair, shape: Shape) -> Float:
    padded = np.pad(maps, ((0, 0), *((p, p) for p in padding)))
    out = np.zeros(shape)
    for ky, kx in np.ndindex(*weight.shape[2:]):
        rows = slice(ky, ky + stride[0] * (shape[1] - 1) + 1, stride[0])
        columns = slice(kx, kx + stride[1] * (shape[2] - 1) + 1, stride[1])
        out += np.tensordot(weight[:, :, ky, kx], padded[:, rows, columns], 1)
    return out


def _share(signal: Signal) -> int:
    """Largest value of each population of a distributed signal."""
    return -(-signal.max_out // len(signal.populations))


def _total(left: Float, right: Float) -> Float:
    """The sum of two biases, (C,) or (C, Y, X) each."""
    return left + right if left.ndim == right.ndim else _map(left) + _map(right)


def _map(bias: Float) -> Float:
    return bias if bias.ndim == 3 else bias[:, None, None]


def _scaled_term(term: Term, factor: float) -> Term:
    if isinstance(term, AttentionTerm):
        return replace(term, factor=term.factor * factor)
    if isinstance(term, UnitTerm):
        return replace(term, scale=term.scale * factor)
    return replace(term, weight=term.weight * factor)
