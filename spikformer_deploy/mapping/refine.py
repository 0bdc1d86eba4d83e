"""Simulated annealing of a placement: swaps of two slices, or of a slice and a free core, near the slices they talk to.

cost = packets * hops / those at the start + SHARE * sum over links of (load / aim)^6

The second term is a soft wall: a link well below its aim adds nothing, one above it more than it can save elsewhere.
The aim follows the heaviest link down.  All messages over one side of a chip share a link, which has an aim of its own.
Every swap is priced exactly and incrementally: only the routes of the two slices change.
Form: force-directed refinement of a Hilbert start after Jin et al., ASPLOS 2023; the wall on links is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float, Int

Rows: TypeAlias = tuple[Int, Int, Float, Float]
"""The fields of a Talk."""

SHARE = 0.02
"""What a link at its aim costs, as a share of all packets * hops."""
AIM = 0.8
"""The aim of a round, as a share of the heaviest link at its start."""
ROUNDS = 32
HOT, COLD = 1.2e-2, 1e-5
"""First and last temperature, in shares of a slice of the cost."""
REACH = 3
"""A slice is tried on tiles so far from one that it talks to."""
HOPELESS = 20
"""A swap that adds so many temperatures of packets * hops is not looked at further."""


@dataclass(frozen=True, slots=True, eq=False)
class Talk:
    """Who talks to whom, as rows of a sparse matrix: entries start[a] to start[a + 1] belong to slice a.

    other  the slice at the other end; sent, got: messages a step to it and from it
    """

    start: Int
    other: Int
    sent: Float
    got: Float


class _Mesh(NamedTuple):
    """What the loops walk on; load changes as they go.

    x, y   (slots,) tile of each core
    link   (4 * tiles,) the link that lies east, west, north and south of every tile; those between chips come last
    load   (links,) messages a step
    scale  (2,) 1 / aim of the links within and between chips
    within number of links within chips
    """

    x: Int
    y: Int
    link: Int
    load: Float
    scale: Float
    within: int
    width: int
    tiles: int


def talk_of(slices: int, source: Int, target: Int, messages: Float) -> Talk:
    """Both directions of all nets between different slices; nets of one pair are added up."""
    away = source != target
    source, target, messages = source[away], target[away], messages[away]
    none = np.zeros(len(source))
    pair = np.concatenate([source * slices + target, target * slices + source])
    keys, which = np.unique(pair, return_inverse=True)
    ways = (np.concatenate([messages, none]), np.concatenate([none, messages]))
    sent, got = (np.bincount(which, way, minlength=len(keys)).astype(np.float64) for way in ways)
    start = np.searchsorted(keys, np.arange(slices + 1) * slices)
    return Talk(start.astype(np.int64), keys % max(1, slices), sent, got)


def refine(
    talk: Talk, slots: Int, slot_of: Int, movable: NDArray[np.bool_], chip: tuple[int, int], moves: int, seed: int
) -> Int:
    """Better slots for all slices, (slices,).

    slots    (slots, 2) x and y of the tile of every core that may be used; slot_of (slices,) where each slice starts
    movable  (slices,) the others stay where they are
    chip     its width and height in tiles
    moves    swaps that are tried; seed: same seed, same result
    """
    width, height = (int(extent) + 1 for extent in slots.max(0))
    tile = slots[:, 1] * width + slots[:, 0]
    order = np.argsort(tile, kind="stable")
    first = np.searchsorted(tile[order], np.arange(width * height + 1))
    at = np.full(len(slots), -1, np.int64)
    at[slot_of] = np.arange(len(slot_of))
    out = slot_of.astype(np.int64)
    x, y = np.ascontiguousarray(slots[:, 0]), np.ascontiguousarray(slots[:, 1])
    link, tiles = _links(width, height, *chip), width * height
    mesh = _Mesh(x, y, link, np.zeros(int(link.max()) + 1), np.zeros(2), 4 * tiles, width, tiles)
    _anneal((talk.start, talk.other, talk.sent, talk.got), mesh, order, first, at, out, movable, moves, seed)
    return out


def _links(width: int, height: int, tiles_x: int, tiles_y: int) -> Int:
    """(4 * tiles,) the link at each side of every tile: one of its own, or that of its chip's side."""
    y, x = np.divmod(np.arange(width * height), width)
    chip = y // tiles_y * -(-width // tiles_x) + x // tiles_x
    ends = ((x + 1) % tiles_x == 0, x % tiles_x == 0, (y + 1) % tiles_y == 0, y % tiles_y == 0)
    own = np.arange(4 * width * height).reshape(4, -1)
    return np.concatenate([np.where(e, own.size + 4 * chip + side, own[side]) for side, e in enumerate(ends)])


