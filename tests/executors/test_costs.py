"""Costs of kernels: measured once, kept in the user's cache; whatever is wrong with it, a run goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.networks import random_images, random_network

from spikformer_deploy.executors.execution import Request
from spikformer_deploy.executors.fast import costs, engine, measure, synapses
from spikformer_deploy.executors.fast.costs import Costs
from spikformer_deploy.network.synapses import Conv

SOME = Costs(0.005, 0.006, 0.02, 50.0, 12.0, 0.7, 0.017)
CONV = Conv(np.ones((64, 64, 3, 3), np.int8), (1, 1), (1, 1))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    costs.kept.cache_clear()
    yield
    costs.kept.cache_clear()


def test_kept_costs_come_back() -> None:
    assert costs.kept() is None
    file = costs.keep(SOME)
    assert file is not None
    assert file.parent.name == "spikformer_deploy"
    assert costs.kept() == SOME
    assert synapses.current() == SOME
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"machine": {}}', "[" * 9999, "\xff\xfe", "NOT_FINITE", "HUGE", "OTHER", "NEGATIVE"],
)
def test_a_broken_file_is_as_good_as_none(content: str) -> None:
    file = costs.keep(SOME)
    good = json.loads(file.read_text())
    match content:
        case "NOT_FINITE":
            good["costs"]["int8"] = float("nan")
            content = json.dumps(good)
        case "HUGE":
            good["costs"]["int8"] = 10**400
            content = json.dumps(good)
        case "NEGATIVE":
            good["costs"]["row"] = -1
            content = json.dumps(good)
        case "OTHER":
            good["machine"]["processor"] = "another"
            content = json.dumps(good)
    file.write_text(content, encoding="latin-1")
    costs.kept.cache_clear()
    assert costs.kept() is None
    assert costs.keep(SOME) == file
    assert costs.kept() == SOME


def test_a_place_that_takes_no_file_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file, where a folder would have to be")
    assert costs.keep(SOME) is None
    assert costs.kept() is None
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert costs.costs_file() is None
    assert costs.keep(SOME) is None
    monkeypatch.setenv("XDG_CACHE_HOME", f"/{'a' * 999}")
    assert costs.keep(SOME) is None
    assert costs.kept() is None


def test_a_user_without_a_home_may_name_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert costs.costs_file().parents[1] == tmp_path / "cache"
    assert costs.keep(SOME) == costs.costs_file()


def test_measured_costs_are_some() -> None:
    found = measure.measure()
    assert all(np.isfinite(cost) and cost >= 0 for cost in found)
    assert all(cost > 0 for cost in found[:3])
    # an event costs more than nothing, whatever part of it does
    assert found.row + found.weight > 0


def test_costs_choose_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIKDEPLOY_KERNELS", raising=False)
    monkeypatch.setattr(synapses, "int8_limit", lambda: 128)
    monkeypatch.setattr(synapses, "pairs_work", lambda: True)
    for cheapest in ("int8", "pairs", "fp32"):
        costs.keep(SOME._replace(**{cheapest: 0.001}))
        layer = synapses.convolution(CONV, (64, 8, 8), 1, 2**20)
        assert layer.kinds[0] == cheapest
    costs.keep(SOME._replace(row=1e9))
    assert synapses.convolution(CONV, (64, 8, 8), 1, 2**20).events_below < 1e-6
    costs.keep(SOME._replace(row=0.0, weight=0.0))
    assert synapses.convolution(CONV, (64, 8, 8), 1, 2**20).events_below == np.inf


def test_a_long_run_measures_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(measure, "measure", lambda: measured.append(1) or SOME)
    network = random_network(0, 2)
    images = random_images(network, 0)
    short = engine.prepare(Request(network))
    right = short.execute(images).accumulators
    assert not measured
    monkeypatch.setattr(engine, "LONG_RUN", 1e-9)
    for _ in range(2):
        long = engine.prepare(Request(network))
        for _ in range(3):
            np.testing.assert_array_equal(long.execute(images).accumulators, right)
    assert measured == [1]
    assert costs.kept() == SOME
