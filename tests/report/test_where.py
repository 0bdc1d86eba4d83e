"""Where energy and time go: shares that add up, levers that follow from the run, operations beside the paper's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import attrs
import numpy as np
import pytest
from support.networks import graded_network, random_network
from support.programs import program_of
from support.runs import run_of

from spikformer_deploy.accounting.by_layer import by_layer
from spikformer_deploy.accounting.conventions import beyond_sops, exact_sops
from spikformer_deploy.accounting.energy import Energy
from spikformer_deploy.accounting.target import NEURO_CORES, SWEEPS, slice_counts
from spikformer_deploy.chips import draws
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.steps import loads_ns
from spikformer_deploy.chips.profile import under
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.run import run
from spikformer_deploy.report.classes import LARGEST_MATRIX, class_values
from spikformer_deploy.report.levers import _together, levers, target_energy, without_runtime
from spikformer_deploy.report.where import image_spread, layer_costs, lever_values, static_share
from spikformer_deploy.timing.by_layer import busy_us
from spikformer_deploy.timing.estimate import slice_work


@pytest.fixture(scope="module")
def result() -> Run:
    return run_of(random_network(4, blocks=2))


def on_targets(run: Run) -> list[Energy]:
    return [energy for energy in run.energies if energy.convention.startswith("profile")]


@pytest.mark.parametrize("target", ["loihi2", "kapoho_point"])
def test_layers_add_up_to_the_figure_of_their_boundary(target: str) -> None:
    found = run_of(random_network(4, blocks=1), target)
    assert on_targets(found)
    for energy in on_targets(found):
        layers = by_layer(energy, found.events, found.program.mapping)
        assert [layer.name for layer in layers] == [population.name for population in found.program.network]
        assert sum(layer.total for layer in layers) == pytest.approx(energy.total.nominal, rel=1e-12)
        dynamic = energy.within(NEURO_CORES).nominal
        assert sum(layer.dynamic for layer in layers) == pytest.approx(dynamic, rel=1e-12)
        assert min(min(layer.dynamic, layer.static) for layer in layers) >= 0


def test_counts_of_slices_are_those_of_the_parts(result: Run) -> None:
    slices = result.events.slices
    assert slices is not None
    counts = slice_counts(result.events, slices, result.program.mapping)
    for part in target_energy(result.energies).parts:
        if part.name in counts:
            count = int(counts[part.name].sum())
            assert part.events == (count if part.name == SWEEPS else count / result.events.images), part.name


def test_a_layer_is_charged_for_its_own_operations(result: Run) -> None:
    """Synaptic operations by layer are those of Events.synops_of: nothing is charged to another layer."""
    slices, mapping = result.events.slices, result.program.mapping
    assert slices is not None
    at_slices = slice_counts(result.events, slices, mapping)["synaptic operations"]
    for name in result.events.populations:
        own = [mapping.sites[site].population == name for site in mapping.boxes[:, 0]]
        assert int(at_slices[own].sum()) == int(result.events.synops_of(name).sum()), name


def test_the_busiest_core_of_a_layer_works_as_long_as_its_own_loads(result: Run) -> None:
    """Core by core and step by step, as chips/loihi/steps.py says it."""
    program = result.program
    profile, mapping = under(program.profile, "lava"), program.mapping
    work = slice_work(result.events, program.network, mapping, profile)
    table = latencies(profile, draws.nominal)
    own, arriving = loads_ns(work.own, table), loads_ns(work.arriving, table)
    shape = (1, *work.slices.synops.shape)
    swept, sent = (np.broadcast_to(own[part], shape)[0] for part in ("neurons", "sending"))
    served = np.broadcast_to(arriving["synapses"] + arriving["messages"], shape)[0]
    for name, busy in busy_us(result.events, program.network, mapping, profile).items():
        of_layer = [i for i, box in enumerate(mapping.boxes) if mapping.sites[box[0]].population == name]
        longest = 0.0
        for core in {int(mapping.cores[i]) for i in of_layer}:
            here = [i for i in of_layer if mapping.cores[i] == core]
            steps = [
                max(sum(load[image, step, i] for i in here) for load in (swept, sent, served))
                for image, step in np.ndindex(shape[1:3])
            ]
            longest = max(longest, sum(steps) / len(steps) / 1e3)
        assert busy == pytest.approx(longest, rel=1e-12), name


@pytest.mark.parametrize("network", [random_network(4, blocks=2), graded_network(3)], ids=["binary", "graded"])
def test_operations_beyond_the_papers_have_their_reasons(network) -> None:
    found = run_of(network)
    beyond = beyond_sops(network, found.events)
    assert beyond["first layer"] > 0
    difference = found.events.synops - exact_sops(network, found.events)
    assert round(sum(beyond.values()) * found.events.images) == round(difference * found.events.images)


def test_static_and_dynamic_are_the_figure(result: Run) -> None:
    shares = static_share(result)
    assert shares is not None
    total = target_energy(result.energies).total.nominal
    assert shares["static"]["nominal"] + shares["dynamic"]["nominal"] == pytest.approx(total, rel=1e-12)
    assert 0 < shares["static_share"] < 1


def test_levers_save_energy_the_largest_first(result: Run) -> None:
    found = levers(result)
    now = target_energy(result.energies).total
    assert 0 < len(found) <= 3
    nominal = [lever.energy.nominal for lever in found]
    assert nominal == sorted(nominal)
    assert nominal[-1] < now.nominal
    for lever in found:
        assert lever.energy.low <= lever.energy.likely[0] <= lever.energy.nominal * (1 + 1e-9)
        assert lever.energy.high <= now.high * (1 + 1e-9)


def test_the_lever_of_a_free_runtime_is_the_run_under_it(result: Run) -> None:
    (lever,) = without_runtime(result)
    again = result.under["bare"]
    assert lever.latency_us == float(again.finest.latency_us[1])
    assert not list(without_runtime(replace(result, runtime="bare")))


def test_free_cores_are_those_that_programs_may_use(result: Run) -> None:
    mapping = result.program.mapping
    roomy = replace(mapping, cores_per_chip=3 * mapping.cores_used)
    found = _together(replace(result, program=replace(result.program, mapping=roomy)), target_energy(result.energies))
    (lever,) = found
    assert lever.name == f"{3 * mapping.chips} images at once on the same {'chip' if mapping.chips == 1 else 'chips'}"


def free(section: Any) -> Any:
    """A table of a profile with all its numbers 0."""
    numbers = attrs.asdict(section, recurse=False)
    return attrs.evolve(section, **{name: attrs.evolve(n, value=0.0, range=None) for name, n in numbers.items()})


def test_a_target_without_costs_has_no_levers() -> None:
    program = program_of("digits-v2")
    corners = {name: free(energies) for name, energies in program.profile.corners.items()}
    profile = attrs.evolve(program.profile, power=free(program.profile.power), corners=corners)
    found = run(replace(program, profile=profile), np.zeros((2, 1, 16, 16), np.uint8))
    assert target_energy(found.energies).total.nominal == 0
    assert lever_values(found) == []


def test_a_run_without_times_has_no_costs() -> None:
    found = run_of(random_network(4, blocks=1), timing="none")
    assert levers(found) == ()
    assert layer_costs(found) == {}
    assert static_share(found) is None
    assert image_spread(found) == []


def test_the_spread_is_of_the_images(result: Run) -> None:
    rows = {row["name"]: row for row in image_spread(result)}
    assert result.times is not None
    images = result.times.step_ns[1].sum(1) / 1e3
    row = rows["an image in the pipeline"]
    assert (row["min"], row["max"]) == (images.min(), images.max())
    assert row["median"] == np.median(images)
    flowing = [part.energy.nominal for part in target_energy(result.energies).inside if part.unit == "s"]
    mean = sum(flowing) / images.mean()
    assert rows["static energy"]["max"] == pytest.approx(mean * images.max())


def test_classes_count_every_image(result: Run) -> None:
    values = class_values(result)
    assert values is not None
    assert sum(sum(row) for row in values["matrix"]) == 3
    right = sum(values["matrix"][i][i] for i in range(len(values["matrix"])))
    assert right / 3 == result.accuracy
    assert [row["images"] for row in values["by_class"]] == [2, 1]
    assert sum(row["images"] for row in values["confused"]) == 3 - right
    assert class_values(replace(result, labels=None)) is None


def test_many_classes_have_no_matrix(result: Run) -> None:
    count = LARGEST_MATRIX + 1
    scores = np.zeros((3, count), np.int64)
    scores[:, 7] = 1
    values = class_values(replace(result, accumulators=scores, labels=np.array([7, 40, 40])))
    assert values is not None
    assert values["matrix"] is None
    assert values["confused"] == [{"label": "40", "prediction": "7", "images": 2}]
