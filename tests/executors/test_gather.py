"""Event-driven convolutions against plain ones, in doubles that hold every sum."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikformer_deploy.executors.fast.gather import CHUNK, event_convolution
from spikformer_deploy.network.synapses import Conv


def plain(conv: Conv, maps: np.ndarray) -> np.ndarray:
    """(M, Y', X', C_out) sums."""
    values = torch.from_numpy(maps).permute(0, 3, 1, 2).double()
    out = torch.conv2d(values, torch.from_numpy(conv.weight).double(), None, conv.stride, conv.padding)
    return out.permute(0, 2, 3, 1).numpy()


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 3, 16, 63, 64, 65, 130]),
    st.sampled_from([1, 16, 40, 64, 128, 241]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.integers(0, 1),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from([1, 4, 255]),
)
def test_equal_to_a_plain_convolution(
    seed: int, inputs: int, outputs: int, kernel: int, stride: int, padding: int, rate: float, largest: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, (outputs, inputs, kernel, kernel)).astype(np.int8)
    conv = Conv(weight, (stride, stride), (padding, padding))
    shape = (2, int(rng.integers(3, 9)), int(rng.integers(3, 40)), inputs)
    maps = ((rng.random(shape) < rate) * rng.integers(1, largest + 1, shape)).astype(np.uint8)
    right = plain(conv, maps)
    rows = right.shape[1]
    first = int(rng.integers(0, rows))
    end = int(rng.integers(first + 1, rows + 1))
    convolve = event_convolution(conv, inputs)
    np.testing.assert_array_equal(convolve(maps, 0, rows), right)
    np.testing.assert_array_equal(convolve(maps, first, end), right[:, first:end])


@pytest.mark.parametrize("weight", [-128, 127])
def test_sums_of_extreme_weights_do_not_wrap(weight: int) -> None:
    conv = Conv(np.full((16, 4 * CHUNK + 1, 1, 1), weight, np.int8), (1, 1), (0, 0))
    maps = np.ones((1, 1, 3, 4 * CHUNK + 1), np.uint8)
    sums = event_convolution(conv, 4 * CHUNK + 1)(maps, 0, 1)
    np.testing.assert_array_equal(sums, np.full((1, 1, 3, 16), weight * (4 * CHUNK + 1)))


def test_wide_weights_are_left_to_others() -> None:
    assert event_convolution(Conv(np.ones((1, 1, 1, 1), np.int16), (1, 1), (0, 0)), 1) is None
    assert event_convolution(Conv(np.ones((1, 7300, 3, 3), np.int8), (1, 1), (1, 1)), 7300) is None
