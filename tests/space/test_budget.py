"""Budgets and fronts: small rows, whose answers can be seen."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.space.axes import space_of
from spikformer_deploy.space.budget import Limit, Verdict, best, parse_budget, verdicts
from spikformer_deploy.space.criteria import CRITERIA
from spikformer_deploy.space.fronts import COSTS, front


def row(accuracy: float | None, energy: float, cores: int = 1, spread: float = 1.5) -> dict[str, Any]:
    figures = {"nominal": energy, "likely_low": energy / spread, "likely_high": energy * spread}
    us = energy * 1e3
    time = {
        "latency_us": us,
        "latency_us_likely": [us / spread, us * spread],
        "images_per_second": 1e6 / us,
        "images_per_second_likely": [1e6 / us / spread, 1e6 / us * spread],
    }
    made = {"accuracy": accuracy, "energy_mj": {"profile": figures}, "time": time, "cores": cores, "chips": 1}
    return made | {"memory_words": 10 * cores}


def test_conditions_are_read() -> None:
    assert parse_budget("energy<1mJ, accuracy>0.98") == (Limit("energy", "<", 1.0), Limit("accuracy", ">", 0.98))
    # every tenth of a percent is the share of images that it says
    for tenths in range(1001):
        assert parse_budget(f"accuracy>={tenths / 10}%")[0].value == tenths / 1000
    assert parse_budget(" latency <= 2.5 ms") == (Limit("latency", "<=", 2500.0),)
    assert parse_budget("accuracy>=98%,cores<120,memory<1e6words") == (
        Limit("accuracy", ">=", 0.98),
        Limit("cores", "<", 120.0),
        Limit("memory", "<", 1e6),
    )
    assert parse_budget("energy<500uJ, energy<3e-3J") == (Limit("energy", "<", 0.5), Limit("energy", "<", 3.0))
    assert parse_budget("accuracy >= best - 1%") == (Limit("accuracy", ">=", 0.01, below_best=True),)
    assert parse_budget("accuracy>best-0.5%") == parse_budget("accuracy>best-0.005")
    assert parse_budget("") == ()


@given(st.integers(1, 3000), st.integers(0, 3000), st.integers(0, 1000), st.booleans())
def test_points_below_the_best_are_exact(images: int, right: int, thousandths: int, equal: bool) -> None:
    top, other = images, min(right, images)
    (limit,) = parse_budget(f"accuracy{'>=' if equal else '>'}best-{thousandths / 10}%")
    found = verdicts([row(top / images, 1.0), row(other / images, 1.0), {"refused": "why"}], [limit])[1]
    missed, allowed = 1000 * (top - other), thousandths * images
    assert (found is Verdict.YES) == (missed <= allowed if equal else missed < allowed)


def test_below_the_best_where_no_accuracy_is_known() -> None:
    assert verdicts([row(None, 1.0), {"refused": "why"}], parse_budget("accuracy>=best-1%")) == [Verdict.NO] * 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("energi<1mJ", "'energi' is no figure of a point; did you mean energy?"),
        ("latency_us < 500", "'latency_us' is no figure of a point; did you mean latency?"),
        ("accuracy>81", "at most 1, or 100%, and 'accuracy>81' says more"),
        ("accuracy>101%", "at most 1"),
        ("energy<1", "there is no unit beside energy"),
        ("energy<1 s", "'s' is no unit of energy"),
        ("energy=1mJ", "is no condition"),
        ("energy<mJ", "is no condition"),
        ("energy<best-1mJ", "only accuracy is compared with the best of all points"),
        ("accuracy>best", "is no condition"),
        ("accuracy>best+1%", "is no condition"),
        ("accuracy>=best-101%", "at most 1"),
        ("energy<1mJ,", "'' is no condition"),
        ("energy<-1mJ", "is no condition"),
        ("accuracy>nan", "is no condition"),
        ("energy<1e999mJ", "too large"),
        ("energy<1mJ accuracy>1", "is no condition"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=re.escape(problem)) as error:
        parse_budget(text)
    assert error.value.place == "--budget"


@pytest.mark.parametrize(
    ("given", "problem"),
    [({"weight_bits": (9,)}, "'weight_bits' must be <= 8: 9"), ({"heads": "many"}, "heads: 'many' is no whole number")],
)
def test_options_have_no_path_of_a_file(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as error:
        space_of(models=("a",), input="b", **given)
    assert error.value.problem.startswith(problem)
    assert "$" not in error.value.problem


def test_verdicts_know_intervals() -> None:
    rows = [row(0.9, 0.5), row(0.9, 0.8), row(0.9, 1.2), row(0.5, 0.1), row(None, 0.1), {"refused": "too large"}]
    budget = parse_budget("energy<1mJ, accuracy>80%")
    yes, nominal, no = Verdict.YES, Verdict.NOMINAL, Verdict.NO
    assert verdicts(rows, budget) == [yes, nominal, no, no, no, no]
    assert verdicts(rows, ()) == [yes] * 5 + [no]


def test_the_best_are_named() -> None:
    rows = [row(0.9, 2.0, 5), row(0.9, 1.0, 7), row(0.95, 3.0, 5), {"refused": "why"}, row(0.99, 9.0, 1)]
    assert best(rows, parse_budget("energy<5mJ")) == {
        "accuracy": 2,
        "energy": 1,
        "latency": 1,
        "throughput": 1,
        "cores": 0,
        "chips": 1,
        "memory": 0,
    }
    assert best(rows, parse_budget("energy<1nJ")) == {}
    assert "accuracy" not in best([row(None, 1.0)], ())


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 4)), max_size=12))
def test_nothing_beats_a_front(drawn: list[tuple[int, int, int]]) -> None:
    rows = [row(a / 5, float(e), c) for a, e, c in drawn]
    for cost in COSTS:
        found = front(rows, cost)
        price = CRITERIA[cost].of

        def beats(one: dict[str, Any], other: dict[str, Any], price: Any = price) -> bool:
            better = one["accuracy"] > other["accuracy"] or price(one) < price(other)
            return one["accuracy"] >= other["accuracy"] and price(one) <= price(other) and better

        for number, other in enumerate(rows):
            assert (number in found) == (not any(beats(one, other) for one in rows))
        ways = [(price(rows[n]), rows[n]["accuracy"]) for n in found]
        assert ways == sorted(ways)


def test_rows_without_accuracy_are_on_no_front() -> None:
    rows = [row(None, 1.0), {"refused": "why"}, row(0.5, 2.0)]
    for cost, _ in product(COSTS, range(1)):
        assert front(rows, cost) == [2]
