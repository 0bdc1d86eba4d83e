"""Kinds of neurons: what each one IS (its fields and its equation) and DOES in one time step.

`step` is the definition of right, in plain numpy: every executor is compared with it for equality, and no fast path
calls it.  neuron_law.py has the law of each kind, bounds.py its worst case.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.flat import LATER

DECAY_BITS = 12
DECAY_ONE = 2**DECAY_BITS
"""Decays are multiples of 1 / 4096: 12 bits on Loihi 1 and in Lava (facts of lava.proc.lif)."""


STOCK_SHIFT = 6
"""lava.proc.lif and Loihi 1 hold membrane, input and threshold in units shifted left by 6 bits."""


# Each kind says of itself
#     keeps_state     whether a population of it has a range of states (Population.bounds); else that is (0, 0)
#     sends_negative  whether it can send negative values
#     fires           whether it has a potential and fires: its spikes and potentials are recorded and compared
#     sends_spikes    whether what it sends is a number of spikes, 1 or more; None: where all that it reads is
#     idle_if_silent  whether a neuron that sends nothing in a time step had nothing to do in it: see `idle`


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The input: unsigned pixels held for all T steps (per_step False) or a frame of counts each step.

    max_value   largest value a pixel can take
    """

    keeps_state: ClassVar[bool] = False
    sends_negative: ClassVar[bool] = False
    sends_spikes: ClassVar[bool | None] = False
    fires: ClassVar[bool] = False
    idle_if_silent: ClassVar[bool] = False

    max_value: int = 255
    per_step: bool = False


class LifKind(str, Enum):
    """Which neurons of a chip run a LIF."""

    PROGRAMMABLE = "programmable"
    """Loihi 2: its own microcode, with the rounding and the reset that the model needs."""
    STOCK = "stock"
    """Loihi 1 and lava.proc.lif: CUBA, a neuron of fixed function with a synaptic current of its own."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True, eq=False)
class Lif:
    """Integer leaky integrate-and-fire neuron, a = sum of all synapses at step t.

    Stock neurons have a synaptic current u that no spike resets; programmable neurons have none.
    A spike resets v to 0; of a programmable neuron with `soft` reset it takes the threshold off: v = v - threshold.

    programmable (Loihi 2 microcode):
        v = floor(v * decay / 4096) + (a << shift) + bias ;  s = v >= threshold ;  v = 0 where s
        strict: v = ceil(v * decay / 4096) + (a << shift) + bias ;  s = v > threshold ;  v = 0 where s
    stock (Loihi 1, lava.proc.lif, toward-zero decay, everything << 6):
        u = sign(u) * (|u| * current >> 12) + ((a << shift) << 6)
        v = sign(v) * (|v| * decay >> 12) + u + (bias << 6) ;  s = v > (threshold << 6) ;  v = 0 where s

    decay      numerator of decay / 4096 (2048 for tau = 2)
    shift      fractional bits of the input (B of programmable neurons, E of stock ones)
    threshold  (C,) int64; the scale groups are the sets of channels that share a threshold
    bias       (C,) or (C, Y, X) int64 (a map where zero padding in normalised space needs one)
    current    numerator of the current's decay / 4096; 0: forgotten every step, as in all Spikformers
    strict     of a programmable neuron: it fires above its threshold and not at it.  Rounding up keeps that exact:
               a potential is above a whole number exactly where its ceiling is (stock neurons always compare so)
    exact      no time step rounds the potential: the real-valued LIF with the same integer weights gives the same
               spikes in all T steps
    """

    keeps_state: ClassVar[bool] = True
    sends_negative: ClassVar[bool] = False
    sends_spikes: ClassVar[bool | None] = True
    fires: ClassVar[bool] = True
    idle_if_silent: ClassVar[bool] = False

    kind: LifKind
    decay: int
    shift: int
    threshold: Int
    bias: Int
    exact: bool = True
    current: int = 0
    soft: bool = False
    strict: bool = field(default=False, metadata={LATER: True})

    @property
    def round_up(self) -> int:
        """What is added to v * decay before the division by 4096: nothing to floor, 4095 to round up."""
        return DECAY_ONE - 1 if self.strict else 0

    @property
    def fires_from(self) -> Int:
        """(C,) the smallest potential at which a programmable neuron fires."""
        return self.threshold + 1 if self.strict else self.threshold


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Neuron of a programmable chip that sends a small integer 0..D: how many of its D levels the potential reaches.

        u = floor(v * decay / 4096) + (a << shift) + bias ;  s = #{j : u >= levels[c, j]} ;  v = u - s * reset

    a is the sum of all synapses at step t.  The one message of a neuron carries s; one of 0 is not sent.

    decay   numerator of decay / 4096; 0: nothing is kept from step to step
    shift   fractional bits of the input
    levels  (C, D) int64, ascending.  Of a neuron that keeps nothing, batch normalisation and bias are in them
    reset   (C,) int64, what each unit that is sent takes off the potential; 0 of neurons that keep nothing
    bias    (C,) or (C, Y, X) int64
    exact   no time step rounds the potential: the real-valued neuron with the same integer weights sends the same
    rounding "half-up" or "half-even": how the model rounds u / theta to a whole number.  `levels` obey it already
    Source: Luo et al. 2024 (I-LIF, SpikeYOLO), arXiv 2407.20708; Umuroglu et al. 2017 (FINN), multi-thresholds.
    """

    keeps_state: ClassVar[bool] = True
    sends_negative: ClassVar[bool] = False
    sends_spikes: ClassVar[bool | None] = True
    fires: ClassVar[bool] = True
    idle_if_silent: ClassVar[bool] = False

    decay: int
    shift: int
    levels: Int
    reset: Int
    bias: Int
    rounding: str
    exact: bool = True

    @property
    def count(self) -> int:
        """D, the largest integer that it sends."""
        return int(self.levels.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class Or:
    """Stateless: fires 1 in a step in which any of its inputs is not zero (max-pooling of binary spikes)."""

    keeps_state: ClassVar[bool] = False
    sends_negative: ClassVar[bool] = False
    sends_spikes: ClassVar[bool | None] = True
    fires: ClassVar[bool] = False
    idle_if_silent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """Stateless: sends the sum of its inputs as one graded spike (the residual stream, sum pooling)."""

    keeps_state: ClassVar[bool] = False
    sends_negative: ClassVar[bool] = False
    sends_spikes: ClassVar[bool | None] = None
    fires: ClassVar[bool] = False
    idle_if_silent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False)
