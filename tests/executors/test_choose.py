"""The table of executors: one line is all that a new one needs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.deep import some
from support.networks import random_images, random_network

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.choose import DEVICES, EXECUTORS, prepare
from spikformer_deploy.executors.execution import Executor, Request
from spikformer_deploy.inference.run import run
from spikformer_deploy.inference.verify import verify
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.pipeline.program import Program

TOY = """
import sys

from spikformer_deploy.executors import choose, reference
from spikformer_deploy.executors.execution import Executor


def prepare(request):
    def execute(images, record=()):
        print("toy", len(images), file=sys.stderr)
        return reference.execute(request.network, images, record=record, cells=request.cells)

    return Executor(execute, 3)


choose.EXECUTORS["toy"] = prepare

from spikformer_deploy.cli.main import main

main()
"""


def program_of(seed: int) -> Program:
    network = random_network(seed, blocks=1, state_bits=24)
    channels, height, width = network.input.shape
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels, width=width)
    profile = load_profile("loihi2")
    return Program(network, map_network(network, profile, {}), profile, preprocess, (), {})


def test_a_toy_executor_runs_and_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    program, seen = program_of(11), []

    def toy(request: Request) -> Executor:
        def execute(images, record=()):
            seen.append(len(images))
            return reference.execute(request.network, images, record=record, cells=request.cells)

        return Executor(execute, 3)

    monkeypatch.setitem(EXECUTORS, "toy", toy)
    images = random_images(program.network, 0, 7)
    ours, theirs = run(program, images, backend="toy"), run(program, images)
    assert seen == [3, 3, 1]
    assert np.array_equal(ours.accumulators, theirs.accumulators)
    assert ours.events.synops == theirs.events.synops
    assert ours.times.step_us_mean.tolist() == theirs.times.step_us_mean.tolist()
    assert verify(program, images, backends=("toy", "reference")).passed


def test_a_toy_executor_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of(11)

    def toy(request: Request) -> Executor:
        def execute(images, record=()):
            done = reference.execute(request.network, images, record=record, cells=request.cells)
            name = record[-1]
            done.spikes[name][-1, -1, -1, -1, -1] ^= 1
            return done

        return Executor(execute, 3)

    monkeypatch.setitem(EXECUTORS, "toy", toy)
    verdict = verify(program, random_images(program.network, 0, 7), backends=("toy", "reference"))
    assert verdict.backends == {"toy": False, "reference": True}


@pytest.mark.long
def test_the_command_line_knows_a_toy_executor(tmp_path: Path) -> None:
    program = program_of(11)
    program.save(tmp_path / "a.spk")
    np.save(tmp_path / "x.npy", random_images(program.network, 0, 4).astype(np.uint8))
    (tmp_path / "toy.py").write_text(TOY)

    def called(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "toy.py", *arguments, "--input", "x.npy", "--json"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = called("run", "a.spk", "--backend", "toy")
    assert done.returncode == 0, done.stderr
    assert "toy 3\ntoy 1" in done.stderr
    assert json.loads(done.stdout)["backend"] == "toy"
    done = called("verify", "a.spk", "--backend", "toy", "--backend", "reference")
    assert json.loads(done.stdout)["backends"] == {"toy": "equal", "reference": "equal"}
    refused = called("run", "a.spk", "--backend", "gear")
    assert refused.returncode == 2
    assert "'toy'" in refused.stderr


@pytest.mark.parametrize("name", some([name for name in EXECUTORS if name != "lava"], long=["lava"]))
def test_every_executor_has_the_one_signature(name: str) -> None:
    for package in {"onnx": ["onnxruntime"], "lava": ["lava"]}.get(name, []):
        pytest.importorskip(package)
    network = random_network(3, blocks=1)
    executor = prepare(name, Request(network))
    images = random_images(network, 0, 2)
    record = [p.name for p in network if p.max_out == 1][:2]
    right = reference.execute(network, images, record=record)
    done = executor.execute(images, record)
    assert executor.batch >= 1
    assert np.array_equal(done.accumulators, right.accumulators)
    assert all(np.array_equal(done.spikes[name], right.spikes[name]) for name in record)


def test_unknown_names_are_refused() -> None:
    network = random_network(3, blocks=1)
    with pytest.raises(InputError, match="--backend: 'gear' is none of engine, reference, lava, onnx"):
        prepare("gear", Request(network))
    with pytest.raises(InputError, match="--device: there is no engine on 'tpu'"):
        prepare("engine", Request(network, device="tpu"))
    for name in EXECUTORS:
        if name != "engine":
            with pytest.raises(InputError, match=f"--device: there is no {name} on '{DEVICES[1]}'"):
                prepare(name, Request(network, device=DEVICES[1]))
