"""The compiled engine of chip-wide steps against its specification, tick for tick."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chips import random_machine, random_wave

from spikformer_deploy.base.errors import InputError
from spikformer_deploy.timing import mesh, reference
from spikformer_deploy.timing.machine import Hops, Machine, mesh_of
from spikformer_deploy.timing.state import at_rest, entries_of
from spikformer_deploy.timing.wave import Routes, Wave

BATCH = 50
EXAMPLES = 50


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_equals_the_specification_tick_for_tick(seed: int) -> None:
    """BATCH random chips an example: contention, full queues, several chips."""
    rng = np.random.default_rng(seed)
    for _ in range(BATCH):
        machine = random_machine(rng)
        routes, wave = random_wave(rng, len(machine.cores))
        expected, expected_log = reference.run_wave(machine, routes, wave)
        got, log, _ = mesh.run_wave(at_rest(machine), entries_of(machine, routes), wave, log=True)
        for ours, theirs in ((got, expected), (log, expected_log)):
            for field in fields(theirs):
                np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name), field.name)


@pytest.mark.parametrize("chip", [(4, 4), (2, 1)])
def test_a_flooded_mesh_with_room_for_one_message_empties(chip: tuple[int, int]) -> None:
    """Everybody sends to everybody at once, in circles too: what X-then-Y must be free of is a deadlock."""
    cores = np.arange(16)
    x = cores % 4
    y = cores // 4
    machine = Machine(mesh_of(x, y, chip, Hops(4, 6, 9, 2), 3, 20), cores, 2, 1, 1, 1, 0, 0)
    circles = np.concatenate([np.roll(cores, shift) for shift in range(1, 16)] * 10)
    target = circles.reshape(-1, 16).T.ravel().astype(np.int32)
    routes = Routes(target, np.ones(len(target), np.int64), np.full(len(target), 30))
    first = np.arange(17) * 150
    sent = np.arange(len(target))[:, None] + [0, 1]
    wave = Wave(first, np.zeros(len(target), np.int64), sent, np.zeros(16, np.int64))
    times, _, _ = mesh.run_wave(at_rest(machine), entries_of(machine, routes), wave)
    assert times.received.tolist() == [150] * 16
    assert (times.stalled > 0).all()
    assert times.quiet >= 150 * 30


def test_an_undisturbed_message_takes_the_sum_of_its_latencies() -> None:
    """Two hops east, one north, across a chip's border between: axon-out, hops, the core's own link, its service."""
    x = np.array([0, 2])
    y = np.array([0, 1])
    machine = Machine(mesh_of(x, y, (2, 2), Hops(410, 650, 2000, 210), 29, 400), np.arange(2), 51, 16, 4, 16, 0, 0)
    routes = Routes(np.array([1], np.int32), np.array([7]), np.array([320 + 7 * 62]))
    wave = Wave(np.array([0, 1, 1]), np.array([720]), np.array([[0, 1]]), np.array([420, 0]))
    times, log, _ = mesh.run_wave(at_rest(machine), entries_of(machine, routes), wave, log=True)
    assert log is not None
    assert log.birth.tolist() == [720 + 51]
    assert log.arrive.tolist() == [720 + 51 + 410 + 2000 + 650 + 210]
    assert times.quiet == log.arrive[0] + 320 + 7 * 62
    assert times.sweep_end.tolist() == [720 + 420, 0]


def test_a_wave_is_followed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same ticks; what hears of the parts hears of all messages, and can end the work."""
    rng = np.random.default_rng(63)
    machine = random_machine(rng)
    routes, wave = random_wave(rng, len(machine.cores))
    entries = entries_of(machine, routes)
    assert wave.messages > 20
    whole, log, _ = mesh.run_wave(at_rest(machine), entries, wave, log=True)
    parts: list[int] = []
    monkeypatch.setattr(mesh, "AT_ONCE", 3)
    times, in_parts, _ = mesh.run_wave(at_rest(machine), entries, wave, log=True, followed=parts.append)
    assert sum(parts) == wave.messages
    # links that start at one tick go together
    assert len(parts) > 2
    for ours, theirs in ((times, whole), (in_parts, log)):
        for field in fields(theirs):
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name), field.name)

    def enough(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mesh.run_wave(at_rest(machine), entries, wave, followed=enough)


def test_what_a_route_cannot_hold_is_refused() -> None:
    machine = Machine(mesh_of(np.zeros(1), np.zeros(1), (1, 1), Hops(1, 1, 1, 1), 1, 1), np.arange(1), 1, 1, 1, 1, 0, 0)
    with pytest.raises(InputError, match=r"--timing: 1 routes, of which the longest .* 2,147,483,648 ticks"):
        entries_of(machine, Routes(np.zeros(1, np.int32), np.ones(1, np.int64), np.array([2**31])))
