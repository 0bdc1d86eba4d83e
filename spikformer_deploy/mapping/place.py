"""Slices onto cores.  All placers have one signature and one test suite: (slices, nets, machine, constraints) -> cores.

refined (what compile uses) starts from hilbert and swaps: chips first, then slices over all tiles of all chips; the
cores of a tile stand at one router and are equal.  It never returns a placement that is worse than hilbert's in
packets * hops or in the load of the heaviest link, within chips or between them.
hilbert, greedy, row_major and random are what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numba import njit

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.loihi.tiles import coordinates
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.mapping.refine import Talk, refine, talk_of
from spikformer_deploy.mapping.route import Nets, metrics

SWAPS = 160
"""Swaps that refinement tries for each slice: four times as many gain 2 % more."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a placement has to respect: slices that must stand on a certain core, and cores that must stay free."""

    fixed: dict[int, int] = field(default_factory=dict)
    forbidden: frozenset[int] = frozenset()


NONE = Constraints()
NEVER_WORSE = ("packet_hops", "max_link_load", "max_chip_link_load")
"""The metrics in which a refined placement is at least as good as hilbert's."""
Placer: TypeAlias = Callable[[int, Nets, Profile, Constraints], Int]
"""(number of slices, nets, machine, constraints) -> (slices,) global cores, all different; slices come in the order of
the network.  Raises MappingError where there are too few cores."""


