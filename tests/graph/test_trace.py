"""Traced graphs compute what the models compute: every spike of every LIF, through every pass."""

from itertools import product

import pytest
import torch
from support.deep import some, thinned
from support.models import SMALL, model_and_images
from torch import nn

from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.fold import fold_batch_norm
from spikformer_deploy.graph.ir import Attention, BatchNorm, Conv2d, Graph, Input, Lif, Node, Output, Scale
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.simplify import simplify
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.lif import LIF
from spikformer_deploy.nn.zoo import ModelConfig, build, named


def traced(module: nn.Module, config: ModelConfig) -> Graph:
    shape = (config.in_channels, config.image_size, config.image_size)
    return check(trace(module, shape, time_steps=config.time_steps, per_step=config.per_step))


def eager_spikes(module: nn.Module, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Spikes of every LIF module, (T, B, ...), and the logits."""
    spikes: dict[str, torch.Tensor] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LIF):
            layer.register_forward_hook(lambda _m, _i, out, name=name: spikes.__setitem__(name, out))
    with torch.no_grad():
        return spikes, module(images)


@pytest.mark.parametrize("name", thinned(SMALL, 4))
def test_graph_equals_the_model(name: str) -> None:
    config = SMALL[name]
    module, images = model_and_images(config)
    raw = traced(module, config)
    spikes, logits = eager_spikes(module, images)
    values = execute(raw, images)
    assert {n.name for n in raw.of(Lif)} == spikes.keys()
    rates = []
    for lif, expected in spikes.items():
        ours = values[lif].transpose(0, 1)
        if name == "cifar" and expected.ndim == 4:
            expected = expected.transpose(2, 3)
        assert torch.equal(ours.flatten(2).float(), expected.flatten(2)), lif
        rates.append(float(ours.float().mean()))
    assert 0.02 < sum(rates) / len(rates) < 0.6
    torch.testing.assert_close(values["output"], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", thinned(SMALL, 4))
def test_passes_flip_no_spike_in_float64(name: str) -> None:
    config = SMALL[name]
    module, images = model_and_images(config)
    raw = traced(module, config)
    folded = check(simplify(check(fold_batch_norm(raw))))
    assert not list(folded.of(BatchNorm, Scale))
    assert [n.op.scale for n in folded.of(Attention)] == [0.25 if name == "dvs" else 0.125]
    before = execute(raw, images, dtype=torch.float64)
    after = execute(folded, images, dtype=torch.float64)
    for lif in folded.of(Lif):
        assert torch.equal(before[lif.name], after[lif.name]), lif.name
    torch.testing.assert_close(before["output"], after["output"], rtol=1e-12, atol=1e-12)


def test_forced_spikes_stop_a_cascade() -> None:
    """With the spikes of another run forced, each layer is computed from those and none is compared twice."""
    config = SMALL["cifar"]
    module, images = model_and_images(config)
    graph = traced(module, config)
    spikes = execute(graph, images)
    names = [n.name for n in graph.of(Lif)]
    altered = {n: torch.zeros_like(spikes[n]) for n in names}
    silent = execute(graph, images, forced=altered)
    assert torch.equal(silent[names[0]], spikes[names[0]])
    assert int(silent[names[-1]].sum()) != int(spikes[names[-1]].sum())


@pytest.mark.long
def test_dump_names_every_node() -> None:
    module, _ = model_and_images(SMALL["cifar"])
    graph = traced(module, SMALL["cifar"])
    lines = graph.dump().splitlines()
    assert lines[0] == f"graph T=4 nodes={len(graph)}"
    assert len(lines) == len(graph) + 1
    assert any(line.startswith("  block.0.attn.attn_lif: 32x4x4 = Lif[tau=2.0 v_threshold=0.5") for line in lines)
    assert graph.digest() == traced(module, SMALL["cifar"]).digest()
    assert isinstance(graph.nodes[0].op, Input)


class Wrapped(nn.Module):
    """A model of one function of the repeated image, for errors."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.lif = LIF()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x.unsqueeze(0).repeat(2, 1, 1, 1, 1))


def head(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(3).mean(3).mean(0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: head(torch.softmax(m.lif(x), 2)), "softmax of .* is not supported"),
        (lambda m, x: head(m.lif(x.flatten(0, 1).unflatten(0, (-1, 2)))), "mixes axes"),
        (lambda m, x: head(m.lif(x.transpose(0, 1))), "first dimension must be the time axis"),
        (lambda m, x: head(m.lif(x) * m.lif(x).transpose(3, 4)), "is no mask of channels or tokens"),
        (lambda m, x: m.lif(x).flatten(3).mean(3), "must return the mean over the time steps"),
        (lambda m, x: head(m.lif(x) if x.sum() > 0 else x), "torch.export cannot trace it"),
        (lambda m, x: head(m.lif(x) + torch.ones(1)), "baked into the model|is not supported"),
        (lambda m, x: head(m.lif(x).flatten(0, 1)[:, :1].unflatten(0, (2, -1))), "is not supported"),
    ],
)
def test_what_cannot_be_compiled_is_named(function, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(Wrapped(function), (3, 8, 8), time_steps=2)


def test_nan_weights_are_refused() -> None:
    module = Wrapped(lambda m, x: head(m.lif(m.conv(x.flatten(0, 1)).unflatten(0, (2, -1)))))
    with torch.no_grad():
        module.conv.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"conv\.weight: it holds NaN"):
        trace(module, (3, 8, 8), time_steps=2)


