"""The engine against its plain twin: equality of everything it gives back."""

import os
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.executions import assert_equal_executions, random_cells, with_state_bits
from support.networks import (
    Builder,
    attention_on_pixels,
    dual_network,
    networks,
    random_images,
    random_network,
    two_from_one,
    wide_padding,
)

from spikformer_deploy.base.errors import InputError, OverflowDetected
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine, plan, synapses
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Or
from spikformer_deploy.network.synapses import Conv, Window, synaptic_sum

MULTIPLYING = [kind for kind, works in (("int8", synapses.int8_limit), ("pairs", synapses.pairs_work)) if works()]
KERNELS = ["plain", "events", *MULTIPLYING]


@settings(max_examples=80, deadline=None)
@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from(KERNELS), st.sampled_from([1, 500, 2000, 2**23]))
def test_engine_equals_reference(network: Network, seed: int, kind: str, sums: int) -> None:
    """Whatever kernels there are, and however the sums are cut into images and bands of rows."""
    images = random_images(network, seed)
    names = [p.name for p in network]
    cells = random_cells(network, seed)
    with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind), mock.patch.object(plan, "SUMS_BYTES", sums):
        ours = engine.execute(network, images, record=names, cells=cells)
    assert_equal_executions(ours, reference.execute(network, images, record=names, cells=cells))
    # what a layer's messages or sums are too large for runs in floating point, and is named
    assert set(ours.kernels.split(", ")) <= {kind, "fp32", "fp64"} - {"plain"}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_products_of_currents_and_spikes_equal_reference(seed: int, steps: int) -> None:
    assert_equals_reference(dual_network(seed, steps), seed)


def assert_equals_reference(network: Network, seed: int) -> None:
    images = random_images(network, seed)
    names = [p.name for p in network]
    right = reference.execute(network, images, record=names)
    assert_equal_executions(engine.execute(network, images, record=names), right)


@pytest.mark.parametrize("queries", ["q", "k", "v", "qk", "qkv"])
def test_attention_reads_what_no_time_step_changes(queries: str) -> None:
    assert_equals_reference(attention_on_pixels(0, queries), 0)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("padding", [1, 2, 5])
