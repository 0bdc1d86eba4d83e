"""Max-Former: max-pooled patch embeddings and depthwise convolutions keep high frequencies (keys of the official code).

    x = x + BN(DWConv(LIF(x))) in the early stages, x = x + BN(W_proj SSA(LIF(x))) in the last; then the MLP

What is max-pooled are currents, before the neurons or before they join the stream.
Source: Fang et al. 2025 (NeurIPS), arXiv 2505.18608, and its code (bic-L/MaxFormer).
"""

from __future__ import annotations

from torch import Tensor, nn

from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.hierarchy import (
    EmbeddingLayer,
    MembraneEmbedding,
    Mixer,
    Parts,
    family_of,
)
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import over_steps
from spikformer_deploy.nn.lif import LIF

KERNELS: dict[str, tuple[int | None, ...]] = {"cifar": (None, 3), "imagenet": (7, 5), "dvs": (3,)}
"""Depthwise kernels of the stages before the last, which has self-attention; None: the stage has no mixer."""
ONLY_HERE = "patch_embed2.max_embed2.embed_conv.weight"
"""A key that no other family has."""


class DepthwiseMixer(nn.Module):
    """BN(DWConv(LIF(x))).

    in, out  currents (T, B, D, Y, X)
    name     of the convolution in the official state_dict: the 7x7 one is called conv5
    Source: Fang et al. 2025, the section on the token mixer, and the official code.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.name = "conv5" if kernel == 7 else "conv"
        self.add_module(self.name, nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim))
        self.add_module(f"{self.name}_bn", nn.BatchNorm2d(dim))
        self.add_module(f"{self.name}_neuron", LIF())

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        spikes = self.get_submodule(f"{self.name}_neuron")(x)
        layers = nn.Sequential(self.get_submodule(self.name), self.get_submodule(f"{self.name}_bn"))
        return over_steps(layers, spikes)


def _mixer(config: ModelConfig, stage: int, width: int) -> Mixer:
    """The mixer of a stage before the last, under its official name."""
    kernel = KERNELS[config.form][stage]
    return "mixer", DepthwiseMixer(width, kernel) if kernel else None


def _large_embedding(in_channels: int, width: int) -> MembraneEmbedding:
    """The first embedding of ImageNet, to a quarter of the size by strides."""
    chain = (
        EmbeddingLayer("embed1.embed_{}", width // 2, 2),
        EmbeddingLayer("embed2.embed_{}", width, 2),
        EmbeddingLayer("embed3.embed_{}", width),
    )
    return MembraneEmbedding(in_channels, chain, EmbeddingLayer("embed4.embed_{}", width, 2), branch=1, pixels=True)


def _later_embedding(form: str, in_channels: int, width: int) -> MembraneEmbedding:
    """A later embedding, to half the size: both ways are max-pooled."""
    chain = (EmbeddingLayer("max_embed1.embed_{}", width, pooled=True), EmbeddingLayer("embed1.embed_{}", width))
    return MembraneEmbedding(in_channels, chain, EmbeddingLayer("max_embed2.embed_{}", width, pooled=True))


def _is_one(tensors: Tensors) -> bool:
    """Whether a state_dict has the keys of this family alone."""
    return ONLY_HERE in tensors


FAMILY = family_of(
    "max-former",
    "Max-Former",
    Parts(_large_embedding, _later_embedding, _mixer),
    _is_one,
    "embed4.embed_conv",
    "embed1.embed_conv",
)
"""Sizes of the official configurations."""
