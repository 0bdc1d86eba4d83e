"""The queue of events against a heap: near and far ticks, many events at one tick."""

import heapq
from typing import Any

import numba
import numpy as np
import pytest

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.timing.wheel import NOW, advance, make_wheel, schedule


@numba.njit
def _come_out(wheel: Any, delays: Int, ticks: Int, events: Int) -> int:
    """Events in the order in which they come out, and when; each goes in again after its next of delays[event]."""
    used = np.zeros(len(delays), np.int64)
    for event in range(len(delays)):
        schedule(wheel, event, delays[event, 0])
    count = 0
    event = advance(wheel)
    while event >= 0:
        while event >= 0:
            following = wheel.events[event].after
            ticks[count] = wheel.words[NOW]
            events[count] = event
            count += 1
            used[event] += 1
            if used[event] < delays.shape[1]:
                schedule(wheel, event, wheel.words[NOW] + delays[event, used[event]])
            event = following
        event = advance(wheel)
    return count


@pytest.mark.parametrize("bits", [3, 7, 13, 25, 50])
def test_events_come_out_when_they_are_due(bits: int) -> None:
    rng = np.random.default_rng(bits)
    # delays of all lengths up to 2^bits, 0 among them
    delays = rng.integers(0, 2 ** rng.integers(0, bits + 1, (40, 60)))
    waiting = [(int(delay), event) for event, delay in enumerate(delays[:, 0])]
    heapq.heapify(waiting)
    used = np.ones(len(delays), int)
    expected = []
    while waiting:
        tick, event = heapq.heappop(waiting)
        expected.append((tick, event))
        if used[event] < delays.shape[1]:
            heapq.heappush(waiting, (tick + int(delays[event, used[event]]), event))
            used[event] += 1
    ticks, events = np.zeros((2, delays.size), np.int64)
    assert _come_out(make_wheel(len(delays)), delays, ticks, events) == len(expected)
    assert (np.diff(ticks) >= 0).all()
    assert sorted(zip(ticks.tolist(), events.tolist(), strict=True)) == sorted(expected)
