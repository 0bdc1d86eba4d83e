"""The definition of right: what an integer network does, bit for bit, in plain numpy int64.

Every other executor (simulate/engine.py, Lava, ONNX Runtime) is compared with this file for equality.
Loops run over time steps, populations and kernel taps; nothing here is clever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.quantize.network import (
    STOCK_SHIFT,
    Accumulator,
    And,
    Attention,
    Conv,
    Lif,
    Max,
    Network,
    Or,
    Population,
    Readout,
    Source,
    Stream,
    Sum,
    Synapse,
    Window,
)
from spikformer_deploy.simulate.run import Activity, Cells, Execution, check_state, frames, one_cell

Int = NDArray[np.int64]


def execute(
    network: Network,
    images: NDArray[np.integer],
    *,
    record: Sequence[str] = (),
    cells: Mapping[str, Cells] | None = None,
) -> Execution:
    """Run `images` through `network`, all populations of a time step in topological order, step after step.

    images  (N, C, Y, X) pixels, or (N, T, C, Y, X) frames where the Source is `per_step`; integers
    record  names of populations whose spikes and membrane potentials are kept
    cells   the grids of Activity.messages, by population; one cell each where nothing is said
    Raises InputError for images of another shape or range, OverflowDetected where a state leaves `network.state_bits`.
    """
    inputs = frames(network, images).astype(np.int64)
    states: dict[str, Int] = {}
    sent: dict[str, list[Int]] = {p.name: [] for p in network}
    membranes: dict[str, list[Int]] = {name: [] for name in record}
    peak = {p.name: 0 for p in network}
    for t in range(network.time_steps):
        now: dict[str, Int] = {network.input.name: inputs[:, t]}
        for population in network:
            total = np.zeros((len(inputs), *population.shape), np.int64)
            for projection in network.into(population.name):
                sources = [now[s] for s in projection.sources]
                if isinstance(population.neuron, Max):
                    total = largest_of(projection.synapse, sources[0], population.shape)
                else:
                    total += synaptic_sum(projection.synapse, sources, population.shape)
            state = states.get(population.name)
            out, state, largest = step(population, total, state, now.get(population.name))
            peak[population.name] = max(peak[population.name], largest)
            check_state(network, population, largest)
            states[population.name] = state
            now[population.name] = out
            sent[population.name].append(out)
            if population.name in membranes:
                membranes[population.name].append(_potential(population, state))
    activity = {
        p.name: observe(np.stack(sent[p.name], 1), (cells or {}).get(p.name, one_cell(p.shape)))
        for p in network
        if not isinstance(p.neuron, Accumulator)
    }
    return Execution(
        accumulators=states[network.output.name].reshape(len(inputs), -1),
        activity=activity,
        spikes={name: np.stack(sent[name], 1) for name in record},
        membranes={name: np.stack(membranes[name], 1).astype(np.int32) for name in record},
        coincidences={
            p.target: coincidences(p.synapse.heads, *(np.stack(sent[name], 1) for name in p.sources[1:]))
            for p in network.projections
            if isinstance(p.synapse, Attention)
        },
        peak_state=peak,
        kernels="plain",
    )


def step(population: Population, total: Int, state: Int | None, given: Int | None) -> tuple[Int, Int, int]:
    """One time step of one population: (what it sends, its new state, the largest magnitude met).

    total  (N, C, Y, X) sum of all its synapses in this step;  given: the frame, for a Source
    state  of the same shape, or (2, N, C, Y, X): potential and current of neurons whose current decays
    """
    neuron = population.neuron
    old = np.zeros_like(total) if state is None else state
    match neuron:
        case Source():
            assert given is not None
            return given, old, 0
        case Or():
            return (total != 0).astype(np.int64), old, _largest(total)
        case Sum():
            return total, old, _largest(total)
        case And(inputs=inputs):
            return (total >= inputs).astype(np.int64), old, _largest(total)
        case Stream(bias=bias, drop=drop):
            current = total + _over_positions(bias)
            return current + (1 << drop >> 1) >> drop, old, _largest(current)
        case Max():
            return total, old, _largest(total)
        case Accumulator():
            start = neuron.bias[:, None, None] if state is None or neuron.last else state
            new = start + total
            return np.zeros_like(total), new, max(_largest(new), _largest(total))
        case Lif(kind="programmable"):
            drive = (total << neuron.shift) + _over_positions(neuron.bias)
            v = (old * neuron.decay + neuron.round_up >> 12) + drive
            spikes = v >= _over_positions(neuron.fires_from)
            reset = v - _over_positions(neuron.threshold) if neuron.soft else 0
            return spikes.astype(np.int64), np.where(spikes, reset, v), max(_largest(v), _largest(drive))
        case Lif(kind="stock"):
            v, u = (old, np.zeros_like(old)) if state is None or not neuron.current else old
            u = _toward_zero(u, neuron.current) + (total << (neuron.shift + STOCK_SHIFT))
            drive = u + (_over_positions(neuron.bias) << STOCK_SHIFT)
            v = _toward_zero(v, neuron.decay) + drive
            spikes = v > (_over_positions(neuron.threshold) << STOCK_SHIFT)
            new = np.where(spikes, 0, v)
            kept = np.stack([new, u]) if neuron.current else new
            largest = max(_largest(v), _largest(drive), _largest(u) if neuron.current else 0)
            return spikes.astype(np.int64), kept, largest
        case Lif():
            raise ValueError(f"unknown kind of LIF: {neuron.kind}")
        case _:
            assert_never(neuron)


def _toward_zero(state: Int, decay: int) -> Int:
    return np.sign(state) * (np.abs(state) * decay >> 12)


def _potential(population: Population, state: Int) -> Int:
    """The state without the current that some neurons have beside it."""
    return state[0] if isinstance(population.neuron, Lif) and population.neuron.current else state


def synaptic_sum(synapse: Conv | Window | Readout | Attention, sources: list[Int], shape: tuple[int, int, int]) -> Int:
    """What one projection delivers to its target in one step: (N, C, Y, X) of the target's `shape`."""
    match synapse:
        case Conv():
            return _convolution(synapse, sources[0], shape) << synapse.shift
        case Window():
            return _window(synapse, sources[0], shape)
        case Readout():
            return (sources[0].sum((2, 3)) @ synapse.weight.astype(np.int64).T)[:, :, None, None]
        case Attention():
            q, k, v = (s.reshape(len(s), synapse.heads, -1, shape[1] * shape[2]) for s in sources)
            scores = np.einsum("nhcp,nhcm->nhpm", q, k)
            return synapse.weight * np.einsum("nhpm,nhcm->nhcp", scores, v).reshape(-1, *shape)
        case _:
            assert_never(synapse)


