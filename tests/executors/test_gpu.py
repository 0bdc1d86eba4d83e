"""Plain torch against the plain twin: on the CPU always, on a GPU where there is one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.executions import assert_equal_executions, random_cells, with_state_bits
from support.networks import attention_on_pixels, dual_network, networks, random_images, random_network, two_from_one

from spikformer_deploy.base.errors import InputError, OverflowDetected
from spikformer_deploy.executors import gpu as device
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast.plan import make_plan
from spikformer_deploy.network.network import Network

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from([1, 2**28]))
def test_torch_equals_reference(network: Network, seed: int, window_bytes: int) -> None:
    assert_equals_reference(network, seed, CPU, window_bytes)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_products_of_currents_and_spikes_equal_reference(seed: int, steps: int) -> None:
    assert_equals_reference(dual_network(seed, steps), seed, CPU, 2**28)


@needs_cuda
@settings(max_examples=60, deadline=None)
@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from([1, 2**28]))
def test_cuda_equals_reference(network: Network, seed: int, window_bytes: int) -> None:
    torch.set_float32_matmul_precision("high")  # a process that trains may have set it: no reason to round
    assert_equals_reference(network, seed, device.cuda(), window_bytes)


def assert_equals_reference(network: Network, seed: int, where: torch.device, window_bytes: int) -> None:
    images = random_images(network, seed)
    names = [p.name for p in network]
    cells = random_cells(network, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "WINDOW_BYTES", window_bytes)
        ours = device.run(device.load(make_plan(network, cells), where), images, names)
    assert_equal_executions(ours, reference.execute(network, images, record=names, cells=cells))
    assert ours.kernels == f"{where.type} fp32"


def test_two_convolutions_from_one_population() -> None:
    """Each has weights of its own on the device."""
    assert_equals_reference(two_from_one(0), 0, CPU, 2**28)


@pytest.mark.parametrize("queries", ["q", "k", "v", "qk", "qkv"])
def test_attention_reads_what_no_time_step_changes(queries: str) -> None:
    assert_equals_reference(attention_on_pixels(0, queries), 0, CPU, 2**28)


def test_overflow_names_the_population() -> None:
    network = with_state_bits(random_network(1), 6)
    with pytest.raises(OverflowDetected, match=r"stem\.0\.lif: a state of \d+ does not fit 6 bits"):
        device.run(device.load(make_plan(network), CPU), random_images(network, 1))


def test_no_memory_is_an_error_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError

    network = random_network(2)
    loaded = device.load(make_plan(network), CPU)
    monkeypatch.setattr(device, "_run_population", full)
    with pytest.raises(InputError, match="--device: 4 images at once do not fit"):
        device.run(loaded, np.repeat(random_images(network, 2, 1), 4, 0))


def test_batches_fit_the_device() -> None:
    loaded = device.load(make_plan(random_network(2)), CPU)
    sizes = [device.batch_size(loaded, free) for free in (0, 2**31, 2**32)]
    assert 1 == sizes[0] < sizes[1] < sizes[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_cuda_the_way_out_is_named() -> None:
    with pytest.raises(InputError, match="--device: torch finds no CUDA device here"):
        device.cuda()
