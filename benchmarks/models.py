"""Networks to measure: published sizes with random weights that fire about as trained models do."""

from __future__ import annotations

from functools import cache

from spikformer_deploy.converters.checkpoints.random_weights import random_model, random_pixels
from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model

images = random_pixels
"""(channels, size, count) -> (count, C, Y, X) uint8."""


@cache
def model(name: str) -> Loaded:
    """A published size, weights from seed 0, BatchNorm calibrated on two random images."""
    return random_model(name)


@cache
def program(name: str, target: str) -> Program:
    """The model compiled for a target."""
    loaded = model(name)
    pixels = images(loaded.config.in_channels, loaded.config.image_size, 4)
    return compile_model(loaded, target, calibrate_on=pixels, check=False).program
