"""Workers of Dask: processes of this machine, or a cluster that is there.

Functions, items and results are pickled between the processes of one user, as Dask does it: no pickle comes from a
file.  docs/cluster.md says whom a shared scheduler trusts.
"""

from __future__ import annotations

import logging
import pickle
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, NamedTuple
from uuid import uuid4

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker

from spikformer_deploy.base.errors import BackendError, InputError
from spikformer_deploy.inference.seam import AT_ONCE, Item, Result

PACKAGE = "spikformer-deploy"
WORKERS = "--workers"
SCHEDULER = "--scheduler"
WAY_OUT = "Give the address that the scheduler says when it starts, tcp://HOST:PORT."
LOOPBACK = "127.0.0.1"
LOOK_SECONDS = 1.0
"""Between two looks at which workers there are."""
ANSWER_SECONDS = 30
"""Until a scheduler answers."""
WORKER_SECONDS = 120
"""Without any worker: new ones may be on their way."""
NEVER = "1 TiB"
"""A size that no function has: Dask would warn of those above 10 MB, and ours hold programs."""

OF_OUR_OWN = {
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Dask has glibc give memory back at once, and every batch fetches it anew: images take 1.6 times as long.
    # These are where glibc's own thresholds end up in a process that works on large arrays.
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**26,
}
"""Dask's settings for processes that we start: they serve no pages, and what dies and is begun again is no error."""

_alone = Lock()
"""In a worker: one item at a time."""


class _Received:
    """The function of a map as a worker holds it: sent as bytes, once, and the same object for every item."""

    def __init__(self, content: bytes) -> None:
        self.function: Callable[[Any], Any] = pickle.loads(content)

    def __reduce__(self) -> tuple[type[_Received], tuple[bytes]]:
        return _Received, (pickle.dumps(self.function),)


def _call(received: _Received, item: Any, sender: str) -> Any:
    """In a worker: one item, on the threads that Dask says it has; sender: the version of this package there."""
    if _installed() != sender:
        place = f"worker {get_worker().address}"
        raise InputError(place, f"it has {PACKAGE} {_installed()}, and {sender} sends the work", "Install one version.")
    with _alone:
        _use_threads(get_worker().state.nthreads)
        return received.function(item)


@cache
def _installed() -> str:
    """The version of this package in this process."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def _use_threads(count: int) -> None:
    """Let torch and compiled loops work on that many threads."""
    import numba
    import torch

    # numba's number is one of each Python thread, and torch's one of the process
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


class _Given(NamedTuple):
    """An item that a worker has: its number, and the worker's address (another may have taken it over)."""

    number: int
    address: str


def _preferring(address: str) -> dict[str, Any]:
    """How Dask is told where to do something: there, or where it can if that worker dies."""
    return {"workers": [address], "allow_other_workers": True}


