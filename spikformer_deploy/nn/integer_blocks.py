"""What the families of integer neurons share: neurons that send shares, the MLP, and the stages on a residual stream.

Keys are those of the official codes.  Neurons have none.
Source: Yao et al. 2025 (TPAMI), arXiv 2411.16061; Qiu et al. 2025 (ICLR), arXiv 2501.13492, and their codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn.family import ModelConfig
from spikformer_deploy.nn.layers import Stage, add_unit, conv_bn
from spikformer_deploy.nn.levels import Levels

Neuron: TypeAlias = Callable[[], nn.Module]
"""What makes a layer of neurons."""


class MultiSpike(nn.Module):
    """Integer neurons that send s / norm: (T, ...) currents -> (T, ...) multiples of 1 / norm.

    threshold, keep, half_even  see `levels`
    """

    def __init__(
        self, count: int, norm: int, *, threshold: float = 1.0, keep: float = 0.0, half_even: bool = True
    ) -> None:
        super().__init__()
        self.levels = Levels(count, threshold, keep, half_even)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        whole = self.levels(x)
        return whole if self.norm == 1 else whole / self.norm


class MLP(nn.Module):
    """BN(W2 s(BN(W1 s(x)))) over tokens, s neurons.

    in, out  currents (T, B, C, Y, X)
    conv     as nn.Conv1d
    """

    def __init__(self, dim: int, ratio: int, spike: Neuron, conv: Callable[..., nn.Conv1d] = nn.Conv1d) -> None:
        super().__init__()
        self.fc1_spike, self.fc2_spike = spike(), spike()
        add_unit(self, "fc1_{}", conv(dim, ratio * dim, 1))
        add_unit(self, "fc2_{}", conv(ratio * dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        hidden = conv_bn(self, "fc1_{}", self.fc1_spike(x.flatten(3)))
        return conv_bn(self, "fc2_{}", self.fc2_spike(hidden)).unflatten(3, x.shape[3:])


class DownSampling(nn.Module):
    """BN(conv(s(x))) with bias; the first one sees the image itself.

    in    currents (T, B, C, Y, X), or images
    out   currents (T, B, C', Y / stride, X / stride)
    conv  as nn.Conv2d
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stage: Stage,
        spike: nn.Module,
        conv: Callable[..., nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        add_unit(self, "encode_{}", conv(inputs, outputs, stage.kernel, stage.stride, stage.kernel // 2))
        self.encode_spike = spike

    def forward(self, x: Tensor) -> Tensor:
        """Currents (T, B, C', Y / stride, X / stride)."""
        return conv_bn(self, "encode_{}", self.encode_spike(x))


class Stages(nn.Module):
    """Stages of one residual stream: a convolution that shrinks the map, then blocks, in lists by their official names.

    in     (T, B, C, Y, X) images
    out    currents (T, B, C', Y / 16, X / 16)
    conv   of the shrinking layers, as nn.Conv2d
    block  (name of the list, channels) -> a block; a list has one convolutional block, or those with attention
    A fourth of the blocks with attention, rounded down, is in the last stage where two stages have some.
    """

    def __init__(
        self,
        config: ModelConfig,
        stages: Sequence[Stage],
        spike: Neuron,
        block: Callable[[str, int], nn.Module],
        conv: Callable[..., nn.Conv2d] = nn.Conv2d,
    ) -> None:
        super().__init__()
        self.stages = stages
        attended = sum(not name.startswith("ConvBlock") for stage in stages for name in stage.blocks)
        late = config.depth // 4 if attended > 1 else 0
        inputs = config.in_channels
        for stage, width in zip(stages, config.widths, strict=True):
            neurons = nn.Identity() if stage is stages[0] else spike()
            self.add_module(f"downsample{stage.name}", DownSampling(inputs, width, stage, neurons, conv))
            inputs = width
        for stage, width in zip(stages, config.widths, strict=True):
            for name in stage.blocks:
                count = 1 if name.startswith("ConvBlock") else late if name == "block4" else config.depth - late
                self.add_module(name, nn.ModuleList(block(name, width) for _ in range(count)))

    def streamed(self, x: Tensor) -> Tensor:
        """The stream behind the last block."""
        for stage in self.stages:
            x = self.get_submodule(f"downsample{stage.name}")(x)
            for name in stage.blocks:
                for block in getattr(self, name):
                    x = block(x)
        return x


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """Currents (T, B, C, Y, X) times a learnt scale (C,)."""
    return x * scale[:, None, None]


def check_heads(dim: int, heads: int) -> None:
    """Raise InputError where the channels of an attention do not divide into heads."""
    if dim % heads:
        raise InputError("--heads", f"{dim} channels do not divide into {heads} heads", "Choose a divisor.")
