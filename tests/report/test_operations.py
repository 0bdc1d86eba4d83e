"""Tables of operations: one set of rows, in every form."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from spikformer_deploy.accounting import operators
from spikformer_deploy.counts.operations import Counted, NeuronRecord, Operation, OperationCounts, ParameterCounts
from spikformer_deploy.report import operations
from spikformer_deploy.report.terminal import console

IMAGES = 2
PIXELS = Counted("real", None, 1, 96, 90, 40.0, 128, 1800, 2000, 1700, 1690, 700.0, 0.0, 1900.0, 800.0)
SPIKES = Counted("binary", None, 4, 128, 32, 32.0, 512, 3600, 4000, 900, 900, 900.0, 900.0, 1000.0, 1000.0)
LEVELS = Counted("levels", None, 1, 32, 16, 12.0, 128, 900, 1000, 450, 450, 330.0, 660.0, 500.0, 375.0)
RESIDUAL = Counted("binary", "levels", 4, 128, 32, 32.0, 128, 128, 128, 9, 9, 9.0, 9.0, 32.0, 32.0)
NAME = "stage_1.50%_of{x}&co"
COUNTS = OperationCounts(
    IMAGES,
    4,
    1,
    (
        Operation("stem", "convolution", "Conv2d", False, ("convolution",), True, (PIXELS,)),
        Operation(NAME, "convolution", "Conv2d", False, ("convolution",), False, (SPIKES, LEVELS)),
        Operation(": add", "addition", "Net", True, ("add",), False, (RESIDUAL,)),
    ),
    (NeuronRecord("lif", "LIFNode", 32, np.full(4, 64), np.full(4, 16), np.full(4, 16.0), 1.0, "binary"),),
    ParameterCounts(100, 100, 400, 0, 100, 0),
    (),
)
ACCOUNTS = [operators.account(COUNTS, name) for name in ("spikformer-paper", "syops", "neurobench")]
PAPER = "spikformer-paper energy (uJ/image)"


def test_rows_of_layers() -> None:
    stem, layer, add, lif, sums = operations.layer_rows(COUNTS, ACCOUNTS)
    assert (stem["place"], stem["reads"], stem["not zero (share)"]) == ("stem", "real", 90 / 96)
    assert layer["reads"] == "binary, levels"
    assert layer["not zero (share)"] == 48 / 160
    assert layer["dense (MACs/image)"] == 5000 / IMAGES
    assert layer["synaptic operations (1/image)"] == 1350 / IMAGES
    assert layer[PAPER] == pytest.approx(0.9e-6 * (900 + 660) / IMAGES, rel=1e-12)
    assert [add[key] for key in ("reads", "not zero (share)", "dense (MACs/image)", PAPER)] == ["", None, None, None]
    assert (lif["kind"], lif["not zero (share)"]) == ("LIFNode", 0.25)
    assert sums[PAPER] == pytest.approx(ACCOUNTS[0].energy.total.nominal * 1e3, rel=1e-12)
    # MACs where reals are read, additions elsewhere: no sum
    assert sums["synaptic operations (1/image)"] is None
    # what a convention counts stands beside the energy that follows of it
    assert (stem["spikformer-paper MACs (1/image)"], stem["spikformer-paper ACs (1/image)"]) == (1000, 0)
    assert layer["spikformer-paper ACs (1/image)"] == 1560 / IMAGES
    assert (layer["syops MACs (1/image)"], layer["syops ACs (1/image)"]) == (1000 / IMAGES, 900 / IMAGES)
    for convention, row in zip(("spikformer-paper", "syops"), operations.convention_rows(ACCOUNTS), strict=True):
        for heading in ("MACs (1/image)", "ACs (1/image)"):
            assert sums[f"{convention} {heading}"] == row[heading]
    # a convention without prices has no column
    assert [key for key in stem if key.endswith("(uJ/image)")] == [PAPER, "syops energy (uJ/image)"]


def test_rows_of_layers_in_parts_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "SIDE_BY_SIDE", 1)
    rows = operations.layer_rows(COUNTS, ACCOUNTS)
    work, energies = operations.split(rows)
    assert len(energies) == 2
    for number, row in enumerate(rows):
        together = work[number]
        for group in energies:
            assert len(group[number]) == 1 + 3
            together = together | group[number]
        assert together == row


def test_rows_of_conventions() -> None:
    paper, syops = operations.convention_rows(ACCOUNTS)
    assert paper["energy (uJ/image)"] == pytest.approx((4.6e-6 * 2000 + 0.9e-6 * 1560) / IMAGES, rel=1e-12)
    assert (syops["MACs (1/image)"], syops["ACs (1/image)"]) == (3000 / IMAGES, 900 / IMAGES)


def test_csv_has_units_and_every_figure_in_full() -> None:
    rows = operations.layer_rows(COUNTS, ACCOUNTS)
    headings, *lines = csv.reader(io.StringIO(operations.csv_text(rows)))
    assert headings == list(rows[0])
    for heading in headings:
        assert heading in operations.TEXTS or re.search(r"\((share|MACs/image|1/image|uJ/image)\)$", heading)
    for line, row in zip(lines, rows, strict=True):
        for text, value in zip(line, row.values(), strict=True):
            assert (float(text) == value) if isinstance(value, float) else text == ("" if value is None else str(value))


def test_the_noise_of_sums_is_no_figure() -> None:
    rows = [{"a": 0.7226304000000001, "b": 3925542.5500000003, "c": 2**60 + 1, "d": None, "e": "0.10000000000000001"}]
    assert operations.without_noise(rows) == [rows[0] | {"a": 0.7226304, "b": 3925542.55}]


def test_a_table_without_rows() -> None:
    assert operations.csv_text([]) == ""
    assert operations.table("layers", []).row_count == 0


def text_of(latex: str) -> str:
    """The characters that LaTeX prints for an escaped text."""
    for sign, escape in operations.ESCAPES.items():
        latex = latex.replace(escape, sign)
    return latex


def test_latex_is_well_formed() -> None:
    rows = operations.layer_rows(COUNTS, ACCOUNTS)
    text = operations.latex_text(rows, operations.caption(COUNTS), label="tab:a", note=operations.sources(ACCOUNTS))
    lines = text.splitlines()
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert opened == list(reversed(re.findall(r"\\end\{(\w+)\}", text)))
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns is not None
    assert len(columns[1]) == len(rows[0])
    cells = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines if line.endswith(r" \\")]
    headings = cells.pop(0)
    assert len(headings) == len(columns[1])
    assert headings[6].strip() == r"\shortstack[r]{spikformer-\\paper\\MACs\\(1/image)}"
    assert headings[8].strip() == r"\shortstack[r]{spikformer-\\paper\\energy\\($\mu$J/image)}"
    assert {len(row) for row in cells} == {len(columns[1])}
    # a row of dashes alone is left out
    assert [text_of(row[0]).strip() for row in cells] == ["stem", NAME, "lif", "all"]
    assert lines.count(r"\label{tab:a}") == 1
    body = re.sub(r"\$\\mu\$|\\[a-zA-Z]+|\\.", "", "\n".join(lines[1:]))
    # nothing special is left but the braces and ampersands of the table itself
    assert body.count("{") == body.count("}")
    assert not re.search(r"[%$#_^~]", body)
    assert [x for x in lines if x.endswith("rule")] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]


@pytest.mark.parametrize("sign", sorted(operations.ESCAPES))
def test_every_special_character_is_escaped(sign: str) -> None:
    escape = operations.escaped(f"a{sign}b")
    assert escape == f"a{operations.ESCAPES[sign]}b"
    assert escape.startswith("a\\")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    rows, note = operations.layer_rows(COUNTS, ACCOUNTS), operations.sources(ACCOUNTS)
    table = operations.latex_text(rows, operations.caption(COUNTS), label="tab:a", note=note)
    page = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{table}\\end{{document}}\n"
    (tmp_path / "page.tex").write_text(page)
    subprocess.run(["pdflatex", "-interaction=batchmode", "-halt-on-error", "page.tex"], cwd=tmp_path, check=True)
    assert (tmp_path / "page.pdf").stat().st_size > 0


def test_each_convention_that_is_priced_is_named_below_the_table() -> None:
    caption, note = operations.caption(COUNTS), operations.sources(ACCOUNTS)
    assert "T = 4" in caption
    assert "estimated, mean over 2" in caption
    for account in ACCOUNTS:
        assert (account.convention in note) == (account.energy is not None)


def test_the_terminal_shows_names_and_figures() -> None:
    stream = io.StringIO()
    screen = console(stream, width=200)
    screen.print(operations.table("layers", operations.layer_rows(COUNTS, ACCOUNTS)))
    screen.print(operations.figures_table(ACCOUNTS[2]))
    shown = stream.getvalue()
    for text in (NAME, "93.8%", "2500", "Effective_ACs", "450"):
        assert text in shown


def test_what_is_left_out_is_said() -> None:
    assert operations.left_out(ACCOUNTS[0]) == "spikformer-paper leaves out 1 addition (: add); 1 neuron (lif)."
    many = operators.Account("x", "", "", "", {}, (), {"norm": ("", "b", "c", "d", "e")})
    assert operations.left_out(many) == "x leaves out 5 norm (the model, b, c and 2 more)."
    assert operations.left_out(operators.Account("x", "", "", "", {}, ())) == ""
