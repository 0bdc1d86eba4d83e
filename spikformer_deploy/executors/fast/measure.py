"""The costs of convolutions on this machine, measured in less than two seconds on one thread (costs.py keeps them)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numba
import numpy as np
import torch

from spikformer_deploy.executors.fast import costs, synapses
from spikformer_deploy.executors.fast.costs import Costs
from spikformer_deploy.executors.fast.gather import event_convolution
from spikformer_deploy.executors.fast.pairs import pair_convolution, segments_of
from spikformer_deploy.executors.fast.synapses import Convolution, Maps
from spikformer_deploy.network.synapses import Conv

ROUNDS = 3
"""Of each time the shortest of so many counts, after one that does not."""
DENSE = ((192, 192, 3, 16, 2), (384, 384, 1, 8, 16))
"""(channels, outputs, kernel, side, maps) of dense convolutions: two layers of a small Spikformer."""
EVENTS = tuple((outputs, kernel, rate) for outputs in (32, 384) for kernel in (1, 3) for rate in (0.01, 0.05, 0.2))
"""(outputs, kernel, firing rate) of convolutions by events."""
EVENT_CHANNELS, EVENT_SIDE, EVENT_MAPS = 128, 16, 2


def measure() -> Costs:
    """The costs on this machine; what does not work here keeps its usual cost."""
    usual = costs.usual(synapses.int8_limit())
    with one_thread(), torch.inference_mode():
        events = _event_costs() if synapses.events_work() else usual[3:]
        return Costs(
            _dense_cost(synapses._int8_convolution) if synapses.int8_limit() else usual.int8,
            _dense_cost(_pairs) if synapses.pairs_work() else usual.pairs,
            _dense_cost(lambda conv: synapses._float_convolution(conv, torch.float32)),
            *events,
        )


def measure_once() -> None:
    """Measure, and keep what is found, where nobody has."""
    if costs.kept() is None:
        costs.keep(measure())


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch and compiled loops on this thread only."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


def _pairs(conv: Conv) -> Convolution:
    segments = segments_of(conv, 1)
    assert segments is not None
    run = pair_convolution(conv, conv.weight.shape[1], segments)

    def convolve(maps: Maps, padding: tuple[int, int]) -> Maps:
        return torch.from_numpy(run(maps.numpy(), 0, maps.shape[1]))

    return convolve


def _dense_cost(way: Callable[[Conv], Convolution]) -> float:
    """Nanoseconds of a multiply-accumulate."""
    seconds = 0.0
    multiplied = 0
    for channels, outputs, kernel, side, count in DENSE:
        conv = _convolution(channels, outputs, kernel)
        maps = _spikes(count, side, channels, 0.2)
        run = way(conv)
        seconds += _shortest(partial(run, maps, conv.padding))
        multiplied += count * side * side * conv.weight.size
    return 1e9 * seconds / multiplied


def _event_costs() -> tuple[float, ...]:
    """The four costs of events, those that explain the times of several layers best, relative to each."""
    facts, times = [], []
    for outputs, kernel, rate in EVENTS:
        conv = _convolution(EVENT_CHANNELS, outputs, kernel)
        maps = _spikes(EVENT_MAPS, EVENT_SIDE, EVENT_CHANNELS, rate)
        run = event_convolution(conv, EVENT_CHANNELS)
        assert run is not None
        nanoseconds = 1e9 * _shortest(partial(run, maps.numpy(), 0, EVENT_SIDE))
        positions = EVENT_MAPS * EVENT_SIDE**2
        rows = int(maps.sum()) * kernel**2
        facts.append(np.array([positions, positions * kernel**2, rows, rows * outputs]) / nanoseconds)
        times.append(1.0)
    return tuple(_not_negative(np.array(facts), np.array(times)))


def _not_negative(facts: np.ndarray, times: np.ndarray) -> list[float]:
    """The least squares of facts @ costs = times, without those that would be negative: they cost nothing."""
    costing = np.ones(facts.shape[1], bool)
    found = np.zeros(facts.shape[1])
    while costing.any():
        found[:] = 0
        found[costing] = np.linalg.lstsq(facts[:, costing], times, rcond=None)[0]
        if (found >= 0).all():
            break
        costing &= found > 0
    return found.tolist()


def _convolution(channels: int, outputs: int, kernel: int) -> Conv:
    """Of trained weights' spread: most are far from the largest."""
    weight = np.random.default_rng(0).normal(0, 35, (outputs, channels, kernel, kernel)).round().clip(-127, 127)
    return Conv(weight.astype(np.int8), (1, 1), (kernel // 2, kernel // 2))


def _spikes(count: int, side: int, channels: int, rate: float) -> Maps:
    return torch.from_numpy((np.random.default_rng(1).random((count, side, side, channels)) < rate).astype(np.uint8))


def _shortest(run: Callable[[], object]) -> float:
    """Seconds."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
