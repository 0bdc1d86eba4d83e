"""Direct training of a Spikformer with surrogate gradients.  The test split is looked at once, after the last epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.converters.checkpoints.read import load, save
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.nn.zoo import ModelConfig, build, plain
from spikformer_deploy.training.data import Feed, Images, epoch, normalised, read_test, read_training
from spikformer_deploy.training.distributed import World, world
from spikformer_deploy.training.fit import Batch, Job, check_batch, check_outputs, finished, fit
from spikformer_deploy.training.mix import mixed, soft_labels
from spikformer_deploy.training.qat import freeze_norms, plain_weights, round_weights
from spikformer_deploy.training.recipe import Recipe, describe, identity, read_recipe

LOOKED_AT = 50_000
"""No more training images than that are looked at when training is over."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def train(
    recipe: str | Path | Recipe, output: str | Path | None = None, *, progress: Progress = silent
) -> dict[str, Any]:
    """Train by a recipe and write the checkpoint; returns {"output", "train_accuracy", "test_accuracy", "seconds"}.

    progress  called after every batch with (batches done, batches in all, a note)
    Beside the output stands `<output>.log`, one JSON object an epoch.  Started by torchrun, its processes share each
    batch out, and the first one writes.
    Raises InputError for a recipe or data that cannot be used.  A run that was interrupted goes on where it stopped.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    start = time.monotonic()
    target = Path(output or recipe.output)
    check_outputs(target)
    with world() as process:
        frames = recipe.model.time_steps if recipe.model.form == "dvs" else 0
        training, validation, preprocess, labels = read_training(recipe.data, frames)
        held_out = read_test(recipe.data, preprocess, labels, frames)
        _check_choices(recipe, frames)
        config = model_config(recipe, len(labels))
        job = _job(recipe, target, training, validation, preprocess, process, len(labels))
        module = fresh_module(recipe, config)
        if recipe.optimiser.weight_bits:
            round_weights(module, preprocess, recipe.optimiser.weight_bits)
        fit(module, job, process, progress)
        result = {"train_accuracy": accuracy(module, _some(training), preprocess)}
        result["test_accuracy"] = accuracy(module, held_out, preprocess)
        # after it was measured as the integers will be: what is saved is rounded by the compiler
        plain_weights(module)
        if process.first:
            header = {"recipe": describe(recipe), "torch": torch.__version__.split("+")[0], **result}
            save(target, module, config, preprocess, labels, header)
            finished(job)
        process.wait()
    return {"output": str(target), **result, "seconds": time.monotonic() - start}


@torch.inference_mode()
def accuracy(module: nn.Module, images: Images, preprocess: Preprocess, batch: int = 128) -> float:
    """Share of images whose largest logit is their label."""
    module.eval()
    device = next(module.parameters()).device
    right = 0
    for first in range(0, len(images), batch):
        part = slice(first, first + batch)
        logits = module(normalised(images.for_evaluation(part), preprocess).to(device))
        right += int((logits.argmax(1).cpu() == torch.from_numpy(images.labels[part])).sum())
    return right / len(images)


def _some(images: Images) -> Images:
    """From all over a set that may be sorted by class."""
    if len(images) <= LOOKED_AT:
        return images
    return images.part(np.linspace(0, len(images) - 1, LOOKED_AT).astype(np.int64))


# --- one run ----------------------------------------------------------------------------------------------------


def model_config(recipe: Recipe, classes: int) -> ModelConfig:
    """The configuration of the recipe's model."""
    model = recipe.model
    data = recipe.data
    config = ModelConfig(
        model.family, model.form, model.depth, model.dim, model.heads, model.time_steps, data.channels, data.size,
        classes, model.mlp_ratio, model.stem_stages, pooling=model.pooling,
        levels=model.levels,
    )  # fmt: skip
    return plain(config)


