"""The decay of a membrane in integers: when it rounds, and whether a neuron is an exact execution of the real one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.network.neurons import DECAY_BITS, DECAY_ONE, HALF_UP, Levels, Lif, LifKind


@dataclass(frozen=True, slots=True, eq=False)
class Decay:
    """decay / 4096 and the fractional bits a state needs per step for an exact execution (None: never exact)."""

    numerator: int
    bits_per_step: int | None
    floors_exactly: bool


def decay_of(tau: float) -> Decay:
    """The decay 1 - 1 / tau, as near as 12 bits come to it."""
    return decay_keeping(1 - 1 / tau)


def decay_keeping(share: float) -> Decay:
    """The decay that leaves `share` of a potential, as near as 12 bits come to it."""
    exact = share * DECAY_ONE
    numerator = round(exact)
    return decay_by(numerator) if numerator == exact else Decay(numerator, None, False)


def decay_by(numerator: int) -> Decay:
    """The decay numerator / 4096, which is what is meant."""
    if numerator == 0:
        return Decay(0, 0, True)
    zeros = (numerator & -numerator).bit_length() - 1
    return Decay(numerator, DECAY_BITS - zeros, numerator >> zeros == 1)


def fractional_bits(decay: Decay, kind: LifKind, time_steps: int) -> int | None:
    """Fractional bits that drive and state need so that no step rounds the potential; None: no number is enough.

    Programmable neurons round whole numbers away without changing a spike where the decay halves: they need none.
    """
    if time_steps == 1 or (kind == LifKind.PROGRAMMABLE and decay.floors_exactly):
        return 0
    return None if decay.bits_per_step is None else (time_steps - 1) * decay.bits_per_step


def rounds_nothing(needed: int | None, shift: int, bias: Int) -> bool:
    """Whether inputs with `shift` fractional bits leave the bits that the decays of all steps need.

    A bias has bits of its own below those of the sums: it decays without rounding where those are zero.
    """
    return needed is not None and shift >= needed and not np.any(bias % 2**needed)


def levels_bits(decay: Decay, rounding: str, time_steps: int) -> int | None:
    """Fractional bits that Levels need so that no step changes what they send; None: no number is enough.

    A potential reaches a whole level where its floor does, and floors of halves, quarters, ... add up to the floor of
    the whole (Graham, Knuth and Patashnik, eq. 3.11): what is taken off is whole.  At ties that round down, to the even
    neighbour, a potential must exceed its level, and keeps every bit.
    """
    if time_steps == 1 or decay.bits_per_step == 0 or (decay.floors_exactly and rounding == HALF_UP):
        return 0
    return None if decay.bits_per_step is None else (time_steps - 1) * decay.bits_per_step


def is_exact(neuron: Levels | Lif, time_steps: int) -> bool:
    """Whether no step rounds the potential of a neuron whose decay is what is meant."""
    if isinstance(neuron, Levels):
        needed = levels_bits(decay_by(neuron.decay), neuron.rounding, time_steps)
        kept = rounds_nothing(needed, neuron.shift, neuron.bias)
        return kept and not (needed and np.any(neuron.reset % 2**needed))
    lif = neuron
    return rounds_nothing(fractional_bits(decay_by(lif.decay), lif.kind, time_steps), lif.shift, lif.bias)
