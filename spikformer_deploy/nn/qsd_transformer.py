"""QSD-Transformer: the blocks of Spike-driven Transformer V2 with integer neurons and weights of 4 bits.

Keys are those of the official code.  Neurons multiply their input by 4 before they round it, halves up, to s in 0..4,
and send s / 4; those behind the attention send s / 2.  Every layer has weights that are integers times a learnt step of
its channel, the first and the head included.
Source: Qiu et al. 2025 (ICLR), arXiv 2501.13492, and its code (bollossom/QSD-Transformer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.nn import keys
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.integer_blocks import MLP, MultiSpike, Stages, check_heads, scaled
from spikformer_deploy.nn.keys import Tensors
from spikformer_deploy.nn.layers import STAGES, Block, repeated, token_mean
from spikformer_deploy.nn.lsq import Conv1dLSQ, Conv2dLSQ, LinearLSQ
from spikformer_deploy.nn.meta_spikeformer import Attention, ConvBlock, Kit
from spikformer_deploy.nn.spike_driven_v3 import INITIAL_SCALE

LEVELS = 4
"""D, and the factor before the rounding: both are constants of the official code."""
HEADS = 8
"""Of every attention in the official code, which reads no argument for them."""
SPIKE = partial(MultiSpike, LEVELS, LEVELS, threshold=1 / LEVELS, half_even=False)
ATTENTION_SPIKE = partial(MultiSpike, LEVELS, 2, threshold=1 / LEVELS, half_even=False)
BLOCKS = Kit(Conv2dLSQ, SPIKE, ATTENTION_SPIKE, 0.25)
UNREAD = re.compile(r".*\.act\.(alpha|zero_point|init_state|signed)")
"""Steps of activations, which the official layers allocate and never set: their values may be any, NaN too."""
REQUANTISED = (
    "4-bit weights are taken as they are where integer neurons follow one layer; those of the residual streams, of "
    "q, k and v, whose layers in a row become one, and of the head are rounded anew"
)


class AttentionBlock(Block):
    """x + attention(x), then x + MLP(x), both scaled by channel; in, out: currents (T, B, C, Y, X)."""

    def __init__(self, dim: int, config: ModelConfig) -> None:
        check_heads(dim, config.heads)
        super().__init__(Attention(dim, config.heads, BLOCKS), MLP(dim, config.mlp_ratio, SPIKE, Conv1dLSQ))
        self.layer_scale1 = nn.Parameter(torch.full((dim,), INITIAL_SCALE))
        self.layer_scale2 = nn.Parameter(torch.full((dim,), INITIAL_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        x = x + scaled(self.get_submodule(self.name)(x), self.layer_scale1)
        return x + scaled(self.mlp(x), self.layer_scale2)


class QSDTransformer(Stages):
    """QSD-Transformer: images (B, C, Y, X) -> logits (B, classes).

    widths  channels of the five stages
    Source: Qiu et al. 2025, arXiv 2501.13492, and its code.
    """

    def __init__(self, config: ModelConfig) -> None:
        def block(name: str, width: int) -> nn.Module:
            if name.startswith("ConvBlock"):
                return ConvBlock(width, config.mlp_ratio, BLOCKS)
            return AttentionBlock(width, config)

        if config.levels != LEVELS:
            problem = f"the neurons of a QSD-Transformer count to {LEVELS}, and not to {config.levels}"
            raise InputError("--levels", problem, "Leave it out.")
        super().__init__(config, STAGES, SPIKE, block, Conv2dLSQ)
        self.time_steps = config.time_steps
        self.lif = SPIKE()
        self.head = LinearLSQ(config.widths[-1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.streamed(repeated(x, self.time_steps))
        return self.head(self.lif(token_mean(x))).mean(0)


def _size(depth: int, *widths: int) -> ModelConfig:
    """A size by its blocks with attention and the channels of its stages, of which the first one has half as many."""
    return ModelConfig(
        "qsd",
        "imagenet",
        depth,
        widths[-1],
        HEADS,
        1,
        3,
        224,
        1000,
        widths=(widths[0] // 2, *widths),
        levels=LEVELS,
    )


_PUBLISHED = {
    "qsd-8-256": _size(8, 48, 96, 192, 256),
    "qsd-8-15m": _size(8, 64, 128, 256, 360),
    "qsd-8-384": _size(8, 96, 192, 384, 480),
    "qsd-8-512": _size(8, 128, 256, 512, 640),
    "qsd-12-512": _size(12, 128, 256, 512, 640),
    "qsd-8-768": _size(8, 192, 384, 768, 960),
}


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What a state_dict tells."""
    if "ConvBlock1_1.0.Conv.pwconv1.alpha" not in tensors:
        return None
    fields = keys.staged(tensors, (stage.name for stage in STAGES), ("block3", "block4"))
    _check_steps(tensors)
    return Recognised(
        fields | {"heads": HEADS, "levels": LEVELS, "time_steps": 1}, _PUBLISHED["qsd-8-512"], (REQUANTISED,)
    )


def _check_steps(tensors: Tensors) -> None:
    """Raise ModelError for steps of weights that training has not set."""
    for key, value in tensors.items():
        # a tensor without values has nothing but its shape to be recognised by
        if value.is_meta or UNREAD.fullmatch(key):
            continue
        if key.endswith(".init_state") and not bool((value == 1).all()):
            raise ModelError(key, "it is not 1: training never set the steps of this layer", "Give a trained file.")
        if key.endswith(".alpha") and not bool((value != 0).all()):
            raise ModelError(key, "a step of zero", "The file is damaged, or training has not set it.")


FAMILY = Family(
    title="QSD-Transformer",
    forms=("imagenet",),
    published=_PUBLISHED,
    build=QSDTransformer,
    recognise=_recognise,
    unread=UNREAD,
)
"""Sizes of the official configurations."""
