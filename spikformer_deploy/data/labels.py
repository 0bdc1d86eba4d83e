"""Names of classes, and the file that says the class of every image: lines of `file or folder,class`."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.plain import require, shown
from spikformer_deploy.data.files import Files

MOST_BYTES = 2**27
"""A few million lines."""
MOST_NAMED = 5
"""Files without a class that an error lists."""
MOST_CLASSES = 12
"""Classes that an error lists."""
MOST_DIGITS = 9
"""A number of a class with more digits would be none of any model, and might not fit into 32 bits."""
WAY_OUT = "Give the folders the names of the model's classes, or say which file is of which class by --labels."
FORM = "Write lines of `file or folder,class`, without a first line of titles."


def class_names(raw: Any, classes: int) -> tuple[str, ...]:
    """The names of classes in plain values: none, or one a class.  Raises ValueError for anything else."""
    require(isinstance(raw, Sequence) and not isinstance(raw, str), f"class names {shown(raw)}")
    odd = [name for name in raw if not isinstance(name, str)]
    require(not odd, f"a class name of {shown(odd[0]) if odd else ''}")
    require(len(raw) in (0, classes), f"{len(raw)} class names for {classes} classes")
    return tuple(raw)


def check_names(place: str, names: Sequence[str]) -> None:
    """Raise InputError for names of classes that no folder and no line of a file of labels could mean."""
    odd = next((name for name in names if not name or name != name.strip()), None)
    if odd is not None:
        raise InputError(place, f"a class is called {odd!r}", "Give it a name without blanks around it.")
    twice = sorted({name for name, count in Counter(names).items() if count > 1})
    if twice:
        raise InputError(place, f"several classes are called {twice[0]}", "Give each class a name of its own.")


def is_number(name: str) -> bool:
    """Whether a name is a number of a class."""
    return name.isascii() and name.isdigit() and len(name) <= MOST_DIGITS


def numbers_of_nameless(names: tuple[str, ...], count: int) -> list[int]:
    """The classes of names for a model that has none: numbers, or as many names as classes, in their order."""
    if all(map(is_number, names)):
        if count > 10 and any(len(name) != len(str(count - 1)) for name in names):
            problem = f"classes named {few(names)}, and the model has no names: some programs count 10 before 2"
            raise InputError("labels", problem, WAY_OUT)
        return [int(name) for name in names]
    if len(names) != count:
        problem = f"classes named {few(names)}, and the model has {count} classes, without names"
        raise InputError("labels", problem, WAY_OUT)
    return list(range(count))


def few(names: Sequence[str]) -> str:
    """Names of classes as an error lists them."""
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    return ", ".join(names[:MOST_CLASSES]) + more


def labelled(files: Files, path: Path) -> Files:
    """The same files with the classes that a file of labels gives them, as it spells them.

    Raises InputError, with the number of the line, for what is no line of such a file, for files and folders that are
    not there and for files that get a class twice; and for files that get none.
    """
    known = {*files.names, *files.others}
    inside = _inside(known)
    classes: dict[str, str] = {}
    for number, name, stated_class in _lines(path):
        place = f"{path}: line {number}"
        meant = [name] if name in known else inside.get(name, [])
        if not meant:
            raise InputError(place, f"there is no file or folder {name}", FORM)
        twice = next((file for file in meant if file in classes), None)
        if twice is not None:
            raise InputError(place, f"{twice} has a class already", "Give each file one class.")
        classes.update(dict.fromkeys(meant, stated_class))
    bare = [name for name in files.names if name not in classes]
    if bare:
        examples = ", ".join(bare[:MOST_NAMED]) + (", ..." if len(bare) > MOST_NAMED else "")
        problem = f"{len(bare):,} of {len(files.names):,} images have no line: {examples}"
        raise InputError(str(path), problem, "Give every image a class, or none.")
    words = tuple(sorted({classes[name] for name in files.names}))
    index = {word: i for i, word in enumerate(words)}
    labels = np.array([index[classes[name]] for name in files.names], np.int64)
    return replace(files, labels=labels, classes=words)


def _inside(names: set[str]) -> dict[str, list[str]]:
    """The files in and below each folder."""
    out: dict[str, list[str]] = {}
    for name in sorted(names):
        parts = name.split("/")[:-1]
        for i in range(len(parts)):
            out.setdefault("/".join(parts[: i + 1]), []).append(name)
    return out


def _lines(path: Path) -> list[tuple[int, str, str]]:
    """(number, file or folder, class) of each line."""
    out = []
    try:
        reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
        for row in reader:
            words = [word.strip() for word in row]
            if not any(words):
                continue
            if len(words) != 2 or not all(words):
                place = f"{path}: line {reader.line_num}"
                raise InputError(place, f"it has {len(words)} values or an empty one", FORM)
            name = words[0].removeprefix("./").rstrip("/")
            out.append((reader.line_num, name, words[1]))
    except csv.Error as error:
        raise InputError(str(path), f"it is no readable list: {error}", FORM) from None
    return out


def _text(path: Path) -> str:
    """The text of a file of labels, its size looked at before."""
    try:
        if not path.is_file():
            raise InputError(str(path), "there is no such file of labels", FORM)
        if path.stat().st_size > MOST_BYTES:
            raise InputError(str(path), f"{os.path.getsize(path):,} bytes, and labels may have {MOST_BYTES:,}")
        # spreadsheets write a mark of the byte order in front
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # too long a name; no text in UTF-8
        raise InputError(str(path), f"it cannot be read: {error}", "Save it as text in UTF-8.") from None
