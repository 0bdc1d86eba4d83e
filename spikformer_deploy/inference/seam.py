"""The one seam through which work leaves this process: `pool.map(function, items)`, here or by workers.

Here is a loop.  Workers are Dask's (cluster.py, imported where somebody asks for them), and nothing else knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Protocol, TypeVar

from spikformer_deploy.base.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 2
"""Items that a worker has: one that it works on, and the next, so that it never waits."""


class Work:
    """A `function` of Pool.map, as a frozen dataclass without slots: its fields are sent, and nothing else.

    What it works out once, such as a functools.cached_property, each process works out for itself.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


class Pool(Protocol):
    """Who computes.

    elsewhere  whether functions, items and results leave this process, and so are pickled
    apart      whether workers may have another working folder: relative paths mean nothing to them
    """

    @property
    def elsewhere(self) -> bool: ...

    @property
    def apart(self) -> bool: ...

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], at_once: int = AT_ONCE
    ) -> Iterator[tuple[int, Result]]:
        """(number of the item, result) as they come, each item once, whatever dies meanwhile.

        function  a module's own, or an instance of a module's class (see Work).  It is sent once a worker, and lives
                  there as long as the map does; again where a scheduler moves an item to an idle worker.  A worker
                  calls it for one item at a time, on its share of the threads.
        items     are taken as workers come free: they may be read while the map goes on
        at_once   items that a worker has: 1 where each takes seconds, so that the last ones are shared out evenly
        Raises what `function` raises, and BackendError where the workers are lost.
        """
        ...


class _Here:
    """This process, one item after the other."""

    elsewhere = False
    apart = False

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], at_once: int = AT_ONCE
    ) -> Iterator[tuple[int, Result]]:
        for number, item in enumerate(items):
            yield number, function(item)


HERE: Pool = _Here()


@contextmanager
def pool(workers: int | None = None, scheduler: str | None = None) -> Iterator[Pool]:
    """Who computes: this process, unless told otherwise.

    workers    that many processes of this machine, which share its threads and end with the pool
    scheduler  the address of a cluster that is there, tcp://HOST:PORT
    Raises InputError for both at once, no worker, a library that is missing, a scheduler that does not answer.
    """
    if workers is None and scheduler is None:
        yield HERE
        return
    if workers is not None and scheduler is not None:
        problem = "a cluster that is there has workers of its own"
        raise InputError("--workers", problem, "Give --workers or --scheduler.")
    if workers is not None and workers < 1:
        raise InputError("--workers", f"{workers} workers", "Give at least 1.")
    try:
        from spikformer_deploy.inference import cluster
    except ModuleNotFoundError as error:
        place = "--workers" if scheduler is None else "--scheduler"
        raise InputError(place, f"{error}", 'Install "spikformer-deploy[cluster]".') from None
    with cluster.own(workers) if workers is not None else cluster.shared(str(scheduler)) as found:
        yield found


def in_order(results: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """The results of a map by the numbers of their items; those that come too early wait."""
    early: dict[int, Result] = {}
    due = 0
    for number, result in results:
        early[number] = result
        while due in early:
            yield early.pop(due)
            due += 1
