"""The messages of a timing run against the exact event counts, and whole images against the specification."""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.closed_form import visit_ns
from support.deep import DEEP, examples
from support.executions import finds_nothing
from support.mappings import random_mapping
from support.networks import graded_network, random_images, random_network
from support.profiles import two_chips
from support.waves import totals

from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference as engine
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing import mesh, reference, steps
from spikformer_deploy.timing import messages as timing
from spikformer_deploy.timing.hops import hop_table, hops_of_images
from spikformer_deploy.timing.layout import depths
from spikformer_deploy.timing.steps import Recorded, falling_through, pipelined, recorded_image
from spikformer_deploy.timing.traffic import Traffic
from spikformer_deploy.timing.wave import Log, Wave

NETWORKS = st.builds(random_network, st.integers(0, 2**32 - 1), st.integers(1, 3), blocks=st.integers(0, 2))
GRADED = st.builds(graded_network, st.integers(0, 2**32 - 1), st.integers(1, 2))


PROFILE = two_chips()
MOST_MESSAGES = 1500
"""Of an image that the twin follows but in the deep run: with five times as many it takes minutes."""


def spread(network: Network, seed: int) -> Mapping:
    """A random mapping with one slice a core, over several chips."""
    mapping = random_mapping(network, seed)
    cores = np.random.default_rng(seed).permutation(max(64, len(mapping.boxes)))[: len(mapping.boxes)]
    return replace(mapping, cores=cores, cores_per_chip=16, chips=len(np.unique(cores // 16)))


@examples(6, 60)
@given(NETWORKS | GRADED, st.integers(0, 2**32 - 1))
def test_hops_by_cell_are_those_of_the_messages(network: Network, seed: int) -> None:
    mapping = spread(network, seed)
    geometry = events.geometry(network, mapping)
    names = [p.name for p in network]
    execution = engine.execute(network, random_images(network, seed), record=names, cells=geometry.cells)
    timer = timing.timer(geometry, PROFILE)
    table = hop_table(timer.traffic, timer.machine.mesh, geometry.cells)
    counted = [
        timing.time_image(timer, recorded_image(network, execution, n)).hops for n in range(len(execution.accumulators))
    ]
    np.testing.assert_array_equal(hops_of_images(table, execution.activity), counted)


def prepared(network: Network, seed: int) -> tuple[timing.Timer, events.Events, list[Recorded]]:
    mapping = spread(network, seed)
    geometry = events.geometry(network, mapping)
    names = [p.name for p in network]
    execution = engine.execute(network, random_images(network, seed), record=names, cells=geometry.cells)
    counts = events.count(geometry, execution)
    images = [recorded_image(network, execution, n) for n in range(counts.images)]
    return timing.timer(geometry, PROFILE), counts, images


@pytest.mark.long
@settings(max_examples=20, deadline=None)
@given(NETWORKS | GRADED, st.integers(0, 2**32 - 1))
def test_messages_are_those_of_the_events(network: Network, seed: int) -> None:
    timer, counts, images = prepared(network, seed)
    traffic = timer.traffic
    slices = counts.slices
    assert slices is not None
    for n, image in enumerate(images):
        for t in range(network.time_steps):
            waves = [w for level in range(traffic.levels) for w in falling_through(traffic, image, level, t)]
            counted = (slices.messages_out, slices.messages_in, slices.synops)
            for got, expected in zip(totals(traffic, waves), counted, strict=True):
                np.testing.assert_array_equal(got, slices.by_core(expected)[1][n, t])
        stream = [w for step in range(network.time_steps) for w in pipelined(traffic, image, step)]
        np.testing.assert_array_equal(totals(traffic, stream)[1], slices.by_core(slices.messages_in)[1][n].sum(0))


@pytest.mark.long
@examples(2, 8)
@given(
    st.builds(random_network, st.integers(0, 2**32 - 1), st.just(2), blocks=st.just(0))
    | st.builds(graded_network, st.integers(0, 2**32 - 1), st.just(1)),
    st.integers(0, 2**32 - 1),
)
def test_an_image_takes_what_the_specification_says(network: Network, seed: int) -> None:
    timer, _, images = prepared(network, seed)
    followed = [wave for t in range(network.time_steps) for wave in pipelined(timer.traffic, images[0], t)]
    assume(DEEP or totals(timer.traffic, followed)[1].sum() <= MOST_MESSAGES)
    times = timing.time_image(timer, images[0])
    end = timer.machine.barrier + timer.machine.runtime
    ns = timing.TICK_PS / 1000

    def step(waves: list[Wave]) -> float:
        times = [reference.run_wave(timer.machine, timer.traffic.routes, wave)[0] for wave in waves]
        return sum(t.quiet + end for t in times) * ns

    for t in range(network.time_steps):
        np.testing.assert_allclose(times.step_ns[1, 0, t], step(pipelined(timer.traffic, images[0], t)), rtol=1e-12)
        passing = sum(
            step(falling_through(timer.traffic, images[0], level, t)) for level in range(timer.traffic.levels)
        )
        np.testing.assert_allclose(times.fall_through_ns[1, 0, t], passing, rtol=1e-12)
    logs = [
        reference.run_wave(timer.machine, timer.traffic.routes, wave)[1]
        for t in range(network.time_steps)
        for wave in pipelined(timer.traffic, images[0], t)
    ]
    assert times.hops == hops(timer, logs)


def hops(timer: timing.Timer, logs: list[Log]) -> tuple[int, int]:
    """Distances between source and target of every message."""
    mesh = timer.machine.mesh
    x = mesh.tile % mesh.width
    y = mesh.tile // mesh.width
    across = 0
    along = 0
    for log in logs:
        target = timer.traffic.routes.target[log.entry]
        across += int(np.abs(x[log.source] - x[target]).sum())
        along += int(np.abs(y[log.source] - y[target]).sum())
    return across, along


def plain_sweeps(
    traffic: Traffic, mapping: Mapping, execution: Execution, number: int, step_of: Callable[[int], int | None]
) -> tuple[list[int], list[int]]:
    """Gaps and tails of a chip-wide step (see Wave), visit by visit.

    step_of  the time step that the layers at a level work on; None where they do not
    """
    network, costs = traffic.network, traffic.costs
    gaps, tails = [], []
    for core in np.unique(mapping.cores):
        since = 0
        for index in np.flatnonzero(mapping.cores == core):
            number_of_site, c0, c1, y0, y1, x0, x1 = mapping.boxes[index].tolist()
            site = mapping.sites[number_of_site]
            step = None if site.kind == "attention" else step_of(depths(network, mapping)[site.population])
            for c, y, x in np.ndindex(c1 - c0, y1 - y0, x1 - x0):
                where = (c0 + c, y0 + y, x0 + x)
                rests = step is None or finds_nothing(network[site.population], execution, (number, step), where)
                since += costs.idle if rests else int(costs.update[index])
                if step is not None and sends(traffic, site.population, where, execution, (number, step)):
                    gaps.append(since + costs.spike)
                    since = 0
        tails.append(since)
    return gaps, tails


def sends(
    traffic: Traffic, name: str, where: tuple[int, int, int], execution: Execution, when: tuple[int, int]
) -> bool:
    """Whether a neuron sends messages in the chip-wide step itself: it sends something, and somebody reads it there."""
    neuron = np.ravel_multi_index(where, traffic.network[name].shape)
    sender = next((s for s in traffic.senders if s.population == name and not s.sub_step.any()), None)
    if sender is None or not execution.spikes[name][(*when, *where)]:
        return False
    row = sender.row[neuron, 0]
    return bool(sender.table[row + 1] > sender.table[row])


@settings(max_examples=10, deadline=None)
@given(
    st.builds(
        random_network, st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from(["programmable", "stock"]),
        st.integers(0, 1), st.booleans(),
    ),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_sweeps_visit_one_neuron_after_the_other(network: Network, seed: int) -> None:
    """Idle neurons take less, and the updates of each slice their own time."""
    mapping = random_mapping(network, seed)
    mapping = replace(mapping, cores_per_chip=16, chips=len(np.unique(mapping.cores // 16)))
    geometry = events.geometry(network, mapping)
    names = [p.name for p in network]
    execution = engine.execute(network, random_images(network, seed, 1), record=names, cells=geometry.cells)
    traffic = timing.timer(geometry, PROFILE).traffic
    updates = np.random.default_rng(seed).integers(300, 900, len(mapping.boxes))
    traffic = replace(traffic, costs=replace(traffic.costs, update=updates))
    image = recorded_image(network, execution, 0)
    steps = network.time_steps
    step = seed % steps
    level = seed % traffic.levels
    waves = {
        "pipelined": next(pipelined(traffic, image, step)),
        "falling through": next(falling_through(traffic, image, level, step)),
    }
    rules: dict[str, Callable[[int], int | None]] = {
        "pipelined": lambda at: (step - at) % steps,
        "falling through": lambda at: step if at == level else None,
    }
    for name, wave in waves.items():
        gaps, tails = plain_sweeps(traffic, mapping, execution, 0, rules[name])
        assert wave.gap.tolist() == gaps, name
        assert wave.tail.tolist() == tails, name


@settings(max_examples=10, deadline=None)
@given(NETWORKS, st.integers(0, 2**32 - 1))
def test_sweeps_are_as_long_as_the_events_say(network: Network, seed: int) -> None:
    """Of all levels together: what is not idle is updated once a step, and in a sub-step what sends is."""
    timer, counts, images = prepared(network, seed)
    traffic, slices = timer.traffic, counts.slices
    assert slices is not None
    idle, spike = traffic.costs.idle, traffic.costs.spike
    _, neurons = slices.by_core(slices.neurons)
    # a core has one slice
    _, longer_visit = slices.by_core(traffic.costs.update - idle)
    _, visits = slices.by_core(np.where(traffic.layout.in_turn, 0, slices.neurons - slices.idle))
    for n, image in enumerate(images):
        for t in range(network.time_steps):
            steps = [list(falling_through(traffic, image, level, t)) for level in range(traffic.levels)]
            longer = sum(waves[0].sweep_ends - np.diff(waves[0].first) * spike for waves in steps)
            np.testing.assert_array_equal(longer, len(steps) * neurons * idle + visits[n, t] * longer_visit)
            for wave in (w for waves in steps for w in waves[1:]):
                expected = neurons * idle + np.diff(wave.first) * (spike + longer_visit)
                np.testing.assert_array_equal(wave.sweep_ends, expected)


def test_sub_steps_in_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are there at once, the waves are the same."""
    timer, _, images = prepared(random_network(7, blocks=2), 7)
    whole = list(pipelined(timer.traffic, images[0], 1))
    for at_once in (1, 3):
        monkeypatch.setattr(steps, "SUB_STEPS_AT_ONCE", at_once)
        waves = list(pipelined(timer.traffic, images[0], 1))
        assert len(waves) == len(whole) > at_once + 1
        for ours, theirs in zip(waves, whole, strict=True):
            for field in fields(theirs):
                np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name), field.name)
    assert any(wave.messages for wave in whole[1:])


def test_an_interrupt_ends_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the listener raises comes out, and no thread goes on for longer than until it next counts."""
    timer, _, images = prepared(random_network(7, blocks=2), 7)
    monkeypatch.setattr(mesh, "AT_ONCE", 1)
    heard: list[int] = []

    def interrupted(messages: int) -> None:
        heard.append(messages)
        if messages > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        timing.time_image(timer, images[0], interrupted)
    # each step that was at work or about to begin counts once more at most
    assert len(heard) <= 6 + timer.traffic.network.time_steps * (timer.traffic.levels + 1)
    assert timing.time_image(timer, images[0], heard.append).model == "cycle"
    total = sum(
        wave.messages
        for step in range(timer.traffic.network.time_steps)
        for wave in pipelined(timer.traffic, images[0], step)
    )
    assert heard[-1] == 2 * total > 2000


def test_the_number_of_timed_images_is_bounded() -> None:
    assert timing.images_to_time(100, 1e3) == timing.MOST_IMAGES
    assert timing.images_to_time(3, 1e3) == 3
    assert timing.images_to_time(100, 1e7) == 3
    assert timing.images_to_time(100, 1e12) == 1


def test_latencies_are_whole_ticks() -> None:
    network = random_network(3)
    timer, counts, _ = prepared(network, 3)
    costs = timer.traffic.costs
    mesh = timer.machine.mesh
    assert (costs.idle, costs.spike) == (265, 300)
    mapping = spread(network, 3)
    assert counts.slices is not None
    sites = [mapping.sites[site] for site in counts.slices.sites]
    assert costs.update.tolist() == [round(100 * visit_ns(network, site, PROFILE)) for site in sites]
    assert {420, 1067} <= set(costs.update.tolist())
    assert timer.machine.axon_out == 51
    assert set(mesh.latency.tolist()) >= {410, 650}
    assert set(mesh.occupied.tolist()) == {29, 400}


@pytest.mark.parametrize("serial", ["tokens", "channels"])
def test_attention_takes_a_sub_step_more_than_it_has_turns(serial: str) -> None:
    for seed in range(40):
        network = random_network(seed, blocks=1)
        mapping = spread(network, seed)
        site = next(s for s in mapping.sites if s.kind == "attention")
        if site.serial == serial:
            break
    timer, _, images = prepared(network, seed)
    level = next(iter(timer.traffic.sub_steps))
    assert timer.traffic.sub_steps == {level: site.sub_steps + 1}
    assert len(list(pipelined(timer.traffic, images[0], 0))) == site.sub_steps + 2
    assert len(list(falling_through(timer.traffic, images[0], level, 0))) == site.sub_steps + 2
    assert len(list(falling_through(timer.traffic, images[0], level + 1, 0))) == 1
