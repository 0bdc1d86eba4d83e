"""The leaky integrate-and-fire neuron over all time steps, as one operator that survives torch.export as one node."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikformer_deploy.nn.levels import Levels


@torch.library.custom_op("spikformer::lif", mutates_args=())
def lif(
    x: Tensor,
    tau: float,
    v_threshold: float,
    decay_input: bool,
    alpha: float,
    soft_reset: bool = False,
    strict: bool = False,
) -> Tensor:
    """Spikes of a LIF, for all T steps of `x`.

        h[t] = v[t-1] + (x[t] - v[t-1]) / tau      (decay_input; else v[t-1] * (1 - 1 / tau) + x[t])
        s[t] = h[t] >= v_threshold  (strict: h[t] > v_threshold)
        v[t] = (1 - s[t]) * h[t]  (soft_reset: h[t] - s[t] * v_threshold) ;  v[-1] = 0

    x            (T, ...) float, currents in the units of v_threshold
    tau          in time steps
    alpha        slope of the surrogate
    The result is (T, ...) of x's dtype, 0 or 1.  The gradient is that of backpropagation through time with the reset
    detached and the sigmoid surrogate of slope `alpha` for the comparison.
    Source: Zhou et al. 2023 (Spikformer), arXiv 2209.15425, eq. 1-3; settings of the official code.
    """
    # one operator, and not T times five: a trace then has one node, and training keeps only x and the spikes
    spikes = torch.empty_like(x)
    fire = torch.gt if strict else torch.ge
    h = _first_charge(x[0], tau, decay_input)
    for t in range(len(x)):
        if t:
            _reset(h, spikes[t - 1], v_threshold, soft_reset)
            h = _charge(h, x[t], tau, decay_input)
        fire(h, v_threshold, out=spikes[t])
    return spikes


def _first_charge(x: Tensor, tau: float, decay_input: bool) -> Tensor:
    """The charge from a resting neuron: one pass instead of three, and the same number."""
    return x / tau if decay_input else x.clone()


def _reset(h: Tensor, spikes: Tensor, v_threshold: float, soft_reset: bool) -> Tensor:
    """Reset the potentials that fired, in place."""
    return h.sub_(spikes, alpha=v_threshold) if soft_reset else h.masked_fill_(spikes.bool(), 0.0)


def _charge(v: Tensor, x: Tensor, tau: float, decay_input: bool) -> Tensor:
    """v + (x - v) / tau or v * (1 - 1 / tau) + x.

    In that order of rounding: spikes at the threshold depend on the last bit, and must be those of training.
    """
    return (x - v).div_(tau).add_(v) if decay_input else (v * (1.0 - 1.0 / tau)).add_(x)


@lif.register_fake
def _(
    x: Tensor,
    tau: float,
    v_threshold: float,
    decay_input: bool,
    alpha: float,
    soft_reset: bool = False,
    strict: bool = False,
) -> Tensor:
    """The shape and dtype of the result, for tracing."""
    return torch.empty_like(x)


@torch.library.custom_op("spikformer::lif_backward", mutates_args=())
def _lif_backward(
    grad: Tensor,
    x: Tensor,
    spikes: Tensor,
    tau: float,
    v_threshold: float,
    decay_input: bool,
    alpha: float,
    soft_reset: bool,
) -> Tensor:
    """Gradient of `lif` with respect to x: the potentials are computed again, which costs less than keeping them."""
    h = torch.empty_like(x)
    h[0] = _first_charge(x[0], tau, decay_input)
    for t in range(1, len(x)):
        h[t] = _charge(_reset(h[t - 1].clone(), spikes[t - 1], v_threshold, soft_reset), x[t], tau, decay_input)
    slope = h.sub_(v_threshold).mul_(alpha).sigmoid_()
    # everything below is linear in grad: alpha and the gain of the input are multiplied in once, at the end
    out = torch.ops.aten.sigmoid_backward(grad, slope)
    for t in reversed(range(len(x) - 1)):
        # what a potential did to the next one: a hard reset cuts it off
        carried = out[t + 1] * (1.0 - 1.0 / tau)
        out[t].add_(carried if soft_reset else carried.addcmul_(carried, spikes[t], value=-1.0))
    return out.mul_(alpha / tau if decay_input else alpha)


@_lif_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    spikes: Tensor,
    tau: float,
    v_threshold: float,
    decay_input: bool,
    alpha: float,
    soft_reset: bool,
) -> Tensor:
    """The shape and dtype of the gradient, for tracing."""
    return torch.empty_like(x)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    """Keep what `_backward` needs: the surrogate has no jump, so that `strict` makes no difference to it."""
    x, *ctx.settings, _strict = inputs
    ctx.save_for_backward(x, output)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    """A gradient for x, and none for the six settings."""
    x, spikes = ctx.saved_tensors
    return _lif_backward(grad, x, spikes, *ctx.settings), None, None, None, None, None, None


lif.register_autograd(_backward, setup_context=_setup_context)


class LIF(nn.Module):
    """A layer of LIF neurons without parameters: (T, ...) currents -> (T, ...) spikes.

    The defaults are those of the official codes.  Equations, units and source: see `lif`.
    """

    def __init__(
        self,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        decay_input: bool = True,
        alpha: float = 4.0,
        soft_reset: bool = False,
    ) -> None:
        super().__init__()
        self.tau = tau
        self.v_threshold = v_threshold
        self.decay_input = decay_input
        self.alpha = alpha
        self.soft_reset = soft_reset

    def forward(self, x: Tensor) -> Tensor:
        """Spikes (T, ...)."""
        return lif(x, self.tau, self.v_threshold, self.decay_input, self.alpha, self.soft_reset)

    def extra_repr(self) -> str:
        return f"tau={self.tau}, v_threshold={self.v_threshold}"


SPIKING: tuple[type[nn.Module], ...] = (LIF, Levels)
"""Modules whose spikes the compiler compares with those of the graph."""
