"""Spike-driven Transformer V3, large sizes: integer neurons that round halves up, and attention at a sixteenth only.

Keys are those of the official code.  Its neurons send s / D, with s in 0..D.  Every projection of an attention is two
layers in a row with no neurons in between, which graph/merge.py makes one.
Source: Yao et al. 2025 (TPAMI), arXiv 2411.16061, and its code (BICLab/Spike-Driven-Transformer-V3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import SCALE, self_attention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.integer_blocks import MLP, MultiSpike, Stages, check_heads, scaled
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import STAGES, Block, over_steps, repeated, token_mean
from spikformer_deploy.nn.spike_driven_v3 import INITIAL_SCALE

LARGE_STAGES = STAGES[:4]
"""The last of them has all blocks with attention."""
HEADS = 8
"""Of every attention in the official code, which reads no argument for them."""
ONLY_HERE = "ConvBlock1_1.0.conv1.0.0.weight"
"""A key that no other family has."""


def _spike(config: ModelConfig, norm: int = 0) -> MultiSpike:
    """Neurons that send s / `norm`, by default s / D."""
    return MultiSpike(config.levels, norm or config.levels, half_even=False)


class ConvBlock(nn.Module):
    """x + BN(3x3 s(BN(3x3 s(x)))), s neurons; both convolutions have a bias.

    in, out  currents (T, B, C, Y, X)
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * dim
        self.neuron1, self.neuron2 = _spike(config), _spike(config)
        self.conv1 = nn.Sequential(_three_by_three(dim, hidden))
        self.conv2 = nn.Sequential(_three_by_three(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        hidden = over_steps(self.conv1, self.neuron1(x))
        return x + over_steps(self.conv2, self.neuron2(hidden))


def _three_by_three(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))


class RepConv(nn.Module):
    """BN(1x1 BN(1x1 x)) over tokens, C -> hidden -> C channels: one linear layer.

    in, out  (B, C, N)
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv1d(dim, hidden, 1, bias=False), nn.BatchNorm1d(hidden))
        self.conv2 = nn.Sequential(nn.Conv1d(hidden, dim, 1, bias=False), nn.BatchNorm1d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return self.conv2(self.conv1(x))


class Attention(nn.Module):
    """BN(RepConv s((q k^T) v / 8)) of integers over tokens, q, k and v from RepConvs of s(x); k^T v first.

    in, out  currents (T, B, C, N)
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        check_heads(dim, config.heads)
        self.heads = config.heads
        self.head_lif, self.attn_lif = _spike(config), _spike(config)
        for name in ("q", "k", "v", "proj"):
            self.add_module(f"{name}_conv", nn.Sequential(RepConv(dim, dim * 3 // 2), nn.BatchNorm1d(dim)))
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_lif", _spike(config))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        sent = self.head_lif(x)
        q = self._tokens("q", sent)
        k = self._tokens("k", sent)
        v = self._tokens("v", sent)
        sums = self_attention(q, k, v, self.heads, SCALE, scores_first=False)
        return over_steps(self.get_submodule("proj_conv"), self.attn_lif(sums))

    def _tokens(self, name: str, x: Tensor) -> Tensor:
        """What q, k or v sends, (T, B, C, N)."""
        return self.get_submodule(f"{name}_lif")(over_steps(self.get_submodule(f"{name}_conv"), x))


class AttentionBlock(Block):
    """x + attention(x), then x + MLP(x), both scaled by channel.

    in, out  currents (T, B, C, Y, X)
    With a `rep_width`, x + RepConv(s(x)) comes first.  The published forward pass names its sizes wrong there and does
    not run; what it means is plain.
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__(Attention(dim, config), MLP(dim, config.mlp_ratio, partial(_spike, config)))
        if config.rep_width:
            self.rep_conv = RepConv(dim, config.rep_width)
            self.lif = _spike(config)
        self.layer_scale1 = nn.Parameter(torch.full((dim,), INITIAL_SCALE))
        self.layer_scale2 = nn.Parameter(torch.full((dim,), INITIAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        if hasattr(self, "rep_conv"):
            x = x + self._over_tokens(lambda tokens: over_steps(self.rep_conv, self.lif(tokens)), x)
        x = x + scaled(self._over_tokens(self.get_submodule(self.name), x), self.layer_scale1)
        return x + scaled(self.mlp(x), self.layer_scale2)

    def _over_tokens(self, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A part that takes tokens (T, B, C, N), on a map."""
        return part(x.flatten(3)).unflatten(3, x.shape[3:])


class SpikeDrivenV3Large(Stages):
    """Spike-driven Transformer V3, large: images (B, C, Y, X) -> logits (B, classes).

    widths  channels of the four stages; levels: D; rep_width: see AttentionBlock
    The head reads the mean of the stream, without neurons.  Where it is `distilled`, its logits are averaged with those
    of a second one, which reads neurons.
    Source: Yao et al. 2025, arXiv 2411.16061, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        def block(name: str, width: int) -> nn.Module:
            return (ConvBlock if name.startswith("ConvBlock") else AttentionBlock)(width, config)

        super().__init__(config, LARGE_STAGES, partial(_spike, config), block)
        self.time_steps = config.time_steps
        self.head = nn.Linear(config.widths[-1], config.num_classes)
        if config.distilled:
            self.lif = _spike(config, norm=1)
            self.head_kd = nn.Linear(config.widths[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        mean = token_mean(self.streamed(repeated(x, self.time_steps)))
        logits = self.head(mean).mean(0)
        return (logits + self.head_kd(self.lif(mean)).mean(0)) / 2 if hasattr(self, "head_kd") else logits


_LARGEST = ModelConfig(
    "sdt3-large",
    "imagenet",
    12,
    768,
    HEADS,
    1,
    3,
    224,
    1000,
    distilled=True,
    widths=(98, 196, 384, 768),
    levels=4,
)


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells; D is in no key."""
    if ONLY_HERE not in tensors:
        return None
    fields = keys.staged(tensors, (stage.name for stage in LARGE_STAGES), ("block3",))
    fields |= {"heads": HEADS, "distilled": "head_kd.weight" in tensors}
    first = tensors.get("block3.0.rep_conv.conv1.0.weight")
    fields["rep_width"] = 0 if first is None else int(first.shape[0])
    return Recognised(fields, _LARGEST)


FAMILY = Family(
    title="Spike-driven Transformer V3 Large",
    forms=("imagenet",),
    published={
        "sdt3-83m": replace(_LARGEST, dim=512, widths=(64, 128, 256, 512), rep_width=512),
        "sdt3-171m": _LARGEST,
    },
    build=SpikeDrivenV3Large,
    recognise=_recognise,
)
"""Sizes of the official configurations."""
