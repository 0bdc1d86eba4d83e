"""Who sends messages: the neurons of populations, the counters of attentions, the partial sums of split fan-ins.

Routing tables are kept by cell (see execution.Cells): all neurons of a cell send the same messages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int, Shape
from spikformer_deploy.counts.slices import Geometry, Weights
from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.network.heads import Heads, heads_into
from spikformer_deploy.network.mapping import Mapping, Site
from spikformer_deploy.timing.routing import Table, TableBuilder
from spikformer_deploy.timing.sweep import Sweep


@dataclass(frozen=True, slots=True, eq=False)
class Sender:
    """The messages that the spikes of a population cause, one kind of them.

    place     (..., n) for each spike n neurons send something: the neuron itself, or the attention counters that answer
              to it.  Their places in the sweeps; all axes but the last are the population's neurons, or those that
              always send
    row       (..., n) the row of `table` that holds the messages of each
    level     the layer whose chip-wide step they belong to
    sub_step  (neurons,) when: in that chip-wide step itself (0), or in a sub-step after it (1, 2, ...)
    own       whether the visit that updates a neuron also sends: else a visit of its own does
    always    in every step, spikes or not: the partial sums of a split fan-in, what copies of counters exchange
    """

    population: str
    place: Int
    row: Int
    table: Table
    level: int
    sub_step: Int
    own: bool = False
    always: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Wiring:
    """What senders are made from.

    tables  the routing tables: every sender adds its own
    level   by population: layers on the longest way from the Source
    """

    geometry: Geometry
    mapping: Mapping
    sweep: Sweep
    tables: TableBuilder
    level: dict[str, int]


def senders(wiring: Wiring) -> Iterator[Sender]:
    """All senders of a network, in the order of the mapping's sites."""
    for index, site in enumerate(wiring.mapping.sites):
        if site.kind == "population" and site.population in wiring.geometry.arriving:
            yield from _of_population(wiring, index)
        elif site.kind == "partial":
            yield _partial_sums(wiring, index)
        elif site.copies > 1:
            yield from _exchanged(wiring, index)


def rows_of_cells(cells: Cells) -> Int:
    """(neurons,) the cell of each neuron."""
    _, rows, columns = cells.shape
    channels = np.repeat(np.arange(len(cells.channels) - 1), np.diff(cells.channels))
    return ((channels[:, None, None] * rows + cells.rows[:, None]) * columns + cells.columns).ravel()


def _of_population(wiring: Wiring, index: int) -> Iterator[Sender]:
    """All that the population of site `index` sends: to other populations, to counters, and what these answer."""
    site = wiring.mapping.sites[index]
    name = site.population
    cells = wiring.geometry.cells[name]
    place = wiring.sweep.place[index].reshape(-1, 1)
    row = rows_of_cells(cells).reshape(-1, 1)
    level = wiring.level[name]
    turn = _own_turn(site)
    ordinary: list[Weights] = []
    in_turn: list[Weights] = []
    to_counters: list[tuple[Site, Weights]] = []
    for weights in wiring.geometry.arriving[name]:
        goal = wiring.mapping.sites[wiring.mapping.boxes[weights.inlet.slices[0], 0]]
        if goal.kind == "attention":
            to_counters.append((goal, weights))
        elif not weights.inlet.unicast:
            # what is unicast is sent by counters, not by this population: see _answers
            late = goal.token_serial and not site.token_serial
            (in_turn if late else ordinary).append(weights)
    if ordinary:
        yield Sender(name, place, row, wiring.tables.table(cells, ordinary), level, turn, own=True)
    if in_turn:
        # all tokens have fired at once, and each is sent in its turn
        yield Sender(name, place, row, wiring.tables.table(cells, in_turn), level, _token_turn(site.shape))
    for counters, weights in to_counters:
        table = wiring.tables.table(cells, [weights])
        # the first sub-steps fill the counters, those after them have them answer
        heads = heads_into(wiring.geometry.network, counters.population)
        filling = heads.turns(counters.serial, counters.copies)
        of_round = _turns(counters, heads, site.shape) % filling[weights.inlet.replay]
        sub_step = 1 + of_round + (filling[0] + (counters.copies > 1)) * weights.inlet.replay
        before = _level_before(wiring, counters)
        own = site.token_serial and before == level and np.array_equal(sub_step.ravel(), turn)
        yield Sender(name, place, row, table, before, sub_step.ravel(), own)
        if weights.inlet.replay:
            yield _answers(wiring, counters, name, sub_step + 1)


def _own_turn(site: Site) -> Int:
    """(neurons,) the sub-step in which each neuron of a site is updated: 0, or that of its token."""
    return _token_turn(site.shape) if site.token_serial else np.zeros(math.prod(site.shape), np.int64)


def _token_turn(shape: Shape) -> Int:
    """(neurons,) of a population: the sub-step of each neuron's token, row after row; the step itself is 0."""
    channels, height, width = shape
    return np.tile(1 + np.arange(height * width), channels)


