"""A queue of events in whole ticks, for compiled loops: digits of 6 bits, a ring of 64 slots for each of them.

An event waits in the ring of the highest digit in which its tick differs from now, and moves to lower ones as time
comes near: few moves an event, all of it in the first cache.  Events of one tick come out together, in no order.

Events are numbers 0, 1, ...; each is in the queue once at most.  The queue is two arrays: events (tick, and the event
after it in its slot), and index: the first event of each slot, a bit for each slot in use, one for each digit, and now.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.vectors import _highest_bit, _lowest_bit

EVENT = np.dtype([("tick", np.int64), ("after", np.int64)])

compiled: Any = njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
"""Without numba's reference counts, which took a third of the time: for functions that allocate nothing."""

BITS, DIGITS = 6, 10
"""Ticks stay below 2^60."""
SLOTS = 1 << BITS
USED = DIGITS * SLOTS
LEVELS = USED + DIGITS
NOW = LEVELS + 1


def make_wheel(events: int) -> tuple[NDArray[Any], Int]:
    """(events, index) of an empty queue at tick 0."""
    index = np.zeros(NOW + 1, np.int64)
    index[:USED] = -1
    return np.zeros(events, EVENT), index


@compiled
def schedule(events: NDArray[Any], index: Int, event: int, tick: int) -> None:
    """Put an event into the queue, at now or later."""
    events[event].tick = tick
    different = tick ^ index[NOW]
    digit = 0
    if different >= SLOTS:
        digit = _highest_bit(different) // BITS  # type: ignore  # numba adds the first argument
    slot = (tick >> (BITS * digit)) & (SLOTS - 1)
    place = digit * SLOTS + slot
    events[event].after = index[place]
    index[place] = event
    index[USED + digit] |= 1 << slot
    index[LEVELS] |= 1 << digit


@compiled
def advance(events: NDArray[Any], index: Int) -> int:
    """Go to the next tick that has events: the first of them, with the others after it; -1: there are none."""
    while index[LEVELS]:
        digit = _lowest_bit(index[LEVELS])  # type: ignore  # numba adds the first argument
        slot = _lowest_bit(index[USED + digit])
        event = index[digit * SLOTS + slot]
        index[digit * SLOTS + slot] = -1
        index[USED + digit] &= ~(1 << slot)
        if not index[USED + digit]:
            index[LEVELS] &= ~(1 << digit)
        shift = BITS * digit
        index[NOW] = (((index[NOW] >> (shift + BITS)) << BITS) | slot) << shift
        if digit == 0:
            return event
        while event >= 0:
            following = events[event].after
            schedule(events, index, event, events[event].tick)
            event = following
    return -1
