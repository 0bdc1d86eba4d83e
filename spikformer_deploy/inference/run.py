"""Run a program on images: stream batches through an executor, count events, estimate time, account for energy.

What has been found so far can be kept in a file as the run goes, and an interrupted run goes on from there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from spikformer_deploy.accounting.energy import account
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.counts.events import Geometry, count, geometry
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.read import read
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Execution, Request
from spikformer_deploy.inference import tally as tally_file
from spikformer_deploy.inference.messages import message_times
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.tally import Tally
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.hops import HopTable, hop_table, mean_hops
from spikformer_deploy.timing.machine import machine
from spikformer_deploy.timing.traffic import check_spatial, traffic

SAVE_SECONDS = 5.0


def run(
    program: Program,
    data: str | Path | NDArray[Any] | ImageSet,
    *,
    backend: str = "engine",
    device: str = "cpu",
    timing: str = "estimate",
    limit: int | None = None,
    labels: str | Path | None = None,
    memory_limit: int | None = None,
    unfinished: Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Run:
    """Run `program` on `data` (see images.read), in batches so that memory stays bounded.

    backend       one of executors.choose.EXECUTORS
    timing        "estimate": the closed form; "cycle": besides, the first images message by message; or "none"
    device        "cpu", or "cuda" for the engine on a GPU: the same integers
    labels        a file of the classes of the images (see labels.py)
    memory_limit  bytes that the process may take
    unfinished    a file that holds what has been found so far, every few seconds; the caller removes it at the end
    resume        go on from that file, where there is one
    progress      called with (images done, images in all, a remark)
    Raises InputError for images that do not fit, a limit that is too low, or a file of another run; OverflowDetected
    where a state leaves its bits.
    """
    if not isinstance(data, ImageSet):
        data = read(data, program.preprocess, limit=limit, frames=program.frames, labels=labels)
    images = data.of_classes(program.labels, program.network.output.size)
    if not len(images):
        raise InputError("input", "there are no images", "Give at least one.")
    there = geometry(program.network, program.mapping)
    if timing == "cycle":
        check_spatial(program.mapping)

    def note_batch(_done: int, _total: int, note: str) -> None:
        progress(0 if tally is None else len(tally.accumulators), len(images), note)

    execute, batch = prepare(backend, Request(program.network, there.cells, device, memory_limit, note_batch))
    closed = "none" if timing == "none" else "estimate"
    table = None if timing == "none" else _hop_table(program, there)
    identity = {"program": program.digest(), "images": images.identity, "backend": backend, "timing": closed}
    tally = tally_file.load(unfinished, identity) if resume and unfinished and unfinished.exists() else None
    start = saved = time.monotonic()
    try:
        for pixels, _ in images.batches(batch, 0 if tally is None else len(tally.accumulators)):
            done = 0 if tally is None else len(tally.accumulators)
            seen = int(pixels.max()), images.lost_in(slice(done, done + len(pixels)))
            tally = tally_file.added(tally, _batch(program, there, execute(pixels), table, seen))
            progress(len(tally.accumulators), len(images), _remark(tally, images))
            if unfinished and time.monotonic() - saved > SAVE_SECONDS:
                tally_file.save(tally, unfinished, identity)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if unfinished and tally is not None:
            tally_file.save(tally, unfinished, identity)
        raise
    assert tally is not None
    if unfinished and timing == "cycle":
        tally_file.save(tally, unfinished, identity)
    cycle = message_times(program, images, there, tally, progress) if timing == "cycle" else None
    times = cycle or tally.times
    mapped = (program.mapping, program.profile, times) if times else (None, None, None)
    return Run(
        program, images, backend, tally.kernels, tally.accumulators, images.labels, tally.events, tally.times, cycle,
        account(program.network, tally.events, *mapped), time.monotonic() - start, peak_memory_mib(),
        images.all_notes(tally.brightest, tally.lost),
    )  # fmt: skip


def _hop_table(program: Program, there: Geometry) -> HopTable:
    mesh = machine(program.profile, program.mapping).mesh
    return hop_table(traffic(there, program.profile), mesh, there.cells)


def _batch(
    program: Program, there: Geometry, execution: Execution, table: HopTable | None, seen: tuple[int, int]
) -> Tally:
    """What a batch adds; seen: its largest pixel, and the events that are lost in it."""
    events = count(there, execution)
    times = None
    if table is not None:
        times = estimate(events, program.network, program.mapping, program.profile)
        times = replace(times, hops=mean_hops(table, execution.activity))
    return Tally(execution.accumulators, events, times, execution.kernels, *seen)


def _remark(tally: Tally, images: ImageSet) -> str:
    if images.labels is None:
        return ""
    done = len(tally.accumulators)
    return f"accuracy {(tally.accumulators.argmax(1) == images.labels[:done]).mean():.2%}"
