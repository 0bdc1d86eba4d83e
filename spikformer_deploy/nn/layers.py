"""What the families share: units of a convolution, a normalisation and neurons, two kinds of MLP, and one block.

The official code holds the three layers of a unit side by side in their module, and checkpoints have these names.  So a
unit is no module of its own here.  A pattern names it: "q_{}" is q_conv, q_bn and q_lif, "proj_{}1" is proj_conv1,
proj_bn1 and proj_lif1.

Shapes: T time steps, B images, C or D channels, Y and X rows and columns of a map, N = Y X tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.nn.levels import Levels
from spikformer_deploy.nn.lif import LIF

Synapses: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d

ATTENTION_NEURONS = "attn_lif"
"""What the neurons behind an attention are called, in its module."""


class InnerChannels(NamedTuple):
    """Channels of a stem that only the next convolution sees: patterns of its units' names, from the stem on.

    before, behind  the units that make them and read them; lif: that whose neurons send them
    """

    before: str
    behind: str
    lif: str


@runtime_checkable
class Stem(Protocol):
    """A convolutional stem whose layers may have widths of their own, but for those of residuals."""

    def inner_channels(self) -> Iterator[InnerChannels]:
        """In their order."""
        ...


def add_unit(module: nn.Module, unit: str, synapses: Synapses, lif: nn.Module | None = None) -> None:
    """Put a unit into `module`: `synapses`, a batch normalisation of their channels, and neurons if there are some.

    Weights are drawn at random here, so that those of a seed depend on the order of the calls.
    """
    channels = synapses.weight.shape[0]
    norm = nn.BatchNorm2d(channels) if isinstance(synapses, nn.Conv2d) else nn.BatchNorm1d(channels)
    kind = "linear" if isinstance(synapses, nn.Linear) else "conv"
    module.add_module(unit.format(kind), synapses)
    module.add_module(unit.format("bn"), norm)
    if lif is not None:
        module.add_module(unit.format("lif"), lif)


def conv_bn(module: nn.Module, unit: str, x: Tensor) -> Tensor:
    """BN(conv(x)) of a unit of `module`, time step by time step; x (T, B, C, ...)."""
    conv = module.get_submodule(unit.format("conv"))
    norm = module.get_submodule(unit.format("bn"))
    steps = x.shape[0]
    # time steps are images to layers without state, and batch statistics are those of all steps
    return norm(conv(x.flatten(0, 1))).unflatten(0, (steps, -1))


def fire(module: nn.Module, unit: str, x: Tensor) -> Tensor:
    """The spikes that the neurons of a unit make of currents; x (T, ...)."""
    return module.get_submodule(unit.format("lif"))(x)


def conv_bn_lif(module: nn.Module, unit: str, x: Tensor) -> Tensor:
    """LIF(BN(conv(x))) of a unit of `module`; x (T, B, C, ...)."""
    return fire(module, unit, conv_bn(module, unit, x))


def lif_conv_bn(module: nn.Module, unit: str, x: Tensor) -> Tensor:
    """BN(conv(LIF(x))) of a unit of `module`: the order of membrane shortcuts; x (T, B, C, ...)."""
    return conv_bn(module, unit, fire(module, unit, x))


def linear_bn_lif(module: nn.Module, unit: str, x: Tensor) -> Tensor:
    """LIF(BN(Linear(x))) of a unit of `module`; x (T, B, N, D)."""
    linear = module.get_submodule(unit.format("linear"))
    norm = module.get_submodule(unit.format("bn"))
    steps = x.shape[0]
    # BatchNorm1d takes channels before tokens, nn.Linear after them
    current = norm(linear(x.flatten(0, 1)).transpose(-1, -2)).transpose(-1, -2)
    return fire(module, unit, current.unflatten(0, (steps, -1)))


def send_integers(model: nn.Module, count: int) -> None:
    """Make an integer neuron that sends 0..count of every LIF of `model`; a `count` of 0 leaves them as they are.

    A level is the count-th part of the current with which a LIF fires from rest.  An attention's sums are taken of
    messages that stand for s / count, and three of these are multiplied.
    """
    if not count:
        return
    for module in list(model.modules()):
        for name, lif in list(module.named_children()):
            if isinstance(lif, LIF):
                factors = 3 if name == ATTENTION_NEURONS else 0
                from_rest = lif.v_threshold * (lif.tau if lif.decay_input else 1.0)
                setattr(module, name, Levels(count, from_rest / count * count**factors))


def over_steps(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer without state on each time step of x (T, B, ...)."""
    steps = x.shape[0]
    return layer(x.flatten(0, 1)).unflatten(0, (steps, -1))


