"""Exact event counts of an execution: every one is linear in the spikes, and so comes from the Activity alone.

A synaptic operation is one message that reaches one target neuron through one synapse (zero weights included).
A message is a non-zero output on its way to one core: a spike that serves several neurons of a core is sent there once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class PopulationEvents:
    """Events of one population, summed over the images.

    updates   (T,) neuron updates: every neuron once a step
    spikes    (T,) non-zero outputs
    messages  (T,) one for each spike and each core it is sent to; equal to `spikes` where there is no mapping
    silent    neurons that sent nothing in any step of any image
    """

    name: str
    updates: Counts
    spikes: Counts
    messages: Counts
    silent: int


@dataclass(frozen=True, slots=True, eq=False)
class ProjectionEvents:
    """Events of one projection of the network, summed over the images.

    kind          "conv" | "window" | "readout" | "attention"
    graded        some source sends values beyond 1
    synops        (T,) synaptic operations; of an attention: those at its counters (facts of the mapping: see attention)
    delivered     (T,) graded values that an attention's counters send to the target, at most; zero for other kinds
    coincidences  (T,) pairs of spikes k[n, c], v[n, c'] of one token and head: the additions that K^T V needs;
                  zero for other kinds
    products      (T,) d * (min(spikes of k, spikes of v) + spikes of q), d channels a head: the additions of an attention
                  that skips zeros of one operand (the count of the syops tool, with exact spikes); zero for other kinds
    dense         multiply-accumulates of one image and step where no zero is skipped
    """

    sources: tuple[str, ...]
    target: str
    kind: str
    graded: bool
    synops: Counts
    delivered: Counts
    coincidences: Counts
    products: Counts
    dense: int


@dataclass(frozen=True, slots=True, eq=False)
class SliceEvents:
    """Events of each slice of the mapping, in the order of Mapping.boxes.

    sites         (slices,) index of the site; cores (slices,) global core: as in the mapping
    neurons       (slices,) neurons (or attention counters) that are updated in each step
    spikes        (images, T, slices) non-zero outputs; of attention counters: graded values delivered, at most
    messages_out  (images, T, slices) one for each spike and destination core
    messages_in   (images, T, slices); a message that serves several slices of a core counts at the first of them
    synops        (images, T, slices)
    """

    sites: Counts
    cores: Counts
    neurons: Counts
    spikes: Counts
    messages_out: Counts
    messages_in: Counts
    synops: Counts

    def by_core(self, values: Counts) -> tuple[Counts, Counts]:
        """The cores in use, ascending, and `values` (..., slices) summed over the slices of each: (..., cores)."""
        cores, index = np.unique(self.cores, return_inverse=True)
        out = np.zeros((*values.shape[:-1], len(cores)), values.dtype)
        np.add.at(out, (..., index), values)
        return cores, out


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """What an execution of `images` images costs in events.

    populations   by name, all of the network
    projections   in the order of the network's
    slices        None where there is no mapping
    """

    images: int
    time_steps: int
    populations: dict[str, PopulationEvents]
    projections: tuple[ProjectionEvents, ...]
    slices: SliceEvents | None

    @property
    def synops(self) -> float:
        """Synaptic operations an image, mean over the images, all projections."""
        return sum(float(p.synops.sum()) for p in self.projections) / self.images

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of one image where no zero is skipped: all projections, all time steps."""
        return sum(p.dense for p in self.projections) * self.time_steps
