"""One run for several programs gives each the record of a run by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from support.networks import random_images, random_network

from spikformer_deploy.base.errors import OverflowDetected
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.counts.grids import common_cells
from spikformer_deploy.data.images import ImageSet, Preprocess
from spikformer_deploy.executors import execution
from spikformer_deploy.executors.execution import Cells
from spikformer_deploy.inference.results import Run
from spikformer_deploy.inference.run import run
from spikformer_deploy.inference.together import run_together, same_integers
from spikformer_deploy.mapping.map import map_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator, Lif, Source
from spikformer_deploy.network.steps import first_steps
from spikformer_deploy.pipeline.program import Program

TARGETS = ("loihi2", "kapoho_point")


def image_set(network: Network, count: int = 5) -> ImageSet:
    pixels = random_images(network, 3, count)
    return ImageSet(count, np.arange(count) % 2, (), "", lambda part: pixels[part])


def programs_of(network: Network, steps: tuple[int, ...]) -> list[Program]:
    """On two targets and by two objectives, for several numbers of steps."""
    channels, height, _ = network.input.shape
    preprocess = Preprocess(channels, height, (0.0,) * channels, (1.0,) * channels)
    out = []
    for number, target, objective in product(steps, TARGETS, ("energy", "cores")):
        profile, fewer = load_profile(target), first_steps(network, number)
        mapping = map_network(fewer, profile, dict.fromkeys([p.name for p in network], 0.1 * number), objective)
        out.append(Program(fewer, mapping, profile, preprocess, (), {}))
    return out


def figures(found: Run | OverflowDetected) -> dict[str, Any]:
    """Everything that a run says, but how long it took."""
    assert isinstance(found, Run)
    return {k: v for k, v in found.to_dict().items() if k not in ("seconds", "peak_memory_mib")}


@pytest.mark.long
@pytest.mark.parametrize("seed", [11, 4])
def test_each_record_is_that_of_a_run_by_itself(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "BATCH", 3)
    network = random_network(seed, blocks=1)
    source = network.input.neuron
    assert isinstance(source, Source)
    steps = (network.time_steps,) if source.per_step else (1, network.time_steps)
    # both targets, both objectives, both numbers of steps
    programs = programs_of(network, steps)[:: 3 if len(steps) == 2 else 1]
    assert len({same_integers(program.network) for program in programs}) == 1
    assert len({tuple(program.mapping.cores) for program in programs}) > 1
    together = run_together(programs, image_set(network))
    for program, found in zip(programs, together, strict=True):
        assert figures(found) == figures(run(program, image_set(network)))


def test_cells_in_common_lie_within_those_of_each() -> None:
    rng = np.random.default_rng(0)
    grids = [
        Cells(
            np.unique([0, 12, *rng.integers(1, 12, 3)]),
            np.unique(rng.integers(0, 3, 7), return_inverse=True)[1],
            np.unique(rng.integers(0, 2, 5), return_inverse=True)[1],
        )
        for _ in range(3)
    ]
    common = common_cells([{"a": grid} for grid in grids])["a"]
    assert common.shape[0] == len(common.channels) - 1
    for grid in grids:
        assert set(grid.channels) <= set(common.channels)
        for own, other in ((common.rows, grid.rows), (common.columns, grid.columns)):
            assert all(len(set(other[own == number])) == 1 for number in range(own.max() + 1))


@pytest.mark.long
def test_a_state_that_overflows_in_a_later_step_is_no_error_of_fewer_steps() -> None:
    network = random_network(11, blocks=1)
    *others, output = network.populations
    assert isinstance(output.neuron, Accumulator)
    # three steps of this bias leave 24 bits, and one step does not
    bias = np.full(output.size, 3_000_000 * network.time_steps)
    head = replace(output, neuron=replace(output.neuron, bias=bias, last=False))
    network = replace(network, populations=(*others, head), state_bits=24)
    found = run_together(programs_of(network, (1, network.time_steps))[2:6], image_set(network))
    assert [isinstance(one, OverflowDetected) for one in found] == [False, False, True, True]


def test_other_integers_are_other_words() -> None:
    network = random_network(11, blocks=1)
    lif = next(p for p in network if isinstance(p.neuron, Lif))
    assert isinstance(lif.neuron, Lif)
    other = replace(lif, neuron=replace(lif.neuron, threshold=lif.neuron.threshold + 1))
    changed = replace(network, populations=tuple(other if p is lif else p for p in network))
    assert same_integers(changed) != same_integers(network)
    assert same_integers(replace(network, projections=network.projections[::-1])) != same_integers(network)
