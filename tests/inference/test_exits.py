"""A run with early exit is a run of programs of 1, 2, ... steps, each on the images that leave after so many."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.deep import some
from support.networks import random_images, random_network
from support.programs import program_of as bundled

import spikformer_deploy as sd
from spikformer_deploy.accounting.deciding import deciding, decision_ns
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.inference.exits import ExitRun, run_with_exit
from spikformer_deploy.inference.run import run
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.exits import exit_steps, margins
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator, Source
from spikformer_deploy.network.steps import first_steps
from spikformer_deploy.pipeline.program import Program

LOIHI2 = load_profile("loihi2")
IMAGES = 7
NOT_OF_IMAGES = ("backend", "kernels", "seconds", "peak_memory_mib")


def with_head(network: Network, **changed: object) -> Network:
    *others, output = network.populations
    return replace(network, populations=(*others, replace(output, neuron=replace(output.neuron, **changed))))  # type: ignore[arg-type]


def program_of(seed: int) -> tuple[Program, np.ndarray]:
    network = with_head(random_network(seed, blocks=1), last=False)
    channels, height, _ = network.input.shape
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels)
    program = Program(network, map_network(network, LOIHI2, {}), LOIHI2, preprocess, (), {})
    return program, random_images(network, seed, IMAGES)


def images_of(pixels: np.ndarray) -> ImageSet:
    return ImageSet(len(pixels), np.arange(len(pixels)) % 2, (), "", lambda part: pixels[part])


def a_margin(program: Program, pixels: np.ndarray, quantile: float) -> int:
    """One that some image has."""
    found = run(program, images_of(pixels), timing="none")
    assert found.classes.shape == (len(pixels), program.network.time_steps)
    head = program.network.output.neuron
    assert isinstance(head, Accumulator)
    from spikformer_deploy.executors import reference

    name = program.network.output.name
    kept = reference.execute(program.network, pixels, record=[name]).membranes[name].astype(np.int64)
    ahead = margins(head, kept.reshape(len(pixels), program.network.time_steps, -1))
    return max(1, int(np.quantile(ahead[:, :-1], quantile, method="nearest")))


def figures(found: ExitRun) -> dict[str, Any]:
    return {name: value for name, value in found.to_dict().items() if name not in NOT_OF_IMAGES}


@pytest.mark.parametrize(("seed", "quantile"), some([(4, 0.5)], long=[(5, 0.3), (11, 0.8)]))
def test_every_group_is_a_run_of_a_program_of_so_many_steps(seed: int, quantile: float) -> None:
    program, pixels = program_of(seed)
    margin = a_margin(program, pixels, quantile)
    found = run_with_exit(program, images_of(pixels), margin)
    assert sum(found.exits) == IMAGES
    assert found.mean_steps == found.steps.mean()
    synops = 0.0
    source = program.network.input.neuron
    assert isinstance(source, Source)
    for group in found.groups:
        chosen = found.steps == group.steps
        shown = pixels[chosen][:, : group.steps] if source.per_step else pixels[chosen]
        fewer = run(replace(program, network=first_steps(program.network, group.steps)), images_of(shown))
        np.testing.assert_array_equal(found.accumulators[chosen], fewer.accumulators)
        np.testing.assert_array_equal(found.logits[chosen], fewer.logits)
        assert group.tally.events.synops == fewer.events.synops
        assert fewer.times is not None
        assert group.tally.times is not None
        np.testing.assert_array_equal(group.tally.times.fall_through_ns, fewer.times.fall_through_ns)
        np.testing.assert_array_equal(group.tally.times.hop_counts, fewer.times.hop_counts)
        synops += fewer.events.synops * chosen.sum()
        ours, theirs = (
            {e.convention: e.total.nominal for e in energies if not e.convention.startswith("profile")}
            for energies in (group.energies, fewer.energies)
        )
        assert ours == theirs
        # the same events, and of the chip's time only sweeps, power and decisions are others
        ours, theirs = (
            {p.name: p.energy.nominal for p in next(e for e in energies if e.convention == "profile").parts}
            for energies in (group.energies, fewer.energies)
        )
        same = [n for n in theirs if "power" not in n and "sweeps" not in n]
        assert {n: ours[n] for n in same} == {n: theirs[n] for n in same}
    assert found.synaptic_ops == pytest.approx(synops / IMAGES, rel=1e-12)


@pytest.mark.parametrize("backend", ["reference", "onnx"])
def test_executors_that_run_all_steps_find_the_same(backend: str) -> None:
    program, pixels = program_of(4)
    margin = a_margin(program, pixels, 0.5)
    ours = run_with_exit(program, images_of(pixels), margin)
    assert figures(run_with_exit(program, images_of(pixels), margin, backend=backend)) == figures(ours)


@pytest.mark.long
def test_batches_and_margins_at_the_ends() -> None:
    program, pixels = program_of(5)
    network = program.network
    many = np.concatenate([pixels] * 15)
    margin = a_margin(program, pixels, 0.5)
    few, all_of_them = (run_with_exit(program, images_of(some), margin) for some in (pixels, many))
    np.testing.assert_array_equal(np.tile(few.steps, 15), all_of_them.steps)
    np.testing.assert_array_equal(np.tile(few.accumulators, (15, 1)), all_of_them.accumulators)
    assert all_of_them.synaptic_ops == pytest.approx(few.synaptic_ops, rel=1e-12)
    never = run_with_exit(program, images_of(pixels), 2**23)
    whole = run(program, images_of(pixels))
    assert never.exits == [0] * (network.time_steps - 1) + [IMAGES]
    np.testing.assert_array_equal(never.accumulators, whole.accumulators)
    assert never.logits_sha256 == whole.logits_sha256
    assert never.synaptic_ops == whole.events.synops
    assert whole.times is not None
    assert never.latency is not None
    assert never.decision_us is not None
    decided = (network.time_steps - 1) * never.decision_us
    assert never.latency.nominal == pytest.approx(whole.times.fall_through_us[1] + decided, rel=1e-9)


def test_an_image_leaves_at_the_margin_and_stays_below_it() -> None:
    ahead = np.array([[3, 0, 9], [4, 9, 9], [0, 0, 0], [9, 4, 0]])
    assert exit_steps(ahead, 4).tolist() == [3, 1, 3, 1]
    assert exit_steps(ahead, 3).tolist() == [1, 1, 3, 1]
    # ties are a margin of 0, which no threshold is below
    head = Accumulator(np.array([2, 2, 2]), np.ones(1))
    assert margins(head, np.array([[[5, 5, 1], [9, 5, 1]]])).tolist() == [[0, 4]]


def test_pairs_and_their_readers_decide_as_margins_do() -> None:
    """The populations of accounting/deciding.py in plain numbers, and no more pairs fire than are paid for."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        classes, margin = int(rng.integers(2, 7)), int(rng.integers(1, 5))
        held = rng.integers(-6, 7, classes)
        fires = held[:, None] - held[None] >= margin
        done = fires.sum(1) >= classes - 1
        *_, second, first = sorted(held.tolist())
        assert done.any() == (first - second >= margin)
        assert done.sum() <= 1
        assert fires.sum() <= classes * (classes - 1) // 2


