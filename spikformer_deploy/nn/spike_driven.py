"""Spike-driven Transformer V1: membrane shortcuts, and attention that only masks and adds (keys of the official code).

    kv = LIF_0.5(sum over tokens of k * v) ;  out = q * kv ;  x = x + BN(W_proj out)

q, k, v are spikes: the products are masks and the sum counts spikes, channel by channel.
Source: Yao et al. 2023 (NeurIPS), arXiv 2307.01694, and its code (BICLab/Spike-Driven-Transformer).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import ATTENTION_THRESHOLD
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import (
    ShortcutMLP,
    add_unit,
    conv_bn,
    conv_bn_lif,
    fire,
    over_steps,
    repeated,
    token_mean,
)
from spikformer_deploy.nn.lif import LIF

TALKING_HEADS = "block.0.attn.talking_heads.weight"
"""A key that no other family has."""


class Stem(nn.Module):
    """Four 3x3 convolutions (BN, LIF, some max-pooled), and a fifth on their spikes, added to the current before them.

    in     (T, B, C, Y, X)
    out    (T, B, D, Y', X') currents
    pools  the official `pooling_stat`; the fourth pools currents, before the neurons
    """

    def __init__(self, in_channels: int, dim: int, pools: tuple[bool, bool, bool, bool]) -> None:
        super().__init__()
        self.pools = pools
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs = in_channels
        for suffix, outputs in zip(("", "1", "2", "3"), (dim // 8, dim // 4, dim // 2, dim), strict=True):
            add_unit(self, f"proj_{{}}{suffix}", nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), LIF())
            inputs = outputs
        add_unit(self, "rpe_{}", nn.Conv2d(dim, dim, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Currents (T, B, D, Y', X')."""
        for suffix, pool in zip(("", "1", "2"), self.pools, strict=False):
            x = conv_bn_lif(self, f"proj_{{}}{suffix}", x)
            x = over_steps(self.pool, x) if pool else x
        x = conv_bn(self, "proj_{}3", x)
        x = over_steps(self.pool, x) if self.pools[3] else x
        return conv_bn(self, "rpe_{}", fire(self, "proj_{}3", x)) + x


class Attention(nn.Module):
    """Spike-driven self-attention with its shortcut: x + BN(W_proj (q * kv)).

    in, out        currents (T, B, D, Y, X)
    talking_heads  in every official state_dict, and unused in its forward pass
    Source: Yao et al. 2023, eq. 8.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.shortcut_lif = LIF()
        for name in ("q", "k", "v"):
            add_unit(self, f"{name}_{{}}", nn.Conv2d(dim, dim, 1, bias=False), LIF())
        self.talking_heads = nn.Conv1d(heads, heads, 1, bias=False)
        self.talking_heads_lif = LIF(v_threshold=ATTENTION_THRESHOLD)
        add_unit(self, "proj_{}", nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        spikes = self.shortcut_lif(x)
        q = conv_bn_lif(self, "q_{}", spikes)
        k = conv_bn_lif(self, "k_{}", spikes)
        v = conv_bn_lif(self, "v_{}", spikes)
        kv = self.talking_heads_lif((k * v).sum((3, 4), keepdim=True))
        return conv_bn(self, "proj_{}", q * kv) + x


class SpikeDrivenTransformer(nn.Module):
    """Spike-driven Transformer V1: images (B, C, Y, X) -> logits (B, classes), the mean over the time steps.

    The form "cifar" has the pooling 0011, "imagenet" 1111.
    Source: Yao et al. 2023, arXiv 2307.01694, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        early = config.form == "imagenet"
        self.time_steps = config.time_steps
        self.patch_embed = Stem(config.in_channels, dim, (early, early, True, True))
        self.block = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.head_lif = LIF()
        self.head = nn.Linear(dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.patch_embed(repeated(x, self.time_steps))
        for block in self.block:
            x = block(x)
        return self.head(self.head_lif(token_mean(x))).mean(0)


def _block(config: ModelConfig) -> nn.Sequential:
    """Attention, then MLP; both have their shortcuts in them, since the MLP's may start at its hidden layer."""
    attention = Attention(config.dim, config.heads)
    mlp = ShortcutMLP(config.dim, config.mlp_ratio)
    return nn.Sequential(OrderedDict(attn=attention, mlp=mlp))


_CIFAR = ModelConfig("sdt1", "cifar", 2, 512, 8, 4, 3, 32, 10)
_IMAGENET = ModelConfig("sdt1", "imagenet", 8, 512, 8, 4, 3, 224, 1000)


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells; its form by the script's `pooling_stat`, else by the number of classes."""
    if TALKING_HEADS not in tensors:
        return None
    in_channels = keys.input_channels(tensors, "patch_embed.proj_conv.weight")
    if in_channels == 2:
        raise ModelError(
            path,
            "it is a Spike-driven Transformer of event data, whose attention pools over tokens and channels at once",
            "The forms for images are supported.",
        )
    pooling = arguments.get("pooling_stat")
    classes = len(keys.required(tensors, "head.weight"))
    # no weight depends on the pooling: without the argument, as many classes as ImageNet's stand for its form
    large = pooling == "1111" if isinstance(pooling, str) else classes >= 1000
    hidden = keys.required(tensors, "block.0.mlp.fc1_conv.weight")
    fields = keys.sizes(tensors, "imagenet" if large else "cifar", hidden, in_channels)
    fields["depth"] = keys.count(tensors, "block")
    fields["heads"] = len(tensors[TALKING_HEADS])
    return Recognised(fields, _IMAGENET if large else _CIFAR)


FAMILY = Family(
    title="Spike-driven Transformer V1",
    forms=("cifar", "imagenet"),
    published={
        "sdt1-2-256": replace(_CIFAR, dim=256),
        "sdt1-2-512": _CIFAR,
        "sdt1-8-384": replace(_IMAGENET, dim=384),
        "sdt1-6-512": replace(_IMAGENET, depth=6),
        "sdt1-8-512": _IMAGENET,
        "sdt1-10-512": replace(_IMAGENET, depth=10),
        "sdt1-8-768": replace(_IMAGENET, dim=768),
    },
    build=SpikeDrivenTransformer,
    recognise=_recognise,
)
"""Sizes of the official configurations."""
