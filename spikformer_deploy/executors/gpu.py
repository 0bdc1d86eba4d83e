"""The integers on a torch device: the same execution where a GPU does the work.

Plain torch operations, the same on every device: convolutions and attention are matrix products whose every partial sum
is an integer that the floating point format holds exactly, all else is integer arithmetic.  Values between layers are
(N, T, C, Y, X) tensors of the device; values that no time step changes have T = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.executors.execution import Activity, Execution, Executor, Request, check_state, frames
from spikformer_deploy.executors.fast.plan import Plan, SumsPlan, make_plan, message_type
from spikformer_deploy.executors.fast.synapses import EXACT_FP32
from spikformer_deploy.network.bounds import shift_of
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import (
    DECAY_ONE,
    STOCK_SHIFT,
    Accumulator,
    And,
    Lif,
    LifKind,
    Max,
    Or,
    Source,
    Stream,
    Sum,
)
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Window

WINDOW_BYTES = 2**28
"""Of a convolution, what its output positions see is laid out side by side for so many bytes at once."""
AT_ONCE = 256
"""Images at once, where memory allows."""
Tensor = torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A plan with its parameters on a device.

    weights   by projection of a convolution: (groups, C_out / groups, C_in / groups * KY * KX), float but integer
    neurons   by population of Lif or Stream: threshold (C, 1, 1), empty of a Stream, and bias (C, 1, 1) or (C, Y, X)
    members   by population: 1 where a channel, row, column belongs to a cell: (C, slices), (Y, rows), (X, columns)
    """

    plan: Plan
    device: torch.device
    weights: dict[Projection, Tensor]
    neurons: dict[str, tuple[Tensor, Tensor]]
    members: dict[str, tuple[Tensor, Tensor, Tensor]]


@dataclass(slots=True)
class _State:
    """What is alive while a batch runs, and what is kept of it."""

    loaded: Loaded
    record: Sequence[str]
    sent: dict[str, Tensor] = field(default_factory=dict)
    activity: dict[str, Activity] = field(default_factory=dict)
    spikes: dict[str, NDArray[np.integer]] = field(default_factory=dict)
    membranes: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    coincidences: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    accumulators: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))


def prepare(request: Request) -> Executor:
    """The plan of the engine on the CUDA device; raises InputError where there is none."""
    loaded = load(make_plan(request.network, request.cells), cuda())
    batch = min(AT_ONCE, batch_size(loaded, torch.cuda.mem_get_info()[0]))
    return Executor(lambda images, record=(): run(loaded, images, record), batch)


def cuda() -> torch.device:
    """The CUDA device; raises InputError where there is none that torch can use."""
    if not torch.cuda.is_available():
        raise InputError(
            "--device", "torch finds no CUDA device here", "Leave it out: the CPU computes the same integers."
        )
    return torch.device("cuda")