@pytest.mark.long
def test_what_a_decision_takes_grows_with_the_classes_and_is_said_to_be_derived() -> None:
    program = bundled("digits-v2")
    decision = deciding(program.network, program.profile)
    assert decision.classes == 10
    assert decision.cores == 2
    assert decision.counts["synaptic operations"] == 2 * 90 + 45
    assert decision.counts["neuron updates"] == 90 + 10
    low, nominal, high = decision_ns(decision, program.mapping, program.profile)
    assert 0 < low <= nominal <= high
    found = sd.run(program, "digits", limit=20, early_exit=20000)
    said = found.to_dict()["early_exit"]["deciding"]
    assert (said["kind"], said["cores"]) == ("derived", 2)
    parts = [p for e in found.energies if e.convention == "profile" for p in e.parts if p.name.startswith("deciding")]
    assert parts
    assert {p.kind for p in parts} <= {"derived", "guess"}
    assert all("no silicon has measured" in p.source for p in parts)


def test_what_cannot_leave_early_is_refused_by_name() -> None:
    program, pixels = program_of(4)
    images = images_of(pixels)
    last = replace(program, network=with_head(program.network, last=True))
    single = replace(program, network=first_steps(program.network, 1))
    for call, problem in (
        (lambda: run_with_exit(program, images, 0), "a margin of 0"),
        (lambda: run_with_exit(program, images, -3), "a margin of -3"),
        (lambda: run_with_exit(last, images, 5), "reads the last time step only"),
        (lambda: run_with_exit(single, images, 5), "has one time step"),
        (lambda: run_with_exit(program, images, 5, timing="cycle"), "'cycle': messages are not followed"),
    ):
        with pytest.raises(InputError, match=problem):
            call()
    with pytest.raises(InputError, match=r"^early_exit: a margin of 0"):
        sd.run(program, images, early_exit=0)
    with pytest.raises(InputError, match=r"^record: images leave early"):
        sd.run(program, images, early_exit=5, record=[program.network.populations[1].name])
    loihi1 = replace(program, profile=load_profile("loihi1"))
    with pytest.raises(InputError, match="cannot be compared on 'loihi1'"):
        run_with_exit(loihi1, images, 5)
    assert run_with_exit(loihi1, images, 5, timing="none").latency is None


@pytest.mark.deep  # of every run are those of all steps, in test_seam.py
def test_workers_find_the_same() -> None:
    program = bundled("digits-v1")
    ours = sd.run(program, "digits", limit=70, early_exit=9000)
    theirs = sd.run(program, "digits", limit=70, early_exit=9000, workers=1)
    assert figures(theirs) == figures(ours)
    json.dumps(ours.to_dict())
