"""QKFormer: Q-K token attention, a hierarchy of patch embeddings with deformed shortcuts (keys of the official code).

    A = LIF_0.5(sum over the channels of a head of q) ;  out = LIF(BN(W_proj (A * k)))

A is one spike a head and token: it masks whole tokens of k.  Residuals are sums of spikes, as in Spikformer.
Source: Zhou et al. 2024 (NeurIPS), arXiv 2403.16552, and its code (zhouchenlin2096/QKFormer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import ConvAttention, TokenAttention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import (
    MLP,
    Block,
    add_unit,
    conv_bn,
    conv_bn_lif,
    fire,
    over_steps,
    sequence,
    token_mean,
)
from spikformer_deploy.nn.lif import LIF

CIFAR_HEADS = 8
"""Heads of every stage in the official code for CIFAR, whatever its configuration says."""
DVS_HEADS = 16
"""The same for event data."""


class ChainLayer(NamedTuple):
    """A 3x3 convolution of a patch embedding; pooled: its currents are max-pooled by 2 before the neurons."""

    name: str
    channels: int
    pooled: bool


class PatchEmbedding(nn.Module):
    """SPEDS: a chain of 3x3 convolutions beside one strided 1x1 convolution, both to spikes, added up.

    in      (T, B, C, Y, X)
    out     (T, B, D, Y', X') integers 0..2
    branch  layers of the chain before the shortcut leaves it
    stride  of the shortcut
    Source: Zhou et al. 2024, the section on SPEDS, and the official code.
    """

    def __init__(self, in_channels: int, chain: tuple[ChainLayer, ...], branch: int, stride: int) -> None:
        super().__init__()
        self.chain = chain
        self.branch = branch
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = [in_channels, *(layer.channels for layer in chain)]
        for layer, inputs in zip(chain, widths, strict=False):
            conv = nn.Conv2d(inputs, layer.channels, 3, padding=1, bias=False)
            add_unit(self, f"{layer.name}_{{}}", conv, LIF())
        add_unit(self, "proj_res_{}", nn.Conv2d(widths[branch], widths[-1], 1, stride, bias=False), LIF())

    def forward(self, x: Tensor) -> Tensor:
        """Sums (T, B, D, Y', X') of two spikes."""
        shortcut = x
        for i, layer in enumerate(self.chain):
            if i == self.branch:
                shortcut = x
            unit = f"{layer.name}_{{}}"
            x = conv_bn(self, unit, x)
            x = over_steps(self.pool, x) if layer.pooled else x
            x = fire(self, unit, x)
        return x + conv_bn_lif(self, "proj_res_{}", shortcut)


class QKFormer(nn.Module):
    """QKFormer in its three official forms.

    in     images (B, C, Y, X), or frames (B, T, C, Y, X) of the form "dvs"
    out    logits (B, classes), the mean over the time steps
    depth  blocks in all, as in its configurations: stages of 1, 1, depth - 2 ("cifar"), 1, 2, depth - 3 ("imagenet");
           "dvs" has two stages of one block whatever depth says
    Source: Zhou et al. 2024, arXiv 2403.16552, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.time_steps = config.time_steps
        self.per_step = config.per_step
        embeddings = _embeddings(config)
        counts = {"cifar": (1, 1, config.depth - 2), "imagenet": (1, 2, config.depth - 3), "dvs": (1, 1)}[config.form]
        self.stages = len(counts)
        for number, (count, embedding) in enumerate(zip(counts, embeddings, strict=True), 1):
            # each stage has twice the channels of the one before
            width = config.dim >> (self.stages - number)
            last = number == self.stages
            self.add_module(f"patch_embed{number}", embedding)
            self.add_module(f"stage{number}", nn.ModuleList(_block(config, width, last=last) for _ in range(count)))
        self.head = nn.Linear(config.dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = sequence(x, self.time_steps, self.per_step)
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"patch_embed{number}")(x)
            for block in getattr(self, f"stage{number}"):
                x = block(x)
        return self.head(token_mean(x).mean(0))


def _block(config: ModelConfig, width: int, *, last: bool) -> Block:
    """A block under its official names: self-attention in the last stage, Q-K token attention before it."""
    imagenet = config.form == "imagenet"
    units = ("fc1_{}", "fc2_{}") if imagenet else ("mlp1_{}", "mlp2_{}")
    if last:
        attention = ConvAttention(width, config.heads)
        return Block(attention, MLP(width, config.mlp_ratio, units=units), name="attn" if imagenet else "ssa")
    masks = TokenAttention(width, config.heads)
    return Block(masks, MLP(width, config.mlp_ratio, units=units), name="tssa")


