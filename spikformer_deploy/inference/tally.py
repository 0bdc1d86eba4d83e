"""What a run has found after some of its images, and the file that an interrupted run goes on from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_file, write_whole
from spikformer_deploy.base.flat import built, checksum, flat
from spikformer_deploy.base.json_text import parsed, sealed
from spikformer_deploy.counts.events import Events, condensed, join
from spikformer_deploy.timing.times import StepTimes, join_times

ENTRY = "spikformer_deploy_run"


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The first images of a run.

    accumulators  (images, classes) int64
    classes       (images, T) int32: the class after each time step
    events        of all of them, those of slices summed over the images; times: None where no timing was asked for
    shorter       times of the first `by_step.timed(T)` steps but T, as `times`; () where no timing was asked for
    kernels       which ran; those of different machines with "; " between
    brightest     the largest pixel; lost: events that frames do not hold
    """

    accumulators: NDArray[np.int64]
    classes: NDArray[np.int32]
    events: Events
    times: StepTimes | None
    shorter: tuple[StepTimes, ...]
    kernels: str
    brightest: int
    lost: int


def added(first: Tally | None, more: Tally) -> Tally:
    """The tally of the images of both."""
    if first is None:
        return replace(more, events=condensed(more.events))
    times = None if first.times is None or more.times is None else join_times(first.times, more.times)
    events = join([first.events, condensed(more.events)])
    return Tally(
        accumulators=np.concatenate([first.accumulators, more.accumulators]),
        classes=np.concatenate([first.classes, more.classes]),
        events=condensed(events),
        times=times,
        shorter=tuple(join_times(*pair) for pair in zip(first.shorter, more.shorter, strict=True)),
        kernels="; ".join(sorted({*first.kernels.split("; "), *more.kernels.split("; ")})),
        brightest=max(first.brightest, more.brightest),
        lost=first.lost + more.lost,
    )


def save(tally: Tally, path: Path, run: dict[str, str]) -> None:
    """Write the tally, whole or not at all.

    run  what makes it this run and no other: name -> value (program, images, backend, ...)
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    structure = {"run": run, "tally": flat(tally, "tally", tensors)}
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    structure["sha256"] = checksum(structure, tensors)
    write_whole(path, save_tensors(tensors, {ENTRY: sealed(structure)}))


def load(path: Path, run: dict[str, str]) -> Tally:
    """The tally in a file of `save`.  Raises InputError where it is damaged, or of another run."""
    check_file(path, "Run without --resume.")
    try:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        structure = parsed(parsed(content[8 : 8 + size])["__metadata__"][ENTRY])
        tensors = load_tensors(content)
        intact = structure.pop("sha256") == checksum(structure, tensors)
        tally: Tally = built(Tally, structure["tally"], tensors, "tally")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(str(path), f"it is no readable unfinished run: {error}", "Run without --resume.") from None
    if not intact:
        raise InputError(str(path), "its content does not match its checksum", "Run without --resume.")
    for name, value in run.items():
        if structure["run"].get(name) != value:
            problem = f"it is of another run: {name} is {structure['run'].get(name)}, now {value}"
            raise InputError(str(path), problem, "Run without --resume, or as before.")
    return tally
