"""Work that leaves the process: each item once, each function once a worker, whatever dies meanwhile."""

import os
import pickle
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from support.deep import some
from support.networks import random_images, random_network
from support.work import Squares

from spikformer_deploy.base.errors import BackendError, InputError
from spikformer_deploy.base.flat import flat
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.data.read import read
from spikformer_deploy.executors import reference
from spikformer_deploy.inference import run as running
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.run import run
from spikformer_deploy.inference.seam import HERE, in_order, pool
from spikformer_deploy.inference.verify import verify
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.pipeline.program import Program

dask = pytest.importorskip("dask", reason="the extra cluster is not installed")
distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")

LOIHI2 = load_profile("loihi2")
IMAGES = 11
QUIET = {"scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}
"""Dask would warn where its usual port is taken."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers of one thread each, as somebody else starts them.

    Items stay where they are given: the scheduler moves those of a worker that it takes for slow, with its function.
    """
    settings = {"host": "127.0.0.1", "dashboard_address": None, "memory_limit": 0, "silence_logs": 50, **QUIET}
    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **settings) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def program() -> Program:
    """Its images have sums of their own, each: figures of others, or in another order, are found."""
    network = random_network(29)
    assert len(np.unique(reference.execute(network, random_images(network, 3, IMAGES)).accumulators, axis=0)) == IMAGES
    channels, height, width = network.input.shape
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels, width=width)
    return Program(network, map_network(network, LOIHI2, {}), LOIHI2, preprocess, (), {})


def in_memory(program: Program) -> ImageSet:
    pixels = random_images(program.network, 3, IMAGES)
    return ImageSet(IMAGES, np.arange(IMAGES) % 2, (), "these", lambda part: pixels[part])


@pytest.fixture(scope="module")
def folder(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    for i, pixels in enumerate(in_memory(program).pixels):
        Image.fromarray(pixels[0]).save(path / f"{i:02}.png")
    return path


def figures(found: Run) -> dict:
    """Everything that a run says, but how long it took."""
    return {k: v for k, v in found.to_dict().items() if k not in ("seconds", "peak_memory_mib")}


def assert_equal_runs(ours: Run, theirs: Run) -> None:
    """In every count of every core and population."""
    assert figures(ours) == figures(theirs)
    arrays: list[dict[str, np.ndarray]] = [{}, {}]
    plain = [
        flat((found.events, found.under), "run", tensors) for found, tensors in zip((ours, theirs), arrays, strict=True)
    ]
    assert plain[0] == plain[1]
    assert arrays[0].keys() == arrays[1].keys()
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name], err_msg=name)


def test_here_is_a_loop(tmp_path: Path) -> None:
    with pool() as crew:
        assert crew is HERE
        work = Squares(tmp_path)
        assert [(number, square) for number, (_, _, square) in crew.map(work, [3, 4])] == [(0, 9), (1, 16)]
        assert len(work.noted("prepared")) == 1


def test_results_wait_for_those_before_them() -> None:
    assert list(in_order([(1, "b"), (0, "a"), (3, "d"), (2, "c")])) == ["a", "b", "c", "d"]


def test_a_function_is_sent_once_a_worker_and_does_one_item_at_a_time(cluster: Any, tmp_path: Path) -> None:
    work = Squares(tmp_path)
    with pool(scheduler=cluster.scheduler_address) as crew:
        found = dict(crew.map(work, range(60)))
    assert {number: square for number, (_, _, square) in found.items()} == {n: n**2 for n in range(60)}
    workers = {process for process, _, _ in found.values()}
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert {threads for _, threads, _ in found.values()} == {1}
    for event in ("sent", "prepared"):
        assert Counter(process for process, _ in work.noted(event)) == dict.fromkeys(workers, 1), event
    for worker in workers:
        begun, ended = ([ns for process, ns in work.noted(event) if process == worker] for event in ("begins", "ends"))
        assert all(end <= begin for end, begin in zip(ended, begun[1:], strict=False))


def test_items_are_taken_as_workers_come_free(cluster: Any, tmp_path: Path) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(30):
            taken.append(item)
            yield item

    with pool(scheduler=cluster.scheduler_address) as crew:
        for done, _ in enumerate(crew.map(Squares(tmp_path), items())):
            assert len(taken) <= done + 2 * 2 + 1


@pytest.mark.long
def test_a_worker_that_dies_costs_its_items_alone(cluster: Any, tmp_path: Path) -> None:
    work = Squares(tmp_path, dies_at=13)
    with pool(scheduler=cluster.scheduler_address) as crew:
        found = [(number, square) for number, (_, _, square) in crew.map(work, range(40))]
    assert sorted(found) == [(n, n**2) for n in range(40)]
    assert len(work.noted("died")) == 1
    # what the dead one had, and what it had finished without being asked for it
    assert len(work.noted("begins")) <= 40 + 2


def test_errors_of_the_work_come_back(cluster: Any, tmp_path: Path) -> None:
    with pool(scheduler=cluster.scheduler_address) as crew:
        with pytest.raises(InputError, match="item 5: it is wrong\n  Leave it out"):
            list(crew.map(Squares(tmp_path, wrong=5), range(20)))
        # and the next map goes on
        assert len(list(crew.map(Squares(tmp_path), range(3)))) == 3


