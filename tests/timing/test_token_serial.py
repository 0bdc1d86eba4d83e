"""Token-serial programs message by message: against the plain twin tick for tick, and against the event counts."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.closed_form import plain_step
from support.deep import DEEP, examples, some
from support.networks import Builder, random_images, random_network
from support.profiles import smaller, two_chips
from support.token_serial import Twin, levels_of, random_streams
from support.waves import totals

from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.steps import barrier
from spikformer_deploy.counts import events
from spikformer_deploy.executors import reference as engine
from spikformer_deploy.executors.execution import Execution
from spikformer_deploy.network.mapping import Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Sum
from spikformer_deploy.network.synapses import Attention, Window
from spikformer_deploy.timing import mesh, reference
from spikformer_deploy.timing import messages as timing
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.hops import hop_table, hops_of_images
from spikformer_deploy.timing.layout import depths
from spikformer_deploy.timing.steps import Recorded, falling_through, pipelined, recorded_image
from spikformer_deploy.timing.traffic import Costs
from spikformer_deploy.timing.wave import Log, Routes, Wave, WaveTimes

PROFILE = two_chips()
SPLIT = smaller(20000, 4095, 12)
"""Fan-ins of more than twelve lists are split."""
SERIALS = st.sampled_from(["tokens", "channels"])
SEEDS = st.integers(0, 2**32 - 1)


def network_of(seed: int, kind: str) -> Network:
    """A small Spikformer; an attention whose operands come spatially and in series; one whose fan-ins are split."""
    if kind == "random":
        return random_network(seed, 2, blocks=1 + seed % 2)
    b = Builder(np.random.default_rng(seed), 2, "programmable")
    if kind == "wide":
        x = b.conv("stem", b.source((1, 2, 2), 15, True), 16, 3)
        return b.finish(b.conv("last", b.attention("attention", [b.conv(n, x, 4, 1) for n in "qkv"], 2), 4, 1), 2)
    x = b.conv("stem", b.source((2, 2, int(b.rng.integers(1, 4))), 15, True), 4, 3)
    heads = int(b.rng.integers(1, 3))
    if kind == "block":
        x = b.window("embedded", Sum(), [x, b.conv("position", x, 4, 3)], Window())
        attended = b.attention("attention", [b.conv(n, x, 4, 1) for n in "qkv"], heads)
        x = b.window("add", Sum(), [x, b.conv("projected", attended, 4, 1)], Window())
        return b.finish(b.window("last", Sum(), [x, b.conv("mlp", x, 4, 1)], Window()), 3)
    # q of a layer that stays spatial, k a layer before v, both one neuron a channel; v is read by others too
    q, k = b.conv("q", x, 4, 3), b.conv("k", x, 4, 1)
    v = b.conv("v", b.conv("deep", x, 4, 1), 8, 1)
    out = b.lif("attention", v.shape, (Attention(heads, 1), (q.name, k.name, v.name)), (Window(), (v.name,)))
    return b.finish(b.conv("last", out, 4, 3), 3)


KINDS = ["mixed", "wide", "block"]
NETWORKS = st.builds(network_of, SEEDS, st.sampled_from([*KINDS, "random"] if DEEP else KINDS))


@dataclass
class Case:
    network: Network
    mapping: Mapping
    timer: timing.Timer
    execution: Execution
    images: list[Recorded]
    counts: events.Events


def prepared(network: Network, serial: str, seed: int, images: int = 1) -> Case:
    # larger ones would be in too many parts
    split = max(p.size for p in network) <= 64
    mapping = random_streams(network, SPLIT if split else PROFILE, serial, seed)
    geometry = events.geometry(network, mapping)
    names = [p.name for p in network]
    execution = engine.execute(network, random_images(network, seed, images), record=names, cells=geometry.cells)
    recorded = [recorded_image(network, execution, n) for n in range(images)]
    timer = timing.timer(geometry, PROFILE)
    return Case(network, mapping, timer, execution, recorded, events.count(geometry, execution))


def messages_of(log: Log, routes: Routes) -> list[tuple[int, ...]]:
    """Everything about every message, whatever the table it stands in."""
    columns = (log.birth, log.source, log.arrive, log.begin)
    tables = (routes.target[log.entry], routes.synops[log.entry], routes.service[log.entry])
    return list(zip(*(column.tolist() for column in (*columns, *tables)), strict=True))


def assert_same(ours: WaveTimes, theirs: WaveTimes) -> None:
    for field in fields(theirs):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name), field.name)


@examples(6, 400, long=24)
@given(NETWORKS, SERIALS, SEEDS)
def test_ticks_are_those_of_the_plain_twin(network: Network, serial: str, seed: int) -> None:
    """In the pipeline and falling through: every sweep, every message, every link of every sub-step."""
    case = prepared(network, serial, seed)
    traffic, steps = case.timer.traffic, network.time_steps
    twin = Twin(network, case.mapping, PROFILE, case.execution, 0)
    step, at = seed % steps, seed % traffic.levels
    ways: list[tuple[list[Wave], Callable[[int], int | None]]] = [
        (list(pipelined(traffic, case.images[0], step)), lambda level: (step - level) % steps),
        (list(falling_through(traffic, case.images[0], at, step)), lambda level: step if level == at else None),
    ]
    assert len(ways[0][0]) == 1 + case.mapping.chip_sub_steps
    for waves, step_of in ways:
        for ours, (theirs, routes) in zip(waves, twin.waves(step_of, len(waves) - 1), strict=True):
            expected, plain_log = reference.run_wave(case.timer.machine, routes, theirs)
            times, log, _ = mesh.run_wave(case.timer.at_rest, case.timer.entries, ours, log=True)
            assert_same(times, expected)
            assert log is not None
            assert messages_of(log, traffic.routes) == messages_of(plain_log, routes)


@pytest.mark.long
@examples(12, 200)
@given(NETWORKS, SERIALS, SEEDS)
def test_counts_over_sub_steps_are_those_of_the_events(network: Network, serial: str, seed: int) -> None:
    """Messages, operations and updates, core by core and step by step; hops in all."""
    case = prepared(network, serial, seed, 2)
    traffic, slices = case.timer.traffic, case.counts.slices
    assert slices is not None
    counted = (slices.messages_out, slices.messages_in, slices.synops)
    attention = np.array([site.kind == "attention" for site in case.mapping.sites])[slices.sites]
    _, visits = slices.by_core(np.where(attention, 0, slices.neurons - slices.idle))
    # where nobody sends and only updates take time, a sweep is as long as it has updates
    silent = replace(traffic, senders=(), costs=Costs(0, np.ones(len(slices.cores), np.int64), 0))
    for n, image in enumerate(case.images):
        for t in range(network.time_steps):
            waves, updates = (
                [w for level in range(traffic.levels) for w in falling_through(sent, image, level, t)]
                for sent in (traffic, silent)
            )
            for got, expected in zip(totals(traffic, waves), counted, strict=True):
                np.testing.assert_array_equal(got, slices.by_core(expected)[1][n, t])
            np.testing.assert_array_equal(sum(wave.sweep_ends for wave in updates), visits[n, t])
        stream = [w for step in range(network.time_steps) for w in pipelined(traffic, image, step)]
        np.testing.assert_array_equal(totals(traffic, stream)[1], slices.by_core(slices.messages_in)[1][n].sum(0))
    table = hop_table(traffic, case.timer.machine.mesh, events.geometry(network, case.mapping).cells)
    hops = [timing.time_image(case.timer, image).hops for image in case.images]
    np.testing.assert_array_equal(hops_of_images(table, case.execution.activity), hops)


def times_by_hand(case: Case) -> tuple[list[float], list[float]]:
    """(pipelined, falling through) ns of every time step of the first image, by the specification."""
    end, ns = case.timer.machine.barrier + case.timer.machine.runtime, timing.TICK_PS / 1000
    routes = case.timer.traffic.routes

    def total(waves: list[Wave]) -> float:
        return sum(reference.run_wave(case.timer.machine, routes, wave)[0].quiet + end for wave in waves) * ns

    traffic, image, steps = case.timer.traffic, case.images[0], range(case.network.time_steps)
    stream = [total(list(pipelined(traffic, image, t))) for t in steps]
    levels = range(traffic.levels)
    return stream, [sum(total(list(falling_through(traffic, image, level, t))) for level in levels) for t in steps]


@pytest.mark.parametrize("serial", ["tokens", "channels"])
@pytest.mark.parametrize("kind", some(["wide"], long=["block"]))
def test_an_image_takes_what_the_specification_says(kind: str, serial: str) -> None:
    case = prepared(network_of(5, kind), serial, 5)
    times = timing.time_image(case.timer, case.images[0])
    stream, passing = times_by_hand(case)
    np.testing.assert_allclose(times.step_ns[1, 0], stream, rtol=1e-12)
    np.testing.assert_allclose(times.fall_through_ns[1, 0], passing, rtol=1e-12)


@pytest.mark.parametrize("serial", ["tokens", "channels"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_models_have_the_same_steps_of_the_chip(kind: str, serial: str) -> None:
    """Layers, sub-steps and steps falling through; and the closed form is that of its own twin."""
    case = prepared(network_of(6, kind), serial, 6)
    closed = estimate(case.counts, case.network, case.mapping, PROFILE)
    followed = timing.time_image(case.timer, case.images[0])
    for name in ("depth", "chip_steps", "chip_steps_falling"):
        assert getattr(closed, name) == getattr(followed, name), name
    assert depths(case.network, case.mapping) == levels_of(case.network, case.mapping)
    assert closed.chip_steps == 1 + case.mapping.chip_sub_steps
    end = float(barrier(latencies(PROFILE), PROFILE, case.mapping)[NOMINAL])
    for step in range(case.network.time_steps):
        pipeline, passing = plain_step(case.counts, case.network, case.mapping, PROFILE, end, 0, step)
        np.testing.assert_allclose(closed.step_ns[NOMINAL, 0, step], pipeline, rtol=1e-12)
        np.testing.assert_allclose(closed.fall_through_ns[NOMINAL, 0, step], passing, rtol=1e-12)


def test_a_channel_waits_for_all_tokens() -> None:
    """With channels in series q, k and v have had all their tokens before the first turn: a layer more."""
    network = network_of(1, "block")
    levels = {serial: prepared(network, serial, 1).timer.traffic.level for serial in ("tokens", "channels")}
    for name, level in levels["tokens"].items():
        later = name not in ("input", "stem", "position", "embedded", "q", "k", "v")
        assert levels["channels"][name] == level + later, name