class And:
    """Stateless: fires 1 in a step in which the sum of its inputs reaches `inputs`, its number of binary sources."""

    keeps_state: ClassVar[bool] = False
    sends_negative: ClassVar[bool] = False
    sends_spikes: ClassVar[bool | None] = True
    fires: ClassVar[bool] = False
    idle_if_silent: ClassVar[bool] = True

    inputs: int


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Keeps nothing from step to step: sends its membrane current, real in the model, as one signed graded spike.

        (a + bias) / 2^drop, rounded to the nearest integer, halves up

    The residual stream of membrane shortcuts: neurons that read it fire at thresholds in its units.
    bias  (C,) or (C, Y, X) int64; drop: 0, but where a head reads sums over many positions
    """

    keeps_state: ClassVar[bool] = True
    sends_negative: ClassVar[bool] = True
    sends_spikes: ClassVar[bool | None] = False
    fires: ClassVar[bool] = False
    idle_if_silent: ClassVar[bool] = True

    bias: Int
    drop: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Max:
    """Stateless: sends the largest input of its one window, padding left out (max-pooling of currents, of integers)."""

    keeps_state: ClassVar[bool] = False
    sends_negative: ClassVar[bool] = True
    sends_spikes: ClassVar[bool | None] = None
    fires: ClassVar[bool] = False
    idle_if_silent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False)
class Accumulator:
    """Does not fire: v starts at bias and adds a in every step; logits = v * scale after the last one.

    A Readout adds up all positions into (C, 1, 1), one accumulator a class; convolutions reach a map (C, Y, X), a head
    at each position, whose logits are flattened in that order.
    bias (C,) int64; scale (C,) float64
    last  it forgets before every step, v = bias + a: what it holds in the end is of the last step only
    """

    keeps_state: ClassVar[bool] = True
    sends_negative: ClassVar[bool] = False
    sends_spikes: ClassVar[bool | None] = False
    fires: ClassVar[bool] = False
    idle_if_silent: ClassVar[bool] = False

    bias: Int
    scale: NDArray[np.float64]
    last: bool = field(default=False, metadata={LATER: True})


HALF_UP = "half-up"
HALF_EVEN = "half-even"
ROUNDINGS = (HALF_UP, HALF_EVEN)
"""How a model rounds x to whole numbers: floor(x + 1/2), or to the even neighbour at ties (torch.round)."""

MOST_LEVELS = 127
"""Levels that a neuron has at most: what it sends is a weight's worth of bits."""

Neuron: TypeAlias = Source | Lif | Levels | Or | Sum | And | Stream | Max | Accumulator


