"""Tables of a float model's operations and their energies: for the terminal, as CSV, and for a paper.

Rows are plain dicts whose keys are the headings, units included; every form of a table is made from them.  A cell that
does not apply is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from spikformer_deploy.accounting.operators import Account, Place, place_energy
from spikformer_deploy.accounting.tools import SYNAPTIC
from spikformer_deploy.base.errors import printable
from spikformer_deploy.counts.operations import Counted, NeuronRecord, Operation, OperationCounts
from spikformer_deploy.report.spreadsheet import csv_of
from spikformer_deploy.report.tables import number

Row = dict[str, Any]

PLACE = "place"
KIND = "kind"
READS = "reads"
RATE = "not zero (share)"
DENSE = "dense (MACs/image)"
MET = "synaptic operations (1/image)"
CONVENTION = "convention"
MACS = "MACs (1/image)"
ACS = "ACs (1/image)"
MICROJOULE = "energy (uJ/image)"
PRICED = (MACS, ACS, MICROJOULE)
"""Headings of what a convention with prices says of a place."""
UNSEEN = (None,) * len(PRICED)
TEXTS = (PLACE, KIND, READS, CONVENTION)
"""Headings of columns that hold words."""

LOOKED_AT = ("convolution", "linear", "product", "pooling")
"""Kinds of operations of which the values of all operands are looked at."""

MICRO_PER_MILLI = 1e3

SIDE_BY_SIDE = 2
"""Conventions in one table by layer on a terminal: more would cut names and figures."""

DIGITS = 12
"""Significant digits of a sum of floats in a file: behind them stands what adding left, 0.7226304000000001."""

SHOWN = 3
"""Names of a kind that a sentence lists before it counts the others."""

ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


# --- rows ------------------------------------------------------------------------------------------------------------


def convention_rows(accounts: Sequence[Account]) -> list[Row]:
    """A row for every convention that has a price."""
    return [
        {
            CONVENTION: account.convention,
            MACS: sum(place.work.macs for place in account.places),
            ACS: sum(place.work.acs for place in account.places),
            MICROJOULE: account.energy.total.nominal * MICRO_PER_MILLI,
        }
        for account in accounts
        if account.energy is not None
    ]


def layer_rows(counts: OperationCounts, accounts: Sequence[Account]) -> list[Row]:
    """A row for every place of the model, its work and energy by each convention that has a price, and one of sums.

    reads     what its operands were seen to be (counts.operations.CLASSES), where they were looked at; of neurons:
              what they send
    not zero  share of the elements that it reads; of neurons: their firing rate
    """
    priced = [account for account in accounts if account.energy is not None]
    works = {a.convention: {p.name: _work(a, p) for p in a.places} for a in priced}
    rows: list[Row] = [_operation_row(operation, counts.images) for operation in counts.operations]
    rows += [_neuron_row(record) for record in counts.neurons]
    for row in rows:
        for name, by_place in works.items():
            row |= zip(_headings(name), by_place.get(row[PLACE], UNSEEN), strict=True)
    return [*rows, _sums(rows)]


def _work(account: Account, place: Place) -> tuple[float | None, ...]:
    """The cells of a place that a convention sees, under its `_headings`."""
    energy = place_energy(account, place)
    return place.work.macs, place.work.acs, None if energy is None else energy * MICRO_PER_MILLI


def _headings(convention: str) -> tuple[str, ...]:
    return tuple(f"{convention} {heading}" for heading in PRICED)


def _operation_row(operation: Operation, images: int) -> Row:
    synaptic = operation.kind in SYNAPTIC
    calls = operation.counted
    seen = calls if operation.kind in LOOKED_AT else ()
    read = sum(c.elements_in for c in seen)
    return {
        PLACE: operation.name,
        KIND: operation.kind,
        READS: ", ".join(dict.fromkeys(_reads(c) for c in seen)),
        RATE: sum(c.nonzero_in for c in seen) / read if read else None,
        DENSE: sum(c.dense_padded for c in calls) / images if synaptic else None,
        MET: sum(c.pairs for c in calls) / images if synaptic else None,
    }


def _reads(counted: Counted) -> str:
    return counted.operand if counted.other is None else f"{counted.operand} x {counted.other}"


def _neuron_row(record: NeuronRecord) -> Row:
    updates = int(record.updates.sum())
    rate = int(record.spikes.sum()) / updates if updates else None
    return {PLACE: record.name, KIND: record.neuron, READS: record.operand, RATE: rate, DENSE: None, MET: None}


def _sums(rows: Sequence[Row]) -> Row:
    """The sums of those columns that add up; MET are MACs where reals are read, additions elsewhere, and have none."""
    first = rows[0] if rows else {}
    added = {h: None if h == MET else sum(row[h] or 0 for row in rows) for h in first if h not in (*TEXTS, RATE)}
    return {PLACE: "all", KIND: "", READS: "", RATE: None, **added}


def split(rows: Sequence[Row]) -> tuple[list[Row], list[list[Row]]]:
    """Rows of layers for a terminal: what each place is and meets, and its energies, SIDE_BY_SIDE conventions each."""
    headings = list(rows[0]) if rows else []
    energies = headings[headings.index(MET) + 1 :] if rows else []
    work = [{name: value for name, value in row.items() if name not in energies} for row in rows]
    size = SIDE_BY_SIDE * len(PRICED)
    groups = [energies[first : first + size] for first in range(0, len(energies), size)]
    return work, [[{name: row[name] for name in (PLACE, *group)} for row in rows] for group in groups]


# --- forms -----------------------------------------------------------------------------------------------------------


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows for the terminal, whose long headings and names go over several lines."""
    made = Table(title=title, title_justify="left")
    headings = list(rows[0]) if rows else []
    for heading in headings:
        made.add_column(_in_lines(heading), justify="left" if heading in TEXTS else "right", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(heading, row[heading]) for heading in headings))
    return made


