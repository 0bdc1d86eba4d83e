"""Random small chips and traffic for tests of timing."""

from __future__ import annotations

import numpy as np

from spikformer_deploy.timing.machine import Hops, Machine, mesh_of
from spikformer_deploy.timing.wave import Routes, Wave


def random_machine(rng: np.random.Generator) -> Machine:
    """Up to 3 x 3 routers, one chip or several, short queues, any latencies."""
    width, height = rng.integers(1, 4, 2)
    cores = int(rng.integers(1, 9))
    x, y = rng.integers(0, width, cores), rng.integers(0, height, cores)
    chip = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    hops = Hops(*rng.integers(0, 9, 4).tolist())
    mesh = mesh_of(x + int(rng.integers(3)), y + int(rng.integers(3)), chip, hops, *rng.integers(1, 6, 2).tolist())
    depths = rng.integers(1, 4, 3).tolist()
    return Machine(
        mesh, np.arange(cores), int(rng.integers(1, 6)), *depths, int(rng.integers(0, 9)), int(rng.integers(0, 9))
    )


def random_wave(rng: np.random.Generator, cores: int) -> tuple[Routes, Wave]:
    """A few firings a core; often all to a few cores, so that these are flooded."""
    popular = rng.integers(0, cores, 1 + int(rng.integers(cores)))
    entries = int(rng.integers(1, 9))
    service = rng.integers(1, int(rng.choice([3, 20])), entries)
    routes = Routes(rng.choice(popular, entries).astype(np.int32), rng.integers(1, 9, entries), service)
    counts = rng.integers(0, 5, cores)
    first = np.concatenate([[0], counts.cumsum()])
    sent = np.sort(rng.integers(0, entries + 1, (first[-1], 2)), axis=1)
    gap = rng.integers(0, int(rng.choice([2, 12])), first[-1])
    return routes, Wave(first, gap, sent, rng.integers(0, 30, cores))
