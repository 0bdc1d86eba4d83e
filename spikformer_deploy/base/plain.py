"""Plain values out of files: each is compared with what it must be before anything is made of it."""

from __future__ import annotations

from typing import Any

LARGEST_WHOLE = 2**53
"""Numbers of files are exact in double precision."""
MOST_SHOWN = 60
"""Characters of a value that an error shows."""


def table(place: str, raw: Any) -> dict[str, Any]:
    """`raw`, which must be a table; ValueError names its place."""
    require(isinstance(raw, dict), f"{place} {shown(raw)} instead of a table")
    return dict(raw)


def training_record(raw: Any) -> dict[str, Any]:
    """What a file says of its training, a table; where it holds a recipe, that is one, too.  Raises ValueError."""
    training = table("training", raw)
    recipe = table("training.recipe", training.get("recipe", {}))
    table("training.recipe.model", recipe.get("model", {}))
    return training


def shown(raw: Any) -> str:
    """A value as an error shows it."""
    text = repr(raw)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def require(holds: bool, problem: str) -> None:
    """Raise ValueError where something does not hold."""
    if not holds:
        raise ValueError(problem)
