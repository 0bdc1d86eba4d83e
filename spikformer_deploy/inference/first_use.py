"""All compiled loops made ahead, for the types that ordinary runs have, by as many processes as there are processors.

    python -m spikformer_deploy.inference.first_use

What is not made here, or for other types, is compiled when a run needs it: see base/compiled.py, which keeps both.
Loops are imported by the processes that compile them: the one that waits needs none.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.base.errors import BackendError, SpikdeployError
from spikformer_deploy.base.progress import Progress, silent

Loop: TypeAlias = Any
Example: TypeAlias = tuple[Any, ...]
"""Arguments of a loop: their types are meant."""

PROCESSES = 8
"""At most: more than that wait for the longest loop."""


def loops() -> dict[str, tuple[Loop, list[Example]]]:
    """By name, every loop that Python calls, with the arguments of ordinary runs; the short ones last, so that all
    processes end together."""
    every = {**_of_mapping(), **_of_timing(), **_of_engine()}
    return {loop.py_func.__qualname__: (loop, examples) for loop, examples in every.items()}


def _of_engine() -> dict[Loop, list[Example]]:
    """Images through a network, and the counts of what it does."""
    from spikformer_deploy.counts import sums
    from spikformer_deploy.executors.fast import counting, gather, kernels, levels, pairs

    byte, word, single, double = np.uint8, np.int32, np.float32, np.int64
    maps = {kind: _array(kind, 4) for kind in (byte, word, single)}
    peak = _array(double, 2)
    table = _made(counting.CellTable, *_arrays(double, 1, 1, 1), 1, *_arrays(double, 1, 1))
    window = _made(kernels.Geometry, 1, 1, 1, 1, 0, 0)
    stream = _made(kernels.StreamParameters, 1, *_arrays(double, 2, 1))
    tokens = _array(byte, 3)
    rows = _array(word, 3)

    def lif(kind: type) -> Any:
        return _made(kernels.LifParameters, 1, 1, 1, True, 1, True, *_arrays(kind, 1, 1, 2), _array(double, 1))

    few = _made(levels.LevelsParameters, 1, 1, *_arrays(word, 2, 1, 2), _array(double, 1))
    entries = _made(sums.SparseSums, *_arrays(double, 1, 1), *_arrays(word, 1, 1, 1))
    packing = _made(sums._Packing, *_arrays(double, 1, 1, 2))
    lanes = _array(word, 2)
    dense: dict[Loop, list[Example]] = {}
    if pairs.widest_are_pairs():
        dense = {pairs._multiply: [(maps[byte], _array(np.int8, 6), peak, window, 1, maps[single])]}
    return {
        **dense,
        counting.observe: [(maps[kind], True, table, maps[word], tokens, _array(double, 3)) for kind in (byte, word)],
        gather.gather: [(maps[byte], _array(np.int8, 2), window, 1, maps[single])],
        kernels.lif_halving: [
            (maps[kind], lif(word), 1, rows, maps[byte], maps[word], peak) for kind in (single, word)
        ],
        kernels.lif_any: [(maps[single], lif(double), 1, rows, maps[byte], maps[word], peak)],
        levels.levels_narrow: [(maps[kind], few, 1, maps[byte], maps[word], peak) for kind in (single, word)],
        kernels.attend: [(tokens, tokens, tokens, 1, 1, _array(word, 3), peak)],
        counting.add_up: [(maps[byte], table, maps[word], _array(double, 3))],
        kernels.find_idle: [(_array(word, 2), _array(double, 1), True, rows, maps[byte], maps[word], maps[byte])],
        kernels.window_sum: [(maps[byte], window, maps[byte])],
        kernels.add_shifted: [(maps[word], maps[kind], 1) for kind in (single, word)],
        kernels.send_current: [(maps[word], stream, 1, maps[word], peak)],
        kernels.fire_where_any: [(tokens, _array(double, 1))],
        kernels.sum_over_positions: [(tokens, peak)],
        sums._products: [(entries, lanes, peak, peak)],
        sums._pack: [(packing, 1, lanes, peak)],
    }


def _of_mapping() -> dict[Loop, list[Example]]:
    """Slices onto cores."""
    from spikformer_deploy.mapping import chips, refine, route

    talk = _made(refine.Talk, *_arrays(np.int64, 1, 1), *_arrays(np.float64, 1, 1))
    links = _made(refine._Mesh, *_arrays(np.int64, 1, 1, 1), *_arrays(np.float64, 1, 1), 1, 1, 1)
    placed = _made(refine._Placed, *_arrays(np.int64, 1, 1, 1, 1), _array(np.bool_, 1))
    halving = _made(chips._Halving, *_arrays(np.int64, 1, 1), _array(np.float64, 1), 1.0, 1, 1)
    line = _array(np.int64, 1)
    return {
        chips._halve: [(talk, halving, line, 1)],
        chips._pull: [(*talk[:2], talk.sent, line, line, talk.got, 1.0, 1.0)],
        refine._anneal: [(talk, links, placed, 1, 1)],
        route._overlaps: [tuple(_arrays(np.int64, 2, 2, 2, 2))],
    }


def _of_timing() -> dict[Loop, list[Example]]:
    """Message by message."""
    from spikformer_deploy.timing import mesh, state, timeline, wheel

    queue_of_events = _made(wheel.Wheel, _array(wheel.EVENT, 1), _array(np.int64, 1))
    records = (_array(kind, 1) for kind in (state.PORT, state.LINK, state.CORE))
    busy = _made(
        state.State,
        _made(state.Sizes, *[1] * len(state.Sizes._fields)),
        *records,
        _array(state.MESSAGE, 1),
        _array(np.int64, 2),
        *(_array(kind, 1) for kind in (state.FIRING, state.ENTRY)),
        queue_of_events,
        _array(np.int64, 1),
    )
    line = _array(np.int64, 1)
    return {
        mesh._run: [(busy, state.watch_of(1, 1, 1, 1), True, 1)],
        timeline._hand_over: [(line, line, _array(np.int64, 2), line, 1, line, line)],
    }


def _made(fields: Any, *values: Any) -> Any:
    """A NamedTuple of these values."""
    return fields(*values)


def _array(kind: Any, dimensions: int) -> Array:
    return np.empty((1,) * dimensions, kind)


def _arrays(kind: Any, *dimensions: int) -> list[Array]:
    return [_array(kind, number) for number in dimensions]


class Prepared(NamedTuple):
    """How many loops were compiled, each counted once for each of its types, and where all are kept; None: nowhere."""

    compiled: int
    folder: Path | None


def prepare(progress: Progress = silent) -> Prepared:
    """Make all loops ahead, in processes.

    progress  called with (loops done, all of them, the name of the last one)
    Raises BackendError where a process ends before its work is done.
    """
    made = 0
    workers = min(PROCESSES, _processors())
    # not forked: a process with threads of OpenMP has no children that could use them
    # and without a search for garbage: a compiler makes objects by the million, and keeps most of them
    with ProcessPoolExecutor(workers, get_context("spawn"), gc.disable) as pool:
        try:
            started = [pool.submit(_started) for _ in range(workers)]  # all of them, at once
            names, folder = started[0].result()
            running = {pool.submit(compiled, name): name for name in names}
            for number, done in enumerate(as_completed(running), 1):
                made += done.result()
                progress(number, len(names), running[done])
        except BrokenProcessPool:
            problem = "a process that compiles loops has ended before its work was done"
            way_out = "Free memory; what is missing is compiled when it is used."
            raise BackendError("first use", problem, way_out) from None
    return Prepared(made, folder)


def _started() -> tuple[list[str], Path | None]:
    """The names of all loops, and where they are kept."""
    from spikformer_deploy.base.compiled import root_of_cache

    return list(loops()), root_of_cache()


def compiled(name: str) -> int:
    """Compile a loop, or take it from where it is kept; returns for how many types it was compiled."""
    import numba

    loop, examples = loops()[name]
    for example in examples:
        loop.compile(tuple(numba.typeof(argument) for argument in example))
    return sum(loop.stats.cache_misses.values())


def _processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """What `make setup` calls."""

    def report(done: int, total: int, name: str) -> None:
        print(f"\rcompiling loops for this processor: {done} of {total} ", end="", file=sys.stderr, flush=True)

    start = time.monotonic()
    try:
        made = prepare(report)
    except SpikdeployError as error:
        sys.exit(f"\nerror: {error}")
    where = made.folder or "no folder, as none can be written to: set NUMBA_CACHE_DIR to one"
    print(f"\n{made.compiled} compiled in {time.monotonic() - start:.1f} s, kept in {where}", file=sys.stderr)


if __name__ == "__main__":
    main()
