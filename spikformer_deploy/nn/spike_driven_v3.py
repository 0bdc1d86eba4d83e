"""Spike-driven Transformer V3 (E-SpikeFormer), base sizes and event data: integer neurons, membrane shortcuts.

Keys are those of the official code.  Its neurons send s / D on images, with s in 0..D, rounded to the even neighbour at
ties, in one time step.  On event data they keep their potential, less what they sent, and blocks scale what they add to
the stream.  Its convolutional blocks are those of V2 with neurons behind the depthwise convolution, too; in attention,
v is four times as wide as q and k.
Source: Yao et al. 2025 (TPAMI), arXiv 2411.16061, and its code (BICLab/Spike-Driven-Transformer-V3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import self_attention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.integer_blocks import MLP, MultiSpike, Stages, check_heads, scaled
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import STAGES, Block, add_unit, conv_bn, over_steps, sequence, token_mean

WIDER = 4
"""Channels of v for each channel of q and k."""
NORM = {"gesture": 8, "dvs": 1}
"""What integers are divided by before they are sent, on DVS128 Gesture and on HARDVS; on images D."""
FORMS = {
    "Efficient_Spiking_Transformer_scaling_2_8M_gesture": "gesture",
    "Efficient_Spiking_Transformer_scaling_8_19M": "dvs",
}
"""The official models of event data, as the training script's `model` names them, and the forms that they have here."""
INITIAL_SCALE = 1e-6
"""Of what a block adds to the stream, before training."""


def _spike(config: ModelConfig, norm: int = 0) -> MultiSpike:
    """Neurons that send s / `norm`, by default as the form has it."""
    norm = norm or NORM.get(config.form, config.levels)
    return MultiSpike(config.levels, norm, keep=float(config.per_step))


