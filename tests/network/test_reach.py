"""The geometry of windows and groups, against a walk over all taps and all channels."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.network.reach import (
    Axis,
    axes_of,
    channels_read,
    fan_of_channels,
    groups_met,
    most_groups,
    most_read,
    most_taps,
    reached,
    read_by,
)
from spikformer_deploy.network.synapses import Conv, Readout, Window

AXES = st.builds(Axis, st.integers(1, 5), st.integers(1, 4), st.integers(-4, 3))
EXTENTS = st.integers(1, 9)
RANGES = st.tuples(st.integers(0, 6), st.integers(1, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
"""(first, end) of targets."""


def taps(axis: Axis, first: int, end: int) -> list[tuple[int, int, int]]:
    """(target, tap, source position) of all taps of the targets [first, end), padding included."""
    return [(t, k, t * axis.stride - axis.padding + k) for t in range(first, end) for k in range(axis.kernel)]


@settings(deadline=None, max_examples=200)
@given(AXES, EXTENTS, RANGES)
def test_reached_counts_the_targets_of_every_position(axis: Axis, extent: int, targets: tuple[int, int]) -> None:
    first, end = targets
    walked = [sum(position == p for _, _, position in taps(axis, first, end)) for p in range(extent)]
    assert reached(extent, np.array([first]), np.array([end]), *axis).tolist() == [walked]


@settings(deadline=None, max_examples=200)
@given(AXES, RANGES)
def test_read_by_is_from_the_first_tap_to_the_last(axis: Axis, targets: tuple[int, int]) -> None:
    first, end = targets
    positions = [position for _, _, position in taps(axis, first, end)]
    low, high = read_by(np.array(first), np.array(end), axis)
    assert (int(low), int(high)) == (min(positions), max(positions) + 1)
    if axis.stride <= axis.kernel:
        assert set(positions) == set(range(int(low), int(high)))


@settings(deadline=None, max_examples=200)
@given(AXES, EXTENTS, st.integers(1, 6))
def test_no_box_reads_more_than_the_most(axis: Axis, extent: int, size: int) -> None:
    """Over all places of a box, up to those far beyond the source; some place reads that many where nothing is cut."""
    positions = []
    used = []
    for first in range(-20, 20):
        inside = [(k, p) for _, k, p in taps(axis, first, first + size) if 0 <= p < extent]
        positions.append(len({p for _, p in inside}))
        used.append(len({k for k, _ in inside}))
    most = int(most_read(np.array(size), axis, extent))
    assert max(positions) <= most
    length = (size - 1) * axis.stride + axis.kernel
    if axis.stride <= axis.kernel and (axis.stride == 1 or length <= extent - axis.stride + 1):
        assert max(positions) == most
    assert max(used) <= int(most_taps(np.array(size), axis, extent))
    if axis.stride == 1:
        assert max(used) == int(most_taps(np.array(size), axis, extent))


def test_a_readout_reads_the_whole_map() -> None:
    readout = Readout(np.ones((4, 3), np.int8))
    for extent, axis in zip((5, 7), axes_of(readout, (3, 5, 7)), strict=True):
        low, high = read_by(np.array(0), np.array(1), axis)
        assert (int(low), int(high)) == (0, extent)
        assert reached(extent, np.array([0]), np.array([1]), *axis).tolist() == [[1] * extent]
    low, high = channels_read(readout, (3, 5, 7), np.array([1]), np.array([2]))
    assert (low.tolist(), high.tolist()) == ([0], [3])


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.data())
def test_channels_of_groups(groups: int, targets: int, sources: int, data: st.DataObject) -> None:
    conv = Conv(np.ones((groups * targets, sources, 1, 1), np.int8), groups=groups)
    shape = (groups * sources, 1, 1)
    first = data.draw(st.integers(0, groups * targets - 1))
    end = data.draw(st.integers(first + 1, groups * targets))
    fan = [sum(target // targets == source // sources for target in range(first, end)) for source in range(shape[0])]
    counted = np.zeros(shape[0], int)
    for low, high, reaches in fan_of_channels(conv, shape, first, end):
        counted[low:high] = reaches
    assert counted.tolist() == fan
    low, high = channels_read(conv, shape, np.array([first]), np.array([end]))
    assert np.flatnonzero(fan).tolist() == list(range(low[0], high[0]))
    met = {target // targets for target in range(first, end)}
    assert len(met) <= int(groups_met(np.array(end - first), targets)) + 1
    if first % targets == 0:
        assert len(met) == int(groups_met(np.array(end - first), targets))


@given(st.integers(1, 12), st.integers(1, 12))
def test_most_groups_of_a_grid_is_what_its_worst_box_meets(size: int, targets: int) -> None:
    ends = range(size, size * targets + 1, size)  # behind them the grid repeats
    met = [len({channel // targets for channel in range(end - size, end)}) for end in ends]
    assert int(most_groups(np.array(size), targets)) == max(met)


def test_a_window_keeps_its_channel() -> None:
    window = Window((3, 2), (2, 1), (1, 0))
    low, high = channels_read(window, (8, 5, 5), np.array([2]), np.array([5]))
    assert (low.tolist(), high.tolist()) == ([2], [5])
    assert axes_of(window, (8, 5, 5)) == (Axis(3, 2, 1), Axis(2, 1, 0))
    moved = Window((3, 2), (2, 1), (1, 0), (2, -4))
    assert axes_of(moved, (8, 5, 5)) == (Axis(3, 2, -1), Axis(2, 1, 4))
