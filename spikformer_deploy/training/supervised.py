"""Direct training of a Spikformer with surrogate gradients, resumable at any batch.

A run that is killed and started again ends with the same weights as one that was not: the resume file holds the model,
the average and the optimiser, and everything random follows from the seed and the position.  The test split is looked
at once, after the last epoch.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikformer_deploy.converters.checkpoint import load, save
from spikformer_deploy.errors import InputError
from spikformer_deploy.files import check_folder, write_whole
from spikformer_deploy.images import Preprocess
from spikformer_deploy.nn.zoo import ModelConfig, build
from spikformer_deploy.training.data import Labelled, epoch, normalised, read_test, read_training
from spikformer_deploy.training.recipe import Optimiser, Recipe, describe, read_recipe

KEEP_SECONDS = 300
"""A resume file is written at least so often, and after every epoch."""

Report = Callable[[int, int, str], None]


@dataclass(slots=True)
class _State:
    """Everything that changes during a run; `batches` have been learnt from, `losses` are those of this epoch."""

    module: nn.Module
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    batches: int = 0
    losses: list[float] = field(default_factory=list)


def train(
    recipe: str | Path | Recipe, output: str | Path | None = None, *, report: Report | None = None
) -> dict[str, Any]:
    """Train by a recipe and write the checkpoint; returns {"output", "train_accuracy", "test_accuracy", "seconds"}.

    report  called after every batch with (batches done, batches in all, a remark)
    Beside the output stands `<output>.log`, one JSON object an epoch.
    Raises InputError for a recipe or data that cannot be used.  A run that was interrupted goes on where it stopped.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    target, start = Path(output or recipe.output), time.monotonic()
    check_folder(target)
    training, validation, preprocess, labels = read_training(recipe.data)
    config = _config(recipe, len(labels))
    state = _fresh(recipe, config)
    resume = target.with_name(target.name + ".resume")
    _restore(state, resume, recipe)
    steps = len(training) // recipe.optimiser.batch
    if not steps:
        raise InputError("optimiser.batch", f"{recipe.optimiser.batch} of {len(training)} images", "Use smaller ones.")
    for number in range(state.batches // steps, recipe.optimiser.epochs):
        _run_epoch(state, recipe, preprocess, training, number, resume, report)
        _log(state, recipe, preprocess, validation, number, target)
        state.losses = []
        _keep(state, resume, recipe)
    state.module.load_state_dict(state.average)
    test = read_test(recipe.data, preprocess, labels)
    result = {
        "train_accuracy": accuracy(state.module, training, preprocess),
        "test_accuracy": accuracy(state.module, test, preprocess),
    }
    header = {"recipe": describe(recipe), "torch": torch.__version__.split("+")[0], **result}
    save(target, state.module, config, preprocess, labels, header)
    resume.unlink(missing_ok=True)
    return {"output": str(target), **result, "seconds": time.monotonic() - start}


@torch.inference_mode()
def accuracy(module: nn.Module, images: Labelled, preprocess: Preprocess, batch: int = 128) -> float:
    """Share of images whose largest logit is their label."""
    module.eval()
    right = 0
    for first in range(0, len(images), batch):
        part = slice(first, first + batch)
        logits = module(normalised(images.pixels[part], preprocess))
        right += int((logits.argmax(1) == torch.from_numpy(images.labels[part])).sum())
    return right / len(images)


def learning_rate(settings: Optimiser, position: float) -> float:
    """Linear warm-up, then half a cosine down to zero; `position` in epochs."""
    if position < settings.warmup_epochs:
        return settings.learning_rate * (position + 1e-3) / settings.warmup_epochs
    through = (position - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * through))


# --- one run ----------------------------------------------------------------------------------------------------


def _config(recipe: Recipe, classes: int) -> ModelConfig:
    model, data = recipe.model, recipe.data
    return ModelConfig(
        model.family, model.form, model.depth, model.dim, model.heads, model.time_steps, data.channels, data.size,
        classes, model.mlp_ratio, model.stem_stages,
    )  # fmt: skip


