"""The command line: JSON and nothing else on standard output, one clear line and exit code 2 for bad input."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.deep import some
from support.models import SMALL
from support.programs import program_of

from spikformer_deploy.cli.main import cli
from spikformer_deploy.nn.zoo import build

FOLDER = Path(__file__).parents[2] / "hw_profiles"


def spikdeploy(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    command = [sys.executable, "-c", "from spikformer_deploy.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})


def printed(*arguments: str | Path, run: Callable[..., Any] = spikdeploy) -> dict:
    """The JSON that a command prints, which is all that it prints; run: `spikdeploy`, or in this process."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("compiled")
    summary = printed("compile", "digits-v2", "--dump-ir", folder / "ir", "-o", folder / "digits.spk", "--json")
    return folder / "digits.spk", summary


def test_compile(compiled: tuple[Path, dict]) -> None:
    program, summary = compiled
    assert {
        "program",
        "target",
        "cores",
        "chips",
        "neurons",
        "memory_words",
        "exact",
        "seconds",
        "peak_memory_mib",
    } <= summary.keys()
    assert (summary["target"], summary["chips"], summary["exact"]) == ("loihi2", 1, True)
    names = sorted(p.name for p in (program.parent / "ir").iterdir())
    assert names == [
        f"{i + 1}-{s}.txt" for i, s in enumerate(("trace", "fold", "simplify", "quantize", "calibrate", "map"))
    ]
    assert "network T=4" in (program.parent / "ir" / "4-quantize.txt").read_text()


