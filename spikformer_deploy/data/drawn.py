"""Images that belong to nobody: ships, cars and planes drawn at random, for models whose data may not be passed on.

They show that a program runs, and give its spikes something to see; they are no test of accuracy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COUNT = 64
OVERSAMPLED = 8
Shape = list[tuple[float, float]]
Pen = Callable[[Shape, tuple[int, ...]], None]


def drawings(size: int) -> NDArray[np.uint8]:
    """(COUNT, 3, size, size) uint8, always the same ones."""
    images = [_drawing(np.random.default_rng(seed), size, seed % 3) for seed in range(COUNT)]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


def _drawing(rng: np.random.Generator, size: int, subject: int) -> NDArray[np.uint8]:
    """(size, size, 3): a sky over water or ground, and one thing before it."""
    side = size * OVERSAMPLED
    sky, ground = rng.integers((90, 130, 170), (200, 220, 256)), rng.integers((40, 60, 40), (120, 120, 130))
    rows = np.linspace(0, 1, side)[:, None, None]
    horizon = 1.1 if subject == 2 else rng.uniform(0.55, 0.75)
    scene = np.where(rows < horizon, sky * (1 - 0.3 * rows), ground * (0.7 + 0.3 * rows))
    image = Image.fromarray(np.broadcast_to(scene, (side, side, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    middle, scale = (rng.uniform(0.42, 0.58), min(horizon, 0.55)), rng.uniform(0.55, 0.9)
    turn = -1.0 if rng.random() < 0.5 else 1.0

    def pen(shape: Shape, colour: tuple[int, ...]) -> None:
        points = [((middle[0] + turn * scale * x) * side, (middle[1] + scale * y) * side) for x, y in shape]
        draw.polygon(points, fill=colour)

    paint, dark = tuple(map(int, rng.integers(30, 250, 3))), (35, 35, 40)
    (_ship, _car, _plane)[subject](pen, paint, dark)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX)).astype(np.int64)
    return np.clip(pixels + rng.normal(0, 4, pixels.shape).round(), 0, 255).astype(np.uint8)


def _ship(pen: Pen, paint: tuple[int, ...], dark: tuple[int, ...]) -> None:
    pen([(-0.5, 0.0), (0.5, 0.0), (0.38, 0.16), (-0.4, 0.16)], paint)
    pen([(-0.2, 0.0), (0.25, 0.0), (0.25, -0.14), (-0.2, -0.14)], (235, 235, 230))
    pen([(0.05, -0.14), (0.14, -0.14), (0.14, -0.32), (0.05, -0.32)], dark)


def _car(pen: Pen, paint: tuple[int, ...], dark: tuple[int, ...]) -> None:
    pen([(-0.48, 0.12), (0.48, 0.12), (0.48, -0.04), (0.3, -0.08), (-0.48, -0.08)], paint)
    pen([(-0.3, -0.08), (-0.2, -0.24), (0.14, -0.24), (0.28, -0.08)], (190, 210, 225))
    for x in (-0.28, 0.28):
        pen([(x + 0.1 * np.cos(a), 0.13 + 0.1 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 24)], dark)


def _plane(pen: Pen, paint: tuple[int, ...], dark: tuple[int, ...]) -> None:
    pen([(-0.48, 0.0), (-0.4, -0.06), (0.4, -0.05), (0.5, 0.0), (0.4, 0.05), (-0.4, 0.05)], (225, 228, 232))
    pen([(-0.06, 0.0), (0.14, 0.0), (-0.16, 0.26), (-0.24, 0.26)], paint)
    pen([(-0.44, -0.04), (-0.3, -0.04), (-0.42, -0.22), (-0.5, -0.22)], paint)
