"""The law of each kind of neuron: what a population of it must be, for networks that come from files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int, Shape
from spikformer_deploy.base.plain import require
from spikformer_deploy.network.neurons import (
    DECAY_ONE,
    MOST_LEVELS,
    ROUNDINGS,
    Accumulator,
    And,
    Levels,
    Lif,
    LifKind,
    Max,
    Neuron,
    Or,
    Source,
    Stream,
    Sum,
)
from spikformer_deploy.network.synapses import Conv, Incoming, Readout, Window


def check_neuron(neuron: Neuron, shape: Shape, max_out: int, state_bits: int, incoming: Sequence[Incoming]) -> None:
    """Raise ValueError where a population (C, Y, X) of `neuron`s that sends up to `max_out` is not what it says."""
    synapses = {type(arriving.synapse) for arriving in incoming}
    negative = any(arriving.negative for arriving in incoming)
    channels = shape[0]
    match neuron:
        case Source(max_value=most):
            good = not incoming and 0 < most == max_out < 2**16
            require(good, f"a Source of pixels up to {most} that sends up to {max_out}")
        case Lif():
            require(bool(incoming) and Readout not in synapses, "a LIF without synapses of its kind")
            require(max_out == 1, "a LIF that sends more than spikes")
            _check_lif(neuron, shape, state_bits)
        case Levels():
            require(bool(incoming) and Readout not in synapses, "Levels without synapses of their kind")
            _check_levels(neuron, shape, state_bits)
            require(max_out == neuron.count, f"{neuron.count} levels that are said to send up to {max_out}")
        case Or():
            require(synapses == {Window} and not negative, "it needs unit synapses from spikes")
            require(max_out == 1, f"it is said to send up to {max_out}, and sends 1")
        case Sum():
            require(synapses == {Window} and not negative, "it needs unit synapses from spikes")
            most = sum(arriving.most_of_window for arriving in incoming)
            require(max_out == most, f"it is said to send up to {max_out}, and sends {most}")
        case And(inputs=inputs):
            require(synapses <= {Window, Conv} and not negative, "it needs synapses from spikes")
            most = max((arriving.max_out for arriving in incoming), default=0)
            require(most <= 1, f"it counts its binary sources, and one of them sends up to {most}")
            require(1 <= inputs <= len(incoming) and max_out == 1, f"{inputs} inputs")
        case Stream(bias=bias, drop=drop):
            require(bool(incoming) and synapses <= {Window, Conv}, "a stream without synapses of its kind")
            good = bias.shape in ((channels,), shape) and bias.dtype == np.int64
            require(good and 0 <= drop < 32, f"biases of shape {bias.shape}, {drop} bits dropped")
            require(0 <= max_out < 2**31, "its largest value")
            _check_width("bias", bias, state_bits)
        case Max():
            require(synapses == {Window} and len(incoming) == 1, "it needs one window")
            window = incoming[0].synapse
            assert isinstance(window, Window)
            # a window that lies in padding as a whole has no largest value
            inside = all(p < k for p, k in zip(window.padding, window.kernel, strict=True)) and not any(window.offset)
            require(inside and max_out == incoming[0].max_out, "its window or largest value")
        case Accumulator(bias=bias, scale=scale):
            of_all_positions = synapses == {Readout} and shape == (channels, 1, 1)
            require((of_all_positions or synapses == {Conv}) and max_out == 0, "it needs a readout, or convolutions")
            shapes = bias.shape == scale.shape == (channels,)
            require(shapes and bias.dtype == np.int64, "its bias or scale")
            # the largest integer is the predicted class
            good = scale[0] > 0 and np.isfinite(scale[0]) and bool((scale == scale[0]).all())
            require(good, f"scales of {scale.tolist()[:4]} instead of one for all classes")
            _check_width("bias", bias, state_bits)
        case _:
            assert_never(neuron)


def _check_lif(lif: Lif, shape: Shape, state_bits: int) -> None:
    stock = lif.kind == LifKind.STOCK
    require(lif.kind in list(LifKind), f"kind {lif.kind}")
    require(0 <= lif.decay <= DECAY_ONE and 0 <= lif.shift <= 31, f"decay {lif.decay}, shift {lif.shift}")
    require(0 <= lif.current < DECAY_ONE, f"a decay of the current of {lif.current}")
    require(stock or not lif.current, "a programmable neuron with a current")
    require(not stock or not lif.soft, "a stock neuron with a soft reset")
    require(not stock or not lif.strict, "a stock neuron that is said to be strict")
    require(lif.threshold.shape == shape[:1] and lif.threshold.dtype == np.int64, "its thresholds")
    good = lif.bias.shape in (shape[:1], shape) and lif.bias.dtype == np.int64
    require(good, f"biases of shape {lif.bias.shape} and type {lif.bias.dtype}")
    _check_width("threshold", lif.threshold, state_bits)
    _check_width("bias", lif.bias, state_bits)
    require(bool((lif.threshold >= 0).all()), f"a threshold of {int(lif.threshold.min())}")


def _check_levels(neuron: Levels, shape: Shape, state_bits: int) -> None:
    good = 0 <= neuron.decay <= DECAY_ONE and 0 <= neuron.shift <= 31 and neuron.rounding in ROUNDINGS
    require(good, f"decay {neuron.decay}, shift {neuron.shift}, rounding {neuron.rounding}")
    levels = neuron.levels
    good = levels.ndim == 2 and len(levels) == shape[0] and levels.dtype == np.int64
    require(good and 1 <= levels.shape[1] <= MOST_LEVELS, f"levels of shape {levels.shape} and type {levels.dtype}")
    require(bool((np.diff(levels, axis=1) >= 0).all()), "levels that do not ascend")
    require(neuron.reset.shape == shape[:1] and neuron.reset.dtype == np.int64, "its reset")
    require(bool((neuron.reset >= 0).all()), f"a reset of {int(neuron.reset.min())}")
    require(neuron.decay > 0 or not neuron.reset.any(), "a reset of what keeps nothing")
    good = neuron.bias.shape in (shape[:1], shape) and neuron.bias.dtype == np.int64
    require(good, f"biases of shape {neuron.bias.shape} and type {neuron.bias.dtype}")
    # of neurons that keep nothing, one more than a state can hold is a level that none reaches
    held = levels if neuron.decay else levels - (levels == 2 ** (state_bits - 1))
    _check_width("level", held, state_bits)
    for what, values in (("reset", neuron.reset), ("bias", neuron.bias)):
        _check_width(what, values, state_bits)
    # a potential that fits before its reset fits after it
    least_left = held - neuron.reset[:, None] * np.arange(1, levels.shape[1] + 1)
    _check_width("potential after a reset", least_left, state_bits)


def _check_width(what: str, values: Int, state_bits: int) -> None:
    """Executors of other widths differ where a parameter leaves the state's bits."""
    most = 2 ** (state_bits - 1) - 1
    # not by magnitude: that of the least int64 is negative
    outside = values[(values < -most) | (values > most)]
    first = int(outside[0]) if outside.size else 0
    require(not outside.size, f"a {what} of {first} does not fit {state_bits} bits of state (at most {most})")
