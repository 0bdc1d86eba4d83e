"""Every hostile file gets one clear message and exit code 2, in little memory and time, and nothing of it is run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
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
FLIPS = 4
SECONDS = 10
MIB = 700


def commands(name: str, use: str) -> list[list[str]]:
    """What a user would do with such a file."""
    match use:
        case "model":
            return [["compile", name, "--no-check", "-o", f"{name}.made"]]
        case "program":
            return [["inspect", name], ["run", name, "--input", "images.npy"]]
        case "profile":
            return [["inspect", name], ["compile", "digits-v1", "--target", name, "-o", f"{name}.made"]]
        case _:
            return [["run", "good.spk", "--input", name, "-o", f"{name}.made"]]


def outcomes(folder: Path) -> dict[str, Any]:
    from hostile.corpus import corpus, flipped, good_program

    told = corpus(folder)
    (folder / "good.spk").write_bytes(good_program())
    np.save(folder / "images.npy", np.zeros((1, 1, 4, 4), np.uint8))
    flips = flipped(folder, FLIPS)
    before = sorted(p.name for p in folder.iterdir())
    asked = [(name, command) for name, (use, _) in told.items() for command in commands(name, use)]
    asked += [(name, ["inspect", name]) for name in flips]
    # imports and compiled kernels come before the limit
    warm = [["inspect", "good.spk"], ["inspect", "digits-v1"], ["targets", "loihi2"]]
    done = subprocess.run(
        [sys.executable, str(CHILD)],
        input="\n".join(json.dumps(line) for line in (warm, *(command for _, command in asked))),
        capture_output=True, text=True, cwd=folder, timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"},
    )  # fmt: skip
    warmed, *lines = done.stdout.splitlines()
    assert json.loads(warmed) == [0, 0, 0], done.stderr[-3000:]
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


@pytest.mark.long
def test_hostile_files(tmp_path: Path) -> None:
    """One test, since one process runs them all."""
    results = outcomes(tmp_path)
    assert len(results["told"]) >= 130
    assert results["new"] == [], "something of a file was run, or something was written"
    wrong = [*refusals(results), *tracebacks(results), *excesses(results)]
    assert not wrong, "\n".join(wrong)


def refusals(results: dict[str, Any]) -> Iterator[str]:
    """Files that are not refused with one clear message that fits."""
    for name, (_, message) in results["told"].items():
        for command, run in results["found"][name]:
            # lines before the message are those of stages that are done
            said = run["stderr"].splitlines()
            clear = sum(line.startswith("error: ") for line in said) == 1 and "Traceback" not in run["stderr"]
            if run["code"] != 2 or run["raised"] or not clear or run["stdout"]:
                yield f"{name} {command[0]}: {run['code']} {run['raised'] or run['stderr'] or run['stdout']}"
            elif not re.search(message, run["stderr"]):
                yield f"{name} {command[0]}: {message!r} is not in {run['stderr']!r}"


def tracebacks(results: dict[str, Any]) -> Iterator[str]:
    """A changed byte may be a weight, of which nobody can tell; elsewhere the message is as clear as any."""
    for name in results["flips"]:
        for _, run in results["found"][name]:
            if run["raised"] or run["code"] not in (0, 2) or (run["code"] == 2) != run["stderr"].startswith("error: "):
                yield f"{name}: {run['code']} {run['raised']} {run['stderr']}"


def excesses(results: dict[str, Any]) -> Iterator[str]:
    """Commands that took too long, or too much memory."""
    for name, runs in results["found"].items():
        for command, run in runs:
            if run["seconds"] > SECONDS or run["grown_mib"] > MIB:
                yield f"{name} {command[0]}: {run['seconds']:.1f} s, {run['grown_mib']:.0f} MiB"
