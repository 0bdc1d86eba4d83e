"""The engine against its plain twin: equality of everything it gives back."""

import os
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.executions import assert_equal_executions, random_cells, with_state_bits
from support.networks import (
    attention_on_pixels,
    networks,
    random_images,
    random_network,
    two_from_one,
    wide_padding,
)

from spikformer_deploy.errors import InputError, OverflowDetected
from spikformer_deploy.quantize.network import Network, Population
from spikformer_deploy.reference import engine as reference
from spikformer_deploy.simulate import engine, plan, synapses

KERNELS = ["plain", "events", *(["int8"] if synapses.int8_works() else [])]


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
    assert ours.kernels == {"plain": "fp32"}.get(kind, kind)


def assert_equals_reference(network: Network, seed: int) -> None:
    images, names = random_images(network, seed), [p.name for p in network]
    right = reference.execute(network, images, record=names)
    assert_equal_executions(engine.execute(network, images, record=names), right)


@pytest.mark.parametrize("queries", ["q", "k", "v", "qk", "qkv"])
def test_attention_reads_what_no_time_step_changes(queries: str) -> None:
    assert_equals_reference(attention_on_pixels(0, queries), 0)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("padding", [1, 2, 5])
def test_bands_of_rows_that_see_padding_alone(padding: int, kind: str) -> None:
    """A row of an image at a time, as where its sums are larger than a cache."""
    with mock.patch.dict(os.environ, SPIKDEPLOY_KERNELS=kind), mock.patch.object(plan, "SUMS_BYTES", 1):
        assert_equals_reference(wide_padding(padding, padding), 0)


def test_two_convolutions_from_one_population() -> None:
    assert_equals_reference(two_from_one(0), 0)


def test_kernels_that_fail_their_check_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on with others, gives the same integers, and says so."""
    network = random_network(0, 2)
    images = random_images(network, 0)
    right = engine.execute(network, images).accumulators
    monkeypatch.setattr(synapses, "int8_works", lambda: False)
    monkeypatch.setattr(synapses, "events_work", lambda: False)
    found = engine.execute(network, images)
    assert found.kernels == "fp32"
    np.testing.assert_array_equal(found.accumulators, right)


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
    whole = engine.execute(network, images, record=names)
    monkeypatch.setattr(engine, "batch_size", lambda plan: 3)
    assert_equal_executions(engine.execute(network, images, record=names), whole)


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
