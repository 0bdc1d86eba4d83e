"""Batches for training: a seeded shuffle an epoch, small geometric augmentation, normalised tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from spikformer_deploy.images import ImageSet, Preprocess


def tensors(images: ImageSet, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """All images, normalised (N, C, Y, X) float32, and their labels (N,) int64."""
    assert images.labels is not None
    return torch.from_numpy(preprocess.normalised(images.pixels)), torch.from_numpy(images.labels)


def epoch(
    images: Tensor,
    labels: Tensor,
    batch: int,
    generator: torch.Generator,
    shift: int,
    rotate_degrees: float,
    blank: Tensor,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch, shuffled and augmented by `generator`; the last, smaller batch is left out.

    blank  (C,) the normalised value of an empty pixel, which moved images are filled with
    """
    order = torch.randperm(len(images), generator=generator)
    for start in range(0, len(order) - batch + 1, batch):
        chosen = order[start : start + batch]
        yield moved(images[chosen], generator, shift, rotate_degrees, blank), labels[chosen]


def moved(images: Tensor, generator: torch.Generator, shift: int, rotate_degrees: float, blank: Tensor) -> Tensor:
    """Every image turned by up to `rotate_degrees` and shifted by up to `shift` pixels, each its own way (bilinear)."""
    count, _, height, width = images.shape
    uniform = torch.rand(3, count, generator=generator) * 2 - 1
    angle = uniform[0] * math.radians(rotate_degrees)
    across, down = uniform[1] * 2 * shift / width, uniform[2] * 2 * shift / height
    rows = torch.stack([torch.cos(angle), -torch.sin(angle), across, torch.sin(angle), torch.cos(angle), down], 1)
    grid = F.affine_grid(rows.reshape(count, 2, 3), list(images.shape), align_corners=False)
    empty = blank.reshape(1, -1, 1, 1)
    return F.grid_sample(images - empty, grid, align_corners=False) + empty
