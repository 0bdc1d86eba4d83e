"""Random networks, counted while torch runs them, against their definition in plain numpy: equality."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import counted_by_hand as by_hand
from support.counted_by_hand import Neurons, Sums
from torch import Tensor, nn

import spikformer_deploy as sd
from spikformer_deploy.counts.operations import Operation, OperationCounts

CHANNELS = 4
"""Of every map: any layer can follow any other."""


class Fire(torch.autograd.Function):
    """The threshold of a hand-written neuron, and its surrogate."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return grad / (1 + x.abs()) ** 2


class Neuron(nn.Module):
    """One step of neurons that keep their potential themselves."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.v: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.v = self.v + x
        spikes = Fire.apply(self.v - self.threshold)
        self.v = self.v - spikes * self.threshold
        return spikes


class Attention(nn.Module):
    """q, k, v of one map by one shared linear layer each way round, without neurons between."""

    def __init__(self, scores_first: bool, way: str) -> None:
        super().__init__()
        self.scores_first = scores_first
        self.way = way

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.flatten(2).transpose(1, 2) for x in (q, k, v))
        # torch takes an einsum over one token for a product element by element, and that is what is counted then
        if self.way == "einsum" and q.shape[1] > 1:
            if self.scores_first:
                out = torch.einsum("bnm,bmc->bnc", torch.einsum("bnc,bmc->bnm", q, k), v)
            else:
                out = torch.einsum("bnc,bcd->bnd", q, torch.einsum("bmc,bmd->bcd", k, v))
        elif self.way == "bmm":
            out = torch.bmm(torch.bmm(q, k.mT), v) if self.scores_first else torch.bmm(q, torch.bmm(k.mT, v))
        else:
            out = (q @ k.mT) @ v if self.scores_first else q @ (k.mT @ v)
        return out.transpose(1, 2)


class Network(nn.Module):
    """Layers of `spec`, each followed by neurons, in a loop over T time steps."""

    def __init__(self, spec: list[dict[str, Any]], time_steps: int) -> None:
        super().__init__()
        self.spec = spec
        self.time_steps = time_steps
        for index, layer in enumerate(spec):
            self.add_module(f"layer{index}", _torch_layer(layer))
            self.add_module(f"fire{index}", Neuron(layer["threshold"]))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(())
        for _ in range(self.time_steps):
            h = x
            for index, layer in enumerate(self.spec):
                h = getattr(self, f"fire{index}")(self._current(layer, getattr(self, f"layer{index}"), h))
            out = out + h.sum()
        return out

    def _current(self, layer: dict[str, Any], module: nn.Module, h: Tensor) -> Tensor:
        match layer["kind"]:
            case "attention":
                return module(h, h.roll(1, 1), h.roll(2, 1)).unflatten(2, h.shape[2:])
            case "linear":
                return module(h.movedim(1, -1)).movedim(-1, 1)
            case "twice":
                return module(module(h))
            case "joined":
                return module(torch.cat([h, h.flip(1)], 1))
            case "functional":
                return nn.functional.conv2d(h, module.weight * 2, padding=module.padding)
            case _:
                return module(h)


def _torch_layer(layer: dict[str, Any]) -> nn.Module:
    if layer["kind"] == "attention":
        return Attention(layer["scores_first"], layer["way"])
    weight = torch.tensor(layer["weight"], dtype=torch.float32)
    if layer["kind"] == "linear":
        module: nn.Module = nn.Linear(CHANNELS, CHANNELS, bias=False)
    else:
        s = dict(layer["settings"])
        kind = nn.ConvTranspose2d if s.pop("transposed") else nn.Conv2d
        if kind is nn.Conv2d:
            s.pop("output_padding")
        inputs = 2 * CHANNELS if layer["kind"] == "joined" else CHANNELS
        module = kind(inputs, CHANNELS, weight.shape[2:], bias=False, **s)
    assert module.weight.shape == weight.shape
    module.weight = nn.Parameter(weight)
    return module


def run_by_hand(spec: list[dict[str, Any]], time_steps: int, x: np.ndarray) -> tuple[list[list[Sums]], list[Neurons]]:
    """The same network in numpy: the sums of each layer's operations, and its neurons."""
    sums = [[Sums() for _ in range(2 if layer["kind"] == "attention" else 1)] for layer in spec]
    neurons = [Neurons(layer["threshold"]) for layer in spec]
    for _ in range(time_steps):
        h = x
        for layer, here, fire in zip(spec, sums, neurons, strict=True):
            h = fire(_current_by_hand(layer, h, here))
    return sums, neurons


def _current_by_hand(layer: dict[str, Any], h: np.ndarray, sums: list[Sums]) -> np.ndarray:
    match layer["kind"]:
        case "attention":
            q, k, v = (np.roll(h, shift, 1).reshape(*h.shape[:2], -1).swapaxes(1, 2) for shift in range(3))
            if layer["scores_first"]:
                out = by_hand.matmul(by_hand.matmul(q, k.swapaxes(1, 2), sums[0]), v, sums[1])
            else:
                out = by_hand.matmul(q, by_hand.matmul(k.swapaxes(1, 2), v, sums[0]), sums[1])
            return out.swapaxes(1, 2).reshape(h.shape)
        case "linear":
            return np.moveaxis(by_hand.linear(np.moveaxis(h, 1, -1), layer["weight"], sums[0]), -1, 1)
        case "twice":
            inner = by_hand.convolution(h, layer["weight"], layer["settings"], sums[0])
            return by_hand.convolution(inner, layer["weight"], layer["settings"], sums[0])
        case "joined":
            return by_hand.convolution(np.concatenate([h, h[:, ::-1]], 1), layer["weight"], layer["settings"], sums[0])
        case "functional":
            return by_hand.convolution(h, 2 * layer["weight"], layer["settings"], sums[0])
        case _:
            return by_hand.convolution(h, layer["weight"], layer["settings"], sums[0])


