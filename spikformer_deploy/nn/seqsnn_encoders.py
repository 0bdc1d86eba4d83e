"""Encoders of time series: what makes spikes of real values, with other weights in each time step.

Official modules have a weight a step.  Frames have channels a step (base/series.py), so that one layer with the weights
of all steps side by side does the same; its weights follow from the official ones, and are made when those are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikformer_deploy.nn.lif import LIF

MARK = 4.0
"""Current of a mark: twice what a resting neuron of threshold 1 needs, so that rounding takes no spike."""


class _Encoder(nn.Module):
    """An encoder whose layer on frames is made of its parameters: `made` says how, by the names of buffers."""

    weight: Tensor
    bias: Tensor

    def follow(self) -> None:
        """Make the layer of the parameters as they are, and again each time that others are loaded."""
        self._make()
        self.register_load_state_dict_post_hook(lambda module, _keys: module._make())

    @torch.no_grad()
    def _make(self) -> None:
        # of "repeat" nothing is learnt: its layer has the type that it was given
        kind = next(self.parameters(), getattr(self, "weight", torch.empty(0))).dtype
        for name, value in self.made().items():
            self.register_buffer(name, value.to(kind).contiguous(), persistent=False)

    def made(self) -> Mapping[str, Tensor]:
        """The weights of the layer on frames, and what else it needs, in doubles."""
        raise NotImplementedError


class ConvEncoder(_Encoder):
    """A convolution of three points along time, one kernel a step, BN over the steps, LIF.

    Parameters as the official code has them: `encoder` is Conv2d(1, T, (1, 3)) and BatchNorm2d(T).
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, steps, (1, 3), padding=(0, 1)), nn.BatchNorm2d(steps))
        self.lif = LIF()

    def kernels(self) -> tuple[Tensor, Tensor]:
        """(T, 3) the kernel of each step and (T,) its constant, the normalisation folded in, in doubles."""
        conv: Any = self.encoder[0]
        gain, shift = _affine(self.encoder[1])
        return conv.weight.double()[:, 0, 0] * gain[:, None], conv.bias.double() * gain + shift


class ConvOfPoints(ConvEncoder):
    """The encoder of Spikformer: frames (T, B, 3 T V [+ marks], 1, L) -> spikes (T, B, V [+ marks], 1, L).

    positions  what becomes of marks: "add" makes sums of two spikes
    outputs    V, and the marks that are further channels
    """

    marks: Tensor

    def __init__(self, steps: int, variables: int, positions: str, outputs: int) -> None:
        super().__init__(steps)
        self.variables = variables
        self.positions = positions
        self.outputs = outputs
        if positions == "add":
            self.mark_lif = LIF()
        self.follow()

    def made(self) -> Mapping[str, Tensor]:
        """Weight (outputs, 3 T [+ 1], 1, 3) of as many groups, bias (outputs,); marks: as weight, of "add".

        The bias is the mean of the steps' constants: what is the same in all steps is the neurons' own, and rounded
        more finely than what a weight adds.
        """
        kernel, constant = self.kernels()
        mean = constant.mean()
        center = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
        rows = [kernel, -kernel, (constant - mean)[:, None] * center]
        if self.positions:
            rows.append(torch.zeros(1, 3, dtype=torch.float64))
        weight = torch.cat(rows)[:, None].repeat(self.outputs, 1, 1, 1)
        bias = mean.repeat(self.outputs)
        if self.positions == "concat":
            weight[self.variables :] = 0.0
            weight[self.variables :, -1] = MARK * center
            bias[self.variables :] = 0.0
        if self.positions != "add":
            return {"weight": weight, "bias": bias}
        marks = torch.zeros(self.outputs, weight.shape[1], 1, 1, dtype=torch.float64)
        marks[:, -1] = MARK
        return {"weight": weight, "bias": bias, "marks": marks}

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, outputs, 1, L), or sums of two."""
        frames = x.flatten(0, 1)
        current = F.conv2d(frames, self.weight, self.bias, padding=(0, 1), groups=self.outputs)
        spikes = self.lif(current.unflatten(0, x.shape[:2]))
        if self.positions != "add":
            return spikes
        marked = F.conv2d(frames, self.marks, groups=self.outputs)
        return spikes + self.mark_lif(marked.unflatten(0, x.shape[:2]))


class ConvOfVariables(ConvEncoder):
    """The encoder "conv" of iSpikformer: frames (T, B, T (2 L + 1), 1, V) -> spikes (T, B, L, 1, V)."""

    def __init__(self, steps: int, points: int) -> None:
        super().__init__(steps)
        self.points = points
        self.follow()

    def made(self) -> Mapping[str, Tensor]:
        """Matrices of the kernels, zeros beyond both ends of the window (see _side_by_side)."""
        kernels, constant = self.kernels()
        bands = [torch.diag_embed(kernels[:, k, None].repeat(1, self.points), k - 1) for k in range(3)]
        size = self.points
        # the two outer diagonals are of matrices that are one larger
        matrices = bands[1] + bands[0][:, :size, :size] + bands[2][:, :size, :size]
        return _side_by_side(matrices, constant)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, L, 1, V)."""
        return self.lif(_points_of(x, self.weight, self.bias))


