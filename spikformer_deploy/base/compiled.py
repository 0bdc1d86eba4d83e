"""How loops are compiled: decorators around numba's, one place where machine code is kept, one line that says so.

`shared` is for loops over tasks (`prange`) that threads share, `single` for what one thread does, `part` and `inlined`
for what only such loops call.  All release Python's lock.

Machine code is kept in the first of these folders that can be written to: NUMBA_CACHE_DIR where it is set, the user's
cache, and `__pycache__` beside the source; where none can be, loops are compiled anew in each process.  It is kept by a
digest of all source that it may depend on: numba itself looks at the file of a function only, and would go on with old
code where a function of another file has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
from numba import njit
from numba.core import event
from numba.core.cpu import ParallelOptions

from spikformer_deploy.base.cache import user_cache
from spikformer_deploy.base.progress import say

PACKAGE = "spikformer_deploy"
KEPT = 16
"""Folders of machine code, one for each state of a source file, of which the oldest are removed."""
IMPORTED = re.compile(rf"^from ({PACKAGE}[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)
"""What a file of ours imports from others of ours."""


decorated: Any = partial(njit, nogil=True, no_cfunc_wrapper=True, error_model="numpy")
"""With any options: its own types know some of them.

No loop divides by what may be zero: without a check and its message at each division there is a tenth less to compile.
"""


def shared(function: Callable[..., Any]) -> Any:
    """A loop over tasks that threads share."""
    # prange only: what else numba would make parallel are loops over channels, inside a task
    tasks_only = {name: False for name in ParallelOptions.__slots__ if name not in ("enabled", "prange")}
    return _kept(function, parallel=ParallelOptions(tasks_only))


def single(function: Callable[..., Any], **options: Any) -> Any:
    """A loop of one thread; options as of numba's decorator."""
    return _kept(function, **options)


def part(function: Callable[..., Any], **options: Any) -> Any:
    """What other loops call, and Python never does: without the code that takes apart what Python hands over."""
    return decorated(function, no_cpython_wrapper=True, **options)


def inlined(function: Callable[..., Any]) -> Any:
    """A part that is written into each loop which calls it, where its arguments are constants."""
    return part(function, inline="always")


def _kept(function: Callable[..., Any], **options: Any) -> Any:
    """`function`, compiled when it is first called, and kept."""
    assert isinstance(function, FunctionType)
    folder = _folder_of(function.__module__)
    if folder is None or numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return decorated(function, **options)
    # read by numba while it decorates, and only then
    before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
    try:
        loop = decorated(function, cache=True, **options)
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[attr-defined]
    if folder in Path(loop._cache.cache_path).parents:
        _keep_safely(loop, folder)
    else:
        # a folder that numba cannot write to it leaves for one of its own, whose code may be of another state
        loop._cache.disable()
    return loop


def _keep_safely(loop: Any, folder: Path) -> None:
    """Let no two processes keep code of one function at the same time, and no broken or full folder end a run.

    numba numbers the files of a function by what its index holds: two processes that keep code for different types may
    write the same file, and then the index names the code for some types where others are asked for.
    """
    kept = loop._cache
    save, load = kept.save_overload, kept.load_overload

    def save_alone(signature: Any, code: Any) -> None:
        with contextlib.suppress(OSError), _locked(folder):
            save(signature, code)

    def load_whole(signature: Any, context: Any) -> Any:
        try:
            return load(signature, context)
        except Exception:  # whatever a file brings about that a crash or a full disk has cut off
            with contextlib.suppress(OSError), _locked(folder):
                kept.flush()
            return None

    kept.save_overload, kept.load_overload = save_alone, load_whole


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A folder for this process alone, on systems that have such locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # some network drives have no locks
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _folder_of(module: str) -> Path | None:
    """Where the machine code of a module is kept; None where nothing can be."""
    root = root_of_cache()
    if root is None:
        return None
    state = hashlib.sha256(b"\0".join(source.read_bytes() for source in _sources(module))).hexdigest()
    folder = root / f"{module.removeprefix(f'{PACKAGE}.')}-{state[:16]}"
    if not folder.exists():
        _remove_oldest(root, module)
    return folder


def _sources(module: str) -> list[Path]:
    """The file of a module and those of all modules of ours that it stands on, in the order of their names."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in found or file is None or not Path(file).is_file():
            continue
        found[name] = Path(file)
        for package, names in IMPORTED.findall(found[name].read_text(encoding="utf-8")):
            # a name may be that of a module; what is not loaded now is no part of compiled code
            waiting += [package, *(f"{package}.{word}" for word in re.findall(r"\w+", names))]
    return [found[name] for name in sorted(found)]


def _remove_oldest(root: Path, module: str) -> None:
    """Make room for one more state of a module."""
    name = module.removeprefix(f"{PACKAGE}.")
    with contextlib.suppress(OSError):
        states = sorted(root.glob(f"{name}-*"), key=lambda folder: folder.stat().st_mtime)
        for folder in states[: max(0, len(states) + 1 - KEPT)]:
            shutil.rmtree(folder, ignore_errors=True)


@cache
def root_of_cache() -> Path | None:
    """The folder below which all machine code is kept: the first one that can be written to; None: there is none."""
    given = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    beside = Path(__file__).parent / "__pycache__"
    for base in (Path(given) if given else user_cache(), beside):
        if base is None:
            continue
        folder = base / PACKAGE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


class _Announcer(event.Listener):
    """Says once in a process that loops are compiled."""

    said = False

    def on_start(self, event: event.Event) -> None:
        """A loop is about to be compiled: one of ours, or one that somebody else brought."""
        assert isinstance(event.data, dict)
        # a function that somebody made from text has no module
        module = event.data["dispatcher"].py_func.__module__ or ""
        if self.said or not module.startswith(PACKAGE):
            return
        self.said = True
        again = "" if root_of_cache() else "; no folder can keep them: set NUMBA_CACHE_DIR to one"
        say(f"compiling loops for this processor, which takes some seconds the first time{again}")

    def on_end(self, event: event.Event) -> None:
        """Nothing to say."""


event.register("numba:compile", _Announcer())