class SepConv(nn.Module):
    """Separable convolution: neurons, 1x1 C -> 2C, BN, neurons, depthwise, BN, neurons, 1x1 2C -> C, BN.

    in, out  currents (T, B, C, Y, X)
    """

    def __init__(self, dim: int, kernel: int, config: ModelConfig) -> None:
        super().__init__()
        hidden = 2 * dim
        depthwise = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False)
        self.spike1, self.spike2, self.spike3 = (_spike(config) for _ in range(3))
        self.pwconv1 = nn.Sequential(nn.Conv2d(dim, hidden, 1, bias=False), nn.BatchNorm2d(hidden))
        self.dwconv = nn.Sequential(depthwise, nn.BatchNorm2d(hidden))
        self.pwconv2 = nn.Sequential(nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        x = over_steps(self.pwconv1, self.spike1(x))
        x = over_steps(self.dwconv, self.spike2(x))
        return over_steps(self.pwconv2, self.spike3(x))


class ConvBlock(nn.Module):
    """x + SepConv(x), then x + BN(3x3 s(BN(3x3 s(x)))), s neurons.

    in, out  currents (T, B, C, Y, X)
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * dim
        self.Conv = SepConv(dim, 7, config)
        self.spike1, self.spike2 = _spike(config), _spike(config)
        add_unit(self, "{}1", nn.Conv2d(dim, hidden, 3, padding=1, bias=False))
        add_unit(self, "{}2", nn.Conv2d(hidden, dim, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        x = x + self.Conv(x)
        hidden = conv_bn(self, "{}1", self.spike1(x))
        return x + conv_bn(self, "{}2", self.spike2(hidden))


class Attention(nn.Module):
    """BN(1x1 s((q k^T) v * 2 / sqrt(d))) of integers, with d channels of q a head.

    in, out  currents (T, B, C, Y, X)
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        check_heads(dim, config.heads)
        self.heads = config.heads
        self.scale = 2 * (dim // config.heads) ** -0.5
        self.head_spike, self.attn_spike = _spike(config), _spike(config)
        for name, inputs, outputs in (("q", dim, dim), ("k", dim, dim), ("v", dim, WIDER * dim)):
            self.add_module(f"{name}_conv", _pointwise(inputs, outputs))
            self.add_module(f"{name}_spike", _spike(config))
        self.proj_conv = _pointwise(WIDER * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        sent = self.head_spike(x)
        q = self._tokens("q", sent)
        k = self._tokens("k", sent)
        v = self._tokens("v", sent)
        sums = self_attention(q, k, v, self.heads, self.scale, scores_first=True)
        return over_steps(self.proj_conv, self.attn_spike(sums).unflatten(3, x.shape[3:]))

    def _tokens(self, name: str, x: Tensor) -> Tensor:
        """What q, k or v sends, (T, B, D, N)."""
        return self.get_submodule(f"{name}_spike")(over_steps(self.get_submodule(f"{name}_conv"), x)).flatten(3)


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class AttentionBlock(Block):
    """x + SepConv(x), then x + attention(x), then x + MLP(x); in, out: currents (T, B, C, Y, X).

    On event data, each of the three is scaled by channel.
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__(Attention(dim, config), MLP(dim, config.mlp_ratio, partial(_spike, config)))
        self.conv = SepConv(dim, 3, config)
        self.scales = config.per_step
        if self.scales:
            for i in (1, 2, 3):
                self.register_parameter(f"layer_scale{i}", nn.Parameter(torch.full((dim,), INITIAL_SCALE)))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        for i, name in enumerate(("conv", self.name, "mlp"), 1):
            added = self.get_submodule(name)(x)
            x = x + (scaled(added, self.get_parameter(f"layer_scale{i}")) if self.scales else added)
        return x


class SpikeDrivenV3(Stages):
    """Spike-driven Transformer V3, base: images (B, C, Y, X), or frames (B, T, C, Y, X), -> logits (B, classes).

    widths  channels of the five stages; levels: D
    Source: Yao et al. 2025, arXiv 2411.16061, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        def block(name: str, width: int) -> nn.Module:
            return (ConvBlock if name.startswith("ConvBlock") else AttentionBlock)(width, config)

        super().__init__(config, STAGES, partial(_spike, config), block)
        self.time_steps = config.time_steps
        self.per_step = config.per_step
        self.spike = _spike(config, norm=1)
        self.head = nn.Linear(config.widths[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.streamed(sequence(x, self.time_steps, self.per_step))
        return self.head(self.spike(token_mean(x))).mean(0)


def _size(first: int, last: int) -> ModelConfig:
    """A size by the channels of its first stage, of which the next three double, and of the last one."""
    widths = (first, 2 * first, 4 * first, 8 * first, last)
    return ModelConfig("sdt3", "imagenet", 8, last, 8, 1, 3, 224, 1000, widths=widths, levels=4)


_HARDVS = replace(_size(32, 360), form="dvs", time_steps=8, in_channels=2, num_classes=300)
_PUBLISHED = {
    "sdt3-5m": _size(16, 192),
    "sdt3-10m": _size(24, 240),
    "sdt3-19m": _size(32, 360),
    "sdt3-19m-hardvs": _HARDVS,
    "sdt3-8m-gesture": replace(_HARDVS, form="gesture", depth=1, image_size=128, num_classes=11),
}


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells; of event data it does not tell what integers are divided by."""
    if "ConvBlock1_1.0.Conv.pwconv1.0.weight" not in tensors:
        return None
    fields = keys.staged(tensors, (stage.name for stage in STAGES), ("block3", "block4"))
    if "block3.0.layer_scale1" not in tensors:
        return Recognised(fields, _PUBLISHED["sdt3-5m"])
    fields |= {"levels": _HARDVS.levels, "heads": _HARDVS.heads}
    form = FORMS.get(str(arguments.get("model")))
    usual = next((config for config in _PUBLISHED.values() if config.form == form), None)
    if form and usual:
        return Recognised(fields | {"form": form}, usual)
    del fields["form"]
    return Recognised(fields, _HARDVS, choices=tuple(n for n, config in _PUBLISHED.items() if config.per_step))


FAMILY = Family(
    title="Spike-driven Transformer V3",
    forms=("imagenet", "dvs", "gesture"),
    published=_PUBLISHED,
    build=SpikeDrivenV3,
    recognise=_recognise,
)
"""Sizes of the official configurations of the base model, of its own and of event data."""
