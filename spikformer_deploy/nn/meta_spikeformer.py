"""Spike-driven Transformer V2 (Meta-SpikeFormer): convolutional blocks, then attention, all with membrane shortcuts.

Keys are those of the official code.  Its re-parameterised convolutions are linear layers in a row, with no neurons in
between, which graph/merge.py makes one.  For evaluation: in training, statistics of RepConv would count the padding.
Source: Yao et al. 2024 (ICLR), arXiv 2404.03663, and its code (BICLab/Spike-Driven-Transformer-V2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import ATTENTION_THRESHOLD, SCALE, self_attention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import (
    STAGES,
    Block,
    MembraneMLP,
    add_unit,
    lif_conv_bn,
    over_steps,
    repeated,
    token_mean,
)
from spikformer_deploy.nn.lif import LIF


class Kit(NamedTuple):
    """What the blocks are made of; QSD-Transformer has the same blocks of other layers.

    conv              as nn.Conv2d
    neuron            the neurons in front of a layer; attention_neuron: those behind the attention
    scale             of the attention's sums
    """

    conv: Callable[..., nn.Conv2d] = nn.Conv2d
    neuron: Callable[[], nn.Module] = LIF
    attention_neuron: Callable[[], nn.Module] = partial(LIF, v_threshold=ATTENTION_THRESHOLD)
    scale: float = SCALE


OF_LIFS = Kit()
"""Of Spike-driven Transformer V2."""


class PaddedNorm(nn.Module):
    """BatchNorm on a map (B, C, Y, X) that has its border already, as zero input.

    The official layer adds the border itself, of what the normalisation makes of zero: the same numbers.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return self.bn(x)


