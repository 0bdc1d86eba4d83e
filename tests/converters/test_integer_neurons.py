"""spikingjelly's integer neurons: its own counts by both ways in, and slots of spikes that are left out."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from support.deep import some
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.base.errors import ModelError
from spikformer_deploy.converters.checkpoints.spikingjelly import _swapped, from_spikingjelly
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.executors import reference
from spikformer_deploy.graph import ir
from spikformer_deploy.graph.execute import execute
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.network.neurons import Levels
from spikformer_deploy.nn import levels as nn_levels

reason = "spikingjelly is not installed: pip install --no-deps spikingjelly==2.0.0 loguru tqdm"
pytest.importorskip("spikingjelly.activation_based", reason=reason)

from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
FRAMES = Preprocess(2, 4, (0.0,) * 2, (1.0,) * 2)


def counts_of(tau: float = 4 / 3, most: int = 4, v_threshold: float = 1.0) -> nn.Module:
    # a window of the gradient that is not 0..D changes no count
    return neuron.ILIFNode(tau, v_threshold, surrogate.MultiLevelSpikeCount(most, grad_window=(-0.5, most + 0.5)))


def chain(*layers: nn.Module, mode: str = "m") -> nn.Module:
    """A net whose numbers are multiples of 1/8: ties everywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers).eval()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.randint(-4, 8, parameter.shape) / 8
    functional.set_step_mode(model, mode)
    return model


def net(first: nn.Module, second: nn.Module, *, mode: str = "m") -> nn.Module:
    return chain(
        layer.Conv2d(2, 4, 3, padding=1), first, layer.Conv2d(4, 4, 1), second,
        layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(4, 3), mode=mode,
    )  # fmt: skip


class Frames(nn.Module):
    """As the tracer takes it: frames (B, T, C, Y, X)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.transpose(0, 1)).mean(0)


def frames(steps: int) -> Tensor:
    return torch.randint(0, 3, (2, steps, 2, 4, 4), generator=torch.Generator().manual_seed(steps)).float()


def their_counts(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What each ILIFNode sends for frames, (B, T, ...)."""
    functional.reset_net(model)
    sent: list[list[Tensor]] = []
    hooks = []
    for module in model.modules():
        if isinstance(module, neuron.ILIFNode):
            sent.append([])
            hooks.append(module.register_forward_hook(lambda _m, _i, out, kept=sent[-1]: kept.append(out)))
    with torch.no_grad():
        if model[0].step_mode == "m":
            model(x.transpose(0, 1))
        else:
            for frame in x.transpose(0, 1):
                model(frame)
    for hook in hooks:
        hook.remove()
    functional.reset_net(model)
    return [torch.cat([out if out.ndim == 5 else out[None] for out in of_one]).transpose(0, 1) for of_one in sent]


def assert_counts(graph: ir.Graph, model: nn.Module, x: Tensor, most: int) -> None:
    theirs = their_counts(model, x)
    nodes = list(graph.of(ir.Levels))
    ours = execute(graph, x, record={node.name for node in nodes})
    assert len(nodes) == len(theirs)
    for node, right in zip(nodes, theirs, strict=True):
        assert torch.equal(ours[node.name], right)
    assert any(int(right.max()) == most for right in theirs)


@pytest.mark.parametrize("tau", [4 / 3, 2.0, 3.0, 1.25])
@pytest.mark.parametrize("most", range(1, 9))
def test_swapped_neurons_send_its_counts(tau: float, most: int) -> None:
    """Multiples of half the threshold, so that ties are everywhere; thresholds of 1 and of 3/4; both step modes."""
    for steps in range(1, 9):
        v_threshold = (1.0, 0.75)[steps % 2]
        x = torch.randint(-4, 2 * most + 6, (steps, 200), generator=torch.Generator().manual_seed(steps)) / 2
        x = x * v_threshold
        theirs = counts_of(tau, most, v_threshold)
        swapped = _swapped(copy.deepcopy(theirs), steps)
        functional.set_step_mode(theirs, "m")
        right = theirs(x)
        assert int(right.max()) == most
        assert torch.equal(_swapped(counts_of(tau, most, v_threshold), 0)(x), right)
        assert torch.equal(swapped(x.flatten()).unflatten(0, (steps, -1)), right)


@pytest.mark.parametrize("steps", some([1], long=[4]))
def test_counts_of_both_ways_are_its_own(steps: int) -> None:
    """Traced as exported with its own operator, and swapped."""
    x = 4 * frames(steps)
    model = net(counts_of(4 / 3, 3, 0.5), counts_of(3.0, 7))
    traced = trace(Frames(model), (2, 4, 4), time_steps=steps, per_step=True)
    settings = [(op.count, op.threshold, op.keep, op.half_even) for op in map(op_of, traced.of(ir.Levels))]
    assert settings == [(3, 0.5, 0.25, True), (7, 1.0, 1 - 1 / 3.0, True)]
    assert_counts(traced, model, x, 3)
    assert_counts(from_spikingjelly(model, FRAMES, steps, per_step=True).graph, model, x, 3)


def op_of(node: ir.Node) -> ir.Levels:
    assert isinstance(node.op, ir.Levels)
    return node.op