def test_python_module_and_entry_point_are_alike() -> None:
    module = [sys.executable, "-m", "spikformer_deploy"]
    for arguments in (["run", "--help"], ["run", "a.spk"]):
        done = subprocess.run([*module, *arguments], capture_output=True, text=True)
        entry = spikdeploy(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (entry.returncode, entry.stdout, entry.stderr)
        assert "Usage: spikdeploy run" in done.stdout + done.stderr


def test_compile_twice_gives_the_same_bytes(
    compiled: tuple[Path, dict], tmp_path: Path, here: Callable[..., Any]
) -> None:
    """In another process than before."""
    printed("compile", "digits-v2", "--no-check", "-o", tmp_path / "again.spk", "--json", run=here)
    assert (tmp_path / "again.spk").read_bytes() == compiled[0].read_bytes()


def test_run_report_verify_inspect(compiled: tuple[Path, dict], tmp_path: Path, here: Callable[..., Any]) -> None:
    program, _ = compiled
    run = printed("run", program, "--input", "digits", "--limit", 40, "-o", tmp_path / "run.json", "--json", run=here)
    keys = {"images", "accuracy", "logits_sha256", "backend", "kernels", "synaptic_ops", "dense_macs", "firing_rate"}
    assert keys | {"time", "energy_mj", "seconds", "peak_memory_mib"} <= run.keys()
    assert run["images"] == 40
    assert run["accuracy"] > 0.9
    assert run["time"]["model"] == "estimate"
    assert run["time"]["runtime"] == "lava"
    assert run["time"]["under"].keys() == {"lava", "bare"}
    figures = {"low", "nominal", "high", "likely_low", "likely_high"}
    energy = run["energy_mj"]["profile"]
    assert energy.keys() == figures | {"boundary", "boundaries"}
    assert list(energy["boundaries"]) == ["neuro_cores", "chips", "board"]
    assert all(within.keys() == figures for within in energy["boundaries"].values())
    assert energy["boundary"] == "chips"
    assert json.loads((tmp_path / "run.json").read_text()) == run
    plainly = ("--backend", "reference", "--timing", "none", "--json")
    plain = printed("run", program, "--input", "digits", "--limit", 40, *plainly, run=here)
    assert plain["logits_sha256"] == run["logits_sha256"]
    assert plain["synaptic_ops"] == run["synaptic_ops"]
    assert plain["time"] is None
    files = ("-o", tmp_path / "r.html", "--timeline", tmp_path / "t.json")
    cycle = ("--timing", "cycle", "--json")
    report = printed("report", program, "--input", "digits", "--limit", 2, *files, *cycle, run=here)
    assert report["accuracy"]["images"] == 2
    assert report["run"]["time"]["model"] == "cycle"
    assert report["run"]["time"]["images"] == 2
    assert report["run"]["time"]["estimate"]["model"] == "estimate"
    assert report["time"]["ratio"] == report["run"]["time"]["ratio"] > 0
    assert len(json.loads((tmp_path / "t.json").read_text())["traceEvents"]) > 1000
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    verified = printed("verify", program, "digits-v2", "--input", "digits", "--limit", 16, "--json", run=here)
    assert verified["passed"]
    assert verified["backends"] == {"reference": "equal"}
    assert all(0.8 < layer["equal_spikes"] <= 1 for layer in verified["layers"])
    assert len(verified["layers"]) == 20
    assert printed("inspect", program, "--json", run=here)["kind"] == "program"
    assert printed("inspect", "digits-v1", "--json", run=here)["kind"] == "model"


@pytest.mark.long
def test_integer_accuracy_is_near_the_float_model(compiled: tuple[Path, dict]) -> None:
    """Within 0.5 points on the whole held-out split, for the three models in the box."""
    from spikformer_deploy.converters.checkpoints.read import load
    from spikformer_deploy.inference.run import run

    for name in ("digits-v1", "digits-v2", "digits-levels"):
        loaded = load(name)
        result = run(program_of(name), "digits", timing="none")
        assert len(result.labels) == 360
        assert result.accuracy >= loaded.training["test_accuracy"] - 0.005


def test_targets() -> None:
    assert {t["name"] for t in printed("targets", "--json")} >= {"loihi1", "loihi2", "hala_point"}
    numbers = printed("targets", "loihi2", "--json")["numbers"]
    assert all(n["kind"] and n["source"] and n["unit"] and n["role"] for n in numbers)
    assert all(n["calibrated_on"] for n in numbers if n["role"] == "calibrated")
    assert {n["role"] for n in numbers if n["calibrated_on"]} <= {"calibrated", "guessed"}
    assert all((n["role"] == "guessed") == (n["kind"] == "guess") for n in numbers)


def test_without_json_there_are_tables(compiled: tuple[Path, dict], here: Callable[..., Any]) -> None:
    done = here("run", compiled[0], "--input", "digits", "--limit", 4)
    assert done.returncode == 0
    assert "spikformer-paper" in done.stdout
    assert "block.0.attn.attn_lif" in done.stdout
    for word in ("lava: likely", "bare: likely", "neuro_cores", "board", "time of a step: ruled by"):
        assert word in done.stdout


class Payload:
    """A pickle that would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.fixture(scope="module")
def bad(compiled: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bad files."""
    folder = tmp_path_factory.mktemp("bad")
    content = compiled[0].read_bytes()
    (folder / "cut.spk").write_bytes(content[: len(content) // 2])
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 4
    (folder / "flipped.spk").write_bytes(bytes(flipped))
    torch.save(
        {"state_dict": build(SMALL["cifar"]).state_dict(), "x": Payload(folder / "executed")}, folder / "evil.pth"
    )
    np.save(folder / "wrong.npy", np.zeros((2, 1, 8, 8), np.uint8))
    unit = (FOLDER / "loihi2.toml").read_text().replace('unit   = "ns"\n', "", 1)
    (folder / "unit.toml").write_text(unit)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "missing.pt"], "missing.pt: there is no such file"),
        (["compile", "evil.pth"], "would run code of the file"),
        (["compile", "digits-v2", "--target", "loihi3"], "no target is called 'loihi3'"),
        (["compile", "digits-v2", "--target", "unit.toml"], "required field missing @ $.time.synapse_conv.unit"),
        (["compile", "digits-v2", "--target", "loihi1"], "graded spikes"),
        (["compile", "digits-v2", "-o", "nowhere/a.spk"], "cannot be written"),
        (["compile", "digits-v2", "--weight-bits", "9"], "9 is not in the range"),
        (["run", "cut.spk", "--input", "digits"], "cut.spk: it is no readable program"),
        (["run", "flipped.spk", "--input", "digits"], "flipped.spk: "),
        (["run", "good.spk", "--input", "wrong.npy"], "images of shape (1, 8, 8)"),
        (["run", "good.spk", "--input", "nothing"], "no such file or folder"),
        (["inspect", "wrong.npy"], "no model file that is known"),
        (["train", "missing.toml"], "there is no such file"),
    ],
)
def test_bad_input_is_one_clear_message(
    bad: Path,
    compiled: tuple[Path, dict],
    arguments: list[str],
    message: str,
    here: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(bad)
    if not (bad / "good.spk").exists():
        (bad / "good.spk").write_bytes(compiled[0].read_bytes())
    before = sorted(p.name for p in bad.iterdir())
    done = here(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(p.name for p in bad.iterdir()) == before
    assert not (bad / "executed").exists()


def test_bad_input_ends_a_process_with_2() -> None:
    done = spikdeploy("targets", "loihi3")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no target is called 'loihi3'" in done.stderr
    assert "Traceback" not in done.stderr


HEAVY = {"PIL", "attr", "dask", "jinja2", "networkx", "numba", "numpy", "onnx", "rich", "scipy", "sklearn", "torch"}


def test_help_imports_nothing_heavy() -> None:
    """It is there at once, of every command: below 0.3 s on a quiet core."""
    asked = [["--help"], ["--version"], *([name, "--help"] for name in cli.commands)]
    code = (
        "import sys\n"
        "from spikformer_deploy.cli.main import cli\n"
        f"for words in {asked}:\n"
        "    cli.main(words, prog_name='spikdeploy', standalone_mode=False)\n"
        f"    print('loaded', words, sorted({{name.partition('.')[0] for name in sys.modules}} & {HEAVY}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = [line for line in done.stdout.splitlines() if line.startswith("loaded")]
    assert loaded == [f"loaded {words} []" for words in asked]
    assert done.stdout.count("Usage: spikdeploy") == len(loaded) - 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "unneeded"),
    some(
        [("run PROGRAM --input digits --limit 4", "networkx onnx sympy torch._dynamo")],
        [
            ("run PROGRAM --input digits --limit 4 --backend reference", "networkx onnx torch"),
            ("export PROGRAM --to onnx -o program.onnx", "jinja2 onnxruntime torch._dynamo"),
        ],
    ),
)
def test_commands_import_what_they_need(compiled: tuple[Path, dict], tmp_path: Path, words: str, unneeded: str) -> None:
    code = (
        "import sys\n"
        "from spikformer_deploy.cli.main import cli\n"
        "cli.main(sys.argv[2:], standalone_mode=False)\n"
        "print('loaded', sorted({'dask', 'sklearn', *sys.argv[1].split()} & sys.modules.keys()))"
    )
    arguments = words.replace("PROGRAM", str(compiled[0])).split()
    command = [sys.executable, "-c", code, unneeded, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"


def test_light_commands_import_no_torch() -> None:
    code = (
        "import sys\n"
        "from spikformer_deploy.cli.main import cli\n"
        "cli.main({}, standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    for arguments in (["targets"], ["targets", "loihi2"]):
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - start < 10
