"""Numbers that silicon confirms: what chips were measured to take, beside what the shipped profiles predict.

    python benchmarks/silicon.py [--nxtf FOLDER] [--pilotnet FOLDER] [--json FILE]

    --nxtf      nxtf_mnist_model.h5 (intel-nrc-ecosystem/models) and mnist_test_first_128.npz
    --pilotnet  network.net of lava-dl's PilotNet LIF

Networks, cores and counts stand in silicon_cases.py and silicon_networks.py, with what is assumed; nothing is fitted
here.  A row that *calibrates* has set a constant of a profile, or an end of its range, and confirms no more than that
the constants fit together; one that *validates* has set none of those that rule it.  The table of docs/silicon.md is
what this script prints with both folders given.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import click
import numpy as np
import silicon_cases as cases
import silicon_networks as networks
from pilotnet import PLACERS, dynamic
from rich import box
from rich.console import Console
from rich.table import Table
from silicon_cases import Case, Floats
from silicon_networks import Placed

from spikformer_deploy.accounting.target import Duration, on_target
from spikformer_deploy.accounting.uncertainty import Range, exactly
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.chips import draws
from spikformer_deploy.chips.draws import NOMINAL, Points
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.steps import barrier_ns, core_ns, loads_ns

CALIBRATES = "calibrates"
VALIDATES = "validates"

NXTF_US = 57.36
NXTF_FIRST_US = (49.9, 60.9, 38.7, 76.5, 54.7, 43.6, 53.3, 54.0)
NXTF_READING_US = 1.0
"""Spiking phase of a step, mean of 128 images, as printed; of the first images, read off a plot, as sure as that."""
PILOTNET_US = 152.8
PILOTNET_PHASES_US = (201.0, 107.4, 180.6, 125.4)
PILOTNET_UJ = 68.3
"""lava-dl's PilotNet LIF tutorial with the output of Intel's board, January 2023; phases off its plot, +-0.5 us."""
WIDE = 160
"""Columns of the table on the terminal."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A quantity that a chip was measured to have, and what we predict; both in the unit that `quantity` names."""

    case: str
    role: str
    quantity: str
    measured: float
    predicted: Range

    @property
    def inside(self) -> bool:
        """Whether the measurement lies in the likely interval."""
        low, high = self.predicted.likely
        return low <= self.measured <= high

    def as_json(self) -> dict[str, object]:
        """The row as plain values."""
        predicted = self.predicted
        return {
            "case": self.case,
            "role": self.role,
            "quantity": self.quantity,
            "measured": self.measured,
            "likely": list(predicted.likely),
            "envelope": [predicted.low, predicted.high],
            "nominal": predicted.nominal,
            "ratio": predicted.nominal / self.measured,
            "inside": self.inside,
        }


# --- the price of work -----------------------------------------------------------------------------------------------


def step_ns(case: Case, points: Points) -> Floats:
    """(K,) mean time of a step of `case`, every constant at its points."""
    table = latencies(case.profile, points)
    busiest = core_ns(loads_ns(case.work, table)).max(-1)
    end = barrier_ns(table, case.tiles, case.chips, case.diameter) + table.runtime
    return busiest @ case.repeats / case.repeats.sum() + end


def step_time(case: Case) -> Range:
    """Mean time of a step in us."""
    low, nominal, high = (step_ns(case, draws.corners) / 1e3).tolist()
    return Range(low, nominal, high, step_ns(case, draws.drawn) / 1e3)


def core_energy(case: Case) -> Range:
    """Dynamic energy of the neuro cores in nJ, for all that `case` repeats; hops are not counted by hand."""
    profile, work = case.profile, case.work
    energy = profile.energy
    costs = {
        "synapse": (energy.synapse, work.synops),
        "neuron_update": (energy.neuron_update, np.add(work.updates, work.programmed)),
        "neuron_idle": (energy.neuron_idle, work.idle),
        "spike_out": (energy.spike_out, work.spikes),
        "axon_out": (energy.axon_out, work.sent),
    }
    total = exactly(0.0)
    for name, (cost, events) in costs.items():
        count = float(case.repeats @ np.sum(events, -1))
        total += Range.of(f"energy.{profile.corner}.{name}", cost) * (count / 1e3)
    return total


def running_energy(case: Case, seconds: Range) -> Range:
    """What the chips take besides while steps run, in nJ."""
    power = Range.of("power.running_chip", case.profile.power.running_chip)
    return power * seconds * (case.chips * 1e6)


# --- counted by hand -------------------------------------------------------------------------------------------------


