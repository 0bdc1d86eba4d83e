"""What is alive while the engine runs some images: messages, the memory that they live in, and counts."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.fast.kept import Kept
from spikformer_deploy.executors.fast.plan import Plan
from spikformer_deploy.network.network import Network

Sent: TypeAlias = NDArray[np.integer]
"""Messages (N, T or 1, P, C) of a population."""


class Buffers:
    """Memory that layers use one after the other.

    A layer's messages are written once and read once or twice.  In fresh memory the first write to each page would make
    the operating system clear it, which takes longer than the write.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []  # the smallest first
        self._parts: list[Buffers] = []

    def parts(self, count: int) -> list[Buffers]:
        """Buffers for each of `count` threads, the same ones every time."""
        self._parts += [Buffers() for _ in range(count - len(self._parts))]
        return self._parts[:count]

    def take(self, shape: tuple[int, ...], dtype: type[np.integer]) -> Sent:
        """An array with unknown content, from the smallest free buffer that holds it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        index = bisect_left(self._free, size, key=len)
        if index == len(self._free):
            return np.empty(shape, dtype)
        return self._free.pop(index)[:size].view(dtype).reshape(shape)

    def give(self, array: Sent) -> None:
        """Take back an array of `take`; nobody may use it any more."""
        # numpy names the array that owns the memory, however many views lie between: the whole buffer comes back
        owner: Any = array if array.base is None else array.base
        insort(self._free, owner.reshape(-1).view(np.uint8), key=len)


class Counts(NamedTuple):
    """Of one population in all images.

    messages  (N, T or 1, slices, rows, columns)
    total     (N, T or 1, rows, slabs) of the values
    idle      as messages: idle neurons; None where the plan has it not among those that `may_idle`
    values    as messages: sums of what is sent; None where the plan has it not among those that are `graded`
    """

    messages: NDArray[np.int32]
    total: Int
    idle: NDArray[np.int32] | None
    values: NDArray[np.int32] | None


def empty_counts(plan: Plan, images: int) -> dict[str, Counts]:
    """Room for the counts of all images, by population."""
    out = {}
    for name, table in plan.tables.items():
        slices, rows, columns = plan.shapes[name]
        lead = (images, plan.steps[name])
        messages = np.empty((*lead, slices, rows, columns), np.int32)
        total = np.empty((*lead, rows, len(table.slabs) - 1), np.int64)
        idle = np.empty_like(messages) if name in plan.may_idle else None
        values = np.empty_like(messages) if name in plan.graded else None
        out[name] = Counts(messages, total, idle, values)
    return out


@dataclass(slots=True)
class Batch:
    """Some of the images of a run, on their way through the network.

    place   where the images stand among all
    counts  of all images, by population: those of this batch are written
    kept    what becomes part of the Execution
    threads of compiled loops that this batch has for itself
    sent    messages by population, as long as somebody reads them
    active  (Y, X, C) neurons that sent anything, by population
    """

    plan: Plan
    place: slice
    buffers: Buffers
    counts: Mapping[str, Counts]
    kept: Kept
    threads: int = 1
    sent: dict[str, Sent] = field(default_factory=dict)
    active: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def network(self) -> Network:
        """What runs."""
        return self.plan.network

    @property
    def images(self) -> int:
        """How many there are."""
        return self.place.stop - self.place.start
