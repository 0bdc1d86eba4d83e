"""Dense convolutions by pairs of products: against plain ones, at the edges of 16 bits, and where they are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.executors.fast.pairs import (
    HIGHEST,
    LOWEST,
    STEP,
    pair_convolution,
    processor_has_pairs,
    segments_of,
)
from spikformer_deploy.network.synapses import Conv


def plain(conv: Conv, maps: np.ndarray) -> np.ndarray:
    """(M, Y', X', C_out) sums, in doubles that hold each."""
    values = torch.from_numpy(maps).permute(0, 3, 1, 2).double()
    out = torch.conv2d(values, torch.from_numpy(conv.weight).double(), None, conv.stride, conv.padding)
    return out.permute(0, 2, 3, 1).numpy()


here = pytest.mark.skipif(not processor_has_pairs(), reason="no processor with AVX2")


@here
@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 3, 4, 17, 64, 130]),
    st.sampled_from([1, 16, 40]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2]),
    st.integers(0, 2),
    st.sampled_from([1, 9, 63, 64]),
    st.sampled_from([5.0, 35.0, 1e9]),
)
def test_equal_to_a_plain_convolution(
    seed: int, inputs: int, outputs: int, kernel: int, stride: int, padding: int, largest: int, spread: float
) -> None:
    """Of a band of rows too; weights near zero, as trained ones are, and only the largest and the smallest."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, spread, (outputs, inputs, kernel, kernel)).clip(-128, 127).astype(np.int8)
    conv = Conv(weight, (stride, stride), (padding, padding))
    shape = (2, int(rng.integers(3, 9)), int(rng.integers(3, 40)), inputs)
    maps = ((rng.random(shape) < 0.7) * rng.choice([1, largest], shape)).astype(np.uint8)
    right = plain(conv, maps)
    rows = right.shape[1]
    first = int(rng.integers(0, rows))
    end = int(rng.integers(first + 1, rows + 1))
    convolve = pair_convolution(conv, inputs, segments_of(conv, largest))
    np.testing.assert_array_equal(convolve(maps, 0, rows), right)
    np.testing.assert_array_equal(convolve(maps, first, end), right[:, first:end])


@here
@pytest.mark.parametrize("weight", [-127, 127])
@pytest.mark.parametrize("largest", [1, 2, 64])
def test_sums_of_extreme_operands_do_not_wrap(weight: int, largest: int) -> None:
    channels = 1030
    conv = Conv(np.full((16, channels, 1, 1), weight, np.int8), (1, 1), (0, 0))
    sums = pair_convolution(conv, channels, segments_of(conv, largest))(
        np.full((1, 1, 3, channels), largest, np.uint8), 0, 1
    )
    np.testing.assert_array_equal(sums, np.full((1, 1, 3, 16), largest * weight * channels))


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4, 30, 64]), st.sampled_from([10.0, 60.0]))
def test_segments_cover_all_inputs_and_stay_in_16_bits(seed: int, largest: int, spread: float) -> None:
    """Worked out sum by sum; one more step would have left them."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(0, spread, (8, 40, 3, 3)).clip(-127, 127).astype(np.int8)
    segments = segments_of(Conv(weight, (1, 1), (1, 1)), largest)
    count = 3 * 40 // STEP
    steps = weight.transpose(0, 2, 3, 1).reshape(8, 3, count, STEP).astype(int)
    met = np.zeros((3, count), int)
    for s in segments:
        met[s.top : s.top + s.rows, s.left : s.left + s.steps] += 1
        high, low = extremes(steps[:, s.top : s.top + s.rows, s.left : s.left + s.steps], largest)
        assert low >= LOWEST
        assert high <= HIGHEST
        if len(segments) > 1 and s.left + s.steps < count:
            high, low = extremes(steps[:, s.top : s.top + 1, s.left : s.left + s.steps + 1], largest)
            assert high > HIGHEST or low < LOWEST
    assert (met == 1).all()


def extremes(steps: np.ndarray, largest: int) -> tuple[int, int]:
    """The largest and the smallest sum of 16 bits of weights (C_out, KY, steps, STEP), two of four inputs each."""
    high, low = [], []
    for of_output in steps:
        fours = of_output.reshape(-1, 4)
        for part in (fours[:, :2], fours[:, 2:]):
            high.append(largest * part[part > 0].sum())
            low.append(largest * part[part < 0].sum())
    return max(high), min(low)


def test_what_may_saturate_is_left_to_others() -> None:
    def segments(weight: np.ndarray, largest: int, groups: int = 1) -> object:
        return segments_of(Conv(weight, (1, 1), (0, 0), groups), largest)

    # a pair of products saturates beyond 16 bits, and the four that a step brings to a sum must be within them too
    pair = np.zeros((1, 8, 1, 1), np.int8)
    pair[0, :2] = 127
    assert segments(pair, 129) is not None
    assert segments(pair, 130) is None
    assert segments(-pair, 129) is not None
    assert segments(-pair, 130) is None
    full = np.full((1, 8, 1, 1), 127, np.int8)
    assert segments(full, 64) is not None
    assert segments(full, 65) is None
    assert segments(full.astype(np.int16), 1) is None
    assert segments(np.ones((4, 1, 1, 1), np.int8), 1, 4) is None
