"""Both kinds of LIF execute the real-valued recurrence without any error, and the proven ranges hold."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.graph import ir
from spikformer_deploy.network.bounds import membrane_range
from spikformer_deploy.network.network import Population
from spikformer_deploy.network.neurons import STOCK_SHIFT, Lif, step
from spikformer_deploy.quantization.currents import ConvTerm, Current
from spikformer_deploy.quantization.lif import make_lif
from spikformer_deploy.quantization.settings import Settings


def real_spikes(sums: list[int], theta: int, decay: Fraction) -> list[int]:
    """V = decay * V + a, fire at V >= theta, reset to 0, in exact rational arithmetic."""
    v = Fraction(0)
    spikes = []
    for a in sums:
        v = decay * v + a
        spikes.append(int(v >= theta))
        if spikes[-1]:
            v = Fraction(0)
    return spikes


def integer_spikes(neuron: Lif, sums: list[int]) -> tuple[list[int], list[int]]:
    population = Population("lif", (1, 1, 1), neuron, 1)
    state = None
    spikes = []
    peaks = []
    for a in sums:
        out, state, peak = step(population.neuron, np.full((1, 1, 1, 1), a), state, None)
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
    low = np.array([min(sums) << scale])
    high = np.array([max(sums) << scale])
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
    v = Fraction(0)
    expected = []
    for a in sums:
        v = real * v + a
        expected.append(int(v >= theta))
        v -= theta * expected[-1]
    neuron = Lif("programmable", numerator, shift, np.array([theta << shift]), np.array([0]), soft=True)
    found, peaks = integer_spikes(neuron, sums)
    assert found == expected
    low = np.array([min(sums) << shift])
    high = np.array([max(sums) << shift])
    lowest, highest = membrane_range(low, high, np.array([theta << shift]), numerator, len(sums), soft=True)
    assert max(peaks) <= max(abs(int(lowest[0])), abs(int(highest[0])))


# --- strict thresholds, biases, and the LIFs that the compiler makes --------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(
    drives,
    st.integers(1, 50),
    st.sampled_from([(Fraction(1, 2), 2048), (Fraction(1), 4096), (Fraction(0), 0)]),
    st.booleans(),
)
def test_strict_neurons_are_exact(sums: list[int], theta: int, decay: tuple[Fraction, int], soft: bool) -> None:
    """Fire at V > theta, rounding up: no bits are needed, potentials at the threshold stay, the proven range holds."""
    v = Fraction(0)
    expected = []
    for a in sums:
        v = decay[0] * v + a
        expected.append(int(v > theta))
        if expected[-1]:
            v = v - theta if soft else Fraction(0)
    neuron = Lif("programmable", decay[1], 0, np.array([theta]), np.array([0]), soft=soft, strict=True)
    found, peaks = integer_spikes(neuron, sums)
    assert found == expected
    low = np.array([min(sums)])
    high = np.array([max(sums)])
    lowest, highest = membrane_range(low, high, np.array([theta]), decay[1], len(sums), soft, strict=True)
    assert max(peaks) <= max(abs(int(lowest[0])), abs(int(highest[0])))


def test_rounding_down_would_miss_strict_spikes() -> None:
    """The control: floor(V) > theta misses potentials less than one above the threshold."""
    sums = [3, 3]
    theta = 4
    strict = Lif("programmable", 2048, 0, np.array([theta]), np.array([0]), strict=True)
    floored = Lif("programmable", 2048, 0, np.array([theta + 1]), np.array([0]))
    assert integer_spikes(strict, sums)[0] == [0, 1]
    assert integer_spikes(floored, sums)[0] == [0, 0]


eighths = st.integers(-24, 24).map(lambda n: n / 8)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(eighths, min_size=3, max_size=3), min_size=2, max_size=2),
    st.lists(st.one_of(eighths, st.floats(-1.5, 1.5)), min_size=2, max_size=2),
    st.sampled_from(["loihi1", "loihi2 stock", "loihi2"]),
    st.sampled_from([(2.0, True), (2.0, False), (float("inf"), False), (4.0, True), (1.0, False)]),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 2**16),
)
def test_a_lif_that_says_exact_is(
    weights: list[list[float]],
    biases: list[float],
    target: str,
    leak: tuple[float, bool],
    strict: bool,
    time_steps: int,
    seed: int,
) -> None:
    """The integers of make_lif, stock or not, strict or not, with biases, against rational numbers."""
    limits = load_profile(target.split()[0]).limits
    kind = "programmable" if target == "loihi2" else "stock"
    real = np.array(weights)[:, :, None, None]
    term = ConvTerm("conv", "in", real, (1, 1), (0, 0), 1, 1)
    current = Current((term,), np.array(biases), (2, 1, 1))
    op = ir.Lif(leak[0], 1.0, leak[1], strict=strict)
    largest = np.abs(real).sum() + np.abs(biases).sum()
    options = Settings(8, "group", kind, None)
    quantized = make_lif("lif", op, current, lambda _: (-largest * 4, largest * 4), time_steps, limits, options)
    (projection,) = quantized.projections
    lif = quantized.population.neuron
    assert isinstance(lif, Lif)
    # biases of fp32 are only equal to what was given within fp32: ties are for eighths
    on_grid = quantized.population.rounding == 0 and all(float(b * 8).is_integer() for b in biases)
    frames = np.random.default_rng(seed).integers(0, 2, (time_steps, 3))
    sums = frames @ projection.synapse.weight[:, :, 0, 0].T.astype(np.int64)
    if not lif.exact:
        return
    decay = 1 - Fraction(1) / Fraction(leak[0]) if np.isfinite(leak[0]) else Fraction(1)
    one = 2**lif.shift
    for channel in range(2):
        theta = Fraction(int(lif.threshold[channel]) + (kind == "stock" and not strict), one)
        bias = Fraction(int(lif.bias[channel]), one)
        expected = rational(sums[:, channel].tolist(), bias, theta, decay, strict)
        assert integer_spikes(only(lif, channel), sums[:, channel].tolist())[0] == expected
        if on_grid:
            gain = Fraction(1, 2) if leak == (2.0, True) else Fraction(1, 4) if leak == (4.0, True) else Fraction(1)
            exact = [
                sum((Fraction(w) * int(x) for w, x in zip(weights[channel], f, strict=True)), Fraction(0))
                for f in frames
            ]
            drive = [(x + Fraction(biases[channel])) * gain for x in exact]
            assert integer_spikes(only(lif, channel), sums[:, channel].tolist())[0] == rational(
                drive, Fraction(0), Fraction(1), decay, strict
            )


def only(lif: Lif, channel: int) -> Lif:
    return replace(lif, threshold=lif.threshold[[channel]], bias=lif.bias[[channel]])


def rational(sums: list, bias: Fraction, theta: Fraction, decay: Fraction, strict: bool) -> list[int]:
    v = Fraction(0)
    spikes = []
    for a in sums:
        v = decay * v + a + bias
        spikes.append(int(v > theta if strict else v >= theta))
        v = Fraction(0) if spikes[-1] else v
    return spikes
