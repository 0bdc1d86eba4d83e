"""Masked pre-training without labels: an encoder for `start.encoder` of a recipe, and a picture of what it paints."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.converters.checkpoints.read import save
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.nn.masked import MaskedAutoencoder, normalised_patches
from spikformer_deploy.nn.spikformer_v2 import SpikformerV2
from spikformer_deploy.training.data import Feed, Images, epoch, normalised, read_unlabelled
from spikformer_deploy.training.distributed import World, world
from spikformer_deploy.training.fit import Batch, Job, check_batch, check_outputs, finished, fit
from spikformer_deploy.training.recipe import Recipe, describe, identity, read_recipe
from spikformer_deploy.training.supervised import fresh_module, model_config, without_activations

PICTURE = ".png"
"""Suffix of the picture beside the output."""
PICTURED = 8
"""Images in it."""
ENLARGED = 4
"""Pixels of the picture for one of an image, in each direction."""
MEASURED = 256
"""Images that the final loss is of."""


def pretrain(
    recipe: str | Path | Recipe, output: str | Path | None = None, *, progress: Progress = silent
) -> dict[str, Any]:
    """Pre-train an encoder by a recipe; returns {"output", "picture", "loss", "seconds"}.

    Arguments, log, resume file and torchrun are those of `train`.  The decoder is not kept; `<output>.png` shows
    images, what the encoder saw of them, and what the decoder painted.
    Raises InputError for a recipe or data that cannot be used.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    start = time.monotonic()
    target = Path(output or recipe.output)
    check_outputs(target, PICTURE)
    if recipe.model.family != "v2":
        raise InputError("model.family", "masked pre-training is that of V2", 'Use family = "v2".')
    if recipe.optimiser.weight_bits:
        raise InputError("optimiser.weight_bits", "weights are rounded in fine-tuning", "Leave it out of pre-training.")
    with world() as process:
        images, preprocess = read_unlabelled(recipe.data)
        config = model_config(recipe, int(images.labels.max()) + 1)
        module = _autoencoder(recipe, fresh_module(recipe, config))
        job = _job(recipe, target, images, preprocess, process, module.side**2)
        fit(module, job, process, progress)
        final = _loss_on(module, recipe, images, preprocess)
        if process.first:
            header = {"pretrained": describe(recipe), "torch": torch.__version__.split("+")[0], "loss": final}
            save(target, module.encoder, config, preprocess, (), header)
            write_whole(target.with_name(target.name + PICTURE), picture(module, recipe, images, preprocess))
            finished(job)
        process.wait()
    return {
        "output": str(target),
        "picture": str(target) + PICTURE,
        "loss": final,
        "seconds": time.monotonic() - start,
    }


def visible_patches(images: int, patches: int, ratio: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(images, patches): in each image the same number of random patches is seen, at least one."""
    seen = min(patches - 1, max(1, round(patches * (1 - ratio))))
    # the order of random numbers is a random permutation: `seen` of its entries are below `seen`
    return rng.random((images, patches)).argsort(1) < seen


def _autoencoder(recipe: Recipe, encoder: nn.Module) -> MaskedAutoencoder:
    """The encoder with the decoder that the recipe asks for."""
    assert isinstance(encoder, SpikformerV2)
    mask = recipe.mask
    data = recipe.data
    if mask.decoder_dim % mask.decoder_heads:
        raise InputError("mask.decoder_heads", f"{mask.decoder_dim} channels do not divide into {mask.decoder_heads}")
    return MaskedAutoencoder(
        encoder, data.size, data.channels, mask.decoder_dim, mask.decoder_depth, mask.decoder_heads
    )


def _job(recipe: Recipe, target: Path, images: Images, preprocess: Preprocess, process: World, patches: int) -> Job:
    """Masked pre-training in the words of the loop."""
    settings = recipe.optimiser
    check_batch(settings, len(images), process)
    feed = Feed(images, preprocess, recipe.augment, settings.batch, settings.seed, process.part, recipe.data.workers)

    def batches(number: int, first: int) -> Iterator[Batch]:
        for step, (x, _) in enumerate(epoch(feed, number, first), first):
            rng = np.random.default_rng((settings.seed, number, step, process.rank))
            yield x, torch.from_numpy(visible_patches(len(x), patches, recipe.mask.ratio, rng))

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        with without_activations(module) if settings.checkpointing else nullcontext():
            out: Tensor = module(*batch)
        return out

    steps = len(images) // settings.batch
    return Job(settings, steps, batches, loss, lambda module: {}, identity(recipe), target)


def _sample(
    module: MaskedAutoencoder, recipe: Recipe, images: Images, preprocess: Preprocess, count: int
) -> tuple[Tensor, Tensor]:
    """Images from all over the set, and one mask for each."""
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    device = next(module.parameters()).device
    rng = np.random.default_rng(recipe.optimiser.seed)
    seen = visible_patches(len(chosen), module.side**2, recipe.mask.ratio, rng)
    return normalised(images.for_evaluation(chosen), preprocess).to(device), torch.from_numpy(seen).to(device)


@torch.inference_mode()
def _loss_on(module: MaskedAutoencoder, recipe: Recipe, images: Images, preprocess: Preprocess) -> float:
    return float(module.eval()(*_sample(module, recipe, images, preprocess, MEASURED)))


@torch.inference_mode()
def picture(module: MaskedAutoencoder, recipe: Recipe, images: Images, preprocess: Preprocess) -> bytes:
    """A PNG of three rows: images, what the encoder saw, and that with the masked patches as they were painted.

    A patch is painted with mean 0 and variance 1; it is shown with the mean and variance of the true one.
    """
    x, visible = _sample(module.eval(), recipe, images, preprocess, PICTURED)
    _, mean, deviation = normalised_patches(x, module.patch)
    true = F.unfold(x, module.patch, stride=module.patch).transpose(1, 2)
    painted = torch.where(visible[..., None], true, module.painted(x, visible) * deviation + mean)
    seen = torch.where(visible[..., None], true, 0.0)
    rows = [F.fold(p.transpose(1, 2), x.shape[-2:], module.patch, stride=module.patch) for p in (true, seen, painted)]
    return _png(_pixels(torch.stack(rows), preprocess))


def _pixels(images: Tensor, preprocess: Preprocess) -> np.ndarray:
    """The uint8 pixels of normalised images (..., C, Y, X)."""
    scale = torch.tensor(preprocess.std, device=images.device).reshape(-1, 1, 1)
    offset = torch.tensor(preprocess.mean, device=images.device).reshape(-1, 1, 1)
    bright = (images * scale + offset) * 255
    return bright.round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _png(pixels: np.ndarray) -> bytes:
    """One PNG, enlarged, of images (rows, columns, C, Y, X) side by side."""
    rows, columns, channels, height, width = pixels.shape
    joined = pixels.transpose(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    image = Image.fromarray(joined[..., 0] if channels == 1 else joined[..., :3])
    stream = io.BytesIO()
    image.resize((image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()
