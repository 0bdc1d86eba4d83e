"""Slices onto chips: a rectangle of chips is halved again and again, and the slices with it.

Each halving is across the longer side of its chips, such that messages * hops between the middles of the halves are
few; slices that stand elsewhere pull towards where they stand.  It starts from several orders of the slices, the
network's and those along each axis of the maps, so that a chip gets some layers, or a part of the map through many
layers, whatever is better.  Then single slices move: the best move is made even where it is a loss, each slice moves
once a pass, and the best state of the pass is kept.
Form: Fiduccia and Mattheyses, DAC 1982; the pull from outside after Dunlop and Kernighan, IEEE TCAD 4(1), 1985.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.compiled import single
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.mapping.refine import Talk

PASSES = 12
"""Over a halving at most; mostly one of the first few gains nothing, and ends it."""
PATIENCE = 8
"""A pass ends where this part of the slices has moved without a new best state: 1 / PATIENCE of them."""
FEWEST_MOVES = 50
"""But not before so many."""
LOOSE = 32
"""Within a pass a half may be too large by 1 / LOOSE of the slices."""
LEAST_GAIN = 1e-9
"""A pass that gains less, of messages * hops, has gained nothing but rounding."""


class _Halving(NamedTuple):
    """What a halving of some slices starts from.

    members    (members,) slices, ascending; local (slices,) their index in it, or -1
    pull       (members,) messages * hops that a slice has more with the outside if it goes to the half 1
    hops       between the middles of the halves
    low, high  the fewest and the most slices of the half 0
    """

    members: Int
    local: Int
    pull: Float
    hops: float
    low: int
    high: int


def chips_of(talk: Talk, middles: Float | None, machine: Profile, part: float = 0.5) -> Int:
    """(slices,) the chip of each: on the fewest chips, in a rectangle that is nearly square.

    middles  (slices, 3) where each lies in its site along channels, rows and columns, from 0 to 1; None: nobody knows
    part     of the chips that the first half of a halving gets: layers that fill three chips lose by being cut in two
    """
    slices = len(talk.start) - 1
    count = -(-slices // machine.cores_per_chip)
    place = _rectangle(count, machine)
    orders = _orders(slices, middles)
    # a slice stands in the middle of the chips that it may still come to
    stands = np.tile(place.mean(0), (slices, 1))
    chip = np.zeros(slices, np.int64)
    local = np.full(slices, -1, np.int64)
    regions = [(np.arange(slices), np.arange(count))]
    while regions:
        members, chips = regions.pop(0)
        if len(chips) == 1:
            chip[members] = chips[0]
            continue
        halves = _halves_of(place, chips, part)
        local[members] = np.arange(len(members))
        side = _best_sides(talk, members, local, stands, [place[half] for half in halves], orders, machine)
        local[members] = -1
        for number, half in enumerate(halves):
            regions.append((members[side == number], half))
            stands[members[side == number]] = place[half].mean(0)
    return place[chip] @ np.array([1, int(machine.board.columns)])


def _rectangle(count: int, machine: Profile) -> Int:
    """(count, 2) column and row of chips of the board, row by row in a rectangle that is nearly square."""
    columns, chips = int(machine.board.columns), int(machine.board.chips)
    width = min(columns, int(np.ceil(np.sqrt(count))))
    number = np.arange(count)
    # a board that is wide and low, or whose last row is short, has no square of that size
    while (number // width * columns + number % width).max() >= chips:
        width += 1
    return np.stack([number % width, number // width], 1)


def _orders(slices: int, middles: Float | None) -> list[Int]:
    """Orders (slices,) of all slices: the network's, by channels, by rows and by columns; and all of them backwards."""
    network = np.arange(slices)
    orders = [network]
    if middles is not None:
        channels, rows, columns = middles.T
        orders += [np.lexsort(keys) for keys in ((network, channels), (columns, rows), (rows, columns))]
    return [way for order in orders for way in (order, order[::-1])]


def _halves_of(place: Int, chips: Int, part: float) -> tuple[Int, Int]:
    """Some chips, cut in two across their longer side; place (chips, 2) of all of them."""
    x, y = place[chips].T
    keys = (y, x) if np.ptp(x) >= np.ptp(y) else (x, y)
    order = chips[np.lexsort(keys)]
    first = max(1, int(part * len(chips)))
    return order[:first], order[first:]


