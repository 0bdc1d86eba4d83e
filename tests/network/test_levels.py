"""Levels: their equation against numbers that cannot round, their law, their worst case."""

from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import graded_network, random_images

from spikformer_deploy.executors import reference
from spikformer_deploy.network.bounds import worst_cases
from spikformer_deploy.network.decay import is_exact
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.neuron_law import check_neuron
from spikformer_deploy.network.neurons import DECAY_ONE, HALF_EVEN, HALF_UP, Levels, idle, step
from spikformer_deploy.network.synapses import Incoming, Window


def sent_by_model(inputs: list[Fraction], theta: int, count: int, keep: Fraction, rounding: str) -> list[int]:
    """What the real neuron sends: u = keep * v + x, s = round(u / theta) within 0..D, v = u - s * theta."""
    v, sent = Fraction(0), []
    for x in inputs:
        u = keep * v + x
        near = floor(u / theta + Fraction(1, 2)) if rounding == HALF_UP else round(u / theta)
        sent.append(min(max(near, 0), count))
        v = u - sent[-1] * theta
    return sent


def levels_of(theta: int, count: int, decay: int, shift: int, rounding: str) -> Levels:
    """Levels (2 j - 1) theta / 2 in units of 2^-shift: ties of odd j are not reached where they go to the even."""
    ties = [Fraction((2 * j - 1) * theta << shift, 2) for j in range(1, count + 1)]
    levels = [-floor(-t) + (rounding == HALF_EVEN and j % 2 == 0 and t == floor(t)) for j, t in enumerate(ties)]
    reset = theta << shift if decay else 0
    return Levels(decay, shift, np.array([levels]), np.array([reset]), np.zeros(1, np.int64), rounding)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_levels_are_the_rounding_of_the_model(data: st.DataObject) -> None:
    """Both roundings, D from 1 to 8, decays 0, 1/4, 1/2 and 1, T to 8, odd and even thresholds, ties often."""
    theta, count = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 8))
    decay, rounding = (
        data.draw(st.sampled_from([0, 1024, 2048, 4096])),
        data.draw(st.sampled_from([HALF_UP, HALF_EVEN])),
    )
    steps = data.draw(st.integers(1, 8))
    # half-up levels of odd thresholds lie between whole numbers; half-even ones keep all bits of the decay
    per_step = {0: 0, 1024: 2, 2048: 1, 4096: 0}[decay]
    shift = 1 if rounding == HALF_UP else 1 + per_step * (steps - 1)
    neuron = levels_of(theta, count, decay, shift, rounding)
    assert is_exact(neuron, steps)
    inputs = data.draw(st.lists(st.integers(-2 * theta, (count + 2) * theta), min_size=steps, max_size=steps))
    state, sent = None, []
    for x in inputs:
        done = step(neuron, np.full((1, 1, 1, 1), x), state)
        state = done.state
        sent.append(int(done.sent.item()))
    keep = Fraction(decay, DECAY_ONE)
    assert sent == sent_by_model([Fraction(x) for x in inputs], theta, count, keep, rounding)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_worst_cases_hold_and_the_law_is_obeyed(seed: int, time_steps: int) -> None:
    network = graded_network(seed, time_steps)
    check_network(network)
    names = [p.name for p in network if isinstance(p.neuron, Levels)]
    ran = reference.execute(network, random_images(network, seed), record=names)
    worst = worst_cases(network)
    for name in names:
        neuron, potentials, sent = network[name].neuron, ran.membranes[name], ran.spikes[name]
        assert isinstance(neuron, Levels)
        assert sent.min() >= 0
        assert sent.max() <= neuron.count
        # before what was sent is taken off
        charge = potentials.astype(np.int64) + sent * neuron.reset[:, None, None]
        low, high = worst[name].state
        assert low <= charge.min()
        assert charge.max() <= high
        assert ran.peak_state[name] <= worst[name].largest


def test_what_is_no_levels_is_refused() -> None:
    network = next(n for n in map(graded_network, range(20)) if isinstance(n["graded.head"].neuron, Levels))
    population = network["graded.head"]
    neuron = population.neuron
    assert isinstance(neuron, Levels)
    wrong = {
        "do not ascend": replace(neuron, levels=neuron.levels[:, ::-1] - np.arange(neuron.count)),
        "rounding up": replace(neuron, rounding="up"),
        "of shape": replace(neuron, levels=neuron.levels[1:]),
        "keeps nothing": replace(neuron, decay=0, reset=np.ones_like(neuron.reset)),
        "does not fit": replace(neuron, levels=neuron.levels + 2**40),
        "reset of -1": replace(neuron, decay=4096, reset=neuron.reset * 0 - 1),
        "potential after a reset": replace(neuron, decay=4096, reset=neuron.reset * 0 + 2**31 - 1),
        "send up to": replace(neuron, levels=np.sort(np.concatenate([neuron.levels] * 2, 1), 1)),
    }
    for words, broken in wrong.items():
        populations = tuple(replace(p, neuron=broken) if p is population else p for p in network)
        with pytest.raises(ValueError, match=words):
            check_network(replace(network, populations=populations))


def test_levels_that_keep_nothing_are_idle_whatever_came_before() -> None:
    bias = np.zeros(1, np.int64)
    neuron = Levels(0, 0, np.array([[3, 5]]), np.array([0]), bias, HALF_UP)
    potentials = np.array([2, 0, 4, 0]).reshape(4, 1, 1, 1)
    sent = np.array([0, 0, 1, 0]).reshape(4, 1, 1, 1)
    resting = idle(neuron, sent, potentials)
    assert resting is not None
    assert resting.ravel().tolist() == [False, True, False, True]
    keeps = replace(neuron, decay=2048)
    resting = idle(keeps, sent, potentials)
    assert resting is not None
    assert not resting.any()


def test_a_level_just_beyond_the_state_is_reached_by_nothing() -> None:
    """It is what levels further away are written as; a state that holds its largest value does not reach it."""
    limit = 2**23 - 1
    incoming = [Incoming(Window(), ((1, 1, 1),), 1, False)]
    nothing = np.zeros(1, np.int64)
    largest = np.full((1, 1, 1, 1), limit)
    for beyond in (0, 1, 2):
        neuron = Levels(0, 0, np.array([[3, limit + beyond]]), nothing, nothing, HALF_UP)
        if beyond == 2:
            with pytest.raises(ValueError, match="a level of 8388609"):
                check_neuron(neuron, (1, 1, 1), 2, 24, incoming)
        else:
            check_neuron(neuron, (1, 1, 1), 2, 24, incoming)
            assert step(neuron, largest, None).sent.item() == 2 - beyond
    with pytest.raises(ValueError, match="a level of 8388608"):
        check_neuron(Levels(2048, 0, np.array([[3, limit + 1]]), nothing, nothing, HALF_UP), (1, 1, 1), 2, 24, incoming)
