"""Spikformer V1 in its official forms: CIFAR, ImageNet and CIFAR10-DVS (keys of the official state_dicts).

    x = SPS(image);  x = x + SSA(x), then x = x + MLP(x) in each block;  logits = head(mean over tokens and T of x)

Residuals are sums of spikes: small integers.
Source: Zhou et al. 2023 (ICLR), arXiv 2209.15425, and its code (ZK-Zhou/spikformer).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import ConvAttention, LinearAttention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import (
    MLP,
    Block,
    InnerChannels,
    add_unit,
    conv_bn_lif,
    linear_bn_lif,
    over_steps,
    pooled_stages,
    send_integers,
    sequence,
    token_mean,
)
from spikformer_deploy.nn.lif import LIF

POOLING = {"cifar": "0011", "imagenet": "1111", "dvs": "1111"}
"""What the forms pool, as `pooling_stat` of later official code writes it."""
STAGES = ("", "1", "2", "3")
"""Suffixes of the stem's stages in the official state_dicts."""


class SPS(nn.Module):
    """Spiking patch splitting: four 3x3 convolutions (each BN, LIF, some with max-pooling), plus a position embedding.

    in     (T, B, C, Y, X)
    out    (T, B, D, Y', X') integers 0..2: spikes of the position convolution + its input spikes
    pools  for each of the four stages, whether a 3x3 max-pooling of stride 2 follows
    hidden  channels of the first three
    Source: Zhou et al. 2023, section 3.2, and the official code.
    """

    def __init__(self, in_channels: int, dim: int, pools: tuple[bool, ...], hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.pools = pools
        inputs = in_channels
        for suffix, outputs, pool in zip(STAGES, (*hidden, dim), pools, strict=True):
            add_unit(self, f"proj_{{}}{suffix}", nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), LIF())
            if pool:
                self.add_module(f"maxpool{suffix}", nn.MaxPool2d(3, 2, 1))
            inputs = outputs
        add_unit(self, "rpe_{}", nn.Conv2d(dim, dim, 3, padding=1, bias=False), LIF())

    def inner_channels(self) -> Iterator[InnerChannels]:
        """Those of the first three convolutions."""
        for before, behind in pairwise(f"proj_{{}}{suffix}" for suffix in STAGES):
            yield InnerChannels(before, behind, before)

    def forward(self, x: Tensor) -> Tensor:
        """Sums (T, B, D, Y', X') of two spikes."""
        for suffix, pool in zip(STAGES, self.pools, strict=True):
            x = conv_bn_lif(self, f"proj_{{}}{suffix}", x)
            if pool:
                x = over_steps(self.get_submodule(f"maxpool{suffix}"), x)
        return conv_bn_lif(self, "rpe_{}", x) + x


class LinearMLP(nn.Module):
    """LIF(BN(W2 LIF(BN(W1 x)))), D -> hidden -> D channels, of nn.Linear with bias: the CIFAR form.

    in, out  tokens (T, B, N, D)
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        add_unit(self, "fc1_{}", nn.Linear(dim, hidden), LIF())
        add_unit(self, "fc2_{}", nn.Linear(hidden, dim), LIF())

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, N, D)."""
        hidden = linear_bn_lif(self, "fc1_{}", x)
        return linear_bn_lif(self, "fc2_{}", hidden)


