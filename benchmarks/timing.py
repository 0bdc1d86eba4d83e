"""Message-level timing against SANA-FE's detailed model: the same random networks, the same constants, in one run.

    pip install sanafe        # or: pip install spikformer-deploy[bench]
    python benchmarks/timing.py [--quick] [--json FILE]

SANA-FE runs the network too; its timing by itself is what its detailed model takes beyond its simple one, which does
the same but for the timing.  Ours takes the spikes, and makes messages out of them.  They take turns, best of several.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.chips.profile import Profile, load_profile
from spikformer_deploy.timing import mesh
from spikformer_deploy.timing.machine import TICK_PS, Hops, Machine, mesh_of, ticks
from spikformer_deploy.timing.ranges import numbers_in, starts_of
from spikformer_deploy.timing.state import at_rest, entries_of
from spikformer_deploy.timing.wave import Routes, Wave, WaveTimes

Int = NDArray[np.int64]

SYNAPSES = 40
"""Synapses that a neuron makes, to neurons anywhere."""
FIRING = 0.1
"""Share of the neurons that fire, the same ones in every step."""
BARRIER_NS = {1: 600, 2: 1000, 4: 1400, 29: 1800}
"""SANA-FE's table for Loihi: by tiles in use, the largest key that is not above them."""
GOAL = {"one thread": 10, "all threads": 30}
"""How many times as fast as SANA-FE we want to be."""
WIDE = 140
"""Columns of a table on the terminal."""


