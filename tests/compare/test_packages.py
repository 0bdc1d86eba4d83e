"""The packages themselves on the same models: equal where our rule is theirs; where theirs is odd, the difference."""

from __future__ import annotations

import pytest
import torch
from support import packages
from torch import nn

import spikformer_deploy as sd
from spikformer_deploy.accounting import operators
from spikformer_deploy.counts.operations import OperationCounts

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
functional = pytest.importorskip("spikingjelly.activation_based.functional")


def counted(model: nn.Module, *batches: torch.Tensor) -> OperationCounts:
    """What our counter sees; the states of neurons are forgotten before and after."""
    functional.reset_net(model)
    with sd.count_operations(model) as counter, torch.no_grad():
        for batch in batches:
            model(batch)
            functional.reset_net(model)
    return counter.counts


def figures(model: nn.Module, convention: str, *batches: torch.Tensor) -> dict[str, float]:
    return dict(operators.account(counted(model, *batches), convention).figures)


class Residual(nn.Module):
    """Two spiking branches added: the sum holds 0, 1 and 2, and the next convolution reads it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.ones_(self.branch.weight)
        self.first, self.second = neuron.IFNode(), neuron.LIFNode()
        self.after = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.after(x + self.second(self.branch(x)))


class Attention(nn.Module):
    """Spiking self-attention, q (k^T v) or (q k^T) v, by matrix products."""

    def __init__(self, dim: int, scores_first: bool) -> None:
        super().__init__()
        self.scores_first = scores_first
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in "qkv")
        self.neurons = nn.ModuleList(neuron.IFNode(0.1) for _ in "qkv")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layers = zip((self.q, self.k, self.v), self.neurons, strict=True)
        q, k, v = (node(layer(x)) for layer, node in layers)
        if self.scores_first:
            return (q @ k.transpose(-2, -1)) @ v
        return q @ (k.transpose(-2, -1) @ v)


def layers(seed: int, function: nn.Module) -> nn.Sequential:
    """Convolutions of many forms, normalization, pooling, neurons and a head with `function`, on (N, 4, 9, 9)."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, bias=bool(seed % 2)),
        nn.BatchNorm2d(6),
        neuron.IFNode(v_threshold=0.2),
        nn.Conv2d(6, 12, 3, stride=2, padding=2, dilation=2, groups=3, bias=not seed % 2),
        nn.BatchNorm2d(12, affine=bool(seed % 3)),
        neuron.LIFNode(v_threshold=0.1),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 5),
        function,
        nn.Linear(5, 3, bias=False),
    )
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight[torch.rand_like(layer.weight) < 0.3] = 0.0
    return model.double().eval()


def images(seed: int, kind: str, shape: tuple[int, ...] = (3, 4, 9, 9)) -> torch.Tensor:
    """Spikes, small integers, two values, signs or pixels."""
    drawn = torch.Generator().manual_seed(seed)
    spikes = (torch.rand(shape, generator=drawn) < 0.4).double()
    return {
        "spikes": spikes,
        "halves": spikes / 2,
        "counts": spikes * torch.randint(0, 4, shape, generator=drawn),
        "signs": spikes * (2 * torch.randint(0, 2, shape, generator=drawn) - 1),
        "pixels": torch.rand(shape, generator=drawn).double(),
    }[kind]