@pytest.mark.long
@pytest.mark.parametrize("name", some(["v1-4-384"], ["v1-2-256-dvs", "v2-8-512", "v1-8-512"]))
def test_published_sizes_trace(name: str) -> None:
    """One of each form at its real size; the graph has every layer of the model once."""
    config = named(name)
    graph = traced(build(config), config)
    lifs = {path for path, layer in build(config).named_modules() if isinstance(layer, LIF)}
    assert {n.name for n in graph.of(Lif)} == lifs
    assert len(list(graph.of(Attention))) == config.depth
    assert graph.nodes[-1].shape == (config.num_classes, 1, 1)


class Flattened(torch.nn.Module):
    """A linear layer that reads a whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3)
        self.lif = LIF(v_threshold=0.2)
        self.linear = torch.nn.Linear(3 * 4 * 2, 5)
        self.last = LIF(v_threshold=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes = self.lif(self.conv(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (3, -1)))
        return self.last(self.linear(spikes.flatten(2))).mean(0)


def test_a_linear_layer_may_read_a_flattened_map() -> None:
    torch.manual_seed(0)
    module = Flattened().eval()
    images = torch.rand(4, 3, 2, 6, 4)
    graph = trace(module, (2, 6, 4), time_steps=3, per_step=True)
    assert [n.op.weight.shape for n in graph.of(Conv2d)] == [(3, 2, 3, 3), (5, 3, 4, 2)]
    with torch.no_grad():
        right = module(images)
    found = execute(graph, images)
    assert torch.equal(found["output"], right)
    assert right.any()


class Batched(torch.nn.Module):
    """Linear neurons, their time steps taken apart and joined as the batch says."""

    def __init__(self, joined) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 7)
        self.lif = LIF(v_threshold=0.2)
        self.joined = joined

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = x.mean((2, 3)).unsqueeze(0).repeat(4, 1, 1).flatten(0, 1)
        currents = self.linear(steps).unflatten(0, (4, -1))
        return self.joined(self.lif(currents).flatten(0, 1), x.shape[0]).mean(0)


def test_what_torch_asks_of_the_batch_by_itself_is_no_limit_of_the_model() -> None:
    torch.manual_seed(0)
    module = Batched(lambda x, batch: x.reshape(4, batch, 7)).eval()
    images = torch.rand(3, 3, 4, 4)
    graph = check(trace(module, (3, 4, 4), time_steps=4))
    with torch.no_grad():
        right = module(images)
    assert right.any()
    assert torch.equal(execute(graph, images)["output"], right)


@pytest.mark.parametrize(
    "joined",
    [
        lambda x, batch: x.reshape(4, 2, 7),
        lambda x, batch: x.reshape(4, batch, 7) * (1 if batch <= 3 else 2),
        lambda x, batch: x.reshape(4, batch, 7) * (1 if batch % 2 == 0 else 2),
    ],
)
def test_what_the_model_asks_of_the_batch_is_refused(joined, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"torch\.export cannot trace it"):
        trace(Batched(joined), (3, 4, 4), time_steps=4)
    assert capfd.readouterr() == ("", "")


class Attends(nn.Module):
    """Self-attention of spikes, (q k^T) v or q (k^T v), tokens before channels or behind them."""

    def __init__(self, channels: int, heads: int, scores_first: bool, channels_first: bool) -> None:
        super().__init__()
        self.heads = heads
        self.scores_first = scores_first
        self.channels_first = channels_first
        self.layers = nn.ModuleList(nn.Linear(2, channels) for _ in "qkv")
        self.neurons = nn.ModuleList(LIF(v_threshold=0.1) for _ in "qkv")
        self.last = LIF(v_threshold=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.unsqueeze(0).repeat(3, 1, 1, 1, 1).flatten(3).transpose(2, 3)
        spikes = [neuron(layer(tokens)) for neuron, layer in zip(self.neurons, self.layers, strict=True)]
        q, k, v = [s.unflatten(3, (self.heads, -1)).transpose(2, 3) for s in spikes]
        if self.channels_first:
            q, k, v = q.transpose(3, 4), k.transpose(3, 4), v.transpose(3, 4)
            out = v @ (k.transpose(3, 4) @ q) if self.scores_first else (v @ k.transpose(3, 4)) @ q
            out = out.transpose(3, 4)
        else:
            out = (q @ k.transpose(3, 4)) @ v if self.scores_first else q @ (k.transpose(3, 4) @ v)
        return self.last(out.transpose(2, 3).flatten(3)).mean(2).mean(0)


SIZES = [(1, 1), (1, 4), (3, 1), (2, 3)]
WIDTHS = [(1, 1), (4, 4), (4, 1), (4, 2)]
ATTENTIONS = [(s, *w, *order) for s, w, order in product(SIZES, WIDTHS, product([True, False], repeat=2))]


# of those that are not deep each value, and nearly each pair of two
@pytest.mark.parametrize(
    ("size", "channels", "heads", "scores_first", "channels_first"),
    some(
        ATTENTIONS[::18],
        [case for number, case in enumerate(ATTENTIONS) if number % 3],
        long=[case for number, case in enumerate(ATTENTIONS) if number % 3 == 0 and number % 18],
    ),
)
def test_attention_of_one_token_or_one_channel(
    size: tuple[int, int], channels: int, heads: int, scores_first: bool, channels_first: bool
) -> None:
    torch.manual_seed(channels + size[0])
    module = Attends(channels, heads, scores_first, channels_first).eval()
    graph = check(trace(module, (2, *size), time_steps=3))
    (attention,) = graph.of(Attention)
    assert attention.op.heads == heads or size == (1, 1)
    images = torch.randn(5, 2, *size)
    assert torch.equal(execute(graph, images)["output"], module(images))


@pytest.mark.parametrize("seed", range(40))
def test_a_stride_over_the_only_column_is_computed_right(seed: int) -> None:
    """oneDNN's convolution is wrong there in fp32; these sums are small integers, exact in both."""
    generator = torch.Generator().manual_seed(seed)
    kernel = seed % 3 + 2
    stride = seed % 2 + 2
    padding = seed % 2
    size = (6, kernel - padding if seed % 4 else kernel - 2 * padding)
    weight = torch.randint(-9, 10, (5, 1, 2, kernel), generator=generator).double().numpy()
    shape = (5, 5 + 2 * padding, (size[1] + 2 * padding - kernel) // stride + 1)
    assert shape[2] == 1
    conv = Conv2d(weight, torch.zeros(5).double().numpy(), (1, stride), (padding, padding))
    nodes = (Node("input", Input(), (), (1, *size)), Node("conv", conv, ("input",), shape))
    graph = check(Graph((*nodes, Node("output", Output(), ("conv",), shape)), 1))
    images = torch.randint(0, 256, (3, 1, *size), generator=generator).float()
    single = execute(graph, images, dtype=torch.float32)["output"]
    double = execute(graph, images, dtype=torch.float64)["output"]
    assert torch.equal(single.double(), double)