@st.composite
def layers(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["convolution", "transposed", "linear", "attention", "twice", "joined", "functional"]))
    layer: dict[str, Any] = {"kind": kind, "threshold": float(draw(st.integers(1, 3)))}
    if kind == "attention":
        return layer | {"scores_first": draw(st.booleans()), "way": draw(st.sampled_from(["matmul", "bmm", "einsum"]))}
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    if kind == "linear":
        return layer | {"weight": random.integers(-2, 3, (CHANNELS, CHANNELS)).astype(float)}
    keeps = kind in ("twice", "functional")
    kernel = (3, 3) if keeps else (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    groups = 1 if kind == "functional" else draw(st.sampled_from([1, 2, 4]))
    transposed = kind == "transposed"
    stride = (1, 1) if keeps else (draw(st.integers(1, 2)), draw(st.integers(1, 3)))
    # with as much padding as the kernel reaches, no map gets empty
    padding = (1, 1) if keeps else (2, 2)
    settings_ = {
        "stride": stride,
        "padding": (0, 0) if transposed else padding,
        "dilation": (1, 1) if keeps else (draw(st.integers(1, 2)), 1),
        "groups": groups,
        "transposed": transposed,
        "output_padding": tuple(draw(st.integers(0, s - 1)) for s in stride),
    }
    inputs = 2 * CHANNELS if kind == "joined" else CHANNELS
    shape = (inputs, CHANNELS // groups, *kernel) if transposed else (CHANNELS, inputs // groups, *kernel)
    smallest = draw(st.sampled_from([-2, 1]))  # from 1 on, no weight is 0
    return layer | {"settings": settings_, "weight": random.integers(smallest, 3, shape).astype(float)}


def placed(counts: OperationCounts, index: int, kind: str) -> list[Operation]:
    """The operations of a layer, or of the line of the network that stands for it."""
    found = [o for o in counts.operations if o.name.split(":")[0] == f"layer{index}" and o.kind in ("product", kind)]
    return [o for o in found if o.counted]


def total(operation: Operation, field: str) -> float:
    return sum(getattr(counted, field) for counted in operation.counted)


@pytest.mark.long
@given(
    spec=st.lists(layers(), min_size=1, max_size=3),
    time_steps=st.integers(1, 8),
    images=st.integers(1, 3),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    largest=st.integers(1, 3),
    seed=st.integers(0, 2**16),
    way=st.sampled_from(["grad", "no_grad", "inference"]),
)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_networks_equal_a_count_by_hand(
    spec: list[dict[str, Any]],
    time_steps: int,
    images: int,
    size: tuple[int, int],
    largest: int,
    seed: int,
    way: str,
) -> None:
    x = np.random.default_rng(seed).integers(0, largest + 1, (images, CHANNELS, *size)).astype(float)
    network = Network(spec, time_steps)
    context = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}[way]
    with context(), sd.count_operations(network) as counting:
        network(torch.tensor(x, dtype=torch.float32))
    counts = counting.counts
    sums, neurons = run_by_hand(spec, time_steps, x)
    assert counts.images == images
    assert not counts.not_understood
    functional = [o for o in counts.operations if o.kind == "convolution" and o.functional]
    for index, (layer, expected) in enumerate(zip(spec, sums, strict=True)):
        if layer["kind"] == "functional":
            continue  # its line is shared by all functional layers: they are summed below
        found = placed(counts, index, "linear" if layer["kind"] == "linear" else "convolution")
        assert len(found) == len(expected)
        for operation, here in zip(found, expected, strict=True):
            assert_equal_sums(operation, here)
    by_line = [here[0] for layer, here in zip(spec, sums, strict=True) if layer["kind"] == "functional"]
    if by_line:
        (operation,) = functional
        assert total(operation, "effective") == sum(s.effective for s in by_line)
        assert total(operation, "pairs") == sum(s.pairs for s in by_line)
        assert total(operation, "dense") == sum(s.dense for s in by_line)
    for index, fire in enumerate(neurons):
        (record,) = [n for n in counts.neurons if n.name == f"fire{index}"]
        assert record.spikes.tolist() == fire.spikes
        assert (record.updates == record.elements * images).all()


def assert_equal_sums(operation: Operation, here: Sums) -> None:
    for field in ("dense", "pairs", "effective", "weighted"):
        assert total(operation, field) == getattr(here, field), field
    if operation.kind == "product":
        assert total(operation, "first_pairs") == here.first
        assert total(operation, "second_pairs") == here.second


@pytest.mark.parametrize("kind", ["1d", "3d"])
def test_other_dimensions_equal_a_convolution_of_ones(kind: str) -> None:
    torch.manual_seed(0)
    dims = int(kind[0])
    x = (torch.rand(2, 4, *(5, 4, 3)[:dims]) < 0.4).double()
    conv = (nn.Conv1d, nn.Conv3d)[dims == 3](4, 6, 3, stride=2, padding=1, groups=2).double()
    with torch.no_grad(), sd.count_operations(conv) as counting:
        conv(x)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.zero_()
        pairs = int(conv((x != 0).double()).sum())
        dense = int(conv(torch.ones_like(x)).sum())
    (operation,) = counting.counts.operations
    assert (total(operation, "pairs"), total(operation, "dense")) == (pairs, dense)
    assert total(operation, "dense_padded") == 2 * 6 * 2 * 3**dims * np.prod([3, 2, 2][:dims])
    assert operation.first
