"""Direct training of a Spikformer with surrogate gradients, resumable after every epoch.

A run that is killed and started again ends with the same weights as one that was not: the resume file holds the model,
the average, the optimiser and the random state.  The test split is looked at once, after the last epoch.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikformer_deploy.converters.checkpoint import save
from spikformer_deploy.errors import InputError
from spikformer_deploy.files import write_whole
from spikformer_deploy.images import Preprocess, read
from spikformer_deploy.nn.zoo import ModelConfig, build
from spikformer_deploy.training.data import epoch, tensors
from spikformer_deploy.training.recipe import Optimiser, Recipe, describe, read_recipe


@dataclass(slots=True)
class _State:
    """Everything that changes during a run."""

    module: nn.Module
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    finished: int = 0


def train(
    recipe: str | Path | Recipe,
    output: str | Path | None = None,
    *,
    report: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Train by a recipe and write the checkpoint; returns {"output", "train_accuracy", "test_accuracy", "seconds"}.

    report  called after every epoch with (epochs done, epochs in all, mean loss)
    Raises InputError for a recipe or data that cannot be used.  A run that was interrupted goes on where it stopped.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    target = Path(output or recipe.output)
    config, start = _config(recipe), time.monotonic()
    preprocess = _preprocess(recipe)
    labels, images = (
        _names(recipe, preprocess),
        tensors(read(recipe.data.source, preprocess, split="train"), preprocess),
    )
    resume = target.with_name(target.name + ".resume")
    state = _fresh(recipe, config)
    _restore(state, resume, recipe)
    for done in range(state.finished, recipe.optimiser.epochs):
        loss = _run_epoch(state, recipe, preprocess, images, done)
        state.finished = done + 1
        _keep(state, resume, recipe)
        if report is not None:
            report(state.finished, recipe.optimiser.epochs, loss)
    state.module.load_state_dict(state.average)
    held_out = tensors(read(recipe.data.source, preprocess, split="test"), preprocess)
    result = {"train_accuracy": accuracy(state.module, *images), "test_accuracy": accuracy(state.module, *held_out)}
    training = {"recipe": describe(recipe), "torch": torch.__version__.split("+")[0], **result}
    save(target, state.module, config, preprocess, labels, training)
    resume.unlink(missing_ok=True)
    return {"output": str(target), **result, "seconds": time.monotonic() - start}


@torch.inference_mode()
def accuracy(module: nn.Module, images: Tensor, labels: Tensor, batch: int = 128) -> float:
    """Share of images whose largest logit is their label."""
    module.eval()
    right = [
        int((module(x).argmax(1) == y).sum()) for x, y in zip(images.split(batch), labels.split(batch), strict=True)
    ]
    return sum(right) / len(labels)


def _config(recipe: Recipe) -> ModelConfig:
    model, data = recipe.model, recipe.data
    classes = 10 if data.source == "digits" else len(read(data.source, _unit(recipe), limit=None).names)
    return ModelConfig(
        model.family, model.form, model.depth, model.dim, model.heads, model.time_steps, data.channels, data.size,
        classes, model.mlp_ratio, model.stem_stages,
    )  # fmt: skip


def _unit(recipe: Recipe) -> Preprocess:
    channels = recipe.data.channels
    return Preprocess(channels, recipe.data.size, (0.0,) * channels, (1.0,) * channels)


def _preprocess(recipe: Recipe) -> Preprocess:
    """Mean and standard deviation of the training images, to four digits."""
    pixels = read(recipe.data.source, _unit(recipe), split="train").pixels / 255
    mean, std = (tuple(round(float(x), 4) for x in f((0, 2, 3))) for f in (pixels.mean, pixels.std))
    return Preprocess(recipe.data.channels, recipe.data.size, mean, std)


def _names(recipe: Recipe, preprocess: Preprocess) -> tuple[str, ...]:
    images = read(recipe.data.source, preprocess, split="train")
    if images.labels is None:
        raise InputError(recipe.data.source, "its images have no labels", "Sort them into one folder a class.")
    return images.names


def _fresh(recipe: Recipe, config: ModelConfig) -> _State:
    torch.manual_seed(recipe.optimiser.seed)
    module = build(config)
    generator = torch.Generator().manual_seed(recipe.optimiser.seed)
    optimiser = torch.optim.AdamW(
        module.parameters(), recipe.optimiser.learning_rate, weight_decay=recipe.optimiser.weight_decay
    )
    average = {key: value.clone() for key, value in module.state_dict().items()}
    return _State(module, average, optimiser, generator)


def _run_epoch(
    state: _State, recipe: Recipe, preprocess: Preprocess, images: tuple[Tensor, Tensor], done: int
) -> float:
    settings, data = recipe.optimiser, recipe.data
    blank = -torch.tensor(preprocess.mean) / torch.tensor(preprocess.std)
    steps, losses = len(images[0]) // settings.batch, []
    state.module.train()
    batches = epoch(*images, settings.batch, state.generator, data.shift, data.rotate_degrees, blank)
    for number, (x, y) in enumerate(batches):
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(settings, done + number / steps)
        loss = F.cross_entropy(state.module(x), y, label_smoothing=settings.label_smoothing)
        state.optimiser.zero_grad()
        loss.backward()
        state.optimiser.step()
        _average(state, settings.ema)
        losses.append(float(loss.detach()))
    return sum(losses) / max(1, len(losses))


def learning_rate(settings: Optimiser, position: float) -> float:
    """Linear warm-up, then half a cosine down to zero; `position` in epochs."""
    if position < settings.warmup_epochs:
        return settings.learning_rate * (position + 1e-3) / settings.warmup_epochs
    through = (position - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * through))


@torch.no_grad()
def _average(state: _State, decay: float) -> None:
    for key, value in state.module.state_dict().items():
        if value.is_floating_point():
            state.average[key].lerp_(value, 1 - decay)
        else:
            state.average[key].copy_(value)


def _keep(state: _State, resume: Path, recipe: Recipe) -> None:
    content = {
        "recipe": str(describe(recipe)),
        "module": state.module.state_dict(),
        "average": state.average,
        "optimiser": state.optimiser.state_dict(),
        "generator": state.generator.get_state(),
        "finished": state.finished,
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
    state.generator.set_state(content["generator"])
    state.finished = content["finished"]