def figures_table(account: Account) -> Table:
    """The figures of a convention by its own names, an image where they count."""
    made = Table(title=f"{account.convention} (an image)", title_justify="left", show_header=False)
    for name, value in account.figures.items():
        made.add_row(name, number(value))
    return made


def without_noise(rows: Sequence[Row]) -> list[Row]:
    """The rows with floats of DIGITS significant digits."""
    return [{h: float(f"{v:.{DIGITS}g}") if isinstance(v, float) else v for h, v in row.items()} for row in rows]


def csv_text(rows: Sequence[Row]) -> str:
    """The rows as CSV with one line of headings, figures in full; an empty cell where one does not apply."""
    headings = [rows[0]] if rows else []
    return csv_of([*headings, *(row.values() for row in rows)])


def latex_text(rows: Sequence[Row], caption: str, *, label: str = "", note: str = "") -> str:
    """The rows as a LaTeX table that needs the package booktabs; a last row of sums stands apart.

    Rows without any figure are left out.  note: what stands below the table
    """
    headings = list(rows[0]) if rows else []
    rows = [row for row in rows if any(isinstance(value, (int, float)) for value in row.values())]
    sides = {h: "l" if h in TEXTS or any(isinstance(row[h], str) for row in rows) else "r" for h in headings}
    columns = "".join(sides.values())
    body = [_latex_row([_cell(heading, row[heading]) for heading in headings]) for row in rows]
    if rows and rows[-1][headings[0]] == "all":
        body.insert(-1, r"\midrule")
    lines = (
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escaped(caption)}}}",
        *([rf"\label{{{label}}}"] if label else []),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(_latex_heading(heading, side) for heading, side in sides.items()) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *([rf"\par\smallskip\footnotesize {escaped(note)}"] if note else []),
        r"\end{table}",
    )
    return "\n".join(lines) + "\n"


def caption(counts: OperationCounts) -> str:
    """What a table needs said above it: images and steps."""
    steps = "" if counts.time_steps is None else f", T = {counts.time_steps}"
    return f"Operations and energy of one image, estimated, mean over {counts.images:,} images{steps}."


def sources(accounts: Sequence[Account]) -> str:
    """What stands below it: each convention with its source."""
    return f"Conventions: {'; '.join(f'{a.convention}: {a.source}' for a in accounts if a.energy is not None)}."


def escaped(text: str) -> str:
    """A text for LaTeX, which prints it as it is."""
    # else two of them would be one dash
    return "".join(ESCAPES.get(sign, sign) for sign in printable(text)).replace("--", "-{}-")


def left_out(account: Account) -> str:
    """A sentence on the places that compute and that a convention does not see; empty where there are none."""
    if not account.excluded:
        return ""
    groups = [f"{len(names)} {kind} ({_some(names)})" for kind, names in account.excluded.items()]
    return f"{account.convention} leaves out {'; '.join(groups)}."


def _some(names: Sequence[str]) -> str:
    others = len(names) - SHOWN
    shown = ", ".join(name or "the model" for name in names[:SHOWN])
    return f"{shown} and {others:,} more" if others > 0 else shown


def _in_lines(heading: str) -> str:
    """A heading that is as narrow as its words."""
    return heading.replace(" ", "\n").replace("-", "-\n")


def _latex_heading(heading: str, side: str) -> str:
    """The same for LaTeX, with its unit."""
    lines = escaped(_in_lines(heading)).replace("(uJ/", r"($\mu$J/").replace("\n", r"\\")
    return rf"\shortstack[{side}]{{{lines}}}"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(escaped(cell) for cell in cells) + r" \\"


def _cell(heading: str, value: Any) -> str:
    if heading == PLACE and value == "":
        return "the model"
    if heading == RATE and value is not None:
        return f"{value:.1%}"
    return number(value)
