"""Mutated files of every format by the thousand: no traceback, no wait, and little memory."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("h5py")
pytest.importorskip("nir")
pytest.importorskip("onnx")
if not sys.platform.startswith("linux"):
    pytest.skip("memory is limited by Linux's means", allow_module_level=True)

from hostile.mutants import KINDS, commands, good_files, mutant

CHILD = Path(__file__).parent / "child.py"
SEED = int(os.environ.get("SEED", "0"))
MUTANTS = int(os.environ.get("MUTANTS", "3000"))
SECONDS = 20
MIB = 700
PATIENCE = 60
WARM = [
    ["inspect", "good.spk"],
    ["run", "good.spk", "--input", "images.npy"],
    ["compile", "good.net", "-o", "warm.made"],
    ["inspect", "digits-v1"],
    ["targets", "loihi2"],
]


class Child:
    """A process that runs commands one after the other in a folder; a new one where it died of the last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def run(self, command: list[str]) -> dict[str, Any] | None:
        """What came of a command; None: the process died, or did nothing for a long time and was ended."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                stderr=subprocess.DEVNULL, cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
            )  # fmt: skip
            # kernels are compiled on the way
            assert self._answer(WARM, 10 * PATIENCE) == "[0, 0, 0, 0, 0]\n"
        answer = self._answer(command, PATIENCE)
        if not answer:
            self.close()
            return None
        return dict(json.loads(answer))

    def _answer(self, line: Any, patience: float) -> str:
        """The line that comes back; "" where none does in so many seconds."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        late = threading.Timer(patience, self.process.kill)
        late.start()
        answer = self.process.stdout.readline()
        late.cancel()
        return answer

    def close(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(PATIENCE)
            self.process = None


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    folder = tmp_path_factory.mktemp("mutants")
    for name, content in good_files().items():
        (folder / name).write_bytes(content)
    made = Child(folder)
    yield made
    made.close()


@pytest.mark.deep
@pytest.mark.parametrize("kind", KINDS)
def test_mutants(child: Child, kind: str) -> None:
    wrong, codes = [], Counter[Any]()
    for seed in range(SEED, SEED + -(-MUTANTS // len(KINDS))):
        for command, found in outcomes(child, kind, seed):
            codes[found and found["code"]] += 1
            if problem := wrong_with(command, found):
                wrong.append(f"{kind} {seed}: {' '.join(command)}: {problem}")
    print(kind, dict(codes))
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.long
def test_some_mutants_of_every_kind(child: Child) -> None:
    """A few in the long run, and what is good is taken: else nothing would be looked at."""
    for command in (["run", "good.spk", "--input", "images.npy"], ["compile", "good.net", "-o", "good.made"]):
        found = child.run(command)
        assert found is not None
        assert found["code"] == 0, found
    wrong = [
        f"{kind} {seed}: {' '.join(command)}: {problem}"
        for kind in KINDS
        for seed in (10**6, 10**6 + 1)
        for command, found in outcomes(child, kind, seed)
        if (problem := wrong_with(command, found))
    ]
    assert not wrong, "\n\n".join(wrong)


def outcomes(child: Child, kind: str, seed: int) -> Iterator[tuple[list[str], dict[str, Any] | None]]:
    """The commands of a mutant and what came of each; nothing of it is left."""
    name = f"{kind}-{seed}{KINDS[kind][2]}"
    path = child.folder / name
    path.write_bytes(mutant(kind, seed))
    before = {p.name for p in child.folder.iterdir()}
    for command in commands(kind, name):
        yield command, child.run(command)
    for made in {p.name for p in child.folder.iterdir()} - before | {name}:
        place = child.folder / made
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def wrong_with(command: list[str], found: dict[str, Any] | None) -> str:
    """What is wrong with what came of a command; "" where it is done or refused with one message."""
    if found is None:
        return "the process died, or waited"
    if command[0] == "train" and "TimeoutError" in found["raised"]:  # a recipe may ask for long work
        return ""
    if found["raised"]:
        return "\n".join(str(found["raised"]).splitlines()[-7:])
    said = [line for line in found["stderr"].splitlines() if line.startswith("error: ")]
    if found["code"] not in (0, 2) or (found["code"] == 2) != (len(said) == 1) or "Traceback" in found["stderr"]:
        return f"code {found['code']}, {found['stderr']}"
    if found["seconds"] > SECONDS or found["grown_mib"] > MIB:
        return f"{found['seconds']:.1f} s, {found['grown_mib']:.0f} MiB"
    plain = found["stdout"] + found["stderr"]
    steering = {c for c in plain if not c.isprintable() and c != "\n"}
    return f"{steering} was printed" if steering else ""
