"""The integer network: populations of neurons with integer state, and projections of integer synapses between them.

This file says what a network IS; reference/engine.py says, bit for bit, what it does.
All values on wires are integers (C, Y, X) per image and time step: pixels, spikes (0 or 1), graded spikes; residual
streams of membrane currents (Stream, Max) alone send negative ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.flat import LATER
from spikformer_deploy.values import digest

Shape: TypeAlias = tuple[int, int, int]
Pair: TypeAlias = tuple[int, int]
Int: TypeAlias = NDArray[np.int64]

DECAY_ONE = 4096
"""Decays are multiples of 1 / 4096: 12 bits on Loihi 1 and in Lava (facts of lava.proc.lif)."""
ROUNDING_UNKNOWN = -1.0
STOCK_SHIFT = 6
"""lava.proc.lif and Loihi 1 hold membrane, input and threshold in units shifted left by 6 bits."""


# --- neurons ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The input: unsigned 8-bit pixels held for all T steps (per_step False) or a frame of counts each step.

    max_value   largest value a pixel can take
    """

    max_value: int = 255
    per_step: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Lif:
    """Integer leaky integrate-and-fire neuron, a = sum of all synapses at step t.

    "stock" is CUBA, with a synaptic current u that no spike resets; programmable neurons have none.
    A spike resets v to 0; of a programmable neuron with `soft` reset it takes the threshold off: v = v - threshold.

    kind "programmable" (Loihi 2 microcode):
        v = floor(v * decay / 4096) + (a << shift) + bias ;  s = v >= threshold ;  v = 0 where s
        strict: v = ceil(v * decay / 4096) + (a << shift) + bias ;  s = v > threshold ;  v = 0 where s
    kind "stock" (Loihi 1, lava.proc.lif, toward-zero decay, everything << 6):
        u = sign(u) * (|u| * current >> 12) + ((a << shift) << 6)
        v = sign(v) * (|v| * decay >> 12) + u + (bias << 6) ;  s = v > (threshold << 6) ;  v = 0 where s

    decay      numerator of decay / 4096 (2048 for tau = 2)
    shift      fractional bits of the input (B for "programmable", E for "stock")
    threshold  (C,) int64; the scale groups are the sets of channels that share a threshold
    bias       (C,) or (C, Y, X) int64 (a map where zero padding in normalised space needs one)
    current    numerator of the current's decay / 4096; 0: forgotten every step, as in all Spikformers
    strict     of a programmable neuron: it fires above its threshold and not at it.  Rounding up keeps that exact:
               a potential is above a whole number exactly where its ceiling is (stock neurons always compare so)
    exact      (this one is about T): the real-valued LIF with the same integer weights gives the same spikes
    """

    kind: str
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


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """A layer of neurons (C, Y, X).

    max_out   largest magnitude a neuron can send in one step (1 for spikes, 0 for an Accumulator)
    bounds    (low, high) of the state in any run, proven or observed (see Network.bounds)
    rounding  largest relative error that rounding left: of a weight (against the largest of its channel), of a bias or
              threshold (against the threshold; a bias of what has none: against the largest weight); 0: none;
              ROUNDING_UNKNOWN in programs that were written before
    """

    name: str
    shape: Shape
    neuron: Neuron
    max_out: int
    bounds: tuple[int, int] = (0, 0)
    rounding: float = field(default=ROUNDING_UNKNOWN, metadata={LATER: True})

    @property
    def size(self) -> int:
        """Number of neurons."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def signed(self) -> bool:
        """Whether its neurons may send negative values."""
        return isinstance(self.neuron, (Stream, Max))


# --- synapses --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Conv:
    """Shared integer weights, cross-correlation with zero padding; a Linear over tokens is the 1x1 case.

    weight (C_out, C_in / groups, KY, KX) int8 or int16; a synapse has the weight `weight` * 2^shift
    """

    weight: NDArray[np.integer]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1
    shift: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Unit weights from a window of positions of the same channel; kernel = stride = (1, 1) is the identity."""

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """Every position of channel c reaches target o with weight[o, c]: (C, Y, X) -> (O, 1, 1).  weight (O, C)."""

    weight: NDArray[np.integer]


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """Spiking self-attention from (q, k, v), all of the target's shape: weight * sum_m (sum_c q k) v per head."""

    heads: int
    weight: int = 1


