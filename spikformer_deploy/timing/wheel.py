"""A queue of events in whole ticks, for compiled loops: digits of 6 bits, a ring of 64 slots for each of them.

An event waits in the ring of the highest digit in which its tick differs from now, and moves to lower ones as time
comes near: few moves an event, all of it in the first cache.  Events of one tick come out together, in no order.

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

# Where things stand in Wheel.words, after the first event of slot s of digit d at d * SLOTS + s
USED_SLOTS = DIGITS * SLOTS
"""From here on, a word for each digit: a bit for each of its slots that holds events."""
USED_DIGITS = USED_SLOTS + DIGITS
"""One word: a bit for each digit that has such slots."""
NOW = USED_DIGITS + 1
"""The tick that time has come to."""


class Wheel(NamedTuple):
    """The queue.  Events are numbers 0, 1, ...; each is in the queue once at most.

    events  (events,) EVENT
    words   (NOW + 1,) see USED_SLOTS, USED_DIGITS and NOW; one array, since the loops are 4 % slower with four
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
    digit = 0
    # most events are near; and 0 has no highest bit
    if different >= SLOTS:
        digit = highest_bit(different) // BITS  # type: ignore  # numba adds the first argument
    slot = (tick >> (BITS * digit)) & (SLOTS - 1)
    place = digit * SLOTS + slot
    waiting.tick = tick
    waiting.after = words[place]
    words[place] = event
    words[USED_SLOTS + digit] |= 1 << slot
    words[USED_DIGITS] |= 1 << digit


@compiled
def advance(wheel: Wheel) -> int:
    """Go to the next tick that has events: the first of them, with the others after it; -1: there are none."""
    events = wheel.events
    words = wheel.words
    while words[USED_DIGITS]:
        # the lowest digit in use comes first: its events agree with now in all higher digits
        digit = lowest_bit(words[USED_DIGITS])  # type: ignore  # numba adds the first argument
        slot = lowest_bit(words[USED_SLOTS + digit])
        event = words[digit * SLOTS + slot]
        words[digit * SLOTS + slot] = -1
        words[USED_SLOTS + digit] &= ~(1 << slot)
        if not words[USED_SLOTS + digit]:
            words[USED_DIGITS] &= ~(1 << digit)
        # in now, higher digits stay, this one becomes the slot, and lower ones start from 0
        shift = BITS * digit
        words[NOW] = (((words[NOW] >> (shift + BITS)) << BITS) | slot) << shift
        if digit == 0:
            return event
        # these differ from now in lower digits only: each moves on to its slot there
        while event >= 0:
            following = events[event].after
            schedule(wheel, event, events[event].tick)
            event = following
    return -1
