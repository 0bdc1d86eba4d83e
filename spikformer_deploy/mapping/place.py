"""Slices onto cores.  All placers have one signature and one test suite: (slices, nets, machine, constraints) -> cores.

refined (what compile uses) starts from chips.py where a network takes several chips, and else from hilbert, and swaps
slices over all tiles of all chips; the cores of a tile stand at one router and are equal.  It never returns a placement
that is worse than hilbert's in packets * hops or in the load of the heaviest link, within chips or between them: where
it were, it starts from hilbert again, with whole chips exchanged first.
hilbert, greedy, row_major and random are what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import numba
import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.compiled import single
from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.mapping.chips import chips_of
from spikformer_deploy.mapping.refine import Talk, refine, talk_of
from spikformer_deploy.mapping.route import Nets, metrics

SWAPS = 160
"""Swaps that refinement tries for each slice: four times as many gain 2 % more."""
SKETCH = 20
"""Swaps for each slice that tell which of several starts has the lightest links between chips in the end."""
PARTS = (1 / 2, 1 / 3, 2 / 5, 3 / 5)
"""Halvings of chips that are tried, by the part that the first half gets: the heaviest links differ by up to two."""
MOST_HALVED = 20_000
"""Slices beyond which chips are not halved: the time for it grows as their square, some ten seconds for so many."""
SEED = 0
"""Of the placements that are drawn: the same network always gets the same cores."""
FEWEST_CHIPS = 3
"""Chips are exchanged as if all of their slices stood in one corner: of two of them, that changes no hop."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a placement has to respect: slices that must stand on a certain core, and cores that must stay free."""

    fixed: dict[int, int] = field(default_factory=dict)
    forbidden: frozenset[int] = frozenset()


NONE = Constraints()
"""Any core for any slice."""
NEVER_WORSE = ("packet_hops", "max_link_load", "max_chip_link_load")
"""The metrics in which a refined placement is at least as good as hilbert's."""
Placer: TypeAlias = Callable[[int, Nets, Profile, Constraints], Int]
"""(number of slices, nets, machine, constraints) -> (slices,) global cores, all different; slices come in the order of
the network.  Raises MappingError where there are too few cores."""


