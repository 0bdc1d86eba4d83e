"""A queue of events in whole ticks, for compiled loops: digits of 6 bits, rings of 64 slots.

Events that agree with now in all but the two lowest digits have a slot for each tick: 64 rings.  Any other waits in the
ring of the highest digit in which its tick differs from now, and moves on as time comes near.  Latencies are some
hundreds of ticks, so that few events move at all.  Events of one tick come out together, in no order.

A heap would need a logarithm of comparisons for each event; here `schedule` and `advance` are a few instructions.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.compiled import part, single
from spikformer_deploy.base.vectors import highest_bit, lowest_bit

EVENT = np.dtype([("tick", np.int64), ("after", np.int64)])
"""When it happens, and the event after it in its slot; -1: it is the last one there."""

compiled: Any = partial(part, _nrt=False, forceinline=True)
"""For functions that allocate nothing: without numba's reference counts, which took a third of the time.

Calls are inlined to the last one: to hand the arrays of a state on from function to function took half of the time.
"""
entered: Any = partial(single, _nrt=False, forceinline=True)
"""The same for what Python calls."""

BITS = 6
"""Bits of a digit: the slots of a ring are then the bits of one word, and the next slot in use is its lowest bit."""
DIGITS = 10
"""Ticks stay below 2^60."""
SLOTS = 1 << BITS

NEAR = SLOTS * SLOTS
"""Ticks that the two lowest digits tell apart."""
RINGS = SLOTS + DIGITS - 2
"""Rings of the near events, then one for each higher digit: that of digit d is SLOTS + d - 2."""

# Where things stand in Wheel.words, after the first event of slot s of ring r at r * SLOTS + s
USED_SLOTS = RINGS * SLOTS
"""From here on, a word for each ring: a bit for each of its slots that holds events."""
USED_NEAR = USED_SLOTS + RINGS
"""One word: a bit for each ring of near events that has such slots."""
USED_FAR = USED_NEAR + 1
"""One word: a bit for each higher digit whose ring has such slots."""
NOW = USED_FAR + 1
"""The tick that time has come to."""


class Wheel(NamedTuple):
    """The queue.  Events are numbers 0, 1, ...; each is in the queue once at most.

    events  (events,) EVENT
    words   (NOW + 1,) see USED_SLOTS and what follows it; one array, since the loops are 4 % slower with several
    """

    events: NDArray[Any]
    words: Int


def make_wheel(events: int) -> Wheel:
    """An empty queue at tick 0."""
    words = np.zeros(NOW + 1, np.int64)
    words[:USED_SLOTS] = -1
    return Wheel(np.zeros(events, EVENT), words)


@compiled
def schedule(wheel: Wheel, event: int, tick: int) -> None:
    """Put an event into the queue, at now or later."""
    waiting = wheel.events[event]
    words = wheel.words
    different = tick ^ words[NOW]
    if different < NEAR:
        ring = (tick >> BITS) & (SLOTS - 1)
        slot = tick & (SLOTS - 1)
        words[USED_NEAR] |= 1 << ring
    else:
        digit = highest_bit(different) // BITS  # type: ignore  # numba adds the first argument
        ring = SLOTS + digit - 2
        slot = (tick >> (BITS * digit)) & (SLOTS - 1)
        words[USED_FAR] |= 1 << digit
    place = ring * SLOTS + slot
    waiting.tick = tick
    waiting.after = words[place]
    words[place] = event
    words[USED_SLOTS + ring] |= 1 << slot


@compiled
def advance(wheel: Wheel) -> int:
    """Go to the next tick that has events: the first of them, with the others after it; -1: there are none."""
    events = wheel.events
    words = wheel.words
    while not words[USED_NEAR]:
        if not words[USED_FAR]:
            return -1
        # the lowest digit in use comes first: its events agree with now in all higher digits
        digit = lowest_bit(words[USED_FAR])  # type: ignore  # numba adds the first argument
        ring = SLOTS + digit - 2
        slot = lowest_bit(words[USED_SLOTS + ring])
        event = _take(words, ring, slot)
        if not words[USED_SLOTS + ring]:
            words[USED_FAR] &= ~(1 << digit)
        # in now, higher digits stay, this one becomes the slot, and lower ones start from 0
        shift = BITS * digit
        words[NOW] = (((words[NOW] >> (shift + BITS)) << BITS) | slot) << shift
        # these differ from now in lower digits only: each moves on to its slot there
        while event >= 0:
            following = events[event].after
            schedule(wheel, event, events[event].tick)
            event = following
    ring = lowest_bit(words[USED_NEAR])  # type: ignore
    slot = lowest_bit(words[USED_SLOTS + ring])
    event = _take(words, ring, slot)
    if not words[USED_SLOTS + ring]:
        words[USED_NEAR] &= ~(1 << ring)
    words[NOW] = (words[NOW] & ~(NEAR - 1)) | (ring * SLOTS + slot)
    return event


@compiled
def _take(words: Int, ring: int, slot: int) -> int:
    """The first event of a slot, which is empty now."""
    event = words[ring * SLOTS + slot]
    words[ring * SLOTS + slot] = -1
    words[USED_SLOTS + ring] &= ~(1 << slot)
    return event
