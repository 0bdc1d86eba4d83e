"""Threads of torch and of numba: as many of the one as of the other, and afterwards as many as before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numba
import numpy as np
import torch

from spikformer_deploy.executors.fast.kernels import fire_where_any

PER_VALUE = 4e-10
"""Seconds about that a loop over neurons takes for each of them and step."""
TRIALS = 15


def _start() -> None:
    """Start numba's threads.

    That sets the threads of OpenMP, which torch works with too, to all cores: they are set back.
    """
    threads = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(threads)


_start()


@contextmanager
def as_many_as_torch() -> Iterator[int]:
    """Compiled loops run on torch's number of threads, which is the value."""
    threads = torch.get_num_threads()
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        yield threads
    finally:
        numba.set_num_threads(before)


def share_out(threads: int, values: int) -> None:
    """`threads` for the loops over so many values that follow, or one, where waking the others takes longer."""
    if threads > 1:
        pays = values * PER_VALUE * (1 - 1 / threads) > handing_over(threads)
        numba.set_num_threads(threads if pays else 1)


@cache
def handing_over(threads: int) -> float:
    """Seconds that threads take to begin a loop and to end it: 2e-6 where they wait busily, 7e-5 where they sleep.

    Measured here and now: other work on the cores makes it long, and then one thread is better.
    """
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    values = np.zeros((threads, 1, 1), np.uint8)
    peak = np.zeros(threads, np.int64)
    seconds = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        fire_where_any(values, peak)
        seconds.append(time.perf_counter() - start)
    numba.set_num_threads(before)
    return sorted(seconds)[TRIALS // 2]


@cache
def may_share() -> bool:
    """Whether several Python threads may run compiled loops at once: numba's own work queue ends the process then."""
    # numba chooses between OpenMP, TBB and its work queue when the first loop runs
    fire_where_any(np.zeros((1, 1, 1), np.uint8), np.zeros(1, np.int64))
    return numba.threading_layer() != "workqueue"


def alone() -> None:
    """This Python thread works without others: it runs images of its own, as all its neighbours do."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)
