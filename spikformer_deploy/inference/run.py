"""Run a program on images: stream batches through an executor, count events, estimate time, account for energy.

What has been found so far can be kept in a file as the run goes, and an interrupted run goes on from there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from spikformer_deploy.base.errors import BackendError, InputError
from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.base.words import check_word
from spikformer_deploy.chips import profile as hardware
from spikformer_deploy.data.images import ImageSet
from spikformer_deploy.data.read import read
from spikformer_deploy.executors.execution import BATCH
from spikformer_deploy.inference import tally as tally_file
from spikformer_deploy.inference.batches import Batches
from spikformer_deploy.inference.messages import message_times
from spikformer_deploy.inference.parts import Source, check_sending, source
from spikformer_deploy.inference.record import record
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.seam import Pool, in_order, pool
from spikformer_deploy.inference.tally import Tally
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.timing.traffic import check_timed

SAVE_SECONDS = 5.0
"""Between two writings of what has been found so far: little is lost, and little time is spent."""

TIMINGS = ("estimate", "cycle", "none")
"""How long the chip takes: by the closed form, by messages besides, or not at all."""


def run(
    program: Program,
    data: str | Path | NDArray[Any] | ImageSet,
    *,
    backend: str = "engine",
    device: str = "cpu",
    timing: str = "estimate",
    runtime: str = "lava",
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
    memory_limit: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    send_images: bool = False,
    unfinished: Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Run:
    """Run `program` on `data` (see data.read), in batches so that memory stays bounded.

    backend       one of executors.choose.EXECUTORS
    timing        "estimate": the closed form; "cycle": besides, the first images message by message; or "none"
    runtime       "lava", or "bare": one that costs nothing; the other one's times are given too
    device        "cpu", or "cuda" for the engine on a GPU: the same integers
    labels        a file of the classes of the images (see data/labels.py)
    task          "classification" or "regression": what is beside the images, classes or real targets; None: as the
                  program says
    memory_limit  bytes that the process may take; with workers: each of them
    workers       that many processes of this machine; scheduler: the address of workers that are there (see seam.pool)
    send_images   with workers: files are read here and sent, instead of being read by the workers
    unfinished    a file that holds what has been found so far, every few seconds; the caller removes it at the end
    resume        go on from that file, where there is one
    progress      called with (images done, images in all, a note)
    Raises InputError for images that do not fit, a limit that is too low, or a file of another run; OverflowDetected
    where a state leaves its bits; BackendError where the workers are lost.
    """
    check_sending(send_images, workers, scheduler)
    check_word("--timing", timing, TIMINGS)
    if device != "cpu" and workers is not None:
        problem = f"processes of one machine would share its GPU, and {workers} are asked for"
        raise InputError("--workers", problem, "Leave it out, or start a worker for each GPU and give --scheduler.")
    images = images_for(program, data, limit, labels, task)
    of_file = program
    program = replace(program, profile=hardware.under(program.profile, runtime))
    if timing == "cycle":
        check_timed(program.mapping)
    saved = _Saved(unfinished, resume, of_file, images, backend, timing, runtime)
    with pool(workers, scheduler) as crew:
        origin = source(images, crew, send_images)
        work = Batches(program, origin.sent, backend, device, timing != "none", memory_limit)
        if not crew.elsewhere:
            work = _here(work, saved, progress)
        start = time.monotonic()
        tally, peak_mib = _all_batches(work, origin, crew, saved, progress)
        cycle = None
        if timing == "cycle":
            # it takes long, and needs all of what the batches gave
            saved.now()
            cycle = message_times(program, origin, crew, tally, progress)
    peak_mib = max(peak_mib, peak_memory_mib())
    return record(of_file, images, tally, backend, runtime, cycle, time.monotonic() - start, peak_mib)


class _Saved:
    """What has been found so far, and the file of an unfinished run, where there is to be one."""

    def __init__(
        self,
        path: Path | None,
        resume: bool,
        program: Program,
        images: ImageSet,
        backend: str,
        timing: str,
        runtime: str,
    ) -> None:
        # the message-level model comes after the batches: what they give is that of the closed form
        batches = "none" if timing == "none" else "estimate"
        self._run = {"program": program.digest(), "images": images.identity, "backend": backend, "timing": batches}
        self._run["runtime"] = runtime
        self._path = path
        self._last = time.monotonic()
        self.tally: Tally | None = None
        if resume and path and path.exists():
            self.tally = tally_file.load(path, self._run)

    @property
    def done(self) -> int:
        """Images that are in the tally."""
        return 0 if self.tally is None else len(self.tally.accumulators)

    def add(self, more: Tally) -> Tally:
        """The tally with a batch more; it is written, unless that was a moment ago."""
        self.tally = tally_file.added(self.tally, more)
        if time.monotonic() - self._last > SAVE_SECONDS:
            self.now()
        return self.tally

    def now(self) -> None:
        """Write the tally."""
        if self._path and self.tally is not None:
            tally_file.save(self.tally, self._path, self._run)
            self._last = time.monotonic()


def _here(work: Batches, saved: _Saved, progress: Progress) -> Batches:
    """The same work with an executor that is ready in this process, and says how far it is in a batch."""
    count = len(work.images)

    def note_batch(_done: int, _total: int, note: str) -> None:
        progress(saved.done, count, note)

    work = replace(work, progress=note_batch)
    _ = work.executor, work.hops
    return work


def _all_batches(work: Batches, origin: Source, crew: Pool, saved: _Saved, progress: Progress) -> tuple[Tally, float]:
    """The tally of all images, and the largest peak memory of a process in MiB.

    An interrupted run leaves what it has.
    """
    peak_mib = 0.0
    parts = origin.parts(BATCH if crew.elsewhere else work.executor.batch, saved.done)
    try:
        for more, mib in in_order(crew.map(work, parts)):
            peak_mib = max(peak_mib, mib)
            tally = saved.add(more)
            progress(saved.done, len(origin.images), _accuracy_so_far(tally, origin.images))
    except (KeyboardInterrupt, BackendError):
        saved.now()
        raise
    assert saved.tally is not None
    return saved.tally, peak_mib


def images_for(
    program: Program,
    data: str | Path | NDArray[Any] | ImageSet,
    limit: int | None = None,
    labels: str | Path | None = None,
    task: str | None = None,
) -> ImageSet:
    """The images, with the labels of the program's classes."""
    if not isinstance(data, ImageSet):
        data = read(data, program.preprocess, limit=limit, frames=program.frames, labels=labels, task=task)
    images = data.of_classes(program.labels, program.network.output.size)
    if not len(images):
        raise InputError("input", "there are no images", "Give at least one.")
    return images


def _accuracy_so_far(tally: Tally, images: ImageSet) -> str:
    if images.labels is None:
        return ""
    right = tally.accumulators.argmax(1) == images.labels[: len(tally.accumulators)]
    return f"accuracy {right.mean():.2%}"