def observe(sent: Int, cells: Cells) -> Activity:
    """The Activity of one population from all it sent, (N, T, C, Y, X)."""
    slices, rows, columns = cells.shape
    messages = np.zeros((*sent.shape[:2], slices, rows, columns), np.int32)
    for s, y, x in np.ndindex(slices, *sent.shape[3:]):
        fired = sent[:, :, cells.channels[s] : cells.channels[s + 1], y, x] != 0
        messages[:, :, s, cells.rows[y], cells.columns[x]] += fired.sum(2)
    return Activity(messages, cells, (sent != 0).any((0, 1)), sent.sum((0, 2, 3, 4)))


def coincidences(heads: int, k: Int, v: Int) -> Int:
    """(T,) pairs of messages k[n, c], v[n, c'] of one token and head, from all that was sent (N, T, C, Y, X)."""
    count_k, count_v = ((s != 0).reshape(*s.shape[:2], heads, -1, s.shape[3] * s.shape[4]).sum(3) for s in (k, v))
    return (count_k * count_v).sum((0, 2, 3))


def _convolution(conv: Conv, x: Int, shape: tuple[int, int, int]) -> Int:
    groups, (channels, height, width) = conv.groups, shape
    per_group = x.shape[1] // groups
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in conv.padding)))
    weight = conv.weight.astype(np.int64).reshape(groups, channels // groups, *conv.weight.shape[1:])
    out = np.zeros((groups, channels // groups, len(x), height, width), np.int64)
    for ky, kx in np.ndindex(*conv.weight.shape[2:]):
        seen = _shifted(padded, ky, kx, conv.stride, (height, width))
        for g in range(groups):
            part = seen[:, g * per_group : (g + 1) * per_group]
            out[g] += np.tensordot(weight[g, :, :, ky, kx], part, (1, 1))
    return out.reshape(channels, len(x), height, width).swapaxes(0, 1)


def _window(window: Window, x: Int, shape: tuple[int, int, int]) -> Int:
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in window.padding)))
    taps = np.ndindex(*window.kernel)
    return sum(
        (_shifted(padded, ky, kx, window.stride, shape[1:]) for ky, kx in taps),
        np.zeros((len(x), *shape), np.int64),
    )


def largest_of(synapse: Synapse, x: Int, shape: tuple[int, int, int]) -> Int:
    """The largest value of each window, (N, C, Y, X) of the target's `shape`; padding is no value."""
    assert isinstance(synapse, Window)
    lowest = np.iinfo(np.int64).min
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in synapse.padding)), constant_values=lowest)
    seen = [_shifted(padded, ky, kx, synapse.stride, shape[1:]) for ky, kx in np.ndindex(*synapse.kernel)]
    return np.maximum.reduce(seen)


def _shifted(padded: Int, ky: int, kx: int, stride: tuple[int, int], size: tuple[int, int]) -> Int:
    """What kernel tap (ky, kx) sees at every output position."""
    (sy, sx), (height, width) = stride, size
    return padded[:, :, ky : ky + sy * (height - 1) + 1 : sy, kx : kx + sx * (width - 1) + 1 : sx]


def _over_positions(parameter: Int) -> Int:
    return parameter[:, None, None] if parameter.ndim == 1 else parameter


def _largest(x: Int) -> int:
    return int(np.abs(x).max(initial=0))
