"""Masked-autoencoder pre-training: a spiking encoder that sees some patches, and an ANN decoder that paints the rest.

The paper (arXiv 2401.02020) gives no code.  After He et al. 2022 (MAE), with masked positions kept inactive through the
convolutional stem as in sparse convolutions (Tian et al. 2023, SparK): after every convolution nothing is left outside
the visible patches, and batch normalisation sees only active positions.  The decoder is dropped afterwards.

Attention without softmax sums over tokens.  With a part of them, its sums would be a part of what they are in the
model that is fine-tuned, and its neurons, with a fixed threshold and no normalisation before them, would learn to fire
at that: so under a mask every visible token stands for N / visible of all (our choice; see docs/training.md).
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn.layers import fire, repeated
from spikformer_deploy.nn.spikformer_v2 import SpikformerV2


class MaskedAutoencoder(nn.Module):
    """Encoder (a SpikformerV2, its head unused) and decoder; the loss of images under a mask.

    size, channels      of the images, size in pixels; dim, depth, heads: of the decoder
    patch               side of a patch in pixels: what the stem makes one token of
    Raises InputError for a size that is no multiple of the patch.
    Source: He et al. 2022 (MAE), arXiv 2111.06377, section 3; Zhou et al. 2024, arXiv 2401.02020.
    """

    positions: Tensor

    def __init__(self, encoder: SpikformerV2, size: int, channels: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.patch = 2 ** len(encoder.patch_embed.stages)
        if size % self.patch:
            raise InputError("data.size", f"{size} pixels in patches of {self.patch}", "Use a multiple.")
        self.side = size // self.patch
        self.embed = nn.Linear(encoder.head.in_features, dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        # fixed, and no part of a checkpoint
        self.register_buffer("positions", sine_positions(self.side, dim), persistent=False)
        layer = nn.TransformerEncoderLayer(
            dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)
        self.predict = nn.Linear(dim, self.patch**2 * channels)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Mean squared error of the normalised pixels of masked patches; x (B, C, Y, X), visible (B, N) bool."""
        target = normalised_patches(x, self.patch)[0]
        error = (self.painted(x, visible).float() - target).square().mean(2)
        return error[~visible].mean()

    def painted(self, x: Tensor, visible: Tensor) -> Tensor:
        """What the decoder predicts of each patch, (B, N, C * patch^2), each patch of mean 0 and variance 1."""
        tokens = self.embed(encoded(self.encoder, x, visible).mean(0).transpose(1, 2))
        # the order of the patches in `encoded` is that of the mask, so that a boolean index puts them back
        every = self.mask_token.to(tokens.dtype).expand(*visible.shape, -1).clone()
        every[visible] = tokens.flatten(0, 1)
        # on a CPU, the fused kernel takes twice the time of its parts for so few tokens
        with sdpa_kernel(SDPBackend.MATH) if x.device.type == "cpu" else nullcontext():
            out: Tensor = self.predict(self.blocks(every + self.positions))
        return out


def encoded(encoder: SpikformerV2, x: Tensor, visible: Tensor) -> Tensor:
    """Tokens (T, B, D, visible patches), in the order of the patches, of images of which only those patches are seen.

    x (B, C, Y, X); visible (B, N) bool, the same number of them in each image
    """
    stages = encoder.patch_embed.stages
    active = visible.unflatten(1, (-1, x.shape[-1] // 2 ** len(stages)))
    x = repeated(x * _at(active, x.shape[-2:]), encoder.time_steps)
    for stage in stages:
        x = _visible_unit(stage, "down_{}", x, active)
        hidden = _visible_unit(stage, "{}1", x, active)
        x = x + _visible_unit(stage, "{}2", hidden, active)
    tokens = x.flatten(3).permute(0, 1, 3, 2)[:, visible].unflatten(1, (len(visible), -1))
    share = tokens.shape[2] / visible.shape[1]
    # convolutions of the blocks take maps: the visible tokens are one of a single column
    x = tokens.transpose(2, 3).unsqueeze(4)
    for block in encoder.block:
        x = block(x, share)
    return x.flatten(3)


def _visible_unit(module: nn.Module, unit: str, x: Tensor, active: Tensor) -> Tensor:
    """LIF(BN(conv(x))) of a unit, x (T, B, C, Y, X), at active positions; at the others no current, and no spike."""
    conv = module.get_submodule(unit.format("conv"))
    norm = module.get_submodule(unit.format("bn"))
    assert isinstance(norm, nn.BatchNorm2d)
    steps = x.shape[0]
    current = conv(x.flatten(0, 1))
    where = _at(active, current.shape[-2:])[:, 0].bool().repeat(steps, 1, 1)
    rows = current.permute(0, 2, 3, 1)
    dense = rows.new_zeros(rows.shape)
    # the functional form: the module itself refuses rows (positions, C), and empty ones must not enter its statistics
    dense[where] = F.batch_norm(
        rows[where], norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training,
        norm.momentum or 0.0, norm.eps,
    ).to(dense.dtype)  # fmt: skip
    return fire(module, unit, dense.permute(0, 3, 1, 2).unflatten(0, (steps, -1)))


def _at(active: Tensor, size: torch.Size) -> Tensor:
    """The mask (B, Y', X') at another resolution: (B, 1, Y, X), 0 or 1."""
    return F.interpolate(active[:, None].float(), size=tuple(size), mode="nearest")


def normalised_patches(x: Tensor, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (B, N, C * patch^2) of images (B, C, Y, X), each of mean 0 and variance 1; and those means, deviations.

    Source: He et al. 2022, section 3 (normalised pixels as the target).
    """
    patches = F.unfold(x, patch, stride=patch).transpose(1, 2)
    mean = patches.mean(2, keepdim=True)
    # MAE's constant, so that a patch of one colour does not divide by zero
    deviation = (patches.var(2, keepdim=True) + 1e-6).sqrt()
    return (patches - mean) / deviation, mean, deviation


def sine_positions(side: int, dim: int) -> Tensor:
    """Fixed positions (side^2, dim): sines and cosines of y in one half of the channels, of x in the other."""
    if dim % 4:
        raise InputError("mask.decoder_dim", f"{dim} channels", "Use a multiple of 4.")
    rates = torch.exp(-math.log(10000.0) * torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(side)[:, None] * rates
    along = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([along.repeat_interleave(side, 0), along.repeat(side, 1)], 1)
