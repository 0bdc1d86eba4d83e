"""Run a network in Lava's CPU models: export it to a temporary folder and run that in a process of its own.

Lava forks, which a process that has imported torch does not survive: the child never imports it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import BackendError, InputError, OverflowDetected
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.executors.execution import Cells, Execution, Executor, Request, frames
from spikformer_deploy.executors.lava.export import write
from spikformer_deploy.executors.recorded import execution
from spikformer_deploy.network.mapping import Way
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import may_idle

AT_ONCE = 8
"""Images that go through Lava's Processes side by side: messages cost more than what they carry."""
RECORDED_BYTES = 2**28
"""Images are run in batches whose recorded messages stay below this."""
PATIENCE = 0.05
"""Seconds between two looks at the child."""


def check_installed() -> None:
    """Raise InputError where lava-nc is missing."""
    if importlib.util.find_spec("lava") is None:
        raise InputError(
            "lava",
            "lava-nc is not installed",
            "Install it: spikdeploy setup lava\n"
            "  (pip install asteval && pip install --no-deps --ignore-requires-python lava-nc==0.10.0)",
        )


def prepare(request: Request) -> Executor:
    """Lava, started anew for each batch; raises InputError where it is missing."""
    check_installed()
    network = request.network
    # a start costs seconds: batches are as large as memory lets them be, and not only BATCH images
    batch = max(1, RECORDED_BYTES // (4 * network.time_steps * sum(p.size for p in network)))
    return Executor(
        lambda images, record=(): execute(
            network, images, record=record, cells=request.cells, ways=request.ways, progress=request.progress
        ),
        batch,
    )


def execute(
    network: Network,
    images: NDArray[np.integer],
    *,
    record: Sequence[str] = (),
    cells: Mapping[str, Cells] | None = None,
    ways: Mapping[str, Way] | None = None,
    progress: Progress = silent,
) -> Execution:
    """Run `images` in Lava; arguments and result as reference.execute, ways as of export.export.

    peak_state is the largest potential after a reset, of the accumulator, of recorded populations and of those that
    `may_idle`, and the largest value that streams, sums and maxima send.
    Raises InputError where lava-nc is missing or images do not fit, OverflowDetected where a potential leaves its bits,
    BackendError where Lava fails.
    """
    check_installed()
    frames(network, images)
    with tempfile.TemporaryDirectory(prefix="spk-lava-") as name:
        folder = Path(name)
        write(network, folder / "network", ways)
        np.save(folder / "images.npy", images)
        # an accumulator sends its state: it is known without its potential
        named = set(record) - {network.output.name}
        potentials = bool(named) or any(may_idle(p.neuron) for p in network)
        _run(folder, "all" if potentials else "spikes", progress)
        return _execution(network, folder / "results", len(images), record, cells)


def _run(folder: Path, record: str, progress: Progress) -> None:
    log = folder / "log"
    arguments = [str(folder / "images.npy"), "-o", str(folder / "results"), "--at-once", str(AT_ONCE)]
    command = [sys.executable, "run.py", *arguments, "--record", record]
    # sockets of Lava's go with the folder, however it ends
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)}
    with log.open("wb") as out, (folder / "errors").open("wb") as errors:
        child = subprocess.Popen(
            command, cwd=folder / "network", env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
    try:
        read = 0
        while child.poll() is None:
            time.sleep(PATIENCE)
            read = _follow(log, read, progress)
        _follow(log, read, progress)
    finally:
        _end(child)
    if child.returncode:
        _fail((folder / "errors").read_text(errors="replace"), child.returncode)


def _follow(log: Path, read: int, progress: Progress) -> int:
    """Report what the child has printed since position `read`; the new position."""
    with log.open() as file:
        file.seek(read)
        for line in file:
            step = re.fullmatch(r"step (\d+) of (\d+) ([\d.]+) s\n", line)
            if step:
                note = f"Lava: step {step[1]} of {step[2]}, {float(step[3]):.1f} s with its start"
                progress(int(step[1]), int(step[2]), note)
        return file.tell()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave no process of the child's session behind; what tracks its shared memory cleans up after the others."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, sign)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and _alive(child):
            time.sleep(PATIENCE)
    child.wait()


def _alive(child: subprocess.Popen[bytes]) -> bool:
    child.poll()
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _fail(errors: str, code: int) -> None:
    lines = [line for line in errors.strip().splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {code}"
    overflow = re.fullmatch(r"OverflowError: (.+?): (.+)", last)
    if overflow:
        way_out = "Calibrate on images like these, or compile with fewer weight bits."
        raise OverflowDetected(overflow[1], overflow[2], way_out)
    places = [line.strip() for line in lines if line.strip().startswith("File ")]
    raise BackendError("lava", f"a Process failed: {last}", f"It was in {places[-1]}." if places else "")


def _execution(
    network: Network, results: Path, images: int, record: Sequence[str], cells: Mapping[str, Cells] | None
) -> Execution:
    sent = {p.name: _load(network, results, i, "sent", images) for i, p in enumerate(network)}
    potentials = {
        p.name: _load(network, results, i, "potentials", images)
        for i, p in enumerate(network)
        if may_idle(p.neuron) or (p.name in record and p.neuron.fires)
    }
    potentials[network.output.name] = sent.pop(network.output.name)  # an accumulator sends its state
    accumulators = np.load(results / "accumulators.npy")
    return execution(network, accumulators, sent, potentials, record, cells, "lava.magma fixed_pt")


def _load(network: Network, results: Path, index: int, what: str, images: int) -> NDArray[np.int64]:
    """(images, T, C, Y, X) from (batches * T, at once, Y, X, C)."""
    (channels, height, width), steps = network.populations[index].shape, network.time_steps
    values = np.load(results / f"{index}.{what}.npy")
    by_batch = values.reshape(-1, steps, values[0].size // (channels * height * width), height, width, channels)
    return by_batch.transpose(0, 2, 1, 5, 3, 4).reshape(-1, steps, channels, height, width)[:images].astype(np.int64)
