"""Draws of constants: reproducible, independent, with the value in the middle; shares that say what rules."""

import numpy as np
import pytest

from spikformer_deploy.chips import draws
from spikformer_deploy.chips.profile import load_profile, quantities
from spikformer_deploy.chips.quantity import Quantity

CONSTANT = Quantity(3.0, "ns", "guess", "test", (1.0, 11.0))


def test_the_value_is_the_median_and_the_ends_are_the_ends() -> None:
    assert CONSTANT.at(np.array([0.0, 0.25, 0.5, 0.75, 1.0])).tolist() == [1, 2, 3, 7, 11]
    drawn = draws.values("x", CONSTANT, draws.drawn)
    assert ((drawn >= 1) & (drawn <= 11)).all()
    # of 2,000 draws, a share of one half is off by 1.1 per cent in the mean
    assert abs((drawn < 3).mean() - 0.5) < 0.05
    sure = Quantity(3.0, "ns", "guess", "test")
    assert (draws.values("x", sure, draws.drawn) == 3).all()


def test_corners_of_rates_are_those_of_times() -> None:
    assert draws.corners("time.axon_in").tolist() == [0, 0.5, 1]
    assert draws.corners("time.link_rate").tolist() == [1, 0.5, 0]


def test_every_constant_has_draws_of_its_own() -> None:
    paths = [path for path, number in quantities(load_profile("loihi2")) if number.range]
    table = np.array([draws.drawn(path) for path in paths])
    assert np.array_equal(table[0], draws.drawn(paths[0]))
    off_diagonal = np.corrcoef(table)[~np.eye(len(paths), dtype=bool)]
    # 5 sigma of the correlation of independent draws
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(draws.COUNT)


def test_the_likely_interval_leaves_a_twentieth_out_at_each_end() -> None:
    assert draws.likely(np.arange(101.0)) == (5, 95)


def test_shares_say_what_rules() -> None:
    x, y, z = (draws.drawn(name) for name in "xyz")
    shares = draws.shares(2 * x + y, ["x", "y", "z"])
    assert list(shares) == ["x", "y"]
    # variances of 4 and 1: ranks are near enough to them
    assert shares["x"] == pytest.approx(0.8, abs=0.05)
    assert draws.shares(np.exp(9 * z), ["x", "y", "z"]) == {"z": 1.0}
    assert draws.shares(np.ones(draws.COUNT), ["x"]) == {}
