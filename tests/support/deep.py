"""What `make test` leaves to `make test-deep`: more cases and more random examples of the same kind."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings

DEEP = "DEEP" in os.environ
"""Whether this is a run of `make test-deep`."""


def some(few: Iterable[Any], more: Iterable[Any]) -> list[Any]:
    """Values for `pytest.mark.parametrize`: `few` in every run, `more` in the deep one only."""
    rows = (values if isinstance(values, tuple) else (values,) for values in more)
    return [*few, *(pytest.param(*row, marks=pytest.mark.deep) for row in rows)]


def examples(few: int, many: int) -> Callable[[Any], Any]:
    """Settings of a property: `few` examples in every run, the first of them the simplest; `many` in the deep one."""

    def decorate(test: Any) -> Any:
        limited = settings(max_examples=many if DEEP else few, deadline=None)(test)
        return pytest.mark.deep(limited) if DEEP else limited

    return decorate
