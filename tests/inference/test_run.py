"""Runs over data sets: interrupted ones go on, memory stays bounded, and neither changes a figure."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.deep import some
from support.networks import random_images, random_network

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.base.flat import flat
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.counts.events import geometry
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.executors import execution, reference
from spikformer_deploy.executors import gpu as device
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Request
from spikformer_deploy.executors.fast.plan import make_plan
from spikformer_deploy.inference import tally
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.run import run
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.pipeline.program import Program

LOIHI2 = load_profile("loihi2")


@pytest.fixture(scope="module")
def program() -> Program:
    """Its images have sums of their own, each: figures of others, or in another order, are found."""
    network = random_network(191, blocks=1)
    assert len(np.unique(reference.execute(network, random_images(network, 3, 11)).accumulators, axis=0)) == 11
    channels = network.input.shape[0]
    preprocess = Preprocess(channels, network.input.shape[1], (0.0,) * channels, (1.0,) * channels)
    return Program(network, map_network(network, LOIHI2, {}), LOIHI2, preprocess, (), {})


def image_set(program: Program, count: int, identity: str = "these") -> ImageSet:
    pixels = random_images(program.network, 3, count)
    return ImageSet(count, np.arange(count) % 2, (), identity, lambda part: pixels[part])


def figures(found: Run) -> dict:
    """Everything that a run says, but how long it took."""
    return {k: v for k, v in found.to_dict().items() if k not in ("seconds", "peak_memory_mib")}


def interrupted_after(images: int, program: Program, unfinished: Path) -> None:
    def stop(done: int, total: int, remark: str) -> None:
        assert remark.startswith("accuracy ")
        if done >= images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(program, image_set(program, 11), unfinished=unfinished, progress=stop)


@pytest.mark.parametrize("images", some([6], long=[3, 11]))
def test_an_interrupted_run_goes_on(
    program: Program, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, nothing counted twice: also where the last batch was done."""
    monkeypatch.setattr(execution, "BATCH", 3)
    whole = run(program, image_set(program, 11))
    interrupted_after(images, program, tmp_path / "run.partial")
    done: list[int] = []
    resumed = run(
        program,
        image_set(program, 11),
        unfinished=tmp_path / "run.partial",
        resume=True,
        progress=lambda count, total, remark: done.append(count),
    )
    assert all(count > images for count in done)
    assert figures(resumed) == figures(whole)
    for name, population in whole.events.populations.items():
        np.testing.assert_array_equal(resumed.events.populations[name].active, population.active)
    assert whole.events.slices is not None
    assert resumed.events.slices is not None
    np.testing.assert_array_equal(resumed.events.slices.synops, whole.events.slices.synops)
    np.testing.assert_array_equal(resumed.events.slices.idle, whole.events.slices.idle)


