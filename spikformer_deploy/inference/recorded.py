"""Spikes and potentials of chosen layers, kept whole: for plots, and for those who want to look.

A run keeps counts alone.  Who asks for more has the images run through the network a second time, which changes nothing
of the run, nor of what it costs to those who do not ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.words import meant
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Executor, Request
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.pipeline.program import Program

Kept = TypeVar("Kept", bound=np.integer)

MOST_BYTES = 2**31
"""Of records in memory, where the user says no limit of their own."""
POTENTIAL_BYTES = 4
SHOWN = 8
"""Names that an error lists."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """What layers did in every time step, by name.

    spikes      (T, B, C, Y, X) of each: uint8 of spikes and of other numbers from 0 to 255, else int32
    potentials  (T, B, C, Y, X) int32, after the reset, of neurons that have one; of the head its accumulators
    """

    spikes: dict[str, NDArray[np.integer]]
    potentials: dict[str, NDArray[np.int32]]


def check_layers(network: Network, record: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the layers, each once.  Raises InputError for one that is none of the network's."""
    names = (record,) if isinstance(record, str) else tuple(dict.fromkeys(record))
    for name in names:
        check_layer(network, name)
    return names


def check_layer(network: Network, name: str) -> Population:
    """The layer of that name.  Raises InputError, with the nearest name, where there is none."""
    known = [p.name for p in network]
    if name not in known:
        few = ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
        raise InputError("record", f"there is no layer '{name}'{meant(str(name), known)}", f"There are {few}.")
    return network[name]


def has_potential(population: Population) -> bool:
    """Whether there is something to keep from step to step: in neurons that fire, and in the head."""
    return population.neuron.fires or isinstance(population.neuron, Accumulator)


def check_room(network: Network, layers: Sequence[str], images: int, memory_limit: int | None) -> None:
    """Raise InputError where the records of so many images are more than is kept."""
    if not layers:
        return
    each = 0
    for population in map(network.__getitem__, layers):
        bytes_of_spike = np.dtype(_narrowest(population)).itemsize
        each += population.size * (bytes_of_spike + POTENTIAL_BYTES * has_potential(population))
    each *= network.time_steps
    allowed = MOST_BYTES if memory_limit is None else memory_limit
    if each * images > allowed:
        problem = f"{len(layers)} layers of {images:,} images take {each * images / 2**20:,.0f} MiB, and "
        problem += f"{allowed / 2**20:,.0f} MiB are kept at most"
        fewer = f", memory_limit, or limit={allowed // each}" if allowed >= each else ", or a larger memory_limit"
        raise InputError("record", problem, f"Give fewer layers{fewer}.")


def recorder(program: Program, layers: Sequence[str], backend: str, device: str, memory: int | None) -> Executor | None:
    """The executor of the second pass, one of executors.choose.EXECUTORS; None where nothing is to be recorded.

    It is made before the run, after which `memory`, the bytes that the process may take, may be taken already.
    Raises InputError where they are too few.
    """
    if not layers:
        return None
    request = Request(program.network, device=device, memory_limit=memory, ways=program.mapping.ways)
    return prepare(backend, request)


def recorded(network: Network, images: ImageSet, layers: Sequence[str], executor: Executor) -> Recorded:
    """What `layers` do on all images.  Raises as a run does."""
    spikes: dict[str, list[NDArray[np.integer]]] = {name: [] for name in layers}
    potentials: dict[str, list[NDArray[np.int32]]] = {n: [] for n in layers if has_potential(network[n])}
    for pixels, _ in images.batches(executor.batch):
        execution = executor.execute(pixels, layers)
        for name in layers:
            spikes[name].append(execution.spikes[name].astype(_narrowest(network[name])))
            if name in potentials:
                potentials[name].append(execution.membranes[name])
    return Recorded(
        {name: _time_first(parts) for name, parts in spikes.items()},
        {name: _time_first(parts) for name, parts in potentials.items()},
    )


def _narrowest(population: Population) -> type[np.integer]:
    return np.uint8 if population.max_out < 2**8 and not population.signed else np.int32


def _time_first(parts: Sequence[NDArray[Kept]]) -> NDArray[Kept]:
    """(T, B, C, Y, X) from batches (n, T, C, Y, X)."""
    return np.ascontiguousarray(np.concatenate(parts).swapaxes(0, 1))
