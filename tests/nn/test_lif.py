"""The LIF operator against its definition, in value and in gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import library

from spikformer_deploy.nn.lif import LIF, lif

ALPHA = 4.0


class Heaviside(torch.autograd.Function):
    """The comparison with the sigmoid surrogate, for the plain twin."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        slope = torch.sigmoid(ALPHA * u)
        return grad * ALPHA * slope * (1 - slope)


def plain_lif(x: torch.Tensor, tau: float, v_threshold: float, decay_input: bool) -> torch.Tensor:
    """The definition, step by step, with autograd's gradient."""
    v = torch.zeros_like(x[0])
    out = []
    for step in x:
        h = v + (step - v) / tau if decay_input else v * (1.0 - 1.0 / tau) + step
        s = Heaviside.apply(h - v_threshold)
        v = h * (1 - s.detach())
        out.append(s)
    return torch.stack(out)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([1.5, 2.0, 4.0]), st.booleans())
def test_value_and_gradient_equal_the_definition(seed: int, steps: int, tau: float, decay_input: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, 3, 5, dtype=torch.float64, generator=generator) * 2
    weight = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    ours = x.clone().requires_grad_()
    theirs = x.clone().requires_grad_()
    spikes = lif(ours, tau, 0.7, decay_input, ALPHA)
    expected = plain_lif(theirs, tau, 0.7, decay_input)
    assert torch.equal(spikes, expected)
    (spikes * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_operator_is_well_formed() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    results = library.opcheck(lif, (x, 2.0, 1.0, True, ALPHA))
    assert set(results.values()) == {"SUCCESS"}, results


def test_fires_at_the_threshold_and_resets() -> None:
    out = LIF()(torch.tensor([[2.0], [1.0], [2.0]]))
    assert out.ravel().tolist() == [1.0, 0.0, 1.0]


def test_equals_spikingjelly() -> None:
    neuron = pytest.importorskip(
        "spikingjelly.activation_based.neuron", reason="spikingjelly is not installed: not compared"
    )
    x = torch.from_numpy(np.random.default_rng(0).normal(0.5, 1, (4, 7, 9))).float()
    theirs = neuron.LIFNode(tau=2.0, decay_input=True, v_threshold=1.0, v_reset=0.0, detach_reset=True, step_mode="m")
    assert torch.equal(LIF()(x), theirs(x))