def _best_sides(
    talk: Talk, members: Int, local: Int, stands: Float, places: list[Int], orders: list[Int], machine: Profile
) -> Int:
    """(members,) the half, 0 or 1, of each slice, with the fewest messages * hops of all `orders`.

    places  (chips, 2) of both halves; stands (slices, 2) where slices of other regions are
    """
    middles = [chips.mean(0) for chips in places]
    apart = np.abs(middles[1] - middles[0])
    axis = int(apart.argmax())
    near, far = float(middles[0][axis]), float(middles[1][axis])
    at = np.ascontiguousarray(stands[:, axis])
    pull = _pull(talk.start, talk.other, talk.sent + talk.got, members, local, at, near, far)
    room = [len(chips) * machine.cores_per_chip for chips in places]
    low, high = max(0, len(members) - room[1]), min(len(members), room[0])
    halving = _Halving(members, local, pull, far - near, low, high)
    first = min(max(round(len(members) * len(places[0]) / (len(places[0]) + len(places[1]))), low), high)
    best, least = np.zeros(0, np.int64), np.inf
    for order in orders:
        side = np.ones(len(members), np.int64)
        index = local[order]
        side[index[index >= 0][:first]] = 0
        cost = _halve(talk, halving, side, max(2, len(members) // LOOSE))
        if cost < least:
            best, least = side, cost
    return best


@single
def _pull(start: Int, other: Int, weight: Float, members: Int, local: Int, at: Float, near: float, far: float) -> Float:
    """(members,) messages * hops with slices outside that each has more at `far` than at `near`; at (slices,)."""
    pull = np.zeros(len(members))
    for i in range(len(members)):
        for entry in range(start[members[i]], start[members[i] + 1]):
            partner = other[entry]
            if local[partner] < 0:
                pull[i] += weight[entry] * (abs(at[partner] - far) - abs(at[partner] - near))
    return pull


@single
def _halve(talk: Talk, halving: _Halving, side: Int, loose: int) -> float:
    """Improve `side` (members,) in place; returns messages * hops between the halves and with the outside.

    loose  slices by which a half may be too large within a pass
    """
    start, other, sent, got = talk
    members, local, pull, hops, low, high = halving
    size = len(members)
    gain = np.empty(size)
    free = np.empty(size, np.bool_)
    moved = np.empty(size, np.int64)
    cost = 0.0
    for _ in range(PASSES):
        zeros = 0
        cost = 0.0
        for i in range(size):
            zeros += side[i] == 0
            free[i] = True
            gain[i] = pull[i] if side[i] else -pull[i]
            cost += pull[i] * side[i]
            for entry in range(start[members[i]], start[members[i] + 1]):
                j = local[other[entry]]
                if j >= 0:
                    messages = hops * (sent[entry] + got[entry])
                    gain[i] += messages if side[j] != side[i] else -messages
                    cost += messages / 2 if side[j] != side[i] else 0.0
        now = 0.0
        best = 0.0
        kept = 0
        moves = 0
        while moves < size and moves - kept <= max(FEWEST_MOVES, size // PATIENCE):
            pick = -1
            for i in range(size):
                may = zeros > low - loose if side[i] == 0 else zeros < high + loose
                if free[i] and may and (pick < 0 or gain[i] > gain[pick]):
                    pick = i
            if pick < 0:
                break
            now += gain[pick]
            free[pick] = False
            side[pick] = 1 - side[pick]
            zeros += 1 - 2 * side[pick]
            moved[moves] = pick
            moves += 1
            for entry in range(start[members[pick]], start[members[pick] + 1]):
                j = local[other[entry]]
                if j >= 0:
                    messages = 2 * hops * (sent[entry] + got[entry])
                    gain[j] += messages if side[j] != side[pick] else -messages
            if now > best + LEAST_GAIN and low <= zeros <= high:
                best = now
                kept = moves
        for move in range(kept, moves):
            side[moved[move]] = 1 - side[moved[move]]
        cost -= best
        if kept == 0:
            break
    return cost