def test_batches_change_no_figure(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(program, image_set(program, 7))
    monkeypatch.setattr(execution, "BATCH", 2)
    parts = run(program, image_set(program, 7))
    np.testing.assert_array_equal(parts.accumulators, whole.accumulators)
    assert (parts.events.synops, parts.events.images) == (whole.events.synops, 7)
    assert parts.times is not None
    assert whole.times is not None
    for name in ("step_ns", "fall_through_ns", "busiest"):
        np.testing.assert_array_equal(getattr(parts.times, name), getattr(whole.times, name))
    assert figures(parts) == figures(whole)
    assert parts.times.parts_ns == whole.times.parts_ns


@pytest.mark.long
def test_notes_are_those_of_all_images(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted run whose bright images came first is not called dark, and its lost events are counted once."""
    monkeypatch.setattr(execution, "BATCH", 3)
    pixels = random_images(program.network, 3, 11) % 20
    pixels[1] = 200

    def images(dark: int) -> ImageSet:
        lost = np.zeros(11, np.int64)

        def read_part(part: slice) -> np.ndarray:
            lost[part] = 5
            return pixels[part]

        labels, notes = np.arange(11) % 2, ("2 hidden files or folders are left out",)
        return ImageSet(11, labels, (), "these", read_part, notes, lost, dark=dark)

    def stop(done: int, total: int, remark: str) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    unfinished = tmp_path / "run.partial"
    for dark in (64, 255):
        whole = run(program, images(dark))
        expected = ["2 hidden files or folders are left out", "55 events are lost: a frame holds 255 of a pixel"]
        if dark == 255:
            expected.insert(1, "no pixel is above 200 of 255: are they scaled otherwise?")
        assert whole.to_dict()["notes"] == expected
        with pytest.raises(KeyboardInterrupt):
            run(program, images(dark), unfinished=unfinished, progress=stop)
        resumed = run(program, images(dark), unfinished=unfinished, resume=True)
        assert figures(resumed) == figures(whole)


def test_files_of_other_runs_are_refused(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "BATCH", 3)
    path = tmp_path / "run.partial"
    interrupted_after(6, program, path)
    with pytest.raises(InputError, match=r"run\.partial: it is of another run: images is these, now others"):
        run(program, image_set(program, 11, "others"), unfinished=path, resume=True)
    with pytest.raises(InputError, match=r"another run: timing is estimate, now none"):
        run(program, image_set(program, 11), timing="none", unfinished=path, resume=True)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="does not match its checksum"):
        tally.load(path, {})
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="no readable unfinished run"):
        tally.load(path, {})


def test_a_file_without_idle_visits_is_refused(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As runs were kept before these were counted."""
    monkeypatch.setattr(execution, "BATCH", 3)

    def flat_before(value: tally.Tally, path: str, tensors: dict[str, np.ndarray]) -> dict:
        plain = flat(value, path, tensors)
        for counted in (plain["events"]["slices"], *plain["events"]["populations"].values()):
            del tensors[counted.pop("idle")["tensor"]]
        return plain

    path = tmp_path / "run.partial"
    with monkeypatch.context() as before:
        before.setattr(tally, "flat", flat_before)
        interrupted_after(6, program, path)
    with pytest.raises(InputError, match=r"no readable unfinished run: .* lack or do not know idle"):
        run(program, image_set(program, 11), unfinished=path, resume=True)


def test_memory_limit(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = figures(run(program, image_set(program, 5)))
    monkeypatch.setattr(execution, "peak_memory_mib", lambda: 0.0)
    plan = make_plan(program.network, geometry(program.network, program.mapping).cells)
    seen: list[int] = []
    found = run(
        program,
        image_set(program, 5),
        memory_limit=plan.fixed_bytes + 2 * plan.image_bytes,
        progress=lambda done, total, note: seen.append(done),
    )
    assert figures(found)["logits_sha256"] == whole["logits_sha256"]
    assert seen == [2, 4, 5]


def test_a_limit_that_is_too_low_is_refused(program: Program) -> None:
    with pytest.raises(InputError, match=r"--memory-limit: 1 MiB, and one image at a time takes [\d,]+ MiB"):
        run(program, image_set(program, 5), memory_limit=2**20)
    with pytest.raises(InputError, match="there are no images"):
        run(program, image_set(program, 0))


@pytest.mark.parametrize("name", ["engine", "reference", "onnx"])
def test_images_a_batch_follow_the_limit(program: Program, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "onnx":
        pytest.importorskip("onnxruntime")
    monkeypatch.setattr(execution, "peak_memory_mib", lambda: 1.0)
    too_little, enough = 2**20, 2**34
    with pytest.raises(InputError, match="one image at a time takes"):
        prepare(name, Request(program.network, memory_limit=too_little))
    while enough - too_little > 1:
        limit = (too_little + enough) // 2
        try:
            prepare(name, Request(program.network, memory_limit=limit))
            enough = limit
        except InputError:
            too_little = limit
    assert prepare(name, Request(program.network, memory_limit=enough)).batch == 1
    assert prepare(name, Request(program.network, memory_limit=2**34)).batch == execution.BATCH


def test_a_gpu_changes_no_figure(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of --device cuda, with the CPU in its place where there is no GPU."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(device, "cuda", lambda: torch.device("cpu"))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**32, 2**32))
    ours = figures(run(program, image_set(program, 7), device="cuda"))
    assert ours.pop("kernels") == ("cuda fp32" if torch.cuda.is_available() else "cpu fp32")
    theirs = figures(run(program, image_set(program, 7)))
    theirs.pop("kernels")
    assert ours == theirs


def test_the_reference_has_no_device(program: Program) -> None:
    with pytest.raises(InputError, match="--device: there is no reference on 'cuda'"):
        run(program, image_set(program, 2), device="cuda", backend="reference")
