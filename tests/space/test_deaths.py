"""A sweep whose process is killed at any moment goes on to the same rows; so does one whose worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spikformer_deploy.space.axes import space_of
from spikformer_deploy.space.folder import RESULTS
from spikformer_deploy.space.sweep import sweep_space

pytestmark = pytest.mark.deep

AXES = ("--weight-bits", "3,4", "--time-steps", "1,2", "--targets", "loihi2,kapoho_point", "--limit", "8")
MAIN = "from spikformer_deploy.cli.main import main; main()"
DEATHS = 20


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-c", MAIN, "sweep", "digits-v2", "--input", "digits", *AXES, *options, "-o", str(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """The rows of a sweep that nobody disturbs, and how long it takes, in seconds."""
    folder = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    subprocess.run(command(folder), check=True, capture_output=True)
    return (folder / RESULTS).read_bytes(), time.monotonic() - start


@pytest.mark.parametrize("seed", range(DEATHS))
def test_a_killed_sweep_goes_on(seed: int, whole: tuple[bytes, float], tmp_path: Path) -> None:
    rows, seconds = whole
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(float(np.random.default_rng(seed).uniform(0.2, 1.0)) * seconds)
    process.kill()
    process.wait()
    subprocess.run(command(tmp_path), check=True, capture_output=True)
    assert (tmp_path / RESULTS).read_bytes() == rows


@pytest.mark.parametrize("seed", range(DEATHS))
def test_a_worker_that_dies_changes_no_row(seed: int, whole: tuple[bytes, float], tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    rows, seconds = whole
    process = subprocess.Popen(
        command(tmp_path, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(float(np.random.default_rng(seed).uniform(0.5, 1.0)) * seconds)
    workers = children_of(process.pid)
    if workers:
        os.kill(workers[seed % len(workers)], signal.SIGKILL)
    assert process.wait() == 0
    assert (tmp_path / RESULTS).read_bytes() == rows


def children_of(parent: int) -> list[int]:
    """Processes of workers that are there."""
    psutil = pytest.importorskip("psutil")
    every = psutil.Process(parent).children(recursive=True)
    return sorted(process.pid for process in every if any("spawn_main" in word for word in process.cmdline()))


def test_workers_give_the_same_rows(tmp_path: Path, whole: tuple[bytes, float]) -> None:
    pytest.importorskip("distributed")
    space = space_of(
        models=("digits-v2",),
        input="digits",
        weight_bits=(3, 4),
        time_steps=(1, 2),
        targets=("loihi2", "kapoho_point"),
        limit=8,
    )
    sweep_space(space, tmp_path, workers=2)
    assert (tmp_path / RESULTS).read_bytes() == whole[0]
