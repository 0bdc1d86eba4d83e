"""Two images in one: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), with the labels mixed alike."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikformer_deploy.training.recipe import Augment


def soft_labels(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """(N, classes): 1 - smoothing on the label, the rest shared by all classes."""
    return F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def mixed(images: Tensor, targets: Tensor, settings: Augment, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch (N, C, Y, X) mixed with its own reverse; one share for all, from Beta(alpha, alpha).

    targets  (N, classes) soft labels, mixed by the same share
    Where both mixup and cutmix are wanted, each has every second batch on average, as in timm.
    """
    if not (settings.mixup or settings.cutmix):
        return images, targets
    cut = bool(settings.cutmix) and (not settings.mixup or rng.random() < 0.5)
    alpha = settings.cutmix if cut else settings.mixup
    share = float(rng.beta(alpha, alpha))
    if cut:
        images, share = _cut(images, share, rng)
    else:
        images = images * share + images.flip(0) * (1 - share)
    return images, targets * share + targets.flip(0) * (1 - share)


def _cut(images: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A rectangle of the reversed batch in the batch; returns the share of the image that is left of its own."""
    height, width = images.shape[-2:]
    ratio = math.sqrt(1 - share)
    middle_y = int(rng.integers(height))
    middle_x = int(rng.integers(width))
    top, bottom = _side(middle_y, round(height * ratio), height)
    left, right = _side(middle_x, round(width * ratio), width)
    out = images.clone()
    out[..., top:bottom, left:right] = torch.flip(images, (0,))[..., top:bottom, left:right]
    # an edge may have cut some of the rectangle off: the labels are mixed by what is left of it
    return out, 1 - (bottom - top) * (right - left) / (height * width)


def _side(middle: int, length: int, extent: int) -> tuple[int, int]:
    """First pixel of a side, and the one behind its last, inside an image of that extent."""
    first = middle - length // 2
    return max(0, first), min(extent, first + length)