def load(plan: Plan, device: torch.device) -> Loaded:
    """Put the parameters of a plan on a device."""
    network = plan.network
    weights = {}
    for sums in plan.sums.values():
        for projection, bound in zip(sums.projections, sums.bounds, strict=True):
            if isinstance(conv := projection.synapse, Conv):
                grouped = conv.weight.reshape(conv.groups, len(conv.weight) // conv.groups, -1)
                weights[projection] = torch.from_numpy(grouped.copy()).to(device, _exact(bound))
    neurons = {}
    for name, sums in plan.sums.items():
        neuron, kind = network[name].neuron, torch.int32 if sums.halving else torch.int64
        if isinstance(neuron, And):
            continue
        assert isinstance(neuron, (Lif, Stream))
        bias = neuron.bias if neuron.bias.ndim == 3 else neuron.bias[:, None, None]
        threshold = torch.from_numpy(sums.threshold)[:, None, None]
        neurons[name] = threshold.to(device, kind), torch.from_numpy(bias.copy()).to(device, kind)
    return Loaded(plan, device, weights, neurons, {name: _members(plan, name, device) for name in plan.grids})


def _members(plan: Plan, name: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    cells = plan.grids[name].cells
    slices = np.searchsorted(cells.channels, np.arange(cells.channels[-1]), side="right") - 1
    classes = (slices, cells.rows, cells.columns)
    channels, rows, columns = (
        F.one_hot(torch.from_numpy(which), size).to(device, torch.float32)
        for which, size in zip(classes, cells.shape, strict=True)
    )
    return channels, rows, columns


def _exact(largest_sum: int) -> torch.dtype:
    return torch.float32 if largest_sum < EXACT_FP32 else torch.float64


def batch_size(loaded: Loaded, free: int) -> int:
    """Images that fit half of so many free bytes: their messages, and the widest layer in the making."""
    widest = max((sums.row_bytes * sums.height for sums in loaded.plan.sums.values()), default=0)
    image = loaded.plan.image_bytes + 6 * widest  # sums, drive, potential, spikes, and the floats of the counting
    return max(1, (free // 2 - 2 * WINDOW_BYTES) // image)


def run(loaded: Loaded, images: NDArray[np.integer], record: Sequence[str] = ()) -> Execution:
    """Run `images`, all at once; result and errors as reference.execute.

    Raises InputError too where the device has not the memory (see batch_size).
    """
    network, state = loaded.plan.network, _State(loaded, record)
    inputs = frames(network, images)
    try:
        with torch.inference_mode(), _full_precision():
            for population in network:
                _run_population(state, population, inputs)
                for name in loaded.plan.last_read.get(population.name, ()):
                    del state.sent[name]
    except torch.OutOfMemoryError as error:
        raise InputError("--device", f"{len(images)} images at once do not fit the memory of the GPU") from error
    return Execution(
        state.accumulators, state.activity, state.spikes, state.membranes, state.coincidences, state.peak,
        f"{loaded.device.type} fp32",
    )  # fmt: skip


@contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 inside, whatever the process has set: its 11 bits would round."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _run_population(state: _State, population: Population, inputs: NDArray[np.integer]) -> None:
    neuron, membrane = population.neuron, None
    match neuron:
        case Source():
            steps = inputs if neuron.per_step else inputs[:, :1]
            kind = message_type(population)
            sent, peak = torch.from_numpy(steps.astype(kind)).to(state.loaded.device), 0
        case Lif():
            sent, membrane, peak = _lif(state, population, neuron)
        case Or() | Sum():
            total = sum(_window(state, p, population) for p in _into(state, population))
            assert isinstance(total, Tensor)
            peak = int(total.max())
            sent = total.ne(0).to(torch.uint8) if isinstance(neuron, Or) else total.int()
        case And():
            total = _sums(state, state.loaded.plan.sums[population.name], population)
            sent, peak = total.ge(neuron.inputs).to(torch.uint8), int(total.abs().max())
        case Stream(drop=drop):
            total = _sums(state, state.loaded.plan.sums[population.name], population).long()
            total += state.loaded.neurons[population.name][1]
            sent, peak = (total + (1 << drop >> 1) >> drop).int(), int(total.abs().max())
        case Max():
            sent = _largest(state, _into(state, population)[0], population)
            peak = int(sent.abs().max())
        case Accumulator():
            _accumulate(state, population, neuron, len(inputs))
            return
        case _:
            assert_never(neuron)
    check_state(state.loaded.plan.network, population, peak)
    state.peak[population.name] = peak
    state.sent[population.name] = sent
    state.activity[population.name] = _observe(state, population, sent)
    if population.name in state.record:
        full = (len(inputs), state.loaded.plan.network.time_steps, *population.shape)
        state.spikes[population.name] = sent.expand(full).cpu().numpy()
        kept = torch.zeros(full, dtype=torch.int32) if membrane is None else membrane
        state.membranes[population.name] = kept.cpu().numpy()


def _into(state: _State, population: Population) -> tuple[Projection, ...]:
    return state.loaded.plan.network.into(population.name)


def _lif(state: _State, population: Population, neuron: Lif) -> tuple[Tensor, Tensor | None, int]:
    """Spikes (N, T, C, Y, X), potentials where recorded, and the largest magnitude met."""
    plan, steps = state.loaded.plan.sums[population.name], state.loaded.plan.network.time_steps
    threshold, bias = state.loaded.neurons[population.name]
    stock = neuron.kind == LifKind.STOCK
    extra = STOCK_SHIFT if stock else 0
    totals = _sums(state, plan, population).to(threshold.dtype)
    spikes = torch.empty((len(totals), steps, *population.shape), dtype=torch.uint8, device=totals.device)
    kept = torch.empty(spikes.shape, dtype=torch.int32) if population.name in state.record else None
    v = u = torch.zeros_like(totals[:, 0])
    peak = torch.zeros((), dtype=totals.dtype, device=totals.device)
    for t in range(steps):
        arriving = totals[:, min(t, totals.shape[1] - 1)] << neuron.shift + extra
        u = arriving if not neuron.current else _decayed(u, neuron.current, stock, 0) + arriving
        drive = u + (bias << extra)
        h = _decayed(v, neuron.decay, stock, neuron.round_up) + drive
        fired = h > (threshold << extra) if stock or neuron.strict else h >= threshold
        v = torch.where(fired, h - threshold, h) if neuron.soft else h.masked_fill(fired, 0)
        spikes[:, t] = fired
        peak = torch.maximum(peak, torch.maximum(h.abs().max(), drive.abs().max()))
        if neuron.current:
            peak = torch.maximum(peak, u.abs().max())
        if kept is not None:
            kept[:, t] = v
    return spikes, kept, int(peak)


def _decayed(v: Tensor, decay: int, stock: bool, round_up: int) -> Tensor:
    if stock:
        return v.sign() * (v.abs() * decay >> 12)
    return v >> 1 if decay == DECAY_ONE // 2 and not round_up else v * decay + round_up >> 12


def _sums(state: _State, plan: SumsPlan, population: Population) -> Tensor:
    """The synaptic sums (N, T or 1, C, Y, X), integers, some held exactly in floats."""
    parts = [
        _synapses(state, projection, bound, population)
        for projection, bound in zip(plan.projections, plan.bounds, strict=True)
    ]
    shifts = [shift_of(projection) for projection in plan.projections]
    if len(parts) == 1 and not shifts[0]:
        return parts[0]
    return sum(
        (p.long() << shift for p, shift in zip(parts[1:], shifts[1:], strict=True)), parts[0].long() << shifts[0]
    )


def _synapses(state: _State, projection: Projection, bound: int, population: Population) -> Tensor:
    match projection.synapse:
        case Attention():
            return _attention(state, projection, bound)
        case Window():
            return _window(state, projection, population)
        case _:
            return _convolution(state, projection, population)


def _convolution(state: _State, projection: Projection, population: Population) -> Tensor:
    """As one product of matrices: a library's convolution may take an algorithm that rounds (Winograd, FFT)."""
    conv, sent = projection.synapse, state.sent[projection.sources[0]]
    assert isinstance(conv, Conv)
    weight = state.loaded.weights[projection]
    maps = sent.flatten(0, 1)
    channels, height, width = population.shape
    out = torch.empty((len(maps), channels, height * width), dtype=weight.dtype, device=weight.device)
    seen_bytes = weight.shape[0] * weight.shape[2] * height * width * weight.itemsize
    for start in range(0, len(maps), size := max(1, WINDOW_BYTES // seen_bytes)):
        part = maps[start : start + size].to(weight.dtype)
        kernel = (conv.weight.shape[2], conv.weight.shape[3])
        seen = F.unfold(part, kernel, padding=conv.padding, stride=conv.stride)
        grouped = seen.reshape(len(part), conv.groups, -1, height * width)
        out[start : start + size] = (weight @ grouped).reshape(len(part), channels, -1)
    return out.reshape(*sent.shape[:2], *population.shape)


def _attention(state: _State, projection: Projection, bound: int) -> Tensor:
    """weight * q (k^T v), head by head."""
    synapse = projection.synapse
    assert isinstance(synapse, Attention)
    steps = max(state.sent[s].shape[1] for s in projection.sources)
    sent = [state.sent[s].expand(-1, steps, -1, -1, -1) for s in projection.sources]
    shape = sent[0].shape
    q, k, v = (s.reshape(*shape[:2], synapse.heads, -1, shape[3] * shape[4]) for s in sent)
    pairs = k.ne(0).sum(3) * v.ne(0).sum(3)
    met = pairs.sum((0, 2, 3)).cpu().numpy()
    state.coincidences[projection.target] = np.broadcast_to(met, (state.loaded.plan.network.time_steps,))
    kind = _exact(bound)
    table = v.to(kind) @ k.to(kind).transpose(-1, -2)
    return synapse.weight * (table @ q.to(kind)).reshape(shape)


def _window(state: _State, projection: Projection, population: Population) -> Tensor:
    """The sums of one projection of unit weights, (N, T, C, Y, X) int64."""
    taps = _taps(state, projection, population, 0)
    total = torch.zeros_like(taps[0], dtype=torch.int64)
    for tap in taps:
        total += tap
    return total


def _largest(state: _State, projection: Projection, population: Population) -> Tensor:
    """The largest value of each window, (N, T, C, Y, X) int32."""
    taps = _taps(state, projection, population, torch.iinfo(torch.int32).min)
    best = taps[0].clone()
    for tap in taps[1:]:
        torch.maximum(best, tap, out=best)
    return best


def _taps(state: _State, projection: Projection, population: Population, beyond: int) -> list[Tensor]:
    """What each position of a window sees, (N, T, C, Y, X) int32, `beyond` the border a constant."""
    window, sent = projection.synapse, state.sent[projection.sources[0]].int()
    assert isinstance(window, Window)
    (pad_y, pad_x), (stride_y, stride_x), (_, height, width) = window.padding, window.stride, population.shape
    padded = F.pad(sent, (pad_x, pad_x, pad_y, pad_y), value=beyond)
    out = []
    for ky, kx in np.ndindex(*window.kernel):
        rows = slice(ky, ky + stride_y * (height - 1) + 1, stride_y)
        out.append(padded[..., rows, kx : kx + stride_x * (width - 1) + 1 : stride_x])
    return out


def _accumulate(state: _State, population: Population, neuron: Accumulator, images: int) -> None:
    network = state.loaded.plan.network
    total = np.zeros((images, network.time_steps, population.shape[0]), np.int64)
    for projection in _into(state, population):
        assert isinstance(projection.synapse, Readout)
        pooled = state.sent[projection.sources[0]].sum((3, 4), dtype=torch.int64).cpu().numpy()
        total += pooled @ projection.synapse.weight.astype(np.int64).T
    states = neuron.bias + (total if neuron.last else total.cumsum(1))
    peak = max(int(np.abs(states).max(initial=0)), int(np.abs(total).max(initial=0)))
    check_state(network, population, peak)
    state.peak[population.name] = peak
    state.accumulators = states[:, -1]
    if population.name in state.record:
        kept = states.reshape(images, -1, *population.shape).astype(np.int32)
        state.membranes[population.name], state.spikes[population.name] = kept, np.zeros_like(kept)


def _observe(state: _State, population: Population, sent: Tensor) -> Activity:
    channels, rows, columns = state.loaded.members[population.name]
    steps, fired = state.loaded.plan.network.time_steps, sent.ne(0)
    # counts stay below 2^24: exact in fp32
    in_cells = torch.einsum("ntcyq,yr->ntcrq", fired.float() @ columns, rows)
    messages = torch.einsum("ntcrq,cs->ntsrq", in_cells, channels).int().cpu().numpy()
    return Activity(
        np.broadcast_to(messages, (len(sent), steps, *messages.shape[2:])),
        state.loaded.plan.grids[population.name].cells,
        fired.flatten(0, 1).any(0).cpu().numpy(),
        np.broadcast_to(sent.sum((0, 2, 3, 4), dtype=torch.int64).cpu().numpy(), (steps,)),
    )