def dask_setup(worker: Any) -> None:
    """Called by Dask as our own workers start: Ctrl-C reaches them, too, and this process is to end them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Cluster:
    """The workers of a Dask scheduler.

    option  by which the user asked for them, for errors
    """

    elsewhere = True

    def __init__(self, client: Client, option: str) -> None:
        self.apart = option == SCHEDULER
        self._client = client
        self._option = option
        self._looked = -LOOK_SECONDS
        self._addresses: list[str] = []

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], at_once: int = AT_ONCE
    ) -> Iterator[tuple[int, Result]]:
        """As Pool.map."""
        name = f"{PACKAGE}-{uuid4().hex}"
        # a task, and no scattered value: where all workers that hold it die, Dask makes it anew
        content = self._client.submit(bytes, pickle.dumps(function), key=name)
        received: dict[str, Future] = {}
        given: dict[Future, _Given] = {}
        done: SimpleQueue[Future] = SimpleQueue()
        todo = enumerate(items)
        following = next(todo, None)
        while given or following is not None:
            while following is not None and (address := self._free(given, at_once)):
                number, item = following
                function_there = self._received(content, address, received)
                future = self._client.submit(
                    _call, function_there, item, _installed(), key=f"{name}-{number}", **_preferring(address)
                )
                given[future] = _Given(number, address)
                future.add_done_callback(done.put)
                following = next(todo, None)
            finished = self._next(done)
            yield given.pop(finished).number, self._result(finished)

    def _received(self, content: Future, address: str, received: dict[str, Future]) -> Future:
        """The function as the worker of that address holds it; what workers held that are gone is forgotten.

        Each has its own: of one value that several workers hold, Dask drops what it takes for needless copies.
        """
        for gone in received.keys() - {address, *self._addresses}:
            del received[gone]
        if address not in received:
            key = f"{content.key}-{address}"
            received[address] = self._client.submit(_Received, content, key=key, **_preferring(address))
        return received[address]

    def _free(self, given: dict[Future, _Given], at_once: int) -> str | None:
        """The worker that has fewest items, and fewer than `at_once`; waits where nobody has any."""
        having = Counter(item.address for item in given.values())
        workers = self._workers() if given else self._first_workers()
        free = min(workers, key=lambda address: having[address], default=None)
        return free if free is not None and having[free] < at_once else None

    def _workers(self) -> list[str]:
        """Addresses of those that work, as of a moment ago."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            found = self._client.scheduler_info()["workers"]
            self._addresses = sorted(address for address, worker in found.items() if worker["status"] == "running")
            self._looked = time.monotonic()
        return self._addresses

    def _first_workers(self) -> list[str]:
        """As _workers, at least one.  Raises BackendError where none comes."""
        end = time.monotonic() + WORKER_SECONDS
        while not (workers := self._workers()):
            self._check_time(end)
            time.sleep(LOOK_SECONDS)
        return workers

    def _next(self, done: SimpleQueue[Future]) -> Future:
        """The next future that is done.  Raises BackendError where all workers are gone, and none comes."""
        end = time.monotonic() + WORKER_SECONDS
        while True:
            try:
                return done.get(timeout=LOOK_SECONDS)
            except Empty:
                if self._workers():
                    end = time.monotonic() + WORKER_SECONDS
                self._check_time(end)

    def _check_time(self, end: float) -> None:
        if time.monotonic() > end:
            problem = f"there has been no worker for {WORKER_SECONDS} seconds"
            raise BackendError(self._option, problem, "Start workers; a run with -o goes on with --resume.")

    def _result(self, future: Future) -> Any:
        """What a worker found, or the error that it met."""
        try:
            return future.result()
        except KilledWorker as error:
            problem = f"{error.allowed_failures + 1} workers died over the same work"
            raise BackendError(self._option, problem, "Give less to each: --memory-limit, fewer workers.") from None
        except (CancelledError, OSError) as error:
            if isinstance(error, OSError) and future.status == "error":  # met by the work itself
                raise
            raise BackendError(
                self._option, "the scheduler is gone", "Start it again; a run with -o goes on with --resume."
            ) from None
        except (ModuleNotFoundError, AttributeError) as error:
            if isinstance(error, AttributeError) and not str(error).startswith("Can't get attribute"):
                raise
            problem = f"a worker lacks what this process has: {error}"
            raise BackendError(self._option, problem, f"Install {PACKAGE} there as here.") from error


@contextmanager
def own(workers: int) -> Iterator[_Cluster]:
    """Processes of this machine, which end with the context; their scheduler listens on loopback alone."""
    import torch

    threads = max(1, torch.get_num_threads() // workers)
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    settings = {
        # memory is the business of --memory-limit: Dask would write values to disk, and end workers
        "memory_limit": 0,
        "env": environment,
        "preload": [__name__],
        "dashboard_address": None,
        "scheduler_kwargs": {"dashboard_address": f"{LOOPBACK}:0"},
    }
    with _quiet(), dask.config.set(OF_OUR_OWN):
        try:
            cluster = LocalCluster(n_workers=workers, threads_per_worker=threads, host=LOOPBACK, **settings)
        except RuntimeError as error:
            way_out = 'In a script, ask for workers below if __name__ == "__main__": each of them imports it.'
            raise BackendError(WORKERS, f"they do not start: {error}", way_out) from error
        with cluster, Client(cluster, set_as_default=False) as client:
            yield _Cluster(client, WORKERS)


@contextmanager
def shared(address: str) -> Iterator[_Cluster]:
    """The workers of a scheduler that is there.  Raises InputError where nobody answers."""
    _check_answer(address)
    with _quiet():
        try:
            client = Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:  # certificates that do not fit, another protocol
            raise InputError(SCHEDULER, f"'{address}' is no scheduler that takes us: {error}", WAY_OUT) from None
        with client:
            yield _Cluster(client, SCHEDULER)


def _check_answer(address: str) -> None:
    """Before Dask tries for long, and does not say why."""
    match = re.fullmatch(r"(tcp|tls)://(.+):(\d{1,5})", address)
    if match is None:
        raise InputError(SCHEDULER, f"'{address}' is no address", WAY_OUT)
    try:
        socket.create_connection((match[2].strip("[]"), int(match[3])), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(SCHEDULER, f"'{address}' does not answer: {reason}", WAY_OUT) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask's log says in its own words what dies and is begun again, and its warnings that programs are large."""
    logs = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": NEVER}):
            yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
