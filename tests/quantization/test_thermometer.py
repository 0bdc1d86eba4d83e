"""Integer neurons as threshold neurons, one for each level: the same integers where messages are single spikes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.thermometers import LOIHI1, LOIHI2, NARROW, as_seen, chain, images, made

from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.executors import onnx, reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Node
from spikformer_deploy.graph.law import check
from spikformer_deploy.mapping.law import check_neurons
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels, Lif
from spikformer_deploy.network.synapses import Conv


def levels_of(network: Network, name: str) -> list[str]:
    return [p.name for p in network if p.name.startswith(f"{name}.level")]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from([(LOIHI1.limits, "stock"), (LOIHI2.limits, "stock"), (NARROW, "programmable")]),
)
def test_spikes_of_all_levels_are_the_integer(
    seed: int, count: int, half_even: bool, target: tuple[CoreLimits, str]
) -> None:
    """The same weights as those of graded messages, and the integers of the float graph itself."""
    limits, neuron = target
    if neuron == "programmable":
        count = max(2, count)  # one level of programmable neurons needs no thermometer
    graph = chain(seed, count, half_even)
    frames = images(seed)
    graded = made(graph, frames, LOIHI2.limits, "programmable")
    binary = made(graph, frames, limits, neuron)
    assert graded.rounding == binary.rounding == 0
    assert not any(isinstance(p.neuron, Levels) for p in binary)
    names = ["a", "b", "c"]
    right = execute(graph, torch.from_numpy(as_seen(frames)).double(), dtype=torch.float64, record=set(names))
    whole = reference.execute(graded, frames, record=names)
    parts = reference.execute(binary, frames, record=[part for name in names for part in levels_of(binary, name)])
    for name in names:
        of_level = [parts.spikes[part] for part in levels_of(binary, name)]
        assert len(of_level) == count
        assert all(np.isin(spikes, (0, 1)).all() for spikes in of_level)
        np.testing.assert_array_equal(sum(of_level), whole.spikes[name], err_msg=name)
        np.testing.assert_array_equal(sum(of_level), right[name].numpy(), err_msg=name)
    assert binary.exact
    np.testing.assert_array_equal(parts.accumulators, whole.accumulators)


def test_levels_of_either_sign_and_a_bias_that_differs_along_the_border() -> None:
    """What the chains above must have had: a lifted potential, a map of biases, and neurons that read all D."""
    lifted = maps = 0
    for seed in range(6):
        network = made(chain(seed, 4, True), images(seed), LOIHI1.limits, "stock")
        for part in levels_of(network, "b"):
            neuron = network[part].neuron
            assert isinstance(neuron, Lif)
            assert (neuron.kind, neuron.decay, neuron.threshold.min() >= 0) == ("stock", 0, True)
            lifted += int((neuron.bias > 0).any())
            into = network.into(part)
            assert [p.sources[0] for p in into] == levels_of(network, "a")
            assert len({p.synapse.weight.tobytes() for p in into if isinstance(p.synapse, Conv)}) == 1
        maps += any(network[part].neuron.bias.ndim == 3 for part in levels_of(network, "a"))  # type: ignore[union-attr]
    assert lifted
    assert maps


@pytest.mark.parametrize("rounding", [{}, {"bits": 4, "calibrated": True}], ids=["nearest", "calibrated"])
def test_real_weights_are_rounded_as_those_of_graded_messages(rounding: dict[str, Any]) -> None:
    """A layer that reads D populations with the same weights is one layer, when a threshold is chosen for them."""
    graph, frames = chain(0, 4, True), images(0)
    rng = np.random.default_rng(0)
    nodes = tuple(
        replace(n, op=replace(n.op, weight=frozen(rng.normal(0, 0.4, n.op.weight.shape))))
        if isinstance(n.op, ir.Conv2d)
        else n
        for n in graph
    )
    real = check(ir.Graph(nodes, 2))
    graded = made(real, frames, LOIHI2.limits, "programmable", **rounding)
    binary = made(real, frames, LOIHI1.limits, "stock", **rounding)
    assert graded.rounding > 0
    for name in ("b", "c"):
        (whole,), parts = graded.into(name), binary.into(f"{name}.level1")
        assert isinstance(whole.synapse, Conv)
        for part in parts:
            assert isinstance(part.synapse, Conv)
            np.testing.assert_array_equal(part.synapse.weight, whole.synapse.weight)
    if rounding:
        nearest = made(real, frames, LOIHI1.limits, "stock", bits=4)
        assert any(
            not np.array_equal(ours.synapse.weight, theirs.synapse.weight)
            for ours, theirs in zip(binary.into("c.level1"), nearest.into("c.level1"), strict=True)
            if isinstance(ours.synapse, Conv) and isinstance(theirs.synapse, Conv)
        )


def test_executors_agree_and_loihi1_takes_it() -> None:
    frames = images(3)
    network = made(chain(3, 4, True), frames, LOIHI1.limits, "stock")
    check_neurons(network, LOIHI1)
    names = [p.name for p in network]
    right = reference.execute(network, frames, record=names)
    for executor in (engine, onnx):
        ran = executor.execute(network, frames, record=names)
        np.testing.assert_array_equal(ran.accumulators, right.accumulators)
        for name in names:
            np.testing.assert_array_equal(ran.spikes[name], right.spikes[name], err_msg=name)


def test_names_of_the_users_are_left_alone() -> None:
    graph = chain(0, 2, True)
    called = {"second": "a.level1"}
    renamed = tuple(
        replace(n, name=called.get(n.name, n.name), inputs=tuple(called.get(i, i) for i in n.inputs)) for n in graph
    )
    network = made(check(ir.Graph(renamed, 2)), images(0), LOIHI1.limits, "stock")
    assert [p.name for p in network][1:3] == ["a.level1_", "a.level2"]


def test_neurons_that_keep_a_potential_are_refused_by_name() -> None:
    """One after the other, in time: not built.  In a single time step nothing is kept, and nothing is lost."""
    made(chain(0, 4, True, steps=1, keep=0.25), images(0, 1), LOIHI1.limits, "stock")
    for limits in (LOIHI1.limits, LOIHI2.limits):
        with pytest.raises(QuantizeError, match="a: it keeps a potential between time steps") as refused:
            made(chain(0, 4, True, keep=0.25), images(0), limits, "stock")
        assert "loihi2" in refused.value.way_out


@pytest.mark.parametrize("kind", ["read by", "read", "masked"])
def test_attention_and_masks_are_refused_by_name(kind: str) -> None:
    """Products of integers that come as several spikes; and an attention for each level."""
    graph = chain(0, 3, True)
    a, b = ir.Levels(3), ir.Lif() if kind == "read" else ir.Levels(3)
    op: ir.Op = ir.SpikeMask() if kind == "masked" else ir.Attention(2, 0.25)
    nodes = (
        *graph.nodes[:2],
        Node("x", b, ("stem",), (4, 3, 4)),
        Node("joined", op, ("x",) * (2 if kind == "masked" else 3), (4, 3, 4)),
        *([Node("out", a, ("joined",), (4, 3, 4))] if kind != "masked" else []),
        Node("mean", ir.Mean(), ("joined" if kind == "masked" else "out",), (4, 1, 1)),
        *graph.nodes[-2:],
    )
    place, words = {
        "read by": ("joined", "q, k and v must each be the messages of one population"),
        "read": ("out", "each of its 3 levels would be a population with an attention of its own"),
        "masked": ("joined", "a mask of something else than single spikes"),
    }[kind]
    with pytest.raises(QuantizeError, match=words) as refused:
        made(check(ir.Graph(nodes, 2)), images(0), LOIHI2.limits, "stock")
    assert str(refused.value).startswith(place)
