"""Spike-driven Transformer V1: membrane shortcuts, and attention that only masks and adds (keys of the official code).

    kv = LIF_0.5(sum over tokens of k * v) ;  out = q * kv ;  x = x + BN(W_proj out)

q, k, v are spikes: the products are masks and the sum counts spikes, channel by channel.  On CIFAR10-DVS a pool looks
for neighbours before each of these steps.  STAtten has the same weights, and attends over tokens.
Source: Yao et al. 2023 (NeurIPS), arXiv 2307.01694, and its code (BICLab/Spike-Driven-Transformer).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace

from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn.attention import ATTENTION_THRESHOLD, self_attention
from spikformer_deploy.nn.family import Family, ModelConfig
from spikformer_deploy.nn.layers import (
    ShortcutMLP,
    add_unit,
    conv_bn,
    conv_bn_lif,
    fire,
    over_steps,
    pooled_stages,
    sequence,
    token_mean,
)
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.plif import PLIF, learn_time_constants
from spikformer_deploy.nn.spike_driven_files import POOLING, recogniser


class Stem(nn.Module):
    """Four 3x3 convolutions (BN, LIF, some max-pooled), and a fifth on their spikes, added to the current before them.

    in     (T, B, C, Y, X)
    out    (T, B, D, Y', X') currents
    pools  the official `pooling_stat`; the fourth pools currents, before the neurons
    """

    def __init__(self, in_channels: int, dim: int, pools: tuple[bool, ...]) -> None:
        super().__init__()
        self.pools = pools
        self.pool = nn.MaxPool2d(3, 2, 1)
        inputs = in_channels
        for suffix, outputs in zip(("", "1", "2", "3"), (dim // 8, dim // 4, dim // 2, dim), strict=True):
            add_unit(self, f"proj_{{}}{suffix}", nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), LIF())
            inputs = outputs
        add_unit(self, "rpe_{}", nn.Conv2d(dim, dim, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Currents (T, B, D, Y', X')."""
        for suffix, pool in zip(("", "1", "2"), self.pools, strict=False):
            x = conv_bn_lif(self, f"proj_{{}}{suffix}", x)
            x = over_steps(self.pool, x) if pool else x
        x = conv_bn(self, "proj_{}3", x)
        x = over_steps(self.pool, x) if self.pools[3] else x
        return conv_bn(self, "rpe_{}", fire(self, "proj_{}3", x)) + x


class Attention(nn.Module):
    """Spike-driven self-attention with its shortcut: x + BN(W_proj (q * kv)).

    in, out        currents (T, B, D, Y, X)
    talking_heads  in every official state_dict, and unused in its forward pass
    Source: Yao et al. 2023, eq. 8.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.shortcut_lif = LIF()
        for name in ("q", "k", "v"):
            add_unit(self, f"{name}_{{}}", nn.Conv2d(dim, dim, 1, bias=False), LIF())
        self.talking_heads = nn.Conv1d(heads, heads, 1, bias=False)
        self.talking_heads_lif = LIF(v_threshold=ATTENTION_THRESHOLD)
        add_unit(self, "proj_{}", nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        spikes = self.shortcut_lif(x)
        q = conv_bn_lif(self, "q_{}", spikes)
        k = conv_bn_lif(self, "k_{}", spikes)
        v = conv_bn_lif(self, "v_{}", spikes)
        return conv_bn(self, "proj_{}", self.attended(spikes, q, k, v)) + x

    def attended(self, spikes: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the projection reads; all of one shape (T, B, D, Y, X)."""
        return q * self.talking_heads_lif((k * v).sum((3, 4), keepdim=True))


class PooledAttention(Attention):
    """The same on CIFAR10-DVS: a 3x3 max-pooling over the last two dimensions of each product, and of k and v.

    k and v are maps: neighbours in rows and columns.  The products are laid out as (T, B, heads, tokens, channels of a
    head): neighbours are the tokens before and behind, row after row, and the channels beside, head by head.
    Source: the official code (`dvs_mode`).
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.pool = nn.MaxPool3d((1, 3, 3), 1, (0, 1, 1))

    def attended(self, spikes: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As of Attention."""
        maps = (q, self.pool(k), self.pool(v))
        q_tokens, k_tokens, v_tokens = (x.flatten(3).unflatten(2, (self.heads, -1)).transpose(3, 4) for x in maps)
        met = self.pool(k_tokens * v_tokens).sum(3, keepdim=True)
        out = self.pool(q_tokens * self.talking_heads_lif(met))
        return out.transpose(3, 4).flatten(2, 3).unflatten(3, q.shape[3:])


