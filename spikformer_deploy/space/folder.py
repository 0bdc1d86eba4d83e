"""The folder of a sweep: rows land in it one after the other, and a sweep that was ended goes on from there.

results.jsonl has a row a line, in the order of their settings once the sweep is done; a torn last line, of a process
that was killed, is dropped.  sweep.json says what the rows are of, so that nothing else is mixed in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_file, check_folder_output, write_whole, writing
from spikformer_deploy.base.json_text import parsed, sealed, written
from spikformer_deploy.base.plain import shown
from spikformer_deploy.space.axes import Point, Row, point_of
from spikformer_deploy.space.criteria import CRITERIA

RESULTS = "results.jsonl"
ABOUT = "sweep.json"
WAY_OUT = "Give another folder, or sweep as before."


class Folder:
    """The rows that are known, by point; with a path they are in its files, too.

    about  what decides the figures of all rows, as words by name
    """

    def __init__(self, path: Path | None, about: Mapping[str, str]) -> None:
        self._path = path
        self.rows: dict[Point, Row] = {}
        if path is None:
            return
        check_folder_output(path)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        known = _checked_about(path / ABOUT, about)
        self.rows = read_rows(path / RESULTS)
        if self.rows and not known:
            raise InputError(str(path / ABOUT), f"there is no such file beside {RESULTS}", WAY_OUT)
        write_whole(path / ABOUT, (written({**known, **about}, indent=2, sort_keys=True) + "\n").encode())
        self._write_all()

    def add(self, rows: Iterable[Row]) -> None:
        """Keep the rows, on disk before anything else is done."""
        rows = [parsed(written(row)) for row in rows]
        self.rows |= {point_of(row): row for row in rows}
        if self._path is None:
            return
        with writing(self._path), (self._path / RESULTS).open("ab") as stream:
            stream.write(b"".join(_line(row) for row in rows))
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self) -> list[Row]:
        """All rows in the order of their settings; the file has them in this order from now on."""
        self._write_all()
        return [self.rows[point] for point in sorted(self.rows)]

    def _write_all(self) -> None:
        if self._path is not None:
            lines = [_line(self.rows[point]) for point in sorted(self.rows)]
            write_whole(self._path / RESULTS, b"".join(lines))


def read_rows(path: Path) -> dict[Point, Row]:
    """The rows of a results.jsonl by their points, without a torn last line; {} where there is no such file.

    Raises InputError, naming the line, for what is no row of a sweep.
    """
    if not os.path.lexists(path):
        return {}
    check_file(path, WAY_OUT)
    *lines, _torn = path.read_bytes().split(b"\n")
    rows: dict[Point, Row] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = _checked_row(parsed(line))
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(str(path), f"line {number} is no row of a sweep: {error}", WAY_OUT) from None
        rows[point_of(row)] = row
    return rows


def _line(row: Row) -> bytes:
    return (written(row) + "\n").encode()


def _checked_row(row: Any) -> Row:
    """A row with all its settings, and with figures or the reason why there are none; else ValueError."""
    if not isinstance(row, dict):
        raise ValueError(f"{shown(row)} is no table")
    for name, field in Point.__dataclass_fields__.items():
        kind = {"int": int, "str": str}[str(field.type)]
        if type(row.get(name)) is not kind:
            raise ValueError(f"{name} is {shown(row.get(name))}")
    if "refused" in row:
        if not isinstance(row["refused"], str):
            raise ValueError(f"refused is {shown(row['refused'])}")
        return row
    for criterion in CRITERIA.values():
        criterion.check(row)
    return row


def _checked_about(path: Path, about: Mapping[str, str]) -> dict[str, str]:
    """What the file says; {} where there is none.  Raises InputError where that is not what is swept now."""
    if not os.path.lexists(path):
        return {}
    check_file(path, WAY_OUT)
    try:
        known = parsed(path.read_bytes())
        sealed(known)
    except ValueError as error:
        raise InputError(str(path), f"it is no readable JSON: {error}", WAY_OUT) from None
    if not isinstance(known, dict) or not all(isinstance(value, str) for value in known.values()):
        raise InputError(str(path), "it is no record of a sweep", WAY_OUT)
    for name, value in about.items():
        if known.get(name, value) != value:
            problem = f"its rows are of another sweep: {name} was {shown(known[name])}, and is {shown(value)} now"
            raise InputError(str(path), problem, WAY_OUT)
    return known
