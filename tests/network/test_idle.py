"""Which neurons have nothing to do: what potentials show, against what goes in and comes out of each neuron."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import random_images, random_network

from spikformer_deploy.executors import reference
from spikformer_deploy.network.neurons import (
    DECAY_BITS,
    DECAY_ONE,
    Accumulator,
    And,
    Lif,
    LifKind,
    Max,
    Or,
    Source,
    Stream,
    Sum,
    idle,
    may_idle,
    step,
)

SHAPE = (3, 2, 2)


def random_lif(rng: np.random.Generator) -> Lif:
    """Of either kind; half of the biases, and a third of the thresholds, are 0."""
    stock = bool(rng.random() < 0.5)
    shape = SHAPE if rng.random() < 0.5 else SHAPE[:1]
    return Lif(
        LifKind.STOCK if stock else LifKind.PROGRAMMABLE,
        decay=int(rng.choice([0, 1, 1024, 2048, 4095, DECAY_ONE])),
        shift=int(rng.integers(0, 3)),
        threshold=rng.integers(0, 3, SHAPE[0]),
        bias=rng.integers(-3, 4, shape) * (rng.random(shape) < 0.5),
        current=int(rng.choice([0, 1, 1500, 4000])) if stock else 0,
        soft=not stock and bool(rng.random() < 0.4),
        strict=not stock and bool(rng.random() < 0.4),
    )


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_lif_is_idle_where_it_has_nothing_gets_nothing_and_does_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lif = random_lif(rng)
    totals = rng.integers(-3, 4, (6, 1, *SHAPE)) * (rng.random((6, 1, *SHAPE)) < 0.3)
    sent, potentials, nothing_to_do = [], [], []
    state, before, current = None, np.zeros((1, *SHAPE), np.int64), np.zeros((1, *SHAPE), np.int64)
    for total in totals:
        done = step(lif, total, state)
        # a decay toward zero, written out
        current = np.sign(current) * (np.abs(current) * lif.current >> DECAY_BITS) + (total << lif.shift + 6)
        arrives = current if lif.kind == LifKind.STOCK else total
        bias = lif.bias if lif.bias.ndim == 3 else lif.bias[:, None, None]
        nothing_to_do.append((before == 0) & (arrives == 0) & (bias == 0) & (done.sent == 0))
        state = done.state
        before = state[0] if lif.current else state
        sent.append(done.sent)
        potentials.append(before)
    found = idle(lif, np.stack(sent, 1), np.stack(potentials, 1))
    if found is None:
        assert not may_idle(lif)
        assert not np.any(nothing_to_do)
    else:
        np.testing.assert_array_equal(found, np.stack(nothing_to_do, 1))


def lif(threshold: int, bias: int, **fields: object) -> Lif:
    neuron = Lif(LifKind.PROGRAMMABLE, 2048, 0, np.array([threshold]), np.array([bias]))
    return replace(neuron, **fields)


@pytest.mark.parametrize(
    ("neuron", "expected"),
    [
        (lif(2, 0), [True, False, True, False, False]),
        # a bias of 0 that is met by a threshold of 0: the neuron fires in every step, and that is work
        (lif(0, 0), [False, False, False, False, False]),
        (lif(0, 0, strict=True), [True, False, True, False, False]),
        (lif(0, 0, kind=LifKind.STOCK), [True, False, True, False, False]),
        # a soft reset may leave nothing: the step of the spike is work, the next one is not
        (lif(2, 0, soft=True), [True, False, True, False, False]),
        # an input that the bias makes up for is work for the adder
        (lif(2, -1), None),
        # a potential of -1 never decays away where it is rounded down
        (lif(2, 0, decay=DECAY_ONE - 1), [True, False, True, False, False]),
    ],
)
def test_idle_steps_of_one_neuron(neuron: Lif, expected: list[bool] | None) -> None:
    """Inputs 0, 2, 0, -1, 0 into v = v / 2 + input."""
    sent, potentials, state = [], [], None
    for total in (0, 2, 0, -1, 0):
        done = step(neuron, np.full((1, 1, 1, 1), total), state)
        state = done.state
        sent.append(done.sent)
        potentials.append(done.state)
    found = idle(neuron, np.stack(sent, 1), np.stack(potentials, 1))
    assert expected == (None if found is None else found.ravel().tolist())


def test_kinds_without_potentials() -> None:
    sent = np.array([0, 3, -1, 0]).reshape(1, 4, 1, 1, 1)
    for neuron in (Or(), Sum(), And(2), Stream(np.array([5])), Max()):
        assert not may_idle(neuron)
        np.testing.assert_array_equal(idle(neuron, sent, None), sent == 0)
    for neuron in (Source(), Accumulator(np.zeros(1, np.int64), np.ones(1))):
        assert not may_idle(neuron)
        assert idle(neuron, sent, None) is None
    assert not may_idle(lif(2, 1))
    assert may_idle(replace(lif(2, 1), bias=np.array([[[1, 0]]])))


@pytest.mark.parametrize("kind", ["programmable", "stock"])
def test_random_networks_have_idle_neurons_of_every_sort(kind: str) -> None:
    """What the tests of executors compare is there: neurons that are idle always, sometimes, and never."""
    rest = {"never": 0, "sometimes": 0, "always": 0}
    seen = {"threshold of 0": False, "strict": kind == "stock", "current": kind != "stock", "soft": kind == "stock"}
    for seed in range(30):
        network = random_network(seed, 4, kind, 1, shortcuts=seed % 3 == 0)
        activity = reference.execute(network, random_images(network, seed)).activity
        for population in network:
            neuron = population.neuron
            counted = activity[population.name].idle if population is not network.output else None
            if counted is None:
                continue
            assert isinstance(neuron, Lif)
            share = counted.sum() / (counted.shape[0] * counted.shape[1] * population.size)
            rest["never" if share == 0 else "always" if share == 1 else "sometimes"] += 1
            if share:
                seen["threshold of 0"] |= bool((neuron.threshold == 0).any())
                seen["strict"] |= neuron.strict
                seen["current"] |= bool(neuron.current)
                seen["soft"] |= neuron.soft
    assert rest["sometimes"] > 10
    assert all(seen.values()), seen
