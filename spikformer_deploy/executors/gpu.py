"""The integers on a torch device: the same execution where a GPU does the work.

Plain torch operations, the same on every device: convolutions and attention are matrix products whose every partial sum
is an integer that the floating point format holds exactly, all else is integer arithmetic.  Values between layers are
(N, T, C, Y, X) tensors of the device; values that no time step changes have T = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.executors.execution import Activity, Cells, Execution, Executor, Request, frames
from spikformer_deploy.executors.fast.kept import Kept
from spikformer_deploy.executors.fast.kernels import LifParameters, StreamParameters
from spikformer_deploy.executors.fast.levels import LevelsParameters
from spikformer_deploy.executors.fast.plan import Arriving, Parameters, Plan, make_plan, message_type
from spikformer_deploy.executors.fast.synapses import exact_in_fp32
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.neurons import (
    DECAY_BITS,
    Accumulator,
    And,
    Levels,
    Lif,
    Max,
    Or,
    Source,
    Stream,
    Sum,
)
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window

WINDOW_BYTES = 2**28
"""Of a convolution, what its output positions see is laid out side by side, at most this much at once."""
AT_ONCE = 256
"""Images at once, where memory allows."""
Tensor: TypeAlias = torch.Tensor


class Neurons(NamedTuple):
    """Parameters of a Lif, of Levels or of a Stream on the device, for (N, C, Y, X).

    levels     (D, C, 1, 1) the potentials from which on one more is sent: of a Lif one, of a Stream none
    taken_off  (C, 1, 1) by a soft reset, for each unit that is sent
    bias       (C, 1, 1) or (C, Y, X)
    """

    levels: Tensor
    taken_off: Tensor
    bias: Tensor


class Members(NamedTuple):
    """1 where a channel, a row, a column belongs to a cell: (C, slices), (Y, rows), (X, columns), fp32."""

    channels: Tensor
    rows: Tensor
    columns: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A plan with its parameters on a device.

    weights   by projection of a convolution: (groups, C_out / groups, C_in / groups * KY * KX), float but integer
    neurons   by population of Lif, Levels or Stream
    members   by population but the head: the cells in which its messages are counted
    """

    plan: Plan
    device: torch.device
    weights: dict[Projection, Tensor]
    neurons: dict[str, Neurons]
    members: dict[str, Members]


@dataclass(slots=True)
class _State:
    """What is alive while a batch runs, and what is kept of it."""

    loaded: Loaded
    kept: Kept
    sent: dict[str, Tensor] = field(default_factory=dict)
    activity: dict[str, Activity] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """What runs."""
        return self.loaded.plan


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
    weights = {}
    neurons = {}
    for name, sums in plan.sums.items():
        for incoming in sums.incoming:
            if isinstance(conv := incoming.projection.synapse, Conv):
                weights[incoming.projection] = _weights(conv, incoming.bound).to(device)
        if sums.parameters is not None:
            parameters = _neurons(sums.parameters, plan.network[name])
            neurons[name] = Neurons(*(p.to(device) for p in parameters))
    members = {name: _members(cells, device) for name, cells in plan.cells.items()}
    return Loaded(plan, device, weights, neurons, members)


