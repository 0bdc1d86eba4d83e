"""Simulated annealing of a placement: swaps of two slices, or of a slice and a free core, near the slices they talk to.

cost = packets * hops / those at the start + SHARE * sum over links of (load / aim)^6

The second term is a soft wall: a link well below its aim adds nothing, one above it more than it can save elsewhere.
The aim follows the heaviest link down.  All messages over one side of a chip share a link, which has an aim of its own.
Every swap is priced exactly and incrementally: only the routes of the two slices change.
Form: force-directed refinement of a Hilbert start after Jin et al., ASPLOS 2023; the wall on links is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.compiled import inlined, part, single
from spikformer_deploy.mapping.route import Nets

SHARE = 0.02
"""What a link at its aim costs, as a share of all packets * hops."""
AIM = 0.8
"""The aim of a round, as a share of the heaviest link at its start."""
ROUNDS = 32
"""Rounds of falling temperature, with as many swaps each."""
HOT = 1.2e-2
COLD = 1e-5
"""First and last temperature, in shares of a slice of the cost."""
REACH = 3
"""A slice is tried on tiles that are at most this many rows and columns from one that it talks to."""
HOPELESS = 20
"""A swap that adds this many temperatures of packets * hops is not looked at further: e^-20 of such would be taken."""
NOBODY = -1
"""In place of a slice: a free core."""
ANY = 1 << 30
"""Draws from [0, ANY) decide whether a worse placement is accepted."""

EAST, WEST, NORTH, SOUTH = range(4)
"""The sides of a tile, in the order of its links: towards higher and lower x, towards higher and lower y."""


class Talk(NamedTuple):
    """Who talks to whom, as rows of a sparse matrix: entries start[a] to start[a + 1] belong to slice a.

    other  the slice at the other end; sent, got: messages a step to it and from it
    """

    start: Int
    other: Int
    sent: Float
    got: Float


class _Mesh(NamedTuple):
    """Tiles and links; load and scale change as the loops go.

    Only what the innermost loops need: every array more in it slows down each call that it goes through.

    x, y    (slots,) tile of each core that may be used
    link    (4 * tiles,) the link that lies east, west, north and south of every tile; those between chips come last
    load    (links,) messages a step
    scale   (2,) 1 / aim of the links within and between chips
    within  number of links within chips
    """

    x: Int
    y: Int
    link: Int
    load: Float
    scale: Float
    within: int
    width: int
    height: int


class _Placed(NamedTuple):
    """Where slices stand, changed in place, and where they may.

    slot_of      (slices,) and its inverse slice_at (slots,), NOBODY where a core is free
    first        (tiles + 1,) the slots of tile t are order[first[t]] to order[first[t + 1]]; order (slots,)
    movable      (slices,) the others stay
    """

    slot_of: Int
    slice_at: Int
    first: Int
    order: Int
    movable: NDArray[np.bool_]


class _Swap(NamedTuple):
    """Slice a goes from slot `source` to slot `target`, and b, which stands there (or NOBODY), the other way."""

    a: int
    b: int
    source: int
    target: int


def talk_of(slices: int, nets: Nets) -> Talk:
    """Both directions of all nets between different slices; nets of one pair are added up."""
    away = nets.source != nets.target
    source = nets.source[away]
    target = nets.target[away]
    messages = nets.messages[away]
    # each net stands in the rows of both of its ends: as sent in one, as got in the other
    none = np.zeros(len(source))
    pairs = np.concatenate([source * slices + target, target * slices + source])
    keys, pair_of = np.unique(pairs, return_inverse=True)
    sent = np.bincount(pair_of, np.concatenate([messages, none]), minlength=len(keys))
    got = np.bincount(pair_of, np.concatenate([none, messages]), minlength=len(keys))
    start = np.searchsorted(keys, np.arange(slices + 1) * slices)
    return Talk(start.astype(np.int64), keys % max(1, slices), sent.astype(np.float64), got.astype(np.float64))


def refine(
    talk: Talk, slots: Int, slot_of: Int, movable: NDArray[np.bool_], chip: tuple[int, int], moves: int, seed: int
) -> Int:
    """Better slots for all slices, (slices,).

    slots    (slots, 2) x and y of the tile of every core that may be used; slot_of (slices,) where each slice starts
    movable  (slices,) the others stay where they are
    chip     its width and height in tiles
    moves    swaps that are tried; seed: same seed, same result
    """
    slice_at = np.full(len(slots), NOBODY, np.int64)
    slice_at[slot_of] = np.arange(len(slot_of))
    mesh = _mesh_of(slots, chip)
    tile = slots[:, 1] * mesh.width + slots[:, 0]
    order = np.argsort(tile, kind="stable")
    first = np.searchsorted(tile[order], np.arange(mesh.width * mesh.height + 1))
    placed = _Placed(slot_of.astype(np.int64), slice_at, first, order, movable)
    _anneal(talk, mesh, placed, moves, seed)
    return placed.slot_of


def _mesh_of(slots: Int, chip: tuple[int, int]) -> _Mesh:
    """The mesh up to the farthest of the slots, without any load."""
    width = int(slots[:, 0].max()) + 1
    height = int(slots[:, 1].max()) + 1
    link = _links(width, height, *chip)
    return _Mesh(
        x=np.ascontiguousarray(slots[:, 0]),
        y=np.ascontiguousarray(slots[:, 1]),
        link=link,
        load=np.zeros(int(link.max()) + 1),
        scale=np.zeros(2),
        within=len(link),
        width=width,
        height=height,
    )


def _links(width: int, height: int, tiles_x: int, tiles_y: int) -> Int:
    """(4 * tiles,) the link at each side of every tile: one of its own, or that of its chip's side."""
    tiles = width * height
    y, x = np.divmod(np.arange(tiles), width)
    chips_in_a_row = -(-width // tiles_x)
    chip = y // tiles_y * chips_in_a_row + x // tiles_x
    last = {
        EAST: (x + 1) % tiles_x == 0,
        WEST: x % tiles_x == 0,
        NORTH: (y + 1) % tiles_y == 0,
        SOUTH: y % tiles_y == 0,
    }
    links = []
    for side, leaves_chip in last.items():
        single = side * tiles + np.arange(tiles)
        shared = 4 * tiles + 4 * chip + side
        links.append(np.where(leaves_chip, shared, single))
    return np.concatenate(links)


@part
def _wall(load: float, scale: float) -> float:
    """(load / aim)^6: steep and smooth, in six products."""
    cube = load * scale * load * scale * load * scale
    return cube * cube


@part
def _send(mesh: _Mesh, x0: int, y0: int, x1: int, y1: int, messages: float) -> float:
    """Put `messages` on the way from (x0, y0) to (x1, y1), X first; returns how much the wall grows.

    Negative `messages` are taken away.
    """
    grown = 0.0
    tiles = mesh.width * mesh.height
    side = EAST if x1 > x0 else WEST
    step = 1 if x1 > x0 else -1
    while x0 != x1:
        grown += _add(mesh, side * tiles + y0 * mesh.width + x0, messages)
        x0 += step
    side = NORTH if y1 > y0 else SOUTH
    step = 1 if y1 > y0 else -1
    while y0 != y1:
        grown += _add(mesh, side * tiles + y0 * mesh.width + x0, messages)
        y0 += step
    return grown


@part
def _add(mesh: _Mesh, port: int, messages: float) -> float:
    """Add `messages` to the link at a port, an index into mesh.link; growth of the wall."""
    link = mesh.link[port]
    scale = mesh.scale[1 if link >= mesh.within else 0]
    before = mesh.load[link]
    mesh.load[link] = before + messages
    return _wall(mesh.load[link], scale) - _wall(before, scale)


@part
def _routes(talk: Talk, mesh: _Mesh, slot_of: Int, a: int, skip: int, sign: float) -> float:
    """Add (sign 1) or take away (-1) all routes of slice a but those to `skip`; returns how much the wall grows."""
    start, other, sent, got = talk
    grown = 0.0
    xa = mesh.x[slot_of[a]]
    ya = mesh.y[slot_of[a]]
    for entry in range(start[a], start[a + 1]):
        partner = other[entry]
        xo = mesh.x[slot_of[partner]]
        yo = mesh.y[slot_of[partner]]
        if partner == skip or (xa == xo and ya == yo):
            continue
        if sent[entry] > 0:
            grown += _send(mesh, xa, ya, xo, yo, sign * sent[entry])
        if got[entry] > 0:
            grown += _send(mesh, xo, yo, xa, ya, sign * got[entry])
    return grown


@part
def _hops(talk: Talk, mesh: _Mesh, slot_of: Int, swap: _Swap) -> float:
    """Growth of packets * hops where slice a of the swap goes; b is left out: the two stay as far apart."""
    start, other, sent, got = talk
    grown = 0.0
    for entry in range(start[swap.a], start[swap.a + 1]):
        partner = other[entry]
        if partner != swap.b:
            x = mesh.x[slot_of[partner]]
            y = mesh.y[slot_of[partner]]
            after = abs(mesh.x[swap.target] - x) + abs(mesh.y[swap.target] - y)
            change = after - abs(mesh.x[swap.source] - x) - abs(mesh.y[swap.source] - y)
            grown += (sent[entry] + got[entry]) * change
    return grown


@part
def _back(swap: _Swap) -> _Swap:
    """The same swap as b sees it."""
    return _Swap(swap.b, swap.a, swap.target, swap.source)


@part
def _exchange(talk: Talk, mesh: _Mesh, slot_of: Int, swap: _Swap) -> float:
    """Do a swap, in slot_of and in the loads of links; growth of the wall."""
    # all routes of a, those to b among them, and of b the others: so no route counts twice
    grown = _routes(talk, mesh, slot_of, swap.a, NOBODY, -1.0)
    if swap.b != NOBODY:
        grown += _routes(talk, mesh, slot_of, swap.b, swap.a, -1.0)
        slot_of[swap.b] = swap.source
    slot_of[swap.a] = swap.target
    grown += _routes(talk, mesh, slot_of, swap.a, NOBODY, 1.0)
    if swap.b != NOBODY:
        grown += _routes(talk, mesh, slot_of, swap.b, swap.a, 1.0)
    return grown


@part
def _draw(state: NDArray[np.uint64], below: int) -> int:
    """A random number from 0 to below - 1 (xorshift64*: Vigna, arXiv 1402.6246).

    A generator of its own, as numba's would share its state with all other code of the process.
    """
    value = state[0]
    value ^= value >> np.uint64(12)
    value ^= value << np.uint64(25)
    value ^= value >> np.uint64(27)
    state[0] = value
    return int((value * np.uint64(2685821657736338717)) >> np.uint64(33)) % below


@part
def _start(talk: Talk, mesh: _Mesh, slot_of: Int) -> float:
    """Load all links; returns packets * hops."""
    start, other, sent, _ = talk
    hops = 0.0
    for a in range(len(slot_of)):
        xa = mesh.x[slot_of[a]]
        ya = mesh.y[slot_of[a]]
        for entry in range(start[a], start[a + 1]):
            xo = mesh.x[slot_of[other[entry]]]
            yo = mesh.y[slot_of[other[entry]]]
            hops += sent[entry] * (abs(xa - xo) + abs(ya - yo))
            _send(mesh, xa, ya, xo, yo, sent[entry])
    return hops


@part
def _set_aims(mesh: _Mesh) -> None:
    """Aims below the heaviest link within chips and the heaviest one between them."""
    most = np.zeros(2)
    for link in range(len(mesh.load)):
        # adding and taking away the same messages leaves rounding, which may lie below zero
        mesh.load[link] = max(0.0, mesh.load[link])
        kind = 1 if link >= mesh.within else 0
        most[kind] = max(most[kind], mesh.load[link])
    for kind in range(2):
        mesh.scale[kind] = 1.0 / (AIM * most[kind]) if most[kind] > 0 else 0.0


# inlined: it runs for every swap that is tried, and as a call takes a tenth of the time of all
@inlined
def _propose(talk: Talk, mesh: _Mesh, placed: _Placed, state: NDArray[np.uint64]) -> _Swap:
    """A random slice, and a core near a random one of those that it talks to; a = NOBODY where that is no swap."""
    none = _Swap(NOBODY, NOBODY, 0, 0)
    slot_of = placed.slot_of
    a = _draw(state, len(slot_of))
    partners = talk.start[a + 1] - talk.start[a]
    if partners == 0 or not placed.movable[a]:
        return none
    near = slot_of[talk.other[talk.start[a] + _draw(state, partners)]]
    x = mesh.x[near] + _draw(state, 2 * REACH + 1) - REACH
    y = mesh.y[near] + _draw(state, 2 * REACH + 1) - REACH
    if x < 0 or y < 0 or x >= mesh.width or y >= mesh.height:
        return none
    tile = y * mesh.width + x
    cores = placed.first[tile + 1] - placed.first[tile]
    if cores == 0:
        return none
    source = slot_of[a]
    target = placed.order[placed.first[tile] + _draw(state, cores)]
    b = placed.slice_at[target]
    # the cores of a tile are equal
    if (mesh.x[source] == x and mesh.y[source] == y) or (b != NOBODY and not placed.movable[b]):
        return none
    return _Swap(a, b, source, target)


@single
def _anneal(talk: Talk, mesh: _Mesh, placed: _Placed, moves: int, seed: int) -> None:
    """Try `moves` swaps, ever fewer of which may make things worse; see the head of this file."""
    slot_of = placed.slot_of
    # odd times odd: never 0, from which the generator would not move; seeds that are near start far apart
    state = np.array([np.uint64(2 * seed + 1) * np.uint64(0x9E3779B97F4A7C15)])
    at_start = _start(talk, mesh, slot_of)
    if at_start == 0.0:
        return
    for number in range(ROUNDS):
        temperature = HOT / len(slot_of) * (COLD / HOT) ** (number / (ROUNDS - 1))
        _set_aims(mesh)
        for _ in range(moves // ROUNDS):
            swap = _propose(talk, mesh, placed, state)
            if swap.a == NOBODY:
                continue
            change = _hops(talk, mesh, slot_of, swap)
            if swap.b != NOBODY:
                change += _hops(talk, mesh, slot_of, _back(swap))
            change /= at_start
            # hops are cheap to price, links are not: most swaps end here
            if change > HOPELESS * temperature:
                continue
            change += SHARE * _exchange(talk, mesh, slot_of, swap)
            if change <= 0 or _draw(state, ANY) < np.exp(-change / temperature) * ANY:
                placed.slice_at[swap.target] = swap.a
                placed.slice_at[swap.source] = swap.b
            else:
                _exchange(talk, mesh, slot_of, _Swap(swap.a, swap.b, swap.target, swap.source))