Synapse: TypeAlias = Conv | Window | Readout | Attention


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """Synapses from `sources` (one population; q, k, v for Attention) to `target`."""

    sources: tuple[str, ...]
    target: str
    synapse: Synapse


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Populations in topological order (the Source first, the Accumulator last) and the projections between them.

    bounds      "static": every state and sum is proven to fit state_bits; "observed": only the calibrated range is,
                with `margin` (bits of state range over the largest value seen), and every run checks
    mean, std   (C,) float64 normalisation folded into the first weights: real input = (pixel / max_value - mean) / std
    """

    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    time_steps: int
    state_bits: int
    weight_bits: int
    bounds: str
    margin: float
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    _by_name: dict[str, Population] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {p.name: p for p in self.populations})

    def __getitem__(self, name: str) -> Population:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Population]:
        return iter(self.populations)

    def into(self, name: str) -> tuple[Projection, ...]:
        """The projections that reach population `name`."""
        return tuple(p for p in self.projections if p.target == name)

    def out_of(self, name: str) -> tuple[Projection, ...]:
        """The projections that start (also) at population `name`."""
        return tuple(p for p in self.projections if name in p.sources)

    @property
    def input(self) -> Population:
        """The population of kind Source."""
        return self.populations[0]

    @property
    def output(self) -> Population:
        """The population of kind Accumulator."""
        return self.populations[-1]

    @property
    def exact(self) -> bool:
        """Whether every LIF is an exact execution of the real-valued one with the same integer weights."""
        return all(p.neuron.exact for p in self.populations if isinstance(p.neuron, Lif))

    @property
    def rounding(self) -> float | None:
        """The largest relative error that the rounding of weights, biases and thresholds left; None: not recorded."""
        rounded = [p.rounding for p in self.populations if isinstance(p.neuron, (Lif, Stream, Accumulator))]
        return None if ROUNDING_UNKNOWN in rounded else max(rounded)

    def digest(self) -> str:
        """sha256 over the content."""
        return digest([self.populations, self.projections, self.time_steps, self.state_bits, self.mean, self.std])

    def dump(self) -> str:
        """The network as text, for a person to read and diff."""
        lines = [f"network T={self.time_steps} state_bits={self.state_bits} bounds={self.bounds} exact={self.exact}"]
        for population in self.populations:
            shape = "x".join(map(str, population.shape))
            low, high = population.bounds
            lines.append(f"  {population.name}: {shape} {_show_neuron(population.neuron)} state [{low}, {high}]")
            for projection in self.into(population.name):
                lines.append(f"    <- {_show_synapse(projection.synapse)} {', '.join(projection.sources)}")
        return "\n".join(lines) + "\n"


def _show_neuron(neuron: Neuron) -> str:
    if isinstance(neuron, Lif):
        groups = np.unique(neuron.threshold)
        kind = neuron.kind + " soft" * neuron.soft + " strict" * neuron.strict
        return f"Lif[{kind} decay={neuron.decay} shift={neuron.shift} thresholds={groups.tolist()[:8]}]"
    return type(neuron).__name__ + "[last]" * (isinstance(neuron, Accumulator) and neuron.last)


def _show_synapse(synapse: Synapse) -> str:
    match synapse:
        case Conv(weight=weight):
            return f"Conv {'x'.join(map(str, weight.shape))} {digest(weight)[:8]}"
        case Readout(weight=weight):
            return f"Readout {'x'.join(map(str, weight.shape))} {digest(weight)[:8]}"
        case Window(kernel=kernel):
            return f"Window {kernel[0]}x{kernel[1]}"
        case Attention(heads=heads, weight=weight):
            return f"Attention heads={heads} weight={weight}"