def hilbert(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Chips along a Hilbert curve over the board, and tiles along one over each chip."""
    tiles = hilbert_order(int(machine.chip.tiles_x), int(machine.chip.tiles_y))
    columns = int(machine.board.columns)
    chips = hilbert_order(columns, -(-int(machine.board.chips) // columns))
    chips = chips[chips < int(machine.board.chips)]
    within = _cores_of_tiles(tiles, machine)
    return _in_order((chips[:, None] * machine.cores_per_chip + within).ravel(), slices, machine, constraints)


def row_major(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Cores in the order of their numbers: tiles row by row, chip after chip."""
    return _in_order(np.arange(machine.cores), slices, machine, constraints)


def random(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Any cores of as few chips as hold them, from seed 0."""
    free = row_major(slices, nets, machine, constraints)
    last = free.max(initial=0) // machine.cores_per_chip + 1
    cores = np.random.default_rng(0).permutation(last * machine.cores_per_chip)
    return _in_order(cores, slices, machine, constraints)


def greedy(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Slice after slice, in the order of the network, to the free core that adds the fewest packets * hops.

    On the chips that hilbert takes; of equal cores the one with the lowest number.
    """
    cores = _open_cores(hilbert(slices, nets, machine, constraints), machine, constraints)
    x, y = coordinates(machine, cores)
    fixed = np.full(slices, -1, np.int64)
    for slice_, core in constraints.fixed.items():
        fixed[slice_] = np.searchsorted(cores, core)
    talk = talk_of(slices, nets.source, nets.target, nets.messages)
    return cores[_greedy(talk.start, talk.other, talk.sent + talk.got, x - x.min(), y - y.min(), fixed)]


def refined(slices: int, nets: Nets, machine: Profile, constraints: Constraints = NONE) -> Int:
    """Annealed from hilbert, from seed 0; never worse than it (see the head of this file)."""
    start = hilbert(slices, nets, machine, constraints)
    movable = np.ones(slices, bool)
    movable[list(constraints.fixed)] = False
    talk = talk_of(slices, nets.source, nets.target, nets.messages)
    bound = constraints.fixed or constraints.forbidden
    better = start if bound else _swap_chips(talk, start, machine)
    cores = _open_cores(better, machine, constraints)
    x, y = coordinates(machine, cores)
    tiles = int(machine.chip.tiles_x), int(machine.chip.tiles_y)
    slots = np.stack([x - x.min() // tiles[0] * tiles[0], y - y.min() // tiles[1] * tiles[1]], 1)
    better = cores[refine(talk, slots, np.searchsorted(cores, better), movable, tiles, SWAPS * slices, 0)]
    before, after = metrics(nets, start, machine), metrics(nets, better, machine)
    worse = any(after[name] > before[name] for name in NEVER_WORSE)
    return start if worse else better


def _swap_chips(talk: Talk, cores: Int, machine: Profile) -> Int:
    """Whole chips exchanged, among those in use."""
    used, chip = np.unique(cores // machine.cores_per_chip, return_inverse=True)
    if len(used) < 3:
        return cores
    rows = np.repeat(np.arange(len(cores)), np.diff(talk.start))
    between = talk_of(len(used), chip[rows], chip[talk.other], talk.sent)
    x, y = coordinates(machine, used * machine.cores_per_chip)
    slots = np.stack([x - x.min(), y - y.min()], 1)
    tiles = int(machine.chip.tiles_x), int(machine.chip.tiles_y)
    place = refine(between, slots, np.arange(len(used)), np.ones(len(used), bool), tiles, SWAPS * len(used), 0)
    return used[place][chip] * machine.cores_per_chip + cores % machine.cores_per_chip


def _in_order(order: Int, slices: int, machine: Profile, constraints: Constraints) -> Int:
    """Slices one after the other on the cores of `order`, those that are taken or forbidden left out."""
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
    """All cores of the chips that `start` uses, ascending, but the forbidden ones."""
    chips = np.unique(start // machine.cores_per_chip)
    cores = (chips[:, None] * machine.cores_per_chip + np.arange(machine.cores_per_chip)).ravel()
    return cores[~np.isin(cores, list(constraints.forbidden))]


@njit(cache=True, nogil=True)
def _greedy(start: Int, other: Int, weight: Float, x: Int, y: Int, fixed: Int) -> Int:
    """(slices,) indices of cores at tiles (x, y); fixed (slices,): that index, or -1."""
    slices, width, height = len(fixed), x.max() + 1, y.max() + 1
    place, taken = fixed.copy(), np.zeros(len(x), np.bool_)
    for core in fixed:
        if core >= 0:
            taken[core] = True
    across, along = np.zeros(width), np.zeros(height)
    for a in range(slices):
        if place[a] >= 0:
            continue
        across[:], along[:] = 0.0, 0.0
        for e in range(start[a], start[a + 1]):
            core = place[other[e]]
            if core >= 0:
                for i in range(width):
                    across[i] += weight[e] * abs(i - x[core])
                for i in range(height):
                    along[i] += weight[e] * abs(i - y[core])
        best = -1
        for core in range(len(x)):
            if not taken[core] and (best < 0 or across[x[core]] + along[y[core]] < across[x[best]] + along[y[best]]):
                best = core
        place[a], taken[best] = best, True
    return place


def hilbert_order(width: int, height: int) -> Int:
    """Cells y * width + x of a grid along a Hilbert curve over the smallest square of a power of two around it."""
    side = 1 << max(width - 1, height - 1).bit_length()
    cells = [_cell(side, d) for d in range(side * side)]
    return np.array([y * width + x for x, y in cells if x < width and y < height], np.int64)


def _cell(side: int, distance: int) -> tuple[int, int]:
    """(x, y) at `distance` along the curve.  Source: Hilbert 1891, in the usual bitwise form."""
    x = y = 0
    scale = 1
    while scale < side:
        right = 1 & (distance // 2)
        up = 1 & (distance ^ right)
        if not up:
            if right:
                x, y = scale - 1 - x, scale - 1 - y
            x, y = y, x
        x, y = x + scale * right, y + scale * up
        distance //= 4
        scale *= 2
    return x, y


def _cores_of_tiles(tiles: Int, machine: Profile) -> Int:
    """Cores of one chip in the order of its tiles; the reserved ones, those with the highest numbers, left out."""
    per_tile = int(machine.chip.cores_per_tile)
    cores = (tiles[:, None] * per_tile + np.arange(per_tile)).ravel()
    return cores[cores < machine.cores_per_chip]
