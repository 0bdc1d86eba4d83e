"""Spike-driven Transformer V3 (E-SpikeFormer), base sizes: integer neurons, one time step, membrane shortcuts.

Keys are those of the official code.  Its neurons send s / D, with s in 0..D, rounded to the even neighbour at ties.
Its convolutional blocks are those of V2 with neurons behind the depthwise convolution, too; in attention, v is four
times as wide as q and k.
Source: Yao et al. 2025 (TPAMI), arXiv 2411.16061, and its code (BICLab/Spike-Driven-Transformer-V3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import self_attention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import STAGES, Block, add_unit, conv_bn, over_steps, repeated, token_mean
from spikformer_deploy.nn.levels import Levels

WIDER = 4
"""Channels of v for each channel of q and k."""


class MultiSpike(nn.Module):
    """Integer neurons that send s / norm: (T, ...) currents -> (T, ...) multiples of 1 / norm."""

    def __init__(self, count: int, norm: int) -> None:
        super().__init__()
        self.levels = Levels(count)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        whole = self.levels(x)
        return whole if self.norm == 1 else whole / self.norm


def _spike(config: ModelConfig) -> MultiSpike:
    return MultiSpike(config.levels, config.levels)


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


class MLP(nn.Module):
    """BN(W2 s(BN(W1 s(x)))) over tokens.

    in, out  currents (T, B, C, Y, X)
    """

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.mlp_ratio * dim
        self.fc1_spike, self.fc2_spike = _spike(config), _spike(config)
        add_unit(self, "fc1_{}", nn.Conv1d(dim, hidden, 1))
        add_unit(self, "fc2_{}", nn.Conv1d(hidden, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        hidden = conv_bn(self, "fc1_{}", self.fc1_spike(x.flatten(3)))
        return conv_bn(self, "fc2_{}", self.fc2_spike(hidden)).unflatten(3, x.shape[3:])


class AttentionBlock(Block):
    """x + SepConv(x), then x + attention(x), then x + MLP(x); in, out: currents (T, B, C, Y, X)."""

    def __init__(self, dim: int, config: ModelConfig) -> None:
        super().__init__(Attention(dim, config), MLP(dim, config))
        self.conv = SepConv(dim, 3, config)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return super().forward(x + self.conv(x))


class DownSampling(nn.Module):
    """BN(conv(s(x))) with bias; the first one sees the image itself.

    in   currents (T, B, C, Y, X), or images
    out  currents (T, B, C', Y / stride, X / stride)
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, spike: nn.Module) -> None:
        super().__init__()
        add_unit(self, "encode_{}", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2))
        self.encode_spike = spike

    def forward(self, x: Tensor) -> Tensor:
        """Currents (T, B, C', Y / stride, X / stride)."""
        return conv_bn(self, "encode_{}", self.encode_spike(x))


class SpikeDrivenV3(nn.Module):
    """Spike-driven Transformer V3, base: images (B, C, Y, X) -> logits (B, classes).

    widths  channels of the five stages; levels: D
    depth   blocks with attention: two in the last stage, all others in the fourth
    Source: Yao et al. 2025, arXiv 2411.16061, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.time_steps = config.time_steps
        inputs = config.in_channels
        for stage, width in zip(STAGES, config.widths, strict=True):
            spike = nn.Identity() if stage is STAGES[0] else _spike(config)
            self.add_module(f"downsample{stage.name}", DownSampling(inputs, width, stage.kernel, stage.stride, spike))
            inputs = width
        for stage, width in zip(STAGES, config.widths, strict=True):
            for name in stage.blocks:
                self.add_module(name, _blocks(name, width, config))
        self.spike = MultiSpike(config.levels, 1)
        self.head = nn.Linear(inputs, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = repeated(x, self.time_steps)
        for stage in STAGES:
            x = self.get_submodule(f"downsample{stage.name}")(x)
            for name in stage.blocks:
                for block in getattr(self, name):
                    x = block(x)
        return self.head(self.spike(token_mean(x))).mean(0)


def _blocks(name: str, width: int, config: ModelConfig) -> nn.ModuleList:
    """The list of blocks `name`: one convolutional block, or blocks with attention."""
    if name.startswith("ConvBlock"):
        return nn.ModuleList([ConvBlock(width, config)])
    count = 2 if name == "block4" else config.depth - 2
    return nn.ModuleList(AttentionBlock(width, config) for _ in range(count))


def _size(first: int, last: int) -> ModelConfig:
    """A size by the channels of its first stage, of which the next three double, and of the last one."""
    widths = (first, 2 * first, 4 * first, 8 * first, last)
    return ModelConfig("sdt3", "imagenet", 8, last, 8, 1, 3, 224, 1000, widths=widths, levels=4)


_PUBLISHED = {
    "sdt3-5m": _size(16, 192),
    "sdt3-10m": _size(24, 240),
    "sdt3-19m": _size(32, 360),
}


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells."""
    if "ConvBlock1_1.0.Conv.pwconv1.0.weight" not in tensors:
        return None
    hidden = keys.required(tensors, "block4.0.mlp.fc1_conv.weight")
    fields = keys.sizes(tensors, "imagenet", hidden, keys.input_channels(tensors, "downsample1_1.encode_conv.weight"))
    names = [f"downsample{stage.name}.encode_conv.weight" for stage in STAGES]
    fields["widths"] = tuple(int(keys.required(tensors, name).shape[0]) for name in names)
    fields["depth"] = keys.count(tensors, "block3") + keys.count(tensors, "block4")
    return Recognised(fields, _PUBLISHED["sdt3-5m"])


FAMILY = Family(
    title="Spike-driven Transformer V3",
    forms=("imagenet",),
    published=_PUBLISHED,
    build=SpikeDrivenV3,
    recognise=_recognise,
)
"""Sizes of the official base configurations."""
