"""Integer neurons from the float graph to integers: dyadic numbers, ties everywhere, compared for equality."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.deep import examples

from spikformer_deploy.base.errors import QuantizeError
from spikformer_deploy.base.values import frozen
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.executors import reference
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.ir import Node
from spikformer_deploy.graph.law import check
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Levels
from spikformer_deploy.quantization.build import quantize
from spikformer_deploy.quantization.ranges import Calibration
from spikformer_deploy.quantization.settings import Settings
from spikformer_deploy.quantization.signals import Pixels

LIMITS = load_profile("loihi2").limits
MOST = 3
"""Of the pixels: whole numbers, as the model sees them."""

Neurons = Callable[[], ir.Levels]


def dyadic_graph(seed: int, steps: int, neurons: Neurons, heads: int = 2, wider: int = 2) -> ir.Graph:
    """A stem, a stream with graded attention (v wider) and a head; all numbers are multiples of 2^-7."""
    rng = np.random.default_rng(seed)

    threshold = neurons().threshold

    def weights(*shape: int) -> np.ndarray:
        """Multiples of 1/8 of the threshold, and one of 127/128: integers of 8 bits then round none of them."""
        values = rng.integers(-4, 8, shape) / 8
        values.reshape(len(values), -1)[:, 0] = 127 / 128
        return frozen(values * threshold)

    def conv(name: str, source: str, inputs: int, outputs: int, kernel: int = 1) -> Node:
        bias = frozen(rng.integers(-6, 7, outputs) / 8 * threshold * int(rng.integers(0, 2)))
        op = ir.Conv2d(weights(outputs, inputs, kernel, kernel), bias, padding=(kernel // 2, kernel // 2))
        return Node(name, op, (source,), (outputs, 3, 4))

    def sent(name: str, source: Node, share: float = 1.0) -> tuple[Node, ...]:
        whole = Node(name, neurons(), (source.name,), source.shape)
        return (whole, Node(f"{name}.sent", ir.Scale(share), (name,), source.shape))

    share = float(rng.choice([1.0, 0.25]))
    stem = conv("stem", "input", 2, 4, 3)
    head = sent("head", stem)
    # a second layer behind the neurons of the first: its result and the stream make another stream
    second = conv("second", "head.sent", 4, 4, 3)
    stream = Node("stream", ir.Add(), ("second", "stem"), (4, 3, 4))
    x = sent("x", stream, share)
    branches = [conv(name, "x.sent", 4, 4 * (wider if name == "v" else 1)) for name in "qkv"]
    qkv = [sent(f"{node.name}_sent", node, share) for node in branches]
    # the scale is so that ties are met: a power of two below the sums that there are
    attended = Node(
        "attended",
        ir.Attention(heads, float(rng.choice([1 / 8, 1 / 16, 1 / 32]))),
        ("q_sent.sent", "k_sent.sent", "v_sent.sent"),
        (4 * wider, 3, 4),
    )
    out = sent("out", attended)
    projected = conv("proj", "out.sent", 4 * wider, 4)
    added = Node("added", ir.Add(), ("stream", "proj"), (4, 3, 4))
    last = sent("last", added)
    nodes = (
        Node("input", ir.Input(True), (), (2, 3, 4)),
        *(stem, *head, second, stream, *x, *branches, *(node for pair in qkv for node in pair)),
        *(attended, *out, projected, added, *last),
        Node("mean", ir.Mean(), ("last.sent",), (4, 1, 1)),
        Node("fc", ir.Linear(weights(3, 4), frozen(np.zeros(3))), ("mean",), (3, 1, 1)),
        Node("output", ir.Output(), ("fc",), (3, 1, 1)),
    )
    return check(ir.Graph(nodes, steps))


def integers_of(graph: ir.Graph, seed: int, count: int = 2) -> tuple[Network, np.ndarray]:
    """The integer network, and frames for it."""
    frames = np.random.default_rng(seed).integers(0, MOST + 1, (count, graph.time_steps, 2, 3, 4)).astype(np.uint8)
    # mean 0 and std 1 / MOST: the model sees the pixels themselves
    pixels = Pixels((0.0, 0.0), (1 / MOST, 1 / MOST), MOST)
    calibration = Calibration(graph, torch.from_numpy(frames).float())
    network = quantize(graph, pixels, calibration, LIMITS, Settings(8, "group", "programmable"))
    check_network(network)
    return network, frames


def assert_equal(graph: ir.Graph, network: Network, frames: np.ndarray) -> int:
    """Every neuron sends the integers of the float graph, in fp64, which holds all of its numbers; how many differ
    from zero."""
    names = [node.name for node in graph.of(ir.Levels)]
    right = execute(graph, torch.from_numpy(frames).double(), dtype=torch.float64, record=set(names))
    ran = reference.execute(network, frames, record=names)
    for name in names:
        np.testing.assert_array_equal(ran.spikes[name], right[name].numpy(), err_msg=name)
    return sum(int(ran.spikes[name].any()) for name in names)


@examples(15, 300, long=30)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 8), st.sampled_from([0.25, 0.5, 1.0, 2.0]))
def test_stateless_neurons_send_what_the_model_sends(seed: int, half_even: bool, count: int, threshold: float) -> None:
    graph = dyadic_graph(seed, 2, lambda: ir.Levels(count, threshold, 0.0, half_even))
    network, frames = integers_of(graph, seed)
    assert network.exact
    assert network.rounding == 0
    assert assert_equal(graph, network, frames)


@examples(15, 300, long=30)
@given(
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.integers(1, 8),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.integers(1, 5),
)
def test_neurons_that_keep_a_potential_send_what_the_model_sends(
    seed: int, half_even: bool, count: int, keep: float, steps: int
) -> None:
    graph = dyadic_graph(seed, steps, lambda: ir.Levels(count, 1.0, keep, half_even))
    network, frames = integers_of(graph, seed)
    if network.exact and network.rounding == 0:
        assert assert_equal(graph, network, frames)
    else:  # the bits of all decays do not fit beside a bias: said, and only so for quarters in many steps
        assert keep < 1
        assert steps > 2


def test_roundings_differ_at_ties() -> None:
    """The control: a network that rounds the other way sends others."""
    differ = 0
    for seed in range(20):
        graph = dyadic_graph(seed, 1, lambda: ir.Levels(4, 1.0, 0.0, True))
        other = dyadic_graph(seed, 1, lambda: ir.Levels(4, 1.0, 0.0, False))
        frames = integers_of(graph, seed)[1]
        runs = [reference.execute(integers_of(g, seed)[0], frames, record=["out"]) for g in (graph, other)]
        differ += int((runs[0].spikes["out"] != runs[1].spikes["out"]).sum())
    assert differ > 0


def test_scales_that_are_no_whole_share_of_the_threshold() -> None:
    """d^-1/2 of 24 channels: levels are the next whole sums, worked out in squares of whole numbers."""
    scale, count = 2 * 24**-0.5 / 64, 4
    graph = dyadic_graph(1, 1, lambda: ir.Levels(count, 1.0, 0.0, True))
    nodes = tuple(
        Node(n.name, ir.Attention(2, scale), n.inputs, n.shape) if isinstance(n.op, ir.Attention) else n for n in graph
    )
    network, _ = integers_of(check(ir.Graph(nodes, 1)), 1)
    neuron = network["out"].neuron
    assert isinstance(neuron, Levels)
    share = [
        node.op.factor for node in graph.of(ir.Scale) if node.name in ("q_sent.sent", "k_sent.sent", "v_sent.sent")
    ]
    per_unit = 1 / float(np.prod(share))
    for j in range(1, count + 1):
        # n * 2 / (64 sqrt 24) * share >= j - 1/2, squared: the least such n
        right = (2 * j - 1) ** 2 * 24 * 32**2 * int(per_unit) ** 2
        n = next(n for n in range(1, 10**6) if 4 * n * n >= right)
        assert int(neuron.levels[0, j - 1]) == min(n, int(network["out"].bounds[1]) + 1)


def counted(factor: float, neuron: ir.Neuron) -> tuple[ir.Graph, np.ndarray]:
    """Neurons that read the mean of what others send, times a factor."""
    nodes = (
        Node("input", ir.Input(True), (), (2, 3, 4)),
        Node("stem", ir.Conv2d(np.ones((4, 2, 1, 1)) / 4, np.zeros(4)), ("input",), (4, 3, 4)),
        Node("first", ir.Levels(), ("stem",), (4, 3, 4)),
        Node("mean", ir.Mean(), ("first",), (4, 1, 1)),
        Node("scaled", ir.Scale(factor), ("mean",), (4, 1, 1)),
        Node("second", neuron, ("scaled",), (4, 1, 1)),
        Node("fc", ir.Linear(np.ones((3, 4)), np.zeros(3)), ("second",), (3, 1, 1)),
        Node("output", ir.Output(), ("fc",), (3, 1, 1)),
    )
    return check(ir.Graph(nodes, 1)), np.zeros((1, 1, 2, 3, 4), np.uint8)


@pytest.mark.parametrize("neuron", [ir.Levels(), ir.Lif()])
@pytest.mark.parametrize("factor", [-1.0, 0.0])
def test_counts_of_no_positive_unit_are_refused(factor: float, neuron: ir.Neuron) -> None:
    graph, _ = counted(factor, neuron)
    with pytest.raises(QuantizeError, match="second: it reads a mean or a stream times a number that is not positive"):
        integers_of(graph, 0)
    assert integers_of(counted(1.0, neuron)[0], 0)[0].output


def test_a_tie_at_no_input_is_a_tie() -> None:
    """A bias of half a threshold: what is left of the difference says nothing of its error."""
    threshold = 0.3
    for half_even, sent in ((False, [1, 2]), (True, [0, 2])):
        bias = np.array([0.5 * threshold, 1.5 * threshold])
        nodes = (
            Node("input", ir.Input(True), (), (2, 3, 4)),
            Node("stem", ir.Conv2d(np.full((2, 2, 1, 1), 0.0137), bias), ("input",), (2, 3, 4)),
            Node("first", ir.Levels(4, threshold, 0.0, half_even), ("stem",), (2, 3, 4)),
            Node("mean", ir.Mean(), ("first",), (2, 1, 1)),
            Node("fc", ir.Linear(np.ones((3, 2)), np.zeros(3)), ("mean",), (3, 1, 1)),
            Node("output", ir.Output(), ("fc",), (3, 1, 1)),
        )
        network, frames = integers_of(check(ir.Graph(nodes, 1)), 0)
        ran = reference.execute(network, np.zeros_like(frames), record=["first"])
        assert ran.spikes["first"][0, 0, :, 0, 0].tolist() == sent


def test_what_a_decay_has_no_bits_for_is_not_exact() -> None:
    graph = dyadic_graph(0, 4, lambda: ir.Levels(4, 1.0, 1e-4, True))
    assert not integers_of(graph, 0)[0].exact
    assert integers_of(dyadic_graph(0, 1, lambda: ir.Levels(4, 1.0, 1e-4, True)), 0)[0].exact
