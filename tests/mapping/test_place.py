"""Every placer by one suite; refinement against its own laws; metrics against a walk over the mesh."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.boards import chain, small_board

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.mapping.place import (
    NEVER_WORSE,
    Constraints,
    Placer,
    greedy,
    hilbert,
    hilbert_order,
    random,
    refined,
    row_major,
)
from spikformer_deploy.mapping.route import Nets, link_loads, metrics

PLACERS = [hilbert, row_major, random, greedy, refined]
BOARD = load_profile("kapoho_point")


@pytest.mark.parametrize("placer", PLACERS)
@pytest.mark.parametrize("slices", [1, 7, 120, 121, 700])
def test_every_slice_has_a_core_of_its_own(placer: Placer, slices: int) -> None:
    cores = placer(slices, chain(slices, 0), BOARD, Constraints())
    assert cores.shape == (slices,)
    assert len(set(cores.tolist())) == slices
    assert (cores >= 0).all()
    assert (cores < BOARD.cores).all()
    assert len(np.unique(cores // BOARD.cores_per_chip)) == -(-slices // BOARD.cores_per_chip)


@pytest.mark.parametrize("placer", PLACERS)
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_constraints_hold_and_results_repeat(placer: Placer, seed: int) -> None:
    rng, board = np.random.default_rng(seed), small_board()
    slices = int(rng.integers(1, 20))
    cores = rng.permutation(board.cores)
    fixed = dict(zip(rng.permutation(slices)[:3].tolist(), cores[:3].tolist(), strict=False))
    constraints = Constraints(fixed, frozenset(cores[3:10].tolist()))
    nets = chain(slices, seed)
    placed = placer(slices, nets, board, constraints)
    assert len(set(placed.tolist())) == slices
    assert not constraints.forbidden & set(placed.tolist())
    assert {s: int(placed[s]) for s in fixed} == fixed
    np.testing.assert_array_equal(placer(slices, nets, board, constraints), placed)


@pytest.mark.parametrize("placer", PLACERS)
def test_too_few_cores_are_an_error(placer: Placer) -> None:
    with pytest.raises(MappingError, match="33 slices to place, and 32 cores"):
        placer(33, chain(33, 0), small_board(), Constraints())
    with pytest.raises(MappingError, match="32 slices to place, and 31 cores"):
        placer(32, chain(32, 0), small_board(), Constraints(forbidden=frozenset({5})))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 32))
def test_refined_is_never_worse_than_hilbert(seed: int, slices: int) -> None:
    board, nets = small_board(), chain(slices, seed)
    ours, start = (metrics(nets, p(slices, nets, board, Constraints()), board) for p in (refined, hilbert))
    for name in NEVER_WORSE:
        assert ours[name] <= start[name]


def test_refined_finds_what_hilbert_misses() -> None:
    """Slices that talk in pairs, far apart in the order of the network: all can stand two to a tile."""
    pairs = np.arange(16)
    nets = Nets(pairs, 31 - pairs, np.full(16, 1000.0))
    board = small_board()
    placed = refined(32, nets, board, Constraints())
    assert metrics(nets, placed, board)["packet_hops"] < 0.3 * metrics(nets, np.arange(32), board)["packet_hops"]


def test_greedy_puts_neighbours_together() -> None:
    """A star: the centre first, then its partners on the tiles around it, nearest first."""
    nets = Nets(np.zeros(7, np.int64), np.arange(1, 8), np.ones(7))
    board = small_board(1)
    placed = greedy(8, nets, board, Constraints())
    x, y = coordinates(board, placed)
    hops = np.abs(x - x[0]) + np.abs(y - y[0])
    assert hops.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]


@given(st.integers(1, 12), st.integers(1, 12))
def test_hilbert_visits_every_cell_once(width: int, height: int) -> None:
    order = hilbert_order(width, height)
    assert sorted(order.tolist()) == list(range(width * height))


def test_hilbert_neighbours_are_neighbours() -> None:
    y, x = np.divmod(hilbert_order(8, 8), 8)
    assert (np.abs(np.diff(x)) + np.abs(np.diff(y)) == 1).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_link_loads_equal_a_walk(seed: int) -> None:
    rng, board = np.random.default_rng(seed), small_board()
    cores = rng.integers(0, board.cores, 6)
    x, y = coordinates(board, cores)
    nets = Nets(rng.integers(0, 6, 9), rng.integers(0, 6, 9), rng.integers(1, 9, 9).astype(float))
    walked: Counter[tuple[int, ...]] = Counter()
    between: Counter[tuple[int, ...]] = Counter()
    for source, target, messages in zip(nets.source, nets.target, nets.messages, strict=True):
        at = [int(x[source]), int(y[source])]
        for axis, goal in ((0, int(x[target])), (1, int(y[target]))):
            while at[axis] != goal:
                step = 1 if goal > at[axis] else -1
                walked[axis, step, at[1 - axis], min(at[axis], at[axis] + step)] += messages
                chip = at[0] // 2, at[1] // 2
                at[axis] += step
                if chip != (at[0] // 2, at[1] // 2):
                    between[(axis, step, *chip)] += messages
    ours = link_loads(nets, x, y)
    np.testing.assert_array_equal(np.sort(ours[ours > 0]), np.sort(list(walked.values())))
    found = metrics(nets, cores, board)
    assert found["max_link_load"] == max(walked.values(), default=0)
    assert found["max_chip_link_load"] == max(between.values(), default=0)
    assert found["packet_hops"] == sum(walked.values())


def test_coordinates_follow_tiles_and_chips() -> None:
    x, y = coordinates(BOARD, np.array([0, 3, 4, 31, 32, 120, 480]))
    assert list(zip(x.tolist(), y.tolist(), strict=True)) == [(0, 0), (0, 0), (1, 0), (7, 0), (0, 1), (8, 0), (0, 4)]
