"""The page of a sweep: whole, offline, escaped; its plots, and its CSV file."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from spikformer_deploy.cli.printing import print_tables
from spikformer_deploy.report.plots import Line, Spot, curve, fitting, scatter
from spikformer_deploy.report.shown import percent
from spikformer_deploy.report.svg import si
from spikformer_deploy.report.sweep import csv_text, judged, page, refusals, sweep_tables
from spikformer_deploy.space.axes import Point, space_of
from spikformer_deploy.space.commands import command_of
from spikformer_deploy.space.sweep import Swept

VOID = {"meta", "rect", "line", "path", "br", "polyline", "polygon"}
HOSTILE = '<script>alert("x")</script>&'


class Balance(HTMLParser):
    """Counts open tags; fails on a close tag that closes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []
        self.links += [given["href"]] if given.get("href") else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def energy(nominal: float) -> dict[str, float]:
    return {"nominal": nominal, "likely_low": nominal / 2, "likely_high": nominal * 2}


def row(bits: int, accuracy: float | None, nominal: float, **changed: Any) -> dict[str, Any]:
    point = Point("net", 2, bits, "group", "nearest", "loihi2", "spatial", "energy")
    time = {"latency_us": 900.0 * nominal, "latency_us_likely": [400.0 * nominal, 2000.0 * nominal]}
    time |= {"images_per_second": 1e3 / nominal, "images_per_second_likely": [500 / nominal, 2e3 / nominal]}
    steps = [{"step": s, "accuracy": accuracy, "energy_mj": {"profile": energy(nominal * s / 2)}} for s in (1, 2)]
    figures = {"cores": 10 * bits, "chips": 1, "memory_words": 100 * bits, "accuracy": accuracy, "by_step": steps}
    return {**point.settings(), **figures, "time": time, "energy_mj": {"profile": energy(nominal)}, **changed}


def swept(rows: list[dict[str, Any]], **changed: Any) -> Swept:
    return Swept(space_of(models=["net"], input="images", weight_bits=(2, 4, 8), **changed), rows, ("a note",))


@pytest.fixture
def found() -> Swept:
    refusal = {**row(6, 0.9, 1.0), "refused": HOSTILE}
    rows = [
        row(2, 0.7, 0.2),
        row(4, 0.9, 0.4),
        row(8, 0.9, 0.8),
        {k: refusal[k] for k in (*list(refusal)[:8], "refused")},
    ]
    return swept(rows, budget="energy<0.5mJ")


def test_the_page_is_whole_and_offline(found: Swept) -> None:
    table = csv_text(judged(found))
    text = page(judged(found), table)
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert len(balance.ids) == len(set(balance.ids))
    inside = [link for link in balance.links if not link.startswith("data:text/csv;base64,")]
    assert all(link.startswith("#") and link[1:] in balance.ids for link in inside)
    (data,) = {link for link in balance.links if link not in inside}
    assert base64.b64decode(data.partition(",")[2]).decode() == table
    assert not re.search(r"src\s*=|@import|url\(|https?:", text)
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert "2 points keep to the budget" in text
    assert text.count('class="target"') == 8, "on each of four fronts both that nothing beats"


def test_the_csv_file_holds_every_row(found: Swept) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(judged(found)))))
    assert [line["energy (mJ)"] for line in lines] == ["0.2", "0.4", "0.8", ""]
    assert [line["energy (mJ) likely high"] for line in lines] == ["0.4", "0.8", "1.6", ""]
    assert [line["budget"] for line in lines] == ["yes", "nominal", "no", "no"]
    assert lines[1]["fronts"] == "energy latency cores memory"
    assert lines[3]["refused"] == HOSTILE
    assert lines[0]["command"].startswith("spikdeploy compile net --target loihi2 --time-steps 2 --weight-bits 2")
    formula = swept([row(2, 0.5, 1.0, model="=1+1")])
    assert "'=1+1" in csv_text(judged(formula)).splitlines()[1]


