"""How long commands take from the first second on: wall times of whole processes, with kernels to compile and without.

    python benchmarks/start.py [--rounds N] [--warm] [--json FILE]

Cold: numba's cache is an empty folder, one for each command.  Warm: the folder that the cold run has filled, the best
of some rounds.  The files of torch and numba are in the system's memory in both: this script has loaded them itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from engine import cpu

from spikformer_deploy.base.files import write_whole

WIDE = 110
"""Columns of the table, also where it goes to a file."""
PACKAGES = ("torch", "numba", "numpy")
COMMAND = ("-m", "spikformer_deploy")


@dataclass(frozen=True)
class Case:
    """What is started, the arguments of Python, and the seconds that it may take, cold and warm; None: no matter."""

    name: str
    arguments: tuple[str, ...]
    goals: tuple[float | None, float | None] = (None, None)


CASES = (
    Case("import spikformer_deploy", ("-c", "import spikformer_deploy")),
    Case("spikdeploy --help", (*COMMAND, "--help"), (0.3, 0.3)),
    Case("spikdeploy compile digits-v2", (*COMMAND, "compile", "digits-v2", "-o", "digits.spk"), (None, 6.0)),
    Case("spikdeploy run digits.spk --input digits", (*COMMAND, "run", "digits.spk", "--input", "digits"), (None, 4.0)),
    Case("spikdeploy demo", (*COMMAND, "demo"), (75.0, 35.0)),
)
"""In this order: what is compiled is run."""


@click.command()
@click.option("--rounds", default=3, show_default=True, help="Warm runs; the best one counts.")
@click.option("--warm", is_flag=True, help="With the cache that is there, and no empty one.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False), help="Write the figures here too.")
def main(rounds: int, warm: bool, json_file: str | None) -> None:
    """Measure, print the table, write JSON."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(case, Path(folder), rounds, cold=not warm) for case in CASES]
    figures = {
        "cpu": cpu(),
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": {package: version(package) for package in PACKAGES},
        "rows": rows,
    }
    Console(width=WIDE).print(table(figures))
    if json_file:
        write_whole(Path(json_file), (json.dumps(figures, indent=2) + "\n").encode())


def measured(case: Case, folder: Path, rounds: int, *, cold: bool) -> dict[str, Any]:
    """Seconds of one command, which works in `folder`."""
    row: dict[str, Any] = {"name": case.name, "goals": case.goals, "cold": None}
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as cache:
        if cold:
            environment["NUMBA_CACHE_DIR"] = cache
            row["cold"] = seconds(case, folder, environment)
        row["warm"] = [seconds(case, folder, environment) for _ in range(rounds)]
    return row


def seconds(case: Case, folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Wall time of a process, and CPU time with that of its children."""
    before = os.times()
    start = time.perf_counter()
    subprocess.run([sys.executable, *case.arguments], cwd=folder, env=environment, capture_output=True, check=True)
    wall = time.perf_counter() - start
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": wall, "cpu": spent}


def table(figures: dict[str, Any]) -> Table:
    """The rows for a person."""
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    out = Table(title=f"wall seconds of whole processes (CPU seconds); {figures['cpus']} CPUs of {figures['cpu']}")
    out.caption = f"Python {figures['python']}, {versions}"
    for column in ("command", "cold", "goal", "warm", "goal"):
        out.add_column(column, justify="left" if column == "command" else "right")
    for row in figures["rows"]:
        best = min(row["warm"], key=lambda times: times["wall"])
        cold_goal, warm_goal = ("-" if goal is None else f"{goal:g}" for goal in row["goals"])
        out.add_row(row["name"], shown(row["cold"]), cold_goal, shown(best), warm_goal)
    return out


def shown(times: dict[str, float] | None) -> str:
    """Wall and CPU seconds of a process."""
    return "-" if times is None else f"{times['wall']:.2f} ({times['cpu']:.2f})"


if __name__ == "__main__":
    main()
