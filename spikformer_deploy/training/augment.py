"""What happens to training images, each by a generator of its own: the order of work does not matter."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from spikformer_deploy.training.randaugment import randaugment
from spikformer_deploy.training.recipe import Augment

Pixels = NDArray[np.uint8]

ERASED = (0.02, 1 / 3)
"""Least and largest share of the image that is erased (Zhong et al. 2020; timm's)."""
ERASED_ASPECT = 0.3
"""The shorter side over the longer one, at least."""


def augmented(pixels: Pixels, settings: Augment, mean: Pixels, rng: np.random.Generator) -> Pixels:
    """One image (C, Y, X), or its frames (T, C, Y, X), cropped, mirrored, changed and erased by `rng`.

    mean  (C,) the colour of erased rectangles and of what comes in from outside
    """
    if settings.crop_padding:
        pixels = _cropped(pixels, settings.crop_padding, rng)
    if settings.flip and rng.random() < settings.flip:
        pixels = pixels[..., ::-1]
    if settings.randaugment:
        fill = tuple(map(int, mean))
        pixels = randaugment(pixels, settings.randaugment, settings.magnitude, settings.magnitude_spread, fill, rng)
    if settings.erase and rng.random() < settings.erase:
        pixels = _erased(pixels, mean, rng)
    return pixels


def _cropped(pixels: Pixels, padding: int, rng: np.random.Generator) -> Pixels:
    """A window of the old size from the image with a black border."""
    height, width = pixels.shape[-2:]
    padded = np.pad(pixels, (*[(0, 0)] * (pixels.ndim - 2), (padding, padding), (padding, padding)))
    top, left = rng.integers(0, 2 * padding + 1, 2)
    return padded[..., top : top + height, left : left + width]


def _erased(pixels: Pixels, mean: Pixels, rng: np.random.Generator) -> Pixels:
    """A copy with a random rectangle of the colour `mean`."""
    height, width = pixels.shape[-2:]
    area = rng.uniform(*ERASED) * height * width
    # even in the logarithm: a tall rectangle is as likely as a wide one
    aspect = math.exp(rng.uniform(math.log(ERASED_ASPECT), -math.log(ERASED_ASPECT)))
    tall = min(height, max(1, round(math.sqrt(area * aspect))))
    wide = min(width, max(1, round(math.sqrt(area / aspect))))
    top = rng.integers(0, height - tall + 1)
    left = rng.integers(0, width - wide + 1)
    out = pixels.copy()
    out[..., top : top + tall, left : left + wide] = mean[:, None, None]
    return out


def moved(images: Tensor, generator: torch.Generator, shift: int, rotate_degrees: float, blank: Tensor) -> Tensor:
    """Every image turned by up to `rotate_degrees` and shifted by up to `shift` pixels, each its own way (bilinear).

    images  (B, C, Y, X), or (B, T, C, Y, X): all frames of a recording the same way
    blank   (C,) the normalised value of an empty pixel, which moved images are filled with
    """
    # grid_sample fills with zeros: so empty pixels are made zeros, and become what they were afterwards
    empty = blank.reshape(-1, 1, 1).expand(images.shape[1:]).flatten(0, -3)
    flat = images.flatten(1, -3) - empty
    count, _, height, width = flat.shape
    uniform = torch.rand(3, count, generator=generator) * 2 - 1
    angle = uniform[0] * math.radians(rotate_degrees)
    # an image is 2 wide and 2 high for affine_grid
    across = uniform[1] * 2 * shift / width
    down = uniform[2] * 2 * shift / height
    rows = torch.stack([torch.cos(angle), -torch.sin(angle), across, torch.sin(angle), torch.cos(angle), down], 1)
    grid = F.affine_grid(rows.reshape(count, 2, 3), list(flat.shape), align_corners=False)
    return (F.grid_sample(flat, grid, align_corners=False) + empty).reshape(images.shape)
