"""The published sizes by name, and the module of any size."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn.meta_spikeformer import MetaSpikeFormer
from spikformer_deploy.nn.qkformer import CIFAR_HEADS, DVS_HEADS, QKFormer
from spikformer_deploy.nn.spike_driven import SpikeDrivenTransformer
from spikformer_deploy.nn.spikformer import SpikformerCifar, SpikformerDVS, SpikformerImageNet, SpikformerV2
from spikformer_deploy.nn.spikingformer import Spikingformer


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that defines a model but its weights.

    family       "v1", "v2" (Spikformer), "spikingformer", "sdt1", "sdt2" (Spike-driven Transformer V1, V2),
                 "qkformer"
    form         "cifar", "imagenet" or "dvs": the layout of the official code for that kind of data
    image_size   height and width of the (square) input
    stem_stages  stages of V2's stem, each halving the image
    distilled    "sdt2": there is a second head, of its distillation
    pooling      "v1": after which of the stem's four stages a 3x3 max-pooling halves the map ("0011": after the last
                 two); "": as the form has it.  No weight depends on it
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
    distilled: bool = False
    pooling: str = ""

    @property
    def per_step(self) -> bool:
        """Whether the input is a frame for every time step (event data)."""
        return self.form == "dvs"

    @property
    def stem_pooling(self) -> str:
        """`pooling`, or what the form of V1 has; "" for other families."""
        return self.pooling or (POOLING.get(self.form, "") if self.family == "v1" else "")


_CIFAR = ModelConfig("v1", "cifar", 4, 384, 12, 4, 3, 32, 10)
_IMAGENET = ModelConfig("v1", "imagenet", 8, 512, 8, 4, 3, 224, 1000)
_SPIKINGFORMER = ModelConfig("spikingformer", "cifar", 4, 384, 12, 4, 3, 32, 10)
_SPIKINGFORMER_IMAGENET = replace(_SPIKINGFORMER, form="imagenet", depth=8, image_size=224, num_classes=1000)
_SDT1 = ModelConfig("sdt1", "cifar", 2, 512, 8, 4, 3, 32, 10)
_SDT1_IMAGENET = replace(_SDT1, form="imagenet", depth=8, image_size=224, num_classes=1000)
_SDT2 = ModelConfig("sdt2", "imagenet", 8, 512, 8, 4, 3, 224, 1000)
_QKFORMER = ModelConfig("qkformer", "cifar", 4, 384, CIFAR_HEADS, 4, 3, 32, 10)
_QKFORMER_IMAGENET = replace(_QKFORMER, form="imagenet", depth=10, image_size=224, num_classes=1000)
_QKFORMER_DVS = ModelConfig("qkformer", "dvs", 2, 256, DVS_HEADS, 16, 2, 128, 10, mlp_ratio=1)
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
    "spikingformer-4-256": replace(_SPIKINGFORMER, dim=256, heads=8),
    "spikingformer-2-384": replace(_SPIKINGFORMER, depth=2),
    "spikingformer-4-384": _SPIKINGFORMER,
    "spikingformer-8-384": replace(_SPIKINGFORMER_IMAGENET, heads=6),
    "spikingformer-8-512": replace(_SPIKINGFORMER_IMAGENET, dim=512, heads=8),
    "spikingformer-8-768": replace(_SPIKINGFORMER_IMAGENET, dim=768, heads=8),
    "spikingformer-2-256-dvs": ModelConfig("spikingformer", "dvs", 2, 256, 16, 16, 2, 128, 10),
    "sdt1-2-256": replace(_SDT1, dim=256),
    "sdt1-2-512": _SDT1,
    "sdt1-8-384": replace(_SDT1_IMAGENET, dim=384),
    "sdt1-6-512": replace(_SDT1_IMAGENET, depth=6),
    "sdt1-8-512": _SDT1_IMAGENET,
    "sdt1-10-512": replace(_SDT1_IMAGENET, depth=10),
    "sdt1-8-768": replace(_SDT1_IMAGENET, dim=768),
    "sdt2-8-384": replace(_SDT2, dim=384),
    "sdt2-8-512": _SDT2,
    "sdt2-8-768": replace(_SDT2, dim=768),
    "qkformer-4-384": _QKFORMER,
    "qkformer-10-384": replace(_QKFORMER_IMAGENET, heads=6),
    "qkformer-10-512": replace(_QKFORMER_IMAGENET, dim=512, heads=8),
    "qkformer-10-768": replace(_QKFORMER_IMAGENET, dim=768, heads=12),
    "qkformer-2-256-dvs": _QKFORMER_DVS,
    "qkformer-2-256-gesture": replace(_QKFORMER_DVS, num_classes=11, mlp_ratio=4),
}
"""Sizes of the papers' tables: V1 on CIFAR-10 and CIFAR10-DVS (official configs), V1 and V2 on ImageNet, and of the
official configurations of Spikingformer, Spike-driven Transformer V1 and V2, and QKFormer.