class ChunkAttention(Attention):
    """STAtten: q (k^T v) over the tokens of all time steps of a chunk, then neurons; the rest as Attention.

    chunk   steps; each step of a chunk needs k and v of all of them, later ones too
    scale   1 / (rows of the map); with `events` 1 / (tokens of a chunk)
    events  q, k and v are pooled 3x3, and so are the shortcut's spikes p: out = p + p * attention, 0 to 2
    Source: Lee et al. 2025 (STAtten), arXiv 2409.19764, and its code.
    """

    def __init__(self, dim: int, heads: int, chunk: int, events: bool) -> None:
        super().__init__(dim, heads)
        self.attn_lif = LIF(v_threshold=ATTENTION_THRESHOLD)
        self.chunk = chunk
        self.events = events
        self.pool = nn.MaxPool2d(3, 1, 1)

    def attended(self, spikes: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As of Attention."""
        rows, columns = q.shape[3:]
        if not self.events:
            return self._fired(q, k, v, 1 / rows)
        q, k, v, shortcut = (over_steps(self.pool, x) for x in (q, k, v, spikes))
        return self._fired(q, k, v, 1 / (rows * columns * self.chunk)) * shortcut + shortcut

    def _fired(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Spikes of the neurons behind the attention, (T, B, D, Y, X)."""
        # (T / chunk, B, D, chunk * N)
        q_chunks, k_chunks, v_chunks = (
            x.flatten(3).unflatten(0, (-1, self.chunk)).permute(0, 2, 3, 1, 4).flatten(3) for x in (q, k, v)
        )
        sums = self_attention(q_chunks, k_chunks, v_chunks, self.heads, scale, scores_first=False)
        by_step = sums.unflatten(3, (self.chunk, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        return self.attn_lif(by_step).unflatten(3, q.shape[3:])


class SpikeDrivenTransformer(nn.Module):
    """Spike-driven Transformer V1 or STAtten: logits (B, classes), the mean over the time steps.

    in    images (B, C, Y, X), or frames (B, T, C, Y, X) of the forms "dvs" and "gesture"
    The forms differ in the pooling of the stem, and "dvs" (CIFAR10-DVS) in its attention.
    plif  the time constants are learnt; the official state_dict has those of two neurons that no forward pass reads
    Source: Yao et al. 2023, arXiv 2307.01694, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.time_steps = config.time_steps
        self.per_step = config.per_step
        pools = pooled_stages(config.pooling or POOLING[config.form])
        self.patch_embed = Stem(config.in_channels, dim, pools)
        self.block = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.head_lif = LIF()
        self.head = nn.Linear(dim, config.num_classes)
        if config.plif:
            learn_time_constants(self)
            self.patch_embed.rpe_lif = PLIF()
            for block in self.block:
                block.get_submodule("attn").add_module("attn_lif", PLIF(ATTENTION_THRESHOLD))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.patch_embed(sequence(x, self.time_steps, self.per_step))
        for block in self.block:
            x = block(x)
        return self.head(self.head_lif(token_mean(x))).mean(0)


def _block(config: ModelConfig) -> nn.Sequential:
    """Attention, then MLP; both have their shortcuts in them, since the MLP's may start at its hidden layer."""
    mlp = ShortcutMLP(config.dim, config.mlp_ratio)
    return nn.Sequential(OrderedDict(attn=_attention(config), mlp=mlp))


def _attention(config: ModelConfig) -> Attention:
    """The attention of a configuration.  Raises InputError for one that there is not."""
    if config.attention not in ("", "statten"):
        raise InputError("attention", f"there is no '{config.attention}'", "Known: statten.")
    if config.attention and config.plif:
        raise InputError("attention", "STAtten has no neurons with learnt time constants")
    if config.time_steps % config.chunk:
        problem = f"{config.time_steps} time steps do not divide into chunks of {config.chunk}"
        raise InputError("chunk", problem, "Give --time-steps a multiple of it.")
    if config.attention:
        return ChunkAttention(config.dim, config.heads, config.chunk, events=config.form == "dvs")
    kind = PooledAttention if config.form == "dvs" else Attention
    return kind(config.dim, config.heads)


_CIFAR = ModelConfig("sdt1", "cifar", 2, 512, 8, 4, 3, 32, 10)
_IMAGENET = ModelConfig("sdt1", "imagenet", 8, 512, 8, 4, 3, 224, 1000)
_DVS = ModelConfig("sdt1", "dvs", 2, 256, 8, 16, 2, 64, 10)
_GESTURE = ModelConfig("sdt1", "gesture", 2, 256, 8, 16, 2, 128, 11)

PUBLISHED = {
    "sdt1-2-256": replace(_CIFAR, dim=256),
    "sdt1-2-512": _CIFAR,
    "sdt1-8-384": replace(_IMAGENET, dim=384),
    "sdt1-6-512": replace(_IMAGENET, depth=6),
    "sdt1-8-512": _IMAGENET,
    "sdt1-10-512": replace(_IMAGENET, depth=10),
    "sdt1-8-768": replace(_IMAGENET, dim=768),
    "sdt1-2-256-dvs": _DVS,
    "sdt1-2-256-gesture": _GESTURE,
    "statten-2-512": replace(_CIFAR, attention="statten", chunk=2),
    "statten-8-768": replace(_IMAGENET, dim=768, attention="statten", chunk=2),
    "statten-2-256-dvs": replace(_DVS, attention="statten", chunk=4),
}
"""Sizes of the official configurations."""

FAMILY = Family(
    title="Spike-driven Transformer V1, STAtten",
    forms=("cifar", "imagenet", "dvs", "gesture"),
    published=PUBLISHED,
    build=SpikeDrivenTransformer,
    recognise=recogniser(PUBLISHED),
    pooling=POOLING,
    unread=re.compile(r"patch_embed\.rpe_lif\.w|block\.\d+\.attn\.attn_lif\.w"),
)
