"""Slices halved onto chips: what a halving costs against a slow sum, room on every chip, and what it finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.boards import chain, small_board

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.profile import Profile, load_profile
from spikformer_deploy.mapping.chips import _halve, _Halving, _pull, _rectangle, chips_of
from spikformer_deploy.mapping.place import NONE, PARTS, hilbert, refined
from spikformer_deploy.mapping.refine import talk_of
from spikformer_deploy.mapping.route import Nets, metrics

KAPOHO_POINT = load_profile("kapoho_point")
HALA_POINT = load_profile("hala_point")


def cost(nets: Nets, halving: _Halving, side: Int) -> float:
    """Messages * hops between the halves and with the outside, net by net."""
    side_of = dict(zip(halving.members.tolist(), side.tolist(), strict=True))
    total = float((halving.pull * side).sum())
    for source, target, messages in zip(nets.source.tolist(), nets.target.tolist(), nets.messages, strict=True):
        if source in side_of and target in side_of and side_of[source] != side_of[target]:
            total += halving.hops * messages
    return total


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(4, 60))
def test_a_halving_costs_what_it_says_and_no_more_than_its_start(seed: int, slices: int) -> None:
    rng = np.random.default_rng(seed)
    nets = Nets(*rng.integers(0, slices, (2, 3 * slices)), rng.integers(1, 99, 3 * slices).astype(float))
    nets = Nets(*(column[nets.source != nets.target] for column in (nets.source, nets.target, nets.messages)))
    talk = talk_of(slices, nets)
    members = np.flatnonzero(rng.random(slices) < 0.8)
    local = np.full(slices, -1)
    local[members] = np.arange(len(members))
    at = rng.random(slices) * 4
    pull = _pull(talk.start, talk.other, talk.sent + talk.got, members, local, at, 1.0, 2.5)
    for index, slice_ in enumerate(members):
        slow = 0.0
        for source, target, messages in zip(nets.source, nets.target, nets.messages, strict=True):
            partner = target if source == slice_ else source
            if slice_ in (source, target) and local[partner] < 0:
                slow += messages * (abs(at[partner] - 2.5) - abs(at[partner] - 1.0))
        assert pull[index] == pytest.approx(slow)
    low = len(members) // 3
    high = low + int(rng.integers(0, 3))
    halving = _Halving(members, local, pull, 1.5, low, high)
    side = np.ones(len(members), np.int64)
    side[rng.permutation(len(members))[:low]] = 0
    before = cost(nets, halving, side)
    found = _halve(talk, halving, side, 2)
    assert found == pytest.approx(cost(nets, halving, side))
    assert found <= before + 1e-6
    assert low <= (side == 0).sum() <= high


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(9, 64), st.sampled_from(PARTS))
def test_every_chip_has_room_and_as_few_as_suffice_are_taken(seed: int, slices: int, part: float) -> None:
    board = small_board(8)
    chips = chips_of(talk_of(slices, chain(slices, seed)), None, board, part)
    assert (np.bincount(chips) <= board.cores_per_chip).all()
    assert len(np.unique(chips)) <= -(-slices // board.cores_per_chip)
    assert chips.max() < int(board.board.chips)


@pytest.mark.parametrize(("board", "count", "sides"), [
    (KAPOHO_POINT, 4, (2, 2)), (KAPOHO_POINT, 7, (4, 2)), (KAPOHO_POINT, 8, (4, 2)),
    (HALA_POINT, 73, (9, 9)), (HALA_POINT, 1152, (36, 32)),
])  # fmt: skip
def test_chips_stand_in_a_rectangle(board: Profile, count: int, sides: tuple[int, int]) -> None:
    place = _rectangle(count, board)
    assert len(np.unique(place, axis=0)) == count
    assert (place.max(0) + 1).tolist() == list(sides)


def stripes(layers: int, parts: int) -> Nets:
    """Layers of `parts` slices, each a part of the map that talks to the same part of the next, a little to others."""
    slices = np.arange(layers * parts).reshape(layers, parts)
    source = np.repeat(slices[:-1], parts)
    target = np.tile(slices[1:, None, :], (1, parts, 1)).ravel()
    messages = np.where(source % parts == target % parts, 1000.0, 1.0)
    where = np.zeros((layers * parts, 3))
    where[:, 1] = (slices % parts).ravel() / parts
    return Nets(source, target, messages, where)


def test_a_chip_gets_a_part_of_the_map_through_all_layers_where_that_is_better() -> None:
    """Eight layers of four slices on four chips of eight cores: by layers all messages cross, by parts hardly any."""
    board, nets = small_board(), stripes(8, 4)
    chips = chips_of(talk_of(32, nets), nets.middles, board)
    assert all(len(np.unique(chips[part::4])) == 1 for part in range(4))
    ours, theirs = (metrics(nets, placer(32, nets, board, NONE), board) for placer in (refined, hilbert))
    assert ours["max_chip_link_load"] < 0.05 * theirs["max_chip_link_load"]
