"""SpikingResformer: dual spike self-attention (DSSA) on a residual stream of membrane currents.

    s = LIF(x) ;  y1, y2 = BN(W s), W of stride p ;  A = LIF(c1 y1^T s) ;  x = x + BN(W_proj LIF(c2 y2 A))

y1 and y2 are currents, with no neurons between: spikes are multiplied with real numbers, and these are added up.
Source: Shi et al. 2024 (CVPR), arXiv 2403.14302, and its code (xyshi2000/SpikingResformer).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.nn.family import Family, ModelConfig, Recognised
from spikformer_deploy.nn.keys import Tensors, input_channels, required
from spikformer_deploy.nn.layers import over_steps, sequence, token_mean
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.plif import learn_time_constants

ONLY_HERE = "layers.0.0.firing_rate_x"
"""A key that no other family has."""
HEAD_WIDTHS = {"imagenet": 64, "cifar": 64, "dvs": 32}
"""Channels of a head, and of a group of the feed-forward networks' 3x3 convolutions, in the official configurations."""
RATES = ("firing_rate_x", "firing_rate_attn")
"""What an attention divides its sums by, seen in training: of s, and of A."""

MOMENTUM = 0.999
"""Of these, from batch to batch of the training."""


class Norm(nn.Module):
    """A batch normalisation of every time step, under the official name of its parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, C, Y, X), of the shape of x."""
        return over_steps(self.bn, x)


class StepConv(nn.Conv2d):
    """A convolution without bias of every time step, (T, B, C, Y, X) -> (T, B, D, Y', X')."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Currents of every step."""
        return super().forward(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))


