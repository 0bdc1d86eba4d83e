"""The user's folder for what can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path | None:
    """As the system has it; None for a user without a home, unless a variable names the folder."""
    if sys.platform == "win32":
        return Path(os.environ["LOCALAPPDATA"]) if "LOCALAPPDATA" in os.environ else _below_home("AppData", "Local")
    if sys.platform == "darwin":
        return _below_home("Library", "Caches")
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # a path that is not absolute is to be ignored (XDG Base Directory Specification)
    return given if given.is_absolute() else _below_home(".cache")


def _below_home(*names: str) -> Path | None:
    try:
        return Path.home().joinpath(*names)
    except RuntimeError:
        return None
