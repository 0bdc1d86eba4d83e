"""Weights that stand on a grid come out unchanged; others get the threshold of the least error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import thinned

from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.graph import ir
from spikformer_deploy.network.neurons import Lif
from spikformer_deploy.quantization.currents import ConvTerm, Current
from spikformer_deploy.quantization.fitting import Quantized
from spikformer_deploy.quantization.grids import grid_steps, whole_thresholds
from spikformer_deploy.quantization.lif import make_lif
from spikformer_deploy.quantization.scales import largest_thresholds, least_error_thresholds
from spikformer_deploy.quantization.settings import Settings


def quantized(weight: np.ndarray, bits: int, steps: int = 4, op: ir.Lif | None = None, bias: float = 0.0) -> Quantized:
    channels = len(weight)
    term = ConvTerm("conv", "in", weight, (1, 1), (0, 0), 1, 1)
    current = Current((term,), np.full(channels, bias), (channels, 1, 1))
    wide = float(np.abs(weight).sum()) * steps
    limits = load_profile("loihi2").limits
    return make_lif(
        "lif", op or ir.Lif(), current, lambda _: (-wide, wide), steps, limits, Settings(bits, "group", "programmable")
    )


GRIDS = {
    "ternary": lambda rng: rng.integers(-1, 2, (12, 6, 3, 3)),
    "4 bits": lambda rng: rng.integers(-7, 8, (12, 6, 3, 3)),
    "8 bits": lambda rng: rng.integers(-127, 128, (12, 6, 3, 3)),
    "powers of two": lambda rng: rng.choice([-8, -4, -2, -1, 0, 1, 2, 4, 8], (12, 6, 3, 3)),
}
"""Integers of layers of 12 channels: more than a core's parameter sets."""


@pytest.mark.parametrize("grid", thinned(GRIDS, 4))
@pytest.mark.parametrize("by_channel", [False, True])
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 3.0))
def test_integers_times_a_step_come_out_unchanged(grid: str, by_channel: bool, seed: int, step: float) -> None:
    """A learnt step size is any number, one for all or one a channel, and weights went through fp32."""
    rng = np.random.default_rng(seed)
    whole = GRIDS[grid](rng)
    whole.reshape(12, -1)[:, 0] = np.abs(whole).max()
    whole.reshape(12, -1)[:, 1] = 1
    steps = step * (rng.uniform(0.2, 1.0, 12) if by_channel else np.ones(12))
    weight = (whole * steps[:, None, None, None]).astype(np.float32).astype(np.float64)
    lif = quantized(weight, 8)
    (projection,) = lif.projections
    np.testing.assert_array_equal(projection.synapse.weight, whole)
    assert lif.population.rounding == 0
    neuron = lif.population.neuron
    assert isinstance(neuron, Lif)
    assert neuron.exact
    # the threshold in units of the step; not whole, so that it stands between two potentials of T - 1 = 3 bits
    np.testing.assert_allclose(neuron.threshold / 2.0**neuron.shift, 2 / steps, rtol=1e-6, atol=2.0**-3)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.8), st.booleans(), st.booleans(), st.booleans())
def test_spikes_on_a_grid_are_those_of_real_numbers(
    seed: int, step: float, strict: bool, decay_input: bool, soft: bool
) -> None:
    """Any step: integers against float64, whose rounding of sums of 4 steps is far below the distance to a tie."""
    rng = np.random.default_rng(seed)
    steps = 4
    whole = rng.integers(-7, 8, (5, 6))
    whole[:, 0] = 7
    whole[:, 1] = 1
    weight = whole * step
    op = ir.Lif(2.0, 1.0, decay_input, False, strict)
    lif = quantized(weight[:, :, None, None], 4, steps, op)
    (projection,) = lif.projections
    neuron = lif.population.neuron
    assert isinstance(neuron, Lif)
    frames = rng.integers(0, 2, (20, steps, 6))
    a = frames @ projection.synapse.weight[:, :, 0, 0].T.astype(np.int64) << neuron.shift
    v = np.zeros((20, 5))
    u = np.zeros((20, 5), np.int64)
    half = 0.5 if decay_input else 1.0
    for t in range(steps):
        v = v / 2 + half * (frames[:, t] @ weight.T)
        u = (u * 2048 + neuron.round_up >> 12) + a[:, t]
        near = np.abs(v - 1) < 1e-9
        spikes = v > 1 if strict else v >= 1
        fires = u >= neuron.fires_from
        np.testing.assert_array_equal(fires[~near], spikes[~near])
        v = np.where(fires, 0, v)
        u = np.where(fires, 0, u)


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_weights_off_any_grid_are_not_taken_for_one(seed: int, bits: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(4, 30))
    assert grid_steps(weights, 2 ** (bits - 1) - 1) is None


def test_a_finer_grid_than_the_bits_hold_is_none() -> None:
    assert grid_steps(np.array([[15.0, 1.0]]), 7) is None
    np.testing.assert_allclose(grid_steps(np.array([[15.0, 1.0], [0.0, 0.0]]), 15), 1.0)
    assert grid_steps(np.zeros((3, 4)), 7) is None


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 7, 127]))
def test_the_least_error_of_all_thresholds_is_found(seed: int, largest: int) -> None:
    """No threshold of the upper half makes a smaller error of the currents than the one that is chosen."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(3, 20))
    gain = 0.05
    groups = np.zeros(3, np.int64)
    most = largest_thresholds(np.abs(weights).max(1), groups, gain, largest, 2**20)
    chosen = least_error_thresholds(weights, most, groups, gain)
    top = int(most[0])

    def error(theta: int) -> float:
        off = np.rint(weights * gain * theta) / theta - weights * gain
        return float((off**2).sum() + (off.sum(1) ** 2).sum())

    if top:
        candidates = range(max(top // 2, top - 128, 0) + 1, top + 1)
        assert error(int(chosen[0])) <= min(map(error, candidates)) * (1 + 1e-9)
        assert len(set(chosen.tolist())) == 1


@pytest.mark.parametrize(("strict", "expected"), [(False, [16, 21, 20]), (True, [16, 20, 20])])
def test_thresholds_between_numbers_go_to_the_side_that_decides(strict: bool, expected: list[int]) -> None:
    real = np.array([16.0 * (1 + 2**-24), 20.3, 20.0])
    assert whole_thresholds(real, 0, strict).tolist() == expected
