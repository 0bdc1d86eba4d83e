"""The curve that one run of all steps gives is what runs with early exit find at each of its thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.deep import some
from support.networks import random_images, random_network

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.inference.exits import run_with_exit
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.steps import first_steps
from spikformer_deploy.optimization.exits import Tried, _smallest, _thresholds, choose_exit
from spikformer_deploy.pipeline.program import Program

LOIHI2 = load_profile("loihi2")


def program_of(network: Network) -> Program:
    *others, output = network.populations
    network = replace(network, populations=(*others, replace(output, neuron=replace(output.neuron, last=False))))  # type: ignore[arg-type]
    channels, height, _ = network.input.shape
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels)
    return Program(network, map_network(network, LOIHI2, {}), LOIHI2, preprocess, (), {})


def images_of(program: Program, seed: int, count: int, labelled: bool = True) -> ImageSet:
    pixels = random_images(program.network, seed, count)
    labels = np.arange(count) % program.network.output.size if labelled else None
    return ImageSet(count, labels, (), "", lambda part: pixels[part])


@pytest.mark.parametrize("seed", some([4], long=[11]))
@pytest.mark.parametrize("runtime", ["lava", "bare"])
def test_the_curve_is_what_runs_with_early_exit_find(seed: int, runtime: str) -> None:
    program = program_of(random_network(seed, blocks=1))
    images = images_of(program, seed, 6)
    found = choose_exit(program, images, max_drop=20, runtime=runtime)
    assert [one.threshold for one in found.tried] == sorted({one.threshold for one in found.tried})
    for one in found.tried:
        ran = run_with_exit(program, images, one.threshold, runtime=runtime)
        assert (one.accuracy, one.mean_steps, list(one.exits)) == (ran.accuracy, ran.mean_steps, ran.exits)
        assert one.synaptic_ops == pytest.approx(ran.synaptic_ops, rel=1e-12)
        energy = next(e for e in ran.energies if e.convention == "profile")
        assert ran.latency is not None
        # floating-point sums in another order
        assert one.latency_us == pytest.approx(ran.latency.nominal, rel=1e-9)
        assert one.neuro_cores_mj == pytest.approx(energy.within("neuro_cores").nominal, rel=1e-9)
        assert one.energy_mj == pytest.approx(energy.total.nominal, rel=1e-9)
    assert found.tried[-1].mean_steps == program.network.time_steps
    assert found.chosen in found.tried
    assert found.threshold == found.chosen.threshold
    assert found.tried[-1].accuracy - found.chosen.accuracy <= 0.2


def tried(*right: int) -> tuple[Tried, ...]:
    return tuple(Tried(i + 1, n / 1000, 1.0, (1000,), 1.0, 1.0, 1.0, 1.0) for i, n in enumerate(right))


def test_the_threshold_is_the_smallest_above_which_nothing_loses_more() -> None:
    curve = tried(900, 980, 990, 985, 991, 988, 990)
    assert _smallest(curve, 1000, 0).threshold == 7
    assert _smallest(curve, 1000, 2).threshold == 5
    assert _smallest(curve, 1000, 5).threshold == 3
    assert _smallest(curve, 1000, 1000).threshold == 1


def test_thresholds_are_margins_that_images_have_and_one_that_none_has() -> None:
    assert _thresholds(np.array([[0, 3, 99], [5, 3, 0]])) == [3, 5, 6]
    assert _thresholds(np.array([[0, 7], [0, 8]])) == [1]
    many = np.random.default_rng(0).integers(0, 10**6, (5000, 3))
    found = _thresholds(many)
    assert len(found) <= 201
    assert set(found[:-1]) <= set(many[:, :-1].ravel().tolist())
    assert found[-1] == many[:, :-1].max() + 1


def test_what_is_nothing_to_choose_from_is_refused() -> None:
    program = program_of(random_network(4, blocks=1))
    images = images_of(program, 4, 3)
    for call, problem in (
        (lambda: choose_exit(program, images, max_drop=-1), "-1 points"),
        (lambda: choose_exit(program, images, max_drop=float("nan")), "nan points"),
        (lambda: choose_exit(program, images_of(program, 4, 3, labelled=False), max_drop=1), "there are no classes"),
        (
            lambda: choose_exit(replace(program, network=first_steps(program.network, 1)), images, max_drop=1),
            "one time",
        ),
        (lambda: choose_exit(replace(program, profile=load_profile("loihi1")), images, max_drop=1), "'loihi1'"),
    ):
        with pytest.raises(InputError, match=problem):
            call()