def _level_before(wiring: Wiring, counters: Site) -> int:
    """The level whose chip-wide step is followed by the sub-steps of these counters."""
    return wiring.level[counters.population] - 1


def _turns(counters: Site, heads: Heads, shape: Shape) -> Int:
    """(C, Y, X) whose turn is which of its round, without copies: tokens in series, or channels of a head."""
    channels, height, width = shape
    if counters.serial == "tokens":
        turn = np.arange(height * width).reshape(1, height, width)
    else:
        turn = (np.arange(channels) % (channels // heads.heads))[:, None, None]
    return np.broadcast_to(turn, shape).astype(np.int64)


def _answers(wiring: Wiring, counters: Site, name: str, sub_step: Int) -> Sender:
    """What the counters of an attention answer to the spikes of population `name`.

    sub_step  (C, Y, X) of the answers
    """
    target = counters.population
    of = heads_into(wiring.geometry.network, target)
    own_site = _own_site(wiring.mapping, target)
    slices = wiring.mapping.slices_of(own_site)
    row = _row_of_neuron(wiring, own_site, slices).reshape(of.heads, of.width, of.tokens)
    place = wiring.sweep.place[wiring.mapping.sites.index(counters)]
    table = wiring.tables.one_each(slices)
    # a last row without messages: other copies answer there
    table = np.append(table, table[-1])
    first, end = of.shares(counters.serial, counters.copy, counters.copies)[1]
    # axes below: head, channel and token of the spike, and which counter of those that answer to it
    if counters.serial == "tokens":
        # the counters of a row, one for each channel of v in the head: to that channel of the same token
        shape = (of.heads, of.depth, of.tokens, of.width)
        place = place.reshape(of.heads, of.depth, 1, of.width)
        row[..., :first] = row[..., end:] = len(slices)
        row = row.transpose(0, 2, 1)[:, None]
    else:
        # the counters of a column, one for each token: to that token of the same channel
        shape = (of.heads, of.width, of.tokens, of.tokens)
        place = place.transpose(0, 2, 1)[:, None]
        row[:, :first] = row[:, end:] = len(slices)
        row = row[:, :, None]
    return Sender(
        population=name,
        place=np.broadcast_to(place, shape),
        row=np.broadcast_to(row, shape),
        table=table,
        level=_level_before(wiring, counters),
        sub_step=sub_step.ravel(),
    )


def _exchanged(wiring: Wiring, index: int) -> Iterator[Sender]:
    """What one copy of counters, site `index`, sends to others: sums to their homes, and from its own home to all."""
    site = wiring.mapping.sites[index]
    heads = heads_into(wiring.geometry.network, site.population)
    due, _ = heads.turns(site.serial, site.copies)
    copies = [i for i, s in enumerate(wiring.mapping.sites) if (s.kind, s.population) == (site.kind, site.population)]
    slice_of = np.stack([wiring.sweep.slice_at[wiring.sweep.place[copy]] for copy in copies], -1).astype(np.int64)
    home = np.arange(site.shape[2]) % site.copies
    others = np.delete(np.arange(site.copies), site.copy)
    away = np.flatnonzero(home != site.copy)
    to_home = slice_of[:, :, np.arange(len(home)), home][..., None]
    for columns, targets, later in ((away, to_home, 1), (np.flatnonzero(home == site.copy), slice_of[..., others], 2)):
        if not columns.size:  # more copies than columns
            continue
        place = wiring.sweep.place[index][..., columns].reshape(-1, 1)
        groups, row = np.unique(targets[..., columns, :].reshape(len(place), -1), axis=0, return_inverse=True)
        table = wiring.tables.each(groups)
        when = np.full(len(place), due + later)
        yield Sender(site.population, place, row.reshape(-1, 1), table, _level_before(wiring, site), when, always=True)


def _partial_sums(wiring: Wiring, index: int) -> Sender:
    """The partial sums of site `index`, each on its way to its neuron."""
    name = wiring.mapping.sites[index].population
    place = wiring.sweep.place[index].reshape(-1, 1)
    turn = _own_turn(wiring.mapping.sites[index])
    own_site = _own_site(wiring.mapping, name)
    slices = wiring.mapping.slices_of(own_site)
    row = _row_of_neuron(wiring, own_site, slices).reshape(-1, 1)
    table = wiring.tables.one_each(slices)
    return Sender(name, place, row, table, wiring.level[name], turn, own=True, always=True)


def _own_site(mapping: Mapping, population: str) -> int:
    """The site of a population's own neurons."""
    return next(i for i, s in enumerate(mapping.sites) if s.kind == "population" and s.population == population)


def _row_of_neuron(wiring: Wiring, site: int, slices: Int) -> Int:
    """(C, Y, X) which of the chosen slices each neuron of a site is in: its row in TableBuilder.one_each(slices)."""
    row_of_slice = np.zeros(len(wiring.mapping.boxes), np.int64)
    row_of_slice[slices] = np.arange(len(slices))
    return row_of_slice[wiring.sweep.slice_at[wiring.sweep.place[site]]]
