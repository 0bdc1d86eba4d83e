"""What `make test` leaves to `make test-long`, and that to `make test-deep`: more cases of the same kind.

`make test` is for every change, in minutes.  `make test-long` runs what takes seconds by itself, whole journeys and the
other cases of a table: `@pytest.mark.long`, and what `some` and `thinned` put there.  `make test-deep` has many more.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import settings

LONG = "LONG" in os.environ
"""Whether this is a run of `make test-long`."""
DEEP = "DEEP" in os.environ
"""Whether this is a run of `make test-deep`."""


def some(few: Iterable[Any], more: Iterable[Any] = (), *, long: Iterable[Any] = ()) -> list[Any]:
    """Values for `pytest.mark.parametrize`: `few` in `make test`, `long` in the long run, `more` in the deep one."""
    return [*few, *_marked(long, pytest.mark.long), *_marked(more, pytest.mark.deep)]


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """Values for `pytest.mark.parametrize`: of `cases` each `every`th in `make test`, the others in the long run."""
    every_case = list(cases)
    return some(every_case[::every], long=[case for number, case in enumerate(every_case) if number % every])


def _marked(cases: Iterable[Any], mark: Any) -> list[Any]:
    rows = (values if isinstance(values, tuple) else (values,) for values in cases)
    return [pytest.param(*row, marks=mark) for row in rows]


def examples(few: int, many: int, *, long: int = 0) -> Callable[[Any], Any]:
    """Settings of a property: `few` examples in `make test`, the first of them the simplest; `many` in the deep run,
    and `long`, unless it is 0, in the long one."""

    def decorate(test: Any) -> Any:
        if DEEP:
            return pytest.mark.deep(settings(max_examples=many, deadline=None)(test))
        if LONG and long:
            return pytest.mark.long(settings(max_examples=long, deadline=None)(test))
        return settings(max_examples=few, deadline=None)(test)

    return decorate
