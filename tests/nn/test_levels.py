"""The operator of integer neurons against its definition, in value and in gradient, and models made of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import some
from support.models import SMALL, model_and_images
from torch import library

from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.nn.layers import ATTENTION_NEURONS
from spikformer_deploy.nn.levels import Levels, levels
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.zoo import build, named
from spikformer_deploy.pipeline.stages import compile_model

STEP = 1e-6


def plain_levels(x: torch.Tensor, count: int, threshold: float, keep: float, half_even: bool) -> torch.Tensor:
    """The definition, step by step; autograd's gradient is that of the clamp, with the reset detached."""
    v = torch.zeros_like(x[0])
    out = []
    for step in x:
        u = keep * v + step
        clamped = (u / threshold).clamp(0, count)
        whole = clamped.round() if half_even else (clamped + 0.5).floor()
        out.append(clamped + (whole - clamped).detach())
        v = u - whole.detach() * threshold
    return torch.stack(out)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.integers(1, 8),
    st.sampled_from([0.25, 0.5, 1.0, 16.0]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.booleans(),
)
def test_value_and_gradient_equal_the_definition(
    seed: int, steps: int, count: int, threshold: float, keep: float, half_even: bool
) -> None:
    """Currents are eighths of the threshold: half of them lie on a tie or at an end of the clamp."""
    generator = torch.Generator().manual_seed(seed)
    eighths = torch.randint(-16, 8 * count + 16, (steps, 3, 5), generator=generator)
    x = eighths.double() * threshold / 8
    weight = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    ours = x.clone().requires_grad_()
    theirs = x.clone().requires_grad_()
    sent = levels(ours, count, threshold, keep, half_even)
    expected = plain_levels(theirs, count, threshold, keep, half_even)
    assert torch.equal(sent, expected.round())
    (sent * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 4, 8])
@pytest.mark.parametrize("threshold", [0.5, 16.0])
def test_the_surrogate_is_the_slope_of_the_clamp(count: int, threshold: float) -> None:
    """Finite differences of what is rounded, below, inside and above the clamp."""
    shares = torch.tensor([-3.0, -0.3, 0.2, 0.5 * count, count - 0.2, count + 0.3, 3.0 * count], dtype=torch.float64)
    x = (shares * threshold)[None].requires_grad_()
    levels(x, count, threshold, 0.0, True).sum().backward()
    above, below = (((x.detach() + step) / threshold).clamp(0, count) for step in (STEP, -STEP))
    torch.testing.assert_close(x.grad, (above - below) / (2 * STEP), rtol=1e-6, atol=1e-9)
    assert torch.equal(x.grad * threshold, torch.tensor([[0, 0, 1, 1, 1, 0, 0]], dtype=torch.float64))


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_operator_is_well_formed(keep: float) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    results = library.opcheck(levels, (x, 4, 0.5, keep, True))
    assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.parametrize("name", ["v1-2-384", "v2-8-384"])
def test_every_neuron_of_a_spikformer_sends_integers(name: str) -> None:
    """Where a LIF at rest fires is the top of the levels; of an attention, of the products of three shares s / D."""
    with torch.device("meta"):
        binary, integer = build(named(name)), build(named(name, levels=4, time_steps=1))
    assert [(k, v.shape) for k, v in binary.state_dict().items()] == [
        (k, v.shape) for k, v in integer.state_dict().items()
    ]
    of_lifs = {n: m for n, m in binary.named_modules() if isinstance(m, LIF)}
    of_integers = {n: m for n, m in integer.named_modules() if isinstance(m, Levels)}
    assert of_lifs.keys() == of_integers.keys()
    assert not any(isinstance(m, LIF) for m in integer.modules())
    for place, neuron in of_integers.items():
        attention = place.endswith(ATTENTION_NEURONS)
        assert (neuron.count, neuron.threshold, neuron.keep) == (4, 16.0 if attention else 0.5, 0.0)


def test_a_unit_current_uses_all_levels() -> None:
    """What a fresh batch normalisation gives: every integer is sent by one neuron in forty, at the least."""
    torch.manual_seed(0)
    sent = Levels(4, 0.5)(torch.randn(1, 100_000))
    assert torch.bincount(sent.long().ravel(), minlength=5).min() > 2_500


@pytest.mark.parametrize("form", some(["v2"], long=[form for form in SMALL if form != "v2"]))
def test_integer_spikformers_run_as_their_reference_does(form: str) -> None:
    """Pools, sums and attentions of integers, on images and on frames: each spike, and the logits."""
    config = replace(SMALL[form], levels=4, time_steps=2 if form == "dvs" else 1)
    channels, size = config.in_channels, config.image_size
    preprocess = Preprocess(channels, size, (0.5,) * channels, (0.25,) * channels)
    module, _ = model_and_images(config)
    loaded = Loaded(module, config, preprocess, (), "0" * 64, {}, ())
    network = compile_model(loaded, "hala_point", check=False).program.network
    fired = [p.name for p in network if p.neuron.fires]
    frames = (config.time_steps,) if config.per_step else ()
    pixels = np.random.default_rng(0).integers(0, 256, (2, *frames, channels, size, size)).astype(np.uint8)
    ours, right = (e.execute(network, pixels, record=fired) for e in (engine, reference))
    np.testing.assert_array_equal(ours.accumulators, right.accumulators)
    for name in fired:
        np.testing.assert_array_equal(ours.spikes[name], right.spikes[name], err_msg=name)
    assert max(int(right.spikes[name].max()) for name in fired) == 4
    assert sum(len(np.unique(right.spikes[name])) > 2 for name in fired) > len(fired) / 2
