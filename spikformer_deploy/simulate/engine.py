"""The fast exact executor: layer by layer, all time steps and images of a batch at once.

Synaptic sums are exact integer convolutions (synapses.py), neurons are compiled integer loops (kernels.py).
Spikes, potentials, accumulators and activity equal those of reference/engine.py, bit for bit.
Between layers every value is (images, T, P, C), P = Y * X; values that no time step changes have T = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.quantize.network import (
    DECAY_ONE,
    Accumulator,
    Attention,
    Conv,
    Lif,
    Network,
    Or,
    Population,
    Projection,
    Readout,
    Source,
    Sum,
    Window,
)
from spikformer_deploy.simulate import kernels, synapses
from spikformer_deploy.simulate.run import Activity, Execution, check_state, frames

Sent: TypeAlias = NDArray[np.integer]

BATCH_BYTES = 2**29
"""Images are cut into batches so that the arrays of the widest layer stay below this."""
SMALL_SUM = 2**30
"""Drives below this leave 32-bit integers no way to wrap."""


@dataclass(slots=True)
class _Batch:
    """What is alive while one batch of images runs, and what is kept of it."""

    network: Network
    record: Sequence[str]
    cuts: Mapping[str, NDArray[np.int64]]
    convolutions: Mapping[Projection, Callable[[torch.Tensor], torch.Tensor]]
    images: int
    sent: dict[str, Sent] = field(default_factory=dict)
    activity: dict[str, Activity] = field(default_factory=dict)
    spikes: dict[str, Sent] = field(default_factory=dict)
    membranes: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    accumulators: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))


def execute(
    network: Network,
    images: Sent,
    *,
    record: Sequence[str] = (),
    cuts: Mapping[str, NDArray[np.int64]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Execution:
    """Run `images` through `network`; arguments, result and errors as reference.engine.execute.

    progress  called with the number of images that each batch has finished
    """
    inputs = frames(network, images)
    convolutions = _convolutions(network)
    size = batch_size(network)
    parts: list[_Batch] = []
    for start in range(0, max(1, len(inputs)), size):
        part = inputs[start : start + size]
        batch = _Batch(network, record, cuts or {}, convolutions, len(part))
        _run_batch(batch, part)
        parts.append(batch)
        if progress is not None:
            progress(len(part))
    return _joined(parts)


def batch_size(network: Network) -> int:
    """Images a batch, so that messages and sums of the widest population stay below BATCH_BYTES."""
    widest = max(p.size for p in network)
    return max(1, BATCH_BYTES // (widest * network.time_steps * 8))


def _convolutions(network: Network) -> dict[Projection, Callable[[torch.Tensor], torch.Tensor]]:
    """The convolution of each Conv projection, weights packed once for all batches."""
    out = {}
    for projection in network.projections:
        if isinstance(projection.synapse, Conv):
            source = network[projection.sources[0]]
            bound = _largest_sum(network, projection)
            out[projection] = synapses.convolution(projection.synapse, source.shape, source.max_out, bound)
    return out


@torch.inference_mode()
def _run_batch(batch: _Batch, inputs: Sent) -> None:
    # projections stand in the order of their targets, so the last one that names a source is its last reader
    last_reader = {source: p.target for p in batch.network.projections for source in p.sources}
    for population in batch.network:
        _run_population(batch, population, inputs)
        for name in [source for source, reader in last_reader.items() if reader == population.name]:
            del batch.sent[name]


def _run_population(batch: _Batch, population: Population, inputs: Sent) -> None:
    neuron, recorded = population.neuron, population.name in batch.record
    match neuron:
        case Source():
            steps = inputs if neuron.per_step else inputs[:, :1]
            pixels = steps.reshape(*steps.shape[:3], -1).transpose(0, 1, 3, 2)
            _keep(batch, population, _message_array(pixels, population.max_out), 0)
        case Lif():
            sent, membrane, peak = _lif(batch, population, neuron, recorded)
            _keep(batch, population, sent, peak, membrane)
        case Or():
            total = _windows(batch, population)
            _keep(batch, population, (total != 0).view(np.uint8), int(total.max(initial=0)))
        case Sum():
            total = _windows(batch, population)
            _keep(batch, population, _message_array(total, population.max_out), int(total.max(initial=0)))
        case Accumulator():
            _accumulate(batch, population, neuron, recorded)
        case _:
            assert_never(neuron)


def _keep(
    batch: _Batch, population: Population, sent: Sent, peak: int, membrane: NDArray[np.int32] | None = None
) -> None:
    """Note what a population sent: for its readers, for the counts and, where asked for, as a record."""
    name, steps, shape = population.name, batch.network.time_steps, population.shape
    check_state(batch.network, population, peak)
    batch.peak[name] = peak
    batch.sent[name] = sent
    cuts = np.asarray(batch.cuts.get(name, (0, shape[0])), np.int64)
    messages = np.zeros((batch.images, steps, len(cuts) - 1, sent.shape[2]), np.int32)
    fired = np.zeros((steps, sent.shape[2], shape[0]), np.int64)
    kernels.count_messages(sent, cuts, messages, fired)
    values = sent.sum((0, 2, 3), dtype=np.int64) if population.max_out > 1 else fired.sum((1, 2))
    batch.activity[name] = Activity(
        messages.reshape(*messages.shape[:3], *shape[1:]),
        cuts,
        fired.transpose(0, 2, 1).reshape(steps, *shape),
        np.broadcast_to(values, (steps,)).copy(),
    )
    if name in batch.record:
        batch.spikes[name] = _recorded(batch, population, sent)
        batch.membranes[name] = _recorded(
            batch, population, np.zeros_like(sent, np.int32) if membrane is None else membrane
        )


def _recorded(batch: _Batch, population: Population, values: NDArray[Any]) -> NDArray[Any]:
    """(N, T, C, Y, X) from (N, T or 1, P, C)."""
    full = np.broadcast_to(values, (batch.images, batch.network.time_steps, *values.shape[2:]))
    return full.transpose(0, 1, 3, 2).reshape(batch.images, -1, *population.shape)


def _lif(
    batch: _Batch, population: Population, neuron: Lif, record: bool
) -> tuple[Sent, NDArray[np.int32] | None, int]:
    """Spikes (N, T, P, C), potentials where recorded, and the largest magnitude met."""
    sums, bound = _sums(batch, population)
    channels, positions = population.shape[0], population.shape[1] * population.shape[2]
    out = np.empty((batch.images, batch.network.time_steps, positions, channels), np.uint8)
    membrane = np.empty(out.shape if record else (0, 0, 0, 0), np.int32)
    peak = np.zeros((batch.images, -(-positions // kernels.BLOCK)), np.int64)
    bias = np.ascontiguousarray(neuron.bias.reshape(channels, -1).T)
    largest = (bound << neuron.shift) + int(np.abs(bias).max(initial=0))
    if neuron.kind == "programmable" and neuron.decay == DECAY_ONE // 2 and largest < SMALL_SUM:
        threshold = neuron.threshold.astype(np.int32)
        kernels.lif_halving(sums, neuron.shift, threshold, bias.astype(np.int32), out, membrane, peak)
    else:
        stock = neuron.kind == "stock"
        kernels.lif_any(sums, stock, neuron.decay, neuron.shift, neuron.threshold, bias, out, membrane, peak)
    return out, membrane if record else None, int(peak.max(initial=0))


def _sums(batch: _Batch, population: Population) -> tuple[NDArray[np.floating], int]:
    """The synaptic sums of a LIF population, (N, T or 1, P, C) integers held exactly in floats, and their bound."""
    projections = batch.network.into(population.name)
    bounds = [_largest_sum(batch.network, projection) for projection in projections]
    parts = [_projection_sum(batch, p, bound) for p, bound in zip(projections, bounds, strict=True)]
    if sum(bounds) >= synapses.EXACT_FP32:
        parts = [part.double() for part in parts]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.numpy(), sum(bounds)


def _projection_sum(batch: _Batch, projection: Projection, bound: int) -> torch.Tensor:
    sources = [batch.sent[name] for name in projection.sources]
    shape = batch.network[projection.sources[0]].shape
    maps = [torch.from_numpy(s).reshape(-1, *shape[1:], shape[0]) for s in sources]
    match projection.synapse:
        case Conv():
            out = batch.convolutions[projection](maps[0])
        case Attention() as synapse:
            out = synapses.attention(synapse, maps[0], maps[1], maps[2], bound)
        case synapse:
            raise TypeError(f"{type(synapse).__name__} does not reach a LIF")
    return out.reshape(batch.images, -1, out.shape[1] * out.shape[2], out.shape[3])


def _largest_sum(network: Network, projection: Projection) -> int:
    """A bound of every partial sum of one projection, whatever the order of summation."""
    source = network[projection.sources[0]]
    match projection.synapse:
        case Conv(weight):
            return int(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1).max()) * source.max_out
        case Attention(heads, weight):
            channels, height, width = source.shape
            most = int(np.prod([network[s].max_out for s in projection.sources]))
            return channels // heads * height * width * most * weight
        case synapse:
            raise TypeError(f"{type(synapse).__name__} does not reach a LIF")


def _windows(batch: _Batch, population: Population) -> NDArray[np.int32]:
    """Sums of unit synapses: (N, T or 1, P, C) int32."""
    projections = batch.network.into(population.name)
    steps = max(batch.sent[p.sources[0]].shape[1] for p in projections)
    channels, height, width = population.shape
    total = np.zeros((batch.images * steps, height, width, channels), np.int32)
    for projection in projections:
        window, sent = projection.synapse, batch.sent[projection.sources[0]]
        assert isinstance(window, Window)
        source = batch.network[projection.sources[0]].shape
        maps = np.broadcast_to(sent, (batch.images, steps, *sent.shape[2:])).reshape(-1, *source[1:], channels)
        kernels.window_sum(maps, window.kernel, window.stride, window.padding, total)
    return total.reshape(batch.images, steps, height * width, channels)


def _accumulate(batch: _Batch, population: Population, neuron: Accumulator, record: bool) -> None:
    total = np.zeros((batch.images, batch.network.time_steps, population.shape[0]), np.int64)
    for projection in batch.network.into(population.name):
        readout = projection.synapse
        assert isinstance(readout, Readout)
        total += batch.sent[projection.sources[0]].sum(2, dtype=np.int64) @ readout.weight.astype(np.int64).T
    states = neuron.bias + total.cumsum(1)
    peak = max(int(np.abs(states).max(initial=0)), int(np.abs(total).max(initial=0)))
    check_state(batch.network, population, peak)
    batch.peak[population.name] = peak
    batch.accumulators = states[:, -1]
    if record:
        states = states.reshape(batch.images, -1, *population.shape).astype(np.int32)
        batch.membranes[population.name] = states
        batch.spikes[population.name] = np.zeros_like(states)


def _message_array(values: NDArray[Any], max_out: int) -> Sent:
    """A contiguous, writable array of the narrowest type that holds messages up to `max_out`."""
    return np.array(values, np.uint8 if max_out < 256 else np.int32, order="C")


def _joined(parts: list[_Batch]) -> Execution:
    """One Execution from the batches, in order."""
    first = parts[0]
    activity = {
        name: Activity(
            np.concatenate([p.activity[name].messages for p in parts]),
            start.channel_cuts,
            sum((p.activity[name].fired for p in parts[1:]), start.fired),
            sum((p.activity[name].total for p in parts[1:]), start.total),
        )
        for name, start in first.activity.items()
    }
    return Execution(
        accumulators=np.concatenate([p.accumulators for p in parts]),
        activity=activity,
        spikes={name: np.concatenate([p.spikes[name] for p in parts]) for name in first.spikes},
        membranes={name: np.concatenate([p.membranes[name] for p in parts]) for name in first.membranes},
        peak_state={name: max(p.peak[name] for p in parts) for name in first.peak},
        kernels=synapses.kernels(),
    )
