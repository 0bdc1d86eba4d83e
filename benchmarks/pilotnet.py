"""PilotNet on Loihi 2: our estimate beside Intel's measurement of the same network.

    python benchmarks/pilotnet.py FOLDER     # network.net and image.npy of lava-dl's PilotNet LIF example

Nothing of the profile is fitted to these figures.  Intel's input frame is not public; ours is that of the recorded
spikes, so that activity differs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import spikformer_deploy as sd
from spikformer_deploy.accounting.uncertainty import Energy, Range
from spikformer_deploy.pipeline import compile_netx

MEASURED = {"cores": 74, "step": 152.8, "energy": 68.3, "synops": 2.29e6, "busiest": 1.51e5}
"""lava-dl's PilotNet LIF tutorial with the output of Intel's board, January 2023; operations read off a plot, +-3 %."""


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Compile, run, print both columns."""
    image = np.load(folder / "image.npy").transpose(2, 1, 0)[None].astype(np.uint8)
    program = compile_netx(folder / "network.net", "loihi2", calibrate_on=image).program
    run = sd.run(program, image)
    slices, steps = run.events.slices, program.network.time_steps
    busiest = slices.by_core(slices.synops)[1].max(-1).mean()
    cores, synops = len(np.unique(program.mapping.cores)), run.events.synops / steps
    corners = {e.convention: dynamic(e) for e in run.energies if e.convention.startswith("profile")}
    low, nominal, high = run.times.step_us_mean.tolist()
    table = Table(title="PilotNet LIF, 16 time steps a frame, one Loihi 2 chip")
    for column in ("", "here (estimate)", "measured", "here / measured"):
        table.add_column(column, justify="left" if not column else "right")
    rows = [
        ("cores", f"{cores}", MEASURED["cores"], cores),
        ("synaptic operations a step", f"{synops:,.0f}", MEASURED["synops"], synops),
        ("of the busiest core", f"{busiest:,.0f}", MEASURED["busiest"], busiest),
        ("step time, us", f"{nominal:.1f} [{low:.1f} to {high:.1f}]", MEASURED["step"], nominal),
    ]
    for name, energy in corners.items():
        value = energy.nominal * 1e3 / steps
        shown = f"{value:.1f} [{energy.low * 1e3 / steps:.1f} to {energy.high * 1e3 / steps:.1f}]"
        rows.append((f"dynamic energy a step, uJ ({name})", shown, MEASURED["energy"], value))
    for name, here, measured, number in rows:
        table.add_row(name, here, f"{measured:,}", f"{number / measured:.2f}")
    Console().print(table)


def dynamic(energy: Energy) -> Range:
    """The energy of an image without its static parts, in mJ."""
    return sum((part.energy for part in energy.parts if "static" not in part.name), Range(0.0, 0.0, 0.0))


if __name__ == "__main__":
    sys.exit(main())
