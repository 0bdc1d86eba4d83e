"""Neurons that send small integers, over all time steps, as one operator that survives torch.export as one node."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.library.custom_op("spikformer::levels", mutates_args=())
def levels(x: Tensor, count: int, threshold: float, keep: float, half_even: bool) -> Tensor:
    """What integer neurons send, for all T steps of `x`.

        u[t] = keep * v[t-1] + x[t]
        s[t] = round(clamp(u[t] / threshold, 0, count))   ties to the even neighbour; half_even False: upwards
        v[t] = u[t] - s[t] * threshold ;  v[-1] = 0

    x      (T, ...) float, currents in the units of the threshold
    count  D, the largest integer that is sent
    keep   share of the potential that a time step leaves; 0: the neuron has no state
    The result is (T, ...) of x's dtype, whole numbers 0..count.  The gradient is 1 / threshold where 0 <= u / threshold
    <= count, else 0, through time with the reset detached.
    Source: Luo et al. 2024 (SpikeYOLO, I-LIF), arXiv 2407.20708; Yao et al. 2025 (Spike-driven Transformer V3).
    """
    sent = torch.empty_like(x)
    u = x[0]
    for t in range(len(x)):
        if t:
            u = keep * (u - sent[t - 1] * threshold) + x[t] if keep else x[t]
        sent[t] = _whole(u, count, threshold, half_even)
    return sent


def _whole(u: Tensor, count: int, threshold: float, half_even: bool) -> Tensor:
    clamped = (u / threshold).clamp_(0, count)
    return clamped.round_() if half_even else clamped.add_(0.5).floor_()


@levels.register_fake
def _(x: Tensor, count: int, threshold: float, keep: float, half_even: bool) -> Tensor:
    """The shape and dtype of the result, for tracing."""
    return torch.empty_like(x)


@torch.library.custom_op("spikformer::levels_backward", mutates_args=())
def _levels_backward(grad: Tensor, x: Tensor, sent: Tensor, count: int, threshold: float, keep: float) -> Tensor:
    """Gradient of `levels` with respect to x: the potentials are computed again, which costs less than keeping them."""
    within = torch.empty_like(x)
    u = x[0]
    for t in range(len(x)):
        if t:
            u = keep * (u - sent[t - 1] * threshold) + x[t] if keep else x[t]
        scaled = u / threshold
        within[t] = (scaled >= 0) & (scaled <= count)
    out = grad * within / threshold
    for t in reversed(range(len(x) - 1 if keep else 0)):
        # the reset is detached: the next potential sees this one, times what is kept of it
        out[t] += keep * out[t + 1]
    return out


@_levels_backward.register_fake
def _(grad: Tensor, x: Tensor, sent: Tensor, count: int, threshold: float, keep: float) -> Tensor:
    """The shape and dtype of the gradient, for tracing."""
    return torch.empty_like(x)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    """Keep what `_backward` needs: ties have no part in the gradient."""
    x, *ctx.settings, _half_even = inputs
    ctx.save_for_backward(x, output)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    """A gradient for x, and none for the four settings."""
    x, sent = ctx.saved_tensors
    return _levels_backward(grad, x, sent, *ctx.settings), None, None, None, None


levels.register_autograd(_backward, setup_context=_setup_context)


class Levels(nn.Module):
    """A layer of integer neurons without parameters: (T, ...) currents -> (T, ...) whole numbers 0..count.

    Models that send s / count, or another share, divide what this gives.  Equations and sources: see `levels`.
    """

    def __init__(self, count: int = 4, threshold: float = 1.0, keep: float = 0.0, half_even: bool = True) -> None:
        super().__init__()
        self.count = int(count)
        self.threshold = threshold
        self.keep = keep
        self.half_even = half_even

    def forward(self, x: Tensor) -> Tensor:
        """Whole numbers (T, ...)."""
        return levels(x, self.count, self.threshold, self.keep, self.half_even)

    def extra_repr(self) -> str:
        return f"count={self.count}, threshold={self.threshold}, keep={self.keep}, half_even={self.half_even}"
