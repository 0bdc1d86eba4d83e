"""MS-QKFormer: QKFormer with membrane shortcuts, the rival of Max-Former in its paper (keys of the official code).

    s = LIF(x) ;  x = x + BN(W_proj (A * k)),  A = LIF_0.5(sum over the channels of a head of q),  q, k from s

Source: Fang et al. 2025, arXiv 2505.18608, and its code (bic-L/MaxFormer); Zhou et al. 2024 (QKFormer).
"""

from __future__ import annotations

from spikformer_deploy.nn.attention import MembraneTokenAttention
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.hierarchy import (
    EmbeddingLayer,
    MembraneEmbedding,
    Mixer,
    Parts,
    family_of,
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


def _is_one(tensors: Tensors) -> bool:
    """Whether a state_dict has the keys of this family alone."""
    return "stage1.0.attn.q_conv.weight" in tensors and "stage1.0.attn.v_conv.weight" not in tensors


FAMILY = family_of(
    "ms-qkformer", "MS-QKFormer", Parts(_large_embedding, _later_embedding, _mixer), _is_one, "rpe_conv", "proj_conv"
)
"""Sizes of the official configurations."""