Heads are published for V1-4-384 (12), V1-8-512 (8) and DVS (16); elsewhere they keep the 64 (ImageNet) or 32 (CIFAR)
channels a head of those.
"""


FORMS = {
    "spikingformer": ("cifar", "imagenet", "dvs"),
    "sdt1": ("cifar", "imagenet"),
    "qkformer": ("cifar", "imagenet", "dvs"),
}
"""The official layouts of the families beside Spikformer."""

POOLING = {"cifar": "0011", "imagenet": "1111", "dvs": "1111"}
"""What the forms of Spikformer V1 pool, as `pooling_stat` of later official code writes it."""


def named(name: str, **overrides: Any) -> ModelConfig:
    """The published size `name`, with some fields changed.  Raises InputError for an unknown name."""
    if name not in PUBLISHED:
        raise InputError("--arch", f"no published size is called '{name}'", f"Known: {', '.join(PUBLISHED)}.")
    return replace(PUBLISHED[name], **overrides)


def plain(config: ModelConfig) -> ModelConfig:
    """`config` without a pooling that says no more than its form: what are equal networks is then equal."""
    implied = config.family == "v1" and config.pooling == POOLING.get(config.form)
    return replace(config, pooling="") if implied else config


def build(config: ModelConfig) -> nn.Module:
    """The module of `config`, freshly initialised.  Raises InputError where the sizes do not go together."""
    c = config
    pools = _pools(c)
    family = {"spikingformer": Spikingformer, "sdt1": SpikeDrivenTransformer, "qkformer": QKFormer}.get(c.family)
    if c.dim % c.heads:
        raise InputError("--heads", f"{c.dim} channels do not divide into {c.heads} heads", "Choose a divisor.")
    shared = (c.in_channels, c.dim, c.depth, c.heads, c.mlp_ratio, c.num_classes)
    if family is not None and c.form in FORMS[c.family]:
        return family(c.form, *shared, c.time_steps)
    match (c.family, c.form):
        case ("v1", "cifar"):
            return SpikformerCifar(*shared, c.time_steps, pools)
        case ("v1", "imagenet"):
            return SpikformerImageNet(*shared, c.time_steps, pools)
        case ("v1", "dvs"):
            return SpikformerDVS(*shared, (c.image_size // 2 ** sum(pools)) ** 2, pools)
        case ("sdt2", "imagenet"):
            return MetaSpikeFormer(*shared, c.time_steps, c.distilled)
        case ("v2", "imagenet"):
            return SpikformerV2(*shared, c.time_steps, c.stem_stages)
        case _:
            raise InputError("--arch", f"there is no {c.family} in the form '{c.form}'")


def _pools(config: ModelConfig) -> tuple[bool, ...]:
    """Whether each of the four stages of V1's stem is followed by pooling."""
    if config.pooling and config.family != "v1":
        raise InputError("pooling", f"the stem of {config.family} has no choice of it", "Leave it out.")
    pooling = config.stem_pooling
    if pooling and not re.fullmatch("[01]{4}", pooling):
        problem = f"'{pooling}' does not say for each of the four stages whether it is pooled"
        raise InputError("pooling", problem, 'Write four digits, 1: pooled ("0011").')
    return tuple(digit == "1" for digit in pooling)
