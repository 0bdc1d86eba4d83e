"""Every hostile file gets one clear message and exit code 2, in little memory and time, and nothing of it is run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("h5py")
pytest.importorskip("nir")
pytest.importorskip("onnx")
if not sys.platform.startswith("linux"):
    pytest.skip("memory is limited by Linux's means", allow_module_level=True)

CHILD = Path(__file__).parent / "child.py"
FLIPS = 12
SECONDS = 10
MIB = 700


def commands(name: str, use: str) -> list[list[str]]:
    """What a user would do with such a file."""
    match use:
        case "model":
            return [["inspect", name], ["compile", name, "--no-check", "-o", f"{name}.made"]]
        case "program":
            return [["inspect", name], ["run", name, "--input", "images.npy"]]
        case "profile":
            return [["inspect", name], ["compile", "digits-v1", "--target", name, "-o", f"{name}.made"]]
        case _:
            return [["run", "good.spk", "--input", name, "-o", f"{name}.made"]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from hostile.corpus import corpus, flipped, good_program

    folder = tmp_path_factory.mktemp("hostile")
    told = corpus(folder)
    (folder / "good.spk").write_bytes(good_program())
    np.save(folder / "images.npy", np.zeros((1, 1, 4, 4), np.uint8))
    flips = flipped(folder, FLIPS)
    before = sorted(p.name for p in folder.iterdir())
    asked = [(name, command) for name, (use, _) in told.items() for command in commands(name, use)]
    asked += [(name, ["inspect", name]) for name in flips]
    # imports and compiled kernels come before the limit
    warm = [["inspect", "good.spk"], ["inspect", "digits-v1"], ["inspect", "loihi2"]]
    done = subprocess.run(
        [sys.executable, str(CHILD)],
        input=json.dumps({"warm": warm, "run": [command for _, command in asked]}),
        capture_output=True, text=True, cwd=folder, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == len(asked), done.stderr[-3000:]
    found: dict[str, list[Any]] = {}
    for (name, command), line in zip(asked, lines, strict=True):
        found.setdefault(name, []).append((command, json.loads(line)))
    return {
        "found": found,
        "told": told,
        "flips": flips,
        "new": sorted({p.name for p in folder.iterdir()} - set(before)),
    }


def test_there_are_many(results: dict[str, Any]) -> None:
    assert len(results["told"]) >= 100


def test_nothing_was_run_and_nothing_written(results: dict[str, Any]) -> None:
    assert results["new"] == []


def test_each_is_refused_with_one_message(results: dict[str, Any]) -> None:
    wrong = []
    for name in results["told"]:
        runs, (_, message) = results["found"][name], results["told"][name]
        for command, run in runs:
            # lines before the message are those of stages that are done
            said = run["stderr"].splitlines()
            clear = sum(line.startswith("error: ") for line in said) == 1 and "Traceback" not in run["stderr"]
            if run["code"] != 2 or run["raised"] or not clear or run["stdout"]:
                wrong.append(f"{name} {command[0]}: {run['code']} {run['raised'] or run['stderr'] or run['stdout']}")
            elif not re.search(message, run["stderr"]):
                wrong.append(f"{name} {command[0]}: {message!r} is not in {run['stderr']!r}")
    assert not wrong, "\n".join(wrong)


def test_a_changed_byte_never_shows_a_traceback(results: dict[str, Any]) -> None:
    """Where it changes a weight nobody can tell; elsewhere the message is as clear as any."""
    wrong = []
    for name, run in ((n, run) for n in results["flips"] for _, run in results["found"][n]):
        if run["raised"] or run["code"] not in (0, 2) or (run["code"] == 2) != run["stderr"].startswith("error: "):
            wrong.append(f"{name}: {run['code']} {run['raised']} {run['stderr']}")
    assert not wrong, "\n".join(wrong)


def test_time_and_memory_are_bounded(results: dict[str, Any]) -> None:
    for name, runs in results["found"].items():
        for command, run in runs:
            assert run["seconds"] < SECONDS, (name, command[0])
            assert run["grown_mib"] < MIB, (name, command[0])
