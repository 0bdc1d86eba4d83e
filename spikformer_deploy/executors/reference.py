"""The definition of right: what an integer network does, bit for bit, in plain numpy int64.

Time step after time step, population after population, by the `step` of its neurons and the `synaptic_sum` of its
synapses (network/).  Every other executor is compared with this one for equality; nothing here is clever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.executors.execution import (
    Activity,
    Cells,
    Execution,
    Executor,
    Request,
    check_state,
    frames,
    one_cell,
)
from spikformer_deploy.network.network import Network, graded_spikes
from spikformer_deploy.network.neurons import (
    Accumulator,
    Max,
    Neuron,
    idle,
    may_idle,
    potential_of,
    step,
)
from spikformer_deploy.network.synapses import Attention, largest_of, synaptic_sum

AT_ONCE_BYTES = 2**26
"""Images are run in batches whose messages stay below this: nothing is gained by more."""


def prepare(request: Request) -> Executor:
    """The reference, as it is: nothing is prepared."""
    network = request.network
    image_bytes = 16 * network.time_steps * sum(p.size for p in network)
    return Executor(
        lambda images, record=(): execute(network, images, record=record, cells=request.cells),
        request.images_at_once(image_bytes, AT_ONCE_BYTES),
    )


def execute(
    network: Network,
    images: NDArray[np.integer],
    *,
    record: Sequence[str] = (),
    cells: Mapping[str, Cells] | None = None,
) -> Execution:
    """Run `images` through `network`, all populations of a time step in topological order, step after step.

    images  (N, C, Y, X) pixels, or (N, T, C, Y, X) frames where the Source is `per_step`; integers
    record  names of populations whose spikes and membrane potentials are kept
    cells   the grids of Activity.messages, by population; one cell each where nothing is said
    Raises InputError for images of another shape or range, OverflowDetected where a state leaves `network.state_bits`.
    """
    inputs = frames(network, images).astype(np.int64)
    states: dict[str, Int] = {}
    sent: dict[str, list[Int]] = {p.name: [] for p in network}
    membranes: dict[str, list[Int]] = {p.name: [] for p in network if p.name in record or may_idle(p.neuron)}
    peak = {p.name: 0 for p in network}
    for t in range(network.time_steps):
        now: dict[str, Int] = {network.input.name: inputs[:, t]}
        for population in network:
            total = np.zeros((len(inputs), *population.shape), np.int64)
            for projection in network.into(population.name):
                sources = [now[s] for s in projection.sources]
                if isinstance(population.neuron, Max):
                    total = largest_of(projection.synapse, sources[0], population.shape)
                else:
                    total += synaptic_sum(projection.synapse, sources, population.shape)
            state = states.get(population.name)
            out, state, largest = step(population.neuron, total, state, now.get(population.name))
            peak[population.name] = max(peak[population.name], largest)
            check_state(network, population, largest)
            states[population.name] = state
            now[population.name] = out
            sent[population.name].append(out)
            if population.name in membranes:
                membranes[population.name].append(potential_of(population.neuron, state))
    graded = graded_spikes(network)
    potentials = {name: np.stack(values, 1) for name, values in membranes.items()}
    activity = {
        p.name: observe(
            p.neuron,
            np.stack(sent[p.name], 1),
            potentials.get(p.name),
            (cells or {}).get(p.name, one_cell(p.shape)),
            p.name in graded,
        )
        for p in network
        if not isinstance(p.neuron, Accumulator)
    }
    return Execution(
        accumulators=states[network.output.name].reshape(len(inputs), -1),
        activity=activity,
        spikes={name: np.stack(sent[name], 1) for name in record},
        membranes={name: potentials[name].astype(np.int32) for name in record},
        coincidences={
            p.target: coincidences(p.synapse.heads, *(np.stack(sent[name], 1) for name in p.sources[1:]))
            for p in network.projections
            if isinstance(p.synapse, Attention)
        },
        peak_state=peak,
        kernels="plain",
    )


def observe(neuron: Neuron, sent: Int, potentials: Int | None, cells: Cells, graded: bool = False) -> Activity:
    """The Activity of one population from all it sent, (N, T, C, Y, X), and its potentials where it `may_idle`.

    graded  whether its messages are numbers of spikes
    """
    resting = idle(neuron, sent, potentials) if may_idle(neuron) else None
    return Activity(
        messages=_in_cells(sent != 0, cells),
        cells=cells,
        active=(sent != 0).any((0, 1)),
        total=sent.sum((0, 2, 3, 4)),
        idle=None if resting is None else _in_cells(resting, cells),
        values=_in_cells(sent, cells) if graded else None,
    )


def _in_cells(sent: NDArray[Any], cells: Cells) -> NDArray[np.int32]:
    """(N, T, slices, rows, columns) the sum over the neurons (N, T, C, Y, X) of each cell; of marks, how many."""
    slices, rows, columns = cells.shape
    numbers = np.zeros((*sent.shape[:2], slices, rows, columns), np.int32)
    for s, y, x in np.ndindex(slices, *sent.shape[3:]):
        of_slice = sent[:, :, cells.channels[s] : cells.channels[s + 1], y, x]
        numbers[:, :, s, cells.rows[y], cells.columns[x]] += of_slice.sum(2)
    return numbers


def coincidences(heads: int, k: Int, v: Int) -> Int:
    """(T,) pairs of messages k[n, c], v[n, c'] of one token and head, from all that was sent (N, T, C, Y, X)."""
    messages = _messages_of_tokens(heads, k) * _messages_of_tokens(heads, v)
    return messages.sum((0, 2, 3))


def _messages_of_tokens(heads: int, sent: Int) -> Int:
    """(N, T, heads, tokens) messages, whatever their channel."""
    images, steps, _, height, width = sent.shape
    return (sent != 0).reshape(images, steps, heads, -1, height * width).sum(3)
