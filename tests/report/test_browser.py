"""The report's page in a browser: no script fails, tables sort, files are those of the command, nothing is loaded."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.browser import asked, needs_chromium
from support.networks import random_network
from support.runs import run_of

from spikformer_deploy.report.data import report_data
from spikformer_deploy.report.figures import figures
from spikformer_deploy.report.html import render
from spikformer_deploy.report.write import write_files

pytestmark = [needs_chromium, pytest.mark.long]
HOSTILE = '</script><img src="http://example.invalid/x" onerror="alert(1)">=1+1'
SCRIPT = r"""
const clicked = [];
// what a click would save, without a dialog
HTMLAnchorElement.prototype.click = function () { clicked.push(this); };
const texts = [];
window.Blob = function (parts) { texts.push(parts.join("")); };
URL.createObjectURL = () => "blob:kept";
const column = (table, name) => {
  const head = [...table.tHead.rows[0].cells].find(cell => cell.textContent.trim() === name);
  const index = [...head.parentNode.children].indexOf(head);
  const value = cell => cell.dataset.v ?? cell.textContent;
  return [head, () => [...table.tBodies[0].rows].map(row => value(row.cells[index]))];
};
found.sorted = {};
for (const name of ["layer", "energy", "rate", "neurons"]) {
  const [head, values] = column(document.getElementById("layers"), name);
  head.firstElementChild.click();
  const up = values();
  head.firstElementChild.click();
  found.sorted[name] = [up, values(), head.getAttribute("aria-sort")];
}
found.files = Object.fromEntries([...document.querySelectorAll("a.file")].map(link => [link.download, link.href]));
document.querySelectorAll("button[data-svg]").forEach(button => button.click());
found.pictures = Object.fromEntries(texts.map((text, i) => [clicked[i].download, text]));
dispatchEvent(new Event("beforeprint"));
found.folded = [document.querySelectorAll("details").length, document.querySelectorAll("details:not([open])").length];
dispatchEvent(new Event("afterprint"));
found.folded.push(document.querySelectorAll("details[open]").length);
found.scope = document.querySelectorAll("th:not([scope])").length;
found.labels = document.querySelectorAll("svg:not([aria-label])").length;
found.images = document.images.length;
found.wide = [document.documentElement.scrollWidth, innerWidth];
"""


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    found = report_data(run_of(random_network(4, blocks=2)), title=HOSTILE)
    found["layers"][1]["name"] = HOSTILE
    return found


@pytest.fixture(scope="module")
def shown(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return asked(render(data), SCRIPT, tmp_path_factory.mktemp("browser"))


def test_no_script_fails_and_nothing_is_loaded(shown: dict[str, Any]) -> None:
    assert shown["wrong"] == []
    assert shown["requests"] == []
    assert shown["images"] == 0


def test_everything_is_labelled_and_fits(shown: dict[str, Any]) -> None:
    assert shown["scope"] == shown["labels"] == 0
    width, window = shown["wide"]
    assert width <= window <= 500


def test_tables_sort_by_value(shown: dict[str, Any]) -> None:
    for name, (up, down, said) in shown["sorted"].items():
        assert said == "descending"
        known = [value for value in up if value != ""]
        keys = known if name == "layer" else [float(value) for value in known]
        assert keys == sorted(keys), name
        # what is not known stays at the end
        assert down == [*reversed(known), *[""] * (len(up) - len(known))] or len(set(known)) < len(known), name


def test_files_of_the_page_are_those_of_the_command(
    data: dict[str, Any], shown: dict[str, Any], tmp_path: Path
) -> None:
    write_files(data, dict.fromkeys(("csv", "tex", "figures"), tmp_path))
    assert {"layers.csv", "layers.tex", "energies.csv", "constants.tex"} <= set(shown["files"])
    for name, link in shown["files"].items():
        assert base64.b64decode(link.partition(";base64,")[2]) == (tmp_path / name).read_bytes(), name


def test_pictures_of_the_page_are_those_of_the_command(
    data: dict[str, Any], shown: dict[str, Any], tmp_path: Path
) -> None:
    write_files(data, {"figures": tmp_path})
    assert set(shown["pictures"]) == {f"{name}.svg" for name in figures(data)}
    for name, text in shown["pictures"].items():
        saved, written = ElementTree.fromstring(text), ElementTree.fromstring((tmp_path / name).read_text())
        for one, other in zip(saved.iter(), written.iter(), strict=True):
            assert (one.tag, one.attrib, one.text) == (other.tag, other.attrib, other.text), name


def test_printing_opens_what_is_folded(shown: dict[str, Any]) -> None:
    count, folded, left_open = shown["folded"]
    assert count > 3
    assert folded == left_open == 0