def _embeddings(config: ModelConfig) -> list[PatchEmbedding]:
    """The patch embeddings of a form, made in their order, on which the weights of a seed depend."""
    dim = config.dim
    if config.form == "dvs":
        return [_event_embedding(config.in_channels, dim // 2), _later_embedding("proj", dim, early=False)]
    imagenet = config.form == "imagenet"
    embedding = _large_embedding if imagenet else _small_embedding
    first = embedding(config.in_channels, dim // 4)
    return [first, *(_later_embedding("proj3", width, early=imagenet) for width in (dim // 2, dim))]


def _small_embedding(in_channels: int, width: int) -> PatchEmbedding:
    """The first embedding of CIFAR, which keeps the size."""
    chain = (ChainLayer("proj", width // 2, False), ChainLayer("proj1", width, False))
    return PatchEmbedding(in_channels, chain, branch=1, stride=1)


def _large_embedding(in_channels: int, width: int) -> PatchEmbedding:
    """The first embedding of ImageNet, to a quarter of the size."""
    chain = (
        ChainLayer("proj", width // 2, True),
        ChainLayer("proj1", width, True),
        ChainLayer("proj2", width, False),
    )
    return PatchEmbedding(in_channels, chain, branch=1, stride=2)


def _event_embedding(in_channels: int, width: int) -> PatchEmbedding:
    """The first embedding of event data, to an eighth of the size."""
    chain = (
        ChainLayer("proj", width // 8, False),
        ChainLayer("proj1", width // 4, True),
        ChainLayer("proj2", width // 2, True),
        ChainLayer("proj3", width, True),
    )
    return PatchEmbedding(in_channels, chain, branch=2, stride=4)


def _later_embedding(name: str, width: int, *, early: bool) -> PatchEmbedding:
    """A later embedding, from half as many channels, to half the size; early: the first of its layers is pooled."""
    chain = (ChainLayer(name, width, early), ChainLayer("proj4", width, not early))
    return PatchEmbedding(width // 2, chain, branch=0, stride=2)


_CIFAR = ModelConfig("qkformer", "cifar", 4, 384, CIFAR_HEADS, 4, 3, 32, 10)
_IMAGENET = ModelConfig("qkformer", "imagenet", 10, 512, 8, 4, 3, 224, 1000)
_DVS = ModelConfig("qkformer", "dvs", 2, 256, DVS_HEADS, 16, 2, 128, 10, mlp_ratio=1)


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells, its form by the number of stages and the name of the last one's attention."""
    if "stage1.0.tssa.q_conv.weight" not in tensors:
        return None
    in_channels = keys.input_channels(tensors, "patch_embed1.proj_conv.weight")
    if "stage3.0.attn.q_conv.weight" in tensors:
        hidden = keys.required(tensors, "stage3.0.mlp.fc1_conv.weight")
        fields = keys.sizes(tensors, "imagenet", hidden, in_channels)
        fields["depth"] = sum(keys.count(tensors, f"stage{number}") for number in (1, 2, 3))
        # 64 channels a head
        return Recognised(fields, replace(_IMAGENET, heads=max(1, fields["dim"] // 64)))
    if "stage3.0.ssa.q_conv.weight" in tensors:
        hidden = keys.required(tensors, "stage3.0.mlp.mlp1_conv.weight")
        fields = keys.sizes(tensors, "cifar", hidden, in_channels)
        fields["depth"] = 2 + keys.count(tensors, "stage3")
        fields["heads"] = CIFAR_HEADS
        return Recognised(fields, _CIFAR)
    hidden = keys.required(tensors, "stage2.0.mlp.mlp1_conv.weight")
    fields = keys.sizes(tensors, "dvs", hidden, in_channels)
    fields["depth"] = 2
    fields["heads"] = DVS_HEADS
    return Recognised(fields, _DVS)


FAMILY = Family(
    title="QKFormer",
    forms=("cifar", "imagenet", "dvs"),
    published={
        "qkformer-4-384": _CIFAR,
        "qkformer-10-384": replace(_IMAGENET, dim=384, heads=6),
        "qkformer-10-512": _IMAGENET,
        "qkformer-10-768": replace(_IMAGENET, dim=768, heads=12),
        "qkformer-2-256-dvs": _DVS,
        "qkformer-2-256-gesture": replace(_DVS, num_classes=11, mlp_ratio=4),
    },
    build=QKFormer,
    recognise=_recognise,
)
"""Sizes of the official configurations."""
