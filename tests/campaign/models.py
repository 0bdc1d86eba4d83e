"""Random PyTorch models with ties, grids, odd sizes and every kind of layer, neuron and head that compiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd, inf
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from campaign.layers import (
    Constant,
    Line,
    TokenConstant,
    by_image,
    by_token,
    flattened,
    largest_pool,
    mean_pool,
    out_shape,
)
from torch import Tensor, nn

from spikformer_deploy.converters.checkpoints.read import Loaded
from spikformer_deploy.converters.imported import Imported
from spikformer_deploy.converters.models import Model
from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.graph.law import check
from spikformer_deploy.graph.trace import trace
from spikformer_deploy.nn.attention import self_attention
from spikformer_deploy.nn.lif import LIF, lif

CHANNELS = (1, 2, 3, 4, 6, 7, 8, 9, 17, 33)
EXTENTS = (1, 2, 3, 4, 5, 6)
SMALL_MAP = 700
"""Neurons of a population at most, so that rational numbers are quick enough."""


@dataclass(frozen=True, slots=True)
class Style:
    """What a model's numbers are like.

    weights  "ternary", "integers", "powers", "channels" (a grid a channel), or "real", which stand on no grid
    leaks    (tau, decay_input) of its neurons; strict, soft: the rule at the threshold and after a spike
    jelly    neurons are spikingjelly's, which are reset to `rest`
    """

    weights: str
    leaks: tuple[tuple[float, bool], ...]
    strict: bool
    soft: bool
    jelly: bool
    rest: float

    @property
    def dyadic(self) -> bool:
        """Whether rational numbers say what the model means, to the last tie."""
        return self.weights != "real"


LEAKS = (
    ((2.0, True),),
    ((2.0, True), (2.0, False)),
    ((inf, False),),
    ((1.0, True), (2.0, True)),
    ((4.0, True), (4.0, False)),
    ((1.5, True), (3.0, False)),
    ((4096.0, False),),
)


Step = Callable[[nn.ModuleList, dict[int, Tensor]], Tensor]
Head = Callable[[nn.ModuleList, Tensor], Tensor]


class Neurons(LIF):
    """LIFs that fire at their threshold, or above it (strict); (T, B, ...) -> (T, B, ...)."""

    def __init__(self, tau: float, v_threshold: float, decay_input: bool, soft: bool, strict: bool) -> None:
        super().__init__(tau, v_threshold, decay_input, soft_reset=soft)
        self.strict = strict

    def forward(self, x: Tensor) -> Tensor:
        return lif(x, self.tau, self.v_threshold, self.decay_input, self.alpha, self.soft_reset, self.strict)


class Drawn(nn.Module):
    """A list of steps; each makes one more value, (T, B, C, Y, X), of those before it.

    time_first  frames come as (T, B, C, Y, X), as spikingjelly's models take them
    """

    def __init__(self, time_steps: int, per_step: bool, time_first: bool) -> None:
        super().__init__()
        self.time_steps, self.per_step, self.time_first = time_steps, per_step, time_first
        self.layers = nn.ModuleList()
        self.steps: list[Step] = []
        self.reads: list[tuple[int, ...]] = []
        self.heads: list[Head] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.per_step:
            frames = x if self.time_first else x.transpose(0, 1)
        else:
            frames = x.unsqueeze(0).repeat(self.time_steps, 1, 1, 1, 1)
        values = {0: frames}
        wanted = self.wanted()
        for number, step in enumerate(self.steps, 1):
            if number in wanted:
                values[number] = step(self.layers, values)
        return self.heads[0](self.layers, values[len(self.steps)])

    def wanted(self) -> set[int]:
        """The values that the last one is made of."""
        found = {len(self.steps)}
        for number in range(len(self.steps), 0, -1):
            if number in found:
                found |= set(self.reads[number - 1])
        return found


class Painter:
    """Adds random steps to a model; shapes[i] and most[i] (largest value, 0 for currents) are those of value i."""

    def __init__(self, rng: np.random.Generator, style: Style, model: Drawn, shape: tuple[int, int, int]) -> None:
        self.rng, self.style, self.model = rng, style, model
        self.shapes, self.most = [shape], [-1]
        self.tags: list[str] = []

    def any_of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def put(self, step: Step, shape: tuple[int, int, int], most: int, tag: str, *reads: int) -> None:
        self.model.steps.append(step)
        self.model.reads.append(reads)
        self.shapes.append(shape)
        self.most.append(most)
        self.tags.append(tag)

    def layer(self, made: nn.Module) -> int:
        """Its number: steps look layers up when they run, as a copy of the model has layers of its own."""
        self.model.layers.append(made)
        return len(self.model.layers) - 1

    # --- parameters ---

    def weights(self, *shape: int) -> Tensor:
        """Weights of which a few added up are a threshold."""
        rng, kind = self.rng, self.style.weights
        match kind:
            case "ternary":
                values = rng.integers(-1, 2, shape) / 2
            case "integers":
                values = rng.integers(-3, 5, shape) / 8
            case "powers":
                values = rng.choice([-1, -0.5, -0.25, 0, 0.25, 0.5, 1], shape)
            case "channels":
                steps = 2.0 ** -rng.integers(1, 5, (shape[0], *[1] * (len(shape) - 1)))
                values = rng.integers(-1, 3, shape) * steps
            case _:
                values = rng.normal(0.1, 0.4, shape)
        return torch.tensor(np.asarray(values), dtype=torch.float32)

    def set_bias(self, layer: nn.Module) -> None:
        if layer.bias is not None:
            bias = self.rng.integers(-4, 5, layer.bias.shape) / 16
            off = self.rng.normal(0, 0.2, layer.bias.shape)
            layer.bias.data = torch.tensor(bias if self.style.dyadic else off, dtype=torch.float32)

    def norm(self, channels: int, line: bool) -> nn.Module:
        """Batch normalisation without any rounding, or none."""
        if self.chance(0.6):
            return nn.Identity()
        made = (nn.BatchNorm1d if line else nn.BatchNorm2d)(channels, eps=0.0)
        made.running_var = torch.tensor(4.0 ** self.rng.integers(-1, 2, channels), dtype=torch.float32)
        made.running_mean = torch.tensor(self.rng.integers(-2, 3, channels) / 4, dtype=torch.float32)
        made.weight.data = torch.tensor(2.0 ** self.rng.integers(-1, 2, channels), dtype=torch.float32)
        made.bias.data = torch.tensor(self.rng.integers(-2, 3, channels) / 8, dtype=torch.float32)
        return made

    def conv(self, source: int, channels: int, same: bool = False) -> tuple[int, tuple[int, int, int]]:
        """A convolution with its normalisation; same: of the same extent as its input."""
        inputs, height, width = self.shapes[source]
        numbers: dict[str, Any] = {"groups": self.any_of(1, 1, 1, gcd(inputs, channels)), "bias": self.chance(0.5)}
        if same:
            kernel = self.any_of((1, 1), (3, 3), (1, 3), (2, 4))
            numbers |= {"kernel_size": kernel, "dilation": (1, self.any_of(1, 1, 2)), "padding": "same"}
        else:
            kernel = (min(height, self.any_of(1, 2, 3)), min(width, self.any_of(1, 2, 3, 4)))
            stride, padding = (self.any_of(1, 1, 2, 3), self.any_of(1, 1, 2)), (self.any_of(0, 1), self.any_of(0, 1, 2))
            fits = [2 * (k - 1) < e + 2 * p for k, e, p in zip(kernel, (height, width), padding, strict=True)]
            dilation = tuple(self.any_of(1, 1, 1, 2) if fit else 1 for fit in fits)
            numbers |= {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
        line = height == 1 and self.chance(0.5)
        made = nn.Conv1d(inputs, channels, **flattened(numbers)) if line else nn.Conv2d(inputs, channels, **numbers)
        made.weight.data = self.weights(*made.weight.shape)
        self.set_bias(made)
        layers = (made, self.norm(channels, line))
        whole = Line(*layers) if line else nn.Sequential(*layers)
        return self.layer(whole), out_shape(whole.eval(), self.shapes[source])

    def linear(self, inputs: int, outputs: int, biased: float) -> int:
        made = nn.Linear(inputs, outputs, bias=self.chance(biased))
        made.weight.data = self.weights(outputs, inputs)
        self.set_bias(made)
        return self.layer(made)

    def constant(self, shape: tuple[int, int, int]) -> int:
        """Something that is added: a map, rows, columns, channels or tokens."""
        channels, height, width = shape
        tokens = self.chance(0.2)
        size = (
            (1, height * width, channels)
            if tokens
            else self.any_of(shape, (1, *shape), (channels, 1, 1), (1, 1, height, 1), (width,))
        )
        value = self.rng.integers(-3, 4, size) / 8 if self.style.dyadic else self.rng.normal(0, 0.3, size)
        return self.layer((TokenConstant if tokens else Constant)(torch.tensor(value, dtype=torch.float32)))

    def neurons(self, v_threshold: float = 0.0) -> int:
        tau, decay_input = self.any_of(*self.style.leaks)
        v_threshold = v_threshold or self.any_of(0.25, 0.5, 0.5, 1.0)
        if self.style.jelly:
            return self.layer(self.jelly(tau, v_threshold, decay_input))
        return self.layer(Neurons(tau, v_threshold, decay_input, self.style.soft, self.style.strict))

    def jelly(self, tau: float, v_threshold: float, decay_input: bool) -> nn.Module:
        """One of spikingjelly's neurons; a reset to another value than zero moves its threshold along."""
        from spikingjelly.activation_based import neuron

        rest = None if self.style.soft else self.style.rest
        given = {"v_threshold": v_threshold + (rest or 0.0), "v_reset": rest, "step_mode": "m"}
        return neuron.IFNode(**given) if tau == inf else neuron.LIFNode(tau, decay_input, **given)

    def spikes(self, *, single: bool = False) -> int:
        """Some value that is spikes, or small counts of them unless `single`."""
        found = [i for i, most in enumerate(self.most) if most == 1 or (most > 1 and not single)]
        return found[-1] if self.chance(0.5) else int(self.rng.choice(found))

    def alike(self, one: int, channels: bool = True) -> list[int]:
        """Others that are spikes or counts, of one size with `one`; of any number of channels unless `channels`."""
        first, shape = 0 if channels else 1, self.shapes[one]
        return [i for i, s in enumerate(self.shapes) if self.most[i] > 0 and i != one and s[first:] == shape[first:]]

    # --- steps ---

    def first(self) -> None:
        made, shape = self.conv(0, self.any_of(*CHANNELS))
        fires = self.neurons()
        if self.chance(0.1):
            added = self.constant(self.shapes[0])
            self.put(lambda m, v: m[fires](by_image(m[made], m[added](v[0]))), shape, 1, "constant of the image", 0)
        else:
            self.put(lambda m, v: m[fires](by_image(m[made], v[0])), shape, 1, "conv", 0)

    def convolved(self) -> None:
        source = self.spikes()
        made, shape = self.conv(source, self.any_of(*CHANNELS))
        if not 0 < np.prod(shape) <= SMALL_MAP:
            return
        fires = self.neurons()
        self.put(lambda m, v: m[fires](by_image(m[made], v[source])), shape, 1, "conv", source)

    def pooled_currents(self) -> None:
        source = self.spikes()
        made, wide = self.conv(source, self.any_of(*CHANNELS), same=True)
        largest = self.chance(0.6)
        pool = (largest_pool if largest else mean_pool)(self.rng, wide)
        shape, fires = out_shape(pool, wide), self.neurons()
        if np.prod(wide) <= SMALL_MAP and np.prod(shape):
            tag = f"{'max' if largest else 'mean'} pool of currents"
            self.put(lambda m, v: m[fires](by_image(pool, by_image(m[made], v[source]))), shape, 1, tag, source)

    def placed(self) -> None:
        """A constant that is added to currents, or to what a convolution reads."""
        source = self.spikes()
        made, shape = self.conv(source, self.any_of(*CHANNELS))
        if not 0 < np.prod(shape) <= SMALL_MAP:
            return
        fires, behind = self.neurons(), self.chance(0.6)
        added = self.constant(shape if behind else self.shapes[source])

        def step(m: nn.ModuleList, v: dict[int, Tensor]) -> Tensor:
            if behind:
                return m[fires](m[added](by_image(m[made], v[source])))
            return m[fires](by_image(m[made], m[added](v[source])))

        self.put(step, shape, 1, f"constant of {'currents' if behind else 'spikes'}", source)

    def joined(self) -> None:
        """The channels of two or three values, one of them twice now and then; half of the time in another order."""
        one = self.spikes()
        others = [int(i) for i in self.rng.choice([one, *self.alike(one, channels=False)], self.any_of(1, 2))]
        parts, cut = (one, *others), 0
        channels = sum(self.shapes[i][0] for i in parts)
        if self.chance(0.3):
            cut = int(self.rng.integers(channels))
        shape = (channels, *self.shapes[one][1:])
        if np.prod(shape) > SMALL_MAP:
            return

        def step(m: nn.ModuleList, v: dict[int, Tensor]) -> Tensor:
            whole = torch.cat([v[i] for i in parts], 2)
            return torch.cat([whole[:, :, cut:], whole[:, :, :cut]], 2) if cut else whole

        self.put(step, shape, max(self.most[i] for i in parts), "join", *parts)

    def joined_currents(self) -> None:
        """Neurons on the joined currents of two convolutions, normalised together now and then."""
        one = self.spikes()
        other = int(self.rng.choice([one, *self.alike(one, channels=False)]))
        (left, shape), (right, more) = (self.conv(i, self.any_of(*CHANNELS), same=True) for i in (one, other))
        channels = shape[0] + more[0]
        if channels * shape[1] * shape[2] > SMALL_MAP:
            return
        norm, fires = self.layer(self.norm(channels, False)), self.neurons()

        def step(m: nn.ModuleList, v: dict[int, Tensor]) -> Tensor:
            whole = torch.cat([by_image(m[left], v[one]), by_image(m[right], v[other])], 2)
            return m[fires](by_image(m[norm], whole))

        self.put(step, (channels, *shape[1:]), 1, "join of currents", one, other)

    def branches(self) -> None:
        """Currents of two convolutions added, of one value or of two of one size."""
        one = self.spikes()
        alike = [i for i, s in enumerate(self.shapes) if self.most[i] > 0 and s[1:] == self.shapes[one][1:]]
        other, channels = int(self.rng.choice(alike)), self.any_of(*CHANNELS)
        (left, shape), (right, _) = self.conv(one, channels, same=True), self.conv(other, channels, same=True)
        fires = self.neurons()
        if shape[1:] != self.shapes[one][1:] or np.prod(shape) > SMALL_MAP:
            return
        self.put(
            lambda m, v: m[fires](by_image(m[left], v[one]) + by_image(m[right], v[other])),
            shape,
            1,
            "branches",
            one,
            other,
        )

    def beside(self, one: int, single: bool = False) -> int:
        """Another value of the shape of that one: spikes, or counts of them unless `single`; a new one if need be."""
        found = [i for i in self.alike(one) if self.most[i] == 1 or not single]
        if found and self.chance(0.5):
            return int(self.rng.choice(found))
        made, shape = self.conv(one, self.shapes[one][0], same=True)
        fires = self.neurons()
        self.put(lambda m, v: m[fires](by_image(m[made], v[one])), shape, 1, "conv", one)
        return len(self.shapes) - 1

    def residual(self) -> None:
        one = self.spikes()
        other = self.beside(one)
        most = self.most[one] + self.most[other]
        self.put(lambda m, v: v[one] + v[other], self.shapes[one], most, "residual", one, other)

    def pooled(self) -> None:
        source = self.spikes()
        largest = self.most[source] == 1 and self.chance(0.5)
        pool = (largest_pool if largest else mean_pool)(self.rng, self.shapes[source])
        shape, most = out_shape(pool, self.shapes[source]), 1 if largest else 99
        if np.prod(shape):
            tag = "max pool" if largest else "mean pool"
            self.put(lambda m, v: by_image(pool, v[source]), shape, most, tag, source)

    def shared(self) -> None:
        """One convolution or linear layer that is called twice, in a row; both results added or joined."""
        source = self.spikes()
        channels, linear = self.shapes[source][0], self.chance(0.4)
        made = self.linear(channels, channels, 0.5) if linear else self.conv(source, channels, same=True)[0]
        on = by_token if linear else by_image
        one, two = self.neurons(), self.neurons()
        kind = self.any_of("in a row", "in a row", "added", "joined")

        def step(m: nn.ModuleList, v: dict[int, Tensor]) -> Tensor:
            first = m[one](on(m[made], v[source]))
            second = on(m[made], first)
            if kind == "joined":
                return torch.cat([first, m[two](second)], 2)
            return m[two](second + on(m[made], v[source]) if kind == "added" else second)

        shape = (channels * (1 + (kind == "joined")), *self.shapes[source][1:])
        if np.prod(shape) <= SMALL_MAP:
            self.put(step, shape, 1, f"shared layer, {kind}", source)

    def attended(self) -> None:
        """Self-attention of tokens, by linear layers; one head, one channel or one token among them.

        Its keys are the spikes themselves now and then, so that joined ones are needed in one piece.
        """
        source = self.spikes()
        channels, height, width = self.shapes[source]
        themselves = self.most[source] == 1 and channels <= 12 and self.chance(0.4)
        dim = channels if themselves else self.any_of(1, 2, 4, 6)
        heads = self.any_of(*(h for h in (1, 2, 3, 6) if dim % h == 0))
        linears = {name: self.linear(channels, dim, 0.5) for name in ("qv" if themselves else "qkv")}
        if self.chance(0.2):
            linears["q"] = linears["v"]
        fires, last = {name: self.neurons() for name in linears}, self.neurons(self.any_of(0.25, 0.5))
        scale, scores_first = self.any_of(0.125, 0.25, 0.5), self.chance(0.5)

        def step(m: nn.ModuleList, v: dict[int, Tensor]) -> Tensor:
            tokens = v[source].flatten(3).transpose(2, 3)
            made = {name: m[fires[name]](m[linear](tokens)).transpose(2, 3) for name, linear in linears.items()}
            keys = v[source].flatten(3) if themselves else made["k"]
            products = self_attention(made["q"], keys, made["v"], heads, scale, scores_first)
            return m[last](products).unflatten(3, (height, width))

        self.put(step, (dim, height, width), 1, "attention of keys" if themselves else "attention", source)

    def shortcut(self, fires: bool = True) -> None:
        """A membrane shortcut: currents s, then s + W lif(s), then spikes, unless a head reads the currents."""
        source = self.spikes()
        channels = self.any_of(1, 3, 4, 8)
        first, shape = self.conv(source, channels, same=True)
        if shape[1:] != self.shapes[source][1:]:
            return
        inner = nn.Conv2d(channels, channels, 1, bias=self.chance(0.5))
        inner.weight.data = self.weights(channels, channels, 1, 1)
        self.set_bias(inner)
        added = self.layer(inner)
        threshold = self.any_of(0.5, 1.0)
        one, two = self.neurons(threshold), self.neurons(threshold)

        def step(m: nn.ModuleList, v: dict[int, Tensor]) -> Tensor:
            s = by_image(m[first], v[source])
            currents = s + by_image(m[added], m[one](s))
            return m[two](currents) if fires else currents

        tag = "membrane shortcut" if fires else "currents of the head"
        self.put(step, (channels, *shape[1:]), int(fires), tag, source)

    def masked(self) -> None:
        one = self.spikes(single=True)
        other = self.beside(one, single=True)
        self.put(lambda m, v: v[one] * v[other], self.shapes[one], 1, "mask", one, other)

    def flat(self) -> None:
        """A linear layer on a whole map, and neurons at one position."""
        source = self.spikes()
        size = int(np.prod(self.shapes[source]))
        outputs = self.any_of(1, 3, 10, 17)
        made, fires, shape = self.linear(size, outputs, 0.5), self.neurons(), (outputs, 1, 1)
        self.put(lambda m, v: m[fires](m[made](v[source].flatten(2)))[..., None, None], shape, 1, "flat linear", source)

    def grow(self) -> None:
        ways = [
            self.convolved, self.convolved, self.branches, self.residual, self.pooled, self.shared, self.attended,
            self.shortcut, self.masked, self.flat, self.joined, self.joined, self.joined_currents, self.placed,
            self.pooled_currents,
        ]  # fmt: skip
        self.any_of(*ways)()

    def finish(self) -> None:
        """The head: spikes, currents of a mean or of a whole map, or the mean alone."""
        kind = self.any_of("mean linear", "mean linear", "flat linear", "spikes", "mean")
        classes, over = self.any_of(1, 2, 3, 5), self.any_of("mean", "mean", "last", "sum")

        def read(x: Tensor) -> Tensor:
            return x[-1] if over == "last" else x.sum(0) if over == "sum" else x.mean(0)

        if kind == "mean" and self.chance(0.3):
            self.shortcut(fires=False)
        if self.chance(0.15):
            added, before = self.constant(self.shapes[-1]), len(self.shapes) - 1
            self.put(lambda m, v: m[added](v[before]), self.shapes[-1], 99, "constant of the head", before)
        self.tags.append(f"head: {kind}, {over}")
        head = self.mapped(kind) if kind == "mean" else self.classified(kind, classes)
        self.model.heads.append(lambda m, x: read(head(m, x)))

    def mapped(self, kind: str) -> Head:
        """What a head reads: (T, B, channels) of a mean over positions, or of a whole map."""
        return lambda _, x: x.flatten(2) if kind in ("flat linear", "spikes") else x.flatten(3).mean(3)

    def classified(self, kind: str, classes: int) -> Head:
        """Linear layers, or their spikes; two heads side by side now and then."""
        channels, height, width = self.shapes[-1]
        read = self.mapped(kind)
        linears = [self.linear(channels * (1 if kind == "mean linear" else height * width), classes, 0.7)]
        if self.chance(0.2):
            linears.append(self.linear(channels * (1 if kind == "mean linear" else height * width), 2, 0.7))
            self.tags[-1] += ", joined"
        fires = self.neurons() if kind == "spikes" else self.layer(nn.Identity())

        def head(m: nn.ModuleList, x: Tensor) -> Tensor:
            return m[fires](torch.cat([m[linear](read(m, x)) for linear in linears], 2))

        return head


