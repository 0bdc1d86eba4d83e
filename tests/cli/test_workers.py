"""`--workers` on the bundled digits: no figure depends on them, and a run that is killed goes on."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from support.programs import program_of

import spikformer_deploy as sd
from spikformer_deploy.cli.main import cli
from spikformer_deploy.inference import run as running

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")

MOMENTS = 20

CLIENT = """
import sys, time
from pathlib import Path
import spikformer_deploy as sd
from spikformer_deploy.inference import run as running

def stop(done, total, note):
    if done >= int(sys.argv[4]):
        Path(sys.argv[3]).touch()
        time.sleep(600)

if __name__ == "__main__":
    running.SAVE_SECONDS = 0.0
    sd.run(sd.Program.load(sys.argv[1]), "digits", workers=1, unfinished=Path(sys.argv[2]), progress=stop)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "digits.spk"
    program_of("digits-v1").save(path)
    return path


@pytest.fixture(scope="module")
def whole(program: Path) -> dict:
    """What one process says."""
    return figures(sd.run(sd.Program.load(program), "digits").to_dict())


def figures(found: dict) -> dict:
    return {name: value for name, value in found.items() if name not in ("seconds", "peak_memory_mib")}


def spikdeploy(*arguments: str | Path) -> dict:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@contextmanager
def client(program: Path, folder: Path, stop_after: int) -> Iterator[subprocess.Popen[bytes]]:
    """A run of one worker that keeps folder/run.json.partial, and waits for ever once that many images are done.

    It gets SIGKILL at the end of the context; its worker ends, too.
    """
    (folder / "client.py").write_text(CLIENT)
    (folder / "ready").unlink(missing_ok=True)
    files = [program, folder / "run.json.partial", folder / "ready"]
    with subprocess.Popen([sys.executable, folder / "client.py", *files, str(stop_after)]) as process:
        yield process
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def resumed(program: Path, folder: Path, workers: int) -> dict:
    """What the command says that goes on with the run in `folder`, on so many workers."""
    output = folder / "run.json"
    found = spikdeploy("run", program, "--input", "digits", "-o", output, "--resume", "--workers", workers, "--json")
    assert json.loads(output.read_text()) == found
    assert not (folder / "run.json.partial").exists()
    return figures(found)


@pytest.mark.long
def test_a_run_whose_client_was_killed_goes_on_with_another_worker(program: Path, whole: dict, tmp_path: Path) -> None:
    with client(program, tmp_path, stop_after=100) as process:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.01)
    assert (tmp_path / "run.json.partial").exists()
    assert resumed(program, tmp_path, 1) == whole


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(MOMENTS))
def test_a_client_may_be_killed_at_any_moment(seed: int, program: Path, whole: dict, tmp_path: Path) -> None:
    """Some before anything is done, some in the middle of a batch or of a file, some when all is done."""
    with client(program, tmp_path, stop_after=360) as process:
        begun = time.monotonic()
        while not (tmp_path / "run.json.partial").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0, 0.2 * (time.monotonic() - begun)))
    assert resumed(program, tmp_path, 2) == whole


@pytest.mark.deep
def test_a_worker_may_be_killed_at_any_moment(program: Path, whole: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BATCH", 4)
    loaded = sd.Program.load(program)
    settings = {"host": "127.0.0.1", "dashboard_address": None, "memory_limit": 0, "silence_logs": 50}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **settings) as cluster:
        begun = time.monotonic()
        sd.run(loaded, "digits", scheduler=cluster.scheduler_address)
        seconds = time.monotonic() - begun
        for seed in range(MOMENTS):
            moment = random.Random(seed)
            victim = psutil.Process(moment.choice([worker.process.pid for worker in cluster.workers.values()]))
            death = threading.Timer(moment.uniform(0, seconds), victim.kill)
            death.start()
            found = sd.run(loaded, "digits", scheduler=cluster.scheduler_address)
            death.join()
            assert figures(found.to_dict()) == whole, seed
            cluster.wait_for_workers(2)