class StepMaxPool(nn.MaxPool2d):
    """The 3x3 max-pooling of the stem, in every time step: to half the size."""

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, C, Y', X')."""
        return super().forward(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))


class DualSpikeAttention(nn.Module):
    """DSSA with its shortcut: x + BN(W_proj LIF(c2 y2 LIF(c1 y1^T LIF(x)))), head by head.

    in, out  currents (T, B, C, Y, X)
    patch    p: y1 and y2 have one position for each p x p of x
    patches  positions of y1 and y2 at the size of image that the model was made for

    c1 = 1 / sqrt(rate of s * d) and c2 = 1 / sqrt(rate of A * patches), of d channels a head; the rates are buffers
    (1, 1, heads, 1, 1), means over training.
    """

    def __init__(self, dim: int, heads: int, patch: int, patches: int) -> None:
        super().__init__()
        self.heads = heads
        self.patches = patches
        for name in RATES:
            self.register_buffer(name, torch.zeros(1, 1, heads, 1, 1))
        self.activation_in = LIF()
        self.W = StepConv(dim, 2 * dim, patch, patch)
        self.norm = Norm(2 * dim)
        self.activation_attn = LIF()
        self.activation_out = LIF()
        self.Wproj = StepConv(dim, dim, 1)
        self.norm_proj = Norm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        spikes = self.activation_in(x)
        depth = x.shape[2] // self.heads
        # (T, B, heads, channels, positions): of each head the first half of the channels is y1, the second y2
        y = self.norm(self.W(spikes)).flatten(3).unflatten(2, (self.heads, -1))
        s = spikes.flatten(3).unflatten(2, (self.heads, -1))
        scale = 1.0 / torch.sqrt(self._rate(RATES[0], s) * depth)
        scores = self.activation_attn((y[:, :, :, :depth].transpose(-1, -2) @ s) * scale)
        scale = 1.0 / torch.sqrt(self._rate(RATES[1], scores) * self.patches)
        out = self.activation_out(((y[:, :, :, depth:] @ scores) * scale).reshape(x.shape))
        return self.norm_proj(self.Wproj(out)) + x

    def _rate(self, name: str, spikes: Tensor) -> Tensor:
        """A firing rate (1, 1, heads, 1, 1): in training it follows that of `spikes` (T, B, heads, ...)."""
        rate: Tensor = self.get_buffer(name)
        if self.training:
            seen = spikes.detach().mean((0, 1, 3, 4), keepdim=True)
            rate.copy_(torch.where((rate == 0).all(), seen, rate * MOMENTUM + seen * (1 - MOMENTUM)))
            # what a later step of training changes is not what the gradient of this one needs
            rate = rate.clone()
        return rate


class GroupWiseMLP(nn.Module):
    """The feed-forward network (GWFFN) with its two shortcuts: u = BN(W1 LIF(x)), u + BN(W3x3 LIF(u)), and W2 back.

    in, out  currents (T, B, C, Y, X)
    group    channels of a group of the 3x3 convolution
    """

    def __init__(self, dim: int, ratio: int, group: int) -> None:
        super().__init__()
        hidden = ratio * dim
        self.up = nn.Sequential(LIF(), StepConv(dim, hidden, 1), Norm(hidden))
        middle = nn.Sequential(LIF(), StepConv(hidden, hidden, 3, padding=1, groups=hidden // group), Norm(hidden))
        self.conv = nn.ModuleList([middle])
        self.down = nn.Sequential(LIF(), StepConv(hidden, dim, 1), Norm(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        hidden = self.up(x)
        return self.down(self.conv[0](hidden) + hidden) + x


class Downsample(nn.Module):
    """BN(W3x3 LIF(x)) of stride 2: it makes the stream of a stage anew, (T, B, C, Y, X) -> (T, B, D, Y / 2, X / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = StepConv(inputs, outputs, 3, 2, 1)
        self.norm = Norm(outputs)
        self.activation = LIF()

    def forward(self, x: Tensor) -> Tensor:
        """Currents."""
        return self.norm(self.conv(self.activation(x)))


class SpikingResformer(nn.Module):
    """A stem without neurons, stages of 1, 2, 3, ... pairs of DSSA and GWFFN, and a head on the mean of the stream.

    in   images (B, C, Y, X), or frames (B, T, C, Y, X) of the form "dvs"
    out  logits (B, classes), the mean over the time steps
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.time_steps = config.time_steps
        self.per_step = config.per_step
        widths = config.widths
        side = config.image_size
        first = (7, 2, 3) if config.form == "imagenet" else (3, 1, 1)
        stem: list[nn.Module] = [StepConv(config.in_channels, widths[0], *first), Norm(widths[0])]
        if config.form == "imagenet":
            stem.append(StepMaxPool(3, 2, 1))
            side //= 4
        self.prologue = nn.Sequential(*stem)
        of_head = config.dim // config.heads
        self.layers = nn.Sequential()
        for stage, width in enumerate(widths):
            patch = 1 << (len(widths) - 1 - stage)
            layers: list[nn.Module] = [Downsample(widths[stage - 1], width)] if stage else []
            for _ in range(stage + 1):
                layers += [
                    DualSpikeAttention(width, width // of_head, patch, ((side >> stage) // patch) ** 2),
                    GroupWiseMLP(width, config.mlp_ratio, of_head),
                ]
            self.layers.append(nn.Sequential(*layers))
        self.classifier = nn.Linear(config.dim, config.num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.prologue(sequence(x, self.time_steps, self.per_step))
        return self.classifier(token_mean(self.layers(x))).mean(0)


def _build(config: ModelConfig) -> SpikingResformer:
    """The module of a configuration.  Raises InputError where its sizes do not go together."""
    of_head = config.dim // config.heads
    blocks = len(config.widths) * (len(config.widths) + 1) // 2
    if not config.widths or config.widths[-1] != config.dim or any(width % of_head for width in config.widths):
        problem = f"widths {config.widths} are no multiples of the {of_head} channels of a head, up to {config.dim}"
        raise InputError("--heads", problem, "Give the heads of the last stage.")
    if config.depth != blocks:
        problem = f"{config.depth} blocks, and {len(config.widths)} stages have {blocks}"
        raise InputError("depth", problem)
    of_patch = (4 if config.form == "imagenet" else 1) << len(config.widths) - 1
    if config.image_size % of_patch:
        problem = f"images of {config.image_size} pixels are no whole patches, which attention is scaled by"
        raise InputError("--image-size", problem, f"Give a multiple of {of_patch}.")
    module = SpikingResformer(config)
    if config.plif:
        learn_time_constants(module)
    return module


# --- checkpoints -------------------------------------------------------------------------------------------------


def _recognise(path: str, tensors: Tensors, arguments: Mapping[str, Any]) -> Recognised | None:
    """What an official state_dict tells; T and the size of the images are in none of its keys."""
    if ONLY_HERE not in tensors:
        return None
    _check_rates(tensors)
    widths = _widths(tensors)
    hidden = required(tensors, "layers.0.1.up.1.weight")
    last = f"layers.{len(widths) - 1}.{int(len(widths) > 1)}"
    stem = required(tensors, "prologue.0.weight")
    plif = "layers.0.0.activation_in.w" in tensors
    form = "imagenet" if stem.shape[-1] == 7 else "dvs" if plif else "cifar"
    fields = {
        "form": form,
        "plif": plif,
        "widths": widths,
        "dim": widths[-1],
        "depth": len(widths) * (len(widths) + 1) // 2,
        "heads": required(tensors, f"{last}.firing_rate_x").shape[2],
        "in_channels": input_channels(tensors, "prologue.0.weight"),
        "num_classes": required(tensors, "classifier.weight").shape[0],
        "mlp_ratio": hidden.shape[0] // hidden.shape[1],
    }
    return Recognised(fields, USUAL[form])


def _check_rates(tensors: Tensors) -> None:
    """Raise ModelError, naming the buffer, where a firing rate is none: the attention divides by its root."""
    for key, rates in tensors.items():
        # a tensor without values, of a model that is only described, has no rate to look at
        if key.rpartition(".")[2] not in RATES or rates.is_meta:
            continue
        if not bool((rates > 0).all() and (rates <= 1).all()):
            problem = f"a firing rate of {float(rates.min()):.4g}, and the attention divides by its square root"
            raise ModelError(key, problem, "Train the model, or run it in training mode: the rates are seen there.")


def _widths(tensors: Tensors) -> tuple[int, ...]:
    """Channels of each stage, from what projects its first attention."""
    stages = len({key.split(".")[1] for key in tensors if key.startswith("layers.")})
    names = [f"layers.{stage}.{int(stage > 0)}.Wproj.weight" for stage in range(stages)]
    return tuple(int(required(tensors, name).shape[0]) for name in names)


IMAGENET = ModelConfig("spiking-resformer", "imagenet", 6, 384, 6, 4, 3, 224, 1000, widths=(64, 192, 384))
USUAL = {
    "imagenet": IMAGENET,
    "cifar": replace(IMAGENET, form="cifar", image_size=32, num_classes=10),
    "dvs": ModelConfig("spiking-resformer", "dvs", 6, 192, 6, 16, 3, 64, 11, widths=(32, 96, 192), plif=True),
}
"""The smallest published size of each form."""

FAMILY = Family(
    title="SpikingResformer",
    forms=("imagenet", "cifar", "dvs"),
    published={
        "spiking-resformer-ti": IMAGENET,
        "spiking-resformer-s": replace(IMAGENET, dim=512, heads=8, widths=(64, 256, 512)),
        "spiking-resformer-m": replace(IMAGENET, dim=768, heads=12, widths=(64, 384, 768)),
        "spiking-resformer-l": replace(IMAGENET, dim=1024, heads=16, widths=(128, 512, 1024)),
        "spiking-resformer-cifar": USUAL["cifar"],
        "spiking-resformer-gesture": USUAL["dvs"],
    },
    build=_build,
    recognise=_recognise,
)
"""Sizes of the official configurations."""