KINDS = ("spikes", "halves", "counts", "signs", "pixels")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_layers_as_syops_counts_them(seed: int, kind: str) -> None:
    model = layers(seed, nn.Tanh())
    batches = [images(seed + i, kind) for i in range(2)]
    # it takes images in fp32
    model, batches = model.float(), [batch.float() for batch in batches]
    assert figures(model, "syops-counter", *batches) == pytest.approx(packages.syops(model, *batches), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_layers_as_neurobench_counts_them(seed: int, kind: str) -> None:
    model, batch = layers(seed, nn.ReLU()), images(seed, kind)
    nodes = neuron.IFNode, neuron.LIFNode
    ours = figures(model, "neurobench", batch)
    functional.reset_net(model)
    assert ours == pytest.approx(packages.neurobench(model, batch, *nodes), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_layers_as_spikingjelly_counts_them(seed: int, kind: str) -> None:
    model, batch = layers(seed, nn.ReLU()).float(), images(seed, kind).float()
    ours = operators.account(counted(model, batch), "spikingjelly")
    functional.reset_net(model)
    theirs = packages.spikingjelly(model, batch)
    expected = {name: theirs.counts[name] / len(batch) for name in ("mac", "synop", "memory_access_bytes")}
    assert ours.figures == pytest.approx(expected, rel=1e-9)
    # all but the additions that are no synaptic operations
    others = 0.9 * (theirs.counts["ac"] - theirs.counts["synop"])
    assert ours.energy is not None
    assert ours.energy.total.nominal == pytest.approx((theirs.energy_total_pj - others) / len(batch) * 1e-9, rel=1e-9)
    assert ours.energy.shares["guess"] > 0.8


@pytest.mark.parametrize("scores_first", [True, False])
def test_attention_is_seen_by_spikingjelly_alone(scores_first: bool) -> None:
    torch.manual_seed(1)
    model, batch = Attention(8, scores_first).double(), images(1, "spikes", (2, 5, 8))
    counts = counted(model, batch)
    products = [o for o in counts.operations if o.kind == "product"]
    assert len(products) == 2
    theirs = packages.spikingjelly(model, batch).counts
    ours = operators.account(counts, "spikingjelly")
    assert 2 * ours.figures["synop"] == theirs["synop"]
    assert ours.figures["mac"] == theirs["mac"] == 0
    assert any(place.kind == "product" and place.work.acs for place in ours.places)
    # the other two see the three linear layers, and we name what they do not see
    functional.reset_net(model)
    assert operators.account(counts, "syops-counter").figures == pytest.approx(
        packages.syops(model.float(), batch.float())
    )
    for name in ("syops-counter", "neurobench"):
        assert operators.account(counts, name).excluded["product"] == tuple(o.name for o in products)


class Steps(nn.Module):
    """A model that runs its layers once a time step, and its head on the mean."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.stem, self.first = nn.Conv2d(4, 6, 3, padding=1), neuron.IFNode(0.5)
        self.inner, self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False), neuron.LIFNode(v_threshold=0.1)
        self.hidden = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = [
            self.hidden(self.second(self.inner(self.first(self.stem(x)))).mean((2, 3))) for _ in range(self.steps)
        ]
        return self.head(torch.stack(hidden).mean(0))


@pytest.mark.parametrize("steps", [1, 3])
def test_time_steps_are_in_all_sums(steps: int) -> None:
    torch.manual_seed(0)
    model, batch = Steps(steps), images(0, "pixels").float()
    counts = counted(model, batch)
    assert counts.time_steps == steps
    theirs = packages.syops(model, batch)
    assert operators.account(counts, "syops-counter").figures == pytest.approx(theirs, rel=1e-6)
    functional.reset_net(model)
    ours = operators.account(counts, "neurobench").figures
    assert ours == pytest.approx(packages.neurobench(model, batch, neuron.IFNode, neuron.LIFNode), rel=1e-6)
    functional.reset_net(model)
    simple = packages.spikingjelly(model, batch).counts
    figures = operators.account(counts, "spikingjelly").figures
    for name in ("mac", "synop", "memory_access_bytes"):
        assert 3 * figures[name] == pytest.approx(simple[name], rel=1e-6)


def test_a_network_of_snntorch_as_neurobench_counts_it() -> None:
    """Steps, spikes and neurons of a library that NeuroBench knows; what its updates change is not ours to see."""
    snntorch = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16),
        snntorch.Leaky(beta=0.9, threshold=0.2, init_hidden=True),
        nn.Linear(16, 4, bias=False),
        snntorch.Leaky(beta=0.8, threshold=0.1, init_hidden=True, output=True),
    )
    frames = (torch.rand(5, 3, 8) < 0.5).float()
    theirs = packages.neurobench_of_snntorch(model, frames)
    snntorch.utils.reset(model)
    with sd.count_operations(model, images=5) as counter, torch.no_grad():
        for step in range(3):
            model(frames[:, step])
    ours = dict(operators.account(counter.counts, "neurobench").figures)
    assert ours.keys() == theirs.keys() - {"Effective Neuron Ops"}
    # snntorch keeps membranes in buffers, which the first pass gives their shape; NeuroBench looks before it
    membranes = 4 * 5 * (16 + 4)
    assert ours.pop("Footprint") - membranes == theirs["Footprint"]
    assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=1e-6)


def test_a_sum_of_spikes_is_multiplied_in_syops_and_neurobench() -> None:
    """A residual of 0, 1 and 2 makes its reader multiply-accumulates; in a batch without a 2 it does not."""
    torch.manual_seed(0)
    model = Residual(4).double().eval()
    batch = images(0, "spikes", (2, 4, 6, 6)) * 2
    counts = counted(model, batch)
    after = next(o for o in counts.operations if o.name == "after")
    assert [c.operand for c in after.counted] == ["integers"]
    functional.reset_net(model)
    theirs = packages.neurobench(model, batch)
    assert operators.account(counts, "neurobench").figures["Effective_MACs"] == theirs["Effective_MACs"] > 0
    functional.reset_net(model)
    assert operators.account(counts, "syops-counter").figures == pytest.approx(
        packages.syops(model.float(), batch.float()), rel=1e-6
    )
    model.double()
    silent = images(0, "spikes", (2, 4, 6, 6)) * 0.5
    functional.reset_net(model)
    assert packages.neurobench(model, silent)["Effective_MACs"] == 0
    assert figures(model, "neurobench", silent)["Effective_MACs"] == 0


def test_syops_takes_halves_for_spikes_and_we_do_not() -> None:
    """{0, 0.5} passes its test, and is additions by the mean; by our rule of its name it is multiply-accumulates."""
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False)), images(0, "halves").float()
    theirs = packages.syops(model, batch)
    dense = 4 * 6 * 9 * 81
    assert theirs == pytest.approx({"MACs": 0, "ACs": dense * float(batch.mean())}, rel=1e-6)
    assert figures(model, "syops", batch) == {"MACs": dense, "ACs": 0}


def test_syops_looks_at_the_first_image_behind_a_relu() -> None:
    """Its class, and its rate, are those of the first image of the batch; we take a ReLU to give reals."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())
    nn.init.eye_(model[0].weight)
    batch = torch.tensor([[-1.0, -1.0, 1.0, -1.0], [0.3, 0.4, 0.5, 0.6]])
    linear = 2 * 4 * 4 / 2
    assert packages.syops(model, batch) == {"MACs": linear, "ACs": 8 * 0.25 / 2}
    assert packages.syops(model, batch.flip(0)) == {"MACs": linear + 4, "ACs": 0}
    assert figures(model, "syops-counter", batch) == {"MACs": linear + 4, "ACs": 0}


@pytest.mark.parametrize(("layer", "each"), [(nn.BatchNorm2d(4), 2), (nn.AdaptiveAvgPool2d(1), 1)])
def test_syops_multiplies_nothing_where_these_read_spikes(layer: nn.Module, each: int) -> None:
    """By the mean of the spikes; we do not look at what they read, and take it for reals."""
    model, batch = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), layer).eval(), images(0, "spikes").float()
    nn.init.zeros_(model[0].weight)
    model[0].weight.data[range(4), range(4)] = 1.0
    elements = each * batch[0].numel()
    theirs, ours = packages.syops(model, batch), figures(model, "syops-counter", batch)
    assert theirs["MACs"] == 0
    assert ours["MACs"] == elements
    spikes = elements * float(batch.mean())
    assert theirs["ACs"] - spikes == pytest.approx(ours["ACs"], rel=1e-6)


