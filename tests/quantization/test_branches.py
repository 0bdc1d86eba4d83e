"""Branches whose channels are joined, and constants that are added: integers give the float model's spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.deep import examples, thinned
from support.executions import assert_equal_executions
from support.layers import STEPS, assert_deployed, by_step, compiled, dyadic, frames_of
from torch import Tensor, nn
from torch.nn import functional as F

from spikformer_deploy.base.errors import ModelError, QuantizeError
from spikformer_deploy.executors import reference
from spikformer_deploy.executors.fast import engine
from spikformer_deploy.network.neurons import And, Lif, Stream
from spikformer_deploy.nn.lif import LIF

FEW = examples(2, 8)
"""Compiling and running in three executors takes seconds."""
SIZE = (3, 5)
Body: TypeAlias = Callable[["Branches", Tensor], Tensor]


class Branches(nn.Module):
    """A dense block of three branches of unequal width, `sizes` channels each; `body` reads them joined."""

    def __init__(self, body: Body, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        self.body = body
        a, b, c = sizes
        whole = sum(sizes)
        self.first = nn.Conv2d(2, a, 3, padding=1)
        self.second = nn.Conv2d(a, b, (1, 3), padding="same")
        self.third = nn.Conv2d(a + b, c, 1)
        self.norm = nn.BatchNorm2d(c, eps=0.0)
        self.next = nn.Conv2d(whole, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(whole, whole, 3, padding=1, groups=whole)
        self.all = nn.Linear(whole, 3)
        self.four = nn.Linear(4, 3)
        self.flat = nn.Linear(whole * 15, 3)
        self.q = nn.Conv2d(whole, whole, 1)
        self.v = nn.Conv2d(whole, whole, 1)
        self.other = nn.Linear(whole, 2)
        self.lifs = nn.ModuleList(LIF(v_threshold=0.5) for _ in range(8))

    def fire(self, x: Tensor) -> Tensor:
        """The next of the LIFs."""
        self.fired += 1
        return by_step(self.lifs[self.fired - 1], x)  # type: ignore[arg-type]

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.fire(self.first(x))
        b = self.fire(self.second(a))
        return a, b, self.fire(self.norm(self.third(torch.cat([a, b], 1))))

    def forward(self, frames: Tensor) -> Tensor:
        self.fired = 0
        y = self.body(self, frames.transpose(0, 1).flatten(0, 1))
        return y.unflatten(0, (STEPS, frames.shape[0])).mean(0)


def joined(m: Branches, x: Tensor) -> Tensor:
    return torch.cat(m.branches(x), 1)


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def attention(m: Branches, x: Tensor) -> Tensor:
    """Keys are joined spikes, in one piece."""
    d = joined(m, x)
    q, k, v = (y.flatten(2) for y in (m.fire(m.q(d)), d, m.fire(m.v(d))))
    return m.fire(((v @ k.transpose(1, 2)) @ q * 0.25).unflatten(2, SIZE))


def pooled(m: Branches, x: Tensor) -> Tensor:
    return F.avg_pool2d(F.max_pool2d(joined(m, x), 2, ceil_mode=True), 2, 1)


def residual(m: Branches, x: Tensor) -> Tensor:
    d = joined(m, x)
    return m.fire(d + m.fire(m.depthwise(d)))


def shuffled(m: Branches, x: Tensor) -> Tensor:
    d = joined(m, x)
    left, right = d.split([2, d.shape[1] - 2], 1)
    return torch.cat([right, left], 1)


BODIES: dict[str, Body] = {
    "mean": lambda m, x: m.all(mean(joined(m, x))),
    "mean alone": lambda m, x: mean(joined(m, x)),
    "mean read by neurons": lambda m, x: m.all(m.fire(mean(joined(m, x)))),
    "convolution": lambda m, x: m.four(mean(m.fire(m.next(joined(m, x))))),
    "depthwise": lambda m, x: m.all(mean(m.fire(m.depthwise(joined(m, x))))),
    "pools": lambda m, x: m.all(mean(pooled(m, x))),
    "attention": lambda m, x: m.all(mean(attention(m, x))),
    "residual": lambda m, x: m.all(mean(residual(m, x))),
    "flat head": lambda m, x: m.flat(joined(m, x).flatten(1)),
    "joined heads": lambda m, x: (lambda y: torch.cat([m.all(y), m.other(y)], 1))(mean(joined(m, x))),
    "shuffled": lambda m, x: m.all(mean(shuffled(m, x))),
}


@pytest.mark.parametrize("body", thinned(BODIES, 6))
@FEW
@given(st.tuples(*[st.integers(1, 4)] * 3), st.integers(0, 99))
def test_joined_branches(body: str, sizes: tuple[int, int, int], seed: int) -> None:
    module = dyadic(Branches(BODIES[body], sizes), seed)
    module.norm.running_var.fill_(4.0)  # type: ignore[union-attr, operator]
    assert_deployed(module, (2, *SIZE), seed)


def test_joins_cost_no_neurons_but_before_an_attention() -> None:
    plain = compiled(dyadic(Branches(BODIES["convolution"], (2, 3, 1)), 0), (2, *SIZE))
    assert [type(p.neuron) for p in plain][1:-1] == [Lif] * 4
    kept = compiled(dyadic(Branches(BODIES["attention"], (2, 3, 1)), 0), (2, *SIZE))
    assert [p.shape for p in kept if isinstance(p.neuron, And)] == [(6, *SIZE)]


# --- constants --------------------------------------------------------------------------------------------------


class Placed(nn.Module):
    """`body` on convolutions, LIFs and constants of every shape."""

    def __init__(self, body: Callable[[Placed, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, 2, 1)
        self.c = nn.Conv2d(4, 4, 1, bias=False)
        self.lifs = nn.ModuleList(LIF(v_threshold=0.5) for _ in range(4))
        self.fc = nn.Linear(4, 3)
        self.map = nn.Parameter(torch.zeros(1, 4, *SIZE))
        self.tokens = nn.Parameter(torch.zeros(1, 15, 4))
        self.image = nn.Parameter(torch.zeros(1, 2, *SIZE))
        self.row = nn.Parameter(torch.zeros(1, 1, 3, 1))
        self.channel = nn.Parameter(torch.zeros(4, 1, 1))

    def fire(self, x: Tensor) -> Tensor:
        self.fired += 1
        return by_step(self.lifs[self.fired - 1], x)  # type: ignore[arg-type]

    def forward(self, frames: Tensor) -> Tensor:
        self.fired = 0
        y = self.body(self, frames.transpose(0, 1).flatten(0, 1))
        return self.fc(y.mean((2, 3))).unflatten(0, (STEPS, frames.shape[0])).mean(0)


def placed(body: Callable[[Placed, Tensor], Tensor], seed: int, streams: bool = False) -> nn.Module:
    module = dyadic(Placed(body), seed)
    for name in ("map", "tokens", "image", "row", "channel"):
        parameter = getattr(module, name)
        parameter.data = torch.randint(-3, 4, parameter.shape) / 8
    if streams:  # a peak of 127 makes the unit of a stream a power of two
        for layer in (module.a, module.b, module.c):
            layer.weight.data[:, 0, 0, 0] = 127 / 128  # type: ignore[union-attr, index]
    return module


def in_steps(x: Tensor) -> Tensor:
    """(T, B, ...)."""
    return x.reshape(STEPS, x.shape[0] // STEPS, *x.shape[1:])


def tokens(m: Placed, x: Tensor) -> Tensor:
    """As vision transformers add it: (batch, tokens, channels), repeated over the batch."""
    y = m.a(x).flatten(2).transpose(1, 2)
    y = y + m.tokens.expand(y.shape[0], -1, -1)
    return m.fire(y.transpose(1, 2).unflatten(2, SIZE))


PLACES: dict[str, Callable[[Placed, Tensor], Tensor]] = {
    "image": lambda m, x: m.fire(m.a(x + m.image)),
    "current": lambda m, x: m.fire(m.a(x) + m.map),
    "tokens": tokens,
    "rows and channels": lambda m, x: m.fire(m.a(x) + m.row + m.channel),
    "number": lambda m, x: m.fire(m.a(x) + 0.25),
    "spikes, padded and strided": lambda m, x: m.fire(m.b(m.fire(m.a(x)) + m.map)),
    "spikes, read by neurons": lambda m, x: m.fire(m.fire(m.a(x)) + m.map),
    "the same in every step": lambda m, x: m.fire(
        (in_steps(m.a(x)) + m.map.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)).flatten(0, 1)
    ),
    "pooled spikes": lambda m, x: m.fire(m.b(F.max_pool2d(m.fire(m.a(x)) * 0.5 + m.channel, 3, 1, 1))),
}
STREAMS: dict[str, Callable[[Placed, Tensor], Tensor]] = {
    "between readers": lambda m, x: (lambda z: m.fire(m.b(m.fire(z)) + m.b(m.fire(z + m.map))))(m.a(x)),
    "before a sum": lambda m, x: (lambda z: m.fire(m.b(m.fire(z + m.c(m.fire(z))))))(m.a(x) + m.map),
    "before a pool": lambda m, x: m.fire(F.max_pool2d(m.a(x) + m.map, 3, 2, 1)),
}


@pytest.mark.parametrize("place", thinned(PLACES, 5))
@FEW
@given(st.integers(0, 99))
def test_constants_are_biases(place: str, seed: int) -> None:
    assert_deployed(placed(PLACES[place], seed), (2, *SIZE), seed)


@pytest.mark.parametrize("place", thinned(STREAMS, 3))
@FEW
@given(st.integers(0, 99))
def test_constants_of_residual_streams(place: str, seed: int) -> None:
    network = assert_deployed(placed(STREAMS[place], seed, True), (2, *SIZE), seed)
    assert any(isinstance(p.neuron, Stream) and p.neuron.bias.ndim == 3 for p in network)


class WithoutHead(Placed):
    """As Placed, but what `body` gives are the logits."""

    def forward(self, frames: Tensor) -> Tensor:
        self.fired = 0
        return self.body(self, frames.transpose(0, 1).flatten(0, 1)).unflatten(0, (STEPS, frames.shape[0])).mean(0)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_the_mean_of_a_stream_is_a_lawful_head(seed: int, joined: bool) -> None:
    """Sums of which low bits are dropped are rounded up at most: the range of the head holds for that, too."""

    def body(m: Placed, x: Tensor) -> Tensor:
        z = m.a(x)
        y = z + m.c(m.fire(z))
        return torch.cat([mean(y), mean(m.fire(y))], 1) if joined else mean(y)

    module = dyadic(WithoutHead(body), seed)  # type: ignore[arg-type]
    network = compiled(module, (2, *SIZE))
    (pooled,) = [p for p in network if isinstance(p.neuron, Stream) and p.shape[1:] == (1, 1)]
    assert pooled.neuron.drop > 0  # type: ignore[union-attr]
    frames = frames_of((2, *SIZE), seed)
    right = reference.execute(network, frames)
    assert_equal_executions(engine.execute(network, frames), right)
    low, high = network.output.bounds
    assert low <= right.accumulators.min()
    assert right.accumulators.max() <= high


def test_constants_that_a_head_reads_are_its_bias() -> None:
    """In units of the weights: sums over the map that are whole need no rounding."""
    module = placed(lambda m, x: m.fire(m.a(x)) + m.map, 3)
    with torch.no_grad():
        module.map.zero_()  # type: ignore[operator]
        module.map[..., 0, 0], module.map[..., 2, 1] = 2, -1  # type: ignore[index]
    assert_deployed(module, (2, *SIZE), 3)


def test_constants_that_no_bias_can_hold_are_refused_by_name() -> None:
    steps = placed(lambda m, x: m.lifs[0](in_steps(m.a(x)) + m.steps).flatten(0, 1), 0)
    steps.steps = nn.Parameter(torch.rand(STEPS, 1, 4, *SIZE))
    with pytest.raises(ModelError, match="a constant that differs from time step to time step"):
        compiled(steps, (2, *SIZE))
    pool = placed(lambda m, x: m.fire(m.b(F.max_pool2d(m.fire(m.a(x)) + m.map, 2, 1))), 0)
    with pytest.raises(QuantizeError, match="max-pooling of spikes with a constant added at each position"):
        compiled(pool, (2, *SIZE))


def test_spikes_are_pooled_in_their_scale() -> None:
    """Half a spike, pooled, is half a spike; events less their mean keep their mean."""
    assert_deployed(placed(lambda m, x: m.fire(m.b(F.max_pool2d(m.fire(m.a(x)) * 0.5, 2, 1))), 0), (2, *SIZE), 0)
    images = placed(lambda m, x: m.fire(m.a(F.max_pool2d(x * 2 + (-0.5), 3, 1, 1))), 1)
    assert_deployed(images, (2, *SIZE), 1)
    negative = placed(lambda m, x: m.fire(m.b(F.max_pool2d(m.fire(m.a(x)) * -0.5, 2, 1))), 0)
    with pytest.raises(QuantizeError, match="scaled by a negative number"):
        compiled(negative, (2, *SIZE))


def test_a_mean_that_a_residual_stream_adds_is_named() -> None:
    """Channel attention on currents: the message names the mean, and no attention."""

    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3, padding=1)
            self.squeeze = nn.Conv2d(4, 4, 1)
            self.one = nn.Conv2d(4, 4, 1)
            self.lifs = nn.ModuleList(LIF(v_threshold=0.5) for _ in range(4))
            self.fc = nn.Linear(4, 3)

        def forward(self, frames: Tensor) -> Tensor:
            x = by_step(self.lifs[0], self.conv(frames.transpose(0, 1).flatten(0, 1)))  # type: ignore[arg-type]
            z = self.squeeze(F.adaptive_avg_pool2d(x, 1))
            z = z + self.one(by_step(self.lifs[1], z))  # type: ignore[arg-type]
            y = self.one(by_step(self.lifs[2], z)) + self.squeeze(by_step(self.lifs[3], z))  # type: ignore[arg-type]
            return self.fc(by_step(LIF(), y).flatten(1)).unflatten(0, (STEPS, -1)).mean(0)

    with pytest.raises(QuantizeError, match=r"a layer that reads the mean over positions of .* adds to a residual"):
        compiled(dyadic(Excited(), 0), (2, 4, 4))


def test_bias_maps_reach_the_file() -> None:
    network = compiled(placed(PLACES["current"], 0), (2, *SIZE))
    (lif,) = [p.neuron for p in network if isinstance(p.neuron, Lif)]
    assert lif.bias.shape == (4, *SIZE)
    assert len(np.unique(lif.bias)) > 4
