"""Images that belong to nobody: ships, cars and planes drawn at random, for models whose data may not be passed on.

They show that a program runs, and give its spikes something to see; they are no test of accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COUNT = 64
OVERSAMPLED = 8
"""Pixels that are drawn for one that is kept, in each direction: smooth edges."""
DARK = (35, 35, 40)
"""Colour of tyres and chimneys."""
NOISE = 4
"""Standard deviation, of 255."""
Colour = tuple[int, ...]
Shape = list[tuple[float, float]]
"""Corners, in units of the size of the subject, from its middle."""


def drawings(size: int) -> NDArray[np.uint8]:
    """(COUNT, 3, size, size) uint8, always the same ones."""
    images = [_drawing(np.random.default_rng(seed), size, seed % len(SUBJECTS)) for seed in range(COUNT)]
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws a subject of some size where it stands, facing left or right.

    middle  (x, y) of the subject, and scale: its size, in units of the side of the picture; turn: 1.0 or -1.0
    """

    draw: ImageDraw.ImageDraw
    side: int
    middle: tuple[float, float]
    scale: float
    turn: float

    def __call__(self, shape: Shape, colour: Colour) -> None:
        """A filled polygon."""
        x_middle, y_middle = self.middle
        points = [
            ((x_middle + self.turn * self.scale * x) * self.side, (y_middle + self.scale * y) * self.side)
            for x, y in shape
        ]
        self.draw.polygon(points, fill=colour)


def _drawing(rng: np.random.Generator, size: int, subject: int) -> NDArray[np.uint8]:
    """(size, size, 3): a sky over water or ground, and one thing before it."""
    # whoever draws in another order gets other pictures: each number takes its place in the stream of `rng`
    side = size * OVERSAMPLED
    sky = rng.integers((90, 130, 170), (200, 220, 256))
    ground = rng.integers((40, 60, 40), (120, 120, 130))
    rows = np.linspace(0, 1, side)[:, None, None]
    # a plane has sky all around it
    horizon = 1.1 if SUBJECTS[subject] is _plane else rng.uniform(0.55, 0.75)
    scene = np.where(rows < horizon, sky * (1 - 0.3 * rows), ground * (0.7 + 0.3 * rows))
    image = Image.fromarray(np.broadcast_to(scene, (side, side, 3)).astype(np.uint8))
    middle = (rng.uniform(0.42, 0.58), min(horizon, 0.55))
    scale = rng.uniform(0.55, 0.9)
    turn = -1.0 if rng.random() < 0.5 else 1.0
    paint = tuple(map(int, rng.integers(30, 250, 3)))
    SUBJECTS[subject](Pen(ImageDraw.Draw(image), side, middle, scale, turn), paint)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX)).astype(np.int64)
    return np.clip(pixels + rng.normal(0, NOISE, pixels.shape).round(), 0, 255).astype(np.uint8)


def _ship(pen: Pen, paint: Colour) -> None:
    """Hull, bridge and chimney."""
    pen([(-0.5, 0.0), (0.5, 0.0), (0.38, 0.16), (-0.4, 0.16)], paint)
    pen([(-0.2, 0.0), (0.25, 0.0), (0.25, -0.14), (-0.2, -0.14)], (235, 235, 230))
    pen([(0.05, -0.14), (0.14, -0.14), (0.14, -0.32), (0.05, -0.32)], DARK)


def _car(pen: Pen, paint: Colour) -> None:
    """Body, windows and two wheels."""
    pen([(-0.48, 0.12), (0.48, 0.12), (0.48, -0.04), (0.3, -0.08), (-0.48, -0.08)], paint)
    pen([(-0.3, -0.08), (-0.2, -0.24), (0.14, -0.24), (0.28, -0.08)], (190, 210, 225))
    for x in (-0.28, 0.28):
        pen([(x + 0.1 * np.cos(a), 0.13 + 0.1 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 24)], DARK)


def _plane(pen: Pen, paint: Colour) -> None:
    """Fuselage, wing and tail."""
    pen([(-0.48, 0.0), (-0.4, -0.06), (0.4, -0.05), (0.5, 0.0), (0.4, 0.05), (-0.4, 0.05)], (225, 228, 232))
    pen([(-0.06, 0.0), (0.14, 0.0), (-0.16, 0.26), (-0.24, 0.26)], paint)
    pen([(-0.44, -0.04), (-0.3, -0.04), (-0.42, -0.22), (-0.5, -0.22)], paint)


SUBJECTS = (_ship, _car, _plane)
