"""The loops of the LIF against its rule in plain numpy: any width and type of sums; potentials kept or not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import some

from spikformer_deploy.executors.fast.kernels import LIF_LOOPS, LifParameters


def plain(
    sums: np.ndarray, steps: int, shift: int, threshold: np.ndarray, bias: np.ndarray, held: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """(spikes, potentials after the reset, largest magnitude of each image); bias (P, C); held: potentials before."""
    v = np.zeros(sums[:, 0].shape, np.int64) if held is None else held.astype(np.int64)
    peak = np.zeros(len(sums), np.int64)
    spikes = []
    kept = []
    for t in range(steps):
        drive = (sums[:, min(t, sums.shape[1] - 1)].astype(np.int64) << shift) + bias
        v = (v >> 1) + drive
        peak = np.maximum(peak, np.maximum(np.abs(v), np.abs(drive)).max((1, 2)))
        fires = v >= threshold
        v = np.where(fires, 0, v)
        spikes.append(fires)
        kept.append(v)
    return np.stack(spikes, 1), np.stack(kept, 1), peak


@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 150),
    positions=st.integers(1, 7),
    steps=st.integers(1, 5),
    shift=st.integers(0, 8),
    constant=st.booleans(),
    record=st.booleans(),
    resting=st.booleans(),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("width", [np.int32, np.int64])
@pytest.mark.parametrize("kind", some([np.float32, np.int32], long=[np.float64, np.int64]))
def test_every_width_equals_the_rule(
    kind: type,
    width: type,
    seed: int,
    channels: int,
    positions: int,
    steps: int,
    shift: int,
    constant: bool,
    record: bool,
    resting: bool,
) -> None:
    rng = np.random.default_rng(seed)
    images = 2
    before = 3
    sums = rng.integers(-(2**20), 2**20, (images, 1 if constant else steps, positions, channels)).astype(kind)
    threshold = rng.integers(-50, 2**20, channels).astype(width)
    bias = rng.integers(-999, 999, (3, channels)).astype(width)
    bias_of = rng.integers(0, 3, before + positions)
    out = np.full((images, steps, before + positions, channels), 9, np.uint8)
    membrane = np.full(out.shape if record else (0, 0, 0, 0), 9, np.int32)
    peak = np.zeros((images, int(rng.integers(1, positions + 1))), np.int64)

    lif = LifParameters(2048, 0, shift, False, 0, False, threshold, threshold, bias, bias_of)
    shape = (0, 0, 0) if resting else (images, before + positions, channels)
    held = rng.integers(-(2**20), 2**20, shape).astype(np.int32)
    LIF_LOOPS[np.dtype(width)](sums, lif, before, held, out, membrane, peak)

    start = None if resting else held[:, before:]
    spikes, kept, largest = plain(sums, steps, shift, threshold, bias[bias_of[before:]], start)
    np.testing.assert_array_equal(out[:, :, before:], spikes)
    np.testing.assert_array_equal(peak.max(1), largest)
    # positions before the first are another call's
    assert (out[:, :, :before] == 9).all()
    if record:
        np.testing.assert_array_equal(membrane[:, :, before:], kept)
        assert (membrane[:, :, :before] == 9).all()
