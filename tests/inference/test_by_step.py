"""After every step of one run stands what a program of so many steps would give: integers, counts, times, energies."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from support.deep import some
from support.networks import random_images, random_network

from spikformer_deploy.base.values import digest
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.counts.events import count, geometry
from spikformer_deploy.counts.steps import first_steps as events_of_first
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.inference.by_step import MOST_TIMED, timed
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.run import run
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator, Source
from spikformer_deploy.network.steps import first_steps, states_after
from spikformer_deploy.pipeline.program import Program
from spikformer_deploy.pipeline.stages import compile_model

LOIHI2 = load_profile("loihi2")
IMAGES = 5


def program_of(network: Network) -> Program:
    channels, height, _ = network.input.shape
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels)
    return Program(network, map_network(network, LOIHI2, {}), LOIHI2, preprocess, (), {})


def run_of(program: Program, pixels: np.ndarray) -> Run:
    return run(program, ImageSet(len(pixels), np.arange(len(pixels)) % 2, (), "", lambda part: pixels[part]))


def with_head(network: Network, **changed: object) -> Network:
    *others, output = network.populations
    assert isinstance(output.neuron, Accumulator)
    return replace(network, populations=(*others, replace(output, neuron=replace(output.neuron, **changed))))


def frames_of(network: Network, pixels: np.ndarray, steps: int) -> np.ndarray:
    """Of frames the first ones; an image is held for all steps."""
    assert isinstance(network.input.neuron, Source)
    return pixels[:, :steps] if network.input.neuron.per_step else pixels


@pytest.mark.parametrize(("seed", "last"), some([(5, True)], long=[(4, False), (11, False)]))
def test_after_each_step_stands_what_a_program_of_so_many_steps_gives(seed: int, last: bool) -> None:
    network = random_network(seed, blocks=1)
    network = with_head(network, last=last, bias=np.arange(network.output.size) * 3 - 5)
    pixels = random_images(network, seed, IMAGES)
    program = program_of(network)
    whole = run_of(program, pixels)
    assert [after.step for after in whole.by_step] == list(range(1, network.time_steps + 1))
    for after in whole.by_step:
        fewer = first_steps(network, after.step)
        found = run_of(replace(program, network=fewer), frames_of(network, pixels, after.step))
        assert after.to_dict() == found.by_step[-1].to_dict()
        assert (after.accuracy, after.synops) == (found.accuracy, found.events.synops)
        assert after.energies is not None
        totals = [(e.convention, e.total.low, e.total.nominal, e.total.high, e.total.likely) for e in after.energies]
        assert totals == [
            (e.convention, e.total.low, e.total.nominal, e.total.high, e.total.likely) for e in found.energies
        ]


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_says_the_same(seed: int) -> None:
    """Network by network in the plain twin: states of the head, spikes, potentials, and all events."""
    network = random_network(seed, blocks=1)
    pixels = random_images(network, seed, 2)
    names = [p.name for p in network]
    where = geometry(network, map_network(network, LOIHI2, {}))
    whole = engine.execute(network, pixels, record=names, cells=where.cells)
    head = network.output
    assert isinstance(head.neuron, Accumulator)
    states = states_after(head.neuron, whole.membranes[head.name].reshape(2, network.time_steps, -1).astype(np.int64))
    for steps in range(1, network.time_steps + 1):
        fewer = first_steps(network, steps)
        done = reference.execute(fewer, frames_of(network, pixels, steps), record=names, cells=where.cells)
        np.testing.assert_array_equal(states[:, steps - 1], done.accumulators)
        for name in names:
            np.testing.assert_array_equal(whole.spikes[name][:, :steps], done.spikes[name])
            if name != head.name:
                np.testing.assert_array_equal(whole.membranes[name][:, :steps], done.membranes[name])
        assert_equal_events(events_of_first(count(where, whole), steps), count(replace(where, network=fewer), done))


def assert_equal_events(ours: object, theirs: object) -> None:
    """All counts but which neurons are active, which events of all steps do not say of the first ones."""
    assert type(ours) is type(theirs)
    for field in fields(theirs):  # type: ignore[arg-type]
        one, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name == "populations":
            assert list(one) == list(other)
            one, other = tuple(one.values()), tuple(other.values())
        if isinstance(other, tuple) and field.name in ("populations", "projections"):
            for pair in zip(one, other, strict=True):
                assert_equal_events(*pair)
        elif field.name == "slices":
            assert_equal_events(one, other)
        elif field.name != "active":
            np.testing.assert_array_equal(one, other, err_msg=field.name)


@pytest.mark.long
def test_a_compiled_program_of_fewer_steps_is_the_first_steps_of_one_of_more() -> None:
    """Of a bundled model in few bits: the same integers, but for the rounding of the head's bias.

    In 8 bits some layers of fewer steps find room for one more fractional bit: those programs are others.
    """
    whole, fewer = (
        compile_model("digits-v2", check=False, weight_bits=3, time_steps=steps).program.network for steps in (4, 2)
    )
    cut = first_steps(whole, 2)
    biases = [network.output.neuron.bias for network in (cut, fewer)]  # type: ignore[union-attr]
    assert np.abs(biases[0] - biases[1]).max() <= 1
    ours, theirs = with_head(cut, bias=biases[1]), fewer
    assert [digest(p.neuron) for p in ours] == [digest(p.neuron) for p in theirs]
    assert digest(ours.projections) == digest(theirs.projections)


def test_a_run_without_labels_or_times_leaves_out_what_it_does_not_know() -> None:
    network = random_network(4, blocks=1)
    pixels = random_images(network, 0, 2)
    found = run(program_of(network), ImageSet(2, None, (), "", lambda part: pixels[part]), timing="none")
    for after in found.to_dict()["by_step"]:
        assert after["accuracy"] is None
        assert "profile" not in after["energy_mj"]
        assert after["energy_mj"]["memory-aware"]["nominal"] > 0


def test_many_steps_are_timed_here_and_there() -> None:
    assert timed(1) == (1,)
    assert timed(4) == (1, 2, 3, 4)
    assert timed(16) == (2, 4, 6, 8, 10, 12, 14, 16)
    for steps in range(1, 100):
        assert len(timed(steps)) == min(steps, MOST_TIMED)
        assert timed(steps)[-1] == steps
        assert sorted(set(timed(steps))) == list(timed(steps))
