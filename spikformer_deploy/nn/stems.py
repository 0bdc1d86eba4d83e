"""From images to tokens: spiking patch splitting (SPS) of V1, the spiking convolutional stem (SCS) of V2."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from spikformer_deploy.nn.lif import LIF


class SPS(nn.Module):
    """Spiking patch splitting: four 3x3 convolutions (each BN, LIF, some with max-pooling), plus a position embedding.

    in (T, B, C, Y, X); out (T, B, D, Y', X') integers 0..2: spikes of the position convolution + its input spikes
    pools  for each of the four stages, whether a 3x3 max-pooling of stride 2 follows
    Source: official code; state_dict keys are its.
    """

    def __init__(self, in_channels: int, dim: int, pools: tuple[bool, ...]) -> None:
        super().__init__()
        self.pools = pools
        widths = (in_channels, dim // 8, dim // 4, dim // 2, dim)
        for i, suffix in enumerate(("", "1", "2", "3")):
            setattr(self, f"proj_conv{suffix}", nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False))
            setattr(self, f"proj_bn{suffix}", nn.BatchNorm2d(widths[i + 1]))
            setattr(self, f"proj_lif{suffix}", LIF())
            if pools[i]:
                setattr(self, f"maxpool{suffix}", nn.MaxPool2d(3, 2, 1))
        self.rpe_conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.rpe_bn = nn.BatchNorm2d(dim)
        self.rpe_lif = LIF()

    def forward(self, x: Tensor) -> Tensor:
        for suffix, pool in zip(("", "1", "2", "3"), self.pools, strict=True):
            conv, bn = getattr(self, f"proj_conv{suffix}"), getattr(self, f"proj_bn{suffix}")
            x = spiking(getattr(self, f"proj_lif{suffix}"), bn, conv, x)
            if pool:
                steps = x.shape[0]
                x = getattr(self, f"maxpool{suffix}")(x.flatten(0, 1)).unflatten(0, (steps, -1))
        return spiking(self.rpe_lif, self.rpe_bn, self.rpe_conv, x) + x


def spiking(lif: nn.Module, bn: nn.Module, conv: nn.Module, x: Tensor) -> Tensor:
    """LIF(BN(conv(x))) for x (T, B, C, Y, X)."""
    steps = x.shape[0]
    return lif(bn(conv(x.flatten(0, 1))).unflatten(0, (steps, -1)))


class SCSStage(nn.Module):
    """One stage of the SCS: a 2x2 convolution of stride 2, then 3x3 convolutions C -> 4C -> C around a residual."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.down_conv = nn.Conv2d(in_channels, channels, 2, stride=2, bias=False)
        self.down_bn = nn.BatchNorm2d(channels)
        self.down_lif = LIF()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4 * channels)
        self.lif1 = LIF()
        self.conv2 = nn.Conv2d(4 * channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.lif2 = LIF()

    def forward(self, x: Tensor) -> Tensor:
        x = spiking(self.down_lif, self.down_bn, self.down_conv, x)
        return x + spiking(self.lif2, self.bn2, self.conv2, spiking(self.lif1, self.bn1, self.conv1, x))


class SCS(nn.Module):
    """Spiking convolutional stem: `stages` stages of widths D / 2^(stages - 1), ..., D, each halving the image.

    in (T, B, C, Y, X); out (T, B, D, Y', X') integers 0..2
    The paper (arXiv 2401.02020) gives no code.  The widths and the convolutions are those whose parameter counts match
    its tables (29.11 M, 51.55 M, 172 M for `stages` = 4).  The kernel of the first convolution (2x2), the order
    Conv -> BN -> LIF and the residual spike + spike are OUR choices: the order and residual are V1's, and the kernel is
    that of the other stages.
    """

    def __init__(self, in_channels: int, dim: int, stages: int = 4) -> None:
        super().__init__()
        widths = [in_channels, *(dim >> i for i in reversed(range(stages)))]
        self.stages = nn.Sequential(*(SCSStage(a, b) for a, b in pairwise(widths)))

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)
