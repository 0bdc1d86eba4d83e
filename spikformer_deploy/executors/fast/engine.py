"""The fast exact executor: layer by layer, all time steps and images of a batch at once.

Synaptic sums are exact integer convolutions (synapses.py), neurons are compiled integer loops (kernels.py), and plan.py
says what is computed at once.  Spikes, potentials, accumulators and activity equal those of executors/reference.py.
Between layers every value is (images, T, P, C), P = Y * X; values that no time step changes have T = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.executors.execution import Activity, Cells, Execution, Executor, Request, check_state, frames
from spikformer_deploy.executors.fast import kernels, synapses, threads
from spikformer_deploy.executors.fast.counting import observe
from spikformer_deploy.executors.fast.halving import lif_halving
from spikformer_deploy.executors.fast.plan import Plan, SumsPlan, blocks, is_identity, make_plan, message_type
from spikformer_deploy.network.bounds import shift_of
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import Accumulator, And, Lif, LifKind, Max, Or, Source, Stream, Sum
from spikformer_deploy.network.synapses import Attention, Readout, Window

Sent: TypeAlias = NDArray[np.integer]

BATCH_BYTES = 2**30
"""Images are cut into batches so that the messages alive at once stay below this."""
NOTHING = np.empty((0, 0, 0, 0), np.int32)


class Buffers:
    """Memory that layers use one after the other: fresh pages cost more than the writing of spikes."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._parts: list[Buffers] = []

    def parts(self, count: int) -> list[Buffers]:
        """Buffers for each of so many threads, the same ones every time."""
        self._parts += [Buffers() for _ in range(count - len(self._parts))]
        return self._parts[:count]

    def take(self, shape: tuple[int, ...], dtype: type[np.integer]) -> Sent:
        """An array with unknown content, from the smallest free buffer that holds it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        fitting = [i for i, buffer in enumerate(self._free) if buffer.size >= size]
        if not fitting:
            return np.empty(shape, dtype)
        buffer = self._free.pop(min(fitting, key=lambda i: self._free[i].size))
        return buffer[:size].view(dtype).reshape(shape)

    def give(self, array: Sent) -> None:
        """Take back an array of `take`; nobody may use it any more."""
        owner: Any = array if array.base is None else array.base
        self._free.append(owner.reshape(-1).view(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class _Counts:
    """Of one population in all images: messages (N, T or 1, slices, rows, columns), values (N, T or 1, rows, slabs)."""

    messages: NDArray[np.int32]
    total: NDArray[np.int64]


@dataclass(slots=True)
class _Batch:
    """What is alive while some images run, and what is kept of them.

    place   where the images stand among all
    counts  of all images, by population: those of this batch are written
    active  (Y, X, C) neurons that sent anything, by population
    """

    plan: Plan
    record: Sequence[str]
    place: slice
    buffers: Buffers
    counts: Mapping[str, _Counts]
    sent: dict[str, Sent] = field(default_factory=dict)
    active: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    spikes: dict[str, Sent] = field(default_factory=dict)
    membranes: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    coincidences: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    accumulators: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    @property
    def network(self) -> Network:
        return self.plan.network

    @property
    def images(self) -> int:
        return self.place.stop - self.place.start


def prepare(request: Request) -> Executor:
    """The engine, with a plan and buffers for a network."""
    plan, buffers = make_plan(request.network, request.cells), Buffers()
    batch = request.images_at_once(plan.image_bytes, BATCH_BYTES, plan.fixed_bytes)
    return Executor(lambda images, record=(): run(plan, images, buffers, record), batch)


def execute(
    network: Network,
    images: Sent,
    *,
    record: Sequence[str] = (),
    cells: Mapping[str, Cells] | None = None,
) -> Execution:
    """Run `images` through `network`; arguments, result and errors as reference.execute."""
    return run(make_plan(network, cells), images, Buffers(), record)


def run(plan: Plan, images: Sent, buffers: Buffers, record: Sequence[str] = ()) -> Execution:
    """Run `images` by a plan, in batches; the plan and the buffers may serve again.

    Result and errors as reference.execute.
    """
    inputs = frames(plan.network, images)
    counts = _empty_counts(plan, len(inputs))
    batches: list[_Batch] = []
    with threads.as_many_as_torch() as workers:
        for first, end in _edges(len(inputs), -(-len(inputs) // batch_size(plan))):
            if 1 < workers <= end - first and threads.may_share():
                places = [slice(first + a, first + b) for a, b in _edges(end - first, workers)]
                own = buffers.parts(workers)
                parts = [_Batch(plan, record, p, b, counts) for p, b in zip(places, own, strict=True)]
                _run_by_threads(parts, inputs)
            else:
                parts = [_Batch(plan, record, slice(first, end), buffers, counts)]
                _run_batch(parts[0], inputs)
            batches += parts
    return _joined(batches)


def _edges(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` things in near-equal parts, at least one (maybe empty)."""
    cuts = np.linspace(0, count, max(1, parts) + 1).astype(int).tolist()
    return list(pairwise(cuts))