def _check_choices(recipe: Recipe, frames: int) -> None:
    """Raise InputError for choices that do not go together; frames: of an image of event data, else 0."""
    if frames and recipe.augment.randaugment:
        raise InputError("augment.randaugment", "its operations are those of images", "Leave it out.")
    if recipe.model.levels and recipe.optimiser.weight_bits:
        problem = "the rounding that training knows is that of layers in front of LIFs, and model.levels replaces them"
        raise InputError("optimiser.weight_bits", problem, "Leave it out, and compile with --rounding calibrated.")


def _job(
    recipe: Recipe,
    target: Path,
    training: Images,
    validation: Images,
    preprocess: Preprocess,
    process: World,
    classes: int,
) -> Job:
    """Supervised training in the words of the loop."""
    settings = recipe.optimiser
    check_batch(settings, len(training), process)
    feed = Feed(training, preprocess, recipe.augment, settings.batch, settings.seed, process.part, recipe.data.workers)

    def batches(number: int, first: int) -> Iterator[Batch]:
        for step, (x, y) in enumerate(epoch(feed, number, first), first):
            targets = soft_labels(y, classes, settings.label_smoothing)
            if not recipe.augment.mix_epochs or number < recipe.augment.mix_epochs:
                x, targets = mixed(x, targets, recipe.augment, np.random.default_rng((settings.seed, number, step)))
            yield x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, targets

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        # after `fit` has set the module to training, which thaws them
        if settings.weight_bits:
            freeze_norms(module)
        with without_activations(module) if settings.checkpointing else nullcontext():
            return F.cross_entropy(module(batch[0]).float(), batch[1])

    def measure(module: nn.Module) -> dict[str, float]:
        return {"validation_accuracy": accuracy(module, validation, preprocess)} if len(validation) else {}

    steps = len(training) // settings.batch
    return Job(settings, steps, batches, loss, measure, identity(recipe), target)


def fresh_module(recipe: Recipe, config: ModelConfig) -> nn.Module:
    """The module before the first batch: random weights, or those of an earlier training."""
    torch.manual_seed(recipe.optimiser.seed)
    module = build(config)
    for layer in module.modules():
        if isinstance(layer, NORMS):
            nn.init.constant_(layer.weight, recipe.start.norm_gain)
    if recipe.start.checkpoint:
        _start_from(module, config, "start.checkpoint", recipe.start.checkpoint)
    if recipe.start.encoder:
        _start_from(module, config, "start.encoder", recipe.start.encoder)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _start_from(module: nn.Module, config: ModelConfig, place: str, path: str) -> None:
    """Weights of an earlier training, without the head of an encoder; InputError where its sizes are others."""
    earlier = load(path, time_steps=config.time_steps)
    sizes = earlier.config
    weights = earlier.module.state_dict()
    if place == "start.encoder":
        sizes = replace(sizes, num_classes=config.num_classes)
        weights = {key: value for key, value in weights.items() if not key.startswith("head.")}
    if sizes != config:
        raise InputError(place, f"{path} holds {earlier.config}, and the recipe asks for {config}")
    module.load_state_dict(weights, strict=place != "start.encoder")


# --- memory for time --------------------------------------------------------------------------------------------


@contextmanager
def without_activations(module: nn.Module) -> Iterator[None]:
    """Blocks that keep only their input, and compute the rest again for the gradient."""
    blocks = [block for name, block in module.named_modules() if name.rpartition(".")[0].endswith("block")]
    plain = {block: block.forward for block in blocks}
    for block in blocks:
        block.forward = _recomputed(block, plain[block])
    try:
        yield
    finally:
        for block in blocks:
            block.forward = plain[block]


def _recomputed(block: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A block's forward pass that keeps its inputs only."""

    def run(*inputs: Any) -> Tensor:
        out: Tensor = checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)
        return out

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Of the first pass, and of the second one, on the way back."""
        return nullcontext(), _frozen_statistics(block)

    return run


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """The running statistics have seen the batch already."""
    norms = [layer for layer in block.modules() if isinstance(layer, NORMS)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
            # the second pass has counted the batch again
            if layer.num_batches_tracked is not None:
                layer.num_batches_tracked -= 1