class Delta(_Encoder):
    """The encoder "delta" of iSpikformer: frames (T, B, T (2 L + 3), 1, V) -> spikes (T, B, L, 1, V).

        current of step t = w[t] * BN(x[l] - x[l - 1]) + b[t], the difference of the first point being zero

    Parameters as the official code has them: `norm` is BatchNorm2d(1), `enc` Linear(1, T).
    """

    def __init__(self, steps: int, points: int) -> None:
        super().__init__()
        self.points = points
        self.norm = nn.BatchNorm2d(1)
        self.enc = nn.Linear(1, steps)
        self.lif = LIF()
        self.follow()

    def made(self) -> Mapping[str, Tensor]:
        """Matrices of differences of L + 1 points, the first one twice (see _side_by_side)."""
        gain, shift = _affine(self.norm)
        weight = self.enc.weight.double()[:, 0]
        one = torch.eye(self.points + 1, dtype=torch.float64)
        difference = one[1:] - one[:-1]
        return _side_by_side((weight * gain)[:, None, None] * difference, weight * shift + self.enc.bias.double())

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, L, 1, V)."""
        return self.lif(_points_of(x, self.weight, self.bias))


class Repeat(_Encoder):
    """The encoder "repeat" of iSpikformer: the values in each step, (T, B, 2 L, 1, V) -> spikes (T, B, L, 1, V)."""

    def __init__(self, points: int) -> None:
        super().__init__()
        self.points = points
        self.lif = LIF()
        self.follow()

    def made(self) -> Mapping[str, Tensor]:
        """Weight (L, 2, 1, 1) of L groups: the positive part of a value, less its negative part."""
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
        return {"weight": signs[None, :, None, None].repeat(self.points, 1, 1, 1)}

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, B, L, 1, V)."""
        current = F.conv2d(x.flatten(0, 1), self.weight, groups=self.points)
        return self.lif(current.unflatten(0, x.shape[:2]))


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """(gain, shift) of a batch normalisation in evaluation, in doubles."""
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return gain, norm.bias.double() - norm.running_mean.double() * gain


def _side_by_side(matrices: Tensor, constant: Tensor) -> Mapping[str, Tensor]:
    """Weight (L, T (2 P + 1), 1, 1) and bias (L,) of the layer that does in step t what matrix and constant t say.

    matrices (T, L, P); constant (T,), the mean of which is the bias
    """
    steps, points, _ = matrices.shape
    mean = constant.mean()
    column = (constant - mean)[:, None, None].expand(steps, points, 1)
    of_steps = torch.cat([matrices, -matrices, column], 2)
    weight = of_steps.transpose(0, 1).flatten(1)
    return {"weight": weight[:, :, None, None], "bias": mean.repeat(points)}


def _points_of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(T, B, L, 1, V) of frames (T, B, C, 1, V)."""
    return F.conv2d(x.flatten(0, 1), weight, bias).unflatten(0, x.shape[:2])
