"""What is made ahead is what ordinary runs need."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import program_of

from spikformer_deploy.base.errors import BackendError
from spikformer_deploy.inference import first_use

ORDINARY = """
import sys
import numba
from spikformer_deploy.inference.first_use import loops
from spikformer_deploy.inference.run import run
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model

run(compile_model("digits-v1", "loihi2", check=False).program, "digits", limit=4, timing="cycle")
for file in sys.argv[1:]:
    run(Program.load(file), "digits", limit=4, timing="none")

ahead = {loop: {tuple(map(numba.typeof, e)) for e in examples} for loop, examples in loops().values()}
kept = {
    value
    for name, module in list(sys.modules.items())
    if name.startswith("spikformer_deploy.")
    for value in vars(module).values()
    if isinstance(value, numba.core.dispatcher.Dispatcher) and not value.targetoptions.get("no_cpython_wrapper")
}
used = {loop for loop in kept if loop.signatures}
assert len(used) > 12
for loop in used:
    for types in set(loop.signatures) - ahead.get(loop, set()):
        print(loop.py_func.__qualname__, types)
"""


@pytest.mark.long
def test_ordinary_runs_compile_nothing_that_is_not_made_ahead(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.spk" for name in ("digits-v2", "digits-levels")]
    for file in files:
        program_of(file.stem).save(file)
    done = subprocess.run([sys.executable, "-c", ORDINARY, *files], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.long
def test_loops_are_made_once() -> None:
    heard: list[tuple[int, int, str]] = []
    first_use.prepare(lambda *news: heard.append(news))
    assert sorted(name for _, _, name in heard) == sorted(first_use.loops())
    assert [(done, total) for done, total, _ in heard] == [(i + 1, len(heard)) for i in range(len(heard))]
    assert first_use.prepare().compiled == 0


def test_what_ends_the_work_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(progress: object) -> None:
        raise BackendError("first use", "a process has ended", "Free memory.")

    monkeypatch.setattr(first_use, "prepare", fails)
    with pytest.raises(SystemExit, match="error: first use: a process has ended"):
        first_use.main()
