"""Calibrated rounding: never worse than nearest on what it was calibrated on, and exact integers all the same."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from spikformer_deploy.converters.checkpoints.read import load
from spikformer_deploy.graph.ir import Conv2d, Linear
from spikformer_deploy.inference.run import run
from spikformer_deploy.inference.verify import verify
from spikformer_deploy.network.neurons import Lif
from spikformer_deploy.network.synapses import Conv, Readout
from spikformer_deploy.pipeline.stages import Compiled, compile_model, float_graph
from spikformer_deploy.quantization.rounding import MOST_IMAGES, ROWS_PER_INPUT, Moments, _inputs, images_for_rounding


def correlated(rng: np.random.Generator, inputs: int) -> np.ndarray:
    """Spikes that fire together, some never."""
    hidden = rng.random((200, 3)) < 0.4
    rows = (hidden @ (rng.random((3, inputs)) < 0.5)) > rng.integers(0, 2)
    return (rows * (rng.random(inputs) < 0.9)).astype(np.float64)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([1, 3, 7, 127]))
def test_currents_are_never_worse_than_with_nearest_rounding(seed: int, channels: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    spikes = correlated(rng, channels * 9)
    real = rng.normal(0, largest / 3, (4, channels, 3, 3))
    moments = Moments({("conv", "lif"): (spikes.T @ spikes,)})
    rounded = moments.round("conv", "lif", real, largest)
    assert rounded.shape == real.shape
    assert np.abs(rounded).max() <= largest
    nearest = np.clip(np.rint(real), -largest, largest)
    ours, theirs = (np.square((w - real).reshape(4, -1) @ spikes.T).sum(1) for w in (rounded, nearest))
    assert (ours <= theirs * (1 + 1e-9) + 1e-9).all()
    assert np.array_equal(moments.round("other", "lif", real, largest), nearest)


def test_inputs_that_fire_together_share_their_errors() -> None:
    """Two inputs that always fire together with weights of 0.4: nearest makes 0 of both, their sum is 0.8."""
    both = np.ones((10, 2))
    moments = Moments({("conv", "lif"): (both.T @ both,)})
    assert moments.round("conv", "lif", np.full((1, 2, 1, 1), 0.4), 7).sum() == 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 7]))
def test_thresholds_grow_by_groups_and_only_where_it_helps(seed: int, largest: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (6, 5, 1, 1))
    spikes = correlated(rng, 5)
    thresholds = np.repeat(
        np.maximum(1, np.floor((largest + 0.4) / np.abs(weight).max())) * np.array([1, 2]), 3
    ).astype(np.int64)
    moments = Moments({("conv", "lif"): (spikes.T @ spikes,)})
    grown = moments.stretched("conv", "lif", weight, thresholds, 1.0, largest)
    assert (grown >= thresholds).all()
    assert all(len(np.unique(grown[thresholds == value])) == 1 for value in thresholds)
    power = np.square(spikes).sum(0)

    def error(chosen: np.ndarray) -> float:
        rows = weight.reshape(6, 5)
        kept = np.clip(np.rint(rows * chosen[:, None]), -largest, largest) / chosen[:, None]
        return float(np.square(kept - rows).sum(0) @ power)

    assert error(grown) <= error(thresholds) * (1 + 1e-9)


def test_what_reaches_a_layer_is_what_its_convolution_multiplies() -> None:
    value = torch.randn(3, 2, 5, 6)
    conv = Conv2d(np.zeros((4, 2, 3, 3)), np.zeros(4), (2, 1), (1, 0))
    rows = _inputs(value, conv, 50, torch.Generator().manual_seed(0))
    columns = F.unfold(F.pad(value, (0, 0, 1, 1)), 3, stride=(2, 1)).transpose(1, 2).flatten(0, 1)
    assert rows.shape == (50, 18)
    assert all((columns == row).all(1).any() for row in rows)
    tokens = _inputs(value, Linear(np.zeros((4, 2)), np.zeros(4)), 20, torch.Generator().manual_seed(0))
    assert all((value.permute(0, 2, 3, 1).flatten(0, 2) == row).all(1).any() for row in tokens)


@cache
def compiled(bits: int, rounding: str) -> Compiled:
    return compile_model("digits-v1", weight_bits=bits, rounding=rounding, check=False)


def test_a_layer_is_shown_more_positions_than_it_has_inputs() -> None:
    """Where maps are small, a handful of images has fewer positions than a layer has inputs."""
    graph = float_graph(load("digits-v1"))
    images = images_for_rounding(graph)
    assert 1 < images <= MOST_IMAGES
    for node in graph.of(Conv2d, Linear):
        assert isinstance(node.op, Conv2d | Linear)
        positions = images * graph.time_steps * node.shape[1] * node.shape[2]
        assert positions > (ROWS_PER_INPUT - 1) * node.op.weight[0].size or images == MOST_IMAGES


@pytest.mark.long
def test_four_bits_are_as_good_as_the_float_model() -> None:
    """Through the compiled program, on the held-out digits: the goal is one point."""
    accuracy = run(compiled(4, "calibrated").program, "digits", timing="none").accuracy
    assert accuracy is not None
    assert accuracy >= load("digits-v1").training["test_accuracy"] - 0.01


@pytest.mark.long
def test_two_bits_stay_two_and_exact() -> None:
    program = compiled(2, "calibrated").program
    weights = [p.synapse.weight for p in program.network.projections if isinstance(p.synapse, Conv | Readout)]
    assert {int(w) for weight in weights for w in np.unique(weight)} == {-1, 0, 1}
    assert all(p.neuron.exact for p in program.network if isinstance(p.neuron, Lif))
    assert verify(program, "digits", limit=2).passed


@pytest.mark.long
def test_the_program_says_how_it_was_rounded() -> None:
    assert compiled(4, "calibrated").program.provenance["settings"]["rounding"] == "calibrated"
