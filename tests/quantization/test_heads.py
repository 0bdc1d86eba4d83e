"""The integer head: logits are those of the float head, and what is rounded is said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.quantization.currents import Current, ReadoutTerm
from spikformer_deploy.quantization.heads import make_accumulator
from spikformer_deploy.quantization.settings import Settings

LIMITS = load_profile("loihi2").limits


def head(weight: np.ndarray, bias: np.ndarray, time_steps: int, bits: int = 8) -> tuple[np.ndarray, np.ndarray, float]:
    """(integer weights, integer bias, scale) times scale, as real numbers, and the rounding that is stated."""
    current = Current((ReadoutTerm("head", "in", weight, 4, 1),), bias, (len(bias), 1, 1))
    quantized = make_accumulator("output", current, lambda _: 1, time_steps, LIMITS, Settings(bits))
    (projection,) = quantized.projections
    neuron = quantized.population.neuron
    assert isinstance(neuron, Accumulator)
    scale = neuron.scale[:, None] * time_steps
    return projection.synapse.weight * scale, neuron.bias * neuron.scale, quantized.population.rounding


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 3), st.integers(0, 4), st.lists(st.integers(-40, 40), min_size=3, max_size=3), st.integers(1, 5),
    st.sampled_from([2, 4, 8]),
)  # fmt: skip
def test_biases_between_the_steps_of_weights(
    largest: int, fraction: int, biases: list[int], time_steps: int, bits: int
) -> None:
    """Weights on a grid stay as they are; a bias is exact where bits are left for it, and else its rounding is said."""
    rng = np.random.default_rng(largest)
    weight = rng.integers(-largest, largest + 1, (3, 5)) / 2
    weight[0, 0] = largest / 2
    bias = np.array(biases) / 2 / 2**fraction
    found, offset, rounding = head(weight, bias, time_steps, bits)
    exact = np.array_equal(found, weight) and np.allclose(offset, bias, rtol=1e-12, atol=0)
    assert exact == (rounding == 0)
    if largest * 2**fraction < 2 ** (bits - 1):
        assert exact


@pytest.mark.parametrize("bias", [0.1875, 0.01])
def test_small_biases_are_not_lost(bias: float) -> None:
    """Ternary weights of a half: a step of a half would round a bias of less than a quarter away."""
    weight = np.array([[0.5, 0, -0.5], [0, 0.5, 0.5]])
    _, offset, _ = head(weight, np.array([bias, -bias]), 1)
    np.testing.assert_allclose(offset, [bias, -bias], rtol=0.25)