def by_hand() -> Iterator[Row]:
    """The cases that need no files."""
    yield from two_neurons()
    yield from quartz()
    yield Row("lsnn-smnist", VALIDATES, "cores, dynamic, nJ a step", cases.LSNN_NJ, core_energy(cases.lsnn()))
    yield from autoencoder()
    yield Row("qp-solver", CALIBRATES, "step, us", cases.QP_US, step_time(cases.qp()))
    for size, measured, case in cases.boards():
        yield Row("boards", CALIBRATES, f"empty step of {size} chips, us", measured, step_time(case))


def two_neurons() -> Iterator[Row]:
    """Row 1: time, energy and static power of nearly nothing."""
    case = cases.two_neurons()
    time = step_time(case)
    energy = core_energy(case) + running_energy(case, time * 1e-6)
    static = Range.of("power.static_chip", case.profile.power.static_chip)
    yield Row("two-neurons", CALIBRATES, "step, us", cases.TWO_NEURONS_US, time)
    yield Row("two-neurons", CALIBRATES, "chip, dynamic, nJ a step", cases.TWO_NEURONS_NJ, energy)
    yield Row("two-neurons", CALIBRATES, "chip, static, mW", cases.TWO_NEURONS_STATIC_MW, static)


def quartz() -> Iterator[Row]:
    """Row 3: an image in few long windows or in many steps."""
    for t_max, (microseconds, microjoules) in cases.QUARTZ.items():
        case = cases.quartz(t_max)
        time = step_time(case) * float(case.repeats.sum())
        energy = core_energy(case) * 1e-3
        yield Row("quartz-mnist", CALIBRATES, f"t_max {t_max}, outside the x86, us an image", microseconds, time)
        yield Row("quartz-mnist", VALIDATES, f"t_max {t_max}, cores, dynamic, uJ an image", microjoules, energy)


def autoencoder() -> Iterator[Row]:
    """Row 6: the board's energy for the measured time."""
    case = cases.autoencoder()
    power = case.profile.power
    dynamic = core_energy(case) + running_energy(case, exactly(cases.AUTOENCODER_US * 1e-6))
    chip = Range.of("power.static_chip", power.static_chip)
    static = (chip + Range.of("power.static_board", power.static_board)) * (case.chips * 1e-3)
    yield Row("autoencoder", CALIBRATES, "board, dynamic, uJ an inference", cases.AUTOENCODER_UJ, dynamic * 1e-3)
    yield Row("autoencoder", CALIBRATES, "board, static, W", cases.AUTOENCODER_STATIC_W, static)


# --- networks that run -----------------------------------------------------------------------------------------------


def nxtf(folder: Path) -> Iterator[Row]:
    """Row 2: the level of the time, and how far apart images are."""
    placed, _ = networks.nxtf(folder)
    first = placed.first(len(NXTF_FIRST_US))
    mean = float(np.mean(NXTF_FIRST_US))
    yield Row("nxtf-mnist", CALIBRATES, "step, closed form, us, 128 images", NXTF_US, _closed(placed))
    yield Row("nxtf-mnist", CALIBRATES, "step, by message, us, 8 images", mean, _by_message(first))
    images = [_closed(first.one(image)) for image in range(len(NXTF_FIRST_US))]
    slowest, fastest = int(np.argmax(NXTF_FIRST_US)), int(np.argmin(NXTF_FIRST_US))
    spread = quotient(images[slowest], images[fastest])
    yield Row("nxtf-mnist", VALIDATES, "slowest / fastest of 8 images", max(NXTF_FIRST_US) / min(NXTF_FIRST_US), spread)
    pairs = [
        (one, other)
        for one, other in permutations(range(len(images)), 2)
        if NXTF_FIRST_US[one] - NXTF_FIRST_US[other] > 2 * NXTF_READING_US
    ]
    order = sum((_follows(images[one], images[other]) for one, other in pairs), exactly(0.0))
    yield Row("nxtf-mnist", VALIDATES, "pairs of these in their order", len(pairs), order)