def _weights(conv: Conv, bound: int) -> Tensor:
    """See Loaded.weights."""
    grouped = conv.weight.reshape(conv.groups, len(conv.weight) // conv.groups, -1)
    return torch.from_numpy(grouped.copy()).to(_exact(bound))


def _neurons(parameters: LifParameters | LevelsParameters | StreamParameters, population: Population) -> Neurons:
    """Parameters in the type that the plan has chosen for them, int32 or int64."""
    channels, height, width = population.shape
    if len(parameters.bias) == 1:
        bias = torch.from_numpy(parameters.bias.T.copy())[:, :, None]
    else:
        bias = torch.from_numpy(parameters.bias[parameters.bias_of].T.copy()).reshape(channels, height, width)
    match parameters:
        case StreamParameters():
            levels = taken_off = torch.empty(0)
        case LifParameters(fires_from=fires_from, threshold=threshold):
            levels, taken_off = torch.from_numpy(fires_from)[None], torch.from_numpy(threshold)
        case LevelsParameters():
            # without those that fill it up for the loops of the engine
            levels = torch.from_numpy(parameters.levels[: population.max_out])
            taken_off = torch.from_numpy(parameters.reset)
    return Neurons(levels[..., None, None], taken_off[..., None, None], bias)


def _members(cells: Cells, device: torch.device) -> Members:
    slices = np.searchsorted(cells.channels, np.arange(cells.channels[-1]), side="right") - 1
    classes = (slices, cells.rows, cells.columns)
    return Members(*(_one_hot(of, count, device) for of, count in zip(classes, cells.shape, strict=True)))


def _one_hot(classes: Int, count: int, device: torch.device) -> Tensor:
    return F.one_hot(torch.from_numpy(classes), count).to(device, torch.float32)


def _exact(bound: int) -> torch.dtype:
    """The floating point type that holds every integer below a bound."""
    return torch.float32 if exact_in_fp32(bound) else torch.float64


def batch_size(loaded: Loaded, free: int) -> int:
    """Images that fit half of `free` bytes: their messages, and the widest layer while it is computed."""
    widest = max((sums.row_bytes * sums.height for sums in loaded.plan.sums.values()), default=0)
    image = loaded.plan.image_bytes + 6 * widest  # sums, drive, potential, spikes, and the floats of the counting
    return max(1, (free // 2 - 2 * WINDOW_BYTES) // image)


def run(loaded: Loaded, images: NDArray[np.integer], record: Sequence[str] = ()) -> Execution:
    """Run `images`, all at once; result and errors as reference.execute.

    Raises InputError too where the device has not the memory (see batch_size).
    """
    network = loaded.plan.network
    state = _State(loaded, Kept(network, record))
    inputs = frames(network, images)
    try:
        with torch.inference_mode(), _full_precision():
            for population in network:
                _run_population(state, population, inputs)
                for name in loaded.plan.last_read.get(population.name, ()):
                    del state.sent[name]
    except torch.OutOfMemoryError as error:
        raise InputError("--device", f"{len(images)} images at once do not fit the memory of the GPU") from error
    kept = state.kept
    return Execution(
        accumulators=kept.accumulators,
        activity=state.activity,
        spikes=kept.spikes,
        membranes=kept.membranes,
        coincidences=kept.coincidences,
        peak_state=kept.peak,
        kernels=f"{loaded.device.type} fp32",
    )


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
    neuron = population.neuron
    membrane = idle = None
    match neuron:
        case Source():
            steps = inputs[:, : state.plan.steps[population.name]]
            sent = torch.from_numpy(steps.astype(message_type(population))).to(state.loaded.device)
            peak = 0
        case Lif() | Levels():
            sent, membrane, idle, peak = _fire(state, population)
        case Or():
            total = _windows(state, population)
            sent = total.ne(0).to(torch.uint8)
            peak = int(total.max())
        case Sum():
            total = _windows(state, population)
            sent = total.int()
            peak = int(total.max())
        case And():
            total = _sums(state, population)
            sent = total.ge(neuron.inputs).to(torch.uint8)
            peak = int(total.abs().max())
        case Stream(drop=drop):
            current = _sums(state, population).long() + state.loaded.neurons[population.name].bias
            sent = (current + (1 << drop >> 1) >> drop).int()
            peak = int(current.abs().max())
        case Max():
            (projection,) = state.plan.network.into(population.name)
            sent = _largest(state, projection, population)
            peak = int(sent.abs().max())
        case Accumulator():
            state.kept.accumulate(population, neuron, _read_out(state, population, len(inputs)))
            return
        case _:
            assert_never(neuron)
    state.activity[population.name] = _observe(state, population, sent, idle)
    _keep(state, population, sent, peak, membrane)


def _keep(state: _State, population: Population, sent: Tensor, peak: int, membrane: Tensor | None) -> None:
    """Note what a population sent: for its readers and, where asked for, as a record."""
    name = population.name
    state.kept.note_peak(population, peak)
    state.sent[name] = sent
    if name in state.kept.record:
        every_step = (len(sent), state.plan.network.time_steps, *population.shape)
        membrane = torch.zeros((1, 1, 1, 1, 1), dtype=torch.int32) if membrane is None else membrane
        state.kept.spikes[name] = sent.expand(every_step).cpu().numpy()
        state.kept.membranes[name] = membrane.expand(every_step).cpu().numpy()


def _fire(state: _State, population: Population) -> tuple[Tensor, Tensor | None, Tensor | None, int]:
    """What neurons with a potential send (N, T or 1, C, Y, X), and the largest magnitude met.

    Between these, as large: potentials where recorded, idle neurons of what `may_idle`.
    """
    lif = _as_lif(state.plan.sums[population.name].parameters)
    forgets = isinstance(population.neuron, Levels) and not lif.decay
    levels, taken_off, bias = state.loaded.neurons[population.name]
    totals = _sums(state, population).to(bias.dtype)
    shape = (len(totals), state.plan.steps[population.name], *population.shape)
    sent = torch.empty(shape, dtype=torch.uint8, device=totals.device)
    membrane = torch.empty(shape, dtype=torch.int32) if population.name in state.kept.record else None
    idle = torch.empty_like(sent) if population.name in state.plan.may_idle else None
    v = torch.zeros_like(totals[:, 0])
    u = v
    # the largest magnitude stays on the device: to read it would wait for the device in every step
    peak = torch.zeros((), dtype=totals.dtype, device=totals.device)
    for t in range(sent.shape[1]):
        u_before = u
        u = totals[:, min(t, totals.shape[1] - 1)] << lif.shift
        if lif.current:
            u = u + _decayed(u_before, lif.current, lif.toward_zero, 0)
            peak = torch.maximum(peak, u.abs().max())
        drive = u + bias
        reached = _decayed(v, lif.decay, lif.toward_zero, lif.round_up) + drive
        peak = torch.maximum(peak, torch.maximum(reached.abs().max(), drive.abs().max()))
        now = sent[:, t]
        torch.ge(reached, levels[0], out=now)
        for level in levels[1:]:
            now += reached.ge(level)
        if idle is not None:
            # without a bias the drive is what synapses and the current bring
            idle[:, t] = (v.eq(0) | forgets) & drive.eq(0) & bias.eq(0) & now.eq(0)
        v = reached - now * taken_off if lif.soft else reached.masked_fill(now.ne(0), 0)
        if membrane is not None:
            membrane[:, t] = v
    return sent, membrane, idle, int(peak)


def _as_lif(parameters: Parameters) -> LifParameters:
    """Levels are a LIF with a soft reset but for their number, which Neurons.levels has."""
    if isinstance(parameters, LevelsParameters):
        p = parameters
        return LifParameters(p.decay, 0, p.shift, False, 0, True, p.levels, p.reset, p.bias, p.bias_of)
    assert isinstance(parameters, LifParameters)
    return parameters


def _decayed(state: Tensor, decay: int, toward_zero: bool, round_up: int) -> Tensor:
    """state * decay / 2^12, rounded toward zero, down, or up."""
    if toward_zero:
        return state.sign() * (state.abs() * decay >> DECAY_BITS)
    if decay and decay & (decay - 1) == 0 and not round_up:
        # a power of two: in 32 bits the product would not fit
        return state >> DECAY_BITS + 1 - decay.bit_length()
    return state * decay + round_up >> DECAY_BITS


def _sums(state: _State, population: Population) -> Tensor:
    """The synaptic sums (N, T or 1, C, Y, X), integers, some held exactly in floats."""
    incoming = state.plan.sums[population.name].incoming
    parts = [_delivered(state, i, population) for i in incoming]
    if len(parts) == 1 and not incoming[0].shift:
        return parts[0]
    total = parts[0].long() << incoming[0].shift
    for i, part in zip(incoming[1:], parts[1:], strict=True):
        # not in place: a part of one step may come before one of all steps
        total = total + (part.long() << i.shift)
    return total


def _delivered(state: _State, incoming: Arriving, population: Population) -> Tensor:
    """What one projection delivers, before its weights are shifted."""
    projection = incoming.projection
    match projection.synapse:
        case Attention():
            return _attention(state, incoming)
        case DualSpike() as dual:
            return _dual_spike(state, incoming, dual, population)
        case Window():
            return _window(state, projection, population)
        case _:
            return _convolution(state, projection, population)


def _convolution(state: _State, projection: Projection, population: Population) -> Tensor:
    """As one product of matrices: a library's convolution may take an algorithm that rounds (Winograd, FFT)."""
    conv = projection.synapse
    assert isinstance(conv, Conv)
    sent = state.sent[projection.sources[0]]
    weight = state.loaded.weights[projection]
    maps = sent.flatten(0, 1)
    channels, height, width = population.shape
    kernel = (conv.weight.shape[2], conv.weight.shape[3])
    out = torch.empty((len(maps), channels, height * width), dtype=weight.dtype, device=weight.device)
    # every input is copied once for each window that sees it: only some maps at once keep that within bounds
    seen_bytes = weight.shape[0] * weight.shape[2] * height * width * weight.itemsize
    at_once = max(1, WINDOW_BYTES // seen_bytes)
    for start in range(0, len(maps), at_once):
        part = maps[start : start + at_once].to(weight.dtype)
        seen = F.unfold(part, kernel, padding=conv.padding, stride=conv.stride)
        grouped = seen.reshape(len(part), conv.groups, -1, height * width)
        out[start : start + at_once] = (weight @ grouped).reshape(len(part), channels, -1)
    return out.reshape(*sent.shape[:2], *population.shape)


def _attention(state: _State, incoming: Arriving) -> Tensor:
    """weight * q (k^T v), head by head."""
    projection = incoming.projection
    synapse = projection.synapse
    assert isinstance(synapse, Attention)
    steps = max(state.sent[s].shape[1] for s in projection.sources)
    sent = [state.sent[s].expand(-1, steps, -1, -1, -1) for s in projection.sources]
    # that of v, which q and k may differ from in channels
    shape = sent[2].shape
    q, k, v = (s.reshape(*shape[:2], synapse.heads, -1, shape[3] * shape[4]) for s in sent)
    pairs = k.ne(0).sum(3) * v.ne(0).sum(3)
    met = pairs.sum((0, 2, 3)).cpu().numpy()
    state.kept.coincidences[projection.target] = np.broadcast_to(met, (state.plan.network.time_steps,))
    kind = _exact(incoming.bound)
    table = v.to(kind) @ k.to(kind).transpose(-1, -2)
    return synapse.weight * (table @ q.to(kind)).reshape(shape)


def _dual_spike(state: _State, incoming: Arriving, dual: DualSpike, population: Population) -> Tensor:
    """y^T s, or y s over tokens, head by head."""
    sent = [state.sent[s] for s in incoming.projection.sources]
    steps = max(s.shape[1] for s in sent)
    kind = _exact(incoming.bound)
    y, spikes = (s.expand(-1, steps, -1, -1, -1).flatten(3).unflatten(2, (dual.heads, -1)).to(kind) for s in sent)
    product = (y if dual.over_tokens else y.transpose(-1, -2)) @ spikes
    return product.reshape(len(product), steps, *population.shape)


def _windows(state: _State, population: Population) -> Tensor:
    """The sums of all projections of a population of unit weights, (N, T or 1, C, Y, X) int64."""
    first, *others = state.plan.network.into(population.name)
    total = _window(state, first, population)
    for projection in others:
        total = total + _window(state, projection, population)
    return total


def _window(state: _State, projection: Projection, population: Population) -> Tensor:
    """The sums of one projection of unit weights, (N, T or 1, C, Y, X) int64."""
    taps = _taps(state, projection, population, 0)
    total = torch.zeros_like(taps[0], dtype=torch.int64)
    for tap in taps:
        total += tap
    return total


def _largest(state: _State, projection: Projection, population: Population) -> Tensor:
    """The largest value of each window, (N, T or 1, C, Y, X) int32."""
    taps = _taps(state, projection, population, torch.iinfo(torch.int32).min)
    best = taps[0].clone()
    for tap in taps[1:]:
        torch.maximum(best, tap, out=best)
    return best


def _taps(state: _State, projection: Projection, population: Population, beyond: int) -> list[Tensor]:
    """What each position of a window sees, views (N, T or 1, C, Y, X) int32; beyond the border there is `beyond`."""
    window = projection.synapse
    assert isinstance(window, Window)
    (pad_y, pad_x), (by_y, by_x) = window.padding, window.offset
    stride_y, stride_x = window.stride
    _, height, width = population.shape
    # as far as windows that are moved see, on all sides
    border_y, border_x = pad_y + abs(by_y), pad_x + abs(by_x)
    border = (border_x, border_x, border_y, border_y)
    padded = F.pad(state.sent[projection.sources[0]].int(), border, value=beyond)
    taps = []
    for ky, kx in np.ndindex(*window.kernel):
        top, left = ky + abs(by_y) + by_y, kx + abs(by_x) + by_x
        rows = slice(top, top + stride_y * (height - 1) + 1, stride_y)
        columns = slice(left, left + stride_x * (width - 1) + 1, stride_x)
        taps.append(padded[..., rows, columns])
    return taps


def _read_out(state: _State, population: Population, images: int) -> Int:
    """What reaches the head in every step, (N, T, classes) int64."""
    network = state.plan.network
    if population.name in state.plan.sums:
        arrived = _sums(state, population).long().flatten(2).cpu().numpy()
        return np.broadcast_to(arrived, (images, network.time_steps, population.size))
    total = np.zeros((images, network.time_steps, population.shape[0]), np.int64)
    for projection in network.into(population.name):
        readout = projection.synapse
        assert isinstance(readout, Readout)
        pooled = state.sent[projection.sources[0]].sum((3, 4), dtype=torch.int64).cpu().numpy()
        total += pooled @ readout.weight.astype(np.int64).T
    return total


def _observe(state: _State, population: Population, sent: Tensor, idle: Tensor | None) -> Activity:
    """The activity of a population from what it sent and, where potentials say it, which neurons were idle."""
    members = state.loaded.members[population.name]
    steps = state.plan.network.time_steps
    fired = sent.ne(0)
    return Activity(
        _in_cells(fired, members, steps),
        state.plan.cells[population.name],
        fired.flatten(0, 1).any(0).cpu().numpy(),
        np.broadcast_to(sent.sum((0, 2, 3, 4), dtype=torch.int64).cpu().numpy(), (steps,)),
        None if idle is None else _in_cells(idle, members, steps),
        _values(sent, members, steps) if population.name in state.plan.graded else None,
    )


def _values(sent: Tensor, members: Members, steps: int) -> NDArray[np.int32]:
    """Sums of what is sent cell by cell: as _in_cells, in fp64, which holds any sum of 32 bits."""
    wide = Members(*(member.double() for member in members))
    in_cells = torch.einsum("ntcyq,yr->ntcrq", sent.double() @ wide.columns, wide.rows)
    numbers: NDArray[np.int32] = torch.einsum("ntcrq,cs->ntsrq", in_cells, wide.channels).int().cpu().numpy()
    return np.broadcast_to(numbers, (len(numbers), steps, *numbers.shape[2:]))


def _in_cells(marked: Tensor, members: Members, steps: int) -> NDArray[np.int32]:
    """Marked neurons of all steps cell by cell, as products with memberships; below 2^24, they are exact in fp32."""
    in_cells = torch.einsum("ntcyq,yr->ntcrq", marked.float() @ members.columns, members.rows)
    numbers: NDArray[np.int32] = torch.einsum("ntcrq,cs->ntsrq", in_cells, members.channels).int().cpu().numpy()
    return np.broadcast_to(numbers, (len(numbers), steps, *numbers.shape[2:]))
