"""CSV files, which people open in spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from spikformer_deploy.base.errors import printable

FORMULA = ("=", "+", "-", "@")
"""What formulas begin with."""


def csv_of(lines: Iterable[Iterable[Any]]) -> str:
    """Lines of cells as CSV, figures in full; None is an empty cell.

    Names come from files: one that a spreadsheet would take for a formula has an apostrophe before it.
    """
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([_inert(cell) for cell in line] for line in lines)
    return stream.getvalue()


def _inert(value: Any) -> Any:
    """A cell that no spreadsheet computes; numbers are as they are."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA) else text
