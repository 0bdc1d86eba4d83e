"""The report as one HTML page that works offline: everything is in it, and everything inserted is escaped."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spikformer_deploy.base.errors import printable
from spikformer_deploy.report import figures, svg
from spikformer_deploy.report.sheets import SITE_HEADINGS, Sheet, sheets
from spikformer_deploy.report.shown import envelope, joules, likely, micro, nominal, percent
from spikformer_deploy.report.tables import number

KINDS_OF_FILES = (("csv", "CSV", "text/csv"), ("tex", "LaTeX", "text/plain"))
"""Ending, name and type of the files of a table."""
MOST_CELLS = 4000
"""Of a table whose files are in the page."""


def render(data: dict[str, Any]) -> str:
    """The page of `data` (see data.report_data)."""
    tables = sheets(data)
    pictures = figures.figures(data) | {"scale": svg.scale(), "narrow-energies": figures.narrow_energies(data)}
    timed = [layer for layer in data["layers"] if layer["energy_mj"] is not None]
    return (
        pages()
        .get_template("report.html.j2")
        .render(
            data,
            target=figures.target_of(data),
            role_of={constant["path"]: constant["role"] for constant in data["constants"]},
            pictures={name: Markup(picture) for name, picture in pictures.items()},
            files={name: _links(name, sheet) for name, sheet in tables.items()},
            sites=tables["sites"].rows,
            site_headings=SITE_HEADINGS,
            most_mj=max((layer["energy_mj"] for layer in timed), default=0.0),
            most_us=max((layer["busy_us"] for layer in timed), default=0.0),
            figure_style=figures.STYLE,
        )
    )


def _links(name: str, sheet: Sheet) -> Markup:
    """Links that save a table, offline: the files are in the page, where they are not too long for it."""
    if len(sheet.rows) * len(sheet.rows[0]) > MOST_CELLS:
        return Markup('<span class="dim">too long for this page: report --csv DIR has it</span>')
    texts = {"csv": sheet.csv, "tex": sheet.latex}
    links = []
    for ending, title, kind in KINDS_OF_FILES:
        content = base64.b64encode(texts[ending].encode()).decode()
        link = '<a class="file" download="{}.{}" href="data:{};base64,{}">{}</a>'
        links.append(Markup(link).format(name, ending, kind, content, title))
    return Markup(" ").join(links)


def pages() -> Environment:
    """The templates, with what shows figures; everything inserted is escaped."""
    environment = Environment(
        loader=PackageLoader("spikformer_deploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"si": svg.si, "percent": percent, "joules": joules, "micro": micro, "score": number}
    environment.filters |= {"likely": likely, "nominal": nominal, "envelope": envelope}
    return environment


def _shown(value: Any) -> Any:
    """What stands in the page for a value: control characters, which may hide or turn text, as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