@dataclass(frozen=True, slots=True)
class Sample:
    """A model, how it is compiled, and images for it.

    tags     the kinds of its layers, for a table
    options  of compile_model
    """

    module: Drawn
    preprocess: Preprocess
    style: Style
    tags: tuple[str, ...]
    options: dict[str, Any]
    images: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.preprocess.channels, *self.preprocess.extent)

    def model(self) -> Model:
        """As a checkpoint where images are square, whose spikes a compile compares; else as a graph."""
        if self.style.jelly:
            from spikformer_deploy.converters.checkpoints.spikingjelly import from_spikingjelly

            steps, per_step = self.module.time_steps, self.module.per_step
            return from_spikingjelly(self.module, self.preprocess, steps, per_step=per_step)
        if self.preprocess.width:
            graph = trace(self.module, self.shape, time_steps=self.module.time_steps, per_step=self.module.per_step)
            return Imported("drawn", check(graph), self.preprocess, (), "", {}, ())
        config: Any = SimpleNamespace(time_steps=self.module.time_steps, per_step=self.module.per_step)
        return Loaded(self.module, config, self.preprocess, (), "", {}, ())


def sample(seed: int) -> Sample:
    """The model of that seed."""
    rng = np.random.default_rng(seed)
    leaks = LEAKS[int(rng.integers(len(LEAKS)))] if rng.random() < 0.6 else LEAKS[0]
    jelly = bool(rng.random() < 0.15) and (1.0, True) not in leaks
    style = Style(
        str(rng.choice(["ternary", "integers", "integers", "powers", "channels", "real"])),
        leaks,
        not jelly and bool(rng.random() < 0.25),
        bool(rng.random() < 0.15),
        jelly,
        float(rng.choice([0, 0, 0.25, -0.5])),
    )
    time_steps, per_step = int(rng.integers(1, 6)), bool(rng.random() < 0.5)
    shape = (int(rng.choice([1, 1, 2, 3])), int(rng.choice(EXTENTS)), int(rng.choice(EXTENTS)))
    match rng.choice(["any", "square", "square", "line"]):
        case "square":
            shape = (shape[0], shape[1], shape[1])
        case "line":
            shape = (shape[0], 1, int(rng.integers(2, 13)))
    model = Drawn(time_steps, per_step, jelly)
    painter = Painter(rng, style, model, shape)
    painter.first()
    for _ in range(int(rng.integers(1, 6))):
        painter.grow()
    painter.finish()
    largest = int(rng.choice([1, 3])) if per_step else int(rng.choice([1, 255, 255]))
    mean, std = (0.0,) * shape[0], (1.0 / largest if per_step else 1.0,) * shape[0]
    if rng.random() < 0.3:
        mean, std = (tuple(rng.choice(values, shape[0]).tolist()) for values in ([0.0, 0.25, 0.5], [0.25, 0.5, 1.0]))
    width = 0 if shape[1] == shape[2] else shape[2]
    preprocess = Preprocess(shape[0], shape[1], mean, std, largest, width)
    options = {
        "weight_bits": int(rng.choice([8, 8, 8, 2, 3, 4, 5, 6])),
        "granularity": str(rng.choice(["group", "group", "channel", "tensor"])),
        "neuron": str(rng.choice(["programmable", "programmable", "stock"])),
        "rounding": str(rng.choice(["nearest", "nearest", "nearest", "calibrated"])),
        "objective": str(rng.choice(["latency", "cores"])) if rng.random() < 0.1 else "energy",
    }
    used = [painter.tags[i - 1] for i in sorted(model.wanted() - {0})] + painter.tags[-1:]
    return Sample(model.eval(), preprocess, style, tuple(used), options, _images(rng, model, shape, largest))


def _images(rng: np.random.Generator, model: Drawn, shape: tuple[int, int, int], largest: int) -> np.ndarray:
    """Nothing, all at the largest value, saturated, and random."""
    steps = (model.time_steps,) if model.per_step else ()
    images = rng.integers(0, largest + 1, (int(rng.choice([3, 4, 6])), *steps, *shape))
    images[1] = largest * (rng.random(images[1].shape) < 0.5)
    if len(images) > 3:
        images[2], images[3] = 0, largest
    return images.astype(np.uint8)