def pilotnet(folder: Path) -> Iterator[Row]:
    """Row 5: mean and phases of the time of a step, and its energy."""
    placed, refined = (networks.pilotnet(folder, PLACERS[name]) for name in ("Hilbert", "refined"))
    time = _closed(placed)
    yield Row("pilotnet", VALIDATES, "step, closed form, us", PILOTNET_US, time)
    in_order = placed.closed.step_ns[NOMINAL, 0].reshape(-1, len(PILOTNET_PHASES_US)).mean(0) / 1e3
    # which of our steps is the first of the chip's is not said: the longest ones are laid over each other
    phases = np.roll(in_order, -int(in_order.argmax())).tolist()
    for number, (measured, phase) in enumerate(zip(PILOTNET_PHASES_US, phases, strict=True), 1):
        yield Row("pilotnet", VALIDATES, f"phase {number} of 4, us", measured, time * (phase / time.nominal))
    yield Row("pilotnet", VALIDATES, "step, by message, Hilbert curve, us", PILOTNET_US, _by_message(placed))
    yield Row("pilotnet", VALIDATES, "step, by message, refined, us", PILOTNET_US, _by_message(refined))
    duration = Duration(placed.closed, placed.spread)
    energy = on_target(placed.events, placed.mapping, placed.profile, duration)[0]
    per_step = dynamic(energy) * (1e3 / placed.network.time_steps)
    yield Row("pilotnet", CALIBRATES, "chip, dynamic, uJ a step", PILOTNET_UJ, per_step)


def _closed(placed: Placed) -> Range:
    """Mean time of a step by the closed form, in us."""
    low, nominal, high = placed.closed.step_us_mean.tolist()
    return Range(low, nominal, high, nominal * placed.spread.step)


def _by_message(placed: Placed) -> Range:
    """Mean time of a step message by message, in us; as sure as the closed form."""
    return _closed(placed) * float(placed.by_message.step_us_mean[NOMINAL] / placed.closed.step_us_mean[NOMINAL])


def _follows(one: Range, other: Range) -> Range:
    """1 where the one is the larger, else 0."""
    corners = [float(one.low > other.low), float(one.nominal > other.nominal), float(one.high > other.high)]
    return Range(min(corners), corners[NOMINAL], max(corners), (one.draws > other.draws).astype(np.float64))


def quotient(one: Range, other: Range) -> Range:
    """A ratio, all constants being the same for both; its envelope is that of the draws and corners."""
    drawn = one.draws / other.draws
    corners = [one.low / other.low, one.nominal / other.nominal, one.high / other.high]
    return Range(min(*corners, drawn.min()), corners[NOMINAL], max(*corners, drawn.max()), drawn)


# --- the table -------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--nxtf", "nxtf_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pilotnet", "pilotnet_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path))
def main(nxtf_folder: Path | None, pilotnet_folder: Path | None, json_file: Path | None) -> None:
    """Predict every case, print the table, write it."""
    rows = list(by_hand())
    skipped = {}
    if nxtf_folder is None:
        skipped["nxtf-mnist"] = "needs --nxtf FOLDER"
    else:
        rows += nxtf(nxtf_folder)
    if pilotnet_folder is None:
        skipped["pilotnet"] = "needs --pilotnet FOLDER"
    else:
        rows += pilotnet(pilotnet_folder)
    Console(width=WIDE).print(table_of(rows))
    print(summary(rows), flush=True)
    for case, reason in skipped.items():
        click.echo(f"skipped: {case} {reason}", err=True)
    if json_file:
        out = [row.as_json() for row in rows] + [{"case": case, "skipped": why} for case, why in skipped.items()]
        write_whole(json_file, (json.dumps({"rows": out}, indent=1) + "\n").encode())


def table_of(rows: Sequence[Row]) -> Table:
    """All rows, as Markdown."""
    table = Table(box=box.MARKDOWN)
    for column in ("case", "role", "quantity"):
        table.add_column(column, no_wrap=True)
    for column in ("measured", "likely", "envelope", "nominal / measured", "inside"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*cells_of(row))
    return table


def cells_of(row: Row) -> tuple[str, ...]:
    """A row for a person."""
    predicted = row.predicted
    return (
        row.case,
        row.role,
        row.quantity,
        shown(row.measured),
        " to ".join(map(shown, predicted.likely)),
        f"{shown(predicted.low)} to {shown(predicted.high)}",
        f"{predicted.nominal / row.measured:.2f}",
        "yes" if row.inside else "no",
    )


def shown(figure: float) -> str:
    """Four digits, and all of those before the point."""
    return f"{figure:,.0f}" if figure >= 1000 else f"{figure:.4g}"


def summary(rows: Sequence[Row]) -> str:
    """One line."""
    parts = []
    for role in (VALIDATES, CALIBRATES):
        of_role = [row for row in rows if row.role == role]
        parts.append(f"{sum(row.inside for row in of_role)} of {len(of_role)} that {role.removesuffix('s')}")
    return f"Inside the likely interval: {', '.join(parts)}."


if __name__ == "__main__":
    sys.exit(main())