class Spikformer(nn.Module):
    """Spikformer V1.

    in   images (B, C, Y, X), or frames (B, T, C, Y, X) of the form "dvs"
    out  logits (B, classes), the mean over the time steps
    The three forms differ in what a block works on: tokens (T, B, N, D) with nn.Linear ("cifar"), maps
    (T, B, D, Y, X) ("imagenet"), tokens (T, B, D, N) ("dvs").  pos_embed and norm of "dvs" are in the official
    state_dict, and unused in its forward pass.
    Source: Zhou et al. 2023, section 3.1, and the official code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.form = config.form
        self.time_steps = config.time_steps
        self.per_step = config.per_step
        dim = config.dim
        pools = pooled_stages(config.pooling or POOLING[config.form])
        self.patch_embed = SPS(config.in_channels, dim, pools, config.stem_hidden or _stem_hidden(config))
        if self.per_step:
            side = config.image_size // 2 ** sum(pools)
            self.pos_embed = nn.Parameter(torch.zeros(1, side**2, dim))
        self.block = nn.ModuleList(_block(config, config.hidden_of(i)) for i in range(config.depth))
        if self.per_step:
            self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.num_classes)
        send_integers(self, config.levels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.patch_embed(sequence(x, self.time_steps, self.per_step))
        if self.form == "cifar":
            x = x.flatten(3).transpose(-1, -2)
        elif self.form == "dvs":
            x = x.flatten(3)
        for block in self.block:
            x = block(x)
        mean = x.mean(2) if self.form == "cifar" else token_mean(x)
        return self.head(mean.mean(0))


def _stem_hidden(config: ModelConfig) -> tuple[int, ...]:
    """Channels of the stem's first three convolutions."""
    return (config.dim // 8, config.dim // 4, config.dim // 2)


def _block(config: ModelConfig, hidden: int) -> Block:
    """A block of the form with that many channels in its MLP, and the unused LayerNorms of the official state_dicts."""
    dim = config.dim
    match config.form:
        case "cifar":
            return Block(LinearAttention(dim, config.heads), LinearMLP(dim, hidden), norms=dim)
        case "imagenet":
            return Block(ConvAttention(dim, config.heads), MLP(dim, config.mlp_ratio, hidden=hidden), norms=dim)
        case _:
            attention = ConvAttention(dim, config.heads, scale=0.25)
            return Block(attention, MLP(dim, config.mlp_ratio, tokens=True, hidden=hidden), norms=dim)


# Heads are published for V1-4-384 (12), V1-8-512 (8) and DVS (16).  The others keep the channels a head of those: 32 on
# CIFAR, 64 on ImageNet.
_CIFAR = ModelConfig("v1", "cifar", 4, 384, 12, 4, 3, 32, 10)
_IMAGENET = ModelConfig("v1", "imagenet", 8, 512, 8, 4, 3, 224, 1000)
_DVS = ModelConfig("v1", "dvs", 2, 256, 16, 16, 2, 128, 10)
_PER_HEAD = {"cifar": 32, "imagenet": 64}


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict of V1 tells, its form by the layers of its MLPs: Linear, Conv2d or Conv1d."""
    hidden = tensors.get("block.0.mlp.fc1_linear.weight", tensors.get("block.0.mlp.fc1_conv.weight"))
    needed = ("patch_embed.proj_conv.weight", "patch_embed.proj_conv3.weight", "head.weight")
    # Spike-driven Transformer V1 has all of these keys too, and its attention one more
    sibling = "block.0.attn.talking_heads.weight" in tensors
    if hidden is None or sibling or any(key not in tensors for key in needed):
        return None
    form = {2: "cifar", 4: "imagenet", 3: "dvs"}.get(hidden.ndim)
    if form is None:
        return None
    fields = keys.sizes(tensors, form, hidden, keys.input_channels(tensors, "patch_embed.proj_conv.weight"))
    fields["depth"] = keys.count(tensors, "block")
    layer = "fc1_linear" if form == "cifar" else "fc1_conv"
    fields["hidden"] = keys.hidden_by_block(tensors, f"block.{{}}.mlp.{layer}.weight", fields)
    stem = [f"patch_embed.proj_conv{suffix}.weight" for suffix in STAGES[:3]]
    fields["stem_hidden"] = keys.unusual_widths(tensors, stem, _stem_hidden(replace(_CIFAR, dim=fields["dim"])))
    if "pos_embed" in tensors:
        # one position a token, and a token stands for 16 x 16 pixels
        fields["image_size"] = 16 * isqrt(tensors["pos_embed"].shape[1])
    return Recognised(fields, _usual(form, fields["dim"]))


def _usual(form: str, dim: int) -> ModelConfig:
    """The paper's heads and time steps for a width: 16 heads and T = 16 on DVS whatever it is."""
    if form == "dvs":
        return _DVS
    return replace(_CIFAR if form == "cifar" else _IMAGENET, heads=max(1, dim // _PER_HEAD[form]))


FAMILY = Family(
    title="Spikformer V1",
    forms=("cifar", "imagenet", "dvs"),
    published={
        "v1-4-256": replace(_CIFAR, dim=256, heads=8),
        "v1-2-384": replace(_CIFAR, depth=2),
        "v1-4-384": _CIFAR,
        "v1-8-384": replace(_IMAGENET, dim=384, heads=6),
        "v1-6-512": replace(_IMAGENET, depth=6),
        "v1-8-512": _IMAGENET,
        "v1-10-512": replace(_IMAGENET, depth=10),
        "v1-8-768": replace(_IMAGENET, dim=768, heads=12),
        "v1-2-256-dvs": _DVS,
    },
    build=Spikformer,
    recognise=_recognise,
    pooling=POOLING,
    hidden_by_block=True,
    stem_hidden=_stem_hidden,
    unread=re.compile(r"block\.\d+\.norm[12]\.(weight|bias)|pos_embed|norm\.(weight|bias)"),
)
"""Sizes of the paper's tables (ImageNet) and of the official configurations (CIFAR-10, CIFAR10-DVS)."""
