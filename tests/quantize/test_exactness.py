"""Both kinds of LIF execute the real-valued recurrence without any error, and the proven ranges hold."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.quantize.bounds import membrane_range
from spikformer_deploy.quantize.network import STOCK_SHIFT, Lif, Population
from spikformer_deploy.reference.engine import step


def real_spikes(sums: list[int], theta: int, decay: Fraction) -> list[int]:
    """V = decay * V + a, fire at V >= theta, reset to 0, in exact rational arithmetic."""
    v, spikes = Fraction(0), []
    for a in sums:
        v = decay * v + a
        spikes.append(int(v >= theta))
        if spikes[-1]:
            v = Fraction(0)
    return spikes


def integer_spikes(neuron: Lif, sums: list[int]) -> tuple[list[int], list[int]]:
    population = Population("lif", (1, 1, 1), neuron, 1)
    state, spikes, peaks = None, [], []
    for a in sums:
        out, state, peak = step(population, np.full((1, 1, 1, 1), a), state, None)
        spikes.append(int(out[0, 0, 0, 0]))
        peaks.append(peak)
    return spikes, peaks


drives = st.lists(st.integers(-60, 60), min_size=1, max_size=8)


@settings(deadline=None, max_examples=300)
@given(drives, st.integers(1, 50), st.integers(0, 5))
def test_programmable_is_exact_for_tau_2(sums: list[int], theta: int, shift: int) -> None:
    neuron = Lif("programmable", 2048, shift, np.array([theta << shift]), np.array([0]))
    assert integer_spikes(neuron, sums)[0] == real_spikes(sums, theta, Fraction(1, 2))


@settings(deadline=None, max_examples=300)
@given(drives, st.integers(1, 50))
def test_stock_is_exact_with_t_minus_1_bits(sums: list[int], theta: int) -> None:
    shift = len(sums) - 1
    neuron = Lif("stock", 2048, shift, np.array([(theta << shift) - 1]), np.array([0]))
    assert integer_spikes(neuron, sums)[0] == real_spikes(sums, theta, Fraction(1, 2))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(-60, 60), min_size=1, max_size=4), st.integers(1, 50))
def test_other_decays_are_exact_with_enough_bits(sums: list[int], theta: int) -> None:
    """tau = 4: decay 3/4 needs 2 bits a step."""
    shift = 2 * (len(sums) - 1)
    neuron = Lif("programmable", 3072, shift, np.array([theta << shift]), np.array([0]))
    assert integer_spikes(neuron, sums)[0] == real_spikes(sums, theta, Fraction(3, 4))


def test_stock_without_the_bits_is_not_exact() -> None:
    """The control: the bits are needed, so the tests above can fail."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        sums = rng.integers(-20, 21, 4).tolist()
        neuron = Lif("stock", 2048, 0, np.array([9 - 1]), np.array([0]))
        wrong += integer_spikes(neuron, sums)[0] != real_spikes(sums, 9, Fraction(1, 2))
    assert wrong > 0


@settings(deadline=None, max_examples=300)
@given(drives, st.integers(1, 50), st.sampled_from(["programmable", "stock"]), st.sampled_from([0, 2048, 3072]))
def test_proven_range_holds(sums: list[int], theta: int, kind: str, decay: int) -> None:
    scale = STOCK_SHIFT if kind == "stock" else 0
    threshold = theta - 1 if kind == "stock" else theta
    neuron = Lif(kind, decay, 0, np.array([threshold]), np.array([0]))
    low, high = np.array([min(sums) << scale]), np.array([max(sums) << scale])
    lowest, highest = membrane_range(low, high, np.array([theta << scale]), decay, len(sums))
    _, peaks = integer_spikes(neuron, sums)
    assert max(peaks) <= max(abs(int(lowest[0])), abs(int(highest[0])))


@pytest.mark.parametrize("theta", [1, 7])
def test_proven_range_is_met_from_below(theta: int) -> None:
    """All steps at the lowest drive reach the lower bound: it is no looser than it must be."""
    neuron = Lif("programmable", 2048, 0, np.array([theta]), np.array([0]))
    lowest, _ = membrane_range(np.array([-40]), np.array([5]), np.array([theta]), 2048, 4)
    assert max(integer_spikes(neuron, [-40] * 4)[1]) == -lowest[0]


@settings(deadline=None, max_examples=200)
@given(
    drives,
    st.integers(1, 50),
    st.sampled_from([(Fraction(1, 2), 2048, 0), (Fraction(1), 4096, 0), (Fraction(3, 4), 3072, 2)]),
)
def test_a_soft_reset_is_exact(sums: list[int], theta: int, decay: tuple[Fraction, int, int]) -> None:
    """V = decay * V + a, fire at V >= theta, V - theta after a spike: the same spikes, and the proven range holds."""
    real, numerator, bits = decay
    shift = bits * (len(sums) - 1)
    v, expected = Fraction(0), []
    for a in sums:
        v = real * v + a
        expected.append(int(v >= theta))
        v -= theta * expected[-1]
    neuron = Lif("programmable", numerator, shift, np.array([theta << shift]), np.array([0]), soft=True)
    found, peaks = integer_spikes(neuron, sums)
    assert found == expected
    low, high = np.array([min(sums) << shift]), np.array([max(sums) << shift])
    lowest, highest = membrane_range(low, high, np.array([theta << shift]), numerator, len(sums), soft=True)
    assert max(peaks) <= max(abs(int(lowest[0])), abs(int(highest[0])))
