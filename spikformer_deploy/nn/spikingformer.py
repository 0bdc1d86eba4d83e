"""Spikingformer: LIF before every convolution, and a residual stream of membrane currents (keys of the official code).

    x = x + BN(W SSA(LIF(x))), then x = x + BN(W2 LIF(BN(W1 LIF(x))));  logits = head(mean over tokens and T of x)

Spikes alone enter convolutions; what is added up is real-valued.
Source: Zhou et al. 2023, arXiv 2304.11954, and its code.
"""

from __future__ import annotations

from torch import Tensor, nn

from spikformer_deploy.nn.attention import self_attention
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.spikformer import repeated

DVS_TAU = 1.5
"""Time constant of all neurons in the official code for event data; 2 elsewhere."""


def normalised(module: nn.Module, name: str, x: Tensor) -> Tensor:
    """BN(conv(x)) with the layers `name`_conv and `name`_bn of `module`; x (T, B, C, ...)."""
    steps = x.shape[0]
    out = getattr(module, f"{name}_bn")(getattr(module, f"{name}_conv")(x.flatten(0, 1)))
    return out.unflatten(0, (steps, -1))


class Tokenizer(nn.Module):
    """Five 3x3 convolutions with BN; all but the first see spikes, some of them max-pooled by 2.

    in (T, B, C, Y, X); out (T, B, D, Y', X') real
    names  of the convolutions, as in the official state_dicts; pools: whether the spikes before each are pooled
    """

    def __init__(self, in_channels: int, dim: int, names: tuple[str, ...], pools: tuple[bool, ...], tau: float) -> None:
        super().__init__()
        self.names, self.pools = names, pools
        widths = (in_channels, dim // 8, dim // 4, dim // 2, dim, dim)
        self.pool = nn.MaxPool2d(3, 2, 1)
        for i, name in enumerate(names):
            setattr(self, f"{name}_conv", nn.Conv2d(widths[i], widths[i + 1], 3, padding=1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(widths[i + 1]))
            if i:
                setattr(self, f"{name}_lif", LIF(tau))

    def forward(self, x: Tensor) -> Tensor:
        for i, (name, pool) in enumerate(zip(self.names, self.pools, strict=True)):
            if i:
                x = getattr(self, f"{name}_lif")(x)
            if pool:
                x = self.pool(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
            x = normalised(self, name, x)
        return x


class Attention(nn.Module):
    """BN(W_proj SSA(LIF(x))): x (T, B, D, Y, X) real -> the same."""

    def __init__(self, dim: int, heads: int, tau: float, scores_first: bool) -> None:
        super().__init__()
        self.heads, self.scores_first = heads, scores_first
        self.proj_lif = LIF(tau)
        for name in ("q", "k", "v"):
            setattr(self, f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", LIF(tau))
        self.attn_lif = LIF(tau, v_threshold=0.5)
        self.proj_conv, self.proj_bn = nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.proj_lif(x).flatten(3)
        q, k, v = (getattr(self, f"{name}_lif")(normalised(self, name, spikes)) for name in ("q", "k", "v"))
        out = self.attn_lif(self_attention(q, k, v, self.heads, 0.125, self.scores_first))
        return normalised(self, "proj", out).unflatten(3, x.shape[3:])


class MLP(nn.Module):
    """BN(W2 LIF(BN(W1 LIF(x)))): x (T, B, D, Y, X) real -> the same."""

    def __init__(self, dim: int, ratio: int, tau: float) -> None:
        super().__init__()
        self.mlp1_lif, self.mlp1_conv, self.mlp1_bn = (
            LIF(tau), nn.Conv2d(dim, ratio * dim, 1), nn.BatchNorm2d(ratio * dim)
        )  # fmt: skip
        self.mlp2_lif, self.mlp2_conv, self.mlp2_bn = LIF(tau), nn.Conv2d(ratio * dim, dim, 1), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = normalised(self, "mlp1", self.mlp1_lif(x))
        return normalised(self, "mlp2", self.mlp2_lif(x))


class Block(nn.Module):
    """x + Attention(x), then x + MLP(x).

    norm1, norm2  in every official state_dict, and unused in its forward pass
    """

    def __init__(self, dim: int, heads: int, ratio: int, tau: float, scores_first: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, heads, tau, scores_first), MLP(dim, ratio, tau)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)


class Spikingformer(nn.Module):
    """Spikingformer in its three official forms: images (B, C, Y, X), or frames (B, T, C, Y, X) of "dvs" -> logits.

    form  "cifar" (the last two spike maps pooled), "imagenet" and "dvs" (the last four)
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
        self.form, self.time_steps = form, time_steps
        tau = DVS_TAU if form == "dvs" else 2.0
        if form == "cifar":
            names, pools = tuple(f"block{i}" for i in range(5)), (False, False, False, True, True)
        else:
            names, pools = ("proj", *(f"proj{i}" for i in range(1, 5))), (False, True, True, True, True)
        self.patch_embed = Tokenizer(in_channels, dim, names, pools, tau)
        self.block = nn.ModuleList(Block(dim, heads, mlp_ratio, tau, form != "imagenet") for _ in range(depth))
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.form == "dvs" else repeated(x, self.time_steps)
        x = self.patch_embed(x)
        for block in self.block:
            x = block(x)
        return self.head(x.flatten(3).mean(3).mean(0))
