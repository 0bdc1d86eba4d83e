"""What the engine works out once for a network: packed weights, parameters in the layout of the loops, how to cut.

Synaptic sums are the widest values of a run (4 bytes a neuron and step against 1 of a spike).  They are computed for a
few images, or for a band of rows of one image, so that they stay in the last-level cache until the neurons read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import Cells, one_cell
from spikformer_deploy.executors.fast import kernels, synapses
from spikformer_deploy.executors.fast.counting import CellTable
from spikformer_deploy.executors.fast.kernels import Geometry, LifParameters, StreamParameters
from spikformer_deploy.executors.fast.levels import LEVELS_AT_ONCE, LevelsParameters
from spikformer_deploy.network.bounds import largest_sum, shift_of
from spikformer_deploy.network.network import Network, Population, Projection, graded_spikes
from spikformer_deploy.network.neurons import (
    DECAY_ONE,
    STOCK_SHIFT,
    Accumulator,
    And,
    Levels,
    Lif,
    LifKind,
    Max,
    Or,
    Source,
    Stream,
    Sum,
    may_idle,
)
from spikformer_deploy.network.synapses import Conv, Window

SUMS_BYTES = 2**22
"""Synaptic sums that a thread works on at once: with the messages that they come from they fit its share of a cache."""
SLAB = 512
"""Channels at least that a task counts the messages of, where there are that many."""
SMALL_SUM = 2**30
"""Drives below this leave 32-bit integers no way to wrap."""

Parameters: TypeAlias = LifParameters | LevelsParameters | StreamParameters | None
"""What neurons read besides their sums: of a Lif, of Levels, of a Stream, of an And or an Accumulator."""


@dataclass(frozen=True, slots=True, eq=False)
class Arriving:
    """A projection into a population whose neurons read sums.

    bound     of every partial sum, before the weights are shifted
    shift     exponent of the weights
    layer     the convolution; None for attention and windows
    """

    projection: Projection
    bound: int
    shift: int
    layer: synapses.Layer | None


@dataclass(frozen=True, slots=True, eq=False)
class SumsPlan:
    """How the sums of a population (Lif, Levels, Stream, And, the map of a head) are computed, and what follows.

    wide        the sums of all projections together need 64 bits
    row_bytes   of the synaptic sums of one row of an image, all steps
    height      rows
    banded      rows may be computed apart
    """

    incoming: tuple[Arriving, ...]
    wide: bool
    row_bytes: int
    height: int
    banded: bool
    parameters: Parameters

    def cut(self, threads: int) -> tuple[int, int]:
        """(images, rows) that `threads` compute at once: all rows where whole images fit the cache."""
        room = threads * SUMS_BYTES
        image_bytes = self.row_bytes * self.height
        if image_bytes <= room or not self.banded:
            return max(1, room // image_bytes), self.height
        return 1, max(1, room // self.row_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Unit synapses into a population that adds up what arrives.

    incoming  a projection, and whether it hands on what its source sends
    type      that holds every sum
    """

    incoming: tuple[tuple[Projection, bool], ...]
    type: type[np.uint8] | type[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A network ready to run.

    sums         by population of kind Lif, Levels, Stream or And, and of the head where it is a map
    steps        time steps in which each population sends something of its own: 1 where an image makes all steps alike
    cells        by population but the head: the grid in which its messages are counted
    shapes       slices, rows and columns of these grids
    tables       the same as the loops read it
    windows      by population of kind Or or Sum: its synapses
    may_idle     the populations whose potentials say which of their neurons are idle: these are kept for a while
    graded       the populations whose messages are numbers of spikes: what they send is added up
    last_read    the populations whose messages nobody needs after each population
    image_bytes  most bytes of messages and kept potentials that are alive at once, an image
    fixed_bytes  of weights and sums
    """

    network: Network
    sums: dict[str, SumsPlan]
    steps: dict[str, int]
    cells: dict[str, Cells]
    shapes: dict[str, tuple[int, int, int]]
    tables: dict[str, CellTable]
    windows: dict[str, Windows]
    may_idle: frozenset[str]
    graded: frozenset[str]
    last_read: dict[str, list[str]]
    image_bytes: int
    fixed_bytes: int


def make_plan(network: Network, cells: Mapping[str, Cells] | None = None) -> Plan:
    """The plan of `network`; its messages are counted in `cells`, or in one cell a population."""
    counted = {p.name: (cells or {}).get(p.name, one_cell(p.shape)) for p in network if p is not network.output}
    last_read = _last_read(network)
    steps = _steps(network)
    weight_bytes = sum(p.synapse.weight.nbytes for p in network.projections if isinstance(p.synapse, Conv))
    return Plan(
        network,
        _sums_plans(network, steps),
        steps,
        counted,
        {name: c.shape for name, c in counted.items()},
        {name: cell_table(c) for name, c in counted.items()},
        {p.name: _windows(network, p) for p in network if isinstance(p.neuron, Or | Sum)},
        frozenset(p.name for p in network if may_idle(p.neuron)),
        graded_spikes(network),
        last_read,
        _image_bytes(network, counted, last_read, steps),
        # weights are there twice, as the program has them and packed; sums, while two projections are added up
        2 * weight_bytes + 2 * torch.get_num_threads() * SUMS_BYTES,
    )


def message_type(population: Population) -> type[np.uint8] | type[np.int32]:
    """The narrowest type that holds what the population sends."""
    return np.uint8 if population.max_out < 256 and not population.signed else np.int32


def sum_type(bound: int) -> type[np.int32] | type[np.int64]:
    """The narrowest integer type of sums that stay below a bound."""
    return np.int32 if bound < 2**31 else np.int64


def _steps(network: Network) -> dict[str, int]:
    """See Plan.steps: an image that is held for all steps, and what is computed from it only, without any state."""
    out: dict[str, int] = {}
    for population in network:
        match population.neuron:
            case Source(per_step=per_step):
                out[population.name] = network.time_steps if per_step else 1
            case Or() | Sum() | And() | Stream() | Max() | Levels(decay=0):
                sources = [s for projection in network.into(population.name) for s in projection.sources]
                out[population.name] = max(out[s] for s in sources)
            case Lif() | Levels() | Accumulator():
                out[population.name] = network.time_steps
            case _:
                assert_never(population.neuron)
    return out


def _sums_plans(network: Network, steps: Mapping[str, int]) -> dict[str, SumsPlan]:
    """The plans of all populations whose neurons read sums of any synapses; all others read windows as they are."""
    out = {}
    for population in network:
        incoming = tuple(_incoming(network, p) for p in network.into(population.name))
        delivered = sum(i.bound << i.shift for i in incoming)
        _, height, width = population.shape
        parameters: Parameters
        match population.neuron:
            case Lif() as lif:
                parameters = _lif_parameters(lif, delivered, height * width)
            case Levels() as levels:
                parameters = _levels_parameters(levels, delivered, height * width, network.time_steps)
            case Stream(bias=bias, drop=drop):
                parameters = StreamParameters(drop, *_bias_rows(bias, height * width))
            case And():
                parameters = None
            case Accumulator() if any(i.layer is not None for i in incoming):
                parameters = None
            case Source() | Or() | Sum() | Max() | Accumulator():
                continue
            case _:
                assert_never(population.neuron)
        arriving_steps = max(steps[s] for i in incoming for s in i.projection.sources)
        out[population.name] = SumsPlan(
            incoming,
            delivered >= SMALL_SUM,
            4 * population.shape[0] * width * arriving_steps,
            height,
            # attention, and the loop of windows, see all positions at once
            all(i.layer is not None or is_identity(i.projection) for i in incoming),
            parameters,
        )
    return out


def _windows(network: Network, population: Population) -> Windows:
    projections = network.into(population.name)
    most = 0
    for projection in projections:
        window = window_of(projection)
        most += window.kernel_y * window.kernel_x * network[projection.sources[0]].max_out
    return Windows(tuple((p, is_identity(p)) for p in projections), np.uint8 if most < 256 else np.int32)


def window_of(projection: Projection) -> Geometry:
    """The window of a projection of unit synapses."""
    assert isinstance(projection.synapse, Window)
    return geometry_of(projection.synapse)


def _incoming(network: Network, projection: Projection) -> Arriving:
    bound = largest_sum(network, projection)
    return Arriving(projection, bound, shift_of(projection), _layer(network, projection, bound))


def _layer(network: Network, projection: Projection, bound: int) -> synapses.Layer | None:
    if not isinstance(projection.synapse, Conv):
        return None
    source = network[projection.sources[0]]
    # what may be negative is beyond any kernel of small unsigned messages
    most = np.iinfo(np.int32).max if source.signed else source.max_out
    return synapses.convolution(projection.synapse, source.shape, most, bound)


def _lif_parameters(lif: Lif, delivered: int, positions: int) -> LifParameters:
    """The parameters in 32 bits where the loop of that width serves, else in 64."""
    stock = lif.kind == LifKind.STOCK
    units = STOCK_SHIFT if stock else 0
    threshold = lif.threshold << units
    fires_from = threshold + 1 if stock else lif.fires_from
    parameters = LifParameters(
        lif.decay, lif.current, lif.shift + units, stock, lif.round_up, lif.soft, fires_from, threshold,
        *_bias_rows(lif.bias << units, positions),
    )  # fmt: skip
    largest_drive = (delivered << lif.shift) + int(np.abs(lif.bias).max(initial=0))
    plain = not (stock or lif.soft or lif.strict) and lif.decay == DECAY_ONE // 2
    return _in_32_bits(parameters) if plain and largest_drive < SMALL_SUM else parameters


def _in_32_bits(lif: LifParameters) -> LifParameters:
    """A threshold beyond 32 bits is one that nothing reaches, as the largest number of 32 bits is."""
    largest = np.iinfo(np.int32).max
    return lif._replace(
        fires_from=np.minimum(lif.fires_from, largest).astype(np.int32),
        threshold=np.minimum(lif.threshold, largest).astype(np.int32),
        bias=lif.bias.astype(np.int32),
    )


def _levels_parameters(neuron: Levels, delivered: int, positions: int, time_steps: int) -> LevelsParameters:
    """The parameters in 32 bits where the loop of that width serves, else in 64."""
    rows = -(-neuron.count // LEVELS_AT_ONCE) * LEVELS_AT_ONCE
    # beyond the levels that there are stand some that nothing reaches
    levels = np.full((rows, len(neuron.levels)), np.iinfo(np.int64).max)
    levels[: neuron.count] = neuron.levels.T
    parameters = LevelsParameters(neuron.decay, neuron.shift, levels, neuron.reset, *_bias_rows(neuron.bias, positions))
    most = (delivered << neuron.shift) + int(np.abs(neuron.bias).max(initial=0))
    if neuron.decay:
        # a potential is what some steps brought, or what a reset left and these brought on top
        left = int(np.abs(neuron.levels).max()) + neuron.count * int(neuron.reset.max())
        most = most * time_steps + left
    halves = neuron.decay & (neuron.decay - 1) == 0
    if not (halves and most < SMALL_SUM):
        return parameters
    # levels beyond 32 bits are reached by every potential, or by none
    edges = np.iinfo(np.int32)
    return parameters._replace(
        levels=np.clip(levels, edges.min, edges.max).astype(np.int32),
        reset=neuron.reset.astype(np.int32),
        bias=parameters.bias.astype(np.int32),
    )


def _bias_rows(bias: Int, positions: int) -> tuple[Int, Int]:
    """Biases (C,) or (C, Y, X) as LifParameters has them: different rows, and which of them each position reads."""
    rows, row_of = _distinct_rows(np.ascontiguousarray(bias.reshape(len(bias), -1).T))
    return rows, np.broadcast_to(row_of, positions).copy()


def is_identity(projection: Projection) -> bool:
    """Whether a projection hands on what its source sends."""
    synapse = projection.synapse
    return isinstance(synapse, Window) and geometry_of(synapse) == Geometry(1, 1, 1, 1, 0, 0)


def geometry_of(window: Window) -> Geometry:
    """A window as the loops read it: what it is moved by is less, or more, border before the map."""
    (py, px), (oy, ox) = window.padding, window.offset
    return Geometry(*window.kernel, *window.stride, py - oy, px - ox)


def _distinct_rows(table: Int) -> tuple[Int, Int]:
    """The different rows of a table, and which of them each row is."""
    # numbers that stand for rows: sorting whole rows of an image takes a second
    keys = table @ np.random.default_rng(0).integers(1, 2**40, table.shape[1])
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    if np.array_equal(table[first][which], table):
        return table[first], which
    # two different rows have the same number: all are kept
    return table, np.arange(len(table))


def _last_read(network: Network) -> dict[str, list[str]]:
    # projections stand in the order of their targets, so the last one that names a source is its last reader
    last = {source: p.target for p in network.projections for source in p.sources}
    out: dict[str, list[str]] = {}
    for source, reader in last.items():
        out.setdefault(reader, []).append(source)
    return out


def cell_table(cells: Cells) -> CellTable:
    """Cells as the counting loop reads them."""
    order = np.argsort(cells.rows, kind="stable")
    starts = np.searchsorted(cells.rows[order], np.arange(cells.shape[1] + 1))
    widest = int(np.bincount(cells.columns).max())
    return CellTable(order, starts, cells.columns, widest, cells.channels, _slabs(cells.channels))


def _slabs(channel_cuts: Int) -> Int:
    """Edges of ranges of slices that hold SLAB channels or more each, so that loops over channels are long."""
    edges = [0]
    start = 0
    for index, end in enumerate(channel_cuts[1:].tolist(), 1):
        if end - start >= SLAB or index == len(channel_cuts) - 1:
            edges.append(index)
            start = end
    return np.array(edges)


def _image_bytes(
    network: Network, cells: Mapping[str, Cells], last_read: dict[str, list[str]], steps: dict[str, int]
) -> int:
    """See Plan.image_bytes; the counts of messages, which live until the end, are part of it."""
    graded = graded_spikes(network)
    size: dict[str, int] = {}
    alive = 0
    most = 0
    counts = 0
    for population in network:
        if isinstance(population.neuron, Accumulator):
            continue
        size[population.name] = population.size * steps[population.name] * np.dtype(message_type(population)).itemsize
        resting = may_idle(population.neuron)
        counted = 1 + resting + (population.name in graded)
        counts += 4 * int(np.prod(cells[population.name].shape)) * network.time_steps * counted
        alive += size[population.name]
        # potentials of 4 bytes, and one that says whether the neuron is idle
        most = max(most, alive + 5 * resting * population.size * network.time_steps)
        alive -= sum(size[name] for name in last_read.get(population.name, ()))
    return most + counts


def blocks(positions: int, images: int) -> int:
    """Tasks that a LIF loop makes of the positions of each of some images: one for each thread at least."""
    return min(positions, max(-(-positions // kernels.BLOCK), torch.get_num_threads() // images))
