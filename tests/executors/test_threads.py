"""The engine keeps to the number of threads that it is given, and leaves it as it was."""

import os
import subprocess
import sys

import numba
import pytest
import torch
from support.networks import random_images, random_network

from spikformer_deploy import WAITING
from spikformer_deploy.executors.fast import engine, threads

COUNTED = """
import numba, torch
torch.set_num_threads({given})
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.executors.fast import threads
compile_model("digits-v2", check=False)
print(torch.get_num_threads(), numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS)
with threads.as_many_as_torch() as count:
    print(count, numba.get_num_threads())
"""


@pytest.mark.long
def test_the_first_loop_does_not_change_the_threads_of_torch() -> None:
    """In a process of its own: numba starts its threads once."""
    done = subprocess.run([sys.executable, "-c", COUNTED.format(given=1)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", "1", "1"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "1000"}, "None")],
)
def test_threads_wait_passively_unless_the_user_says_otherwise(said: dict[str, str], expected: str) -> None:
    """They leave the core to each other: from the import of the package on, which comes before that of torch."""
    show = "import os, sys, spikformer_deploy; print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, env=_unsaid() | said)
    assert done.stdout.split() == [expected, "False"], done.stderr


@pytest.mark.long
@pytest.mark.parametrize(("first", "passive"), [("spikformer_deploy", True), ("torch", False)])
def test_openmp_reads_it_when_torch_is_loaded(first: str, passive: bool) -> None:
    """GNU OpenMP says what it has read: no turn of a waiting loop, unless torch was there before."""
    shown = _unsaid() | {"OMP_DISPLAY_ENV": "verbose"}
    code = f"import {first}, spikformer_deploy, torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=shown)
    assert done.returncode == 0, done.stderr
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch's OpenMP is not GNU's, and does not say how it waits")
    assert ("GOMP_SPINCOUNT = '0'" in done.stderr) == passive


def _unsaid() -> dict[str, str]:
    """The environment without a word on how threads wait."""
    return {name: value for name, value in os.environ.items() if name not in WAITING}


@pytest.mark.skipif(numba.get_num_threads() < 2, reason="one core")
def test_a_small_loop_stays_on_one_thread_where_waking_another_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    before = numba.get_num_threads()
    monkeypatch.setattr(threads, "handing_over", lambda _: 1e-4)
    try:
        for values, expected in ((1_000, 1), (10**6, 2), (1_000, 1)):
            threads.share_out(2, values)
            assert numba.get_num_threads() == expected
        # a thread with images of its own has no others
        threads.share_out(1, 10**9)
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)


@pytest.mark.skipif(numba.get_num_threads() < 2, reason="one core")
def test_every_batch_begins_with_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after one whose last loops were too small for them."""
    monkeypatch.setattr(threads, "handing_over", lambda _: 1.0)
    monkeypatch.setattr(engine, "BATCH_BYTES", 1)
    begun = []
    run = engine._run_batch
    monkeypatch.setattr(engine, "_run_batch", lambda batch, inputs: run(batch, inputs) or begun.append(batch.threads))
    network = random_network(0, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        images = random_images(network, 0)
        engine.execute(network, images)
    finally:
        torch.set_num_threads(before)
    assert len(begun) == len(images) > 1
    assert set(begun) == {2}


def test_waking_threads_takes_some_time_and_changes_nothing() -> None:
    before = numba.get_num_threads()
    assert 0 < threads.handing_over.__wrapped__(before) < 1
    assert numba.get_num_threads() == before
