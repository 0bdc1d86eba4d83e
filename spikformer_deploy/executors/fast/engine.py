"""The fast exact executor: layer by layer, all time steps and images of a batch at once.

Synaptic sums are exact integer convolutions (sums.py, synapses.py), neurons are compiled integer loops (kernels.py),
and plan.py says what is computed at once.  Spikes, potentials, accumulators and activity equal those of
executors/reference.py.
Between layers every value is (images, T, P, C), P = Y * X; values that no time step changes have T = 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.executors.execution import Activity, Cells, Execution, Executor, Request, frames
from spikformer_deploy.executors.fast import kernels, measure, sums, synapses, threads
from spikformer_deploy.executors.fast.batch import Batch, Buffers, Sent, empty_counts
from spikformer_deploy.executors.fast.counting import add_up, observe
from spikformer_deploy.executors.fast.kept import Kept
from spikformer_deploy.executors.fast.kernels import LIF_LOOPS, LifParameters
from spikformer_deploy.executors.fast.levels import LEVELS_LOOPS, LevelsParameters
from spikformer_deploy.executors.fast.plan import Parameters, Plan, blocks, make_plan, message_type
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Accumulator, And, Levels, Lif, Max, Or, Source, Stream, Sum
from spikformer_deploy.network.synapses import Readout

BATCH_BYTES = 2**30
"""Images are cut into batches so that the messages alive at once stay below this."""
LONG_RUN = 30.0
"""Seconds of a run from which on the two of a measurement are few."""
NOTHING = np.empty((0, 0, 0, 0), np.int32)
"""Potentials that nobody needs."""
AT_REST = np.empty((0, 0, 0), np.int32)
"""Potentials before the first step, all of which are 0."""


def prepare(request: Request) -> Executor:
    """The engine, with a plan and buffers for a network.

    A run that takes long measures what kernels cost here, for those that come after it.
    """
    plan = make_plan(request.network, request.cells)
    buffers = Buffers()
    batch = request.images_at_once(plan.image_bytes, BATCH_BYTES, plan.fixed_bytes)
    seconds: float | None = None

    def execute(images: Sent, record: Sequence[str] = ()) -> Execution:
        nonlocal seconds
        start = time.perf_counter()
        execution = run(plan, images, buffers, record)
        # the first batch may have waited for the compiler: it counts nothing
        before, seconds = seconds, 0.0 if seconds is None else seconds + time.perf_counter() - start
        if before is not None and before < LONG_RUN <= seconds:
            measure.measure_once()
        return execution

    return Executor(execute, batch)


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
    counts = empty_counts(plan, len(inputs))

    def batch(first: int, end: int, memory: Buffers) -> Batch:
        return Batch(plan, slice(first, end), memory, counts, Kept(plan.network, record))

    batches: list[Batch] = []
    with threads.as_many_as_torch() as workers:
        for first, end in _edges(len(inputs), -(-len(inputs) // batch_size(plan))):
            # a thread with images of its own never waits; with fewer images than threads all share every loop
            if 1 < workers <= end - first and threads.may_share():
                edges = _edges(end - first, workers)
                memory = buffers.parts(workers)
                shares = [batch(first + low, first + high, m) for (low, high), m in zip(edges, memory, strict=True)]
                _run_by_threads(shares, inputs)
                batches += shares
            else:
                batches.append(batch(first, end, buffers))
                _run_batch(batches[-1], inputs)
    return _joined(batches)


def _edges(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` things in near-equal parts, at least one (maybe empty)."""
    cuts = np.linspace(0, count, max(1, parts) + 1).astype(int).tolist()
    return list(pairwise(cuts))


def _run_by_threads(batches: list[Batch], inputs: Sent) -> None:
    """Images shared out to threads that never wait for each other; the loops of each run on that thread only."""
    try:
        with ThreadPoolExecutor(len(batches), initializer=threads.alone) as pool:
            running = [pool.submit(_run_batch, batch, inputs) for batch in batches]
            for batch in running:
                batch.result()
    finally:
        # the threads of the pool have set torch to one thread, for the whole process
        torch.set_num_threads(len(batches))


