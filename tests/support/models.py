"""Small models with the structure of the published ones, and weights under which neurons fire."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from spikformer_deploy.graph.ir import Graph
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.zoo import ModelConfig, build, named

SMALL: dict[str, ModelConfig] = {
    "cifar": named("v1-4-384", dim=32, depth=1, heads=4, image_size=16),
    "imagenet": named("v1-8-512", dim=32, depth=1, heads=2, image_size=32, num_classes=7),
    "dvs": named("v1-2-256-dvs", dim=32, depth=1, heads=4, image_size=32, time_steps=3),
    "v2": named("v2-8-512", dim=32, depth=1, heads=4, image_size=16, num_classes=5, stem_stages=2),
}

SIBLINGS: dict[str, ModelConfig] = {
    "spikingformer": named("spikingformer-4-384", dim=32, depth=1, heads=4, image_size=16),
    "spikingformer-imagenet": named("spikingformer-8-512", dim=32, depth=1, heads=4, image_size=32, num_classes=7),
    "spikingformer-dvs": named("spikingformer-2-256-dvs", dim=32, depth=1, heads=4, image_size=32, time_steps=3),
    "sdt1": named("sdt1-2-512", dim=32, depth=1, heads=4, image_size=16),
    "sdt1-imagenet": named("sdt1-8-512", dim=32, depth=2, heads=4, image_size=32, num_classes=7),
    "sdt1-dvs": named("sdt1-2-256-dvs", dim=32, depth=1, heads=4, time_steps=3, image_size=16),
    "sdt2": named("sdt2-8-512", dim=32, depth=3, heads=2, time_steps=2, image_size=32, num_classes=7, distilled=True),
    "sdt3": named("sdt3-5m", dim=48, depth=4, image_size=32, num_classes=7, widths=(8, 16, 32, 64, 48)),
    "qkformer": named("qkformer-4-384", dim=32, depth=3, heads=4, image_size=16),
    "qkformer-imagenet": named("qkformer-10-512", dim=32, depth=4, heads=2, image_size=32, num_classes=7),
    "qkformer-dvs": named("qkformer-2-256-dvs", dim=32, heads=4, image_size=32, time_steps=3),
    "max-former-imagenet": named("max-former-10-512", dim=32, depth=4, heads=2, image_size=32, num_classes=7),
    "ms-qkformer": named("ms-qkformer-4-384", dim=32, depth=3, heads=4, image_size=16),
}

FEW = [*SMALL, "spikingformer", "sdt1-imagenet", "sdt2", "qkformer-dvs", "max-former-imagenet"]
MORE = [name for name in SMALL | SIBLINGS if name not in FEW]
"""Names of both: among the few there is every kind of layer and of input; the others are for the deep run."""

HIERARCHIES: dict[str, ModelConfig] = {
    "max-former": named("max-former-4-384", dim=32, depth=3, heads=4, image_size=16),
    "max-former-dvs": named("max-former-2-256-dvs", dim=32, heads=4, image_size=32, time_steps=3),
    "ms-qkformer-imagenet": named("ms-qkformer-10-512", dim=32, depth=4, heads=2, image_size=32, num_classes=7),
    "ms-qkformer-dvs": named("ms-qkformer-2-256-dvs", dim=32, heads=4, image_size=32, time_steps=3),
}
"""The other forms of the last two families: what their layers have, some sibling has, too."""

_RESFORMER = {"dim": 16, "heads": 2, "depth": 3, "widths": (8, 16)}
RESFORMERS: dict[str, ModelConfig] = {
    "resformer": named("spiking-resformer-ti", **_RESFORMER, image_size=32, num_classes=7),
    "resformer-cifar": named("spiking-resformer-cifar", **_RESFORMER, image_size=8),
    "resformer-dvs": named("spiking-resformer-gesture", **_RESFORMER, image_size=8, time_steps=3),
}
"""SpikingResformers of two stages, of 1 and of 2 heads."""

INTEGERS: dict[str, ModelConfig] = {
    "sdt3-large": named(
        "sdt3-83m", dim=32, depth=1, heads=4, image_size=32, num_classes=7, widths=(4, 8, 16, 32), rep_width=48
    ),
    "qsd": named("qsd-8-256", dim=48, depth=4, heads=4, image_size=32, num_classes=7, widths=(4, 8, 16, 32, 48)),
    "sdt3-hardvs": named(
        "sdt3-19m-hardvs",
        dim=24,
        depth=4,
        heads=4,
        image_size=32,
        num_classes=7,
        widths=(4, 8, 8, 16, 24),
        time_steps=3,
    ),
}
"""Families of integer neurons beside the third Spike-driven Transformer, and its form for event data."""


def model_and_images(config: ModelConfig, seed: int = 0, count: int = 4) -> tuple[nn.Module, torch.Tensor]:
    """A model whose batch normalisations are calibrated on the images, shifted so that neurons fire."""
    torch.manual_seed(seed)
    module = build(config)
    _vary_scales(module)
    steps = (config.time_steps,) if config.per_step else ()
    images = torch.randn(count, *steps, config.in_channels, config.image_size, config.image_size)
    images = (images > 0.5).float() if config.per_step else images
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = 1.0
            nn.init.constant_(layer.bias, 0.4)
    module.train()
    with torch.no_grad():
        module(images)
        for layer in module.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.running_var.clamp_(min=0.05)  # type: ignore[union-attr]  # silent layers have none
    return module.eval(), images


@cache
def graph_of(config: ModelConfig) -> Graph:
    """The graph of that model as it is traced, once in a process: an export takes a second, and gives equal graphs."""
    module, _ = model_and_images(config)
    shape = (config.in_channels, config.image_size, config.image_size)
    return trace(module, shape, time_steps=config.time_steps, per_step=config.per_step)


def _vary_scales(module: nn.Module) -> None:
    """Scales and steps that matter: the official ones begin as good as zero, or so that no weight is clamped."""
    for name, parameter in module.named_parameters():
        if "layer_scale" in name:
            nn.init.uniform_(parameter, -1.5, 1.5)
        elif name.endswith(".alpha") and ".act." not in name:
            signs = torch.randint(0, 2, parameter.shape) * 2 - 1
            parameter.data *= signs * torch.empty(len(parameter)).uniform_(0.1, 0.4)
