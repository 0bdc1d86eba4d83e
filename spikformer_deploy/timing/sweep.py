"""The order in which cores visit their neurons: a *place* is the number of a visit, counted through all cores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.timing.ranges import starts_of


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """Core after core, the slices of a core in the order of the mapping, each slice channel by channel.

    place     by site number: (C, Y, X) the place of each neuron; where tokens come in series, that of its channel's
    slice_at  (places,) the slice of each place
    core      (slices,) index into Machine.cores
    begin     (cores + 1,) the place of each core's first neuron, and the number of places
    """

    place: tuple[Int, ...]
    slice_at: NDArray[np.int32]
    core: Int
    begin: Int


def sweep_of(mapping: Mapping) -> Sweep:
    """The sweeps of all cores of `mapping`."""
    edges = mapping.boxes[:, 1:].reshape(-1, 3, 2)
    extents = edges[:, :, 1] - edges[:, :, 0]
    # where tokens come in series, a visit serves the one neuron of a channel
    neurons = mapping.swept
    core = np.unique(mapping.cores, return_inverse=True)[1].ravel()
    # stable, so that the slices of a core keep the order of the mapping
    order = np.argsort(core, kind="stable")
    first = np.empty(len(order), np.int64)
    first[order] = starts_of(neurons[order])[:-1]
    place = tuple(np.empty(site.shape, np.int64) for site in mapping.sites)
    for number, (site, c0, c1, y0, y1, x0, x1) in enumerate(mapping.boxes.tolist()):
        places = first[number] + np.arange(neurons[number])
        shape = (-1, 1, 1) if mapping.sites[site].token_serial else extents[number]
        place[site][c0:c1, y0:y1, x0:x1] = places.reshape(shape)
    slice_at = np.repeat(order, neurons[order]).astype(np.int32)
    begin = np.searchsorted(core[slice_at], np.arange(core.max() + 2))
    return Sweep(place, slice_at, core, begin)
