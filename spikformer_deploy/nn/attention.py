"""Spiking self-attention (SSA): spikes times spikes, no softmax.  Three layouts, as in the three official codes.

    q, k, v = LIF(BN(W x)), split in heads;  out = LIF_0.5((q k^T) v * scale);  then LIF(BN(W_proj out))

Both orders of the product give the same number.  Source: Zhou et al. 2023 (Spikformer), eq. 4-7; official code.
"""

from __future__ import annotations

from torch import Tensor, nn

from spikformer_deploy.nn.lif import LIF


class LinearAttention(nn.Module):
    """The CIFAR form: tokens (T, B, N, D), nn.Linear with bias, (q k^T) v, scale 0.125."""

    def __init__(self, dim: int, heads: int, scale: float = 0.125) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        for name in ("q", "k", "v"):
            setattr(self, f"{name}_linear", nn.Linear(dim, dim))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", LIF())
        self.attn_lif = LIF(v_threshold=0.5)
        self.proj_linear = nn.Linear(dim, dim)
        self.proj_bn = nn.BatchNorm1d(dim)
        self.proj_lif = LIF()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(linear_bn_lif(self, name, x)) for name in ("q", "k", "v"))
        out = (q @ k.transpose(-2, -1)) @ v * self.scale
        out = out.transpose(2, 3).flatten(3)
        return linear_bn_lif(self, "proj", self.attn_lif(out))

    def _heads(self, x: Tensor) -> Tensor:
        """(T, B, N, D) -> (T, B, heads, N, D / heads)."""
        return x.unflatten(3, (self.heads, -1)).transpose(2, 3)


def linear_bn_lif(module: nn.Module, name: str, x: Tensor) -> Tensor:
    """LIF(BN(Linear(x))) with the layers `name`_linear, _bn and _lif of `module`; x (T, B, N, D)."""
    steps = x.shape[0]
    x = getattr(module, f"{name}_linear")(x.flatten(0, 1))
    x = getattr(module, f"{name}_bn")(x.transpose(-1, -2)).transpose(-1, -2)
    return getattr(module, f"{name}_lif")(x.unflatten(0, (steps, -1)))


class ConvAttention(nn.Module):
    """The ImageNet and DVS form: tokens (T, B, D, N), Conv1d, q/k/v without bias, k^T v first.

    scale  0.125 on ImageNet, 0.25 on CIFAR10-DVS
    """

    def __init__(self, dim: int, heads: int, scale: float = 0.125) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        for name in ("q", "k", "v"):
            setattr(self, f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", LIF())
        self.attn_lif = LIF(v_threshold=0.5)
        self.proj_conv = nn.Conv1d(dim, dim, 1)
        self.proj_bn = nn.BatchNorm1d(dim)
        self.proj_lif = LIF()

    def forward(self, x: Tensor, share: float = 1.0) -> Tensor:
        """`share`: of the tokens of the whole image, `x` holds so many, and their sums stand for all."""
        q, k, v = (self._heads(conv_bn_lif(self, name, x)) for name in ("q", "k", "v"))
        out = q @ (k.transpose(-2, -1) @ v) * (self.scale / share)
        out = out.transpose(3, 4).flatten(2, 3)
        return conv_bn_lif(self, "proj", self.attn_lif(out))

    def _heads(self, x: Tensor) -> Tensor:
        """(T, B, D, N) -> (T, B, heads, N, D / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(3, 4)


def conv_bn_lif(module: nn.Module, name: str, x: Tensor) -> Tensor:
    """LIF(BN(Conv(x))) with the layers `name`_conv, _bn and _lif of `module`; x (T, B, C, ...)."""
    steps = x.shape[0]
    x = getattr(module, f"{name}_bn")(getattr(module, f"{name}_conv")(x.flatten(0, 1)))
    return getattr(module, f"{name}_lif")(x.unflatten(0, (steps, -1)))


def self_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, scores_first: bool) -> Tensor:
    """(q k^T) v * scale of spikes (T, B, D, N), head by head, without softmax; scores_first: in that order of sums."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(3, 4) for x in (q, k, v))
    out = (q @ k.transpose(-2, -1)) @ v if scores_first else q @ (k.transpose(-2, -1) @ v)
    return (out * scale).transpose(3, 4).flatten(2, 3)
