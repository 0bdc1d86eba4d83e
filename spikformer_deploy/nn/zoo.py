"""The published sizes by name, and the module of any size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from spikformer_deploy.errors import InputError
from spikformer_deploy.nn.spikformer import SpikformerCifar, SpikformerDVS, SpikformerImageNet, SpikformerV2


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that defines a model but its weights.

    family       "v1" or "v2"; form: "cifar", "imagenet" or "dvs" (V1), "imagenet" (V2)
    image_size   height and width of the (square) input
    stem_stages  stages of V2's stem, each halving the image
    """

    family: str
    form: str
    depth: int
    dim: int
    heads: int
    time_steps: int
    in_channels: int
    image_size: int
    num_classes: int
    mlp_ratio: int = 4
    stem_stages: int = 4

    @property
    def per_step(self) -> bool:
        """Whether the input is a frame for every time step (event data)."""
        return self.form == "dvs"


_CIFAR = ModelConfig("v1", "cifar", 4, 384, 12, 4, 3, 32, 10)
_IMAGENET = ModelConfig("v1", "imagenet", 8, 512, 8, 4, 3, 224, 1000)
_V2 = ModelConfig("v2", "imagenet", 8, 512, 8, 4, 3, 224, 1000)

PUBLISHED: dict[str, ModelConfig] = {
    "v1-4-256": replace(_CIFAR, dim=256, heads=8),
    "v1-2-384": replace(_CIFAR, depth=2),
    "v1-4-384": _CIFAR,
    "v1-8-384": replace(_IMAGENET, dim=384, heads=6),
    "v1-6-512": replace(_IMAGENET, depth=6),
    "v1-8-512": _IMAGENET,
    "v1-10-512": replace(_IMAGENET, depth=10),
    "v1-8-768": replace(_IMAGENET, dim=768, heads=12),
    "v1-2-256-dvs": ModelConfig("v1", "dvs", 2, 256, 16, 16, 2, 128, 10),
    "v2-8-384": replace(_V2, dim=384, heads=6),
    "v2-8-512": _V2,
    "v2-8-768": replace(_V2, dim=768, heads=12),
    "v2-16-768": replace(_V2, depth=16, dim=768, heads=12),
}
"""Sizes of the papers' tables: V1 on CIFAR-10 and CIFAR10-DVS (official configs), V1 and V2 on ImageNet.

Heads are published for V1-4-384 (12), V1-8-512 (8) and DVS (16); elsewhere they keep the 64 (ImageNet) or 32 (CIFAR)
channels a head of those.
"""


def named(name: str, **overrides: Any) -> ModelConfig:
    """The published size `name`, with some fields changed.  Raises InputError for an unknown name."""
    if name not in PUBLISHED:
        raise InputError("--arch", f"no published size is called '{name}'", f"Known: {', '.join(PUBLISHED)}.")
    return replace(PUBLISHED[name], **overrides)


def build(config: ModelConfig) -> nn.Module:
    """The module of `config`, freshly initialised.  Raises InputError where the sizes do not go together."""
    c = config
    if c.dim % c.heads:
        raise InputError("--heads", f"{c.dim} channels do not divide into {c.heads} heads", "Choose a divisor.")
    shared = (c.in_channels, c.dim, c.depth, c.heads, c.mlp_ratio, c.num_classes)
    match (c.family, c.form):
        case ("v1", "cifar"):
            return SpikformerCifar(*shared, c.time_steps)
        case ("v1", "imagenet"):
            return SpikformerImageNet(*shared, c.time_steps)
        case ("v1", "dvs"):
            return SpikformerDVS(*shared, (c.image_size // 16) ** 2)
        case ("v2", "imagenet"):
            return SpikformerV2(*shared, c.time_steps, c.stem_stages)
        case _:
            raise InputError("--arch", f"there is no {c.family} in the form '{c.form}'")
