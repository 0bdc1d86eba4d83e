"""Products of currents and spikes in integers: the spikes of the float graph; and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.executions import assert_equal_executions
from support.networks import dual_network

from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Graph, Node
from spikformer_deploy.graph.law import check
from spikformer_deploy.network.bounds import is_proven, worst_cases
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import DualSpike, synaptic_sum
from spikformer_deploy.quantization.build import Pixels, quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings

LIMITS = load_profile("loihi2").limits
PIXELS = Pixels((0.0, 0.0), (1.0 / 255,) * 2)


def dyadic(rng: np.random.Generator, steps: int, heads: int = 2, depth: int = 2) -> Graph:
    """Dual spike self-attention whose weights need no rounding: whole numbers up to 127 times powers of two."""
    channels, grid, small = heads * depth, (4, 6), (2, 3)

    def conv(inputs: int, kernel: int, stride: int, scale: np.ndarray) -> ir.Conv2d:
        """The threshold of each head is a power of two, whatever its scale is."""
        weight = rng.integers(-127, 128, (channels, inputs, kernel, kernel)).astype(float)
        weight[:, 0, 0, 0] = 127
        unit = np.repeat(1 / scale, depth) * 2.0 / 2**6
        bias = rng.integers(-64, 64, channels) * unit
        return ir.Conv2d(
            weight * unit[:, None, None, None], bias, (stride, stride), (kernel // 2 % 2 * (stride == 1),) * 2
        )

    one, first, second = np.ones(heads), 2.0 ** -rng.integers(0, 3, heads), 2.0 ** -rng.integers(0, 3, heads)
    scores = (heads * small[0] * small[1], *grid)
    nodes = (
        Node("input", ir.Input(), (), (2, *grid)),
        Node("conv", conv(2, 3, 1, one), ("input",), (channels, *grid)),
        Node("lif", ir.Lif(), ("conv",), (channels, *grid)),
        Node("y1", conv(channels, 2, 2, first), ("lif",), (channels, *small)),
        Node("dual1", ir.DualSpike(heads, False, first), ("y1", "lif"), scores),
        Node("scores", ir.Lif(), ("dual1",), scores),
        Node("y2", conv(channels, 2, 2, second), ("lif",), (channels, *small)),
        Node("dual2", ir.DualSpike(heads, True, second), ("y2", "scores"), (channels, *grid)),
        Node("out", ir.Lif(), ("dual2",), (channels, *grid)),
        Node("mean", ir.Mean(), ("out",), (channels, 1, 1)),
        Node("head", ir.Linear(rng.normal(0, 1, (3, channels)), rng.normal(0, 1, 3)), ("mean",), (3, 1, 1)),
        Node("output", ir.Output(), ("head",), (3, 1, 1)),
    )
    return check(Graph(nodes, steps))


def quantized(graph: Graph, images: np.ndarray, granularity: str = "group") -> Network:
    real = torch.from_numpy(images.astype(np.float32))
    return quantize(graph, PIXELS, Calibration(graph, real), LIMITS, Settings(8, granularity, LIMITS.neuron))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(["group", "tensor", "channel"]))
def test_exact_weights_give_the_spikes_of_the_float_graph(seed: int, steps: int, granularity: str) -> None:
    rng = np.random.default_rng(seed)
    graph = dyadic(rng, steps)
    images = rng.integers(0, 3, (2, 2, 4, 6)).astype(np.uint8)
    network = quantized(graph, images, granularity)
    check_network(network)
    assert network.exact
    worst = worst_cases(network)
    assert all(network[name].bounds == worst[name].state for name in ("y1", "scores", "y2", "out"))
    names = [p.name for p in network]
    integers = reference.execute(network, images, record=names)
    assert_equal_executions(engine.execute(network, images, record=names), integers)
    floats = execute(graph, torch.from_numpy(images.astype(np.float64)), dtype=torch.float64)
    for name in ("lif", "scores", "out"):
        np.testing.assert_array_equal(integers.spikes[name], floats[name].numpy(), err_msg=name)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_product_is_its_definition(seed: int) -> None:
    """Both kinds by loops over all that meet, with spikes and with small integers."""
    rng = np.random.default_rng(seed)
    heads, depth, patches, tokens = (int(n) for n in rng.integers(1, 4, 4))
    y = rng.integers(-9, 9, (1, heads * depth, patches, 1))
    s = rng.integers(0, 3, (1, heads * depth, tokens, 2))
    scores = rng.integers(0, 3, (1, heads * patches, tokens, 2))
    first = np.zeros_like(scores)
    second = np.zeros_like(s)
    for h, c, m, t, x in np.ndindex(heads, depth, patches, tokens, 2):
        first[0, h * patches + m, t, x] += y[0, h * depth + c, m, 0] * s[0, h * depth + c, t, x]
        second[0, h * depth + c, t, x] += y[0, h * depth + c, m, 0] * scores[0, h * patches + m, t, x]
    np.testing.assert_array_equal(synaptic_sum(DualSpike(heads, False), [y, s], scores.shape[1:]), first)
    np.testing.assert_array_equal(synaptic_sum(DualSpike(heads, True), [y, scores], s.shape[1:]), second)


def test_thresholds_are_whole_before_the_units_are_chosen() -> None:
    """So weights alone are rounded: no factor is lost between a sum and its threshold, of any rates and depths."""
    rng = np.random.default_rng(1)
    graph = dyadic(rng, 2)
    odd = {
        "dual1": ir.DualSpike(2, False, 1 / np.sqrt(np.array([0.13, 0.31]) * 2)),
        "dual2": ir.DualSpike(2, True, 1 / np.sqrt(np.array([0.07, 0.11]) * 6)),
    }
    graph = check(replace(graph, nodes=tuple(replace(n, op=odd.get(n.name, n.op)) for n in graph)))
    images = rng.integers(0, 3, (2, 2, 4, 6)).astype(np.uint8)
    network = quantized(graph, images)
    for name in ("scores", "out"):
        assert network[name].rounding == 0
    assert len(set(network["scores"].neuron.threshold.tolist())) <= 2
    assert 0 < network["y1"].rounding < 0.02


def test_sums_that_do_not_fit_are_observed() -> None:
    graph = dyadic(np.random.default_rng(0), 2)
    images = np.random.default_rng(0).integers(0, 3, (2, 2, 4, 6)).astype(np.uint8)
    narrow = replace(LIMITS, state_bits=13)
    real = torch.from_numpy(images.astype(np.float32))
    network = quantize(graph, PIXELS, Calibration(graph, real), narrow, Settings(8, "group", LIMITS.neuron))
    check_network(network)
    assert network.bounds == "observed"
    assert not is_proven(network)


def changed(graph: Graph, **nodes: Node) -> Graph:
    return check(replace(graph, nodes=tuple(nodes.get(n.name, n) for n in graph)))


def test_other_products_are_refused_by_name() -> None:
    graph = dyadic(np.random.default_rng(0), 2)
    images = np.zeros((1, 2, 4, 6), np.uint8)
    grid = graph["lif"].shape
    of_spikes = {
        "dual1": Node("dual1", ir.DualSpike(2, False, np.ones(2)), ("lif", "lif"), (2 * 24, *grid[1:])),
        "dual2": Node("dual2", ir.DualSpike(2, True, np.ones(2)), ("lif", "scores"), grid),
        "scores": replace(graph["scores"], shape=(2 * 24, *grid[1:])),
    }
    unread = check(replace(graph, nodes=tuple(of_spikes.get(n.name, n) for n in graph if n.name not in ("y1", "y2"))))
    with pytest.raises(QuantizeError, match="dual1: the first factor of the product is no current of a layer"):
        quantized(unread, images)
    negative = changed(graph, dual1=replace(graph["dual1"], op=ir.DualSpike(2, False, np.array([1.0, -1.0]))))
    with pytest.raises(QuantizeError, match=r"dual1: .* times a number that is not positive"):
        quantized(negative, images)
    with pytest.raises(QuantizeError, match="scores: integer neurons behind a product of currents and spikes"):
        quantized(changed(graph, scores=replace(graph["scores"], op=ir.Levels())), images)
    # the same current in both products, which want other units of it
    shared = [n for n in graph if n.name != "y2"]
    twice = replace(graph, nodes=tuple(replace(n, inputs=("y1", "scores")) if n.name == "dual2" else n for n in shared))
    quantized(check(twice), images)
    # neurons that read the current itself
    also = Node("also", ir.Lif(), ("y1",), graph["y1"].shape)
    mean = Node("both", ir.Mean(), ("also",), (4, 1, 1))
    joined = Node("add", ir.Add(), ("mean", "both"), (4, 1, 1))
    nodes = [n for n in graph if n.name not in ("head", "output")]
    more = (*nodes, also, mean, joined, replace(graph["head"], inputs=("add",)), graph["output"])
    with pytest.raises(QuantizeError, match="dual1: it multiplies a residual stream of currents, or what other layers"):
        quantized(check(replace(graph, nodes=more)), images)


@pytest.mark.parametrize(("field", "value"), [("heads", 3), ("heads", 0), ("over_tokens", True)])
def test_products_of_other_shapes_are_against_the_law(field: str, value: int) -> None:
    network = dual_network(0)
    number = next(i for i, p in enumerate(network.projections) if isinstance(p.synapse, DualSpike))
    projections = list(network.projections)
    projections[number] = replace(projections[number], synapse=replace(projections[number].synapse, **{field: value}))
    with pytest.raises(ValueError, match=r"dual\.scores: a product of"):
        check_network(replace(network, projections=tuple(projections)))
    # currents in the place of spikes
    swapped = list(network.projections)
    swapped[number] = replace(swapped[number], sources=(swapped[number].sources[0],) * 2)
    with pytest.raises(ValueError, match=r"dual\.scores: a product of"):
        check_network(replace(network, projections=tuple(swapped)))


@pytest.mark.parametrize("bits", [14, 16])
def test_currents_fit_one_input_together_with_a_spike(bits: int) -> None:
    """Also where their range is only observed, and readers expect all that a message holds."""
    rng = np.random.default_rng(1)
    graph = dyadic(rng, 2)
    images = rng.integers(0, 3, (2, 2, 4, 6)).astype(np.uint8)
    limits = replace(LIMITS, state_bits=bits)
    observed = Calibration(graph, torch.from_numpy(images.astype(np.float32)))
    network = quantize(graph, PIXELS, observed, limits, Settings(8, "group", limits.neuron))
    for name in ("y1", "y2"):
        assert network[name].max_out.bit_length() + 2 < bits
    assert not is_proven(network)