def _fresh(recipe: Recipe, config: ModelConfig) -> _State:
    torch.manual_seed(recipe.optimiser.seed)
    module = build(config)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.constant_(layer.weight, recipe.start.norm_gain)
    if recipe.start.checkpoint:
        _start_from(module, config, recipe.start.checkpoint)
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        module.parameters(), recipe.optimiser.learning_rate, weight_decay=recipe.optimiser.weight_decay
    )
    average = {key: value.clone() for key, value in module.state_dict().items()}
    return _State(module, average, optimiser)


def _start_from(module: nn.Module, config: ModelConfig, path: str) -> None:
    """Weights of an earlier training; InputError where its sizes are others."""
    earlier = load(path, time_steps=config.time_steps)
    if earlier.config != config:
        raise InputError("start.checkpoint", f"{path} holds {earlier.config}, and the recipe asks for {config}")
    module.load_state_dict(earlier.module.state_dict())


def _run_epoch(
    state: _State,
    recipe: Recipe,
    preprocess: Preprocess,
    images: Labelled,
    number: int,
    resume: Path,
    report: Report | None,
) -> None:
    settings = recipe.optimiser
    steps, kept = len(images) // settings.batch, time.monotonic()
    first = state.batches - number * steps
    state.module.train()
    batches = epoch(images, preprocess, recipe.augment, settings.batch, settings.seed, number, first)
    for step, (x, y) in enumerate(batches, first):
        state.losses.append(_learn(state, settings, x, y, number + step / steps))
        state.batches += 1
        if time.monotonic() - kept > KEEP_SECONDS:
            _keep(state, resume, recipe)
            kept = time.monotonic()
        if report is not None:
            report(state.batches, steps * settings.epochs, f"epoch {number + 1}, loss {state.losses[-1]:.3f}")


def _learn(state: _State, settings: Optimiser, x: Tensor, y: Tensor, position: float) -> float:
    """One step of the optimiser; returns the loss."""
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(settings, position)
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
        logits = state.module(x.contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(logits.float(), y, label_smoothing=settings.label_smoothing)
    state.optimiser.zero_grad()
    loss.backward()
    state.optimiser.step()
    _average(state, settings.ema)
    return float(loss.detach())


@torch.no_grad()
def _average(state: _State, decay: float) -> None:
    for key, value in state.module.state_dict().items():
        if value.is_floating_point():
            state.average[key].lerp_(value, 1 - decay)
        else:
            state.average[key].copy_(value)


def _log(
    state: _State, recipe: Recipe, preprocess: Preprocess, validation: Labelled, number: int, target: Path
) -> None:
    """Append one line on epoch `number` to `<output>.log`; a new run begins a new file."""
    line: dict[str, Any] = {"epoch": number + 1, "loss": round(sum(state.losses) / len(state.losses), 4)}
    line["learning_rate"] = learning_rate(recipe.optimiser, number + 1)
    if len(validation):
        average = build(_config(recipe, _classes(state.module)))
        average.load_state_dict(state.average)
        line["validation_accuracy"] = accuracy(average, validation, preprocess)
    line["time"] = time.strftime("%Y-%m-%d %H:%M:%S")
    with target.with_name(target.name + ".log").open("a" if number else "w", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _classes(module: nn.Module) -> int:
    return int(module.state_dict()["head.weight"].shape[0])


# --- the resume file --------------------------------------------------------------------------------------------


def _keep(state: _State, resume: Path, recipe: Recipe) -> None:
    content = {
        "recipe": str(describe(recipe)),
        "module": state.module.state_dict(),
        "average": state.average,
        "optimiser": state.optimiser.state_dict(),
        "batches": state.batches,
        "losses": state.losses,
    }
    stream = io.BytesIO()
    torch.save(content, stream)
    write_whole(resume, stream.getvalue())


def _restore(state: _State, resume: Path, recipe: Recipe) -> None:
    """Go on where an interrupted run of the same recipe stopped; a resume file of another recipe is refused."""
    if not resume.exists():
        return
    content = torch.load(resume, weights_only=True)
    if content["recipe"] != str(describe(recipe)):
        raise InputError(
            str(resume), "it belongs to another recipe", "Delete it to start anew, or choose another output."
        )
    state.module.load_state_dict(content["module"])
    state.average = content["average"]
    state.optimiser.load_state_dict(content["optimiser"])
    state.batches, state.losses = content["batches"], content["losses"]
