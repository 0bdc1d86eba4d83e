"""The engine with early exit: a batch goes on step after step, and images that are done leave it.

A step is a run of the plan of one time step, in which LIFs begin at the potentials that the step before left.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Array, Int
from spikformer_deploy.executors.execution import Activity, Execution, Leave, Left, Request, frames
from spikformer_deploy.executors.fast import engine, synapses, threads
from spikformer_deploy.executors.fast.batch import Batch, Buffers, Counts, Sent, empty_counts
from spikformer_deploy.executors.fast.kept import Kept
from spikformer_deploy.executors.fast.plan import Plan, make_plan
from spikformer_deploy.network.exits import check_exit, margins
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Accumulator, Levels, Lif
from spikformer_deploy.network.steps import bias_of_classes


def carries(network: Network) -> bool:
    """Whether all that the neurons of a network hold from step to step are the potentials of LIFs."""
    neurons = [p.neuron for p in network]
    return not any((isinstance(n, Lif) and n.current) or (isinstance(n, Levels) and n.decay) for n in neurons)


def prepare(request: Request, margin: int) -> Leave:
    """Early exit of a network that `carries`, ready to run; margin: the threshold."""
    network = request.network
    check_exit(network)
    # the head keeps the bias of all steps: it is that of the whole network which is looked at after every one
    plan = make_plan(replace(network, time_steps=1), request.cells)
    buffers = Buffers()
    steps = network.time_steps
    batch = request.images_at_once(plan.image_bytes * steps, engine.BATCH_BYTES // steps, plan.fixed_bytes)
    if request.memory_limit is None:
        # a step of so many images is as much work as all steps of a batch elsewhere
        batch *= steps

    def execute(images: NDArray[np.integer], record: Sequence[str] = ()) -> list[Left]:
        inputs = frames(network, images)
        with threads.as_many_as_torch() as workers:
            if 1 < workers <= len(inputs) and threads.may_share():
                return _by_threads(network, plan, margin, inputs, record, buffers.parts(workers))
            return _left(network, [_run(network, plan, margin, inputs, record, buffers)])

    return Leave(execute, batch)


class _Steps(NamedTuple):
    """What some images did, of as many steps as they took; all later ones are 0.

    after         (n,) the step after which each left
    states        (n, T, classes) of the head of T steps
    counts        by population, of all steps
    spikes, membranes  by population, those recorded: (n, T, C, Y, X)
    coincidences  by target of an attention: (n, T)
    peak          by population
    """

    after: Int
    states: Int
    counts: dict[str, Counts]
    spikes: dict[str, NDArray[np.integer]]
    membranes: dict[str, NDArray[np.int32]]
    coincidences: dict[str, Int]
    peak: dict[str, int]
    plan: Plan


def _by_threads(
    network: Network, plan: Plan, margin: int, inputs: Sent, record: Sequence[str], memory: list[Buffers]
) -> list[Left]:
    """Images shared out to threads that never wait for each other."""
    edges = list(pairwise(np.linspace(0, len(inputs), len(memory) + 1).astype(int).tolist()))
    try:
        with ThreadPoolExecutor(len(memory), initializer=threads.alone) as pool:
            running = [
                pool.submit(_run, network, plan, margin, inputs[low:high], record, own)
                for (low, high), own in zip(edges, memory, strict=True)
            ]
            return _left(network, [some.result() for some in running])
    finally:
        # the threads of the pool have set torch to one thread, for the whole process
        torch.set_num_threads(len(memory))


@torch.inference_mode()
def _run(network: Network, plan: Plan, margin: int, inputs: Sent, record: Sequence[str], buffers: Buffers) -> _Steps:
    """Some images, step after step, until they are done."""
    images, steps = len(inputs), network.time_steps
    head = check_exit(network)
    done = _empty(network, plan, images, record)
    staying = np.arange(images)
    held: dict[str, Sent] = {}
    total = np.broadcast_to(bias_of_classes(head, network.output.size), (images, network.output.size))
    for step in range(steps):
        count = len(staying)
        batch = Batch(plan, slice(0, count), buffers, empty_counts(plan, count), Kept(plan.network, record))
        batch.threads = numba.get_num_threads()
        arriving = _one_step(batch, inputs[staying, step : step + 1], held)
        total = total + arriving
        batch.kept.note_peak(network.output, int(max(np.abs(total).max(initial=0), np.abs(arriving).max(initial=0))))
        done.states[staying, step] = total
        _note(done, batch, staying, step)
        ahead = margins(head, done.states[staying])[:, step]
        leaves = (ahead >= margin) if step < steps - 1 else np.ones(count, bool)
        done.after[staying[leaves]] = step + 1
        if leaves.all():
            break
        if leaves.any():
            staying, total = staying[~leaves], total[~leaves]
            for name, potentials in held.items():
                # from the buffers too: what is given back must have been taken from them, or they grow with every batch
                held[name] = buffers.take((len(staying), *potentials.shape[1:]), np.int32)
                np.compress(~leaves, potentials, axis=0, out=held[name])
                buffers.give(potentials)
    for potentials in held.values():
        buffers.give(potentials)
    return done


def _empty(network: Network, plan: Plan, images: int, record: Sequence[str]) -> _Steps:
    """Room for what images do, all zeros."""
    steps = network.time_steps
    counts = {}
    for name, of_step in empty_counts(plan, 0).items():
        shapes = (None if part is None else np.zeros((images, steps, *part.shape[2:]), part.dtype) for part in of_step)
        counts[name] = Counts(*shapes)  # type: ignore[arg-type]
    recorded = {name: network[name].shape for name in {*record, network.output.name}}
    return _Steps(
        after=np.zeros(images, np.int64),
        states=np.zeros((images, steps, network.output.size), np.int64),
        counts=counts,
        spikes={name: np.zeros((images, steps, *shape), np.int32) for name, shape in recorded.items()},
        membranes={name: np.zeros((images, steps, *shape), np.int32) for name, shape in recorded.items()},
        coincidences={},
        peak={p.name: 0 for p in network},
        plan=plan,
    )


def _one_step(batch: Batch, inputs: Sent, held: dict[str, Sent]) -> Int:
    """All populations of a time step; what reaches the head, (n, classes).

    inputs  (n, 1, C, Y, X)
    held    by population of LIFs: (n, 1, P, C) potentials before the step, in whose place come those after it
    """
    arriving: Int = np.zeros((0, 0), np.int64)
    for population in batch.network:
        if isinstance(population.neuron, Accumulator):
            arriving = engine._read_out(batch, population)[:, 0]
        elif isinstance(population.neuron, Lif):
            _fire(batch, population, held)
        else:
            engine._run_population(batch, population, inputs)
        for name in batch.plan.last_read.get(population.name, ()):
            batch.buffers.give(batch.sent.pop(name))
    # its last loops may have been small ones: the next step begins with all threads again
    numba.set_num_threads(batch.threads)
    return arriving


def _fire(batch: Batch, population: Population, held: dict[str, Sent]) -> None:
    name = population.name
    potentials = held.get(name)
    before = engine.AT_REST if potentials is None else potentials[:, 0]
    threads.share_out(batch.threads, batch.images * population.size)
    sent, membrane, peak = engine._fire(batch, population, before, keep=True)
    assert membrane is not None
    engine._keep(batch, population, sent, peak, membrane, before)
    if potentials is not None:
        batch.buffers.give(potentials)
    held[name] = membrane


def _note(done: _Steps, batch: Batch, staying: Int, step: int) -> None:
    """What a step was, where it belongs."""
    for name, of_step in batch.counts.items():
        for whole, part in zip(done.counts[name], of_step, strict=True):
            if whole is not None and part is not None:
                whole[staying, step] = part[:, 0]
    for name in batch.kept.spikes:
        done.spikes[name][staying, step] = batch.kept.spikes[name][:, 0]
        done.membranes[name][staying, step] = batch.kept.membranes[name][:, 0]
    for name, met in batch.kept.coincidences.items():
        none = np.zeros((len(done.after), done.states.shape[1]), np.int64)
        done.coincidences.setdefault(name, none)[staying, step] = met[:, 0]
    for name, largest in batch.kept.peak.items():
        done.peak[name] = max(done.peak[name], largest)


def _left(network: Network, shares: list[_Steps]) -> list[Left]:
    """What all images did, by the step after which they left."""
    after = np.concatenate([share.after for share in shares])
    out = []
    for steps in np.unique(after).tolist():
        out.append(Left(steps, np.flatnonzero(after == steps), _execution(network, shares, steps)))
    return out


def _execution(network: Network, shares: list[_Steps], steps: int) -> Execution:
    """Of the images that left after `steps` steps."""
    chosen = [share.after == steps for share in shares]

    def of(parts: list[Array]) -> Array:
        return np.concatenate([part[some] for part, some in zip(parts, chosen, strict=True)])

    output = network.output
    states = of([share.states for share in shares])
    membranes = {name: of([share.membranes[name] for share in shares]) for name in shares[0].membranes}
    membranes[output.name] = states.reshape(*states.shape[:2], *output.shape).astype(np.int32)
    plan = shares[0].plan
    activity = {}
    for name, counts in shares[0].counts.items():
        total = of([share.counts[name].total for share in shares])
        messages = of([share.counts[name].messages for share in shares])
        idle, values = (
            None if getattr(counts, kind) is None else of([getattr(share.counts[name], kind) for share in shares])
            for kind in ("idle", "values")
        )
        activity[name] = Activity(messages, plan.cells[name], None, total.sum((0, 2, 3)), idle, values)
    return Execution(
        accumulators=states[:, steps - 1],
        activity=activity,
        spikes={name: of([share.spikes[name] for share in shares]) for name in shares[0].spikes},
        membranes=membranes,
        coincidences={name: of([s.coincidences[name] for s in shares]).sum(0) for name in shares[0].coincidences},
        peak_state={name: max(share.peak[name] for share in shares) for name in shares[0].peak},
        kernels=synapses.note(i.layer for p in plan.sums.values() for i in p.incoming if i.layer),
    )
