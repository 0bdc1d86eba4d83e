"""PilotNet on Loihi 2: our times and energies beside Intel's measurement of the same network.

    python benchmarks/pilotnet.py FOLDER     # network.net of lava-dl's PilotNet LIF example

The energies of the corner `pilotnet-fit` are fitted to this measurement, and nothing else of the profile is.  Intel's
chip ran without an input (silicon_networks.py says why), and so does this.  Beside our own mapping stand the boxes that
Intel's compiler printed, placed in three ways, since where it put them is not known: this shows what of the difference
is the mapping's.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import spikformer_deploy as sd
from spikformer_deploy.accounting.uncertainty import Energy, Range, exactly
from spikformer_deploy.inference.results import Run
from spikformer_deploy.mapping.place import Placer, hilbert, refined, row_major
from spikformer_deploy.mapping.route import metrics, nets_of
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model

MEASURED = {"cores": 74, "synops": 2.29e6, "busiest": 1.51e5, "step": 152.8, "energy": 68.3}
"""lava-dl's PilotNet LIF tutorial with the output of Intel's board, January 2023; operations read off a plot, +-3 %."""
INTEL = {
    "layer.0": (3, 66, 16), "layer.0.lif": (3, 66, 16), "layer.1": (24, 32, 4), "layer.2": (36, 15, 4),
    "layer.3": (48, 7, 8), "layer.4": (64, 4, 8), "layer.5": (64, 2, 16), "layer.7": (9, 1, 1),
}  # fmt: skip
"""(channels, rows, columns) a core: what gives the printed 13 x 3168, 25 x 3072, 13 x 2160, 3 x 2688, 3 x 2048 and
2 x 2048 neurons, and 12 cores for the first dense layer.  The pixels, which Intel's chip gets as biases, are sent from
cores of their own (layer.0)."""


PLACERS: dict[str, Placer] = {"refined": refined, "Hilbert": hilbert, "in order": row_major}


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Compile, run, print all columns."""
    image = np.zeros((1, 3, 66, 200), np.uint8)
    program = compile_model(folder / "network.net", "loihi2", calibrate_on=image).program
    runs = [sd.run(program, image, timing="cycle")]
    sent = {name: e.spikes.mean() / program.network[name].size for name, e in runs[0].events.populations.items()}
    runs += [sd.run(cut_as_intel(program, placer, sent), image, timing="cycle") for placer in PLACERS.values()]
    columns = [figures(run) for run in runs]
    table = Table(title="PilotNet LIF, 16 time steps a frame, one Loihi 2 chip; in brackets: here / measured")
    for column in ("a time step", "our mapping", *(f"Intel's boxes, {name}" for name in PLACERS), "measured"):
        table.add_column(column, justify="left" if column == "a time step" else "right", no_wrap=True)
    for name, measured in columns[0]:
        table.add_row(name, *(dict((n, v) for (n, _), v in column.items())[name] for column in columns), measured)
    Console(width=180).print(table)


def figures(run: Run) -> dict[tuple[str, str], str]:
    """(name, what was measured) -> what is here, and its ratio."""
    slices, steps = run.events.slices, run.events.time_steps
    assert slices is not None
    assert run.times is not None
    assert run.cycle is not None
    cores = sum(site != 0 for site in run.program.mapping.boxes[:, 0]) - 1
    out = {
        ("cores, without those of pixels and counts", "74"): shown(MEASURED["cores"], cores),
        ("synaptic operations", "2,290,000"): shown(MEASURED["synops"], run.events.synops / steps),
        ("of the busiest core", "151,000"): shown(MEASURED["busiest"], slices.by_core(slices.synops)[1].max(-1).mean()),
        ("us, message by message", "152.8"): shown(MEASURED["step"], *run.cycle.step_us_mean[[1, 0, 2]]),
        ("us, closed form", "152.8"): shown(MEASURED["step"], *run.times.step_us_mean[[1, 0, 2]]),
    }
    for energy in run.energies:
        if energy.convention.startswith("profile"):
            total, corner = dynamic(energy), energy.convention.partition(":")[2] or run.program.profile.corner
            values = (1e3 * value / steps for value in (total.nominal, total.low, total.high))
            out[f"uJ, dynamic, corner {corner}", "68.3"] = shown(MEASURED["energy"], *values)
    return out


def shown(measured: float, value: float, low: float | None = None, high: float | None = None) -> str:
    """A figure, its range, its ratio to the measured one."""
    digits = ",.0f" if measured > 1000 or low is None else ",.1f"
    span = "" if low is None else f", {low:,.1f} to {high:,.1f}"
    return f"{value:{digits}}{span} [{value / measured:.2f}]"


def cut_as_intel(program: Program, placer: Placer, sent: dict[str, float]) -> Program:
    """The program with the boxes of Intel's compiler; sent: messages a neuron and step, by population."""
    rows = []
    for index, site in enumerate(program.mapping.sites):
        sizes = zip(site.shape, INTEL.get(site.name, site.shape), strict=True)
        edges = [[(start, min(start + size, extent)) for start in range(0, extent, size)] for extent, size in sizes]
        rows += [(index, *c, *y, *x) for y, x, c in product(edges[1], edges[2], edges[0])]
    boxes = np.array(rows, np.int64)
    nets = nets_of(program.network, program.mapping.sites, boxes, sent)
    cores, words = placer(len(boxes), nets, program.profile), np.zeros((len(boxes), 5), np.int64)
    expected = metrics(nets, cores, program.profile)
    return replace(program, mapping=replace(program.mapping, boxes=boxes, cores=cores, words=words, metrics=expected))


def dynamic(energy: Energy) -> Range:
    """The energy of an image on the chips in use without their static power, in mJ."""
    return sum((part.energy for part in energy.inside if "static" not in part.name), exactly(0.0))


if __name__ == "__main__":
    sys.exit(main())