def test_single_steps_and_mixed_neurons() -> None:
    """An ILIFNode is a LIFNode to isinstance; a LIFNode is none to us, and the other way round."""
    model = net(counts_of(), neuron.LIFNode(), mode="s")
    imported = from_spikingjelly(model, FRAMES, 3, per_step=True)
    assert [type(node.op) for node in imported.graph.of(ir.Neuron)] == [ir.Levels, ir.Lif]
    assert_counts(imported.graph, model, frames(3), 4)


def test_integers_are_its_counts() -> None:
    model = net(counts_of(), counts_of(2.0, 3))
    imported = from_spikingjelly(model, FRAMES, 2, per_step=True)
    network = sd.compile(imported, check=False).network
    assert network.exact
    assert network.rounding == 0
    names = [p.name for p in network if isinstance(p.neuron, Levels)]
    # normalised frames are pixels / 255
    pixels = (np.random.default_rng(0).integers(0, 2, (2, 2, 2, 4, 4)) * 255).astype(np.uint8)
    ran = reference.execute(network, pixels, record=names)
    for name, right in zip(names, their_counts(model, torch.from_numpy(pixels / 255).float()), strict=True):
        assert right.any()
        np.testing.assert_array_equal(ran.spikes[name], right.numpy())


# --- slots ---------------------------------------------------------------------------------------------------------


def with_slots(*between: nn.Module, slots: int = 4, summed: int | None = None, first: Any = None) -> nn.Module:
    return chain(
        layer.Conv2d(2, 4, 3, padding=1), first or counts_of(), layer.SpikeCountToBinary(slots), *between,
        layer.TemporalBinSum(summed or slots), layer.BatchNorm2d(4), counts_of(2.0, 2),
        layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(4, 3),
    )  # fmt: skip


@pytest.mark.parametrize("slots", [4, 6])
def test_slots_are_left_out(slots: int) -> None:
    model = with_slots(layer.Conv2d(4, 4, 3, padding=1, bias=False), slots=slots)
    imported = from_spikingjelly(model, FRAMES, 3, per_step=True)
    assert imported.notes == ()
    plain = nn.Sequential(*(m for m in model if "Bin" not in type(m).__name__))
    assert [type(n.op) for n in imported.graph] == [
        type(n.op) for n in from_spikingjelly(plain, FRAMES, 3, per_step=True).graph
    ]
    assert_counts(imported.graph, model, frames(3), 4)


def conv(**more: Any) -> nn.Module:
    return layer.Conv2d(4, 4, 1, **{"bias": False, **more})


REFUSED: dict[str, tuple[Any, str]] = {
    "bias": (lambda: with_slots(conv(bias=True)), "model.3: its bias is added to each of the 4 slots of model.2"),
    "norm": (lambda: with_slots(conv(), layer.BatchNorm2d(4)), "model.4: batch_norm reads the slots of model.2"),
    "neuron": (lambda: with_slots(conv(), neuron.IFNode()), "model.4: the slots of model.2 .* neurons read them"),
    "saturates": (lambda: with_slots(conv(), slots=3), "model.2: its 3 slots cut off counts of up to 4"),
    "unequal": (lambda: with_slots(conv(), summed=2), "model.4: it adds up 2 slots, and model.2 makes 4"),
    "no slots": (lambda: chain(layer.Conv2d(2, 4, 1), counts_of(), layer.TemporalBinSum(4)), "2: it adds up what"),
    "reals": (lambda: with_slots(conv(), first=nn.Sequential(counts_of(), layer.AvgPool2d(1))), "not what neurons"),
    "never summed": (
        lambda: chain(layer.Conv2d(2, 4, 4), counts_of(), layer.Flatten(), layer.SpikeCountToBinary(4)),
        "mean reads the slots of model.3 one by one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_slots_that_are_no_detour_are_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as refused:
        from_spikingjelly(make(), FRAMES, 2, per_step=True)
    assert refused.value.way_out


# --- counting ------------------------------------------------------------------------------------------------------


class Called(nn.Module):
    """The operator in a module that nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return nn_levels.levels(x, 4, 1.0, 0.25, True)


@pytest.mark.parametrize("make", [counts_of, lambda: nn_levels.Levels(4, 1.0, 0.25), Called])
def test_integer_neurons_are_counted_as_such(make: Any) -> None:
    """Rates are shares of neurons that send something, means those of the integers."""
    integers = make()
    model = chain(layer.Conv2d(2, 4, 1), integers, layer.Conv2d(4, 3, 1, bias=False))
    x = 8 * frames(3).transpose(0, 1)
    sent: list[Tensor] = []
    hook = integers.register_forward_hook(lambda _m, _i, out: sent.append(out))
    with sd.count_operations(model, time_steps=3) as counts, torch.no_grad():
        model(x)
    hook.remove()
    (record,) = counts.counts.neurons
    assert "unknown" not in {operation.kind for operation in counts.counts.operations}
    assert record.operand == "integers"
    assert record.largest == 4
    np.testing.assert_array_equal(record.spikes, (sent[0] > 0).sum((1, 2, 3, 4)).numpy())
    np.testing.assert_array_equal(record.values, sent[0].sum((1, 2, 3, 4)).numpy())
    np.testing.assert_allclose(counts.firing_rates()[:, 0], (sent[0] > 0).double().mean((1, 2, 3, 4)))
