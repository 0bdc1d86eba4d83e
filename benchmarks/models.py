"""Networks to measure: published sizes with random weights that fire about as trained models do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from spikformer_deploy.converters.checkpoints.read import USUAL, Loaded
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.zoo import build, named
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model

EVENTS = 0.1
"""Of the pixels of a random frame of events."""
BIAS = 0.3
"""Of every BatchNorm, with weight 1: rates come out at 0.1 to 0.2, those of the bundled trained models."""


@cache
def model(name: str) -> Loaded:
    """A published size, weights from seed 0, BatchNorm calibrated on two random images."""
    config = named(name)
    torch.manual_seed(0)
    module = build(config)
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        torch.nn.init.ones_(norm.weight)
        torch.nn.init.constant_(norm.bias, BIAS)
    for key, parameter in module.named_parameters():
        if "layer_scale" in key:  # official ones begin as good as zero
            torch.nn.init.ones_(parameter)
    preprocess = replace(USUAL[config.form], size=config.image_size)
    pixels = inputs(config, 2)
    # counts of events are taken as they are
    batch = pixels.astype(np.float32) if config.per_step else preprocess.normalised(pixels)
    with torch.no_grad():
        module.train()(torch.from_numpy(batch))
    return Loaded(module.eval(), config, preprocess, (), "", {}, ())


@cache
def program(name: str, target: str) -> Program:
    """The model compiled for a target."""
    loaded = model(name)
    pixels = images(loaded.config.in_channels, loaded.config.image_size, 4)
    return compile_model(loaded, target, calibrate_on=pixels, check=False).program


def inputs(config: ModelConfig, count: int) -> np.ndarray:
    """Random pixels of a size, or frames of events where it takes those: (count, [T,] C, Y, X) uint8."""
    if not config.per_step:
        return images(config.in_channels, config.image_size, count)
    shape = (count, config.time_steps, config.in_channels, config.image_size, config.image_size)
    return (np.random.default_rng(0).random(shape) < EVENTS).astype(np.uint8)


def images(channels: int, size: int, count: int) -> np.ndarray:
    """Random pixels from seed 0, (count, C, Y, X) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, channels, size, size)).astype(np.uint8)