@pytest.mark.parametrize("name", ["=1+1", " =1+1", "+1", "-1", "@SUM(1)", "\t=1+1"])
def test_no_cell_of_the_csv_file_is_a_formula(name: str) -> None:
    """Whatever stands before the sign, in names as in what was refused."""
    refused = {**row(2, 0.5, 1.0, model=name), "refused": name}
    (line,) = csv.DictReader(io.StringIO(csv_text(judged(swept([refused])))))
    for cell in line.values():
        assert not cell.lstrip().startswith(("=", "+", "-", "@"))
        assert "\t" not in cell


def test_without_labels_there_is_no_front(found: Swept) -> None:
    nameless = swept([row(2, None, 1.0), row(4, None, 2.0)])
    text = page(judged(nameless), "")
    assert "The images have no labels" in text
    assert "<h2>Fronts</h2>" not in text
    Balance().feed(page(judged(swept([])), ""))


def test_the_terminal_names_the_best(found: Swept) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_tables(sweep_tables(found))
    assert "4 points, 1 refused, 2 keep to the budget" in out.getvalue()
    assert re.search(r"energy an image\W+0\.2 mJ\W+70\.0%\W+2", out.getvalue())


def test_the_terminal_says_why_points_are_refused(found: Swept) -> None:
    assert refusals(found) == [f"refused: weight bits 6: {HOSTILE}"]
    assert refusals(swept([row(2, 0.5, 1.0)])) == []
    rows = [{**row(bits, 0.5, 1.0), "refused": f"reason {bits // 2}"} for bits in range(2, 12)]
    assert refusals(swept(rows)) == [
        "refused: weight bits 2 and 1 more: reason 1",
        "refused: weight bits 4 and 1 more: reason 2",
        "refused: weight bits 6 and 1 more: reason 3",
        "2 more reasons are in index.html",
    ]


def test_commands_are_safe_in_a_shell() -> None:
    point = Point("a b;rm.pth", 2, 8, "group", "nearest", "my target.toml", "spatial", "energy")
    command = command_of(point, space_of(models=["a"], input="x y"), {})
    assert "'a b;rm.pth'" in command
    assert "'my target.toml'" in command
    assert "--input 'x y'" in command


@pytest.mark.parametrize("values", [[1.0], [0.0], [1.0, 1.0], [1e-3, 5.0], [117, 120], [-2.0, 5.0], [0.0, 1e9]])
def test_an_axis_holds_its_values(values: list[float]) -> None:
    axis = fitting(values, 60, 500)
    assert all(60 <= axis.at(value) <= 500 for value in values)
    assert axis.ticks
    assert all(60 - 1e-6 <= axis.at(tick) <= 500 + 1e-6 for tick in axis.ticks)


def test_an_accuracy_that_is_always_0_is_drawn_from_0_to_1() -> None:
    picture = curve(Line([1, 2], [0.0, 0.0]), percent, "accuracy")
    assert "100" in picture
    assert ">-" not in picture


def test_counts_have_whole_ticks() -> None:
    spots = [Spot(cores, 0.5, "target", "", "p0") for cores in (119.0, 120.0)]
    picture = scatter(spots, [], "cores", lambda value: f"{value:,.0f}", percent, counts=True)
    labels = re.findall(r'text-anchor="middle" class="tick">(\d+)<', picture)
    assert labels == ["119", "120"]


def test_plots_are_escaped() -> None:
    spots = [Spot(1.0, 0.5, HOSTILE, HOSTILE, HOSTILE, (0.5, 2.0))]
    assert HOSTILE not in scatter(spots, [(1.0, 0.5)], HOSTILE, si, si)
    picture = curve(
        Line([1, 2, 3], [0.1, 0.5, 0.6], [(0.0, 0.2), (0.4, 0.6), (0.5, 0.7)]), lambda value: HOSTILE, HOSTILE
    )
    assert HOSTILE not in picture
    assert picture.count("<circle") == 3
