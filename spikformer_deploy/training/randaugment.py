"""RandAugment (Cubuk et al. 2020) in plain Pillow, with timm's "increasing" ranges: the larger, the stronger.

Written here, so that nothing but Pillow is needed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

OP_PROBABILITY = 0.5
"""An operation that was drawn is left out this often (timm)."""
Fill = tuple[int, ...]
Operation = Callable[[Image.Image, float, float, Fill], Image.Image]


def _enhance(kind: type) -> Operation:
    """An operation of Pillow's ImageEnhance: 1 leaves the image as it is."""

    def operation(image: Image.Image, strength: float, sign: float, fill: Fill) -> Image.Image:
        out: Image.Image = kind(image).enhance(max(0.1, 1 + sign * 0.9 * strength))
        return out

    return operation


def _affine(image: Image.Image, rows: tuple[float, ...], fill: Fill) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR, fillcolor=fill)


def _solarize_add(image: Image.Image, strength: float, sign: float, fill: Fill) -> Image.Image:
    added = round(110 * strength)
    table = [min(255, level + added) if level < 128 else level for level in range(256)]
    return image.point(table * len(image.getbands()))


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda image, strength, sign, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, strength, sign, fill: ImageOps.equalize(image),
    "invert": lambda image, strength, sign, fill: ImageOps.invert(image),
    "rotate": lambda image, strength, sign, fill: image.rotate(
        30 * strength * sign, Image.Resampling.BILINEAR, fillcolor=fill
    ),
    "posterize": lambda image, strength, sign, fill: ImageOps.posterize(image, max(1, 4 - int(4 * strength))),
    "solarize": lambda image, strength, sign, fill: ImageOps.solarize(image, 256 - round(256 * strength)),
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, strength, sign, fill: _affine(image, (1, 0.3 * strength * sign, 0, 0, 1, 0), fill),
    "shear_y": lambda image, strength, sign, fill: _affine(image, (1, 0, 0, 0.3 * strength * sign, 1, 0), fill),
    "translate_x": lambda image, strength, sign, fill: _affine(
        image, (1, 0, 0.45 * strength * sign * image.width, 0, 1, 0), fill
    ),
    "translate_y": lambda image, strength, sign, fill: _affine(
        image, (1, 0, 0, 0, 1, 0.45 * strength * sign * image.height), fill
    ),
}


def randaugment(
    pixels: NDArray[np.uint8], operations: int, magnitude: float, spread: float, fill: Fill, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One image (C, Y, X), C = 1 or 3, after `operations` random operations.

    magnitude  0 to 10, drawn anew for each operation from a normal distribution of deviation `spread`
    fill       the colour of what comes in from outside
    """
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    for name in rng.choice(list(OPERATIONS), operations):
        strength = float(np.clip(rng.normal(magnitude, spread), 0, 10)) / 10
        sign = 1.0 if rng.random() < 0.5 else -1.0
        if rng.random() < OP_PROBABILITY:
            image = OPERATIONS[name](image, strength, sign, fill if len(fill) > 1 else fill[:1])
    return np.asarray(image).reshape(*pixels.shape[1:], -1).transpose(2, 0, 1)
