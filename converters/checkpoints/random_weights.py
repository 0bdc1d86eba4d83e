"""Published sizes with random weights, whose neurons fire about as trained ones do: to try out and to measure.

Files of them are in the layout of the official training scripts, and say that their weights are random.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import write_whole
from spikformer_deploy.base.formats import RANDOM
from spikformer_deploy.base.words import meant
from spikformer_deploy.converters.checkpoints.read import Loaded, save, usual_preprocess
from spikformer_deploy.converters.checkpoints.series import SERIES
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.zoo import FAMILIES, build, published, stem_pooling

EVENTS = 0.1
"""Of the pixels of a random frame of events."""
BIAS = 0.3
"""Of every BatchNorm, with weight 1: of neurons that send spikes, the median rate of the layers comes out at 0.06 to
0.2 in most sizes; the bundled trained models have 0.1 to 0.2."""
LEAST_VARIANCE = 0.01
"""Of a layer that random weights keep as good as silent: divided by less, a few spikes more are all that is left."""
SCRIPT_NAMES = {
    "gesture": "Efficient_Spiking_Transformer_scaling_2_8M_gesture",
    "dvs": "Efficient_Spiking_Transformer_scaling_8_19M",
}
"""What the official script of Spike-driven Transformer V3 calls its models of events: it says their divisors."""


def sizes() -> dict[str, ModelConfig]:
    """The published sizes that random weights are made for, by name: all but those on time series."""
    return {name: config for name, config in published().items() if config.family != SERIES}


def size_of(name: str) -> ModelConfig:
    """One of `sizes()`.  Raises InputError, with the nearest that there is, for a name that is none of them."""
    known = sizes()
    if name not in known:
        way_out = "spikdeploy random-checkpoint --list has all of them."
        raise InputError(name, f"no published size of images is called that{meant(name, known)}", way_out)
    return known[name]


def random_model(name: str, seed: int = 0) -> Loaded:
    """A published size with weights drawn from `seed`, its BatchNorms calibrated on two random images.

    Raises InputError for a name that is none of `sizes()`.
    """
    config = size_of(name)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build(config)
        _make_fire(module)
        preprocess, _ = usual_preprocess(config, {})
        pixels = random_inputs(config, 2, seed)
        # counts of events are taken as they are
        batch = pixels.astype(np.float32) if config.per_step else preprocess.normalised(pixels)
        module.train()(torch.from_numpy(batch))
    return Loaded(module.eval(), config, preprocess, (), "", {RANDOM: seed}, ())


def _make_fire(module: nn.Module) -> None:
    """Let every BatchNorm take the statistics of the next batch, and move what it gives towards the threshold."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = 1.0
            nn.init.ones_(norm.weight)
            nn.init.constant_(norm.bias, BIAS)
    for key, parameter in module.named_parameters():
        if "layer_scale" in key:  # official ones begin as good as zero
            nn.init.ones_(parameter)


def random_inputs(config: ModelConfig, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels of a size, or frames of events where it takes those: (count, [T,] C, Y, X) uint8."""
    if not config.per_step:
        return random_pixels(config.in_channels, config.image_size, count, seed)
    shape = (count, config.time_steps, config.in_channels, config.image_size, config.image_size)
    return (np.random.default_rng(seed).random(shape) < EVENTS).astype(np.uint8)


def random_pixels(channels: int, size: int, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pixels, (count, C, Y, X) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size)).astype(np.uint8)


def save_random(name: str, path: str | Path, seed: int = 0) -> Loaded:
    """Write a published size with random weights as its official script would; ours of a family without such code.

    Same name and seed, same bytes with the same versions.  Raises InputError for an unknown name, and for a path that
    cannot be written.
    """
    loaded = random_model(name, seed)
    for key, value in loaded.module.state_dict().items():
        if key.endswith("running_var"):
            value.clamp_(min=LEAST_VARIANCE)
    if not is_official(loaded.config):
        save(path, loaded.module, loaded.config, loaded.preprocess, (), loaded.training)
        return loaded
    arguments = argparse.Namespace(**script_arguments(loaded.config), **{RANDOM: seed})
    content = io.BytesIO()
    torch.save({"model": loaded.module.state_dict(), "epoch": 1, "args": arguments}, content)
    write_whole(Path(path), content.getvalue())
    return loaded


def is_official(config: ModelConfig) -> bool:
    """Whether there is official code of its family, and so a layout of its files."""
    return FAMILIES[config.family].recognise is not None


def script_arguments(config: ModelConfig) -> dict[str, Any]:
    """What the official scripts keep beside the weights of a size, of all that its keys and shapes do not tell."""
    told: dict[str, Any] = {
        "model": SCRIPT_NAMES.get(config.form, ""),
        "time_steps": config.time_steps,
        "num_heads": config.heads,
        "img_size": config.image_size,
    }
    if config.levels:
        told["D"] = config.levels
    if config.family == "sdt1":
        told |= {"pooling_stat": stem_pooling(config), "dvs_mode": config.form == "dvs"}
    if config.attention:
        told |= {"attention_mode": "STAtten", "chunk_size": config.chunk}
    return told
