"""Spikformer V1 (CIFAR, ImageNet and DVS forms, keys of the official state_dicts) and V2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikformer_deploy.nn.attention import ConvAttention, LinearAttention, conv_bn_lif, linear_bn_lif
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.stems import SCS, SPS


class LinearMLP(nn.Module):
    """D -> ratio D -> D on tokens (T, B, N, D), each Linear with bias, BN, LIF."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1_linear, self.fc1_bn, self.fc1_lif = nn.Linear(dim, ratio * dim), nn.BatchNorm1d(ratio * dim), LIF()
        self.fc2_linear, self.fc2_bn, self.fc2_lif = nn.Linear(ratio * dim, dim), nn.BatchNorm1d(dim), LIF()

    def forward(self, x: Tensor) -> Tensor:
        return linear_bn_lif(self, "fc2", linear_bn_lif(self, "fc1", x))


class ConvMLP(nn.Module):
    """D -> ratio D -> D as 1x1 convolutions, BN, LIF; `rank` 2: maps (T, B, D, Y, X), 1: tokens (T, B, D, N)."""

    def __init__(self, dim: int, ratio: int, rank: int) -> None:
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if rank == 2 else (nn.Conv1d, nn.BatchNorm1d)
        self.fc1_conv, self.fc1_bn, self.fc1_lif = conv(dim, ratio * dim, 1), norm(ratio * dim), LIF()
        self.fc2_conv, self.fc2_bn, self.fc2_lif = conv(ratio * dim, dim, 1), norm(dim), LIF()

    def forward(self, x: Tensor) -> Tensor:
        return conv_bn_lif(self, "fc2", conv_bn_lif(self, "fc1", x))


class Block(nn.Module):
    """x + SSA(x), then x + MLP(x): sums of spikes, small integers.

    norms  the LayerNorms norm1 and norm2 of the official code, which no forward pass uses but every checkpoint holds
    """

    def __init__(self, dim: int, attn: nn.Module, mlp: nn.Module, norms: bool) -> None:
        super().__init__()
        if norms:
            self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = attn, mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class ImageBlock(Block):
    """A block on maps (T, B, D, Y, X): attention sees them as tokens, or as a `share` of all tokens."""

    def forward(self, x: Tensor, share: float = 1.0) -> Tensor:
        x = x + self.attn(x.flatten(3), share).unflatten(3, x.shape[3:])
        return x + self.mlp(x)


class SpikformerCifar(nn.Module):
    """Spikformer V1, CIFAR form: images (B, C, Y, X) -> logits (B, classes)."""

    def __init__(
        self,
        in_channels: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        classes: int,
        time_steps: int,
        pools: tuple[bool, ...],
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.patch_embed = SPS(in_channels, dim, pools)
        self.block = nn.ModuleList(
            Block(dim, LinearAttention(dim, heads), LinearMLP(dim, mlp_ratio), norms=True) for _ in range(depth)
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(repeated(x, self.time_steps)).flatten(3).transpose(-1, -2)
        for block in self.block:
            x = block(x)
        return self.head(x.mean(2).mean(0))


class SpikformerImageNet(nn.Module):
    """Spikformer V1, ImageNet form: images (B, C, Y, X) -> logits (B, classes)."""

    def __init__(
        self,
        in_channels: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        classes: int,
        time_steps: int,
        pools: tuple[bool, ...],
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.patch_embed = SPS(in_channels, dim, pools)
        self.block = nn.ModuleList(
            ImageBlock(dim, ConvAttention(dim, heads), ConvMLP(dim, mlp_ratio, 2), norms=True) for _ in range(depth)
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(repeated(x, self.time_steps))
        for block in self.block:
            x = block(x)
        return self.head(x.flatten(3).mean(3).mean(0))


class SpikformerDVS(nn.Module):
    """Spikformer V1, CIFAR10-DVS form: event frames (B, T, C, Y, X) -> logits (B, classes).

    pos_embed and norm are in the official state_dict, and unused in its forward pass.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        classes: int,
        tokens: int,
        pools: tuple[bool, ...],
    ) -> None:
        super().__init__()
        self.patch_embed = SPS(in_channels, dim, pools)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        self.block = nn.ModuleList(
            Block(dim, ConvAttention(dim, heads, 0.25), ConvMLP(dim, mlp_ratio, 1), norms=True) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.transpose(0, 1)).flatten(3)
        for block in self.block:
            x = block(x)
        return self.head(x.mean(3).mean(0))


class SpikformerV2(nn.Module):
    """Spikformer V2: the SCS stem, V1's blocks without the unused LayerNorms; images (B, C, Y, X) -> logits.

    The blocks are those of V1's ImageNet form (the paper keeps SSA; parameter counts match): q, k, v without bias.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        classes: int,
        time_steps: int,
        stem_stages: int,
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.patch_embed = SCS(in_channels, dim, stem_stages)
        self.block = nn.ModuleList(
            ImageBlock(dim, ConvAttention(dim, heads), ConvMLP(dim, mlp_ratio, 2), norms=False) for _ in range(depth)
        )
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(repeated(x, self.time_steps))
        for block in self.block:
            x = block(x)
        return self.head(x.flatten(3).mean(3).mean(0))


def repeated(x: Tensor, time_steps: int) -> Tensor:
    """The image (B, C, Y, X) in each of T steps: (T, B, C, Y, X)."""
    return x.unsqueeze(0).repeat(time_steps, 1, 1, 1, 1)
