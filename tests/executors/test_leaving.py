"""Early exit: the engine that lets images go equals the reference that runs all steps and cuts what came after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.deep import examples
from support.networks import random_images, random_network

from spikformer_deploy.counts.events import count, geometry
from spikformer_deploy.counts.steps import first_steps as events_of_first
from spikformer_deploy.executors import leaving, reference
from spikformer_deploy.executors.execution import Left, Request
from spikformer_deploy.executors.fast import leaving as fast
from spikformer_deploy.executors.fast.batch import Buffers
from spikformer_deploy.network.exits import check_exit, exit_steps, margins
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.steps import first_steps
from spikformer_deploy.network.synapses import Readout

IMAGES = 6


def with_head(network: Network, **changed: object) -> Network:
    *others, output = network.populations
    return replace(network, populations=(*others, replace(output, neuron=replace(output.neuron, **changed))))  # type: ignore[arg-type]


def network_of(seed: int) -> Network:
    """A random network of several steps with small weights in its head, so that margins tie."""
    network = random_network(seed, blocks=1)
    head = network.output.neuron
    small = tuple(
        replace(p, synapse=Readout(np.sign(p.synapse.weight))) if isinstance(p.synapse, Readout) else p
        for p in network.projections
    )
    bias = np.random.default_rng(seed).integers(-3, 4, head.bias.shape)  # type: ignore[union-attr]
    return with_head(replace(network, projections=small), last=False, bias=bias)


def margins_of(network: Network, images: np.ndarray) -> np.ndarray:
    """(N, T) by the reference."""
    whole = reference.execute(network, images, record=[network.output.name]).membranes[network.output.name]
    return margins(check_exit(network), whole.astype(np.int64).reshape(len(images), network.time_steps, -1))


def plain_after(network: Network, images: np.ndarray, margin: int) -> list[int]:
    """The step after which each image leaves, by programs of 1, 2, ... steps, image by image."""
    per_step = images.ndim == 5
    after = []
    for image in images:
        for steps in range(1, network.time_steps + 1):
            fewer = first_steps(network, steps)
            shown = image[None, :steps] if per_step else image[None]
            *_, second, first = sorted(reference.execute(fewer, shown).accumulators[0].tolist())
            if first - second >= margin:
                break
        after.append(steps)
    return after


def assert_same(ours: list[Left], theirs: list[Left], network: Network, names: list[str]) -> None:
    assert [left.steps for left in ours] == [left.steps for left in theirs]
    where = geometry(network, None)
    for one, other in zip(ours, theirs, strict=True):
        steps = one.steps
        np.testing.assert_array_equal(one.places, other.places)
        for name in names:
            np.testing.assert_array_equal(
                one.execution.spikes[name][:, :steps], other.execution.spikes[name][:, :steps]
            )
            np.testing.assert_array_equal(
                one.execution.membranes[name][:, :steps], other.execution.membranes[name][:, :steps]
            )
        mine, its = (events_of_first(count(where, left.execution), steps) for left in (one, other))
        for name, events in its.populations.items():
            for field in ("updates", "idle", "spikes", "values", "messages", "gathered"):
                np.testing.assert_array_equal(
                    getattr(mine.populations[name], field), getattr(events, field), err_msg=f"{name} {field}"
                )
        for a, b in zip(mine.projections, its.projections, strict=True):
            for field in ("synops", "slots", "delivered", "coincidences", "products", "slot_products"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


@given(seed=st.integers(0, 10**6), quantile=st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
@examples(15, 100)
def test_the_engine_that_lets_images_go_equals_the_reference(seed: int, quantile: float) -> None:
    network = network_of(seed)
    assert fast.carries(network)
    images = random_images(network, seed, IMAGES)
    names = [p.name for p in network]
    ahead = margins_of(network, images)
    # a margin that some image has exactly: it leaves
    margin = max(1, int(np.quantile(ahead[:, :-1], quantile, method="nearest")))
    cells = geometry(network, None).cells
    request = Request(network, cells)
    theirs = leaving.after_all_steps("reference", request, margin)
    ours = leaving.prepare("engine", request, margin)
    expected = theirs.execute(images, names)
    assert_same(ours.execute(images, names), expected, network, names)
    after = np.zeros(IMAGES, np.int64)
    for left in expected:
        after[left.places] = left.steps
    assert after.tolist() == plain_after(network, images, margin)
    np.testing.assert_array_equal(after, exit_steps(ahead, margin))


def test_networks_that_hold_more_than_potentials_run_all_steps() -> None:
    """A current, or levels with a potential: nothing carries them from step to step, and the engine finds the same."""
    found = 0
    for seed in range(40):
        network = with_head(random_network(seed, blocks=1, kind="stock"), last=False)
        if fast.carries(network):
            continue
        found += 1
        images = random_images(network, seed, IMAGES)
        request = Request(network, geometry(network, None).cells)
        names = [p.name for p in network]
        ours, theirs = leaving.prepare("engine", request, 9), leaving.after_all_steps("reference", request, 9)
        assert_same(ours.execute(images, names), theirs.execute(images, names), network, names)
        if found == 3:
            return
    raise AssertionError("no network with currents among 40")


def test_memory_does_not_grow_with_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back to the buffers was taken from them: they hold as many after five batches as after one."""
    made: list[Buffers] = []
    monkeypatch.setattr(fast, "Buffers", lambda: made.append(Buffers()) or made[-1])
    monkeypatch.setattr(fast.threads, "may_share", lambda: False)
    network = network_of(3)
    images = random_images(network, 3, 2 * IMAGES)
    margin = int(np.quantile(margins_of(network, images)[:, 0], 0.6, method="nearest"))
    leave = leaving.prepare("engine", Request(network, geometry(network, None).cells), margin)
    held = []
    for _ in range(5):
        assert len(leave.execute(images)) > 1
        held.append(len(made[0]._free))
    assert held[1:] == held[:1] * 4