def test_another_version_is_refused(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spikformer_deploy.inference import cluster as dask

    monkeypatch.setattr(dask, "_installed", lambda: "0.0.7")
    with (
        pool(scheduler=cluster.scheduler_address) as crew,
        pytest.raises(InputError, match=r"worker tcp://.*: it has spikformer-deploy .*, and 0\.0\.7 sends the work"),
    ):
        list(crew.map(Squares(tmp_path), range(3)))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (distributed.KilledWorker("work", None, 3), "--workers: 4 workers died over the same work"),
        (ModuleNotFoundError("No module named 'torch'"), "--workers: a worker lacks what this process has: No module"),
        (AttributeError("Can't get attribute 'Batches'"), "--workers: a worker lacks what this process has: Can't get"),
        (CancelledError(), "--workers: the scheduler is gone"),
    ],
)
def test_what_goes_wrong_with_workers_is_said(error: BaseException, said: str) -> None:
    from spikformer_deploy.inference.cluster import WORKERS, _Cluster

    class Failed:
        status = "cancelled"

        def result(self) -> None:
            raise error

    with pytest.raises(BackendError, match=said):
        _Cluster(None, WORKERS)._result(Failed())


@pytest.mark.parametrize("sent", some(["files"], long=["names", "pixels"]))
def test_workers_change_no_figure(
    sent: str, cluster: Any, program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "BATCH", 2)
    monkeypatch.chdir(folder.parent)
    images = in_memory(program) if sent == "pixels" else read(folder.name, program.preprocess)
    elsewhere: dict[str, Any] = {"scheduler": cluster.scheduler_address, "send_images": sent == "files"}
    timing = "cycle" if sent == "pixels" else "estimate"
    seen: list[int] = []
    ours = run(program, images, timing=timing, **elsewhere, progress=lambda done, total, note: seen.append(done))
    assert_equal_runs(ours, run(program, images, timing=timing))
    assert seen[:6] == [2, 4, 6, 8, 10, 11]


def test_a_run_outlives_a_worker(cluster: Any, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BATCH", 1)
    victims = [worker.process.pid for worker in cluster.workers.values()]

    def kill(done: int, total: int, note: str) -> None:
        if done == 3:
            psutil.Process(victims[0]).kill()

    ours = run(program, in_memory(program), scheduler=cluster.scheduler_address, progress=kill)
    assert_equal_runs(ours, run(program, in_memory(program)))
    assert not psutil.pid_exists(victims[0])


@pytest.mark.long
def test_verification_is_the_same(cluster: Any, program: Program) -> None:
    ours = verify(program, in_memory(program), scheduler=cluster.scheduler_address)
    assert ours.to_dict() == verify(program, in_memory(program)).to_dict()


def test_files_that_are_others_where_they_are_read_are_refused(
    cluster: Any, program: Program, folder: Path, tmp_path: Path
) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    images = read(tmp_path, program.preprocess)
    (tmp_path / "03.png").write_bytes((tmp_path / "04.png").read_bytes() + b" ")
    with pytest.raises(InputError, match=r"03\.png: it has \d+ bytes, and had \d+ when the images were listed"):
        run(program, images, scheduler=cluster.scheduler_address)


def test_a_run_whose_scheduler_dies_is_resumed(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "BATCH", 1)
    settings = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": None, "silence_logs": 50, **QUIET}
    unfinished = tmp_path / "run.partial"
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **settings) as found:

        def stop(done: int, total: int, note: str) -> None:
            if done == 3:
                found.close(timeout=5)

        with pytest.raises(BackendError, match=r"--scheduler: the scheduler is gone\n.*--resume"):
            run(
                program,
                in_memory(program),
                scheduler=found.scheduler_address,
                unfinished=unfinished,
                progress=stop,
            )
    done: list[int] = []
    resumed = run(
        program,
        in_memory(program),
        unfinished=unfinished,
        resume=True,
        progress=lambda count, total, note: done.append(count),
    )
    assert done[0] > 3
    assert_equal_runs(resumed, run(program, in_memory(program)))


def test_who_computes_is_said_once(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(InputError, match="--workers: a cluster that is there has workers of its own"),
        pool(2, "tcp://a:1"),
    ):
        pass
    with pytest.raises(InputError, match="--workers: 0 workers"), pool(0):
        pass
    with pytest.raises(InputError, match=r"'nonsense' is no address\n.*tcp://HOST:PORT"), pool(scheduler="nonsense"):
        pass
    with (
        pytest.raises(InputError, match=r"'tcp://127\.0\.0\.1:1' does not answer"),
        pool(scheduler="tcp://127.0.0.1:1"),
    ):
        pass
    with pytest.raises(InputError, match="--send-images: without workers"):
        run(program, in_memory(program), send_images=True)
    with pytest.raises(InputError, match="--workers: processes of one machine would share its GPU"):
        run(program, in_memory(program), workers=2, device="cuda")


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import spikformer_deploy.inference

    monkeypatch.delitem(sys.modules, "spikformer_deploy.inference.cluster", raising=False)
    monkeypatch.delattr(spikformer_deploy.inference, "cluster", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r'--workers: .*\n  Install "spikformer-deploy\[cluster\]"'), pool(2):
        pass


def test_masks_are_pickled_by_the_bit(program: Program) -> None:
    events = run(program, in_memory(program)).events
    name, counted = max(events.populations.items(), key=lambda item: item[1].active.size)
    sent = pickle.loads(pickle.dumps(counted))
    np.testing.assert_array_equal(sent.active, counted.active)
    assert sent.active.dtype == bool
    assert flat(sent, name, {}) == flat(counted, name, {})
