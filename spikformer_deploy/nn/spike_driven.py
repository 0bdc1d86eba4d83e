"""Spike-driven Transformer V1: membrane shortcuts, and attention that only masks and adds (keys of the official code).

    kv = LIF_0.5(sum over tokens of k * v) ;  out = q * kv ;  x = x + BN(W_proj out)

q, k, v are spikes: the products are masks and the sum counts spikes, channel by channel.
Source: Yao et al. 2023 (NeurIPS), arXiv 2307.01694, and its code.
"""

from __future__ import annotations

from torch import Tensor, nn

from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.spikformer import repeated
from spikformer_deploy.nn.spikingformer import normalised


class Stem(nn.Module):
    """Four 3x3 convolutions (BN, LIF, some max-pooled), and a fifth on their spikes, added to the current before them.

    in (T, B, C, Y, X); out (T, B, D, Y', X') real
    pools  the official `pooling_stat`; the fourth pools currents, before the neurons
    """

    def __init__(self, in_channels: int, dim: int, pools: tuple[bool, bool, bool, bool]) -> None:
        super().__init__()
        self.pools, self.pool = pools, nn.MaxPool2d(3, 2, 1)
        widths = (in_channels, dim // 8, dim // 4, dim // 2, dim)
        for i, suffix in enumerate(("", "1", "2", "3")):
            setattr(self, f"proj_conv{suffix}", nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False))
            setattr(self, f"proj_bn{suffix}", nn.BatchNorm2d(widths[i + 1]))
            setattr(self, f"proj_lif{suffix}", LIF())
        self.rpe_conv, self.rpe_bn = nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[0]
        x = x.flatten(0, 1)
        for i, suffix in enumerate(("", "1", "2", "3")):
            x = getattr(self, f"proj_bn{suffix}")(getattr(self, f"proj_conv{suffix}")(x))
            if i == 3:
                x = self.pool(x) if self.pools[i] else x
                continue
            x = getattr(self, f"proj_lif{suffix}")(x.unflatten(0, (steps, -1))).flatten(0, 1)
            x = self.pool(x) if self.pools[i] else x
        spikes = self.get_submodule("proj_lif3")(x.unflatten(0, (steps, -1))).flatten(0, 1)
        return (self.rpe_bn(self.rpe_conv(spikes)) + x).unflatten(0, (steps, -1))


class Attention(nn.Module):
    """x + BN(W_proj (q * kv)): x (T, B, D, Y, X) real -> the same.

    talking_heads  in every official state_dict, and unused in its forward pass
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.shortcut_lif = LIF()
        for name in ("q", "k", "v"):
            setattr(self, f"{name}_conv", nn.Conv2d(dim, dim, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(dim))
            setattr(self, f"{name}_lif", LIF())
        self.talking_heads = nn.Conv1d(heads, heads, 1, bias=False)
        self.talking_heads_lif = LIF(v_threshold=0.5)
        self.proj_conv, self.proj_bn = nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.shortcut_lif(x)
        q, k, v = (getattr(self, f"{name}_lif")(normalised(self, name, spikes)) for name in ("q", "k", "v"))
        kv = self.talking_heads_lif((k * v).sum((3, 4), keepdim=True))
        return normalised(self, "proj", q * kv) + x


class MLP(nn.Module):
    """x + BN(W2 LIF(BN(W1 LIF(x)))); with mlp_ratio 1 the hidden layer has a shortcut too, as in the official code."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.shortcut = ratio == 1
        self.fc1_lif, self.fc1_conv, self.fc1_bn = LIF(), nn.Conv2d(dim, ratio * dim, 1), nn.BatchNorm2d(ratio * dim)
        self.fc2_lif, self.fc2_conv, self.fc2_bn = LIF(), nn.Conv2d(ratio * dim, dim, 1), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        hidden = normalised(self, "fc1", self.fc1_lif(x))
        if self.shortcut:
            x = hidden = x + hidden
        return normalised(self, "fc2", self.fc2_lif(hidden)) + x


class Block(nn.Module):
    """Attention, then MLP, each with its membrane shortcut."""

    def __init__(self, dim: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(dim, heads), MLP(dim, ratio)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attn(x))


class SpikeDrivenTransformer(nn.Module):
    """Spike-driven Transformer V1: images (B, C, Y, X) -> logits (B, classes).

    form  "cifar" (pooling 0011) or "imagenet" (1111)
    """

    def __init__(
        self,
        form: str,
        in_channels: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
        classes: int,
        time_steps: int,
    ) -> None:
        super().__init__()
        self.time_steps = time_steps
        early = form == "imagenet"
        self.patch_embed = Stem(in_channels, dim, (early, early, True, True))
        self.block = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.head_lif, self.head = LIF(), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(repeated(x, self.time_steps))
        for block in self.block:
            x = block(x)
        return self.head(self.head_lif(x.flatten(3).mean(3))).mean(0)
