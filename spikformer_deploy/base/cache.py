"""The user's folder for what can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path | None:
    """As the system has it; None for a user without a home."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    match sys.platform:
        case "win32":
            return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
        case "darwin":
            return home / "Library" / "Caches"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # a path that is not absolute is to be ignored (XDG Base Directory Specification)
    return given if given.is_absolute() else home / ".cache"