def test_bands_of_rows_that_see_only_padding(padding: int, kind: str) -> None:
    """A row of an image at a time, as where its sums are larger than a cache."""
    with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind), mock.patch.object(plan, "SUMS_BYTES", 1):
        assert_equals_reference(wide_padding(padding, padding), 0)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([(1, 1), (4, 1), (8, 8), (16, 16)]),
    st.tuples(st.integers(2, 7), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from(["plain", *MULTIPLYING]),
    st.sampled_from([1, 128, 255]),
    st.integers(0, 2**32 - 1),
)
def test_convolutions_of_any_geometry(
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    kind: str,
    largest: int,
    seed: int,
) -> None:
    """Strides larger than kernels, and strides that pass over the only column there is, which oneDNN gets wrong."""
    inputs, groups = channels
    rng = np.random.default_rng(seed)
    if any(e + 2 * p < k for e, p, k in zip(size, padding, kernel, strict=True)):
        return
    weight = rng.integers(-127, 128, (2 * inputs, inputs // groups, *kernel)).astype(np.int8)
    conv = Conv(weight, stride, padding, groups)
    images = rng.integers(0, largest + 1, (3, inputs, *size))
    out = tuple((e + 2 * p - k) // s + 1 for e, p, k, s in zip(size, padding, kernel, stride, strict=True))
    right = synaptic_sum(conv, [images], (2 * inputs, *out))
    with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind):
        convolve = synapses.convolution(conv, (inputs, *size), largest, 2**23).convolve
    maps = torch.from_numpy(images.astype(np.uint8)).permute(0, 2, 3, 1).contiguous()
    sums = convolve(maps, int(images.sum()), 0, out[0])
    np.testing.assert_array_equal(sums.permute(0, 3, 1, 2).numpy(), right)


@pytest.mark.parametrize("kind", KERNELS)
def test_or_of_more_pixels_than_a_byte_counts(kind: str) -> None:
    """Its sums are wide, and what it sends is not."""
    b = Builder(np.random.default_rng(0), 2, "programmable")
    pool = b.window("pool", Or(), [b.source((2, 17, 18), 255, False)], Window((16, 16), (1, 1)))
    network = b.finish(b.conv("lif", pool, 5, 1), 2)
    with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind):
        assert_equals_reference(network, 0)


def test_two_convolutions_from_one_population() -> None:
    assert_equals_reference(two_from_one(0), 0)


def test_kernels_that_fail_their_check_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on with others, gives the same integers, and says so."""
    network = random_network(0, 2)
    images = random_images(network, 0)
    right = engine.execute(network, images).accumulators
    monkeypatch.setattr(synapses, "int8_limit", lambda: 0)
    monkeypatch.setattr(synapses, "pairs_work", lambda: False)
    monkeypatch.setattr(synapses, "events_work", lambda: False)
    execution = engine.execute(network, images)
    assert execution.kernels == "fp32"
    np.testing.assert_array_equal(execution.accumulators, right)


def test_wrong_sums_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        synapses, "event_convolution", lambda conv, channels: lambda maps, first, end: maps[..., :24] * 1.0
    )
    assert not synapses.events_work.__wrapped__()
    monkeypatch.setattr(synapses, "event_convolution", lambda conv, channels: 1 / 0)
    assert not synapses.events_work.__wrapped__()


def test_unknown_kernels_are_refused() -> None:
    network = random_network(2)
    with (
        mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS="fast"),
        pytest.raises(InputError, match="SPIKDEPLOY_KERNELS: 'fast' is no kind"),
    ):
        engine.execute(network, random_images(network, 2))


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(3)
    images = random_images(network, 3, 7)
    names = [p.name for p in network]
    at_once = engine.execute(network, images, record=names)
    monkeypatch.setattr(engine, "batch_size", lambda plan: 3)
    assert_equal_executions(engine.execute(network, images, record=names), at_once)


def test_random_networks_spike() -> None:
    """The differential test means something: neurons fire in some steps, and not in all."""
    rates = []
    for seed in range(20):
        network = random_network(seed)
        run = engine.execute(network, random_images(network, seed))
        rates += [run.activity[p.name].total.sum() / (6 * p.size) for p in network if p.name.endswith("lif")]
    assert 0.1 < np.mean(rates) < 0.9
    assert np.mean([0 < rate < 1 for rate in rates]) > 0.7


@pytest.mark.parametrize("executor", [engine, reference])
def test_overflow_is_an_error_that_names_the_population(executor) -> None:
    network = with_state_bits(random_network(1), 6)
    with pytest.raises(OverflowDetected, match=r"stem\.0\.lif: a state of \d+ does not fit 6 bits"):
        executor.execute(network, random_images(network, 1))


@pytest.mark.parametrize("executor", [engine, reference])
def test_images_are_checked(executor) -> None:
    network = random_network(2)
    images = random_images(network, 2)
    with pytest.raises(InputError, match="takes integer pixels"):
        executor.execute(network, images / 255)
    with pytest.raises(InputError, match="and the program takes"):
        executor.execute(network, images[..., :-1])
    with pytest.raises(InputError, match="pixels are in"):
        executor.execute(network, images.astype(np.int32) - 5)


def test_wide_sums_leave_fp32() -> None:
    """A sum beyond 2^24 is exact too: the engine takes fp64 there."""
    network = random_network(5)
    source = network.input
    huge = Population(source.name, source.shape, type(source.neuron)(2**20, source.neuron.per_step), 2**20)
    wide = with_state_bits(
        Network(
            (huge, *network.populations[1:]), network.projections, 3, 24, 8, "observed", 1.0, network.mean, network.std
        ),
        60,
    )
    images = random_images(network, 5).astype(np.int64) * 4001 + 1
    names = [p.name for p in network][1:]
    assert_equal_executions(
        engine.execute(wide, images, record=[names[0]]), reference.execute(wide, images, record=[names[0]])
    )
