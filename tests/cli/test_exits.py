"""`spikdeploy run --early-exit`: what it prints is what Python finds, and refusals name the option."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.inference.exits import run_with_exit

PROGRAM = "digits-v1"
MARGIN = 30000
OF_THE_MACHINE = ("seconds", "peak_memory_mib")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "p.spk"
    program_of(PROGRAM).save(path)
    return path


@pytest.mark.long
def test_json_and_file_are_what_python_finds(here: Callable, program: Path, tmp_path: Path) -> None:
    shown = ("run", program, "--input", "digits", "--limit", 40, "--early-exit", MARGIN)
    done = here(*shown, "--json", "-o", tmp_path / "run.json")
    assert done.returncode == 0
    expected = sd.run(program_of(PROGRAM), "digits", limit=40, early_exit=MARGIN).to_dict()
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "run.json").read_text()) == found
    assert not (tmp_path / "run.json.partial").exists()
    assert {n: v for n, v in found.items() if n not in OF_THE_MACHINE} == {
        n: v for n, v in json.loads(json.dumps(expected)).items() if n not in OF_THE_MACHINE
    }
    assert found["early_exit"]["mean_steps"] < 4
    assert found["time"]["schedule"] == "fall-through"


@pytest.mark.long
def test_tables_say_mean_steps_and_that_deciding_is_derived(here: Callable, program: Path) -> None:
    done = here("run", program, "--input", "digits", "--limit", 10, "--early-exit", MARGIN)
    mean = run_with_exit(program_of(PROGRAM), "digits", MARGIN, limit=10, timing="none").mean_steps
    assert done.returncode == 0
    assert f"{mean:.3f} of 4" in done.stdout
    assert "no silicon has measured them" in done.stdout
    without = here("run", program, "--input", "digits", "--limit", 10, "--early-exit", MARGIN, "--timing", "none")
    assert "latency" not in without.stdout
    assert f"{mean:.3f} of 4" in without.stdout


@pytest.mark.long
def test_a_report_has_early_exit_beside_all_steps(here: Callable, program: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    shown = ("report", program, "--input", "digits", "--limit", 10, "-o", page)
    done = here(*shown, "--early-exit", MARGIN, "--json")
    assert done.returncode == 0
    values = json.loads(done.stdout)
    early = sd.run(program_of(PROGRAM), "digits", limit=10, early_exit=MARGIN)
    assert values["early_exit"]["mean_steps"] == early.mean_steps
    assert values["early_exit"]["synaptic_ops"] == early.synaptic_ops
    assert values["run"]["synaptic_ops"] > early.synaptic_ops
    assert "mean steps with early exit" in page.read_text()
    whole = sd.run(program_of(PROGRAM), "digits", limit=10)
    whole.report(tmp_path / "python.html", early=early)
    assert "mean steps with early exit" in (tmp_path / "python.html").read_text()
    with pytest.raises(sd.SpikdeployError, match=r"^early: it is of another program, or of another number of images"):
        whole.report(tmp_path / "python.html", early=sd.run(program_of(PROGRAM), "digits", limit=5, early_exit=1))
    assert here(*shown, "--early-exit", 0).returncode == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("0",), "--early-exit: a margin of 0, which ties reach too"),
        (("5", "--timing", "cycle"), "--timing: 'cycle': messages are not followed"),
        (("5", "--resume"), "--resume is not for --early-exit"),
        (("5", "--stream"), "--early-exit is not for --stream"),
        (("many",), "'many' is not a valid integer"),
    ],
)
def test_what_has_no_meaning_is_refused(here: Callable, program: Path, options: tuple, problem: str) -> None:
    done = here("run", program, "--input", "digits", "--early-exit", *options)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