class RepConv(nn.Module):
    """1x1, BN, 3x3 depthwise, 1x1, BN: together a 3x3 convolution with padding 1.

    in, out  maps (B, C, Y, X)
    """

    def __init__(self, channels: int, kit: Kit = OF_LIFS) -> None:
        super().__init__()
        self.body = nn.Sequential(
            # padded here, and not in the 3x3: the border then passes the normalisation like the official one
            kit.conv(channels, channels, 1, padding=1, bias=False),
            PaddedNorm(channels),
            nn.Sequential(
                kit.conv(channels, channels, 3, groups=channels, bias=False),
                kit.conv(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return self.body(x)


class SepConv(nn.Module):
    """Separable convolution: neurons, 1x1 C -> 2C, BN, neurons, 7x7 depthwise, 1x1 2C -> C, BN.

    in, out  currents (T, B, C, Y, X)
    """

    def __init__(self, dim: int, kit: Kit = OF_LIFS) -> None:
        super().__init__()
        hidden = 2 * dim
        self.lif1 = kit.neuron()
        self.pwconv1 = kit.conv(dim, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.lif2 = kit.neuron()
        self.dwconv = kit.conv(hidden, hidden, 7, padding=3, groups=hidden, bias=False)
        self.pwconv2 = kit.conv(hidden, dim, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        hidden = over_steps(nn.Sequential(self.pwconv1, self.bn1), self.lif1(x))
        return over_steps(nn.Sequential(self.dwconv, self.pwconv2, self.bn2), self.lif2(hidden))


class ConvBlock(nn.Module):
    """x + SepConv(x), then x + BN(3x3 s(BN(3x3 s(x)))), s neurons.

    in, out  currents (T, B, C, Y, X)
    """

    def __init__(self, dim: int, ratio: int, kit: Kit = OF_LIFS) -> None:
        super().__init__()
        self.Conv = SepConv(dim, kit)
        add_unit(self, "{}1", kit.conv(dim, ratio * dim, 3, padding=1, bias=False), kit.neuron())
        add_unit(self, "{}2", kit.conv(ratio * dim, dim, 3, padding=1, bias=False), kit.neuron())

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        x = self.Conv(x) + x
        hidden = lif_conv_bn(self, "{}1", x)
        return x + lif_conv_bn(self, "{}2", hidden)


class Attention(nn.Module):
    """BN(RepConv(SSA(s(x)))) with q, k, v from RepConvs; k^T v first.

    in, out  currents (T, B, D, Y, X)
    """

    def __init__(self, dim: int, heads: int, kit: Kit = OF_LIFS) -> None:
        super().__init__()
        self.heads = heads
        self.scale = kit.scale
        self.head_lif = kit.neuron()
        self.attn_lif = kit.attention_neuron()
        for name in ("q", "k", "v", "proj"):
            self.add_module(f"{name}_conv", nn.Sequential(RepConv(dim, kit), nn.BatchNorm2d(dim)))
        for name in ("q", "k", "v"):
            self.add_module(f"{name}_lif", kit.neuron())

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        spikes = self.head_lif(x)
        q = self._tokens("q", spikes)
        k = self._tokens("k", spikes)
        v = self._tokens("v", spikes)
        sums = self_attention(q, k, v, self.heads, self.scale, scores_first=False)
        return over_steps(self.get_submodule("proj_conv"), self.attn_lif(sums).unflatten(3, x.shape[3:]))

    def _tokens(self, name: str, x: Tensor) -> Tensor:
        """The spikes (T, B, D, N) of q, k or v."""
        current = over_steps(self.get_submodule(f"{name}_conv"), x)
        return self.get_submodule(f"{name}_lif")(current).flatten(3)


class DownSampling(nn.Module):
    """BN(conv(LIF(x))); the first one sees the image itself.

    in   currents (T, B, C, Y, X), or images
    out  currents (T, B, C', Y / stride, X / stride)
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, *, first: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
        add_unit(self, "encode_{}", conv)
        self.encode_lif = nn.Identity() if first else LIF()

    def forward(self, x: Tensor) -> Tensor:
        """Currents (T, B, C', Y / stride, X / stride)."""
        return lif_conv_bn(self, "encode_{}", x)


class MetaSpikeFormer(nn.Module):
    """Spike-driven Transformer V2: images (B, C, Y, X) -> logits (B, classes), the mean over the time steps.

    dim    of the blocks of the fourth stage, D; the stages have D / 8, D / 4, D / 2, D and 5 D / 4 channels
    depth  blocks with attention: two in the last stage, all others in the fourth
    distilled  a second head, whose logits are averaged with the first's (the official --kd)
    Source: Yao et al. 2024, arXiv 2404.03663, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.time_steps = config.time_steps
        dim = config.dim
        widths = (dim // 8, dim // 4, dim // 2, dim, dim * 5 // 4)
        inputs = config.in_channels
        for stage, width in zip(STAGES, widths, strict=True):
            layer = DownSampling(inputs, width, stage.kernel, stage.stride, first=stage is STAGES[0])
            self.add_module(f"downsample{stage.name}", layer)
            inputs = width
        for stage, width in zip(STAGES, widths, strict=True):
            for name in stage.blocks:
                self.add_module(name, _blocks(name, width, config))
        self.lif = LIF()
        self.head = nn.Linear(widths[-1], config.num_classes)
        if config.distilled:
            self.head_kd = nn.Linear(widths[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = repeated(x, self.time_steps)
        for stage in STAGES:
            x = self.get_submodule(f"downsample{stage.name}")(x)
            for name in stage.blocks:
                for block in getattr(self, name):
                    x = block(x)
        spikes = self.lif(token_mean(x))
        logits = self.head(spikes).mean(0)
        return (logits + self.head_kd(spikes).mean(0)) / 2 if hasattr(self, "head_kd") else logits


def _blocks(name: str, width: int, config: ModelConfig) -> nn.ModuleList:
    """The list of blocks `name`: one convolutional block, or blocks with attention."""
    if name.startswith("ConvBlock"):
        return nn.ModuleList([ConvBlock(width, config.mlp_ratio)])
    count = 2 if name == "block4" else config.depth - 2
    return nn.ModuleList(
        Block(Attention(width, config.heads), MembraneMLP(width, config.mlp_ratio, tokens=True)) for _ in range(count)
    )


_SDT2 = ModelConfig("sdt2", "imagenet", 8, 512, 8, 4, 3, 224, 1000)


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells."""
    # QSD-Transformer has these keys too, and a step beside every weight
    if "ConvBlock1_1.0.Conv.pwconv1.weight" not in tensors or "head.alpha" in tensors:
        return None
    hidden = keys.required(tensors, "block3.0.mlp.fc1_conv.weight")
    in_channels = keys.input_channels(tensors, "downsample1_1.encode_conv.weight")
    fields = keys.sizes(tensors, "imagenet", hidden, in_channels)
    fields["depth"] = keys.count(tensors, "block3") + keys.count(tensors, "block4")
    fields["distilled"] = "head_kd.weight" in tensors
    return Recognised(fields, _SDT2)


FAMILY = Family(
    title="Spike-driven Transformer V2",
    forms=("imagenet",),
    published={
        "sdt2-8-384": replace(_SDT2, dim=384),
        "sdt2-8-512": _SDT2,
        "sdt2-8-768": replace(_SDT2, dim=768),
    },
    build=MetaSpikeFormer,
    recognise=_recognise,
)
"""Sizes of the official configurations."""
