"""Spike-driven Transformer V2 (Meta-SpikeFormer): convolutional blocks, then attention, all with membrane shortcuts.

Keys are those of the official code.  Its re-parameterised convolutions are linear layers in a row, with no neurons in
between, which graph/merge.py makes one.  For evaluation: in training, statistics of RepConv would count the padding.
Source: Yao et al. 2024 (ICLR), arXiv 2404.03663, and its code.
"""

from __future__ import annotations

from torch import Tensor, nn

from spikformer_deploy.nn.attention import self_attention
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.spikformer import repeated
from spikformer_deploy.nn.spikingformer import normalised


def over_steps(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer without state on (T, B, ...)."""
    return layer(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))


class PaddedNorm(nn.Module):
    """BatchNorm on a map whose border is zero input already: the official layer pads with what it makes of zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x)


class RepConv(nn.Module):
    """1x1, BN, 3x3 depthwise, 1x1, BN: together a 3x3 convolution with padding 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 1, padding=1, bias=False),
            PaddedNorm(channels),
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, groups=channels, bias=False),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class SepConv(nn.Module):
    """LIF, 1x1 C -> 2C, BN, LIF, 7x7 depthwise, 1x1 2C -> C, BN."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lif1, self.pwconv1, self.bn1 = LIF(), nn.Conv2d(dim, 2 * dim, 1, bias=False), nn.BatchNorm2d(2 * dim)
        self.lif2, self.dwconv = LIF(), nn.Conv2d(2 * dim, 2 * dim, 7, padding=3, groups=2 * dim, bias=False)
        self.pwconv2, self.bn2 = nn.Conv2d(2 * dim, dim, 1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = over_steps(nn.Sequential(self.pwconv1, self.bn1), self.lif1(x))
        return over_steps(nn.Sequential(self.dwconv, self.pwconv2, self.bn2), self.lif2(x))


class ConvBlock(nn.Module):
    """x + SepConv(x), then x + BN(3x3 LIF(BN(3x3 LIF(x))))."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.Conv = SepConv(dim)
        self.lif1, self.conv1 = LIF(), nn.Conv2d(dim, ratio * dim, 3, padding=1, bias=False)
        self.bn1, self.lif2 = nn.BatchNorm2d(ratio * dim), LIF()
        self.conv2, self.bn2 = nn.Conv2d(ratio * dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv(x) + x
        hidden = over_steps(nn.Sequential(self.conv1, self.bn1), self.lif1(x))
        return x + over_steps(nn.Sequential(self.conv2, self.bn2), self.lif2(hidden))


class Attention(nn.Module):
    """BN(RepConv(SSA(LIF(x)))) with q, k, v from RepConvs; k^T v first, scale 0.125."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_lif, self.attn_lif = LIF(), LIF(v_threshold=0.5)
        for name in ("q", "k", "v", "proj"):
            setattr(self, f"{name}_conv", nn.Sequential(RepConv(dim), nn.BatchNorm2d(dim)))
        for name in ("q", "k", "v"):
            setattr(self, f"{name}_lif", LIF())

    def forward(self, x: Tensor) -> Tensor:
        spikes, size = self.head_lif(x), x.shape[3:]
        q, k, v = (
            getattr(self, f"{name}_lif")(over_steps(getattr(self, f"{name}_conv"), spikes)).flatten(3) for name in "qkv"
        )
        out = self.attn_lif(self_attention(q, k, v, self.heads, 0.125, scores_first=False))
        return over_steps(self.get_submodule("proj_conv"), out.unflatten(3, size))


class MLP(nn.Module):
    """BN(W2 LIF(BN(W1 LIF(x)))) as 1x1 convolutions on tokens."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1_lif, self.fc1_conv, self.fc1_bn = LIF(), nn.Conv1d(dim, ratio * dim, 1), nn.BatchNorm1d(ratio * dim)
        self.fc2_lif, self.fc2_conv, self.fc2_bn = LIF(), nn.Conv1d(ratio * dim, dim, 1), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = normalised(self, "fc1", self.fc1_lif(x.flatten(3)))
        return normalised(self, "fc2", self.fc2_lif(tokens)).unflatten(3, x.shape[3:])


class Block(nn.Module):
    """x + Attention(x), then x + MLP(x)."""

    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(dim, heads), MLP(dim, ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class DownSampling(nn.Module):
    """BN(conv(LIF(x))); the first one sees the image itself."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, first: bool) -> None:
        super().__init__()
        self.encode_conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        self.encode_bn = nn.BatchNorm2d(outputs)
        self.encode_lif = nn.Identity() if first else LIF()

    def forward(self, x: Tensor) -> Tensor:
        return normalised(self, "encode", self.encode_lif(x))


class MetaSpikeFormer(nn.Module):
    """Spike-driven Transformer V2: images (B, C, Y, X) -> logits (B, classes).

    dim    of the six blocks of the third stage, D; the stages have D / 8, D / 4, D / 2, D and 5 D / 4 channels
    depth  blocks with attention: all but two in the third stage
    distilled  a second head, whose logits are averaged with the first's (the official --kd)
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
        distilled: bool,
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        widths = (dim // 8, dim // 4, dim // 2, dim, dim * 5 // 4)
        inputs = (in_channels, *widths)
        kernels = ((7, 2), (3, 2), (3, 2), (3, 2), (3, 1))
        for i, name in enumerate(("1_1", "1_2", "2", "3", "4")):
            setattr(self, f"downsample{name}", DownSampling(inputs[i], widths[i], *kernels[i], i == 0))
        for i, name in enumerate(("1_1", "1_2", "2_1", "2_2")):
            setattr(self, f"ConvBlock{name}", nn.ModuleList([ConvBlock(widths[min(i, 2)], mlp_ratio)]))
        self.block3 = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth - 2))
        self.block4 = nn.ModuleList(Block(widths[4], heads, mlp_ratio) for _ in range(2))
        self.lif, self.head = LIF(), nn.Linear(widths[4], classes)
        if distilled:
            self.head_kd = nn.Linear(widths[4], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = repeated(x, self.time_steps)
        stages = (
            "downsample1_1", "ConvBlock1_1", "downsample1_2", "ConvBlock1_2", "downsample2", "ConvBlock2_1",
            "ConvBlock2_2", "downsample3", "block3", "downsample4", "block4",
        )  # fmt: skip
        for name in stages:
            stage = getattr(self, name)
            for layer in stage if isinstance(stage, nn.ModuleList) else [stage]:
                x = layer(x)
        spikes = self.lif(x.flatten(3).mean(3))
        logits = self.head(spikes).mean(0)
        return (logits + self.head_kd(spikes).mean(0)) / 2 if hasattr(self, "head_kd") else logits
