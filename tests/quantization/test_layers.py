"""Convolutions and pools of every geometry: the integers give the float model's spikes, in all executors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.deep import examples
from support.layers import Stepwise, assert_deployed, compiled, dyadic, traced
from torch import nn

from spikformer_deploy.base.errors import ModelError, QuantizeError
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.network.neurons import Stream
from spikformer_deploy.network.synapses import Conv
from spikformer_deploy.nn.lif import LIF

FEW = examples(2, 12, long=3)
"""Compiling and running in three executors takes seconds."""


def network_of(*layers: nn.Module, channels: int = 4, flat: bool = False) -> nn.Module:
    """`layers` between spikes and a head with neurons."""
    stem = nn.Conv1d(2, 4, 3, padding=1) if flat else nn.Conv2d(2, 4, 3, padding=1)
    mean = nn.AdaptiveAvgPool1d(1) if flat else nn.AdaptiveAvgPool2d(1)
    after = (nn.Conv1d if flat else nn.Conv2d)(channels, 5, 1)
    head = (after, LIF(v_threshold=0.5), mean, nn.Flatten(), nn.Linear(5, 3))
    return dyadic(Stepwise(stem, LIF(v_threshold=0.5), *layers, *head, flat=flat), 1)


# --- convolutions -----------------------------------------------------------------------------------------------

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
sizes = st.tuples(st.integers(5, 9), st.integers(5, 9))


@pytest.mark.long
@FEW
@given(sizes, st.tuples(st.integers(1, 4), st.integers(1, 4)), pairs, st.sampled_from([1, 2]), st.integers(0, 99))
def test_dilated_and_same(
    size: tuple[int, int], kernel: tuple[int, int], dilation: tuple[int, int], groups: int, seed: int
) -> None:
    conv = nn.Conv2d(4, 4, kernel, dilation=dilation, padding="same", groups=groups)
    assert_deployed(network_of(conv, LIF(v_threshold=0.5)), (2, *size), seed)


@pytest.mark.long
@FEW
@given(sizes, pairs, pairs, st.tuples(*[st.integers(0, 3)] * 4), st.integers(0, 99))
def test_unequal_padding(
    size: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    zeros: tuple[int, int, int, int],
    seed: int,
) -> None:
    conv = nn.Conv2d(4, 4, 2, stride, padding=(1, 0), dilation=dilation)
    assert_deployed(network_of(nn.ZeroPad2d(zeros), conv, LIF(v_threshold=0.5)), (2, *size), seed)


def test_padding_of_a_normalised_image_is_zero_after_normalisation() -> None:
    """Unequal zeros around an image whose mean is not zero: the bias of the first layer is a map."""
    conv = nn.Conv2d(2, 4, (4, 2), padding="same")
    module = dyadic(Stepwise(conv, LIF(v_threshold=0.5), nn.Flatten(), nn.Linear(4 * 30, 3)), 0)
    assert_deployed(module, (2, 5, 6), 0, most=3, mean=1)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "padding of mode 'reflect' is not supported"),
        (nn.ConstantPad2d(1, 1.0), "padding with 1.0 is not supported"),
        (nn.ZeroPad2d((-1, 0, 0, 0)), "padding by .* is not supported"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2)), "max_pool2d of padding with zeros"),
    ],
)
def test_other_padding_is_refused(layer: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        traced(network_of(layer), (2, 8, 8))


# --- pools ------------------------------------------------------------------------------------------------------


@FEW
@given(sizes, st.integers(2, 3), st.integers(1, 3), st.integers(0, 1), pairs, st.booleans(), st.integers(0, 99))
def test_max_pools(
    size: tuple[int, int], kernel: int, stride: int, padding: int, dilation: tuple[int, int], up: bool, seed: int
) -> None:
    dilation = (min(dilation[0], 2), min(dilation[1], 2))
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=up)
    assert_deployed(network_of(pool), (2, *size), seed)


@FEW
@given(
    sizes,
    st.integers(2, 3),
    st.integers(1, 3),
    st.integers(0, 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 8]),
    st.integers(0, 99),
)
def test_average_pools(
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    up: bool,
    counted: bool,
    divisor: int | None,
    seed: int,
) -> None:
    pool = nn.AvgPool2d(kernel, stride, padding, up, counted, divisor)
    assert_deployed(network_of(pool), (2, *size), seed)


@pytest.mark.long
@FEW
@given(sizes, st.tuples(st.integers(1, 10), st.integers(1, 10)), st.booleans(), st.integers(0, 99))
def test_adaptive_pools(size: tuple[int, int], to: tuple[int, int], neurons: bool, seed: int) -> None:
    pool = nn.AdaptiveAvgPool2d(to)
    layers = (pool, LIF(v_threshold=0.25)) if neurons else (pool,)
    assert_deployed(network_of(*layers), (2, *size), seed)


@FEW
@given(sizes, st.tuples(st.integers(1, 6), st.integers(1, 6)), st.integers(0, 99))
def test_classifiers_of_adaptive_pools(size: tuple[int, int], to: tuple[int, int], seed: int) -> None:
    """The head of VGG: a linear layer that reads the pooled map, here with neurons behind it."""
    stem = (nn.Conv2d(2, 4, 3, padding=1), LIF(v_threshold=0.5))
    module = Stepwise(*stem, nn.AdaptiveAvgPool2d(to), nn.Flatten(), nn.Linear(4 * to[0] * to[1], 5))
    graph = simplify(traced(dyadic(module, 2), (2, *size)))
    frames = torch.rand(2, 3, 2, *size).round()
    with torch.no_grad():
        torch.testing.assert_close(execute(graph, frames)["output"], module(frames), rtol=1e-5, atol=1e-5)


def test_pools_over_unequal_ranges_join_the_classifier() -> None:
    module = Stepwise(nn.Conv2d(2, 4, 3), LIF(), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(4 * 49, 5))
    graph = simplify(traced(dyadic(module, 0), (2, 5, 6)))
    assert not list(graph.of(ir.AdaptiveAvgPool2d))
    assert [node.op.weight.shape for node in graph.of(ir.Conv2d)] == [(4, 2, 3, 3), (5, 4, 3, 4)]  # type: ignore[union-attr]


@pytest.mark.parametrize("weight_bits", [6, 8])
def test_means_whose_weights_need_several_digits(weight_bits: int) -> None:
    """Windows of 9 to 25 positions: units of 1 / 3600, weights up to 400."""
    pool = nn.AvgPool2d(5, 1, 2, count_include_pad=False)
    network = assert_deployed(network_of(pool), (2, 6, 6), 0, weight_bits=weight_bits)
    (stream,) = [p for p in network if isinstance(p.neuron, Stream)]
    shifts = [p.synapse.shift for p in network.into(stream.name) if isinstance(p.synapse, Conv)]
    assert shifts == [0, weight_bits - 1]
    assert network.bounds == "static"


def test_pools_of_pools() -> None:
    """Sums of sums, of values that a pool over unequal ranges sends."""
    assert_deployed(network_of(nn.AdaptiveAvgPool2d((3, 5)), nn.AvgPool2d(2, 1)), (2, 8, 7), 0)


def test_pools_that_integers_cannot_hold_are_refused_by_name() -> None:
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    with pytest.raises(QuantizeError, match=r"layers\.2: .*a weight for each pair of 64x64"):
        compiled(network_of(pool), (2, 64, 64))
    # a current is pooled, not spikes
    ceiling = dyadic(
        Stepwise(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2, ceil_mode=True), LIF(), nn.Flatten(), nn.Linear(36, 3)), 0
    )
    with pytest.raises(QuantizeError, match=r"layers\.1: max-pooling of currents with dilation or with windows that"):
        compiled(ceiling, (2, 7, 7))
    with pytest.raises(QuantizeError, match=r"layers\.2: its sums reach .* hold 0 at most"):
        compiled(network_of(nn.AdaptiveAvgPool2d((3, 5))), (2, 8, 7), "loihi1")


# --- one dimension ----------------------------------------------------------------------------------------------


@FEW
@given(st.integers(9, 14), st.integers(1, 4), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.integers(0, 99))
def test_convolutions_of_lines(length: int, kernel: int, stride: int, dilation: int, upright: bool, seed: int) -> None:
    conv = nn.Conv1d(4, 4, kernel, stride, padding=1, dilation=dilation, groups=2)
    same = nn.Conv1d(4, 4, kernel, padding="same", dilation=dilation)
    norm = nn.BatchNorm1d(4, eps=0.0)
    norm.running_var.fill_(4.0)  # type: ignore[union-attr]
    module = network_of(conv, norm, LIF(v_threshold=0.5), same, LIF(v_threshold=0.5), flat=True)
    assert_deployed(module, (2, length, 1) if upright else (2, 1, length), seed)


@pytest.mark.long
@FEW
@given(st.integers(7, 12), st.integers(2, 3), st.integers(0, 1), st.booleans(), st.integers(1, 8), st.integers(0, 99))
def test_pools_of_lines(length: int, kernel: int, padding: int, up: bool, to: int, seed: int) -> None:
    maximum = nn.MaxPool1d(kernel, 1, padding, ceil_mode=up)
    average = nn.AvgPool1d(kernel, 2, padding, ceil_mode=up)
    layers = (maximum, average, LIF(v_threshold=0.25), nn.AdaptiveAvgPool1d(to))
    assert_deployed(network_of(*layers, flat=True), (2, 1, length), seed)


def test_lines_of_maps_are_refused() -> None:
    """A flattened map has rows one after the other: a kernel would see across their ends."""
    module = dyadic(Stepwise(nn.Conv1d(2, 4, 3, padding=1), LIF(), nn.Flatten(), nn.Linear(4 * 12, 3), flat=True), 0)
    with pytest.raises(ModelError, match=r"conv1d sees .* instead of \(T\*B, C, L\)"):
        traced(module, (2, 3, 4))


# --- what it costs ---------------------------------------------------------------------------------------------


def test_zeros_are_counted_as_synapses() -> None:
    """A dilated kernel stands in the chip filled up: the weights say so."""
    network = compiled(network_of(nn.Conv2d(4, 4, 3, dilation=2), LIF()), (2, 8, 8))
    shapes = [p.synapse.weight.shape for p in network.projections if hasattr(p.synapse, "weight")]
    assert (4, 4, 5, 5) in shapes
    assert np.all(network.input.shape == (2, 8, 8))
