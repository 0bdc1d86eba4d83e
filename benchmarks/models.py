"""Networks to measure: published sizes with random weights that fire about as trained models do, and bundled models."""

from __future__ import annotations

from functools import cache

import numpy as np

from spikformer_deploy.converters.checkpoints.random_weights import random_model, random_pixels
from spikformer_deploy.converters.checkpoints.read import BUNDLED, Loaded, load
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model

images = random_pixels
"""(channels, size, count) -> (count, C, Y, X) uint8."""


@cache
def model(name: str) -> Loaded:
    """A bundled model ("digits-v2"), or a published size: weights from seed 0, BatchNorm calibrated on two images."""
    return load(name) if name in BUNDLED else random_model(name)


def calibration(name: str, count: int) -> np.ndarray | None:
    """Random images to calibrate a published size on; None for a bundled model: those of its recipe."""
    config = model(name).config
    return None if name in BUNDLED else images(config.in_channels, config.image_size, count)


@cache
def program(name: str, target: str) -> Program:
    """The model compiled for a target."""
    return compile_model(model(name), target, calibrate_on=calibration(name, 4), check=False).program
