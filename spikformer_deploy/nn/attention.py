"""Spiking self-attention (SSA): spikes times spikes, without softmax.  In the layouts of the official codes.

    q, k, v = LIF(BN(W x)), split in heads;  out = LIF_0.5((q k^T) v * scale);  then LIF(BN(W_proj out))

Both orders of the product give the same number: sums of integers.  Q-K token attention only masks tokens.  Before
membrane shortcuts, neurons stand in front of q, k and v instead of behind the projection.
Source: Zhou et al. 2023 (Spikformer), arXiv 2209.15425, section 3.3; scale and thresholds of the official code.
"""

from __future__ import annotations

from torch import Tensor, nn

from spikformer_deploy.nn.layers import add_unit, conv_bn, conv_bn_lif, fire, linear_bn_lif
from spikformer_deploy.nn.lif import LIF

SCALE = 0.125
"""Of the sums (q k^T) v, where the official code has no other."""
ATTENTION_THRESHOLD = 0.5
"""Of the neurons behind the attention, in units of the other neurons' threshold."""


def self_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, scores_first: bool) -> Tensor:
    """(q k^T) v * scale of spikes (T, B, D, N), head by head, without softmax; the result has that shape.

    scores_first  q k^T before the product with v; else k^T v before the product with q
    """
    # (T, B, heads, N, D / heads)
    q = q.unflatten(2, (heads, -1)).transpose(3, 4)
    k = k.unflatten(2, (heads, -1)).transpose(3, 4)
    v = v.unflatten(2, (heads, -1)).transpose(3, 4)
    out = (q @ k.transpose(-2, -1)) @ v if scores_first else q @ (k.transpose(-2, -1) @ v)
    return (out * scale).transpose(3, 4).flatten(2, 3)


class LinearAttention(nn.Module):
    """SSA in the CIFAR form: nn.Linear with bias, (q k^T) v.

    in   (T, B, N, D) sums of spikes; out: spikes of the same shape
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q", "k", "v"):
            add_unit(self, f"{name}_{{}}", nn.Linear(dim, dim), LIF())
        self.attn_lif = LIF(v_threshold=ATTENTION_THRESHOLD)
        add_unit(self, "proj_{}", nn.Linear(dim, dim), LIF())

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, N, D)."""
        q = self._heads(linear_bn_lif(self, "q_{}", x))
        k = self._heads(linear_bn_lif(self, "k_{}", x))
        v = self._heads(linear_bn_lif(self, "v_{}", x))
        out = (q @ k.transpose(-2, -1)) @ v * SCALE
        out = out.transpose(2, 3).flatten(3)
        return linear_bn_lif(self, "proj_{}", self.attn_lif(out))

    def _heads(self, x: Tensor) -> Tensor:
        """(T, B, N, D) -> (T, B, heads, N, D / heads)."""
        return x.unflatten(3, (self.heads, -1)).transpose(2, 3)


class ConvAttention(nn.Module):
    """SSA in the ImageNet and DVS form: Conv1d on tokens, q, k and v without bias, k^T v first.

    in     (T, B, D, N) or (T, B, D, Y, X) sums of spikes; out: spikes of the same shape
    scale  0.125 on ImageNet, 0.25 on CIFAR10-DVS
    """

    def __init__(self, dim: int, heads: int, scale: float = SCALE) -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        for name in ("q", "k", "v"):
            add_unit(self, f"{name}_{{}}", nn.Conv1d(dim, dim, 1, bias=False), LIF())
        self.attn_lif = LIF(v_threshold=ATTENTION_THRESHOLD)
        add_unit(self, "proj_{}", nn.Conv1d(dim, dim, 1), LIF())

    def forward(self, x: Tensor, share: float = 1.0) -> Tensor:
        """Spikes of the shape of x.

        share  the part of an image's tokens that `x` holds: the sums over them stand for the sums over all
        """
        tokens = x.flatten(3)
        q = conv_bn_lif(self, "q_{}", tokens)
        k = conv_bn_lif(self, "k_{}", tokens)
        v = conv_bn_lif(self, "v_{}", tokens)
        sums = self_attention(q, k, v, self.heads, self.scale / share, scores_first=False)
        return conv_bn_lif(self, "proj_{}", self.attn_lif(sums)).unflatten(3, x.shape[3:])


class MembraneAttention(nn.Module):
    """BN(W_proj SSA(LIF(x))).

    in, out       currents (T, B, D, Y, X)
    scores_first  the order of the two products (see self_attention)
    """

    def __init__(self, dim: int, heads: int, tau: float = 2.0, *, scores_first: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.scores_first = scores_first
        self.proj_lif = LIF(tau)
        for name in ("q", "k", "v"):
            add_unit(self, f"{name}_{{}}", nn.Conv1d(dim, dim, 1, bias=False), LIF(tau))
        self.attn_lif = LIF(tau, v_threshold=ATTENTION_THRESHOLD)
        add_unit(self, "proj_{}", nn.Conv1d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        # proj_lif is called after the projection, and stands before q, k and v in the official code
        spikes = self.proj_lif(x).flatten(3)
        q = conv_bn_lif(self, "q_{}", spikes)
        k = conv_bn_lif(self, "k_{}", spikes)
        v = conv_bn_lif(self, "v_{}", spikes)
        sums = self_attention(q, k, v, self.heads, SCALE, scores_first=self.scores_first)
        return conv_bn(self, "proj_{}", self.attn_lif(sums)).unflatten(3, x.shape[3:])


class TokenAttention(nn.Module):
    """Q-K token attention: LIF(BN(W_proj (A * k))).

    in   (T, B, D, Y, X) sums of spikes
    out  spikes of the same shape
    Source: Zhou et al. 2024, eq. 6.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q", "k"):
            add_unit(self, f"{name}_{{}}", nn.Conv1d(dim, dim, 1, bias=False), LIF())
        self.attn_lif = LIF(v_threshold=ATTENTION_THRESHOLD)
        add_unit(self, "proj_{}", nn.Conv1d(dim, dim, 1), LIF())

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of the shape of x."""
        return conv_bn_lif(self, "proj_{}", self.masked(x.flatten(3))).unflatten(3, x.shape[3:])

    def masked(self, tokens: Tensor) -> Tensor:
        """A * k of tokens (T, B, D, N): spikes of that shape."""
        # (T, B, heads, D / heads, N)
        q = conv_bn_lif(self, "q_{}", tokens).unflatten(2, (self.heads, -1))
        k = conv_bn_lif(self, "k_{}", tokens).unflatten(2, (self.heads, -1))
        mask = self.attn_lif(q.sum(3, keepdim=True))
        return (mask * k).flatten(2, 3)


class MembraneTokenAttention(TokenAttention):
    """BN(W_proj (A * k)), q and k from LIF(x); else as TokenAttention.

    in, out  currents (T, B, D, Y, X)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        # proj_lif is called after the projection, and stands before q and k in the official code
        masked = self.masked(fire(self, "proj_{}", x).flatten(3))
        return conv_bn(self, "proj_{}", masked).unflatten(3, x.shape[3:])
