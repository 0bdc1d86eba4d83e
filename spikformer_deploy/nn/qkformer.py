"""QKFormer: Q-K token attention, a hierarchy of patch embeddings with deformed shortcuts (keys of the official code).

    A = LIF_0.5(sum over the channels of a head of q) ;  out = LIF(BN(W_proj (A * k)))

A is one spike a head and token: it masks whole tokens of k.  Residuals are sums of spikes, as in Spikformer.
Source: Zhou et al. 2024 (NeurIPS), arXiv 2403.16552, and its code.
"""

from __future__ import annotations

from torch import Tensor, nn

from spikformer_deploy.nn.attention import conv_bn_lif, self_attention
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.spikformer import repeated

CIFAR_HEADS, DVS_HEADS = 8, 16
"""Heads of every stage in the official code for CIFAR and for event data, whatever its configuration says."""


class TokenAttention(nn.Module):
    """Q-K token attention: x (T, B, D, Y, X) integers -> spikes of the same shape."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q", "k"):
            setattr(self, f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", LIF())
        self.attn_lif = LIF(v_threshold=0.5)
        self.proj_conv, self.proj_bn, self.proj_lif = nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim), LIF()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(3)
        q, k = (conv_bn_lif(self, name, tokens).unflatten(2, (self.heads, -1)) for name in ("q", "k"))
        mask = self.attn_lif(q.sum(3, keepdim=True))
        return conv_bn_lif(self, "proj", (mask * k).flatten(2, 3)).unflatten(3, x.shape[3:])


class SelfAttention(nn.Module):
    """Spikformer's attention (1x1 convolutions, k^T v first): x (T, B, D, Y, X) integers -> spikes."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q", "k", "v"):
            setattr(self, f"{name}_conv", nn.Conv1d(dim, dim, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(dim))
            setattr(self, f"{name}_lif", LIF())
        self.attn_lif = LIF(v_threshold=0.5)
        self.proj_conv, self.proj_bn, self.proj_lif = nn.Conv1d(dim, dim, 1), nn.BatchNorm1d(dim), LIF()

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(3)
        q, k, v = (conv_bn_lif(self, name, tokens) for name in ("q", "k", "v"))
        out = self.attn_lif(self_attention(q, k, v, self.heads, 0.125, scores_first=False))
        return conv_bn_lif(self, "proj", out).unflatten(3, x.shape[3:])


class MLP(nn.Module):
    """D -> ratio D -> D as 1x1 convolutions, BN, LIF; `names` of the two layers in the official state_dicts."""

    def __init__(self, dim: int, ratio: int, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        for name, inputs, outputs in ((names[0], dim, ratio * dim), (names[1], ratio * dim, dim)):
            setattr(self, f"{name}_conv", nn.Conv2d(inputs, outputs, 1))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(outputs))
            setattr(self, f"{name}_lif", LIF())

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = conv_bn_lif(self, name, x)
        return x


class Block(nn.Module):
    """x + attention(x), then x + MLP(x); the attention stands under the official name: "tssa", "ssa" or "attn"."""

    def __init__(self, name: str, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, attention)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + getattr(self, self.name)(x)
        return x + self.mlp(x)


class PatchEmbedding(nn.Module):
    """SPEDS: a chain of 3x3 convolutions beside one strided 1x1 convolution, both to spikes, added up.

    in (T, B, C, Y, X); out (T, B, D, Y', X') integers 0..2
    chain  (name, channels, whether its current is max-pooled by 2 before the neurons) of each convolution
    branch where the shortcut leaves: after so many convolutions of the chain; stride: of the shortcut
    """

    def __init__(self, in_channels: int, chain: tuple[tuple[str, int, bool], ...], branch: int, stride: int) -> None:
        super().__init__()
        self.chain, self.branch, self.pool = chain, branch, nn.MaxPool2d(3, 2, 1)
        widths = [in_channels, *(channels for _, channels, _ in chain)]
        for (name, channels, _), inputs in zip(chain, widths, strict=False):
            setattr(self, f"{name}_conv", nn.Conv2d(inputs, channels, 3, padding=1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(channels))
            setattr(self, f"{name}_lif", LIF())
        self.proj_res_conv = nn.Conv2d(widths[branch], widths[-1], 1, stride, bias=False)
        self.proj_res_bn, self.proj_res_lif = nn.BatchNorm2d(widths[-1]), LIF()

    def forward(self, x: Tensor) -> Tensor:
        left = x
        for i, (name, _, pooled) in enumerate(self.chain):
            left = x if i == self.branch else left
            steps = x.shape[0]
            x = getattr(self, f"{name}_bn")(getattr(self, f"{name}_conv")(x.flatten(0, 1)))
            x = self.pool(x) if pooled else x
            x = getattr(self, f"{name}_lif")(x.unflatten(0, (steps, -1)))
        return x + conv_bn_lif(self, "proj_res", left)


def _embeddings(form: str, in_channels: int, dim: int) -> list[PatchEmbedding]:
    """The patch embeddings of a form, in order."""
    if form == "dvs":
        half = dim // 2
        widths = (half // 8, half // 4, half // 2, half)
        names = ("proj", "proj1", "proj2", "proj3")
        first = tuple((n, w, i > 0) for i, (n, w) in enumerate(zip(names, widths, strict=True)))
        second = (("proj", dim, False), ("proj4", dim, True))
        return [PatchEmbedding(in_channels, first, 2, 4), PatchEmbedding(half, second, 0, 2)]
    quarter = dim // 4
    if form == "cifar":
        head = PatchEmbedding(in_channels, (("proj", quarter // 2, False), ("proj1", quarter, False)), 1, 1)
    else:
        chain = (("proj", quarter // 2, True), ("proj1", quarter, True), ("proj2", quarter, False))
        head = PatchEmbedding(in_channels, chain, 1, 2)
    early = form == "imagenet"
    return [
        head,
        *(
            PatchEmbedding(width // 2, (("proj3", width, early), ("proj4", width, not early)), 0, 2)
            for width in (dim // 2, dim)
        ),
    ]


class QKFormer(nn.Module):
    """QKFormer in its three official forms: images (B, C, Y, X), or frames (B, T, C, Y, X) of "dvs" -> logits.

    depth  blocks in all, as in its configurations: stages of 1, 1, depth - 2 ("cifar"), 1, 2, depth - 3 ("imagenet");
           "dvs" has two stages of one block whatever depth says
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
        names = ("fc1", "fc2") if form == "imagenet" else ("mlp1", "mlp2")
        counts = {"cifar": (1, 1, depth - 2), "imagenet": (1, 2, depth - 3), "dvs": (1, 1)}[form]
        self.stages = len(counts)
        for i, (count, embedding) in enumerate(zip(counts, _embeddings(form, in_channels, dim), strict=True), 1):
            width, last = dim >> (self.stages - i), i == self.stages
            blocks = [
                Block(
                    ("attn" if form == "imagenet" else "ssa") if last else "tssa",
                    SelfAttention(width, heads) if last else TokenAttention(width, heads),
                    MLP(width, mlp_ratio, names),
                )
                for _ in range(count)
            ]
            setattr(self, f"patch_embed{i}", embedding)
            setattr(self, f"stage{i}", nn.ModuleList(blocks))
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.form == "dvs" else repeated(x, self.time_steps)
        for i in range(1, self.stages + 1):
            x = getattr(self, f"patch_embed{i}")(x)
            for block in getattr(self, f"stage{i}"):
                x = block(x)
        return self.head(x.flatten(3).mean(3).mean(0))
