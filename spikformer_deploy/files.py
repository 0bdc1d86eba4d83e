"""Files are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from spikformer_deploy.errors import InputError


def check_folder(path: Path) -> None:
    """Raise InputError where the folder of `path` is missing: better before the work than after it."""
    if not path.parent.is_dir():
        raise InputError(
            str(path), "it cannot be written: there is no such folder", "Give a path in an existing folder."
        )


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name in the same folder and move it into place.

    Raises InputError where the folder is missing or cannot be written to; `path` is then as it was.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise InputError(
            str(path), f"it cannot be written: {error.strerror}", "Give a path in an existing folder."
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(str(path), f"it cannot be written: {error.strerror}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
