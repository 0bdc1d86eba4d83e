"""Membrane shortcuts as integers: exact where weights are, in one unit a stream, and refused where none fits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.deep import examples, some
from support.executions import assert_equal_executions
from support.models import FEW, SIBLINGS, graph_of, model_and_images

from spikformer_deploy.base.errors import OverflowDetected, QuantizeError
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.ir import Graph, Node
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Lif, Stream
from spikformer_deploy.network.synapses import Conv
from spikformer_deploy.quantization.build import Pixels, quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.residuals import residual_streams
from spikformer_deploy.quantization.settings import Settings

LIMITS = CoreLimits(True, 8, 24, 17, 12, 8, 24)
WIDE = CoreLimits(True, 8, 30, 26, 20, 8, 30)


def dyadic_stream(rng: np.random.Generator, time_steps: int, soft: bool = False) -> tuple[Graph, Pixels]:
    """A graph with a max-pooled stream, masks and shortcuts, whose weights are exact multiples of its units.

    Layers differ in size by powers of two: each needs an exponent of its own.
    """
    channels = 4
    heads = 2
    theta = 2 ** int(rng.integers(5, 8))
    unit = 2.0 / theta
    lif = ir.Lif(soft_reset=soft)

    def conv(inputs: int, kernel: int, size: float = 1.0) -> ir.Conv2d:
        weight = rng.integers(-127, 128, (channels, inputs, kernel, kernel)).astype(float)
        weight[:, 0, 0, 0] = 127
        bias = rng.integers(-100, 100, channels).astype(float)
        return ir.Conv2d(weight * unit * size, bias * unit, padding=(kernel // 2, kernel // 2))

    big = (channels, 8, 8)
    small = (channels, 4, 4)
    counted = ir.Conv2d(np.ones((heads, channels // heads, 1, 1)), np.zeros(heads), groups=heads)
    nodes = [
        Node("input", ir.Input(), (), (2, 8, 8)),
        Node("conv", conv(2, 3), ("input",), big),
        Node("lif", lif, ("conv",), big),
        Node("conv1", conv(channels, 3, 2.0 ** int(rng.integers(0, 3))), ("lif",), big),
        Node("pool", ir.MaxPool2d((3, 3), (2, 2), (1, 1)), ("conv1",), small),
        Node("lif1", lif, ("pool",), small),
        Node("rpe", conv(channels, 3), ("lif1",), small),
        Node("add", ir.Add(), ("rpe", "pool"), small),
        Node("lif2", lif, ("add",), small),
        *(Node(f"{n}_conv", conv(channels, 1), ("lif2",), small) for n in "qkv"),
        *(Node(f"{n}_lif", lif, (f"{n}_conv",), small) for n in "qkv"),
        Node("kv", ir.SpikeMask(), ("k_lif", "v_lif"), small),
        Node("sum", ir.TokenSum(), ("kv",), (channels, 1, 1)),
        Node("kv_lif", ir.Lif(v_threshold=0.5), ("sum",), (channels, 1, 1)),
        Node("masked", ir.SpikeMask(), ("q_lif", "kv_lif"), small),
        Node("counted", counted, ("q_lif",), (heads, 4, 4)),
        Node("token_lif", ir.Lif(v_threshold=0.5), ("counted",), (heads, 4, 4)),
        Node("tokens", ir.SpikeMask(), ("masked", "token_lif"), small),
        Node("proj", conv(channels, 1, 2.0 ** int(rng.integers(0, 4))), ("tokens",), small),
        Node("add1", ir.Add(), ("add", "proj"), small),
        Node("lif3", lif, ("add1",), small),
        Node("mlp", conv(channels, 1), ("lif3",), small),
        Node("add2", ir.Add(), ("mlp", "add1"), small),
        Node("mean", ir.Mean(), ("add2",), (channels, 1, 1)),
        Node("head_lif", lif, ("mean",), (channels, 1, 1)),
        Node("head", ir.Linear(rng.normal(0, 1, (3, channels)), rng.normal(0, 1, 3)), ("head_lif",), (3, 1, 1)),
        Node("output", ir.Output(), ("head",), (3, 1, 1)),
    ]
    return check(Graph(tuple(nodes), time_steps)), Pixels((0.0, 0.0), (1.0 / 255,) * 2)


@examples(10, 100)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from(["programmable", "stock"]),
    st.sampled_from(["group", "tensor", "channel"]),
    st.booleans(),
)
def test_exact_weights_give_the_spikes_of_the_float_model(
    seed: int, steps: int, kind: str, granularity: str, soft: bool
) -> None:
    rng = np.random.default_rng(seed)
    graph, pixels = dyadic_stream(rng, steps, soft and kind == "programmable")
    images = rng.integers(0, 3, (2, 2, 8, 8)).astype(np.uint8)
    real = torch.from_numpy(images.astype(np.float64))
    network = quantize(graph, pixels, Calibration(graph, real.float()), WIDE, Settings(8, granularity, kind))
    check_network(network)
    assert network.exact
    names = [p.name for p in network]
    integers = reference.execute(network, images, record=names)
    assert_equal_executions(engine.execute(network, images, record=names), integers)
    floats = execute(graph, real, dtype=torch.float64)
    for name in (n.name for n in graph.of(ir.Lif)):
        np.testing.assert_array_equal(integers.spikes[name], floats[name].numpy(), err_msg=name)


def pooled_before_a_stream(rng: np.random.Generator, factor: float) -> tuple[Graph, Pixels]:
    """A stream that is fed by a convolution of spikes times `factor`, max-pooled; weights need no rounding."""
    shape = (4, 6, 6)
    unit = 2.0 / 2**6

    def conv(inputs: int, size: float = 1.0) -> ir.Conv2d:
        weight = rng.integers(-127, 128, (4, inputs, 3, 3)).astype(float)
        weight[:, 0, 0, 0] = 127
        return ir.Conv2d(weight * unit * size, np.zeros(4), padding=(1, 1))

    nodes = [
        Node("input", ir.Input(), (), (2, 6, 6)),
        Node("conv", conv(2), ("input",), shape),
        Node("lif", ir.Lif(), ("conv",), shape),
        Node("scaled", ir.Scale(factor), ("lif",), shape),
        Node("pool", ir.MaxPool2d((2, 2), (1, 1), (1, 1), (2, 2)), ("scaled",), shape),
        Node("conv1", conv(4, 1 / factor), ("pool",), shape),
        Node("lif1", ir.Lif(), ("conv1",), shape),
        Node("conv2", conv(4), ("lif1",), shape),
        Node("add", ir.Add(), ("conv1", "conv2"), shape),
        Node("lif2", ir.Lif(), ("add",), shape),
        Node("mean", ir.Mean(), ("lif2",), (4, 1, 1)),
        Node("head", ir.Linear(rng.normal(0, 1, (3, 4)), rng.normal(0, 1, 3)), ("mean",), (3, 1, 1)),
        Node("output", ir.Output(), ("head",), (3, 1, 1)),
    ]
    return check(Graph(tuple(nodes), 3)), Pixels((0.0, 0.0), (1.0 / 255,) * 2)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_scaled_spikes_stay_scaled_through_a_max_pool_that_feeds_a_stream(factor: float) -> None:
    """The unit of the stream is planned for what the pool sends: else weights would not fit their bits, and wrap."""
    rng = np.random.default_rng(1)
    graph, pixels = pooled_before_a_stream(rng, factor)
    images = rng.integers(0, 3, (2, 2, 6, 6)).astype(np.uint8)
    real = torch.from_numpy(images.astype(np.float64))
    network = quantize(graph, pixels, Calibration(graph, real.float()), WIDE, Settings())
    assert isinstance(network["conv1"].neuron, Stream)
    names = [node.name for node in graph.of(ir.Lif)]
    integers = reference.execute(network, images, record=names)
    floats = execute(graph, real, dtype=torch.float64)
    for name in names:
        np.testing.assert_array_equal(integers.spikes[name], floats[name].numpy(), err_msg=name)
        assert 0 < integers.spikes[name].mean() < 1


@pytest.mark.parametrize("part", [0.0, 0.02])
def test_a_bias_between_the_units_of_a_stream_is_said(part: float) -> None:
    """Of weights that need no rounding; a part of a unit that no bias has bits for."""
    graph, pixels = dyadic_stream(np.random.default_rng(3), 2)
    layer = graph["conv1"]
    assert isinstance(layer.op, ir.Conv2d)
    unit = np.abs(layer.op.weight)[np.abs(layer.op.weight) > 0].min()
    moved = replace(layer, op=replace(layer.op, bias=layer.op.bias + part * unit))
    graph = check(Graph(tuple(moved if node is layer else node for node in graph), 2))
    images = torch.zeros(1, 2, 8, 8)
    network = quantize(graph, pixels, Calibration(graph, images), WIDE, Settings(8, "group", "programmable"))
    assert (network["conv1"].rounding > 0) == (part > 0)


def test_a_stream_is_what_is_added_up() -> None:
    graph, _ = dyadic_stream(np.random.default_rng(0), 2)
    assert residual_streams(graph) == (frozenset({"conv1", "pool", "add", "add1", "add2"}),)


def network_of(name: str, limits: CoreLimits = LIMITS) -> tuple[Network, np.ndarray]:
    config = SIBLINGS[name]
    _, images = model_and_images(config)
    graph = simplify(fold_batch_norm(graph_of(config)))
    if config.per_step:
        pixels = Pixels((0.0, 0.0), (1.0, 1.0), 1)
        real = images
        values = images.numpy().astype(np.uint8)
    else:
        values = np.clip(np.rint(images.numpy() * 32 + 128), 0, 255).astype(np.uint8)
        pixels = Pixels((128 / 255,) * 3, (32 / 255,) * 3)
        real = (torch.from_numpy(values).float() - 128) / 32
    return quantize(graph, pixels, Calibration(graph, real), limits, Settings()), values


OFTEN = ("spikingformer", "sdt1-imagenet")
LONG = [name for name in FEW if name in SIBLINGS and name not in OFTEN]


@pytest.mark.parametrize("name", some(OFTEN, [name for name in SIBLINGS if name not in FEW], long=LONG))
def test_siblings_become_lawful_networks(name: str) -> None:
    """Engine = reference, in every spike and potential; only the residual of QKFormer is one of spikes."""
    network, images = network_of(name)
    check_network(network)
    record = [p.name for p in network]
    ours, theirs = (e.execute(network, images[:2], record=record) for e in (engine, reference))
    assert_equal_executions(ours, theirs)
    streams = [p for p in network if isinstance(p.neuron, Stream)]
    assert (name.startswith("qkformer") and "dvs" not in name) or streams
    exponents = {p.synapse.shift for p in network.projections if isinstance(p.synapse, Conv)}
    assert len(exponents) > 1
    assert all(len(np.unique(p.neuron.threshold)) <= 8 for p in network if isinstance(p.neuron, Lif))


@pytest.mark.parametrize(("name", "bits"), some([("sdt1", 24), ("sdt1", 16)], [("sdt3", 18)]))
def test_layers_lose_one_bit_to_the_unit_that_they_share(name: str, bits: int) -> None:
    """Also where the range of the stream has taken some: but for what is finer than the unit itself."""
    network, _ = network_of(name, replace(LIMITS, state_bits=bits, message_bits=bits))
    streams = {p.name for p in network if isinstance(p.neuron, Stream)}
    synapses = [p.synapse for p in network.projections if p.target in streams and isinstance(p.synapse, Conv)]
    assert all(np.abs(s.weight.astype(int)).max() >= 64 or s.shift == 0 for s in synapses)


def test_layers_that_were_trained_to_almost_nothing_leave_the_others_their_bits() -> None:
    """Scales that begin at 10^-6 and never grow: nothing that reads the stream sees what such a layer adds to it."""
    graph, pixels = dyadic_stream(np.random.default_rng(0), 2)
    tiny = [
        replace(n, op=replace(n.op, weight=n.op.weight * 2.0**-22, bias=n.op.bias * 2.0**-22))
        if n.name == "mlp" and isinstance(n.op, ir.Conv2d)
        else n
        for n in graph
    ]
    graph = check(Graph(tuple(tiny), 2))
    images = np.random.default_rng(0).integers(0, 3, (2, 2, 8, 8)).astype(np.uint8)
    seen = Calibration(graph, torch.from_numpy(images.astype(np.float32)))
    network = quantize(graph, pixels, seen, LIMITS, Settings())
    check_network(network)
    largest = {
        p.target: int(np.abs(p.synapse.weight.astype(int)).max())
        for p in network.projections
        if isinstance(p.synapse, Conv) and p.target in ("conv1", "add", "add1", "add2")
    }
    assert min(largest[name] for name in ("conv1", "add", "add1")) >= 64
    assert largest["add2"] < 64
    assert network["add2"].rounding > network["add1"].rounding
    record = [p.name for p in network]
    assert_equal_executions(*(e.execute(network, images, record=record) for e in (engine, reference)))


def test_what_no_stream_can_hold_is_refused() -> None:
    graph, pixels = dyadic_stream(np.random.default_rng(0), 2)
    statistics = Calibration(graph, torch.zeros(1, 2, 8, 8))

    def attempt(limits: CoreLimits, graph: Graph = graph) -> None:
        quantize(graph, pixels, statistics, limits, Settings())

    with pytest.raises(QuantizeError, match=r"conv1: the sums of its residual stream do not fit"):
        attempt(CoreLimits(True, 8, 24, 17, 12, 8, 6))
    scaled = [Node(n.name, ir.Scale(0.5), ("pool",), n.shape) if n.name == "rpe" else n for n in graph]
    with pytest.raises(QuantizeError, match="rpe: a residual stream is scaled"):
        attempt(LIMITS, Graph(tuple(scaled), 2))
    read = [Node(n.name, n.op, ("add1",), n.shape) if n.name == "mlp" else n for n in graph]
    with pytest.raises(QuantizeError, match="mlp: it reads a residual stream of currents with no neuron in between"):
        attempt(LIMITS, Graph(tuple(n for n in read if n.name != "lif3"), 2))


def test_a_stream_that_sends_more_than_it_says_is_an_error() -> None:
    network, images = network_of("sdt1")
    populations = [
        type(p)(p.name, p.shape, p.neuron, 5, p.bounds) if isinstance(p.neuron, Stream) else p for p in network
    ]
    n = network
    tight = Network(
        tuple(populations), n.projections, n.time_steps, 24, 8, n.bounds, n.margin, n.mean, n.std
    )  # fmt: skip
    for executor in (engine, reference):
        with pytest.raises(OverflowDetected, match="a current of"):
            executor.execute(tight, images[:1])


def counting_readers(rng: np.random.Generator, neuron: ir.Neuron, time_steps: int) -> tuple[Graph, Pixels]:
    """A stream of currents that mostly pull down, read by neurons that keep what they are given, at and over positions.

    Weights need no rounding.
    """
    shape = (4, 8, 8)
    unit = 2.0 / 2**6

    def conv(inputs: int, kernel: int, size: float = 1.0) -> ir.Conv2d:
        weight = rng.integers(-127, 32, (4, inputs, kernel, kernel)).astype(float)
        weight[:, 0, 0, 0] = 127
        return ir.Conv2d(weight * unit * size, np.zeros(4), padding=(kernel // 2, kernel // 2))

    nodes = [
        Node("input", ir.Input(), (), (2, 8, 8)),
        Node("conv", conv(2, 3), ("input",), shape),
        Node("lif", ir.Lif(), ("conv",), shape),
        Node("conv1", conv(4, 3, 2.0 ** int(rng.integers(0, 3))), ("lif",), shape),
        Node("lif1", neuron, ("conv1",), shape),
        Node("conv2", conv(4, 1), ("lif1",), shape),
        Node("add", ir.Add(), ("conv1", "conv2"), shape),
        Node("lif2", neuron, ("add",), shape),
        Node("conv3", conv(4, 1), ("lif2",), shape),
        Node("add1", ir.Add(), ("add", "conv3"), shape),
        Node("mean", ir.Mean(), ("add1",), (4, 1, 1)),
        Node("head_lif", neuron, ("mean",), (4, 1, 1)),
        Node("head", ir.Linear(rng.normal(0, 1, (3, 4)), rng.normal(0, 1, 3)), ("head_lif",), (3, 1, 1)),
        Node("output", ir.Output(), ("head",), (3, 1, 1)),
    ]
    return check(Graph(tuple(nodes), time_steps)), Pixels((0.0, 0.0), (1.0 / 255,) * 2)


COUNTERS = [ir.Levels(4, 1.0, 1.0), ir.Levels(8, 1.0, 1.0, half_even=False), ir.Lif(float("inf"), decay_input=False)]


@examples(20, 200)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from(COUNTERS), st.sampled_from([18, 24, 30]))
def test_a_stream_leaves_room_for_neurons_that_keep_what_they_are_given(
    seed: int, steps: int, neuron: ir.Neuron, bits: int
) -> None:
    """What pulls them down in every step adds up: of 8 steps to 8 times what the stream sends."""
    rng = np.random.default_rng(seed)
    graph, pixels = counting_readers(rng, neuron, steps)
    images = rng.integers(0, 3, (2, 2, 8, 8)).astype(np.uint8)
    real = torch.from_numpy(images.astype(np.float64))
    limits = replace(LIMITS, state_bits=bits, message_bits=bits)
    network = quantize(graph, pixels, Calibration(graph, real.float()), limits, Settings())
    check_network(network)
    names = [p.name for p in network]
    integers = reference.execute(network, images, record=names)
    assert_equal_executions(engine.execute(network, images, record=names), integers)
    if network.exact and not network.rounding:
        floats = execute(graph, real, dtype=torch.float64)
        for name in ("lif1", "lif2", "head_lif"):
            np.testing.assert_array_equal(integers.spikes[name], floats[name].numpy(), err_msg=name)