def test_padding_is_counted_in_syops_and_not_in_neurobench() -> None:
    """A 3x3 kernel on 9x9 positions: 81 windows of 9, of which 729 - 104 pairs are no padding."""
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).double(), torch.ones(1, 1, 9, 9).double()
    assert packages.neurobench(model, batch)["Effective_ACs"] == 625
    assert figures(model, "neurobench", batch)["Effective_ACs"] == 625
    assert packages.syops(model.float(), batch.float())["ACs"] == 729
    assert figures(model.double(), "spikformer-paper-approx", batch)["MACs"] == 729


def test_a_bias_of_a_linear_layer_is_counted_once_a_call_in_syops() -> None:
    model, batch = nn.Sequential(nn.Linear(8, 4)), images(0, "pixels", (2, 5, 8)).float()
    theirs = packages.syops(model, batch)
    assert theirs["MACs"] == (2 * 5 * 8 * 4 + 4) / 2
    assert figures(model, "syops-counter", batch)["MACs"] == theirs["MACs"]


def test_a_layer_of_spikingjelly_costs_nothing_in_syops() -> None:
    """It asks for exactly torch's classes; and where time leads the input, its images are time steps."""
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    model = nn.Sequential(layer.Conv2d(4, 6, 3, step_mode="m", bias=False), neuron.IFNode(step_mode="m"))
    frames = images(0, "pixels", (3, 2, 4, 7, 7)).float()
    updates = 3 * 2 * 6 * 5 * 5
    assert packages.syops(model, frames) == {"MACs": 0, "ACs": updates / 3}
    assert figures(model, "syops-counter", frames) == {"MACs": updates * 4 * 9 / 2, "ACs": updates / 2}