@njit(cache=True, nogil=True)
def _wall(load: float, scale: float) -> float:
    cube = load * scale * load * scale * load * scale
    return cube * cube


@njit(cache=True, nogil=True)
def _send(mesh: _Mesh, x0: int, y0: int, x1: int, y1: int, messages: float) -> float:
    """Put `messages` on the way from (x0, y0) to (x1, y1), X first; returns how much the wall grows."""
    grown = 0.0
    side, step = (0, 1) if x1 > x0 else (mesh.tiles, -1)
    while x0 != x1:
        grown += _load(mesh, side + y0 * mesh.width + x0, messages)
        x0 += step
    side, step = (2 * mesh.tiles, 1) if y1 > y0 else (3 * mesh.tiles, -1)
    while y0 != y1:
        grown += _load(mesh, side + y0 * mesh.width + x0, messages)
        y0 += step
    return grown


@njit(cache=True, nogil=True)
def _load(mesh: _Mesh, port: int, messages: float) -> float:
    link = mesh.link[port]
    scale, before = mesh.scale[1 if link >= mesh.within else 0], mesh.load[link]
    mesh.load[link] = before + messages
    return _wall(before + messages, scale) - _wall(before, scale)


@njit(cache=True, nogil=True)
def _routes(talk: Rows, mesh: _Mesh, slot_of: Int, a: int, skip: int, sign: float) -> float:
    """Add (sign 1) or take away (-1) all routes of slice a but those to `skip`; returns how much the wall grows."""
    start, other, sent, got = talk
    grown = 0.0
    xa, ya = mesh.x[slot_of[a]], mesh.y[slot_of[a]]
    for e in range(start[a], start[a + 1]):
        o = other[e]
        xo, yo = mesh.x[slot_of[o]], mesh.y[slot_of[o]]
        if o == skip or (xa == xo and ya == yo):
            continue
        if sent[e] > 0:
            grown += _send(mesh, xa, ya, xo, yo, sign * sent[e])
        if got[e] > 0:
            grown += _send(mesh, xo, yo, xa, ya, sign * got[e])
    return grown


@njit(cache=True, nogil=True)
def _hops(talk: Rows, mesh: _Mesh, slot_of: Int, a: int, skip: int, here: int, there: int) -> float:
    """Growth of packets * hops where slice a goes from slot `here` to `there`."""
    start, other, sent, got = talk
    grown = 0.0
    for e in range(start[a], start[a + 1]):
        if other[e] != skip:
            x, y = mesh.x[slot_of[other[e]]], mesh.y[slot_of[other[e]]]
            now = abs(mesh.x[there] - x) + abs(mesh.y[there] - y)
            grown += (sent[e] + got[e]) * (now - abs(mesh.x[here] - x) - abs(mesh.y[here] - y))
    return grown


@njit(cache=True, nogil=True)
def _exchange(talk: Rows, mesh: _Mesh, slot_of: Int, a: int, b: int, here: int, there: int) -> float:
    """Slice a goes from `here` to `there`, and b (if there is one, else -1) the other way; growth of the wall."""
    grown = _routes(talk, mesh, slot_of, a, -1, -1.0)
    if b >= 0:
        grown += _routes(talk, mesh, slot_of, b, a, -1.0)
        slot_of[b] = here
    slot_of[a] = there
    grown += _routes(talk, mesh, slot_of, a, -1, 1.0)
    if b >= 0:
        grown += _routes(talk, mesh, slot_of, b, a, 1.0)
    return grown