class MLP(nn.Module):
    """LIF(BN(W2 LIF(BN(W1 x)))), D -> hidden -> D channels: spikes, or sums of them, in, and spikes out.

    in, out  (T, B, D, Y, X) or (T, B, D, N)
    units    the names of the two layers; tokens: the weights are of Conv1d, and see a map as a row of tokens
    tau      of the neurons, in time steps
    hidden   channels; 0: ratio D
    Source: Zhou et al. 2023 (Spikformer), arXiv 2209.15425, section 3.1, and its code.
    """

    def __init__(
        self,
        dim: int,
        ratio: int,
        *,
        units: tuple[str, str] = ("fc1_{}", "fc2_{}"),
        tokens: bool = False,
        tau: float = 2.0,
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.first = units[0]
        self.second = units[1]
        self.tokens = tokens
        conv = nn.Conv1d if tokens else nn.Conv2d
        hidden = hidden or ratio * dim
        add_unit(self, self.first, conv(dim, hidden, 1), LIF(tau))
        add_unit(self, self.second, conv(hidden, dim, 1), LIF(tau))

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of the shape of x."""
        hidden = conv_bn_lif(self, self.first, x)
        return conv_bn_lif(self, self.second, hidden)


class MembraneMLP(MLP):
    """BN(W2 LIF(BN(W1 LIF(x)))): currents of a residual stream in, and currents out; else as MLP.

    Source: Zhou et al. 2023 (Spikingformer), arXiv 2304.11954, and its code.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        hidden = lif_conv_bn(self, self.first, x.flatten(3) if self.tokens else x)
        current = lif_conv_bn(self, self.second, hidden)
        return current.unflatten(3, x.shape[3:]) if self.tokens else current


class ShortcutMLP(MembraneMLP):
    """A MembraneMLP with its shortcut: x + BN(W2 LIF(BN(W1 LIF(x)))).

    in, out  currents (T, B, D, Y, X)
    With a ratio of 1 the hidden layer has a shortcut too, as in the official code.
    """

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__(dim, ratio)
        self.hidden_shortcut = ratio == 1

    def forward(self, x: Tensor) -> Tensor:
        """Currents of the shape of x."""
        hidden = lif_conv_bn(self, self.first, x)
        if self.hidden_shortcut:
            x = hidden = x + hidden
        return lif_conv_bn(self, self.second, hidden) + x


class Block(nn.Module):
    """x + attention(x), then x + MLP(x): sums of spikes or of currents, with no neurons behind the sums.

    in, out  of the shape that attention and MLP take and keep
    name     of the attention in the official state_dict
    norms    channels of norm1 and norm2: LayerNorms that some checkpoints hold and no forward pass uses; 0: none
    Source: Zhou et al. 2023 (Spikformer), arXiv 2209.15425, section 3.1.
    """

    def __init__(self, attention: nn.Module, mlp: nn.Module, *, name: str = "attn", norms: int = 0) -> None:
        super().__init__()
        self.name = name
        if norms:
            self.norm1 = nn.LayerNorm(norms)
            self.norm2 = nn.LayerNorm(norms)
        self.add_module(name, attention)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        x = x + self.get_submodule(self.name)(x)
        return x + self.mlp(x)


def repeated(x: Tensor, time_steps: int) -> Tensor:
    """The image (B, C, Y, X) in each of T steps: (T, B, C, Y, X)."""
    return x.unsqueeze(0).repeat(time_steps, 1, 1, 1, 1)


def sequence(x: Tensor, time_steps: int, per_step: bool) -> Tensor:
    """(T, B, C, Y, X) of images (B, C, Y, X), or of frames (B, T, C, Y, X) where there is one for each step."""
    return x.transpose(0, 1) if per_step else repeated(x, time_steps)


def pooled_stages(pooling: str) -> tuple[bool, ...]:
    """Whether each of the four stages of a stem is followed by pooling, of "0011": the last two.

    Raises InputError for what does not say it.
    """
    if not re.fullmatch("[01]{4}", pooling):
        problem = f"'{pooling}' does not say for each of the four stages whether it is pooled"
        raise InputError("pooling", problem, 'Write four digits, 1: pooled ("0011").')
    return tuple(digit == "1" for digit in pooling)


def token_mean(x: Tensor) -> Tensor:
    """The mean over all positions: (T, B, D) of (T, B, D, Y, X) or (T, B, D, N)."""
    return x.flatten(3).mean(3)


class Stage(NamedTuple):
    """A convolution that shrinks the map, and the lists of blocks behind it, by their official names."""

    name: str
    kernel: int
    stride: int
    blocks: tuple[str, ...]


STAGES = (
    Stage("1_1", 7, 2, ("ConvBlock1_1",)),
    Stage("1_2", 3, 2, ("ConvBlock1_2",)),
    Stage("2", 3, 2, ("ConvBlock2_1", "ConvBlock2_2")),
    Stage("3", 3, 2, ("block3",)),
    Stage("4", 3, 1, ("block4",)),
)
"""Of Spike-driven Transformer V2 and its successors."""
