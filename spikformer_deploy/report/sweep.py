"""The results of a sweep for people: one HTML page that works offline, a CSV file, and a table for the terminal."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich.table import Table

from spikformer_deploy.base.files import write_whole
from spikformer_deploy.report import plots, svg
from spikformer_deploy.report.html import pages
from spikformer_deploy.report.shown import joules, micro, percent
from spikformer_deploy.report.spreadsheet import csv_of
from spikformer_deploy.space.axes import SETTINGS, point_of
from spikformer_deploy.space.budget import Verdict, best, parse_budget, verdicts
from spikformer_deploy.space.commands import command_of
from spikformer_deploy.space.criteria import CRITERIA
from spikformer_deploy.space.fronts import COSTS, front

if TYPE_CHECKING:
    from spikformer_deploy.space.sweep import Swept

PAGE = "index.html"
TABLE = "results.csv"
SHOWN_REASONS = 3
"""Of those why points are refused: the page has them all."""
MOST_PATHS = 8
"""Points whose time steps are drawn: of more than that nobody can tell the lines apart."""


def _count(value: float) -> str:
    return f"{value:,.0f}"


SHOWN: dict[str, Callable[[float], str]] = {
    "accuracy": percent,
    "energy": joules,
    "latency": micro,
    "throughput": svg.si,
    "cores": _count,
    "chips": _count,
    "memory": _count,
}
"""How the figure of each criterion is shown."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A sweep with what is to be said of its rows.

    fronts    by cost, the numbers of the rows on its front
    verdicts  of each row; best: by criterion, the number of a row
    """

    swept: Swept
    fronts: dict[str, list[int]]
    verdicts: list[Verdict]
    best: dict[str, int]

    def where(self, number: int) -> list[str]:
        """The costs on whose fronts a row is."""
        return [cost for cost, numbers in self.fronts.items() if number in numbers]


def judged(swept: Swept) -> Judged:
    """Fronts, and what keeps to the budget of the space."""
    budget = parse_budget(swept.space.budget)
    fronts = {cost: front(swept.rows, cost) for cost in COSTS}
    return Judged(swept, fronts, verdicts(swept.rows, budget), best(swept.rows, budget))


def write_sweep(swept: Swept, folder: Path) -> None:
    """Write the page and the CSV file.  Raises InputError where the folder cannot be written to."""
    found = judged(swept)
    table = csv_text(found)
    write_whole(folder / TABLE, table.encode())
    write_whole(folder / PAGE, page(found, table).encode())


# --- the CSV file -----------------------------------------------------------------------------------------------------


def csv_text(found: Judged) -> str:
    """A line a row: settings, figures with their likely intervals, fronts, budget, command; empty where unknown."""
    headings: list[str] = []
    for name, criterion in CRITERIA.items():
        column = f"{name} ({criterion.unit})" if criterion.unit else name
        headings += [column] if criterion.likely is None else [column, f"{column} likely low", f"{column} likely high"]
    lines: list[list[Any]] = [[*SETTINGS, *headings, "fronts", "budget", "refused", "command"]]
    for number, row in enumerate(found.swept.rows):
        figures: list[Any] = []
        for criterion in CRITERIA.values():
            known = "refused" not in row
            figures.append(criterion.of(row) if known else None)
            if criterion.likely is not None:
                figures += criterion.likely(row) if known else (None, None)
        ends = [" ".join(found.where(number)), _verdict(found, number), row.get("refused", "")]
        settings = [row[name] for name in SETTINGS]
        lines.append([*settings, *figures, *ends, command_of(point_of(row), found.swept.space, found.swept.own)])
    return csv_of(lines)


def _verdict(found: Judged, number: int) -> str:
    return str(found.verdicts[number]) if found.swept.space.budget else ""


# --- the page ---------------------------------------------------------------------------------------------------------


def page(found: Judged, table: str) -> str:
    """The page; table: the content of the CSV file, which the page holds, too."""
    rows = found.swept.rows
    standing = [number for number, row in enumerate(rows) if "refused" not in row]
    differs = [name for name in SETTINGS if len({row[name] for row in rows}) > 1]
    same = {name: rows[0][name] for name in SETTINGS if name not in differs} if rows else {}
    pictures = {CRITERIA[cost].title: Markup(_scatter(found, cost, standing, differs)) for cost in COSTS}
    return (
        pages()
        .get_template("sweep.html.j2")
        .render(
            space=found.swept.space,
            notes=found.swept.notes,
            same=same,
            differs=differs,
            criteria=CRITERIA,
            points=[_shown_point(found, number, differs) for number in standing],
            refused=[rows[number] for number in range(len(rows)) if number not in standing],
            best=[_shown_best(found, name, number, differs) for name, number in found.best.items()],
            keeps=sum(verdict is not Verdict.NO for verdict in found.verdicts),
            judged=bool(found.fronts["energy"]),
            pictures=pictures if found.fronts["energy"] else {},
            steps=Markup(plots.paths(lines, joules, percent)) if (lines := _lines(found, differs)) else "",
            lines=plots.legend([name for name, _ in lines]),
            csv=base64.b64encode(table.encode()).decode(),
        )
    )


def _shown_point(found: Judged, number: int, differs: Sequence[str]) -> dict[str, Any]:
    """A row of the table: by column what is shown, and what it is sorted by."""
    row = found.swept.rows[number]
    figures = []
    for name, criterion in CRITERIA.items():
        value = criterion.of(row)
        interval = criterion.interval(row)
        text = "-" if value is None else SHOWN[name](value)
        likely = "" if interval is None else " to ".join(map(SHOWN[name], interval))
        figures.append({"value": "" if value is None else repr(value), "text": text, "likely": likely})
    return {
        "number": number,
        "settings": [row[name] for name in differs],
        "figures": figures,
        "fronts": found.where(number),
        "verdict": _verdict(found, number),
        "command": command_of(point_of(row), found.swept.space, found.swept.own),
    }


def _shown_best(found: Judged, name: str, number: int, differs: Sequence[str]) -> dict[str, Any]:
    value = CRITERIA[name].of(found.swept.rows[number])
    assert value is not None
    return {
        "title": CRITERIA[name].title,
        "text": SHOWN[name](value),
        "accuracy": "" if name == "accuracy" else _accuracy(found.swept.rows[number]),
        "number": number,
        "name": _named(found.swept.rows[number], differs),
    }


def _accuracy(row: dict[str, Any]) -> str:
    """That of a row; "-" where it is not known."""
    value = CRITERIA["accuracy"].of(row)
    return "-" if value is None else percent(value)


def _named(row: dict[str, Any], differs: Sequence[str]) -> str:
    """A point by what tells it from others."""
    return ", ".join(f"{name.replace('_', ' ')} {row[name]}" for name in differs) or str(row["model"])


def _scatter(found: Judged, cost: str, standing: Sequence[int], differs: Sequence[str]) -> str:
    """Accuracy against one cost; "" where no accuracy is known."""
    price, accuracy = CRITERIA[cost], CRITERIA["accuracy"]
    rows = found.swept.rows
    spots = []
    for number in standing:
        x, y = price.of(rows[number]), accuracy.of(rows[number])
        if x is None or y is None:
            continue
        inside = found.verdicts[number] is not Verdict.NO
        kind = "target" if number in found.fronts[cost] else "spiking" if inside else "ann"
        title = f"{_named(rows[number], differs)}: {percent(y)}, {SHOWN[cost](x)}"
        spots.append(plots.Spot(x, y, kind, title, f"p{number}", price.interval(rows[number])))
    if not spots:
        return ""
    ways = [(price.of(rows[number]), accuracy.of(rows[number])) for number in found.fronts[cost]]
    line = [(x, y) for x, y in ways if x is not None and y is not None]
    what = f"{price.title}, likely interval" if price.likely else price.title
    return plots.scatter(spots, line, what, SHOWN[cost], percent, counts=price.likely is None)


def _lines(found: Judged, differs: Sequence[str]) -> list[plots.NamedLine]:
    """What fewer time steps of the points on the front of energy would give; [] where there is nothing to draw."""
    lines: list[plots.NamedLine] = []
    for number in found.fronts["energy"]:
        row = found.swept.rows[number]
        after = [step for step in row["by_step"] if "profile" in (step["energy_mj"] or {})]
        if len(after) > 1:
            points = [(s["energy_mj"]["profile"]["nominal"], s["accuracy"], f"after {s['step']} steps") for s in after]
            lines.append((_named(row, differs), points))
    return lines[-MOST_PATHS:]


# --- the terminal -----------------------------------------------------------------------------------------------------


def sweep_tables(swept: Swept) -> list[Table]:
    """The best points by each criterion, and how many there are."""
    found = judged(swept)
    rows = swept.rows
    differs = [name for name in SETTINGS if len({row[name] for row in rows}) > 1]
    refused = sum("refused" in row for row in rows)
    kept = sum(verdict is not Verdict.NO for verdict in found.verdicts)
    title = f"{len(rows)} points, {refused} refused" + (f", {kept} keep to the budget" if swept.space.budget else "")
    table = Table(title=title, title_justify="left")
    for column in ("best in", "value", "accuracy", *(name.replace("_", " ") for name in differs)):
        table.add_column(column)
    for name, number in found.best.items():
        value = CRITERIA[name].of(rows[number])
        assert value is not None
        settings = (str(rows[number][setting]) for setting in differs)
        table.add_row(CRITERIA[name].title, SHOWN[name](value), _accuracy(rows[number]), *settings)
    return [table]


def refusals(swept: Swept) -> list[str]:
    """Why points are refused, for a terminal: the first of them that has a reason, and of how many it is the reason."""
    rows = swept.rows
    differs = [name for name in SETTINGS if len({row[name] for row in rows}) > 1]
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if "refused" in row:
            by_reason.setdefault(row["refused"], []).append(_named(row, differs))
    lines = []
    for reason, names in list(by_reason.items())[:SHOWN_REASONS]:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"refused: {names[0]}{more}: {reason}")
    left = len(by_reason) - len(lines)
    return lines + ([f"{left} more reasons are in {PAGE}"] if left else [])
