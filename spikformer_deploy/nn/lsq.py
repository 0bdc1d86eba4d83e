"""Layers whose weights are integers times a learnt step (LSQ), with the keys of the official code.

    w = alpha * round(clamp(weight / alpha, -8, 7))     a step alpha for each output channel, of either sign

Source: Esser et al. 2020 (ICLR), arXiv 1902.08153; Qiu et al. 2025 (QSD-Transformer), arXiv 2501.13492, and its code.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOWEST = -8
HIGHEST = 7
"""Integers of 4 bits."""


class UnreadSteps(nn.Module):
    """Steps of activations, (C_in,), which the official layers hold and no forward pass reads."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(inputs))
        self.zero_point = nn.Parameter(torch.zeros(inputs))
        self.register_buffer("init_state", torch.zeros(1))
        self.register_buffer("signed", torch.zeros(1))


class Conv2dLSQ(nn.Conv2d):
    """nn.Conv2d whose weights are 4-bit integers times `alpha` (C_out,)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _add_steps(self, self.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d."""
        return F.conv2d(x, _weights(self), self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv1dLSQ(nn.Conv1d):
    """nn.Conv1d whose weights are 4-bit integers times `alpha` (C_out,)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _add_steps(self, self.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv1d."""
        return F.conv1d(x, _weights(self), self.bias, self.stride, self.padding, self.dilation, self.groups)


class LinearLSQ(nn.Linear):
    """nn.Linear whose weights are 4-bit integers times `alpha` (C_out,)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _add_steps(self, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear."""
        return F.linear(x, _weights(self), self.bias)


def _add_steps(layer: nn.Conv2d | nn.Conv1d | nn.Linear, inputs: int) -> None:
    """Steps as training begins with them, 2 mean |w| / sqrt(7), and the mark that they are set."""
    step = 2 * layer.weight.detach().abs().mean() / HIGHEST**0.5
    layer.alpha = nn.Parameter(step.repeat(len(layer.weight)))
    layer.register_buffer("init_state", torch.ones(1))
    layer.act = UnreadSteps(inputs)


def _weights(layer: nn.Conv2d | nn.Conv1d | nn.Linear) -> Tensor:
    """Integers times steps, of the shape of the weights."""
    alpha = layer.alpha
    assert isinstance(alpha, Tensor)
    step = alpha.reshape(-1, *(1,) * (layer.weight.ndim - 1))
    whole = (layer.weight / step).clamp(LOWEST, HIGHEST)
    # the gradient passes the rounding as if it were none
    return (whole + (whole.round() - whole).detach() if layer.training else whole.round()) * step