def needs_microcode(neuron: Neuron) -> bool:
    """Whether a potential goes by a rule of its own, which only programmable neurons have."""
    return isinstance(neuron, Levels) or (isinstance(neuron, Lif) and neuron.kind == LifKind.PROGRAMMABLE)


def kind_of(neuron: Neuron) -> str:
    """The kind of a neuron as a word of reports: "lif", "stream"."""
    return type(neuron).__name__.lower()


def shown(neuron: Neuron) -> str:
    """A neuron in one line, for a person to read and diff."""
    if isinstance(neuron, Lif):
        groups = np.unique(neuron.threshold)
        kind = neuron.kind + " soft" * neuron.soft + " strict" * neuron.strict
        return f"Lif[{kind} decay={neuron.decay} shift={neuron.shift} thresholds={groups.tolist()[:8]}]"
    if isinstance(neuron, Levels):
        first = neuron.levels[0].tolist()
        return f"Levels[{neuron.count} {neuron.rounding} decay={neuron.decay} shift={neuron.shift} first={first[:8]}]"
    return type(neuron).__name__ + "[last]" * (isinstance(neuron, Accumulator) and neuron.last)


# --- what each kind does ------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What a time step of a population ends with.

    sent     (N, C, Y, X) int64
    state    as it was given; kept for the next step
    largest  magnitude of anything that must fit the bits of the state
    """

    sent: Int
    state: Int
    largest: int


def step(neuron: Neuron, total: Int, state: Int | None, frame: Int | None = None) -> Step:
    """One time step of a population of `neuron`s.

    total  (N, C, Y, X) int64 sum of all its synapses in this step
    state  what the step before ended with, None in the first: of the shape of `total`, or (2, N, C, Y, X), potential
           and current, of neurons whose current decays
    frame  what a Source sends in this step
    """
    before = np.zeros_like(total) if state is None else state
    match neuron:
        case Source():
            assert frame is not None
            return Step(frame, before, 0)
        case Or():
            return Step((total != 0).astype(np.int64), before, _largest(total))
        case Sum() | Max():
            return Step(total, before, _largest(total))
        case And(inputs=inputs):
            return Step((total >= inputs).astype(np.int64), before, _largest(total))
        case Stream(bias=bias, drop=drop):
            current = total + _over_positions(bias)
            half = 1 << drop >> 1
            return Step(current + half >> drop, before, _largest(current))
        case Accumulator(bias=bias, last=last):
            start = bias[:, None, None] if state is None or last else state
            after = start + total
            # what one step adds is held against the bits, too: a chip adds it up before it reaches the accumulator
            return Step(np.zeros_like(total), after, max(_largest(after), _largest(total)))
        case Lif(kind=LifKind.PROGRAMMABLE):
            return _step_programmable(neuron, total, before)
        case Lif(kind=LifKind.STOCK):
            return _step_stock(neuron, total, state)
        case Lif():
            raise ValueError(f"unknown kind of LIF: {neuron.kind}")
        case Levels():
            return _step_levels(neuron, total, before)
        case _:
            assert_never(neuron)


def _step_programmable(lif: Lif, total: Int, before: Int) -> Step:
    drive = (total << lif.shift) + _over_positions(lif.bias)
    potential = (before * lif.decay + lif.round_up >> DECAY_BITS) + drive
    spikes = potential >= _over_positions(lif.fires_from)
    reset = potential - _over_positions(lif.threshold) if lif.soft else 0
    after = np.where(spikes, reset, potential)
    return Step(spikes.astype(np.int64), after, max(_largest(potential), _largest(drive)))


def _step_levels(neuron: Levels, total: Int, before: Int) -> Step:
    drive = (total << neuron.shift) + _over_positions(neuron.bias)
    potential = (before * neuron.decay >> DECAY_BITS) + drive
    sent = np.zeros_like(potential)
    for level in neuron.levels.T:
        sent += potential >= level[:, None, None]
    after = potential - sent * neuron.reset[:, None, None]
    return Step(sent, after, max(_largest(potential), _largest(drive)))


def _step_stock(lif: Lif, total: Int, state: Int | None) -> Step:
    if state is None:
        potential = current = np.zeros_like(total)
    elif lif.current:
        potential, current = state
    else:  # a current that is forgotten in every step is not kept
        potential, current = state, np.zeros_like(total)
    current = _toward_zero(current, lif.current) + (total << (lif.shift + STOCK_SHIFT))
    drive = current + (_over_positions(lif.bias) << STOCK_SHIFT)
    potential = _toward_zero(potential, lif.decay) + drive
    spikes = potential > (_over_positions(lif.threshold) << STOCK_SHIFT)
    after = np.where(spikes, 0, potential)
    largest = max(_largest(potential), _largest(drive))
    if lif.current:
        return Step(spikes.astype(np.int64), np.stack([after, current]), max(largest, _largest(current)))
    return Step(spikes.astype(np.int64), after, largest)


def potential_of(neuron: Neuron, state: Int) -> Int:
    """The potential in a state, without the current that some neurons have beside it."""
    return state[0] if isinstance(neuron, Lif) and neuron.current else state


def largest_recorded(neuron: Neuron, sent: Int | None, potentials: Int | None) -> int:
    """Largest magnitude of the states of a population, as far as what it sent and its potentials show them."""
    if isinstance(neuron, Stream):
        return 0 if sent is None else _largest(sent) << neuron.drop
    if isinstance(neuron, (Sum, Max)):
        return 0 if sent is None else _largest(sent)
    return 0 if potentials is None else _largest(potentials)


def may_idle(neuron: Neuron) -> bool:
    """Whether potentials decide which of its neurons are idle: a LIF or Levels of which any neuron has no bias."""
    return isinstance(neuron, (Lif, Levels)) and not neuron.bias.all()


def idle(neuron: Neuron, sent: NDArray[Any], potentials: NDArray[Any] | None) -> NDArray[np.bool_] | None:
    """Which neurons have nothing to do in which time step, (..., T, C, Y, X); None where every one is updated in each.

    sent        (..., T, C, Y, X) what they send
    potentials  of the same shape, after the reset; needed where `may_idle`

    A chip visits an idle neuron, and updates all others.
    Or, Sum, And, Max, Stream   those that send nothing: nothing sent is taken for nothing done
    Source, Accumulator         none: pixels are held by neurons that are updated in every step, and so are sums
    Lif, Levels                 those whose potential before, current and bias are 0, and that do not fire

    Potentials show that of a Lif and, but for a potential before that is not kept, of Levels.
    Every decay leaves 0 at 0: floor(0) = 0, ceil(0) = 0 (4095 >> 12), and so does the
    one toward zero.  From v[t-1] = 0 a neuron without a bias therefore reaches just what its synapses and its current
    add.  Where it does not fire there is no reset, and v[t] is that: v[t-1] = v[t] = 0 without a spike is idle.  A
    spike is work even where nothing arrived, as of programmable neurons whose threshold is 0: they fire at it.
    """
    if neuron.idle_if_silent:
        return sent == 0
    if not (isinstance(neuron, (Lif, Levels)) and may_idle(neuron)):
        return None
    assert potentials is not None
    empty = potentials == 0
    empty_before = np.ones_like(empty)
    if isinstance(neuron, Lif) or neuron.decay:
        empty_before[..., 1:, :, :, :] = empty[..., :-1, :, :, :]
    return empty_before & empty & (sent == 0) & (_over_positions(neuron.bias) == 0)


def _toward_zero(state: Int, decay: int) -> Int:
    """state * decay / 4096, rounded toward zero, as lava.proc.lif does it."""
    return np.sign(state) * (np.abs(state) * decay >> DECAY_BITS)


def _over_positions(parameter: Int) -> Int:
    """A parameter (C,) or (C, Y, X) that broadcasts to (N, C, Y, X)."""
    return parameter[:, None, None] if parameter.ndim == 1 else parameter


def _largest(values: Int) -> int:
    return int(np.abs(values).max(initial=0))


def most_of_state(neuron: Neuron, drive: int, time_steps: int) -> int:
    """A bound of every state in a run whose steps add up to `drive` each: what must not wrap before it is looked at."""
    match neuron:
        case Lif():
            shift = lif_shift(neuron)
            piled_up = (drive << shift) * time_steps
            return piled_up * time_steps if neuron.current else piled_up
        case Levels(shift=shift, decay=decay, levels=levels, reset=reset):
            # a reset takes off no more than the potential or, where levels lie low, as much as it is
            taken_off = (_largest(levels) + levels.shape[1] * _largest(reset)) if decay else 0
            return ((drive << shift) + taken_off) * (time_steps if decay else 1)
        case Accumulator(last=False):
            return drive * time_steps
        case _:
            return drive


def lif_shift(lif: Lif) -> int:
    """Fractional bits of the input of a LIF in units of its state."""
    return lif.shift + (STOCK_SHIFT if lif.kind == LifKind.STOCK else 0)


def most_current(neuron: Neuron, max_out: int) -> int | None:
    """The largest current that a Stream may hold: the sums of its readers are exact up to there.  None of others."""
    return max_out << neuron.drop if isinstance(neuron, Stream) else None
