"""The loop that all trainings share, resumable at any batch.

A run that is killed and started again ends with the same weights as one that was not: the resume file holds the model,
the average and the optimiser, and everything random follows from the seed and the position.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_file, check_output, write_whole, writing
from spikformer_deploy.base.json_text import written
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.training.distributed import World
from spikformer_deploy.training.recipe import Optimiser
from spikformer_deploy.training.schedule import learning_rate, parameter_groups

LOG = ".log"
RESUME = ".resume"
TENSORBOARD = ".tensorboard"
"""Suffixes of the files beside the output."""
KEEP_SECONDS = 300
"""A resume file is written at least that often, and after every epoch."""

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Job:
    """What is learnt, in the words of the loop.

    batches   (epoch, first batch) -> batches of this process; steps: their number in an epoch
    loss      of a batch
    measure   of the module with averaged weights, after every epoch, for the log
    identity  of the recipe: a resume file of another one is refused
    """

    settings: Optimiser
    steps: int
    batches: Callable[[int, int], Iterator[Batch]]
    loss: Callable[[nn.Module, Batch], Tensor]
    measure: Callable[[nn.Module], dict[str, float]]
    identity: str
    output: Path


@dataclass(slots=True)
class State:
    """Everything that changes during a run; `batches` have been learnt from, `losses` are those of this epoch."""

    module: nn.Module
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    batches: int = 0
    losses: list[float] = field(default_factory=list)


def fit(module: nn.Module, job: Job, world: World, progress: Progress = silent) -> None:
    """Train `module`; it ends with the averaged weights.  The resume file stays until `finished`.

    progress  called by the first process after every batch with (batches done, batches in all, a note)
    Beside the output stands `<output>.log`, one JSON object an epoch.
    Raises InputError where the resume file belongs to another recipe.
    """
    module.to(world.device)
    average = {key: value.clone() for key, value in module.state_dict().items()}
    optimiser = torch.optim.AdamW(parameter_groups(module, job.settings), job.settings.learning_rate)
    state = State(module, average, optimiser)
    _restore(state, job)
    parallel = world.parallel(module)
    for number in range(state.batches // job.steps, job.settings.epochs):
        _epoch(state, parallel, job, world, number, progress)
        if world.first:
            _log(state, job, number)
        state.losses = []
        if world.first:
            _keep(state, job)
        world.wait()
    module.load_state_dict(state.average)


def check_outputs(output: Path, *suffixes: str) -> None:
    """Raise InputError where `output` cannot be written, or a file beside it: the loop's, or with one of `suffixes`."""
    for suffix in ("", LOG, RESUME, *suffixes):
        check_output(Path(f"{output}{suffix}"))


def check_batch(settings: Optimiser, images: int, world: World) -> None:
    """Raise InputError where batches are larger than all images together, or do not divide among the processes."""
    if settings.batch > images or settings.batch % world.size:
        problem = f"{settings.batch} of {images} images, for {world.size} processes"
        raise InputError("optimiser.batch", problem, "Use a smaller multiple of the number of processes.")


def finished(job: Job) -> None:
    """The result is in a file of its own: the resume file goes."""
    _resume_file(job).unlink(missing_ok=True)


def _epoch(state: State, parallel: nn.Module, job: Job, world: World, number: int, progress: Progress) -> None:
    """Learn from the batches of one epoch that are left, and write the resume file now and then."""
    # not 0 in the epoch in which an interrupted run stopped
    first = state.batches - number * job.steps
    last_kept = time.monotonic()
    parallel.train()
    for step, (x, y) in enumerate(job.batches(number, first), first):
        batch = x.to(world.device), y.to(world.device)
        state.losses.append(_learn(state, parallel, job, world, batch, number + step / job.steps))
        state.batches += 1
        if world.first and time.monotonic() - last_kept > KEEP_SECONDS:
            _keep(state, job)
            last_kept = time.monotonic()
        if world.first:
            progress(state.batches, job.steps * job.settings.epochs, f"epoch {number + 1}, loss {state.losses[-1]:.3f}")


def _learn(state: State, parallel: nn.Module, job: Job, world: World, batch: Batch, position: float) -> float:
    """One step of the optimiser; returns the loss."""
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(job.settings, position) * group["factor"]
    with torch.autocast(world.device.type, torch.bfloat16, enabled=job.settings.bf16):
        loss = job.loss(parallel, batch)
    state.optimiser.zero_grad()
    loss.backward()
    state.optimiser.step()
    _average(state, job.settings.ema)
    return world.mean(loss)


@torch.no_grad()
def _average(state: State, decay: float) -> None:
    """Move the average; it forgets the first weights faster than `decay` says, as TensorFlow's does."""
    decay = min(decay, (1 + state.batches) / (10 + state.batches))
    for key, value in state.module.state_dict().items():
        if value.is_floating_point():
            state.average[key].lerp_(value, 1 - decay)
        else:
            state.average[key].copy_(value)


def _log(state: State, job: Job, number: int) -> None:
    """Append one line on epoch `number` to `<output>.log`; a new run begins a new file."""
    # the average is what is kept in the end, and so what is measured; learning goes on with the weights themselves
    learnt = {key: value.clone() for key, value in state.module.state_dict().items()}
    state.module.load_state_dict(state.average)
    line: dict[str, Any] = {
        "epoch": number + 1,
        "loss": round(sum(state.losses) / len(state.losses), 4),
        **job.measure(state.module),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    state.module.load_state_dict(learnt)
    log = job.output.with_name(job.output.name + LOG)
    with writing(log), log.open("a" if number else "w", encoding="utf-8") as stream:
        stream.write(written(line) + "\n")
    if job.settings.tensorboard:
        _to_tensorboard(job, line)


def _to_tensorboard(job: Job, line: dict[str, Any]) -> None:
    """The line of the log for TensorBoard, too; InputError where that is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "optimiser.tensorboard", "TensorBoard is not installed", "Install spikformer-deploy[training]."
        ) from None
    with SummaryWriter(job.output.with_name(job.output.name + TENSORBOARD)) as writer:
        for key, value in line.items():
            if isinstance(value, float):
                writer.add_scalar(key, value, line["epoch"])


# --- the resume file --------------------------------------------------------------------------------------------


def _resume_file(job: Job) -> Path:
    return job.output.with_name(job.output.name + RESUME)


def _keep(state: State, job: Job) -> None:
    """Write the resume file, whole."""
    content = {
        "recipe": job.identity,
        "module": state.module.state_dict(),
        "average": state.average,
        "optimiser": state.optimiser.state_dict(),
        "batches": state.batches,
        "losses": state.losses,
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    write_whole(_resume_file(job), stream.getvalue())


def _restore(state: State, job: Job) -> None:
    """Go on where an interrupted run of the same recipe stopped; a resume file of another recipe is refused."""
    resume = _resume_file(job)
    if not resume.exists():
        return
    check_file(resume)
    try:
        content = torch.load(resume, weights_only=True, map_location=next(state.module.parameters()).device)
        recipe = content["recipe"]
    except Exception as error:  # whatever a damaged pickle makes of the functions that it may call
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(str(resume), f"it is no readable resume file: {reason}", "Delete it to start anew.") from None
    if recipe != job.identity:
        raise InputError(
            str(resume), "it belongs to another recipe", "Delete it to start anew, or choose another output."
        )
    state.module.load_state_dict(content["module"])
    state.average = content["average"]
    state.optimiser.load_state_dict(content["optimiser"])
    state.batches = content["batches"]
    state.losses = content["losses"]
