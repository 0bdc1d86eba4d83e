"""Loops are compiled once: where they are kept, that two processes do not mix them up, and what is said meanwhile."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from spikformer_deploy.base import compiled

ONE_LOOP = """
import sys
from numba.core import event
from spikformer_deploy.base.progress import say_through
say_through(print)
import numpy as np
from spikformer_deploy.executors.fast.kernels import fire_where_any
with event.install_recorder("numba:compile") as recorder:
    values = np.array([[[3], [0]]], np.uint8)
    fire_where_any(values, np.zeros(1, np.int64))
assert values.ravel().tolist() == [1, 0]
print(len(recorder.buffer))
"""


def one_loop(cache: Path) -> list[str]:
    """What a process prints that uses one loop: notes, and how many events of compilation there were."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", ONE_LOOP], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="another system has its cache elsewhere")
def test_a_loop_is_compiled_once_says_so_and_leaves_the_package_alone(tmp_path: Path) -> None:
    beside = {file for file in Path(compiled.__file__).parents[1].rglob("*.nb?")}
    note, events = one_loop(tmp_path)
    assert note == "compiling loops for this processor, which takes some seconds the first time"
    assert int(events) > 0
    assert one_loop(tmp_path) == ["0"]
    assert {file for file in Path(compiled.__file__).parents[1].rglob("*.nb?")} == beside
    assert len(list(tmp_path.rglob("*.nbc"))) == 1


def test_a_folder_that_cannot_be_written_to_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr("numba.config.CACHE_DIR", "")
    monkeypatch.setattr(compiled, "user_cache", lambda: file / "cache")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    assert compiled.root_of_cache.__wrapped__() == tmp_path / "__pycache__" / "spikformer_deploy"
    monkeypatch.setattr(compiled, "__file__", str(file / "compiled.py"))
    assert compiled.root_of_cache.__wrapped__() is None
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "given"))
    assert compiled.root_of_cache.__wrapped__() == tmp_path / "given" / "spikformer_deploy"


def first(values: np.ndarray) -> int:
    return values[0]


def test_without_any_folder_loops_work_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_folder_of", lambda module: None)
    assert compiled.single(first)(np.array([7])) == 7


def test_loops_of_others_are_their_own_business() -> None:
    """Also those that were made from text, and have no module."""
    made: dict[str, Any] = {}
    exec("def following(x): return x + 1", made)
    assert made["following"].__module__ is None
    assert numba.njit(made["following"])(1) == 2


def test_without_a_compiler_loops_are_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    assert compiled.single(first) is first


@pytest.mark.parametrize("broken", ["*.nbi", "*.nbc", "lock"])
@pytest.mark.parametrize("content", [b"", bytes(range(256)), None])
def test_what_is_broken_in_the_cache_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: str, content: bytes | None
) -> None:
    """Cut off by a crash, overwritten, or a folder (None): no run ends for it, and the next one finds whole files."""
    monkeypatch.setattr(compiled, "_folder_of", lambda module: tmp_path)
    compiled.single(first)(np.array([7]))
    (file,) = tmp_path.rglob(broken)
    if content is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(content)
    for _ in range(2):
        loop = compiled.single(first)
        assert loop(np.array([7])) == 7
    assert content is None or sum(loop.stats.cache_hits.values()) == 1


def test_a_folder_that_takes_no_code_is_not_replaced_by_one_of_numba(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(compiled, "_folder_of", lambda module: tmp_path / "file")
    for _ in range(2):
        loop = compiled.single(first)
        assert loop(np.array([7])) == 7
        assert not loop.stats.cache_hits


def test_code_of_one_function_is_kept_by_one_process_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiled, "_folder_of", lambda module: tmp_path)
    loop = compiled.single(first)
    using = threading.Thread(target=loop, args=(np.array([7]),))
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        using.start()
        using.join(1)
        assert using.is_alive()
        assert not list(tmp_path.rglob("*.nbi"))
    using.join(60)
    assert len(list(tmp_path.rglob("*.nbi"))) == 1


def test_code_depends_on_all_source_that_goes_into_it() -> None:
    from spikformer_deploy.executors.fast import gather

    names = {file.name for file in compiled._sources(gather.__name__)}
    assert {"gather.py", "vectors.py", "kernels.py", "neurons.py", "compiled.py"} <= names


def test_old_states_of_a_file_go(tmp_path: Path) -> None:
    for number in range(compiled.KEPT + 2):
        (tmp_path / f"base.vectors-{number}").mkdir()
        os.utime(tmp_path / f"base.vectors-{number}", (number, number))
    (tmp_path / "base.other-0").mkdir()
    compiled._remove_oldest(tmp_path, "spikformer_deploy.base.vectors")
    left = {folder.name for folder in tmp_path.iterdir()}
    assert left == {f"base.vectors-{number}" for number in range(3, compiled.KEPT + 2)} | {"base.other-0"}
