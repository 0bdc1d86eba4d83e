"""Files are read where they are files, and written whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from pathlib import Path
from typing import IO

from spikformer_deploy.base.errors import InputError

POINTER = b"version https://git-lfs.github.com/spec/v1"
"""What stands in the place of a large file until Git LFS has fetched it."""
LARGEST_TEXT = 2**22
"""Bytes of a profile or a recipe, which persons write."""
PROBE = bytes(4096)
"""What a full disk has no room for."""
NO_FILE = "it is a pipe, a socket or a device, and no file"
READ_AND_WRITE = 0o666
"""Rights of a new file, for everybody whom the user does not exclude."""
LONGEST_START = 40
"""Characters of a name that a temporary name takes over."""


# --- reading ------------------------------------------------------------------------------------------------------


def check_file(path: Path, way_out: str = "Give a file.") -> None:
    """Raise InputError unless `path` is a file that can be read, whose content is there.

    A pipe could keep a reader waiting for ever, and a device has no end: neither is opened.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError(str(path), "it is a folder", way_out)
        if not stat.S_ISREG(mode):
            raise InputError(str(path), NO_FILE, "Save it to a file.")
        with path.open("rb") as stream:
            check_content(str(path), stream.read(len(POINTER)))
    except FileNotFoundError:
        problem = "it is a link that leads to nothing" if path.is_symlink() else "there is no such file"
        raise InputError(str(path), problem, way_out) from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"it cannot be read: {_reason(error)}", way_out) from None


def check_content(place: str, head: bytes) -> None:
    """Raise InputError where the first bytes of a file are those of a pointer of Git LFS."""
    if head.startswith(POINTER):
        problem = "it is a pointer of Git LFS, and the file itself has not been fetched"
        raise InputError(place, problem, "Fetch it: git lfs pull.")


def text_of(path: Path, way_out: str = "Give a file.") -> str:
    """The text of a profile or a recipe.  Raises InputError for what is no file, no UTF-8, or absurdly long."""
    check_file(path, way_out)
    size = path.stat().st_size
    if size > LARGEST_TEXT:
        raise InputError(str(path), f"it has {size:,} bytes, and no text of its kind has more than {LARGEST_TEXT:,}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"it cannot be read: {_reason(error)}") from None


# --- writing ------------------------------------------------------------------------------------------------------


def check_output(path: Path) -> None:
    """Raise InputError where `path` cannot become a file: better before the work than after it.

    The folder must be there, and take a file; `path` may be a file, a link to one, or nothing yet.
    """
    _check_place(path)
    check_folder(path)
    with writing(path), _temporary(_target(path)) as (stream, _):
        stream.write(PROBE)


def check_folder(path: Path) -> None:
    """Raise InputError where the folder of `path` is missing."""
    if not os.path.isdir(path.parent):
        raise _unwritable(path, "there is no such folder", "Give a path in an existing folder.")


def check_new_folder(folder: Path) -> None:
    """Raise InputError unless `folder` is empty, or not there and can be made."""
    with writing(folder):
        if _stands(folder) and not (os.path.isdir(folder) and not os.path.islink(folder) and not os.listdir(folder)):
            raise InputError(str(folder), "it exists", "Name a new folder, or an empty one.")
    check_folder_output(folder)


def check_folder_output(folder: Path) -> None:
    """Raise InputError where `folder` cannot take files, or cannot be made."""
    with writing(folder):
        nearest = folder
        while not _stands(nearest) and nearest != nearest.parent:
            nearest = nearest.parent
        if not os.path.isdir(nearest):
            raise _unwritable(folder, f"'{nearest}' is no folder", "Give the name of a folder.")
        with _temporary(nearest / "probe") as (stream, _):
            stream.write(PROBE)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name in the same folder and move it into place.

    Raises InputError where the folder is missing or cannot be written to, or `path` is a folder, a pipe or a device;
    it is then as it was.
    """
    _check_place(path)
    target = _target(path)
    with writing(path), _temporary(target) as (stream, temporary):
        stream.write(content)
        stream.close()
        # a temporary file can be read by its owner only: this one becomes a file like any other
        os.chmod(temporary, READ_AND_WRITE & ~_umask())
        os.replace(temporary, target)


def _umask() -> int:
    """The bits that the user takes off the rights of new files; to read it, it must be set."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _check_place(path: Path) -> None:
    """Raise InputError where something stands at `path` that a file must not replace."""
    with writing(path):
        if not _stands(path):
            return
    if not os.path.exists(path):
        raise _unwritable(path, "it is a link that leads to nothing", "Remove the link, or give another name.")
    if os.path.isdir(path):
        raise _unwritable(path, "it is a folder", "Give the name of a file.")
    if not os.path.isfile(path):
        raise _unwritable(path, NO_FILE, "Give the name of a file.")
    if not os.access(path, os.W_OK):
        raise _unwritable(path, "it is read-only", "Give another name.")


def _stands(path: Path) -> bool:
    """Whether there is anything at `path`; OSError where the system cannot even look."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise OSError(EINVAL, str(error)) from None
    return True


def _target(path: Path) -> Path:
    """The file that is written to: a link stays, and what it leads to is replaced."""
    return Path(os.path.realpath(path))


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[IO[bytes], str]]:
    """A new file beside `path`, and its name; it is gone afterwards, unless it was moved."""
    # the name may be as long as a name can be, and this one is longer
    beside = tempfile.NamedTemporaryFile(  # noqa: SIM115
        prefix=f".{path.name[:LONGEST_START]}.", suffix=".partial", dir=path.parent, delete=False
    )
    try:
        with beside:
            yield beside, beside.name
    finally:
        Path(beside.name).unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says against writing `path`, as an InputError."""
    try:
        yield
    except OSError as error:
        way_out = "Give a path in an existing folder." if isinstance(error, FileNotFoundError) else ""
        raise _unwritable(path, _reason(error), way_out) from None


def _unwritable(path: Path, reason: str, way_out: str = "") -> InputError:
    return InputError(str(path), f"it cannot be written: {reason}", way_out)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