def hilbert(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Chips along a Hilbert curve over the board, and tiles along one over each chip.

    Neighbours on the curve are neighbours on the mesh, and layers that follow each other come to stand side by side.
    """
    tiles = hilbert_order(int(machine.chip.tiles_x), int(machine.chip.tiles_y))
    columns = int(machine.board.columns)
    rows = -(-int(machine.board.chips) // columns)
    chips = hilbert_order(columns, rows)
    chips = chips[chips < int(machine.board.chips)]  # the last row of a board may be short
    within = _cores_of_tiles(tiles, machine)
    return _in_order((chips[:, None] * machine.cores_per_chip + within).ravel(), slices, machine, constraints)


def row_major(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Cores in the order of their numbers: tiles row by row, chip after chip."""
    return _in_order(np.arange(machine.cores), slices, machine, constraints)


def random(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Any cores of as few chips as hold them, from SEED."""
    free = row_major(slices, nets, machine, constraints)
    chips = free.max(initial=0) // machine.cores_per_chip + 1
    cores = np.random.default_rng(SEED).permutation(chips * machine.cores_per_chip)
    return _in_order(cores, slices, machine, constraints)


def greedy(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Slice after slice, in the order of the network, to the free core that adds the fewest packets * hops.

    On the chips that hilbert takes; of equal cores the one with the lowest number.
    """
    cores = _open_cores(hilbert(slices, nets, machine, constraints), machine, constraints)
    tiles = _tiles_of(cores, machine)
    fixed = np.full(slices, -1, np.int64)
    for slice_, core in constraints.fixed.items():
        fixed[slice_] = np.searchsorted(cores, core)
    return cores[_greedy(talk_of(slices, nets), tiles[:, 0], tiles[:, 1], fixed)]


def refined(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Annealed, from SEED; never worse than hilbert (see the head of this file)."""
    start = hilbert(slices, nets, machine, constraints)
    talk = talk_of(slices, nets)
    # what is bound to a core is bound to its chip, and a chip that lacks a core cannot take all slices of another
    bound = constraints.fixed or constraints.forbidden
    before = metrics(nets, start, machine)
    if machine.cores_per_chip < slices <= MOST_HALVED and not bound:
        better = _swap_slices(talk, _lightest_start(talk, nets, machine), machine, constraints)
        if _no_worse(metrics(nets, better, machine), before):
            return better
    better = start if bound else _swap_chips(talk, start, machine)
    better = _swap_slices(talk, better, machine, constraints)
    return better if _no_worse(metrics(nets, better, machine), before) else start


def _no_worse(after: dict[str, float], before: dict[str, float]) -> bool:
    return all(after[name] <= before[name] for name in NEVER_WORSE)


def _lightest_start(talk: Talk, nets: Nets, machine: Profile) -> Int:
    """Of the halvings by all PARTS, that with the lightest heaviest link between chips after a few swaps."""

    def tried(part: float) -> tuple[Int, float]:
        start = _by_chips(talk, nets, machine, part)
        sketch = _swap_slices(talk, start, machine, NONE, SKETCH)
        return start, metrics(nets, sketch, machine)["max_chip_link_load"]

    with ThreadPoolExecutor(min(len(PARTS), numba.get_num_threads())) as pool:
        return min(pool.map(tried, PARTS), key=lambda found: found[1])[0]


def _by_chips(talk: Talk, nets: Nets, machine: Profile, part: float) -> Int:
    """On the chips of chips.py, and of each chip in the order of the network along a Hilbert curve over its tiles."""
    chip = chips_of(talk, nets.middles, machine, part)
    tiles = _cores_of_tiles(hilbert_order(*_tiles_of_chip(machine)), machine)
    # how many of the same chip come before each slice
    order = np.argsort(chip, kind="stable")
    _, first = np.unique(chip[order], return_index=True)
    before = np.empty(len(chip), np.int64)
    before[order] = np.arange(len(chip)) - np.repeat(first, np.diff(first, append=len(chip)))
    return chip * machine.cores_per_chip + tiles[before]


def _swap_chips(talk: Talk, cores: Int, machine: Profile) -> Int:
    """Whole chips exchanged, among those in use: a chip is to its board what a slice is to a mesh."""
    used, chip = np.unique(cores // machine.cores_per_chip, return_inverse=True)
    if len(used) < FEWEST_CHIPS:
        return cores
    speaker = np.repeat(np.arange(len(cores)), np.diff(talk.start))
    between = talk_of(len(used), Nets(chip[speaker], chip[talk.other], talk.sent))
    tiles = _tiles_of(used * machine.cores_per_chip, machine)
    movable = np.ones(len(used), bool)
    start = np.arange(len(used))
    place = refine(between, tiles, start, movable, _tiles_of_chip(machine), SWAPS * len(used), SEED)
    return used[place][chip] * machine.cores_per_chip + cores % machine.cores_per_chip


def _swap_slices(talk: Talk, start: Int, machine: Profile, constraints: Constraints, swaps: int = SWAPS) -> Int:
    """Slices exchanged, and moved to free cores, over all tiles of the chips that `start` (slices,) uses.

    swaps  that are tried for each slice
    """
    movable = np.ones(len(start), bool)
    movable[list(constraints.fixed)] = False
    cores = _open_cores(start, machine, constraints)
    tiles = _tiles_of(cores, machine)
    slots = np.searchsorted(cores, start)
    return cores[refine(talk, tiles, slots, movable, _tiles_of_chip(machine), swaps * len(start), SEED)]


def _tiles_of_chip(machine: Profile) -> tuple[int, int]:
    """Its width and height in tiles."""
    return int(machine.chip.tiles_x), int(machine.chip.tiles_y)


def _tiles_of(cores: Int, machine: Profile) -> Int:
    """(cores, 2) x and y of their tiles, counted from the corner of the leftmost and of the lowest chip among them.

    From a corner of a chip, so that the borders between chips keep their places.
    """
    x, y = coordinates(machine, cores)
    width, height = _tiles_of_chip(machine)
    return np.stack([x - x.min() // width * width, y - y.min() // height * height], 1)


def _in_order(order: Int, slices: int, machine: Profile, constraints: Constraints) -> Int:
    """Slices one after the other on the cores of `order`, without those that are taken or forbidden."""
    taken = np.array([*constraints.fixed.values(), *constraints.forbidden], np.int64)
    free = order[~np.isin(order, taken)]
    moving = np.setdiff1d(np.arange(slices), list(constraints.fixed))
    if len(moving) > len(free):
        problem = f"{len(moving):,} slices to place, and {len(free):,} cores of {machine.name} are free"
        raise MappingError("placement", problem, "Use a larger board, or fewer constraints.")
    out = np.empty(slices, np.int64)
    out[moving] = free[: len(moving)]
    for slice_, core in constraints.fixed.items():
        out[slice_] = core
    return out


def _open_cores(start: Int, machine: Profile, constraints: Constraints) -> Int:
    """All cores of the chips that `start` uses, ascending, without the forbidden ones."""
    chips = np.unique(start // machine.cores_per_chip)
    cores = (chips[:, None] * machine.cores_per_chip + np.arange(machine.cores_per_chip)).ravel()
    return cores[~np.isin(cores, list(constraints.forbidden))]


@single
def _greedy(talk: Talk, x: Int, y: Int, fixed: Int) -> Int:
    """(slices,) indices of cores at tiles (x, y); fixed (slices,): that index, or -1."""
    start, other, sent, got = talk  # once: numba counts references at every look into a tuple of arrays
    place = fixed.copy()
    taken = np.zeros(len(x), np.bool_)
    for core in fixed:
        if core >= 0:
            taken[core] = True
    # hops are separable: those to a tile are hops to its column plus hops to its row
    to_column = np.zeros(x.max() + 1)
    to_row = np.zeros(y.max() + 1)
    for slice_ in range(len(place)):
        if place[slice_] >= 0:
            continue
        to_column[:] = 0.0
        to_row[:] = 0.0
        for entry in range(start[slice_], start[slice_ + 1]):
            core = place[other[entry]]
            if core >= 0:
                messages = sent[entry] + got[entry]
                for column in range(len(to_column)):
                    to_column[column] += messages * abs(column - x[core])
                for row in range(len(to_row)):
                    to_row[row] += messages * abs(row - y[core])
        best = -1
        least = np.inf
        for core in range(len(x)):
            if not taken[core] and to_column[x[core]] + to_row[y[core]] < least:
                best = core
                least = to_column[x[core]] + to_row[y[core]]
        place[slice_] = best
        taken[best] = True
    return place


def hilbert_order(width: int, height: int) -> Int:
    """Cells y * width + x of a grid along a Hilbert curve over the smallest square of a power of two around it."""
    side = 1 << max(width - 1, height - 1).bit_length()
    cells = [_cell(side, d) for d in range(side * side)]
    return np.array([y * width + x for x, y in cells if x < width and y < height], np.int64)


def _cell(side: int, distance: int) -> tuple[int, int]:
    """(x, y) at `distance` along the curve.  Source: Hilbert 1891, in the usual bitwise form."""
    x = 0
    y = 0
    scale = 1
    # from the smallest squares to the largest: two bits of the distance choose a quarter of the next one
    while scale < side:
        right = 1 & (distance // 2)
        up = 1 & (distance ^ right)
        if not up:
            # the curve within the lower quarters is mirrored, so that its ends meet those of its neighbours
            if right:
                x = scale - 1 - x
                y = scale - 1 - y
            x, y = y, x
        x += scale * right
        y += scale * up
        distance //= 4
        scale *= 2
    return x, y


def _cores_of_tiles(tiles: Int, machine: Profile) -> Int:
    """Cores of one chip in the order of its tiles, without the reserved ones: those with the highest numbers."""
    per_tile = int(machine.chip.cores_per_tile)
    cores = (tiles[:, None] * per_tile + np.arange(per_tile)).ravel()
    return cores[cores < machine.cores_per_chip]
