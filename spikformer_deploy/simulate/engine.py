"""The fast exact executor: layer by layer, all time steps and images of a batch at once.

Synaptic sums run as floating-point convolutions and matrix products whose every partial sum is an integer that the
float type holds exactly (fp32 below 2^24, fp64 below 2^53); neurons run in compiled integer loops (kernels.py).
Spikes, potentials and accumulators equal those of reference/engine.py, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.quantize.network import (
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
from spikformer_deploy.simulate import kernels
from spikformer_deploy.simulate.run import Activity, Execution, check_state, frames

EXACT_FP32 = 2**24
"""All integers up to here are exact in fp32, and so are all their sums that stay below it, in any order."""
BATCH_BYTES = 2**29
"""Images are cut into batches so that the arrays of the widest layer stay below this."""


@dataclass(slots=True)
class _Batch:
    """What is alive while one batch of images runs."""

    network: Network
    record: Sequence[str]
    cuts: Mapping[str, NDArray[np.int64]]
    sent: dict[str, NDArray[np.integer]] = field(default_factory=dict)
    activity: dict[str, Activity] = field(default_factory=dict)
    spikes: dict[str, NDArray[np.integer]] = field(default_factory=dict)
    membranes: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    accumulators: NDArray[np.int64] | None = None


def execute(
    network: Network,
    images: NDArray[np.integer],
    *,
    record: Sequence[str] = (),
    cuts: Mapping[str, NDArray[np.int64]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Execution:
    """Run `images` through `network`; arguments, result and errors as reference.engine.execute.

    progress  called with the number of images that each batch has finished
    """
    inputs = frames(network, images)
    size = batch_size(network)
    parts: list[_Batch] = []
    for start in range(0, max(1, len(inputs)), size):
        part = inputs[start : start + size]
        parts.append(_run_batch(network, part, record, cuts or {}))
        if progress is not None:
            progress(len(part))
    return _joined(network, parts)


def batch_size(network: Network) -> int:
    """Images a batch, so that spikes and sums of the widest population stay below BATCH_BYTES."""
    widest = max(p.size for p in network)
    return max(1, BATCH_BYTES // (widest * network.time_steps * 8))


@torch.inference_mode()
def _run_batch(
    network: Network, inputs: NDArray[np.integer], record: Sequence[str], cuts: Mapping[str, NDArray[np.int64]]
) -> _Batch:
    batch = _Batch(network, record, cuts)
    last_use = {s: p.target for p in network.projections for s in p.sources}
    # projections are listed by target in topological order, so the last one listed is the last reader
    for population in network:
        _run_population(batch, population, inputs)
        for name in [s for s, target in last_use.items() if target == population.name]:
            del batch.sent[name]
    return batch


def _run_population(batch: _Batch, population: Population, inputs: NDArray[np.integer]) -> None:
    name, images, steps = population.name, len(inputs), batch.network.time_steps
    neuron = population.neuron
    match neuron:
        case Source():
            sent = np.ascontiguousarray(inputs if neuron.per_step else inputs[:, :1])
            _keep(batch, population, sent.reshape(*sent.shape[:3], -1), None, 0)
        case Lif():
            sums = _sums(batch, population, images)
            sent, membrane, peak = _lif(neuron, sums, (images, steps), name in batch.record)
            _keep(batch, population, sent, membrane, peak)
        case Or() | Sum():
            total = _windows(batch, population, images)
            peak = int(total.max(initial=0))
            binary = isinstance(neuron, Or)
            sent = (
                (total != 0).view(np.uint8) if binary else total.astype(_message_type(population.max_out), copy=False)
            )
            _keep(batch, population, sent, np.zeros(sent.shape, np.int32) if name in batch.record else None, peak)
        case Accumulator():
            _accumulate(batch, population, neuron, images)
        case _:
            assert_never(neuron)


def _keep(
    batch: _Batch, population: Population, sent: NDArray[np.integer], membrane: NDArray[np.int32] | None, peak: int
) -> None:
    """Note what a population sent, (N, T or 1, C, P): for its readers, for the counts and, where asked for, as record."""
    name, steps = population.name, batch.network.time_steps
    check_state(batch.network, population, peak)
    batch.peak[name] = peak
    batch.sent[name] = sent
    cuts = np.asarray(batch.cuts.get(name, (0, population.shape[0])), np.int64)
    images, _, channels, positions = sent.shape
    messages = np.zeros((images, steps, len(cuts) - 1, positions), np.int32)
    fired = np.zeros((steps, channels, positions), np.int64)
    kernels.count_messages(sent, cuts, messages, fired)
    values = sent.sum((0, 2, 3), dtype=np.int64) if population.max_out > 1 else fired.sum((1, 2))
    total = np.broadcast_to(values, (steps,)).copy()
    shape = population.shape
    batch.activity[name] = Activity(
        messages.reshape(images, steps, -1, *shape[1:]), cuts, fired.reshape(steps, *shape), total
    )
    if name in batch.record:
        full = np.broadcast_to(sent, (images, steps, channels, positions))
        batch.spikes[name] = full.reshape(images, steps, *shape)
        kept = np.zeros(full.shape, np.int32) if membrane is None else membrane
        batch.membranes[name] = kept.reshape(images, steps, *shape)


def _lif(
    neuron: Lif, sums: NDArray[np.float32 | np.float64], shape: tuple[int, int], record: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int32], int]:
    images, steps = shape
    channels, positions = sums.shape[2:]
    out = np.empty((images, steps, channels, positions), np.uint8)
    membrane = np.empty(out.shape if record else (0, 0, 0, 0), np.int32)
    peak = np.zeros((images, channels), np.int64)
    update = kernels.lif_programmable if neuron.kind == "programmable" else kernels.lif_stock
    update(sums, neuron.decay, neuron.shift, neuron.threshold, neuron.bias.reshape(channels, -1), out, membrane, peak)
    return out, membrane, int(peak.max(initial=0))


def _sums(batch: _Batch, population: Population, images: int) -> NDArray[np.float32 | np.float64]:
    """The synaptic sums of a LIF population: (N, T or 1, C, P) integers held exactly in floats."""
    projections = batch.network.into(population.name)
    bound = sum(_largest_sum(batch.network, p) for p in projections)
    kind = torch.float32 if bound < EXACT_FP32 else torch.float64
    total: torch.Tensor | None = None
    for projection in projections:
        sources = [_tensor(batch.sent[s]) for s in projection.sources]
        part = _synaptic_sum(projection.synapse, sources, batch.network[projection.sources[0]].shape, kind)
        part = part.reshape(images, -1, population.shape[0], population.shape[1] * population.shape[2])
        total = part if total is None else total + part
    assert total is not None
    return total.numpy()


def _synaptic_sum(
    synapse: Conv | Window | Readout | Attention,
    sources: list[torch.Tensor],
    shape: tuple[int, int, int],
    kind: torch.dtype,
) -> torch.Tensor:
    """Sum of one projection over `sources`, each (N, T, C, P): a tensor of N * T maps."""
    match synapse:
        case Conv(weight, stride, padding, groups):
            maps = sources[0].reshape(-1, *shape).to(kind)
            return torch.conv2d(maps, torch.tensor(weight, dtype=kind), None, stride, padding, 1, groups)
        case Attention(heads, weight):
            q, k, v = (s.reshape(len(s) * s.shape[1], heads, -1, s.shape[3]).to(kind) for s in sources)
            return (v @ k.transpose(-1, -2)) @ q * weight
        case Window() | Readout():
            raise TypeError(f"{type(synapse).__name__} does not reach a LIF")
        case _:
            assert_never(synapse)


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


def _windows(batch: _Batch, population: Population, images: int) -> NDArray[np.int32]:
    """Sums of unit synapses: (N, T or 1, C, P) int32."""
    projections = batch.network.into(population.name)
    steps = max(batch.sent[p.sources[0]].shape[1] for p in projections)
    channels, height, width = population.shape
    total = np.zeros((images * steps * channels, height, width), np.int32)
    for projection in projections:
        window, sent = projection.synapse, batch.sent[projection.sources[0]]
        assert isinstance(window, Window)
        maps = np.broadcast_to(sent, (images, steps, *sent.shape[2:])).reshape(
            -1, *batch.network[projection.sources[0]].shape[1:]
        )
        kernels.window_sum(maps, window.kernel, window.stride, window.padding, total)
    return total.reshape(images, steps, channels, height * width)


def _accumulate(batch: _Batch, population: Population, neuron: Accumulator, images: int) -> None:
    total = np.zeros((images, batch.network.time_steps, population.shape[0]), np.int64)
    for projection in batch.network.into(population.name):
        readout = projection.synapse
        assert isinstance(readout, Readout)
        total += batch.sent[projection.sources[0]].sum(3, dtype=np.int64) @ readout.weight.astype(np.int64).T
    states = neuron.bias + total.cumsum(1)
    peak = max(int(np.abs(states).max(initial=0)), int(np.abs(total).max(initial=0)))
    check_state(batch.network, population, peak)
    batch.peak[population.name] = peak
    batch.accumulators = states[:, -1]
    if population.name in batch.record:
        shape = (images, batch.network.time_steps, *population.shape)
        batch.spikes[population.name] = np.zeros(shape, np.uint8)
        batch.membranes[population.name] = states.reshape(shape).astype(np.int32)


def _tensor(array: NDArray[np.integer]) -> torch.Tensor:
    """The same memory as a tensor; a copy where the array is read-only, which torch does not know."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _message_type(max_out: int) -> type[np.integer]:
    return np.uint8 if max_out < 256 else np.int32


def _joined(network: Network, parts: list[_Batch]) -> Execution:
    """One Execution from the batches, in order."""
    firsts = parts[0]
    activity = {
        name: Activity(
            np.concatenate([p.activity[name].messages for p in parts]),
            first.channel_cuts,
            sum((p.activity[name].fired for p in parts[1:]), first.fired),
            sum((p.activity[name].total for p in parts[1:]), first.total),
        )
        for name, first in firsts.activity.items()
    }
    accumulators = [p.accumulators for p in parts if p.accumulators is not None]
    return Execution(
        accumulators=np.concatenate(accumulators),
        activity=activity,
        spikes={name: np.concatenate([p.spikes[name] for p in parts]) for name in firsts.spikes},
        membranes={name: np.concatenate([p.membranes[name] for p in parts]) for name in firsts.membranes},
        peak_state={name: max(p.peak[name] for p in parts) for name in firsts.peak},
        kernels="fp32",
    )