@njit(cache=True, nogil=True)
def _draw(state: NDArray[np.uint64], below: int) -> int:
    """A random number from 0 to below - 1 (xorshift64*: Vigna, arXiv 1402.6246)."""
    value = state[0]
    value ^= value >> np.uint64(12)
    value ^= value << np.uint64(25)
    value ^= value >> np.uint64(27)
    state[0] = value
    return int((value * np.uint64(2685821657736338717)) >> np.uint64(33)) % below


@njit(cache=True, nogil=True)
def _start(talk: Rows, mesh: _Mesh, slot_of: Int) -> float:
    """Load all links; returns packets * hops."""
    start, other, sent, _ = talk
    hops = 0.0
    for a in range(len(slot_of)):
        xa, ya = mesh.x[slot_of[a]], mesh.y[slot_of[a]]
        for e in range(start[a], start[a + 1]):
            xo, yo = mesh.x[slot_of[other[e]]], mesh.y[slot_of[other[e]]]
            hops += sent[e] * (abs(xa - xo) + abs(ya - yo))
            _send(mesh, xa, ya, xo, yo, sent[e])
    return hops


@njit(cache=True, nogil=True)
def _set_aims(mesh: _Mesh) -> None:
    most = np.zeros(2)
    for link in range(len(mesh.load)):
        mesh.load[link] = max(0.0, mesh.load[link])  # rounding
        kind = 1 if link >= mesh.within else 0
        most[kind] = max(most[kind], mesh.load[link])
    for kind in range(2):
        mesh.scale[kind] = 1.0 / (AIM * most[kind]) if most[kind] > 0 else 0.0


@njit(cache=True, nogil=True)
def _anneal(
    talk: Rows,
    mesh: _Mesh,
    order: Int,
    first: Int,
    at: Int,
    slot_of: Int,
    movable: NDArray[np.bool_],
    moves: int,
    seed: int,
) -> None:
    start, other, _, _ = talk
    slices, height = len(slot_of), mesh.tiles // mesh.width
    state = np.array([np.uint64(2 * seed + 1) * np.uint64(0x9E3779B97F4A7C15)])
    whole = _start(talk, mesh, slot_of)
    if whole == 0.0:
        return
    for number in range(ROUNDS):
        temperature = HOT / slices * (COLD / HOT) ** (number / (ROUNDS - 1))
        _set_aims(mesh)
        for _ in range(moves // ROUNDS):
            a = _draw(state, slices)
            if start[a] == start[a + 1] or not movable[a]:
                continue
            near = slot_of[other[start[a] + _draw(state, start[a + 1] - start[a])]]
            x = mesh.x[near] + _draw(state, 2 * REACH + 1) - REACH
            y = mesh.y[near] + _draw(state, 2 * REACH + 1) - REACH
            tile = y * mesh.width + x
            if x < 0 or y < 0 or x >= mesh.width or y >= height or first[tile] == first[tile + 1]:
                continue
            here, there = slot_of[a], order[first[tile] + _draw(state, first[tile + 1] - first[tile])]
            b = at[there]
            if (mesh.x[here] == x and mesh.y[here] == y) or (b >= 0 and not movable[b]):
                continue
            change = _hops(talk, mesh, slot_of, a, b, here, there)
            if b >= 0:
                change += _hops(talk, mesh, slot_of, b, a, there, here)
            change /= whole
            if change > HOPELESS * temperature:
                continue
            change += SHARE * _exchange(talk, mesh, slot_of, a, b, here, there)
            if change <= 0 or _draw(state, 1 << 30) < np.exp(-change / temperature) * (1 << 30):
                at[there], at[here] = a, b
            else:
                _exchange(talk, mesh, slot_of, a, b, there, here)
