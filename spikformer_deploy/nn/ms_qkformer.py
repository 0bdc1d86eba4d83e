"""MS-QKFormer: QKFormer with membrane shortcuts, the rival of Max-Former in its paper (keys of the official code).

    s = LIF(x) ;  x = x + BN(W_proj (A * k)),  A = LIF_0.5(sum over the channels of a head of q),  q, k from s

Source: Fang et al. 2025, arXiv 2505.18608, and its code (bic-L/MaxFormer); Zhou et al. 2024 (QKFormer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from spikformer_deploy.nn.attention import MembraneTokenAttention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.hierarchy import (
    CIFAR_HEADS,
    DVS_HEADS,
    EmbeddingLayer,
    Hierarchy,
    MembraneEmbedding,
    Mixer,
    Parts,
    fields_of,
)
from spikformer_deploy.nn.keys import Tensors


def _mixer(config: ModelConfig, stage: int, width: int) -> Mixer:
    """The mixer of a stage before the last, under its official name."""
    return "attn", MembraneTokenAttention(width, config.heads)


def _large_embedding(in_channels: int, width: int) -> MembraneEmbedding:
    """The first embedding of ImageNet, to a quarter of the size by two max-poolings."""
    chain = (
        EmbeddingLayer("proj_{}", width // 2, pooled=True),
        EmbeddingLayer("proj_{}1", width, pooled=True),
        EmbeddingLayer("proj_{}2", width),
    )
    return MembraneEmbedding(in_channels, chain, EmbeddingLayer("rpe_{}", width, 2), branch=1, pixels=True)


def _later_embedding(form: str, in_channels: int, width: int) -> MembraneEmbedding:
    """A later embedding, to half the size: one layer of its chain is pooled, and its shortcut strides."""
    if form == "imagenet":
        chain = (EmbeddingLayer("proj3_{}", width, pooled=True), EmbeddingLayer("proj4_{}", width))
        return MembraneEmbedding(in_channels, chain, EmbeddingLayer("proj_res_{}", width, 2))
    chain = (EmbeddingLayer("embed1.embed_{}", width), EmbeddingLayer("max_embed1.embed_{}", width, pooled=True))
    return MembraneEmbedding(in_channels, chain, EmbeddingLayer("embed2.embed_{}", width, 2))


_CIFAR = ModelConfig("ms-qkformer", "cifar", 4, 384, CIFAR_HEADS, 4, 3, 32, 10)
_IMAGENET = ModelConfig("ms-qkformer", "imagenet", 10, 512, 8, 4, 3, 224, 1000)
_DVS = ModelConfig("ms-qkformer", "dvs", 2, 256, DVS_HEADS, 16, 2, 128, 10, mlp_ratio=1)


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells, its form by the first embedding."""
    if "stage1.0.attn.q_conv.weight" not in tensors or "stage1.0.attn.v_conv.weight" in tensors:
        return None
    if "patch_embed1.rpe_conv.weight" in tensors:
        return Recognised(fields_of(tensors, "imagenet", "proj_conv"), _IMAGENET)
    if "patch_embed1.max_embed3.embed_conv.weight" in tensors:
        return Recognised(fields_of(tensors, "dvs", "proj_conv"), _DVS)
    return Recognised(fields_of(tensors, "cifar", "proj_conv"), _CIFAR)


FAMILY = Family(
    title="MS-QKFormer",
    forms=("cifar", "imagenet", "dvs"),
    published={
        "ms-qkformer-4-384": _CIFAR,
        "ms-qkformer-10-384": replace(_IMAGENET, dim=384, heads=6),
        "ms-qkformer-10-512": _IMAGENET,
        "ms-qkformer-10-768": replace(_IMAGENET, dim=768, heads=12),
        "ms-qkformer-2-256-dvs": _DVS,
        "ms-qkformer-2-256-gesture": replace(_DVS, num_classes=11),
    },
    build=partial(Hierarchy, parts=Parts(_large_embedding, _later_embedding, _mixer)),
    recognise=_recognise,
)
"""Sizes of the official configurations."""
