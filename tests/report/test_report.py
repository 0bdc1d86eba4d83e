"""The report: whole, offline, escaped, and equal to what was counted."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.networks import random_images, random_network

from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.run import run
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.report.data import report_data
from spikformer_deploy.report.html import render
from spikformer_deploy.report.svg import bars, si
from spikformer_deploy.report.write import write_report

VOID = {"meta", "rect", "line", "path", "br", "hr", "img", "input", "link"}
HOSTILE = '<script>alert("x")</script>&'


class Balance(HTMLParser):
    """Counts open tags; fails on a close tag that closes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def run_of(network: Network, target: str = "loihi2") -> Run:
    profile = load_profile(target)
    channels, height, _ = network.input.shape
    program = Program(
        network,
        map_network(network, profile, {}),
        profile,
        Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels),
        (),
        {"model_sha256": HOSTILE},
    )
    from spikformer_deploy.data.images import ImageSet

    images = random_images(network, 0, 3)
    return run(program, ImageSet(3, np.array([0, 1, 0]), (), "", lambda part: images[part]))


@pytest.fixture(scope="module")
def result() -> Run:
    return run_of(random_network(4, blocks=2))


def test_the_page_is_whole_and_offline(result: Run, tmp_path: Path) -> None:
    write_report(result, tmp_path / "report.html", 0.99)
    page = (tmp_path / "report.html").read_text()
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert not re.search(r"(src|href)\s*=|@import|url\(", page)
    assert "estimate, not measured" in page
    assert "float model 99.0%" in page
    for population in result.program.network:
        assert population.name in page
    assert len(page) < 2_000_000


def test_names_are_escaped(result: Run) -> None:
    page = render(report_data(result))
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert HOSTILE not in bars([(HOSTILE, 1.0, 2.0, 3.0, HOSTILE)], HOSTILE)


def test_json_holds_the_counted_totals(result: Run) -> None:
    data = json.loads(json.dumps(report_data(result), allow_nan=False))
    events = result.events
    assert sum(layer["synaptic_ops"] for layer in data["layers"]) == pytest.approx(events.synops)
    assert sum(layer["dense_macs"] for layer in data["layers"]) == events.dense_macs
    assert sum(step["synaptic_ops"] for step in data["steps"]) == pytest.approx(events.synops)
    assert [e["nominal"] for e in data["energies"]] == [e.total.nominal for e in result.energies]
    for energy in data["energies"]:
        assert sum(part["nominal"] for part in energy["parts"]) == pytest.approx(energy["nominal"])
        assert sum(energy["shares"].values()) == pytest.approx(1.0)
    assert len(data["cores"]["used"]) == result.program.mapping.cores_used
    assert sum(data["cores"]["sections"].values()) == int(result.program.mapping.words.sum())
    assert data["accuracy"]["integer"] == result.accuracy


def test_several_chips(tmp_path: Path) -> None:
    """A board of many chips draws every one of them, without a time estimate too."""
    found = run_of(random_network(4, blocks=2), "hala_point")
    spread = replace(found.program.mapping, cores=found.program.mapping.cores * 500)
    moved = replace(found, program=replace(found.program, mapping=spread), times=None)
    assert render(report_data(moved)).count('class="chip"') > 100
    write_report(replace(found, times=None), tmp_path / "r.html")
    assert "latency" not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.0123"), (999, "999"), (12_345, "12.3 k"), (3e9, "3 G")]
)
def test_prefixes(value: float, text: str) -> None:
    assert si(value) == text
