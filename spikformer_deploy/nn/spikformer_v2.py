"""Spikformer V2: a convolutional stem of spikes (SCS), and V1's blocks without the unused LayerNorms.

The paper gives no code, so there is no official checkpoint.
Source: Zhou et al. 2024, arXiv 2401.02020.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from torch import Tensor, nn

from spikformer_deploy.nn.attention import ConvAttention
from spikformer_deploy.nn.family import Family, ModelConfig
from spikformer_deploy.nn.layers import (
    MLP,
    Block,
    InnerChannels,
    add_unit,
    conv_bn_lif,
    repeated,
    send_integers,
    token_mean,
)
from spikformer_deploy.nn.lif import LIF


class SCSStage(nn.Module):
    """One stage of the SCS: a 2x2 convolution of stride 2, then 3x3 convolutions C -> hidden -> C around a residual.

    in   (T, B, C', Y, X)
    out  (T, B, C, Y / 2, X / 2) integers 0..2
    """

    def __init__(self, in_channels: int, channels: int, hidden: int) -> None:
        super().__init__()
        add_unit(self, "down_{}", nn.Conv2d(in_channels, channels, 2, stride=2, bias=False), LIF())
        add_unit(self, "{}1", nn.Conv2d(channels, hidden, 3, padding=1, bias=False), LIF())
        add_unit(self, "{}2", nn.Conv2d(hidden, channels, 3, padding=1, bias=False), LIF())

    def forward(self, x: Tensor) -> Tensor:
        """Sums of two spikes."""
        x = conv_bn_lif(self, "down_{}", x)
        hidden = conv_bn_lif(self, "{}1", x)
        return x + conv_bn_lif(self, "{}2", hidden)


class SCS(nn.Module):
    """Spiking convolutional stem: stages of widths ..., D / 4, D / 2, D, each halving the image.

    in   (T, B, C, Y, X)
    out  (T, B, D, Y', X') integers 0..2
    hidden  channels between the two 3x3 convolutions of each stage: 4 times its width in the paper
    The widths and the convolutions are those whose parameter counts match the paper's tables (29.11 M, 51.55 M, 172 M
    for four stages).  The kernel of the first convolution (2x2), the order Conv -> BN -> LIF and the residual
    spike + spike are OUR choices: the order and residual are V1's, and the kernel is that of the other stages.
    Source: Zhou et al. 2024, the section on the SCS.
    """

    def __init__(self, in_channels: int, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = [in_channels, *_widths(dim, len(hidden))]
        sizes = zip(pairwise(widths), hidden, strict=True)
        self.stages = nn.Sequential(*(SCSStage(*ends, inner) for ends, inner in sizes))

    def inner_channels(self) -> Iterator[InnerChannels]:
        """Those between the two 3x3 convolutions of each stage."""
        for number, _ in enumerate(self.stages):
            first, second = f"stages.{number}.{{}}1", f"stages.{number}.{{}}2"
            yield InnerChannels(first, second, first)

    def forward(self, x: Tensor) -> Tensor:
        """Sums of two spikes."""
        return self.stages(x)


class PartBlock(Block):
    """A block that may see some tokens of an image only, as in masked pre-training: x + SSA(x), then x + MLP(x).

    in, out  sums of spikes (T, B, D, Y, X)
    """

    def forward(self, x: Tensor, share: float = 1.0) -> Tensor:
        """Of the shape of x; share: the part of an image's tokens that `x` holds (see ConvAttention)."""
        x = x + self.get_submodule(self.name)(x, share)
        return x + self.mlp(x)


class SpikformerV2(nn.Module):
    """Spikformer V2: images (B, C, Y, X) -> logits (B, classes), the mean over the time steps.

    The blocks are those of V1's ImageNet form (the paper keeps SSA; parameter counts match): q, k, v without bias.
    Source: Zhou et al. 2024.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.time_steps = config.time_steps
        self.patch_embed = SCS(config.in_channels, dim, config.stem_hidden or _stem_hidden(config))
        self.block = nn.ModuleList(
            PartBlock(ConvAttention(dim, config.heads), MLP(dim, config.mlp_ratio, hidden=config.hidden_of(i)))
            for i in range(config.depth)
        )
        self.head = nn.Linear(dim, config.num_classes)
        send_integers(self, config.levels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.patch_embed(repeated(x, self.time_steps))
        for block in self.block:
            x = block(x)
        return self.head(token_mean(x).mean(0))


def _widths(dim: int, stages: int) -> tuple[int, ...]:
    """Of the stages of the stem."""
    return tuple(dim >> i for i in reversed(range(stages)))


def _stem_hidden(config: ModelConfig) -> tuple[int, ...]:
    """Channels between the 3x3 convolutions of each stage of the stem."""
    return tuple(4 * width for width in _widths(config.dim, config.stem_stages))


# Heads are not published: they keep the 64 channels a head of V1-8-512.
_V2 = ModelConfig("v2", "imagenet", 8, 512, 8, 4, 3, 224, 1000)

FAMILY = Family(
    title="Spikformer V2",
    forms=("imagenet",),
    published={
        "v2-8-384": replace(_V2, dim=384, heads=6),
        "v2-8-512": _V2,
        "v2-8-768": replace(_V2, dim=768, heads=12),
        "v2-16-768": replace(_V2, depth=16, dim=768, heads=12),
    },
    build=SpikformerV2,
    hidden_by_block=True,
    stem_hidden=_stem_hidden,
)
"""Sizes of the paper's tables (ImageNet)."""
