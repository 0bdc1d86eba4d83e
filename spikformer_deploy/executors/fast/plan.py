"""What the engine works out once for a network: packed weights, parameters in the layout of the loops, how to cut.

Synaptic sums are the widest values of a run (4 bytes a neuron and step against 1 of a spike).  They are computed for a
few images, or for a band of rows of one image, so that they stay in the last-level cache until the neurons read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spikformer_deploy.executors.execution import Cells, one_cell
from spikformer_deploy.executors.fast import kernels, synapses
from spikformer_deploy.network.bounds import largest_sum, shift_of
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import DECAY_ONE, Accumulator, And, Lif, LifKind, Source, Stream
from spikformer_deploy.network.synapses import Conv, Window

SUMS_BYTES = 2**22
"""Synaptic sums that a thread works on at once: with the messages that they come from they fit its share of a cache."""
SLAB = 512
"""Channels at least that a task counts the messages of, where there are so many."""
SMALL_SUM = 2**30
"""Drives below this leave 32-bit integers no way to wrap."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Cells of a population as counting.observe takes them; shape: Cells.shape, slabs: edges of ranges of slices."""

    cells: Cells
    shape: tuple[int, int, int]
    slabs: NDArray[np.int64]
    row_order: NDArray[np.int64]
    row_starts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SumsPlan:
    """How the synaptic sums of a population (Lif, Stream, And) are computed, and what its neurons make of them.

    convolve   the convolution of each projection; None for attention and windows
    bounds     of the sums of each projection alone, before the shift of its weights; wide: all together need 64 bits
    row_bytes  of the synaptic sums of one row of an image, all steps; height: rows
    banded     rows may be computed apart
    halving    the 32-bit loop serves
    threshold  (C,) of a Lif; bias (K, C), its row at position p is bias_of[p]
    """

    projections: tuple[Projection, ...]
    convolve: tuple[synapses.Convolve | None, ...]
    bounds: tuple[int, ...]
    wide: bool
    row_bytes: int
    height: int
    banded: bool
    halving: bool
    threshold: NDArray[np.integer]
    bias: NDArray[np.integer]
    bias_of: NDArray[np.int64]

    def cut(self, threads: int) -> tuple[int, int]:
        """(images, rows) that are computed at once by so many threads: all rows where whole images fit the cache."""
        room, size = threads * SUMS_BYTES, self.row_bytes * self.height
        if size <= room or not self.banded:
            return max(1, room // size), self.height
        return 1, max(1, room // self.row_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A network ready to run.

    sums        by population of kind Lif, Stream or And
    steps       time steps in which each population sends something of its own: 1 where an image makes all steps alike
    last_read   the populations whose messages nobody needs after each population
    image_bytes most bytes of messages that are alive at once, an image; fixed_bytes: of weights and sums
    """

    network: Network
    sums: dict[str, SumsPlan]
    steps: dict[str, int]
    grids: dict[str, Grid]
    last_read: dict[str, list[str]]
    image_bytes: int
    fixed_bytes: int


def make_plan(network: Network, cells: Mapping[str, Cells] | None = None) -> Plan:
    """The plan of `network`; its messages are counted in `cells`, or in one cell a population."""
    counted = {p.name: (cells or {}).get(p.name, one_cell(p.shape)) for p in network if p is not network.output}
    last_read, steps = _last_read(network), _steps(network)
    weights = sum(p.synapse.weight.nbytes for p in network.projections if isinstance(p.synapse, Conv))
    return Plan(
        network,
        {p.name: _sums_plan(network, p, p.neuron, steps) for p in network if isinstance(p.neuron, Lif | Stream | And)},
        steps,
        {name: _grid(c) for name, c in counted.items()},
        last_read,
        _image_bytes(network, counted, last_read, steps),
        2 * weights + 2 * torch.get_num_threads() * SUMS_BYTES,
    )


def message_type(population: Population) -> type[np.uint8] | type[np.int32]:
    """The narrowest type that holds what the population sends."""
    return np.uint8 if population.max_out < 256 and not population.signed else np.int32


def _steps(network: Network) -> dict[str, int]:
    """See Plan.steps: an image that is held for all steps, and what is computed from it alone without any state."""
    out: dict[str, int] = {}
    for population in network:
        match population.neuron:
            case Source(per_step=per_step):
                out[population.name] = network.time_steps if per_step else 1
            case Lif() | Accumulator():
                out[population.name] = network.time_steps
            case _:
                sources = [s for projection in network.into(population.name) for s in projection.sources]
                out[population.name] = max(out[s] for s in sources)
    return out


def _sums_plan(network: Network, population: Population, neuron: Lif | Stream | And, steps: dict[str, int]) -> SumsPlan:
    incoming = network.into(population.name)
    bounds = tuple(largest_sum(network, projection) for projection in incoming)
    delivered = sum(bound << shift_of(p) for p, bound in zip(incoming, bounds, strict=True))
    given = max(steps[s] for p in incoming for s in p.sources)
    channels, height, width = population.shape
    own = np.zeros(channels, np.int64) if isinstance(neuron, And) else neuron.bias
    bias = np.ascontiguousarray(own.reshape(len(own), -1).T)
    distinct, bias_of = _distinct_rows(bias)
    threshold, halving = np.zeros(0, np.int64), False
    if isinstance(neuron, Lif):
        largest = (delivered << neuron.shift) + int(np.abs(bias).max(initial=0))
        plain = neuron.kind == LifKind.PROGRAMMABLE and not (neuron.soft or neuron.strict)
        halving = plain and neuron.decay == DECAY_ONE // 2 and largest < SMALL_SUM
        threshold = neuron.threshold
    kind = np.int32 if halving else np.int64
    return SumsPlan(
        incoming,
        tuple(_convolve(network, p, bound) for p, bound in zip(incoming, bounds, strict=True)),
        bounds,
        delivered >= SMALL_SUM,
        4 * channels * width * given,
        height,
        all(isinstance(p.synapse, Conv) or is_identity(p) for p in incoming),
        halving,
        np.minimum(threshold, np.iinfo(kind).max).astype(kind),
        distinct.astype(kind),
        np.broadcast_to(bias_of, height * width).copy(),
    )


def is_identity(projection: Projection) -> bool:
    """Whether a projection hands on what its source sends."""
    window = projection.synapse
    return isinstance(window, Window) and (window.kernel, window.stride, window.padding) == ((1, 1), (1, 1), (0, 0))


def _distinct_rows(table: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different rows of a table, and which of them each row is."""
    # numbers that stand for rows: sorting whole rows of an image takes a second
    keys = table @ np.random.default_rng(0).integers(1, 2**40, table.shape[1])
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    if np.array_equal(table[first][which], table):
        return table[first], which
    return table, np.arange(len(table))


def _convolve(network: Network, projection: Projection, bound: int) -> synapses.Convolve | None:
    if not isinstance(projection.synapse, Conv):
        return None
    source = network[projection.sources[0]]
    most = np.iinfo(np.int32).max if source.signed else source.max_out
    return synapses.convolution(projection.synapse, source.shape, most, bound)


def _last_read(network: Network) -> dict[str, list[str]]:
    # projections stand in the order of their targets, so the last one that names a source is its last reader
    last = {source: p.target for p in network.projections for source in p.sources}
    out: dict[str, list[str]] = {}
    for source, reader in last.items():
        out.setdefault(reader, []).append(source)
    return out


def _grid(cells: Cells) -> Grid:
    order = np.argsort(cells.rows, kind="stable")
    starts = np.searchsorted(cells.rows[order], np.arange(cells.shape[1] + 1))
    return Grid(cells, cells.shape, _slabs(cells.channels), order, starts)


def _slabs(channel_cuts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges of ranges of slices that hold SLAB channels or more each, so that loops over channels are long."""
    edges, start = [0], 0
    for index, end in enumerate(channel_cuts[1:].tolist(), 1):
        if end - start >= SLAB or index == len(channel_cuts) - 1:
            edges.append(index)
            start = end
    return np.array(edges)


def _image_bytes(
    network: Network, cells: Mapping[str, Cells], last_read: dict[str, list[str]], steps: dict[str, int]
) -> int:
    alive, most, counts = 0, 0, 0
    size = {}
    for population in network:
        if isinstance(population.neuron, Accumulator):
            continue
        size[population.name] = population.size * steps[population.name] * np.dtype(message_type(population)).itemsize
        counts += 4 * int(np.prod(cells[population.name].shape)) * network.time_steps
        alive += size[population.name]
        most = max(most, alive)
        alive -= sum(size[name] for name in last_read.get(population.name, ()))
    return most + counts


def blocks(positions: int, images: int) -> int:
    """Tasks that a LIF loop makes of so many positions of each of so many images."""
    return min(positions, max(-(-positions // kernels.BLOCK), torch.get_num_threads() // images))