@dataclass(frozen=True)
class Case:
    """A random network; time steps that a measurement runs."""

    name: str
    neurons: int
    cores: int
    steps: int

    @property
    def per_core(self) -> int:
        """Neurons on each core."""
        return -(-self.neurons // self.cores)


CASES = (Case("a", 1024, 16, 40), Case("b", 10_000, 128, 6), Case("c", 100_000, 128, 2))


@click.command()
@click.option("--quick", is_flag=True, help="Networks a and b, few rounds.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
def main(quick: bool, json_file: str | None) -> None:
    """Measure, print tables, write JSON."""
    rows = [measure(case, rounds=2 if quick else 4) for case in CASES[: 2 if quick else 3]]
    for table in tables(rows):
        Console(width=WIDE).print(table)
    if json_file:
        write_whole(Path(json_file), (json.dumps({"threads": os.cpu_count(), "rows": rows}, indent=2) + "\n").encode())


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Messages a second of both on one and on all threads; step time and energy of both."""
    rng = np.random.default_rng(0)
    fires = np.flatnonzero(rng.random(case.neurons) < FIRING)
    target = rng.integers(0, case.neurons, (case.neurons, SYNAPSES))
    theirs = SanaFe(case, fires, target)
    ours = Ours(case, fires, target)
    figures: dict[str, Any] = {"case": case.name, "neurons": case.neurons, "cores": case.cores, "steps": case.steps}
    contestants: dict[str, Callable[[], Any]] = {}
    for name, threads in (("one thread", 1), ("all threads", os.cpu_count() or 1)):
        contestants |= {
            f"simple, {name}": lambda n=threads: theirs.run("simple", n),
            f"detailed, {name}": lambda n=threads: theirs.run("detailed", n),
            f"ours, {name}": lambda n=threads: ours.run(n),
        }
    seconds, results = take_turns(contestants, rounds)
    messages = ours.wave.messages * case.steps
    assert results["detailed, one thread"]["packets_sent"] == messages
    figures["messages"] = ours.wave.messages
    for name in GOAL:
        timing = max(seconds[f"detailed, {name}"] - seconds[f"simple, {name}"], 1e-9)
        figures[name] = {
            "ours": messages / seconds[f"ours, {name}"],
            "sanafe": messages / timing,
            "sanafe, network included": messages / seconds[f"detailed, {name}"],
            "ratio": timing / seconds[f"ours, {name}"],
            "ratio, network included": seconds[f"detailed, {name}"] / seconds[f"ours, {name}"],
        }
    figures["step_us"] = {
        "sanafe": results["detailed, one thread"]["sim_time"] / case.steps * 1e6,
        "sanafe, simple": results["simple, one thread"]["sim_time"] / case.steps * 1e6,
        "ours": ours.step_us(ours.wave),
        "ours, axon-out in series": ours.step_us(ours.in_series()),
    }
    figures["energy_nj"] = {
        "sanafe": {k: v / case.steps * 1e9 for k, v in results["detailed, one thread"]["energy"].items()},
        "ours": ours.energy_nj(),
    }
    return figures


def take_turns(contestants: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of the best of `rounds` runs of each after one that does not count, and their results."""
    best = dict.fromkeys(contestants, np.inf)
    results = {}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            results[name] = run()
            # the first round compiles and fills caches
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best, results


class SanaFe:
    """The network in SANA-FE, on the Loihi that comes with it."""

    def __init__(self, case: Case, fires: Int, target: Int) -> None:
        import sanafe

        arch = sanafe.load_loihi()
        network = sanafe.Network()
        cores = arch.cores()
        attributes = {"threshold": 64.0, "reset": 0.0, "force_update": True}
        group = network.create_neuron_group("random", case.neurons, attributes, soma_hw_name="loihi_lif")
        for neuron in range(case.neurons):
            group[neuron].map_to_core(cores[neuron // case.per_core])
        for neuron in fires.tolist():
            group[neuron].set_attributes(model_attributes={"bias": 128.0})
        pairs = np.stack([np.repeat(np.arange(case.neurons), SYNAPSES), target.ravel()], 1)
        # weight 0: who fires does not depend on the messages
        group.connect_neurons_sparse(group, {"weight": [0.0] * len(pairs)}, list(map(tuple, pairs.tolist())))
        self.steps = case.steps
        self.chip = sanafe.SpikingChip(arch)
        self.chip.load(network)

    def run(self, model: str, threads: int) -> dict[str, Any]:
        """Energies in J and the simulated time in s of all steps."""
        with quiet():
            return dict(
                self.chip.sim(
                    self.steps,
                    timing_model=model,
                    processing_threads=threads,
                    scheduler_threads=threads if threads > 1 else 0,
                )
            )


class Ours:
    """The same messages on our loihi1 with SANA-FE's constants: dense synapses, its barrier, no hop within a tile."""

    def __init__(self, case: Case, fires: Int, target: Int) -> None:
        self.case = case
        self.steps = case.steps
        self.fires = fires
        self.spikes = len(fires)
        self.profile = profile()
        self.visit = ticks(self.profile.time.neuron_update.value)
        self.spike = ticks(self.profile.time.spike_out.value)
        self.routes, self.sent = routes(case, fires, target, self.profile)
        self.machine = machine(case, self.profile)
        self.entries = entries_of(self.machine, self.routes)
        self.at_rest = at_rest(self.machine)
        self.wave = self.waves()

    def waves(self) -> Wave:
        """The chip-wide step: gaps between the firing neurons of each core."""
        core = self.fires // self.case.per_core
        first = np.searchsorted(core, np.arange(self.case.cores + 1))
        before = np.concatenate([[-1], self.fires[:-1]])
        before = np.maximum(before, core * self.case.per_core - 1)
        gap = (self.fires - before) * self.visit + self.spike
        ends = np.minimum((np.arange(self.case.cores) + 1) * self.case.per_core, self.case.neurons)
        last = np.arange(self.case.cores) * self.case.per_core - 1
        np.maximum.at(last, core, self.fires)
        return Wave(first, gap, self.sent, np.maximum(ends - 1 - last, 0) * self.visit)

    def in_series(self) -> Wave:
        """The step as SANA-FE sees it: the sweep itself takes the time of the axon-out unit, message by message."""
        wave = self.wave
        messages = wave.routes[:, 1] - wave.routes[:, 0]
        starts = starts_of(messages)
        entry = numbers_in(wave.routes[:, 0], messages)
        # each message is a firing of its own; the sweep up to the neuron comes before the first of them
        gap = np.full(len(entry), ticks(self.profile.time.axon_out.value))
        gap[starts[:-1]] += wave.gap
        return Wave(starts[wave.first], gap, np.stack([entry, entry + 1], 1), wave.tail)

    def run(self, threads: int) -> list[WaveTimes]:
        """All steps; each makes its messages anew."""

        def step(_: int) -> WaveTimes:
            return mesh.run_wave(self.at_rest, self.entries, self.waves())[0]

        if threads == 1:
            return [step(n) for n in range(self.steps)]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(step, range(self.steps)))

    def step_us(self, wave: Wave) -> float:
        """Simulated time of a step."""
        resting = self.at_rest
        if wave is not self.wave:
            # the sweep already takes the axon-out unit's time: the unit itself must take next to none
            resting = at_rest(replace(self.machine, axon_out=1))
        return (mesh.run_wave(resting, self.entries, wave)[0].quiet + self.machine.barrier) * TICK_PS / 1e6

    def energy_nj(self) -> dict[str, float]:
        """Energy of a step by SANA-FE's parts, from the profile's energies."""
        costs = self.profile.energy
        load = mesh.run_wave(self.at_rest, self.entries, self.wave)[0].load
        across, along = self.machine.mesh.hops(load)
        events = {
            "synapse": ((self.spikes * SYNAPSES, costs.synapse),),
            "soma": ((self.case.neurons, costs.neuron_update), (self.spikes, costs.spike_out)),
            "network": (
                (self.wave.messages, costs.axon_out),
                (across, costs.hop_east_west),
                (along, costs.hop_north_south),
            ),
        }
        out = {name: sum(count * cost.value for count, cost in parts) / 1e3 for name, parts in events.items()}
        return {**out, "total": sum(out.values())}


def profile() -> Profile:
    """loihi1 with SANA-FE's constants where they differ: its default synapse is the dense one."""
    base = load_profile("loihi1")
    corner = base.corners["nahuku-fit"]
    dense = attrs.evolve(corner, synapse=attrs.evolve(corner.synapse, value=35.5))
    return attrs.evolve(base, corners={**base.corners, "nahuku-fit": dense})


def machine(case: Case, loihi: Profile) -> Machine:
    """Cores in the order of tiles down each column, as SANA-FE numbers them."""
    time_ = loihi.time
    core = np.arange(case.cores)
    height = int(loihi.chip.tiles_y)
    per_tile = int(loihi.chip.cores_per_tile)
    tile = core // per_tile
    hops = Hops(ticks(time_.hop_east_west.value), ticks(time_.hop_north_south.value), 0, 0)
    sizes = int(loihi.chip.tiles_x), height
    grid = mesh_of(tile // height, tile % height, sizes, hops, ticks(1 / time_.link_rate.value), 1)
    tiles = -(-case.cores // per_tile)
    barrier = ticks(BARRIER_NS[max(n for n in BARRIER_NS if n <= tiles)])
    depths = (int(loihi.chip.port_messages), int(loihi.core.axon_out_messages), int(loihi.core.axon_in_messages))
    return Machine(grid, core, ticks(time_.axon_out.value), *depths, barrier, runtime=0)


def routes(case: Case, fires: Int, target: Int, loihi: Profile) -> tuple[Routes, Int]:
    """(routing tables, entries (fires, 2)) of the neurons that fire: a message for each core that they reach."""
    core = target[fires] // case.per_core
    key, synops = np.unique(np.arange(len(fires))[:, None] * case.cores + core, return_counts=True)
    row, to = np.divmod(key, case.cores)
    starts = np.searchsorted(row, np.arange(len(fires) + 1))
    service = ticks(loihi.time.axon_in.value) + synops * ticks(loihi.time.synapse_dense.value)
    return Routes(to.astype(np.int32), synops, service), np.stack([starts[:-1], starts[1:]], 1)


@contextmanager
def quiet() -> Iterator[None]:
    """Standard output to nowhere: SANA-FE counts its steps there."""
    # it writes from C++, past sys.stdout
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def tables(rows: list[dict[str, Any]]) -> list[Table]:
    """Speed; step time and energy side by side."""
    speed = Table(title="timing: messages a second (SANA-FE: its timing only / with the network it runs)")
    for name in ("network", "neurons", "messages a step", "threads", "ours", "SANA-FE", "ratio", "goal"):
        speed.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        for name, goal in GOAL.items():
            rates = row[name]
            theirs = f"{rates['sanafe']:,.0f} / {rates['sanafe, network included']:,.0f}"
            ratio = f"{rates['ratio']:.1f} / {rates['ratio, network included']:.1f}"
            shown = (f"{row['neurons']:,}", f"{row['messages']:,}", name, f"{rates['ours']:,.0f}", theirs, ratio)
            speed.add_row(row["case"], *shown, str(goal))
    side = Table(title="a step on Loihi with the same constants")
    for name in ("network", "SANA-FE, us", "ours, us", "ratio", "in series, us", "ratio", "nJ", "ours, nJ", "off by"):
        side.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        step = row["step_us"]
        energy = row["energy_nj"]
        off = energy["ours"]["total"] / energy["sanafe"]["total"] - 1
        series = step["ours, axon-out in series"]
        side.add_row(
            row["case"], f"{step['sanafe']:.3f}", f"{step['ours']:.3f}", f"{step['ours'] / step['sanafe']:.2f}",
            f"{series:.3f}", f"{series / step['sanafe']:.2f}", f"{energy['sanafe']['total']:,.1f}",
            f"{energy['ours']['total']:,.1f}", f"{off:+.3%}",
        )  # fmt: skip
    return [speed, side]


if __name__ == "__main__":
    main()
