"""One run for several programs of the same integers: what differs is how they are mapped, and how many steps they have.

The network of most steps runs once, its activity in cells that are fine enough for all mappings; every program counts
what is its own.  Each record is that of a run of the program by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from spikformer_deploy.base.errors import OverflowDetected
from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.base.values import digest
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.counts.events import Geometry, geometry
from spikformer_deploy.counts.grids import common_cells, in_cells
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Request
from spikformer_deploy.inference.record import record
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.tallied import recorded_in, tally_of
from spikformer_deploy.inference.tally import Tally, added
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Source
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.hops import HopTable, hop_table
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.traffic import traffic


def same_integers(network: Network) -> str:
    """A word that two networks share where one run serves both: their first steps are the same up to the head's bias.

    Of a network that reads frames the steps are part of it: a recording is cut into as many frames.
    """
    *others, output = network.populations
    neurons = [(p.name, p.shape, p.neuron, p.max_out) for p in others]
    head = output.neuron
    source = network.input.neuron
    assert isinstance(source, Source)
    read = network.time_steps if source.per_step else 0
    last = getattr(head, "last", False)
    return digest([neurons, network.projections, output.name, output.shape, last, network.state_bits, read])


def run_together(
    programs: Sequence[Program], images: ImageSet, runtime: str = "lava", progress: Progress = silent
) -> list[Run | OverflowDetected]:
    """The records of programs with the same integers (see same_integers) on images, by the engine, in their order.

    images  with labels of the programs' classes
    A state that leaves its bits is the error of the programs whose steps it is in.
    """
    try:
        return list(_run_all(programs, images, runtime, progress))
    except OverflowDetected as error:
        by_network: dict[str, list[int]] = {}
        for number, program in enumerate(programs):
            by_network.setdefault(program.network.digest(), []).append(number)
        if len(by_network) == 1:
            return [error] * len(programs)
        found: dict[int, Run | OverflowDetected] = {}
        for numbers in by_network.values():
            some = run_together([programs[number] for number in numbers], images, runtime, progress)
            found |= dict(zip(numbers, some, strict=True))
        return [found[number] for number in range(len(programs))]


@dataclass(slots=True, eq=False)
class _Counted:
    """A program, what its counts need, and what was found so far."""

    program: Program
    geometry: Geometry
    hops: HopTable
    tally: Tally | None = None


def _counted(program: Program, ran: Network) -> _Counted:
    """ran: the network of most steps."""
    counts = geometry(ran, program.mapping)
    mesh = machine(program.profile, program.mapping).mesh
    return _Counted(program, counts, hop_table(traffic(counts, program.profile), mesh, counts.cells))


def _run_all(programs: Sequence[Program], images: ImageSet, runtime: str, progress: Progress) -> list[Run]:
    start = time.monotonic()
    ran = max((program.network for program in programs), key=lambda network: network.time_steps)
    under = [replace(program, profile=hardware.under(program.profile, runtime)) for program in programs]
    every = [_counted(program, ran) for program in under]
    cells = common_cells([counted.geometry.cells for counted in every])
    executor = prepare("engine", Request(ran, cells))
    done = 0
    for pixels, _ in images.batches(executor.batch):
        execution = executor.execute(pixels, recorded_in(ran))
        lost = images.lost_in(slice(done, done + len(pixels)))
        for counted in every:
            own = in_cells(execution, counted.geometry.cells)
            more = tally_of(counted.program, counted.geometry, counted.hops, own, int(pixels.max()))
            counted.tally = added(counted.tally, replace(more, lost=lost))
        done += len(pixels)
        progress(done, len(images), "")
    seconds = time.monotonic() - start
    tallies = [counted.tally for counted in every]
    return [
        record(program, images, tally, "engine", runtime, None, seconds, peak_memory_mib())
        for program, tally in zip(programs, tallies, strict=True)
        if tally is not None
    ]
