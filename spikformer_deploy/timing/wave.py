"""What a timing run takes and gives: the messages of one chip-wide step, and when everything happened in it.

A *wave* is what all cores send in one chip-wide step, or in one of its sub-steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """Routing tables: the messages that a firing neuron sends are some consecutive entries, in this order.

    target   (entries,) int32: the core (an index into Machine.cores)
    synops   (entries,) int64: synaptic operations that the message makes there
    service  (entries,) int64: ticks for which it keeps that core's axon-in and synapse units busy
    """

    target: NDArray[np.int32]
    synops: Int
    service: Int


@dataclass(frozen=True, slots=True, eq=False)
class Wave:
    """What the cores send in one chip-wide step.

    first   (cores + 1,) firings of each core: first[c] to first[c + 1]
    gap     (firings,) ticks of the sweep from the firing before (or the start) to this one, its own costs included
    routes  (firings, 2) first entry and end in Routes
    tail    (cores,) ticks of the sweep after the last firing
    """

    first: Int
    gap: Int
    routes: Int
    tail: Int

    @property
    def messages(self) -> int:
        """Number of messages."""
        return int((self.routes[:, 1] - self.routes[:, 0]).sum())

    @property
    def sent(self) -> Int:
        """(cores,) messages of each core."""
        starts = np.concatenate([[0], np.cumsum(self.routes[:, 1] - self.routes[:, 0])])[self.first]
        return np.diff(starts).astype(np.int64)

    @property
    def sweep_ends(self) -> Int:
        """(cores,) ticks until each core has visited all its neurons, where nothing stalls it."""
        core = np.repeat(np.arange(len(self.tail)), np.diff(self.first))
        return np.bincount(core, self.gap, len(self.tail)).astype(np.int64) + self.tail

    @property
    def sweep(self) -> int:
        """Ticks until the last core has."""
        return int(self.sweep_ends.max(initial=0))


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """Every message, in the order of (birth, source).

    birth   tick at which the axon-out unit offered it to the router
    source  the core that sent it
    entry   its entry in Routes
    arrive  tick at which it reached its core
    begin   tick at which its service began
    """

    birth: Int
    source: Int
    entry: Int
    arrive: Int
    begin: Int


@dataclass(frozen=True, slots=True, eq=False)
class WaveTimes:
    """One chip-wide step, in ticks from its start, its barrier not included.

    sweep_end  (cores,) when each core has visited all its neurons
    stalled    (cores,) ticks for which its sweep waited for the axon-out queue
    served     (cores,) when its last message was served; 0 where none came
    busy       (cores,) ticks for which it served messages
    received   (cores,) messages
    load       (links,) messages that crossed each link (see Mesh)
    """

    sweep_end: Int
    stalled: Int
    served: Int
    busy: Int
    received: Int
    load: Int

    @property
    def quiet(self) -> int:
        """When the last core is done."""
        return int(max(self.sweep_end.max(initial=0), self.served.max(initial=0)))
