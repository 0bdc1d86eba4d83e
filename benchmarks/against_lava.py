"""The engine against Lava's own CPU models of Conv, Dense and LIF (fixed_pt), same networks, same spikes.

    python benchmarks/against_lava.py [--json FILE]

Lava has no attention, no pooling by OR and no residual sum, so the networks are the stem of V1-4-384 at 32x32 with
strides for pools, and a chain of wide dense layers; more takes Lava minutes a step.  Neurons are of the kind `stock`.
Lava takes one image; the engine takes 16, counts of events included, and its time is divided by images and steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from engine import cpu

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.counts import events
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.executors.fast.plan import make_plan
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import Accumulator, Lif, LifKind, Source
from spikformer_deploy.network.synapses import Conv, Readout

STEM = ((48, 3, 1), (96, 3, 1), (192, 3, 2), (384, 3, 2), (384, 3, 1))
"""(channels, kernel, stride) of V1-4-384; strides stand where it has max-pooling."""
CHAINS = {
    "stem": ((3, 32, 32), STEM),
    "dense": ((3072, 1, 1), ((4096, 1, 1), (4096, 1, 1), (4096, 1, 1), (384, 1, 1))),
}
BATCH = 16
TIME_STEPS = 4


@click.command()
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
def main(json_file: str | None) -> None:
    """Measure, check that the spikes are equal, print a table."""
    rows = [measure(name, *chain) for name, chain in CHAINS.items()]
    table = Table(title="milliseconds a time step of one image")
    for column in ("network", "neurons", "weights", "Lava", "engine", "ratio", "firing rate", "spikes"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        table.add_row(
            row["network"], f"{row['neurons']:,}", f"{row['weights']:,}", f"{1e3 * row['lava_seconds']:,.1f}",
            f"{1e3 * row['engine_seconds']:.3f}", f"{row['ratio']:,.0f}", f"{row['firing_rate']:.3f}", "equal",
        )  # fmt: skip
    Console().print(table)
    if json_file:
        write_whole(Path(json_file), (json.dumps({"cpu": cpu(), "rows": rows}, indent=2) + "\n").encode())


def measure(name: str, shape: tuple[int, int, int], layers: tuple[tuple[int, int, int], ...]) -> dict[str, Any]:
    """Times of both on one chain; raises where the last layer's spikes differ."""
    network = chain(shape, layers)
    frames = np.random.default_rng(1).integers(0, 2, (BATCH, TIME_STEPS, *shape)).astype(np.uint8)
    last = network.populations[-2].name
    spikes, lava_seconds = in_lava(network, frames[0])
    ours = engine.execute(network, frames[:1], record=[last]).spikes[last][0]
    np.testing.assert_array_equal(spikes, ours, err_msg=f"{name}: Lava's spikes are not the engine's")
    geometry = events.geometry(network, None)
    plan = make_plan(network, geometry.cells)
    buffers = engine.Buffers()
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        counted = events.count(geometry, engine.run(plan, frames, buffers))
        best = min(best, time.perf_counter() - start)
    lifs = [p for p in network if isinstance(p.neuron, Lif)]
    fired = sum(int(counted.populations[p.name].spikes.sum()) for p in lifs)
    neurons = sum(p.size for p in lifs)
    seconds = best / BATCH / TIME_STEPS
    return {
        "network": name,
        "neurons": neurons,
        "weights": sum(p.synapse.weight.size for p in network.projections if isinstance(p.synapse, Conv)),
        "lava_seconds": lava_seconds,
        "engine_seconds": seconds,
        "ratio": lava_seconds / seconds,
        "firing_rate": fired / (neurons * TIME_STEPS * BATCH),
    }


def chain(shape: tuple[int, int, int], layers: tuple[tuple[int, int, int], ...]) -> Network:
    """Convolutions and stock LIF neurons one after the other, even random weights, thresholds that let 10 % fire."""
    rng = np.random.default_rng(0)
    populations = [Population("input", shape, Source(1, per_step=True), 1)]
    projections = []
    for index, (channels, kernel, stride) in enumerate(layers):
        source = populations[-1]
        inputs = source.shape[0]
        size = (source.shape[1] - 1) // stride + 1
        weight = (2 * rng.integers(-63, 64, (channels, inputs, kernel, kernel))).astype(np.int8)
        # the standard deviation of a sum: 73 is that of one weight, the last factor the share of inputs that fire
        spread = 73 * np.sqrt(inputs * kernel**2 * (0.5 if index == 0 else 0.1))
        threshold = np.full(channels, int(1.3 * spread), np.int64)
        neuron = Lif(LifKind.STOCK, 2048, 0, threshold, np.zeros(channels, np.int64))
        populations.append(Population(f"lif{index}", (channels, size, size), neuron, 1))
        conv = Conv(weight, (stride, stride), (kernel // 2, kernel // 2))
        projections.append(Projection((source.name,), populations[-1].name, conv))
    channels = populations[-1].shape[0]
    populations.append(Population("head", (1, 1, 1), Accumulator(np.zeros(1, np.int64), np.ones(1)), 0))
    projections.append(Projection((populations[-2].name,), "head", Readout(np.ones((1, channels), np.int8))))
    mean = np.zeros(shape[0])
    return Network(
        tuple(populations), tuple(projections), TIME_STEPS, 24, 8, "observed", 1.0, tuple(mean), tuple(mean + 1)
    )


def in_lava(network: Network, frames: np.ndarray) -> tuple[np.ndarray, float]:
    """Spikes (T, C, Y, X) of the last layer and seconds a step, from a process without torch."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = {"frames": frames}
        for index, projection in enumerate(network.projections[:-1]):
            neuron = network[projection.target].neuron
            arrays |= {f"weight{index}": projection.synapse.weight, f"threshold{index}": neuron.threshold[:1]}
            arrays[f"stride{index}"] = np.array(projection.synapse.stride)
        np.savez(f"{folder}/chain.npz", **arrays)
        child = Path(__file__).with_name("lava_chain.py")
        done = subprocess.run([sys.executable, str(child), folder], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        with np.load(f"{folder}/found.npz") as found:
            return found["spikes"], float(found["seconds"])


if __name__ == "__main__":
    main()
