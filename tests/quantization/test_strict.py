"""Neurons that fire above their threshold and not at it: every executor agrees, and they are those of NIR, snntorch."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.deep import examples, thinned
from support.executions import assert_equal_executions
from support.networks import networks, random_images, random_network

import spikformer_deploy as sd
from spikformer_deploy.executors import gpu as device
from spikformer_deploy.executors import onnx as onnx_backend
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.executors.fast.plan import make_plan
from spikformer_deploy.graph.ir import Lif as FloatLif
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Lif
from spikformer_deploy.nn.lif import lif


def strictly(network: Network, seed: int) -> Network:
    """Most programmable neurons strict, with thresholds so low that ties are common."""
    rng = np.random.default_rng(seed)
    populations = []
    for population in network:
        neuron = population.neuron
        if isinstance(neuron, Lif) and neuron.kind == "programmable" and rng.random() < 0.8:
            threshold = rng.integers(1, 9, len(neuron.threshold)) << neuron.shift
            bias = neuron.bias // (1 << neuron.shift) << neuron.shift
            population = replace(population, neuron=replace(neuron, strict=True, threshold=threshold, bias=bias))
        populations.append(population)
    return replace(network, populations=tuple(populations))


@examples(20, 150)
@given(networks(), st.integers(0, 2**32 - 1))
def test_executors_agree_on_strict_neurons(network: Network, seed: int) -> None:
    network = strictly(network, seed)
    images = random_images(network, seed)
    names = [p.name for p in network]
    right = reference.execute(network, images, record=names)
    assert_equal_executions(engine.execute(network, images, record=names), right)
    assert_equal_executions(device.run(device.load(make_plan(network), torch.device("cpu")), images, names), right)
    pytest.importorskip("onnxruntime")
    theirs = onnx_backend.execute(network, images, record=names)
    for name in names:
        np.testing.assert_array_equal(theirs.spikes[name], right.spikes[name])
        np.testing.assert_array_equal(theirs.membranes[name], right.membranes[name])


def test_strictness_changes_spikes() -> None:
    """The control: on these networks the rule matters."""
    network = strictly(random_network(3), 3)
    loose = replace(
        network,
        populations=tuple(
            replace(p, neuron=replace(p.neuron, strict=False)) if isinstance(p.neuron, Lif) else p for p in network
        ),
    )
    images = random_images(network, 3, 4)
    first = next(p.name for p in network if isinstance(p.neuron, Lif))
    spikes = [reference.execute(n, images, record=[first]).spikes[first] for n in (network, loose)]
    assert (spikes[0] != spikes[1]).any()


@pytest.mark.long
def test_lava_agrees_on_strict_neurons() -> None:
    pytest.importorskip("lava", reason="lava-nc is not installed: see the Makefile")
    from spikformer_deploy.executors.lava import execute as lava

    network = strictly(random_network(5, 3), 5)
    images = random_images(network, 5, 2)
    names = [p.name for p in network]
    ours = lava.execute(network, images, record=names)
    right = reference.execute(network, images, record=names)
    for name in names:
        np.testing.assert_array_equal(ours.spikes[name], right.spikes[name], err_msg=name)
        np.testing.assert_array_equal(ours.membranes[name], right.membranes[name], err_msg=name)


# --- NIR and snntorch -------------------------------------------------------------------------------------------------


def nir_file(path: Path, weights: np.ndarray, threshold: float, leaky: bool) -> Path:
    nir = pytest.importorskip("nir")
    outputs, inputs = weights.shape

    def full(value: float, size: int) -> np.ndarray:
        return np.full(size, value, np.float32)

    if leaky:
        parameters = {"tau": full(2e-4, outputs), "r": full(2, outputs), "v_leak": full(0, outputs)}
        neuron = nir.LIF(**parameters, v_threshold=full(threshold, outputs), v_reset=full(0, outputs))
    else:
        neuron = nir.IF(r=full(1, outputs), v_threshold=full(threshold, outputs), v_reset=full(0, outputs))
    nodes = {
        "input": nir.Input(np.array([inputs])),
        "fc": nir.Linear(weight=weights.astype(np.float32)),
        "if": neuron,
        "output": nir.Output(np.array([outputs])),
    }
    names = list(nodes)
    nir.write(path, nir.NIRGraph(nodes, list(pairwise(names))))
    return path


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("seed", thinned(range(12), 3))
def test_ties_of_nir_are_nirs(seed: int, leaky: bool, tmp_path: Path) -> None:
    """Integer, ternary and dyadic weights meet the threshold exactly, again and again: v > v_threshold decides."""
    rng = np.random.default_rng(seed)
    steps = 12
    grid = [np.arange(-3, 4), np.array([-1, 0, 1]), np.arange(-7, 8) / 8, np.array([-2, -1, -0.5, 0.5, 1, 2])][seed % 4]
    weights = rng.choice(grid, (6, 5))
    threshold = float(rng.choice([1, 2]))
    weights[0] = 1
    path = nir_file(tmp_path / "if.nir", weights, threshold, leaky)
    frames = rng.integers(0, 2, (3, steps, 5, 1, 1)).astype(np.uint8)
    frames[0, 0, :, 0, 0] = np.arange(5) < threshold
    v = np.zeros((3, 6))
    expected = []
    for t in range(steps):
        v = v * (0.5 if leaky else 1) + frames[:, t, :, 0, 0] @ weights.T
        expected.append(v > threshold)
        v[expected[-1]] = 0
    # the first neuron of the first image reaches its threshold exactly, and does not fire
    assert (frames[0, 0, :, 0, 0] @ weights[0], expected[0][0, 0]) == (threshold, False)
    program = sd.compile(sd.load(path, time_steps=steps), target="loihi2")
    assert program.network.exact
    assert program.network.rounding == 0
    for executor in (engine, reference):
        spikes = executor.execute(program.network, frames, record=["if"]).spikes["if"][..., 0, 0]
        np.testing.assert_array_equal(spikes, np.stack(expected, 1))


@pytest.mark.parametrize("threshold", [1.0, 0.7])
def test_snntorch_fires_as_we_do(threshold: float, tmp_path: Path) -> None:
    snn = pytest.importorskip("snntorch")
    weights = np.array([[1.0], [0.5], [0.25]])
    steps = 16
    path = nir_file(tmp_path / "if.nir", weights, threshold, False)
    layer = snn.Leaky(beta=1.0, threshold=threshold, reset_mechanism="zero", reset_delay=False)
    state = layer.init_leaky()
    expected = []
    for _ in range(steps):
        spikes, state = layer(torch.tensor(weights.T, dtype=torch.float32), state)
        expected.append(spikes.numpy().ravel())
    program = sd.compile(sd.load(path, time_steps=steps), target="loihi2")
    frames = np.ones((1, steps, 1, 1, 1), np.uint8)
    got = reference.execute(program.network, frames, record=["if"]).spikes["if"][0, :, :, 0, 0]
    np.testing.assert_array_equal(got, np.array(expected))


def test_a_strict_file_goes_out_as_it_came_in(tmp_path: Path) -> None:
    """Through NIR and ONNX: the rule is in the file, not a number next to the threshold."""
    path = nir_file(tmp_path / "if.nir", np.array([[1.0, -1.0], [0.5, 2.0]]), 1.0, True)
    model = sd.load(path, time_steps=4)
    for suffix in ("nir", "onnx"):
        again = tmp_path / f"again.{suffix}"
        sd.export(model, suffix, again)
        (neuron,) = (n.op for n in sd.load(again).graph.of(FloatLif))
        assert (neuron.strict, neuron.v_threshold) == (True, 1.0)


def test_the_operator_compares_as_it_says() -> None:
    x = torch.tensor([[1.0, 0.5, 2.0]] * 2)
    assert lif(x, 1.0, 1.0, False, 4.0, False, False).tolist() == [[1, 0, 1]] * 2
    assert lif(x, 1.0, 1.0, False, 4.0, False, True).tolist() == [[0, 0, 1]] * 2
