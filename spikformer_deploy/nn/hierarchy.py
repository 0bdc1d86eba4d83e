"""A hierarchy of stages on a residual stream of membrane currents, as Max-Former and MS-QKFormer have it.

Each stage begins with a patch embedding, which may shrink the map and makes the stream anew, and has blocks of a token
mixer and an MLP behind it.  Both families have the official code's key for each part.
Source: Fang et al. 2025, arXiv 2505.18608, and its code (bic-L/MaxFormer).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor, nn

from spikformer_deploy.nn import keys
from spikformer_deploy.nn.attention import MembraneAttention
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import ShortcutMLP, add_unit, conv_bn, fire, over_steps, sequence, token_mean
from spikformer_deploy.nn.lif import LIF

CIFAR_HEADS = 8
"""Heads of every attention in the official code for CIFAR, whatever its configuration says."""
DVS_HEADS = 16
"""The same for event data."""
IMAGENET_WIDTH = 64
"""Channels of the last stage for each head, in the official code for ImageNet; all stages have as many heads."""
EARLY_BLOCKS = {"cifar": (1, 1), "imagenet": (1, 2), "dvs": (1,)}
"""Blocks of each stage before the last in the official code, whatever its configuration says."""


class EmbeddingLayer(NamedTuple):
    """A convolution of a patch embedding, with BN.

    unit    its official name; a word before a dot is that of a module of its own
    pooled  its currents are max-pooled by 2
    """

    unit: str
    channels: int
    stride: int = 1
    pooled: bool = False


class MembraneEmbedding(nn.Module):
    """A chain of 3x3 convolutions beside a single 1x1 convolution of spikes of the chain; currents, added up.

    in      (T, B, C, Y, X) currents of a stream, or images
    out     (T, B, D, Y', X') currents
    branch  the layer of the chain whose spikes the shortcut reads too
    pixels  the first layer sees the input itself; every other one sees spikes

    Where the official code has one more layer of neurons in the shortcut, it reads the chain's stream: the same spikes.
    """

    def __init__(
        self,
        in_channels: int,
        chain: tuple[EmbeddingLayer, ...],
        shortcut: EmbeddingLayer,
        *,
        branch: int = 0,
        pixels: bool = False,
    ) -> None:
        super().__init__()
        self.chain = chain
        self.shortcut = shortcut
        self.branch = branch
        self.pixels = pixels
        self.pool = nn.MaxPool2d(3, 2, 1)
        widths = [in_channels, *(layer.channels for layer in chain)]
        for i, layer in enumerate(chain):
            lif = None if pixels and i == 0 else LIF()
            self._add(layer, nn.Conv2d(widths[i], layer.channels, 3, layer.stride, 1, bias=False), lif)
        self._add(shortcut, nn.Conv2d(widths[branch], shortcut.channels, 1, shortcut.stride, bias=False), None)

    def forward(self, x: Tensor) -> Tensor:
        """Currents (T, B, D, Y', X')."""
        shortcut = x
        for i, layer in enumerate(self.chain):
            x = x if self.pixels and i == 0 else fire(self, layer.unit, x)
            shortcut = x if i == self.branch else shortcut
            x = self._current(layer, x)
        return x + self._current(self.shortcut, shortcut)

    def _add(self, layer: EmbeddingLayer, conv: nn.Conv2d, lif: LIF | None) -> None:
        owner, _, unit = layer.unit.rpartition(".")
        if owner:
            self.add_module(owner, nn.Module())
        add_unit(self.get_submodule(owner), unit, conv, lif)

    def _current(self, layer: EmbeddingLayer, x: Tensor) -> Tensor:
        """BN(conv(x)), pooled where the layer is."""
        current = conv_bn(self, layer.unit, x)
        return over_steps(self.pool, current) if layer.pooled else current


class MixerBlock(nn.Module):
    """x + mixer(x), then an MLP with its shortcut.

    in, out  currents (T, B, D, Y, X)
    name     of the mixer in the official state_dict
    mixer    from currents to currents of the same shape; None: there is only the MLP
    """

    def __init__(self, name: str, mixer: nn.Module | None, mlp: ShortcutMLP) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, mixer)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        mixer = getattr(self, self.name)
        return self.mlp(x if mixer is None else x + mixer(x))


Mixer: TypeAlias = tuple[str, nn.Module | None]
"""The official name of a token mixer, and the mixer: from currents to currents; None: a stage has none."""


class Parts(NamedTuple):
    """What a family has of its own.

    large  the first embedding of ImageNet, of (channels of the image, width)
    later  the embeddings behind the first, of (form, channels before, width)
    mixer  that of a block before the last stage, of (configuration, the stage's number from 0, width)
    """

    large: Callable[[int, int], MembraneEmbedding]
    later: Callable[[str, int, int], MembraneEmbedding]
    mixer: Callable[[ModelConfig, int, int], Mixer]


class Hierarchy(nn.Module):
    """Two or three stages, the last with self-attention, and a head on the spikes of the stream's mean.

    in     images (B, C, Y, X), or frames (B, T, C, Y, X) of the form "dvs"
    out    logits (B, classes), the mean over the time steps
    depth  blocks in all: stages of 1, 1, depth - 2 ("cifar"), 1, 2, depth - 3 ("imagenet"), 1, depth - 1 ("dvs");
           each has twice the channels of the one before
    Source: Fang et al. 2025, arXiv 2505.18608, and its code.
    """

    def __init__(self, config: ModelConfig, parts: Parts) -> None:
        super().__init__()
        self.time_steps = config.time_steps
        self.per_step = config.per_step
        early = EARLY_BLOCKS[config.form]
        counts = (*early, config.depth - sum(early))
        self.stages = len(counts)
        inputs = config.in_channels
        for i, count in enumerate(counts):
            width = config.dim >> (len(early) - i)
            embedding = _first(config.form, inputs, width, parts) if i == 0 else parts.later(config.form, inputs, width)
            self.add_module(f"patch_embed{i + 1}", embedding)
            mixer = parts.mixer if i < len(early) else _self_attention
            blocks = (MixerBlock(*mixer(config, i, width), ShortcutMLP(width, config.mlp_ratio)) for _ in range(count))
            self.add_module(f"stage{i + 1}", nn.ModuleList(blocks))
            inputs = width
        self.head_lif = LIF()
        self.head = nn.Linear(config.dim, config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = sequence(x, self.time_steps, self.per_step)
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"patch_embed{number}")(x)
            for block in getattr(self, f"stage{number}"):
                x = block(x)
        return self.head(self.head_lif(token_mean(x))).mean(0)


def _self_attention(config: ModelConfig, stage: int, width: int) -> Mixer:
    """The mixer of the last stage."""
    return "attn", MembraneAttention(width, config.heads)


def _first(form: str, in_channels: int, width: int, parts: Parts) -> MembraneEmbedding:
    """The embedding of the input."""
    match form:
        case "imagenet":
            return parts.large(in_channels, width)
        case "dvs":
            return _event_embedding(in_channels, width)
        case _:
            return _small_embedding(in_channels, width)


def _event_embedding(in_channels: int, width: int) -> MembraneEmbedding:
    """The first embedding of event data, to an eighth of the size."""
    chain = (
        EmbeddingLayer("proj_{}", width // 8),
        EmbeddingLayer("max_embed1.embed_{}", width // 4, pooled=True),
        EmbeddingLayer("max_embed2.embed_{}", width // 2, pooled=True),
        EmbeddingLayer("max_embed3.embed_{}", width, pooled=True),
    )
    return MembraneEmbedding(in_channels, chain, EmbeddingLayer("embed1.embed_{}", width, 4), branch=2, pixels=True)


def _small_embedding(in_channels: int, width: int) -> MembraneEmbedding:
    """The first embedding of CIFAR, which keeps the size."""
    chain = (EmbeddingLayer("proj_{}", width // 2), EmbeddingLayer("embed1.embed_{}", width))
    return MembraneEmbedding(in_channels, chain, EmbeddingLayer("embed2.embed_{}", width), branch=1, pixels=True)


def _fields_of(tensors: Tensors, form: str, first: str) -> dict[str, Any]:
    """The fields of a ModelConfig that a state_dict tells.

    form   of its layout, as its keys tell it; first: the official name of the first convolution
    Raises ModelError for keys that are incomplete.
    """
    stages = len(EARLY_BLOCKS[form]) + 1
    hidden = keys.required(tensors, f"stage{stages}.0.mlp.fc1_conv.weight")
    fields = keys.sizes(tensors, form, hidden, keys.input_channels(tensors, f"patch_embed1.{first}.weight"))
    fields["depth"] = sum(keys.count(tensors, f"stage{number}") for number in range(1, stages + 1))
    by_width = max(1, fields["dim"] // IMAGENET_WIDTH)
    fields["heads"] = {"cifar": CIFAR_HEADS, "imagenet": by_width, "dvs": DVS_HEADS}[form]
    return fields


def family_of(
    name: str, title: str, parts: Parts, is_one: Callable[[Tensors], bool], only_imagenet: str, first: str
) -> Family:
    """The family of hierarchies that are made of `parts`, in the three official forms.

    is_one         whether a state_dict is of this family
    only_imagenet  the layer of the first embedding that the ImageNet form alone has; first: that form's first layer
    """
    cifar = ModelConfig(name, "cifar", 4, 384, CIFAR_HEADS, 4, 3, 32, 10)
    imagenet = ModelConfig(name, "imagenet", 10, 512, 8, 4, 3, 224, 1000)
    dvs = ModelConfig(name, "dvs", 2, 256, DVS_HEADS, 16, 2, 128, 10, mlp_ratio=1)

    def recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
        """What a state_dict tells, its form by the first embedding."""
        if not is_one(tensors):
            return None
        if f"patch_embed1.{only_imagenet}.weight" in tensors:
            return Recognised(_fields_of(tensors, "imagenet", first), imagenet)
        if "patch_embed1.max_embed3.embed_conv.weight" in tensors:
            return Recognised(_fields_of(tensors, "dvs", "proj_conv"), dvs)
        return Recognised(_fields_of(tensors, "cifar", "proj_conv"), cifar)

    return Family(
        title=title,
        forms=("cifar", "imagenet", "dvs"),
        published={
            f"{name}-4-384": cifar,
            f"{name}-10-384": replace(imagenet, dim=384, heads=6),
            f"{name}-10-512": imagenet,
            f"{name}-10-768": replace(imagenet, dim=768, heads=12),
            f"{name}-2-256-dvs": dvs,
            f"{name}-2-256-gesture": replace(dvs, num_classes=11),
        },
        build=partial(Hierarchy, parts=parts),
        recognise=recognise,
    )
