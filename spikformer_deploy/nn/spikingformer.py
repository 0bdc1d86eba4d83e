"""Spikingformer: LIF before every convolution, and a residual stream of membrane currents (keys of the official code).

    x = x + BN(W SSA(LIF(x))), then x = x + BN(W2 LIF(BN(W1 LIF(x))));  logits = head(mean over tokens and T of x)

Only spikes enter convolutions; what is added up is real-valued.
Source: Zhou et al. 2023, arXiv 2304.11954, and its code (zhouchenlin2096/Spikingformer).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import MembraneAttention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import (
    Block,
    InnerChannels,
    MembraneMLP,
    add_unit,
    conv_bn,
    fire,
    over_steps,
    sequence,
    token_mean,
)
from spikformer_deploy.nn.lif import LIF

TAU = {"cifar": 2.0, "imagenet": 2.0, "dvs": 1.5}
"""Time constant of all neurons in the official code, in time steps."""
_NUMBERED = ("proj", "proj1", "proj2", "proj3", "proj4")
NAMES = {"cifar": ("block0", "block1", "block2", "block3", "block4"), "imagenet": _NUMBERED, "dvs": _NUMBERED}
"""Of the tokenizer's convolutions in the official state_dicts."""


class Tokenizer(nn.Module):
    """Five 3x3 convolutions with BN; all but the first see spikes, some of them max-pooled by 2.

    in     (T, B, C, Y, X)
    out    (T, B, D, Y', X') currents
    names  of the convolutions, as in the official state_dicts
    pools  whether the spikes before each are pooled
    hidden  channels of all but the last
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        names: tuple[str, ...],
        pools: tuple[bool, ...],
        tau: float,
        hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.names = names
        self.pools = pools
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs = in_channels
        for i, (name, outputs) in enumerate(zip(names, (*hidden, dim), strict=True)):
            # the neurons stand before their convolution, and the first convolution sees the image itself
            lif = LIF(tau) if i else None
            add_unit(self, f"{name}_{{}}", nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), lif)
            inputs = outputs

    def inner_channels(self) -> Iterator[InnerChannels]:
        """Those of all convolutions but the last."""
        for before, behind in pairwise(f"{name}_{{}}" for name in self.names):
            yield InnerChannels(before, behind, behind)

    def forward(self, x: Tensor) -> Tensor:
        """Currents (T, B, D, Y', X')."""
        for i, (name, pool) in enumerate(zip(self.names, self.pools, strict=True)):
            unit = f"{name}_{{}}"
            if i:
                x = fire(self, unit, x)
            if pool:
                x = over_steps(self.pool, x)
            x = conv_bn(self, unit, x)
        return x


class Spikingformer(nn.Module):
    """Spikingformer in its three official forms.

    in   images (B, C, Y, X), or frames (B, T, C, Y, X) of the form "dvs"
    out  logits (B, classes), the mean over the time steps
    The form "cifar" pools the last two spike maps of the tokenizer, "imagenet" and "dvs" the last four.
    Source: Zhou et al. 2023, arXiv 2304.11954, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.time_steps = config.time_steps
        self.per_step = config.per_step
        dim = config.dim
        self.patch_embed = _tokenizer(config)
        self.block = nn.ModuleList(_block(config, config.hidden_of(i)) for i in range(config.depth))
        self.head = nn.Linear(dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.patch_embed(sequence(x, self.time_steps, self.per_step))
        for block in self.block:
            x = block(x)
        return self.head(token_mean(x).mean(0))


def _tokenizer(config: ModelConfig) -> Tokenizer:
    tau = TAU[config.form]
    names = NAMES[config.form]
    hidden = config.stem_hidden or _stem_hidden(config)
    if config.form == "cifar":
        return Tokenizer(config.in_channels, config.dim, names, (False, False, False, True, True), tau, hidden)
    return Tokenizer(config.in_channels, config.dim, names, (False, True, True, True, True), tau, hidden)


def _stem_hidden(config: ModelConfig) -> tuple[int, ...]:
    """Channels of the tokenizer's first four convolutions."""
    return (config.dim // 8, config.dim // 4, config.dim // 2, config.dim)


def _block(config: ModelConfig, hidden: int) -> Block:
    """A block with that many channels in its MLP, and the unused LayerNorms of the official state_dicts."""
    dim = config.dim
    tau = TAU[config.form]
    attention = MembraneAttention(dim, config.heads, tau, scores_first=config.form != "imagenet")
    mlp = MembraneMLP(dim, config.mlp_ratio, units=("mlp1_{}", "mlp2_{}"), tau=tau, hidden=hidden)
    return Block(attention, mlp, norms=dim)


_CIFAR = ModelConfig("spikingformer", "cifar", 4, 384, 12, 4, 3, 32, 10)
_IMAGENET = ModelConfig("spikingformer", "imagenet", 8, 512, 8, 4, 3, 224, 1000)
_DVS = ModelConfig("spikingformer", "dvs", 2, 256, 16, 16, 2, 128, 10)


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells, its form by the names of the tokenizer and the channels of the image."""
    hidden = tensors.get("block.0.mlp.mlp1_conv.weight")
    if hidden is None or "block.0.attn.q_conv.weight" not in tensors:
        return None
    cifar = "patch_embed.block0_conv.weight" in tensors
    first = f"patch_embed.{'block0' if cifar else 'proj'}_conv.weight"
    in_channels = keys.input_channels(tensors, first)
    form = "cifar" if cifar else "dvs" if in_channels == 2 else "imagenet"
    fields = keys.sizes(tensors, form, hidden, in_channels)
    fields["depth"] = keys.count(tensors, "block")
    fields["hidden"] = keys.hidden_by_block(tensors, "block.{}.mlp.mlp1_conv.weight", fields)
    stem = [f"patch_embed.{name}_conv.weight" for name in NAMES[form][:-1]]
    fields["stem_hidden"] = keys.unusual_widths(tensors, stem, _stem_hidden(replace(_CIFAR, dim=fields["dim"])))
    return Recognised(fields, _usual(form, fields["dim"]))


def _usual(form: str, dim: int) -> ModelConfig:
    """The official heads and time steps for a width: 32 channels a head on CIFAR, 64 on ImageNet, where 8 is most."""
    match form:
        case "cifar":
            return replace(_CIFAR, heads=max(1, dim // 32))
        case "dvs":
            return _DVS
        case _:
            return replace(_IMAGENET, heads=min(8, max(1, dim // 64)))


FAMILY = Family(
    title="Spikingformer",
    forms=("cifar", "imagenet", "dvs"),
    published={
        "spikingformer-4-256": replace(_CIFAR, dim=256, heads=8),
        "spikingformer-2-384": replace(_CIFAR, depth=2),
        "spikingformer-4-384": _CIFAR,
        "spikingformer-8-384": replace(_IMAGENET, dim=384, heads=6),
        "spikingformer-8-512": _IMAGENET,
        "spikingformer-8-768": replace(_IMAGENET, dim=768, heads=8),
        "spikingformer-2-256-dvs": _DVS,
    },
    build=Spikingformer,
    recognise=_recognise,
    hidden_by_block=True,
    stem_hidden=_stem_hidden,
    unread=re.compile(r"block\.\d+\.norm[12]\.(weight|bias)"),
)
"""Sizes of the official configurations."""
