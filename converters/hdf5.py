"""HDF5 files of others, read as nested dicts of arrays and words: nothing outside the file, nothing without an end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.files import check_file

MAGIC = b"\x89HDF\r\n\x1a\n"
LARGEST_BYTES = 2**31
"""Of all arrays of a file together."""
LARGEST_GROWTH = 256
"""Arrays may be that many times larger than the file, which may hold them compressed, or as fill values."""
SMALL = 2**24
"""Bytes that a file of any size may have: of a small one most is fill values."""
DEEPEST = 16
"""Groups inside groups."""
MOST_MEMBERS = 2**17


def members(path: Path) -> set[str]:
    """The names in the root of an HDF5 file; InputError where it cannot be read."""
    with _opened(path) as file:
        return set(file)


def tree(path: Path, *names: str) -> dict[str, Any]:
    """Those members `names` of the root that are there, as nested dicts of arrays, numbers, words and lists of words.

    Raises InputError for a file that is damaged, has links or data that stand elsewhere, or is absurdly large.
    """
    with _opened(path) as file:
        reader = _Reader(min(LARGEST_BYTES, SMALL + LARGEST_GROWTH * path.stat().st_size))
        return {name: reader.read(file, name, 0) for name in names if name in file}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file; whatever HDF5 says against it as an InputError."""
    try:
        import h5py
    except ImportError:
        raise InputError(str(path), "reading HDF5 files needs h5py", "pip install h5py") from None
    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(str(path), f"it cannot be read as HDF5: {error}") from None


class _Reader:
    """Reads members one by one, with what is `left` of the bytes and of the members."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.left = most_bytes
        self.members_left = MOST_MEMBERS

    def read(self, group: Any, name: str, depth: int) -> Any:
        """A member of a group, with all that is in it; ValueError for what no reader of a stranger's file follows."""
        import h5py

        # a group may stand in several groups, itself among them: both bounds end what else would not
        self.members_left -= 1
        if depth > DEEPEST or self.members_left < 0:
            raise ValueError(f"'{name}' stands in more than {DEEPEST} groups, or is one of {MOST_MEMBERS:,} members")
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"'{name}' is a link")
        item = group[name]
        if isinstance(item, h5py.Group):
            return {child: self.read(item, child, depth + 1) for child in item}
        if not isinstance(item, h5py.Dataset):
            raise ValueError(f"'{name}' is neither a group nor data")
        if item.external or item.is_virtual:
            raise ValueError(f"'{name}' stands in another file")
        if item.shape is None:
            raise ValueError(f"'{name}' is empty")
        return self._values(h5py, item, name)

    def _values(self, h5py: Any, item: Any, name: str) -> Any:
        # before anything is read: the size is in the header
        self.left -= item.size * item.dtype.itemsize
        if self.left < 0:
            raise ValueError(f"its arrays are larger than {self.most_bytes:,} bytes")
        if item.dtype.kind == "S" or h5py.check_string_dtype(item.dtype) is not None:
            return _words(item[()])
        if item.dtype.kind not in "iufb":
            raise ValueError(f"'{name}' is neither numbers nor a word")
        return item[()]


def _words(value: Any) -> Any:
    """A word, or nested lists of words."""
    if isinstance(value, np.ndarray):
        return [_words(part) for part in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