def batch_size(plan: Plan) -> int:
    """Images a batch, so that the messages alive at once stay below BATCH_BYTES."""
    return max(1, BATCH_BYTES // plan.image_bytes)


@torch.inference_mode()
def _run_batch(batch: Batch, inputs: Sent) -> None:
    batch.threads = numba.get_num_threads()
    for population in batch.network:
        _run_population(batch, population, inputs[batch.place])
        for name in batch.plan.last_read.get(population.name, ()):
            batch.buffers.give(batch.sent.pop(name))
    # its last loops may have been small ones: the next batch begins with all threads again
    numba.set_num_threads(batch.threads)


def _run_population(batch: Batch, population: Population, inputs: Sent) -> None:
    neuron = population.neuron
    membrane = None
    threads.share_out(batch.threads, batch.images * batch.network.time_steps * population.size)
    match neuron:
        case Source():
            sent = _pixels(batch, population, inputs)
            peak = 0
        case Lif() | Levels():
            sent, membrane, peak = _fire(batch, population)
        case Or() | Sum():
            sent, peak = _windows(batch, population)
        case Stream():
            sent, peak = _relay(batch, population, kernels.send_current, batch.plan.sums[population.name].parameters)
        case And(inputs=needed):
            sent, peak = _relay(batch, population, kernels.fire_where_all, needed)
        case Max():
            sent, peak = _largest(batch, population)
        case Accumulator():
            batch.kept.accumulate(population, neuron, _read_out(batch, population))
            return
        case _:
            assert_never(neuron)
    _keep(batch, population, sent, peak, membrane)
    if membrane is not None:
        batch.buffers.give(membrane)


def _keep(
    batch: Batch, population: Population, sent: Sent, peak: int, membrane: Array | None, before: Array = AT_REST
) -> None:
    """Note what a population sent: for its readers, for the counts and, where asked for, as a record."""
    name = population.name
    threads.share_out(batch.threads, sent.size)
    batch.kept.note_peak(population, peak)
    batch.sent[name] = sent
    _observe(batch, population, sent)
    if membrane is not None:
        _observe_idle(batch, population, sent, membrane, before)
    if name in batch.kept.record:
        batch.kept.spikes[name] = _recorded(batch, population, sent)
        membrane = np.zeros_like(sent, np.int32) if membrane is None else membrane
        batch.kept.membranes[name] = _recorded(batch, population, membrane)


def _observe(batch: Batch, population: Population, sent: Sent) -> None:
    """Count what was sent, in the cells of the plan."""
    counts = batch.counts[population.name]
    messages, total = counts.messages[batch.place], counts.total[batch.place]
    values = counts.values
    # the sums by cell have the whole sum in them
    binary = (population.max_out == 1 and not population.signed) or values is not None
    batch.active[population.name] = _count(batch, population, sent, binary, messages, total)
    if values is not None:
        values = values[batch.place].reshape(-1, *values.shape[2:])
        table = batch.plan.tables[population.name]
        add_up(_maps(population, sent), table, values, total.reshape(-1, *total.shape[2:]))


def _observe_idle(batch: Batch, population: Population, sent: Sent, membrane: Array, before: Array = AT_REST) -> None:
    """Count idle neurons, in the same cells, where the potentials say which these are."""
    counts = batch.counts[population.name]
    if counts.idle is None:
        return
    neurons = batch.plan.sums[population.name].parameters
    assert isinstance(neurons, LifParameters | LevelsParameters)
    forgets = isinstance(neurons, LevelsParameters) and not neurons.decay
    idle = batch.buffers.take(sent.shape, np.uint8)
    kernels.find_idle(neurons.bias, neurons.bias_of, forgets, before, sent, membrane, idle)
    _count(batch, population, idle, True, counts.idle[batch.place], np.empty_like(counts.total[batch.place]))
    batch.buffers.give(idle)


def _count(batch: Batch, population: Population, sent: Sent, binary: bool, messages: Array, total: Array) -> Array:
    """The loop `observe` on the (N, T or 1, P, C) values of some images; what it calls active."""
    channels, height, width = population.shape
    active = np.zeros((height, width, channels), np.uint8)
    messages = messages.reshape(-1, *messages.shape[2:])
    total = total.reshape(-1, *total.shape[2:])
    observe(_maps(population, sent), binary, batch.plan.tables[population.name], messages, active, total)
    return active


def _maps(population: Population, sent: Sent) -> Sent:
    """Images and steps are alike to the loops that count: maps (M, Y, X, C), one after the other."""
    channels, height, width = population.shape
    return sent.reshape(-1, height, width, channels)


def _recorded(batch: Batch, population: Population, values: Array) -> Array:
    """(N, T, C, Y, X) from (N, T or 1, P, C); a copy, as the buffer serves again."""
    full = np.broadcast_to(values, (batch.images, batch.network.time_steps, *values.shape[2:]))
    return full.transpose(0, 1, 3, 2).reshape(batch.images, -1, *population.shape).copy()


def _room(batch: Batch, population: Population, dtype: type[np.integer]) -> Sent:
    """For what a population sends, (N, T or 1, P, C), with unknown content."""
    channels, height, width = population.shape
    return batch.buffers.take((batch.images, batch.plan.steps[population.name], height * width, channels), dtype)


def _pixels(batch: Batch, population: Population, inputs: Sent) -> Sent:
    """What the Source sends: of an image that is held for all steps, one frame."""
    out = _room(batch, population, message_type(population))
    images, steps, positions, channels = out.shape
    out[...] = inputs[:, :steps].reshape(images, steps, channels, positions).transpose(0, 1, 3, 2)
    return out


def _fire(
    batch: Batch, population: Population, before: Array = AT_REST, keep: bool = False
) -> tuple[Sent, Array | None, int]:
    """What neurons with a potential send (N, T or 1, P, C), potentials where needed, and the largest magnitude met.

    before  (N, P, C) int32 of LIFs: the potentials that the first step finds; keep: potentials are needed
    """
    neurons = batch.plan.sums[population.name].parameters
    assert isinstance(neurons, LifParameters | LevelsParameters)
    out = _room(batch, population, np.uint8)
    needed = keep or population.name in batch.plan.may_idle or population.name in batch.kept.record
    membrane = batch.buffers.take(out.shape, np.int32) if needed else NOTHING
    largest = 0
    for images, first, values in sums.pieces(batch, population):
        peak = np.zeros((len(values), blocks(values.shape[2], len(values))), np.int64)
        if isinstance(neurons, LevelsParameters):
            LEVELS_LOOPS[neurons.bias.dtype](values, neurons, first, out[images], membrane[images], peak)
        else:
            LIF_LOOPS[neurons.bias.dtype](values, neurons, first, before[images], out[images], membrane[images], peak)
        largest = max(largest, int(peak.max(initial=0)))
    return out, membrane if needed else None, largest


def _relay(
    batch: Batch, population: Population, loop: Callable[..., None], parameters: Parameters | int
) -> tuple[Sent, int]:
    """What a population without state makes of its sums, (N, T or 1, P, C), and the largest magnitude met."""
    out = _room(batch, population, message_type(population))
    largest = 0
    for images, first, values in sums.pieces(batch, population):
        peak = np.zeros(values.shape[:2], np.int64)
        loop(values, parameters, first, out[images], peak)
        largest = max(largest, int(peak.max(initial=0)))
    return out, largest


def _windows(batch: Batch, population: Population) -> tuple[Sent, int]:
    """What a population of unit synapses sends, (N, T or 1, P, C), and the largest sum."""
    windows = batch.plan.windows[population.name]
    total = _room(batch, population, windows.type)
    first = True
    for projection, identity in windows.incoming:
        sent = batch.sent[projection.sources[0]]
        if identity and first:
            total[...] = sent
        elif identity:
            np.add(total, sent, out=total, casting="unsafe")
        else:
            if first:
                total[...] = 0
            if sent.shape[1] < total.shape[1]:
                sent = np.repeat(sent, total.shape[1], 1)
            sums.add_windows(batch, projection, sent, total)
        first = False
    if isinstance(population.neuron, Or):
        peaks = np.zeros(total.shape[0] * total.shape[1], np.int64)
        kernels.fire_where_any(total.reshape(-1, *total.shape[2:]), peaks)
        return _narrow(batch, total), int(peaks.max(initial=0))
    return total, int(total.max(initial=0))


def _narrow(batch: Batch, spikes: Sent) -> Sent:
    """Spikes in the type of messages of 0 and 1, whatever the sums were in."""
    if spikes.dtype == np.uint8:
        return spikes
    out = batch.buffers.take(spikes.shape, np.uint8)
    out[...] = spikes
    batch.buffers.give(spikes)
    return out


def _largest(batch: Batch, population: Population) -> tuple[Sent, int]:
    """What a population that takes the largest of a window sends, (N, T or 1, P, C) int32, and its magnitude."""
    (projection,) = batch.network.into(population.name)
    out = _room(batch, population, np.int32)
    peak = np.zeros(out.shape[0] * out.shape[1], np.int64)
    sums.largest_of_windows(batch, projection, out, peak)
    return out, int(peak.max(initial=0))


def _read_out(batch: Batch, population: Population) -> Array:
    """What reaches the head in every step, (N, T, classes) int64."""
    if population.name in batch.plan.sums:
        return _map_of_head(batch, population)
    total = np.zeros((batch.images, batch.network.time_steps, population.shape[0]), np.int64)
    for projection in batch.network.into(population.name):
        readout = projection.synapse
        assert isinstance(readout, Readout)
        sent = batch.sent[projection.sources[0]]
        images, steps, positions, channels = sent.shape
        pooled = np.empty((images * steps, channels), np.int64)
        kernels.sum_over_positions(sent.reshape(-1, positions, channels), pooled)
        total += pooled.reshape(images, steps, channels) @ readout.weight.astype(np.int64).T
    return total


def _map_of_head(batch: Batch, population: Population) -> Array:
    """What reaches a head that is a map in every step, (N, T, C * Y * X) int64."""
    channels, height, width = population.shape
    # (N, T, P, C), as the sums come
    total = np.zeros((batch.images, batch.network.time_steps, height * width, channels), np.int64)
    for images, first, values in sums.pieces(batch, population):
        total[images, :, first : first + values.shape[2]] = values
    return np.ascontiguousarray(total.transpose(0, 1, 3, 2)).reshape(*total.shape[:2], -1)


def _joined(batches: list[Batch]) -> Execution:
    """One Execution from the batches, in order."""
    kept = [b.kept for b in batches]
    first = kept[0]
    return Execution(
        accumulators=np.concatenate([k.accumulators for k in kept]),
        activity={name: _activity(name, batches) for name in batches[0].counts},
        spikes={name: np.concatenate([k.spikes[name] for k in kept]) for name in first.spikes},
        membranes={name: np.concatenate([k.membranes[name] for k in kept]) for name in first.membranes},
        coincidences={name: sum(k.coincidences[name].sum(0) for k in kept) for name in first.coincidences},
        peak_state={name: max(k.peak[name] for k in kept) for name in first.peak},
        kernels=synapses.note(i.layer for p in batches[0].plan.sums.values() for i in p.incoming if i.layer),
    )


def _activity(name: str, batches: list[Batch]) -> Activity:
    """Of one population in all batches; steps that are alike are one array seen T times."""
    plan = batches[0].plan
    counts = batches[0].counts[name]
    steps = plan.network.time_steps
    active = batches[0].active[name]
    for batch in batches[1:]:
        active |= batch.active[name]
    total = counts.total.sum((0, 2, 3))
    return Activity(
        _of_steps(counts.messages, steps),
        plan.cells[name],
        active.view(bool).transpose(2, 0, 1),
        total if len(total) == steps else np.broadcast_to(total, (steps,)),
        None if counts.idle is None else _of_steps(counts.idle, steps),
        None if counts.values is None else _of_steps(counts.values, steps),
    )


def _of_steps(counts: NDArray[np.int32], steps: int) -> NDArray[np.int32]:
    """(images, T, ...) of (images, T or 1, ...)."""
    if counts.shape[1] == steps:
        return counts
    return np.broadcast_to(counts, (len(counts), steps, *counts.shape[2:]))
