"""From a float graph to integers: what can be exact is exact, and what cannot be held is refused by name."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import thinned
from support.models import SMALL, graph_of, model_and_images

from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.chips.profile import CoreLimits
from spikformer_deploy.executors import reference
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.ir import Graph, Node
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Lif, Sum
from spikformer_deploy.quantization.build import Pixels, quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings

LIMITS = CoreLimits(True, 8, 24, 17, 12, 8, 24)


def dyadic_graph(rng: np.random.Generator, time_steps: int) -> tuple[Graph, Pixels]:
    """A graph whose weights, biases and normalisation are exact multiples of its thresholds' units.

    Each channel has a weight of 127 units: its threshold is exact, and every rounding is the identity.
    """

    def conv(channels: int, inputs: int, kernel: int, unit: float) -> ir.Conv2d:
        weight = rng.integers(-127, 128, (channels, inputs, kernel, kernel)).astype(float)
        weight[:, 0, 0, 0] = 127
        bias = rng.integers(-100, 100, channels).astype(float)
        return ir.Conv2d(weight * unit, bias * unit, padding=(kernel // 2, kernel // 2))

    channels = int(rng.choice([4, 8]))
    size = int(rng.integers(3, 6))
    theta = 2 ** int(rng.integers(5, 8))
    unit = 2.0 / theta  # tau = 2: integer weight = weight / 2 * theta
    shape = (channels, size, size)
    nodes = [
        Node("input", ir.Input(), (), (2, size, size)),
        Node("conv", conv(channels, 2, 3, unit), ("input",), shape),
        Node("lif0", ir.Lif(), ("conv",), shape),
        Node("pool", ir.MaxPool2d((3, 3), (1, 1), (1, 1)), ("lif0",), shape),
        Node("conv1", conv(channels, channels, 3, unit), ("pool",), shape),
        Node("lif1", ir.Lif(), ("conv1",), shape),
        Node("add", ir.Add(), ("lif1", "pool"), shape),
        *(Node(f"{n}_conv", conv(channels, channels, 1, unit), ("add",), shape) for n in "qkv"),
        *(Node(f"{n}_lif", ir.Lif(), (f"{n}_conv",), shape) for n in "qkv"),
        Node("attn", ir.Attention(2, 0.125), ("q_lif", "k_lif", "v_lif"), shape),
        Node("attn_lif", ir.Lif(v_threshold=0.5), ("attn",), shape),
        Node("mean", ir.Mean(), ("attn_lif",), (channels, 1, 1)),
        Node("head", ir.Linear(rng.normal(0, 1, (3, channels)), rng.normal(0, 1, 3)), ("mean",), (3, 1, 1)),
        Node("output", ir.Output(), ("head",), (3, 1, 1)),
    ]
    return Graph(tuple(nodes), time_steps), Pixels((0.0, 0.0), (1.0 / 255,) * 2)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from(["programmable", "stock"]),
    st.sampled_from(["group", "tensor", "channel"]),
)
def test_exact_weights_give_the_spikes_of_the_float_model(seed: int, steps: int, kind: str, granularity: str) -> None:
    """Nothing but weights and biases is rounded: where those are exact, so is every spike, T and kind whatever."""
    rng = np.random.default_rng(seed)
    graph, pixels = dyadic_graph(rng, steps)
    images = rng.integers(0, 3, (2, *graph.nodes[0].shape)).astype(np.uint8)
    real = torch.from_numpy(images.astype(np.float64))
    limits = CoreLimits(True, 8, 30, 26, 20, 8, 24)
    network = quantize(graph, pixels, Calibration(graph, real.float()), limits, Settings(8, granularity, kind))
    assert network.exact
    check_network(network)
    lifs = [n.name for n in graph.of(ir.Lif)]
    integers = reference.execute(network, images, record=lifs)
    floats = execute(graph, real, dtype=torch.float64)
    for name in lifs:
        np.testing.assert_array_equal(integers.spikes[name], floats[name].numpy(), err_msg=name)


def network_of(name: str, kind: str = "programmable", granularity: str = "group", bits: int = 8) -> Network:
    config = SMALL[name]
    _, images = model_and_images(config)
    graph = simplify(fold_batch_norm(graph_of(config)))
    scale = (1 / 255,) * config.in_channels if config.per_step else (0.3,) * config.in_channels
    pixels = Pixels((0.0 if config.per_step else 0.4,) * config.in_channels, scale)
    return quantize(graph, pixels, Calibration(graph, images), LIMITS, Settings(bits, granularity, kind))


@pytest.mark.parametrize("name", thinned(SMALL, 4))
@pytest.mark.parametrize("granularity", ["group", "tensor", "channel"])
def test_models_become_lawful_networks(name: str, granularity: str) -> None:
    network = network_of(name, granularity=granularity)
    check_network(network)
    most = {"group": 8, "tensor": 1, "channel": 10**6}[granularity]
    assert all(len(np.unique(p.neuron.threshold)) <= most for p in network if isinstance(p.neuron, Lif))
    residuals = [p.max_out for p in network if isinstance(p.neuron, Sum)]
    assert residuals == ([2, 2, 3, 4] if name == "v2" else [2, 3, 4])


def test_padding_of_a_normalised_image_is_exact() -> None:
    """Zero padding stands for zero AFTER normalisation: the bias differs along the border, and nowhere else."""
    network = network_of("cifar")
    bias = network["patch_embed.proj_lif"].neuron.bias
    assert bias.ndim == 3
    inner = bias[:, 1:-1, 1:-1]
    assert (inner == inner[:, :1, :1]).all()
    assert (bias[:, 0, :] != bias[:, 1, :]).any()


@pytest.mark.long
def test_binary_targets_distribute_the_residual() -> None:
    """Events on a target without graded spikes: no Sum population, every branch projects on its own."""
    config = SMALL["dvs"]
    _, images = model_and_images(config)
    graph = simplify(fold_batch_norm(graph_of(config)))
    statistics = Calibration(graph, images)
    graded = quantize(graph, Pixels((0, 0), (1.0, 1.0), 1), statistics, LIMITS, Settings())
    limits = CoreLimits(True, 8, 24, 17, 12, 8, 1)
    binary = quantize(graph, Pixels((0, 0), (1.0, 1.0), 1), statistics, limits, Settings())
    check_network(binary)
    assert not any(isinstance(p.neuron, Sum) for p in binary)
    assert len(binary.projections) > len(graded.projections) - 6
    pixels = images.to(torch.uint8).numpy()
    lifs = [p.name for p in binary if isinstance(p.neuron, Lif)]
    ours, theirs = (reference.execute(n, pixels, record=lifs) for n in (binary, graded))
    for name in lifs:
        np.testing.assert_array_equal(ours.spikes[name], theirs.spikes[name], err_msg=name)


def test_what_no_integer_can_hold_is_refused() -> None:
    rng = np.random.default_rng(0)
    graph, pixels = dyadic_graph(rng, 2)
    statistics = Calibration(graph, torch.zeros(1, *graph.nodes[0].shape))

    def attempt(limits: CoreLimits = LIMITS, settings: Settings = Settings(), graph: Graph = graph) -> None:  # noqa: B008
        quantize(graph, pixels, statistics, limits, settings)

    with pytest.raises(QuantizeError, match=r"9 weight bits asked for"):
        attempt(settings=Settings(9))
    with pytest.raises(QuantizeError, match="no programmable neurons"):
        attempt(limits=CoreLimits(False, 8, 24, 17, 12, 8, 24))
    with pytest.raises(QuantizeError, match="input: pixels up to 255 need graded spikes"):
        attempt(limits=CoreLimits(True, 8, 24, 17, 12, 8, 1))
    with pytest.raises(QuantizeError, match=r"lif1: its sums do not fit 6 bits of state"):
        attempt(limits=CoreLimits(True, 8, 6, 17, 12, 8, 24))
    nodes = [n if n.name != "lif1" else Node("lif1", ir.Scale(2.0), ("conv1",), n.shape) for n in graph]
    with pytest.raises(QuantizeError, match=r"q_conv: .* no neuron in between"):
        attempt(graph=Graph(tuple(nodes), 2))