def _empty_counts(plan: Plan, images: int) -> dict[str, _Counts]:
    out = {}
    for name, grid in plan.grids.items():
        lead = (images, plan.steps[name])
        out[name] = _Counts(
            np.empty((*lead, *grid.shape), np.int32), np.empty((*lead, grid.shape[1], len(grid.slabs) - 1), np.int64)
        )
    return out


def _run_by_threads(batches: list[_Batch], inputs: Sent) -> None:
    """Images shared out to threads that never wait for each other; the loops of each run on that thread alone."""
    try:
        with ThreadPoolExecutor(len(batches), initializer=threads.alone) as pool:
            running = [pool.submit(_run_batch, batch, inputs) for batch in batches]
            for batch in running:
                batch.result()
    finally:
        torch.set_num_threads(len(batches))


def batch_size(plan: Plan) -> int:
    """Images a batch, so that the messages alive at once stay below BATCH_BYTES."""
    return max(1, BATCH_BYTES // plan.image_bytes)


@torch.inference_mode()
def _run_batch(batch: _Batch, inputs: Sent) -> None:
    for population in batch.network:
        _run_population(batch, population, inputs[batch.place])
        for name in batch.plan.last_read.get(population.name, ()):
            batch.buffers.give(batch.sent.pop(name))


def _run_population(batch: _Batch, population: Population, inputs: Sent) -> None:
    neuron, recorded = population.neuron, population.name in batch.record
    match neuron:
        case Source():
            steps = inputs if neuron.per_step else inputs[:, :1]
            pixels = steps.reshape(*steps.shape[:3], -1).transpose(0, 1, 3, 2)
            sent = batch.buffers.take(pixels.shape, message_type(population))
            sent[...] = pixels
            _keep(batch, population, sent, 0)
        case Lif():
            sent, membrane, peak = _lif(batch, population, neuron, recorded)
            _keep(batch, population, sent, peak, membrane)
        case Or() | Sum():
            sent, peak = _windows(batch, population)
            _keep(batch, population, sent, peak)
        case Stream() | And():
            sent, peak = _relay(batch, population, neuron)
            _keep(batch, population, sent, peak)
        case Max():
            sent, peak = _largest(batch, population)
            _keep(batch, population, sent, peak)
        case Accumulator():
            _accumulate(batch, population, neuron, recorded)
        case _:
            assert_never(neuron)


def _keep(
    batch: _Batch, population: Population, sent: Sent, peak: int, membrane: NDArray[np.int32] | None = None
) -> None:
    """Note what a population sent: for its readers, for the counts and, where asked for, as a record."""
    name = population.name
    check_state(batch.network, population, peak)
    batch.peak[name] = peak
    batch.sent[name] = sent
    _observe(batch, population, sent)
    if name in batch.record:
        batch.spikes[name] = _recorded(batch, population, sent)
        batch.membranes[name] = _recorded(
            batch, population, np.zeros_like(sent, np.int32) if membrane is None else membrane
        )


def _observe(batch: _Batch, population: Population, sent: Sent) -> None:
    """Count what was sent, in the cells of the plan."""
    grid, counts = batch.plan.grids[population.name], batch.counts[population.name]
    channels, height, width = population.shape
    active = np.zeros((height, width, channels), np.uint8)
    observe(
        sent.reshape(-1, height, width, channels),
        population.max_out == 1 and not population.signed,
        grid.row_order,
        grid.row_starts,
        grid.cells.columns,
        grid.cells.channels,
        grid.slabs,
        counts.messages[batch.place].reshape(-1, *grid.shape),
        active,
        counts.total[batch.place].reshape(-1, *counts.total.shape[2:]),
    )
    batch.active[population.name] = active


def _recorded(batch: _Batch, population: Population, values: NDArray[Any]) -> NDArray[Any]:
    """(N, T, C, Y, X) from (N, T or 1, P, C); a copy, as the buffer serves again."""
    full = np.broadcast_to(values, (batch.images, batch.network.time_steps, *values.shape[2:]))
    return full.transpose(0, 1, 3, 2).reshape(batch.images, -1, *population.shape).copy()


def _lif(
    batch: _Batch, population: Population, neuron: Lif, record: bool
) -> tuple[Sent, NDArray[np.int32] | None, int]:
    """Spikes (N, T, P, C), potentials where recorded, and the largest magnitude met."""
    plan, (channels, height, width) = batch.plan.sums[population.name], population.shape
    shape = (batch.images, batch.network.time_steps, height * width, channels)
    out = batch.buffers.take(shape, np.uint8)
    membrane = np.empty(shape, np.int32) if record else NOTHING
    largest, (images, rows) = 0, plan.cut(torch.get_num_threads())
    for start in range(0, batch.images, images):
        part = slice(start, start + images)
        for first in range(0, height, rows):
            sums = _sums(batch, plan, part, first, min(first + rows, height))
            peak = np.zeros((len(sums), blocks(sums.shape[2], len(sums))), np.int64)
            place = (out[part], first * width, membrane[part] if record else NOTHING, peak)
            if plan.halving:
                lif_halving(sums, neuron.shift, plan.threshold, plan.bias, plan.bias_of, *place)
            else:
                stock = neuron.kind == LifKind.STOCK
                kernels.lif_any(
                    sums,
                    stock,
                    neuron.decay,
                    neuron.current,
                    neuron.shift,
                    plan.threshold,
                    plan.bias,
                    plan.bias_of,
                    *place,
                    neuron.soft,
                    neuron.strict,
                )
            largest = max(largest, int(peak.max(initial=0)))
    return out, membrane if record else None, largest


def _relay(batch: _Batch, population: Population, neuron: Stream | And) -> tuple[Sent, int]:
    """What a population without state makes of its sums, (N, T or 1, P, C), and the largest magnitude met."""
    plan, (channels, height, width) = batch.plan.sums[population.name], population.shape
    shape = (batch.images, batch.plan.steps[population.name], height * width, channels)
    out = batch.buffers.take(shape, message_type(population))
    largest, (images, rows) = 0, plan.cut(torch.get_num_threads())
    for start in range(0, batch.images, images):
        part = slice(start, start + images)
        for first in range(0, height, rows):
            sums = _sums(batch, plan, part, first, min(first + rows, height))
            peak = np.zeros(sums.shape[:2], np.int64)
            place = (out[part], first * width, peak)
            if isinstance(neuron, Stream):
                kernels.send_current(sums, plan.bias, plan.bias_of, neuron.drop, *place)
            else:
                kernels.fire_where_all(sums, neuron.inputs, *place)
            largest = max(largest, int(peak.max(initial=0)))
    return out, largest


def _sums(batch: _Batch, plan: SumsPlan, part: slice, first: int, end: int) -> NDArray[Any]:
    """The synaptic sums of some images and rows, (n, T or 1, p, C): integers, some held exactly in floats."""
    parts = [
        _synapses(batch, *projection, part, first, end)
        for projection in zip(plan.projections, plan.convolve, plan.bounds, strict=True)
    ]
    shifts = [shift_of(projection) for projection in plan.projections]
    if len(parts) == 1 and not shifts[0]:
        return parts[0]
    steps = max(p.shape[1] for p in parts)
    total = np.zeros((len(parts[0]), steps, *parts[0].shape[2:]), np.int64 if plan.wide else np.int32)
    for sums, shift in zip(parts, shifts, strict=True):
        kernels.add_shifted(total, sums, shift)
    return total


def _synapses(
    batch: _Batch,
    projection: Projection,
    convolve: synapses.Convolve | None,
    bound: int,
    part: slice,
    first: int,
    end: int,
) -> NDArray[Any]:
    """What one projection delivers to some rows of some images."""
    if convolve is not None:
        return _convolution(batch, projection, convolve, part, first, end)
    if isinstance(projection.synapse, Attention):
        return _attention(batch, projection, bound, part)
    sent, (channels, height, width) = batch.sent[projection.sources[0]][part], batch.network[projection.target].shape
    if is_identity(projection):
        return sent[:, :, first * width : end * width].astype(np.int32, copy=False)
    window, source = _window(projection), batch.network[projection.sources[0]].shape
    out = np.zeros((*sent.shape[:2], height * width, channels), np.int32 if bound < 2**31 else np.int64)
    maps = sent.reshape(-1, *source[1:], channels), out.reshape(-1, height, width, channels)
    kernels.window_sum(maps[0], window.kernel, window.stride, window.padding, maps[1])
    return out


def _convolution(
    batch: _Batch, projection: Projection, convolve: synapses.Convolve, part: slice, first: int, end: int
) -> NDArray[np.floating]:
    name = projection.sources[0]
    sent, shape = batch.sent[name][part], batch.network[name].shape
    maps = torch.from_numpy(sent).reshape(-1, *shape[1:], shape[0])
    total = int(batch.counts[name].total[batch.place][part].sum())
    out = convolve(maps, total, first, end).numpy()
    return out.reshape(*sent.shape[:2], -1, out.shape[3])


def _attention(batch: _Batch, projection: Projection, bound: int, part: slice) -> NDArray[np.integer]:
    synapse = projection.synapse
    assert isinstance(synapse, Attention)
    sent = [batch.sent[name][part] for name in projection.sources]
    # what an image alone decides is there once; the loops take maps in pairs
    steps = max(s.shape[1] for s in sent)
    q, k, v = (s if s.shape[1] == steps else np.repeat(s, steps, 1) for s in sent)
    out = np.empty(q.shape, np.int32 if bound < 2**31 else np.int64)
    pairs = np.empty((q.shape[0] * q.shape[1], synapse.heads), np.int64)
    maps = (-1, *q.shape[2:])
    kernels.attend(
        q.reshape(maps), k.reshape(maps), v.reshape(maps), synapse.heads, synapse.weight, out.reshape(maps), pairs
    )
    met = batch.coincidences.setdefault(projection.target, np.zeros(batch.network.time_steps, np.int64))
    met += pairs.reshape(*q.shape[:2], -1).sum((0, 2))
    return out


def _windows(batch: _Batch, population: Population) -> tuple[Sent, int]:
    """What a population of unit synapses sends, (N, T or 1, P, C), and the largest sum."""
    projections = batch.network.into(population.name)
    sources = [batch.network[p.sources[0]] for p in projections]
    steps = batch.plan.steps[population.name]
    channels, height, width = population.shape
    most = sum(
        _window(p).kernel[0] * _window(p).kernel[1] * s.max_out for p, s in zip(projections, sources, strict=True)
    )
    total = batch.buffers.take((batch.images, steps, height * width, channels), np.uint8 if most < 256 else np.int32)
    total[...] = 0
    for projection, source in zip(projections, sources, strict=True):
        window, sent = _window(projection), batch.sent[source.name]
        if sent.shape[1] < steps:
            sent = np.repeat(sent, steps, 1)
        maps = sent.reshape(-1, *source.shape[1:], channels)
        out = total.reshape(-1, height, width, channels)
        kernels.window_sum(maps, window.kernel, window.stride, window.padding, out)
    if isinstance(population.neuron, Or):
        peaks = np.zeros(batch.images * steps, np.int64)
        kernels.fire_where_any(total.reshape(-1, height * width, channels), peaks)
        return _narrow(batch, total), int(peaks.max(initial=0))
    return total, int(total.max(initial=0))


def _narrow(batch: _Batch, spikes: Sent) -> Sent:
    """Spikes in the type of messages of 0 and 1, whatever the sums were in."""
    if spikes.dtype == np.uint8:
        return spikes
    out = batch.buffers.take(spikes.shape, np.uint8)
    out[...] = spikes
    batch.buffers.give(spikes)
    return out


def _largest(batch: _Batch, population: Population) -> tuple[Sent, int]:
    """What a population that takes the largest of a window sends, (N, T or 1, P, C) int32, and its magnitude."""
    (projection,) = batch.network.into(population.name)
    window, source = _window(projection), batch.network[projection.sources[0]].shape
    channels, height, width = population.shape
    steps = batch.plan.steps[population.name]
    out = batch.buffers.take((batch.images, steps, height * width, channels), np.int32)
    peak = np.zeros(batch.images * steps, np.int64)
    maps = batch.sent[projection.sources[0]].reshape(-1, *source[1:], channels)
    shaped = out.reshape(-1, height, width, channels)
    kernels.window_max(maps, window.kernel, window.stride, window.padding, shaped, peak)
    return out, int(peak.max(initial=0))


def _window(projection: Projection) -> Window:
    assert isinstance(projection.synapse, Window)
    return projection.synapse


def _accumulate(batch: _Batch, population: Population, neuron: Accumulator, record: bool) -> None:
    total = np.zeros((batch.images, batch.network.time_steps, population.shape[0]), np.int64)
    for projection in batch.network.into(population.name):
        readout, sent = projection.synapse, batch.sent[projection.sources[0]]
        assert isinstance(readout, Readout)
        pooled = np.empty((sent.shape[0] * sent.shape[1], sent.shape[3]), np.int64)
        kernels.sum_over_positions(sent.reshape(-1, *sent.shape[2:]), pooled)
        total += pooled.reshape(*sent.shape[:2], -1) @ readout.weight.astype(np.int64).T
    states = neuron.bias + (total if neuron.last else total.cumsum(1))
    peak = max(int(np.abs(states).max(initial=0)), int(np.abs(total).max(initial=0)))
    check_state(batch.network, population, peak)
    batch.peak[population.name] = peak
    batch.accumulators = states[:, -1]
    if record:
        states = states.reshape(batch.images, -1, *population.shape).astype(np.int32)
        batch.membranes[population.name] = states
        batch.spikes[population.name] = np.zeros_like(states)


def _joined(batches: list[_Batch]) -> Execution:
    """One Execution from the batches, in order."""
    first = batches[0]
    return Execution(
        accumulators=np.concatenate([b.accumulators for b in batches]),
        activity={name: _activity(first.plan, name, batches) for name in first.counts},
        spikes={name: np.concatenate([b.spikes[name] for b in batches]) for name in first.spikes},
        membranes={name: np.concatenate([b.membranes[name] for b in batches]) for name in first.membranes},
        coincidences={
            name: sum((b.coincidences[name] for b in batches[1:]), met) for name, met in first.coincidences.items()
        },
        peak_state={name: max(b.peak[name] for b in batches) for name in first.peak},
        kernels=synapses.kernels(),
    )


def _activity(plan: Plan, name: str, batches: list[_Batch]) -> Activity:
    grid, counts, steps = plan.grids[name], batches[0].counts[name], plan.network.time_steps
    active = batches[0].active[name]
    for batch in batches[1:]:
        active |= batch.active[name]
    return Activity(
        np.broadcast_to(counts.messages, (len(counts.messages), steps, *grid.shape)),
        grid.cells,
        active.view(bool).transpose(2, 0, 1),
        np.broadcast_to(counts.total.sum((0, 2, 3)), (steps,)),
    )
