"""Kinds of neurons: what each one IS (its fields, with its equation) and what it DOES in one time step, in plain numpy.

`step` is the definition of right: every executor is compared with it for equality, and no fast path calls it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.flat import LATER

if TYPE_CHECKING:
    from spikformer_deploy.network.network import Population

DECAY_ONE = 4096
"""Decays are multiples of 1 / 4096: 12 bits on Loihi 1 and in Lava (facts of lava.proc.lif)."""


STOCK_SHIFT = 6
"""lava.proc.lif and Loihi 1 hold membrane, input and threshold in units shifted left by 6 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The input: unsigned 8-bit pixels held for all T steps (per_step False) or a frame of counts each step.

    max_value   largest value a pixel can take
    """

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
    exact      (this one is about T): the real-valued LIF with the same integer weights gives the same spikes
    """

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
class Or:
    """Stateless: fires 1 in a step in which any of its inputs is not zero (max-pooling of binary spikes)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """Stateless: sends the sum of its inputs as one graded spike (the residual stream, sum pooling)."""


@dataclass(frozen=True, slots=True, eq=False)
class And:
    """Stateless: fires 1 in a step in which the sum of its inputs reaches `inputs`, its number of binary sources."""

    inputs: int


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Stateless: sends its membrane current, real-valued in the model, as one signed graded spike.

        (a + bias) / 2^drop, rounded to the nearest integer, halves up

    The residual stream of membrane shortcuts: neurons that read it fire at thresholds in its units.
    bias  (C,) or (C, Y, X) int64; drop: 0, but where a head reads sums over many positions
    """

    bias: Int
    drop: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Max:
    """Stateless: sends the largest input of its one window, padding left out (max-pooling of currents)."""


@dataclass(frozen=True, slots=True, eq=False)
class Accumulator:
    """Does not fire: v starts at bias and adds a in every step; logits = v * scale after the last one.

    bias (C,) int64; scale (C,) float64
    last  it forgets before every step, v = bias + a: what it holds in the end is of the last step alone
    """

    bias: Int
    scale: NDArray[np.float64]
    last: bool = field(default=False, metadata={LATER: True})


Neuron: TypeAlias = Source | Lif | Or | Sum | And | Stream | Max | Accumulator


def _show_neuron(neuron: Neuron) -> str:
    if isinstance(neuron, Lif):
        groups = np.unique(neuron.threshold)
        kind = neuron.kind + " soft" * neuron.soft + " strict" * neuron.strict
        return f"Lif[{kind} decay={neuron.decay} shift={neuron.shift} thresholds={groups.tolist()[:8]}]"
    return type(neuron).__name__ + "[last]" * (isinstance(neuron, Accumulator) and neuron.last)


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
        case Lif(kind=LifKind.PROGRAMMABLE):
            drive = (total << neuron.shift) + _over_positions(neuron.bias)
            v = (old * neuron.decay + neuron.round_up >> 12) + drive
            spikes = v >= _over_positions(neuron.fires_from)
            reset = v - _over_positions(neuron.threshold) if neuron.soft else 0
            return spikes.astype(np.int64), np.where(spikes, reset, v), max(_largest(v), _largest(drive))
        case Lif(kind=LifKind.STOCK):
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


def _over_positions(parameter: Int) -> Int:
    return parameter[:, None, None] if parameter.ndim == 1 else parameter


def _largest(x: Int) -> int:
    return int(np.abs(x).max(initial=0))
