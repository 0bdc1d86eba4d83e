"""Scale groups and thresholds: as large as the weights allow, groups as good as brute force finds."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.quantization.scales import largest_thresholds, scale_groups

peaks_of = st.lists(st.floats(1e-4, 50.0), min_size=1, max_size=12).map(np.array)


@settings(deadline=None)
@given(peaks_of, st.floats(0.05, 20.0), st.sampled_from([1, 7, 127]))
def test_threshold_is_the_largest_that_fits(peaks: np.ndarray, gain: float, largest: int) -> None:
    groups = scale_groups(peaks, "channel", 8)
    thresholds = largest_thresholds(peaks, groups, gain, largest, cap=2**20)
    assert (np.rint(peaks * gain * thresholds) <= largest).all()
    below_cap = thresholds < 2**20
    assert (np.rint(peaks * gain * (thresholds + 1)) > largest)[below_cap].all()


def test_zero_weights_take_the_cap() -> None:
    assert largest_thresholds(np.zeros(3), np.zeros(3, int), 1.0, 127, cap=1000).tolist() == [1000] * 3


def cost(peaks: np.ndarray, groups: np.ndarray) -> float:
    return sum((groups == g).sum() * peaks[groups == g].max() ** 2 for g in np.unique(groups))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0.01, 10.0), min_size=4, max_size=9).map(np.array), st.integers(2, 3))
def test_groups_are_the_best_partition(peaks: np.ndarray, most: int) -> None:
    groups = scale_groups(peaks, "group", most)
    assert groups.max() < most
    order = np.argsort(-peaks, kind="stable")
    best = min(
        cost(peaks[order], np.searchsorted(cuts, np.arange(len(peaks)), side="right"))
        for count in range(most)
        for cuts in combinations(range(1, len(peaks)), count)
    )
    assert cost(peaks, groups) == pytest.approx(best, rel=1e-12)


def test_granularity() -> None:
    peaks = np.geomspace(0.01, 1, 40)
    assert len(np.unique(scale_groups(peaks, "tensor", 8))) == 1
    assert len(np.unique(scale_groups(peaks, "group", 8))) == 8
    assert len(np.unique(scale_groups(peaks, "channel", 8))) == 40