@pytest.mark.parametrize("kind", ["spikes", "pixels"])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions(groups: int, kind: str) -> None:
    """syops multiplies each weight at every output position; spikingjelly and we at every input position."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=groups, bias=False))
    batch = images(0, kind, (2, 4, 7, 7)).float()
    ours = operators.account(counted(model, batch), "spikingjelly").figures
    simple = packages.spikingjelly(model, batch).counts
    assert {name: 2 * ours[name] for name in ("mac", "synop")} == {name: simple[name] for name in ("mac", "synop")}
    theirs = sum(packages.syops(model, batch).values())
    assert theirs / sum(figures(model, "syops-counter", batch).values()) == pytest.approx(13**2 / 7**2, rel=1e-6)
    assert figures(model, "neurobench", batch)["Dense"] == packages.neurobench(model, batch)["Dense"] == 0


def test_a_subclass_of_a_neuron_costs_nothing_in_syops() -> None:
    class MyNode(neuron.IFNode):
        """A neuron of one's own."""

    batch = images(0, "pixels", (2, 5)).float()
    for node, acs in ((neuron.IFNode, 5), (MyNode, 0)):
        model = nn.Sequential(nn.Linear(5, 5, bias=False), node())
        assert packages.syops(model, batch)["ACs"] == acs
        assert figures(model, "syops-counter", batch)["ACs"] == acs
    assert "neuron" in operators.account(counted(model, batch), "syops-counter").excluded


def test_spikingjelly_adds_what_operators_add() -> None:
    """Its ACCounter has the arithmetic inside of neurons, normalization and pooling beside the synaptic operations."""
    model, batch = layers(0, nn.ReLU()), images(0, "spikes")
    theirs = packages.spikingjelly(model, batch).counts
    assert theirs["ac"] > theirs["synop"]


def test_neurobench_adds_in_the_type_of_the_layer() -> None:
    """Sums above 2^24 are inexact in fp32; ours are whole numbers."""
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Conv2d(25, 31, 3, padding=1)), torch.ones(1, 25, 65, 67)
    exact = 25 * 31 * (3 * 65 - 2) * (3 * 67 - 2)
    assert figures(model, "neurobench", batch)["Dense"] == exact
    assert packages.neurobench(model.double(), batch.double())["Dense"] == exact
    assert packages.neurobench(model.float(), batch)["Dense"] != exact
