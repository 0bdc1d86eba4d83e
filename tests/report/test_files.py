"""Tables and pictures of a report as files: hostile names in each of them, and pages of large programs."""

from __future__ import annotations

import csv
import io
from copy import deepcopy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.networks import random_network
from support.runs import run_of

from spikformer_deploy.inference.results import Verdict
from spikformer_deploy.report.data import report_data
from spikformer_deploy.report.figures import alone, figures
from spikformer_deploy.report.html import render
from spikformer_deploy.report.sheets import sheets
from spikformer_deploy.report.shown import interval, joules, micro
from spikformer_deploy.report.write import files_of, write_files

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1")
NAMES = ('"><script>alert(1)</script>', "a_b%$#&{}~^\\input{x}", "\x1b[31m\u202e", "é,;\n", "a--b")


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    labels = ("cat", "=cmd()", "</svg>", *(f"other {i}" for i in range(7)))
    network = random_network(4, blocks=1)
    return report_data(run_of(network, labels=labels[: network.output.size]))


def named(data: dict[str, Any], name: str) -> dict[str, Any]:
    """The same report with a layer of that name."""
    changed = deepcopy(data)
    changed["title"] = changed["layers"][1]["name"] = changed["cores"]["used"][0]["site"] = name
    return changed


@pytest.mark.parametrize("name", FORMULAS)
def test_no_spreadsheet_computes_a_name(data: dict[str, Any], name: str) -> None:
    for sheet in sheets(named(data, name)).values():
        for row in csv.reader(io.StringIO(sheet.csv)):
            for text in row:
                number = text.replace(".", "").replace("e-", "").lstrip("-").isdigit()
                assert number or not text.lstrip().startswith(("=", "+", "-", "@")), text


@pytest.mark.parametrize("name", NAMES)
def test_names_are_escaped_in_every_form(data: dict[str, Any], name: str) -> None:
    changed = named(data, name)
    page = render(changed)
    assert name not in page or "<" not in name
    assert not {c for c in page if not c.isprintable() and c != "\n"}
    for picture in figures(changed).values():
        root = ElementTree.fromstring(alone(picture))
        assert {element.tag.partition("}")[2] for element in root.iter()} <= {
            *("svg", "style", "rect", "text", "title", "line", "path", "circle", "polyline", "polygon")
        }
    for sheet in sheets(changed).values():
        plain = sheet.latex
        for mark in (r"\textbackslash{}", *(f"\\{sign}" for sign in "&%$#_{}")):
            plain = plain.replace(mark, "")
        body = plain.split(r"\midrule")[1]
        assert not set("%$#_") & set(body.replace(r"\bottomrule", ""))
        assert r"\input" not in plain
        assert "--" not in body


def test_files_of_an_earlier_report_do_not_stay(data: dict[str, Any], tmp_path: Path) -> None:
    folders = dict.fromkeys(("csv", "tex", "figures"), tmp_path)
    known = {name for kind in folders for name in files_of(kind)}
    for name in (*known, "mine.csv"):
        (tmp_path / name).write_text("stale")
    less = {**data, "levers": [], "static": None}
    write_files(less, folders)
    left = {path.name for path in tmp_path.iterdir()}
    assert left < known | {"mine.csv"}
    assert {"mine.csv", "layers.csv"} < left
    assert not {"levers.csv", "levers.tex", "static.svg"} & left
    assert [path.name for path in tmp_path.iterdir() if path.read_text() == "stale"] == ["mine.csv"]


def test_a_name_reaches_its_row(data: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(sheets(named(data, "é,;\n"))["layers"].csv)))
    assert rows[1]["layer"] == "é,;\n"
    assert rows[-1]["layer"] == "all"
    energies = [float(row["energy (mJ/image)"]) for row in rows]
    assert energies[-1] == pytest.approx(sum(energies[:-1]), rel=1e-12)
    profile = next(energy for energy in data["energies"] if energy["convention"] == "profile")
    assert energies[-1] == pytest.approx(profile["nominal"], rel=1e-12)


def test_seconds_stand_in_no_column_of_events(data: dict[str, Any]) -> None:
    rows = [row for row in sheets(data)["parts"].rows if "power" in row["part"]]
    assert rows
    for row in rows:
        assert row["events (1/image)"] is None
        assert row["duration (us/image)"] > 0
    assert not any(row["duration (us/image)"] for row in sheets(data)["parts"].rows if row not in rows)


def test_prices_of_another_chip_are_guesses(data: dict[str, Any]) -> None:
    carried = next(e for e in data["energies"] if e["convention"] == "profile:loihi1-carryover")
    assert carried["boundaries"]["neuro_cores"]["shares"] == {"guess": 1.0}


def test_the_float_model_stands_beside_the_program() -> None:
    found = run_of(random_network(4, blocks=1))
    name = next(population.name for population in found.program.network if population.neuron.fires)
    verdict = Verdict(float_accuracy=0.875, equal_spikes={name: 0.5}, predictions_changed=16)
    page = render(report_data(found, verdict=verdict))
    assert "float model 87.5%; the integers change 16 predictions" in page
    assert "<button>= float</button>" in page
    assert '<td data-v="0.5">50.0%</td>' in page
    assert "= float" not in render(report_data(found))


def test_a_large_program_has_a_page_of_sensible_size(data: dict[str, Any]) -> None:
    """Thousands of cores, a hundred layers, 256 time steps and a thousand classes."""
    large = deepcopy(data)
    cores, layers = large["cores"]["used"], large["layers"]
    large["cores"]["used"] = [
        {**cores[i % len(cores)], "core": i, "x": i % 80, "y": i // 80 % 80, "site": f"block.{i % 100}"}
        for i in range(12_000)
    ]
    rates = [0.01 * (step % 50) for step in range(256)]
    large["layers"] = [{**layers[i % len(layers)], "name": f"block.{i}", "rate_by_step": rates} for i in range(100)]
    large["steps"] = [{"step": step, "synaptic_ops": 1e6, "spikes": 1e5} for step in range(256)]
    large["run"]["by_step"] = [{**large["run"]["by_step"][0], "step": step + 1} for step in range(256)]
    names = [f"class {i}" for i in range(1000)]
    row = large["classes"]["by_class"][0]
    large["classes"] |= {"names": names, "matrix": None, "by_class": [{**row, "class": name} for name in names]}
    page = render(large)
    assert len(page.encode()) < 2_000_000
    assert page.count("<tr>") < 1500


@pytest.mark.parametrize(
    ("low", "high", "what", "text"),
    [
        (0.0924, 0.16, "energy", "0.0924 to 0.16 mJ"),
        (0.0220, 0.0687, "energy", "22 to 68.7 µJ"),
        (600.0, 1540.0, "time", "0.6 to 1.54 ms"),
        (1.0, 1.0, "time", "1 µs"),
        (900.0, 1200.0, "rate", "900 to 1.2 k"),
    ],
)
def test_an_interval_has_one_unit(low: float, high: float, what: str, text: str) -> None:
    assert interval(low, high, what) == text
    assert (joules(0.1), joules(150.0), micro(2e6), micro(999.0)) == ("0.1 mJ", "0.15 J", "2 s", "999 µs")
