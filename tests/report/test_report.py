"""The report: whole, offline, escaped, and equal to what was counted."""

import contextlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.table import Table
from support.networks import graded_network, random_network
from support.runs import HOSTILE, run_of

from spikformer_deploy.accounting.energy import Energy
from spikformer_deploy.accounting.figures import interval
from spikformer_deploy.accounting.target import BOARD, CHIPS, LEFT_OUT, NEURO_CORES
from spikformer_deploy.chips.profile import RUNTIMES
from spikformer_deploy.cli.printing import print_tables
from spikformer_deploy.inference.results import Run
from spikformer_deploy.report.data import report_data
from spikformer_deploy.report.html import render
from spikformer_deploy.report.svg import Bar, bars, si
from spikformer_deploy.report.tables import run_tables
from spikformer_deploy.report.targets import target_tables
from spikformer_deploy.report.write import write_report

VOID = {"meta", "rect", "line", "path", "br", "hr", "img", "input", "link"}


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


def without_target(found: Run) -> tuple[Energy, ...]:
    """The energies of a run without times."""
    return tuple(energy for energy in found.energies if not energy.convention.startswith("profile"))


def text_of(tables: list[Table]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_tables(tables)
    return out.getvalue()


@pytest.fixture(scope="module")
def result() -> Run:
    return run_of(random_network(4, blocks=2))


def test_a_model_without_a_recipe_is_called_by_its_file(result: Run) -> None:
    target = result.program.profile.name
    assert report_data(result)["title"] == f"A spiking network on {target}"
    assert report_data(result, file="models/sdt1.spk")["title"] == f"sdt1 on {target}"
    assert report_data(result, title="Mine", file="models/sdt1.spk")["title"] == "Mine"


def test_the_depth_is_beside_the_latency_that_follows_from_it(result: Run) -> None:
    time = result.to_dict()["time"]
    steps = result.program.network.time_steps + time["depth"] - 1
    assert time["latency_us"] == pytest.approx(steps * time["step_us_mean"], rel=1e-12)


def test_the_page_is_whole_and_offline(result: Run, tmp_path: Path) -> None:
    write_report(result, tmp_path / "report.html", 0.99)
    page = (tmp_path / "report.html").read_text()
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert not re.search(r"src\s*=|@import|url\(", page)
    assert set(re.findall(r'href="([^"]{4})', page)) == {"data", "#ope"}
    assert "default-src 'none'" in page
    assert "estimate, not measured" in page
    assert "float model 99.0%" in page
    for population in result.program.network:
        assert population.name in page
    assert len(page) < 2_000_000


def test_names_are_escaped(result: Run) -> None:
    page = render(report_data(result))
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert HOSTILE not in bars([Bar(HOSTILE, 2.0, HOSTILE, (1.5, 2.5), (1.0, 3.0))], HOSTILE, HOSTILE)


def test_json_holds_the_counted_totals(result: Run) -> None:
    data = json.loads(json.dumps(report_data(result), allow_nan=False))
    events = result.events
    assert sum(layer["synaptic_ops"] for layer in data["layers"]) == pytest.approx(events.synops)
    assert sum(layer["dense_macs"] for layer in data["layers"]) == events.dense_macs
    assert sum(step["synaptic_ops"] for step in data["steps"]) == pytest.approx(events.synops)
    assert [e["nominal"] for e in data["energies"]] == [e.total.nominal for e in result.energies]
    for energy in data["energies"]:
        assert energy["nominal"] == energy["boundaries"][energy["boundary"]]["nominal"]
        inside: list[str] = []
        for name, within in energy["boundaries"].items():
            inside.append(name)
            parts = [part for part in energy["parts"] if part["boundary"] in inside]
            for end in ("low", "nominal", "high"):
                assert sum(part[end] for part in parts) == pytest.approx(within[end])
            assert sum(within["shares"].values()) == pytest.approx(1.0)
            assert sum(within["roles"].values()) == pytest.approx(1.0)
    assert len(data["cores"]["used"]) == result.program.mapping.cores_used
    assert sum(data["cores"]["sections"].values()) == int(result.program.mapping.words.sum())
    assert data["accuracy"]["integer"] == result.accuracy


def test_small_integers_have_their_mean_and_slots_beside_the_rate() -> None:
    found = run_of(graded_network(3))
    data, values = report_data(found), found.to_dict()
    assert values["synaptic_ops_as_slots"] == found.events.slot_synops > values["synaptic_ops"] == found.events.synops
    assert values["mean_sent"] > values["firing_rate"] > 0
    rows = {layer["name"]: layer for layer in data["layers"]}
    for name in ("graded.attn", "graded.out"):
        population, sent = found.program.network[name], found.events.populations[name]
        visits = population.size * found.events.time_steps * found.events.images
        assert rows[name]["mean_sent"] == pytest.approx(int(sent.values.sum()) / visits)
        assert rows[name]["firing_rate"] == pytest.approx(int(sent.spikes.sum()) / visits)
        assert f">{rows[name]['mean_sent']:.3f}</td>" in render(data)
    # currents are no numbers of spikes, and the head sends nothing
    assert rows["graded.in"]["mean_sent"] is rows["output"]["mean_sent"] is None
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        print_tables(run_tables(found))
    assert "synaptic ops as slots" in stream.getvalue()


def test_several_chips(tmp_path: Path) -> None:
    """A board of many chips draws every one of them, without a time estimate too."""
    found = run_of(random_network(4, blocks=2), "hala_point")
    spread = replace(found.program.mapping, cores=found.program.mapping.cores * 500)
    untimed = replace(found, under={}, energies=without_target(found))
    moved = replace(untimed, program=replace(found.program, mapping=spread))
    assert render(report_data(moved)).count('class="chip"') > 100
    write_report(untimed, tmp_path / "r.html")
    assert "latency" not in (tmp_path / "r.html").read_text()


def test_a_band_lies_between_its_whiskers() -> None:
    picture = bars([Bar("sure", 20.0, "ann"), Bar("likely", 20.0, "target", (10.0, 50.0), (2.0, 80.0))], "mJ", "energy")
    (sure, sure_width), (band, band_width) = (
        (float(x), float(width)) for x, width in re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', picture)
    )
    whisker = re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", picture)
    low, low_end, high_start, high = (float(x) for line in whisker for x in line)
    nominal = float(re.findall(r'd="M([\d.]+) \d+v15" class="nominal"', picture)[0])
    assert sure < low < band < nominal < band + band_width < high
    assert (low_end, high_start) == pytest.approx((band, band + band_width), abs=0.1)
    assert nominal == pytest.approx(sure + sure_width, abs=0.1)
    assert "10 to 50 mJ" in picture


FIGURES = ("step_us", "latency_us", "fall_through_us", "images_per_second")


def test_a_likely_interval_lies_in_its_envelope(result: Run) -> None:
    data = report_data(result)
    figures = [data["time"]["under"][runtime][name] for runtime in RUNTIMES for name in FIGURES]
    figures += [within for energy in data["energies"] for within in energy["boundaries"].values()]
    for figure in figures:
        assert figure["low"] <= figure["likely_low"] * (1 + 1e-9)
        assert figure["likely_low"] <= figure["nominal"] * (1 + 1e-9)
        assert figure["nominal"] <= figure["likely_high"] * (1 + 1e-9)
        assert figure["likely_high"] <= figure["high"] * (1 + 1e-9)
    for name in FIGURES[:3]:
        assert data["time"]["under"]["bare"][name]["nominal"] < data["time"]["under"]["lava"][name]["nominal"]
        assert data["time"][name] == data["time"]["under"]["lava"][name]


def test_energies_grow_with_their_boundary() -> None:
    """A board with more chips than a network takes: what is unused and what stands besides is the board's alone."""
    found = run_of(random_network(4, blocks=1), "kapoho_point")
    energy = next(e for e in report_data(found)["energies"] if e["convention"] == "profile")
    assert list(energy["boundaries"]) == [NEURO_CORES, CHIPS, BOARD]
    cores, chips, board = (energy["boundaries"][name]["nominal"] for name in (NEURO_CORES, CHIPS, BOARD))
    assert 0 < cores < chips < board
    assert energy["boundary"] == CHIPS
    of_board = {part["name"] for part in energy["parts"] if part["boundary"] == BOARD}
    assert "static power of unused chips" in of_board


def test_the_page_names_runtimes_and_boundaries(result: Run) -> None:
    page = render(report_data(result))
    for runtime in RUNTIMES:
        assert page.count(f"runtime “{runtime}”</th>") == 1
    assert page.count("<th") == page.count('<th scope="col') + page.count("<thead")
    assert page.count("<svg") == page.count("aria-label=")
    assert "a lower bound that nobody has measured" in page
    for boundary in (NEURO_CORES, CHIPS, BOARD):
        assert f'<td class="l">{boundary}</td>' in page
        assert re.search(f'<b>{boundary}</b></td>.*<td class="w">Estimate for', page)
    assert f"nothing in any of them: {LEFT_OUT}." in page
    assert 'class="nominal"' in page
    assert "two-neurons" in page, "a constant names the measured case that calibrated it"
    assert "“chips”, likely" in page


def test_the_page_says_what_rules_the_figures(result: Run) -> None:
    data = report_data(result)
    ruling = data["rests_on"]
    for name in ("step_us", "energy"):
        assert sum(ruling[name].values()) == pytest.approx(1.0)
        assert len(ruling[name]) <= 6
        shares = [share for path, share in ruling[name].items() if path != "others"]
        assert shares == sorted(shares, reverse=True)
    known = {constant["path"] for constant in data["constants"]}
    assert set(ruling["step_us"]) - {"others"} <= known
    assert next(iter(ruling["step_us"])) in render(data)


def test_the_terminal_says_the_likely_interval_first(result: Run) -> None:
    text = text_of(run_tables(result))
    time = result.to_dict()["time"]
    row = next(line for line in text.splitlines() if "step, us (estimate)" in line)
    cells = [cell.strip() for cell in row.split("│")[2:-1]]
    for runtime, shown in zip(RUNTIMES, (cells[:3], cells[3:]), strict=True):
        under = time["under"][runtime]
        assert shown[0] == interval(under["likely_low"], under["likely_high"])
        assert shown[2] == interval(*under["step_us_range"])
    assert "on the target under the runtime 'lava'" in text
    for boundary in (NEURO_CORES, CHIPS, BOARD, "arithmetic and memory"):
        assert re.search(rf"│ {boundary} +│", text)
    assert "time of a step: ruled by" in text
    untimed = text_of(run_tables(replace(result, under={}, energies=without_target(result))))
    assert "runtime" not in untimed
    assert "spikformer-paper" in untimed


def test_a_target_says_what_calibrated_it() -> None:
    tables, values = target_tables("loihi2")
    by_path = {number["path"]: number for number in values["numbers"]}
    assert by_path["time.step_runtime"]["role"] == "calibrated"
    assert by_path["time.step_runtime"]["calibrated_on"] == "two-neurons"
    assert by_path["time.axon_in"]["role"] == "guessed"
    assert by_path["time.barrier_chip"] | {"role": "independent", "calibrated_on": None} == by_path["time.barrier_chip"]
    text = text_of(tables)
    assert "calibrated on" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.0123, "0.0123"), (999, "999"), (12_345, "12.3 k"), (3e9, "3 G")]
)
def test_prefixes(value: float, text: str) -> None:
    assert si(value) == text
