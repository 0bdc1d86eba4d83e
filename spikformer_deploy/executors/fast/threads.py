"""Threads of torch and of numba: as many of the one as of the other, and afterwards as many as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numba
import numpy as np
import torch

from spikformer_deploy.executors.fast.kernels import fire_where_any


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
