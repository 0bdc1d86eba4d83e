"""What one spike of each neuron of a program costs on its target, as the accounting counts it.

Every event of counts/ is linear in the messages that are sent, those of an attention too: what its counters do and
answer is counted at most, a fixed number of operations for each spike of q, k and v.  So a spike has one price,
whatever else fires, and the energy of an image is the sum of spikes x price and of what happens in every step anyway.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.accounting.target import COSTS, HOPS
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.slices import Geometry, geometry
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.hops import HopTable, hop_table
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.senders import rows_of_cells
from spikformer_deploy.timing.traffic import traffic

Prices = dict[str, NDArray[np.float64]]


def spike_prices(program: Program) -> Prices:
    """By population, all but the head: (C, Y, X) pJ of one spike of each neuron, nominal, of the profile's corner.

    A spike is a message of any size: a graded one costs what a binary one does.  It costs the synaptic operations of
    its fan-out, its messages to other cores and their hops, the spike itself, and the update of a neuron that would be
    idle without it.  Not in it is what potentials say of idle neurons: that depends on more than spikes.
    """
    counts = geometry(program.network, program.mapping)
    mesh = machine(program.profile, program.mapping).mesh
    hops = hop_table(traffic(counts, program.profile), mesh, counts.cells)
    of_cells = _of_cells(counts, hops, program.profile)
    out = {}
    for name, cells in counts.cells.items():
        first = counts.layout.first[name]
        out[name] = of_cells[first + rows_of_cells(cells)].reshape(program.network[name].shape)
    return out


def _of_cells(counts: Geometry, hops: HopTable, profile: Profile) -> NDArray[np.float64]:
    """(cells,) pJ of a spike of each cell, in the order of the layout."""
    standing = counts.standing
    assert standing is not None
    corner = profile.corners[profile.corner]
    cost = {event: float(getattr(corner, constant).value) for event, constant in COSTS.items()}
    cells = int(counts.layout.sizes.sum())
    total = np.zeros(cells)

    def add(cell: NDArray[np.int32], events: NDArray[np.integer], price: float) -> None:
        total[:] += price * np.bincount(cell, events, cells)

    received = counts.received
    add(received.cell, received.second, cost["synaptic operations"])
    sent = counts.sent
    rows = np.repeat(np.arange(len(sent.starts) - 1), np.diff(sent.starts))
    add(sent.cell, sent.first, cost["spikes"])
    # a counter's values go to one core each
    add(sent.cell, np.where(standing.counters[rows], sent.first, sent.second), cost["messages sent"])
    add(sent.cell, sent.first * standing.silent[rows], cost["neuron updates"] - cost["idle neurons"])
    for name, of_cell in hops.of_cell.items():
        first = counts.layout.first[name]
        for of_direction, direction in zip(of_cell, HOPS, strict=True):
            total[first : first + of_direction.size] += cost[direction] * of_direction
    return total
