"""Random small integer networks and images for differential tests (hypothesis)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from spikformer_deploy.data.images import Preprocess
from spikformer_deploy.network.bounds import is_proven, worst_cases
from spikformer_deploy.network.decay import is_exact
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import (
    ROUNDINGS,
    Accumulator,
    And,
    Levels,
    Lif,
    Max,
    Neuron,
    Or,
    Source,
    Stream,
    Sum,
)
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Synapse, Window


class Builder:
    """Grows a random network population by population; names get the prefix, some LIFs a soft reset where `soft`."""

    def __init__(self, rng: np.random.Generator, time_steps: int, kind: str) -> None:
        self.rng, self.time_steps, self.kind, self.prefix, self.soft = rng, time_steps, kind, "", False
        # of its own, so that what it decides changes nothing else of a seed's network
        self.rest = rng.spawn(1)[0]
        self.populations: list[Population] = []
        self.projections: list[Projection] = []

    def add(self, population: Population, *incoming: tuple[Synapse, tuple[str, ...]]) -> Population:
        population = replace(population, name=self.prefix + population.name)
        self.populations.append(population)
        self.projections += [Projection(sources, population.name, synapse) for synapse, sources in incoming]
        return population

    def source(self, shape: tuple[int, int, int], max_value: int, per_step: bool) -> Population:
        return self.add(Population("input", shape, Source(max_value, per_step), max_value))

    def lif(self, name: str, shape: tuple[int, int, int], *incoming: tuple[Synapse, tuple[str, ...]]) -> Population:
        rng, channels = self.rng, shape[0]
        bias_shape = shape if rng.random() < 0.3 else (channels,)
        # a current piles up: that of pixels would leave the 24 bits of lava.proc.lif
        most = max(p.max_out for p in self.populations if any(p.name in names for _, names in incoming))
        currents = [0, 0, 1500, 4000] if self.kind == "stock" and most < 16 else [0]
        neuron = Lif(
            self.kind,
            int(rng.choice([0, 1024, 2048, 3000])),
            int(rng.integers(0, 4)),
            rng.integers(1, 60, channels),
            rng.integers(-20, 30, bias_shape),
            current=int(rng.choice(currents)),
            soft=self.soft and self.kind == "programmable" and bool(rng.random() < 0.5),
        )
        return self.add(Population(name, shape, self.resting(neuron), 1), *incoming)

    def resting(self, lif: Lif) -> Lif:
        """The same neurons, in a third of all populations without biases, in another without some: these can be idle.

        Of these, some have thresholds at 0, and some fire above their thresholds alone.
        """
        rest = self.rest
        share = rest.choice([0.0, 0.5, 1.0])
        if not share:
            return lif
        return replace(
            lif,
            bias=lif.bias * (rest.random(lif.bias.shape) >= share),
            threshold=lif.threshold * (rest.random(len(lif.threshold)) >= rest.choice([0.0, 0.3])),
            strict=self.kind == "programmable" and bool(rest.random() < 0.3),
        )

    def conv(
        self, name: str, source: Population, channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> Population:
        weight = self.rng.integers(-9, 12, (channels, source.shape[0] // groups, kernel, kernel)).astype(np.int8)
        padding = kernel // 2
        size = [(extent + 2 * padding - kernel) // stride + 1 for extent in source.shape[1:]]
        synapse = Conv(weight, (stride, stride), (padding, padding), groups)
        return self.lif(name, (channels, size[0], size[1]), (synapse, (source.name,)))

    def levels(
        self, name: str, shape: tuple[int, int, int], unit: int, *incoming: tuple[Synapse, tuple[str, ...]]
    ) -> Population:
        """1 to 8 levels of a channel near multiples of `unit`, some of them equal; half of them keep a potential."""
        rng, channels = self.rng, shape[0]
        count, shift = int(rng.integers(1, 9)), int(rng.integers(0, 3))
        decay = int(rng.choice([0, 0, 1024, 2048, 3000, 4096]))
        near = rng.integers(-unit // 2, unit // 2 + 1, (channels, count)) + unit * np.arange(1, count + 1)
        neuron = Levels(
            decay,
            shift,
            np.sort(near << shift, 1),
            rng.integers(0, 2 * unit, channels) * (decay > 0),
            rng.integers(-unit, unit, shape if rng.random() < 0.3 else channels) * int(rng.integers(0, 2)),
            str(rng.choice(ROUNDINGS)),
        )
        return self.add(Population(name, shape, neuron, count), *incoming)

    def window(self, name: str, kind: Or | Sum, sources: list[Population], window: Window) -> Population:
        height, width = (
            (extent + 2 * p - k) // s + 1
            for extent, p, k, s in zip(sources[0].shape[1:], window.padding, window.kernel, window.stride, strict=True)
        )
        taps = window.kernel[0] * window.kernel[1]
        most = 1 if isinstance(kind, Or) else sum(s.max_out for s in sources) * taps
        shape = (sources[0].shape[0], height, width)
        return self.add(Population(name, shape, kind, most), *((window, (s.name,)) for s in sources))

    def graded(self, name: str, x: Population, channels: int) -> Population:
        """Levels around a stream, a wide attention of small integers and a layer of spikes."""
        rng, identity = self.rng, Window()
        shape = (channels, *x.shape[1:])
        s = self.stream(f"{name}.in", shape, (self.weights(channels, x.shape[0], 3), (x.name,)))
        head = self.levels(f"{name}.head", shape, 1 + s.max_out // 12, (identity, (s.name,)))
        heads, wider = int(rng.choice([1, 2, 4])), int(rng.choice([1, 2, 3]))
        q, k, v = (
            self.levels(f"{name}.{n}", (c, *shape[1:]), 20, (self.weights(c, channels), (head.name,)))
            for n, c in (("q", channels), ("k", channels), ("v", channels * wider))
        )
        attended = Attention(heads, int(rng.integers(1, 4)))
        most = attended.weight * channels // heads * shape[1] * shape[2] * q.max_out * k.max_out * v.max_out
        out = self.levels(f"{name}.attn", v.shape, 1 + most // 16, (attended, (q.name, k.name, v.name)))
        branch = (self.weights(channels, out.shape[0]), (out.name,))
        s = self.stream(f"{name}.add", shape, (identity, (s.name,)), branch)
        spikes = self.lif(f"{name}.lif", shape, (identity, (s.name,)))
        both = (self.weights(channels, channels), (spikes.name,)), (self.weights(channels, channels), (head.name,))
        return self.levels(f"{name}.out", shape, 12, *both)

    def dual(self, name: str, x: Population, heads: int, patch: int) -> Population:
        """Dual spike self-attention of spikes or small integers: currents of patches times them, then times spikes."""
        channels, height, width = x.shape
        shape = (channels, height // patch, width // patch)
        weight = self.rng.integers(-9, 12, (2, channels, channels, patch, patch)).astype(np.int8)
        y1, y2 = (
            self.stream(f"{name}.y{i}", shape, (Conv(w, (patch, patch)), (x.name,))) for i, w in enumerate(weight)
        )
        by_position = (heads * shape[1] * shape[2], height, width)
        scores = self.lif(f"{name}.scores", by_position, (DualSpike(heads, False), (y1.name, x.name)))
        return self.lif(f"{name}.out", x.shape, (DualSpike(heads, True), (y2.name, scores.name)))

    def neighbours(self, name: str, x: Population) -> Population:
        """Or over the tokens before, at and behind each position, row after row: windows of which two are moved."""
        width = x.shape[2]
        moved = [Window(offset=(-1, width - 1)), Window(offset=(1, 1 - width))]
        windows = [Window((1, 3), (1, 1), (0, 1)), *(moved if x.shape[1] > 1 else [])]
        return self.add(Population(name, x.shape, Or(), 1), *((window, (x.name,)) for window in windows))

    def attention(self, name: str, qkv: list[Population], heads: int) -> Population:
        synapse = Attention(heads, int(self.rng.integers(1, 4)))
        return self.lif(name, qkv[0].shape, (synapse, tuple(p.name for p in qkv)))

    def stream(
        self, name: str, shape: tuple[int, int, int], *incoming: tuple[Synapse, tuple[str, ...]], drop: int = 0
    ) -> Population:
        """A residual stream that sends at most what its inputs let it."""
        bias = self.rng.integers(-50, 50, shape if self.rng.random() < 0.3 else (shape[0],))
        most = int(np.abs(bias).max())
        sizes = {p.name: p.max_out for p in self.populations}
        for synapse, (source,) in incoming:
            if isinstance(synapse, Window):
                most += sizes[source] * synapse.kernel[0] * synapse.kernel[1]
            elif isinstance(synapse, Conv):
                weights = np.abs(synapse.weight.astype(int)).reshape(len(synapse.weight), -1).sum(1)
                most += int(weights.max()) * sizes[source] << synapse.shift
        return self.add(Population(name, shape, Stream(bias, drop), -(-most >> drop) + 1), *incoming)

    def weights(self, channels: int, inputs: int, kernel: int = 1, groups: int = 1) -> Conv:
        """A convolution whose weights have an exponent, of the same size as its input."""
        weight = self.rng.integers(-9, 12, (channels, inputs // groups, kernel, kernel)).astype(np.int8)
        return Conv(weight, (1, 1), (kernel // 2, kernel // 2), groups, int(self.rng.integers(0, 3)))

    def shortcuts(self, name: str, x: Population, channels: int) -> Population:
        """A stream of membrane shortcuts around spike-driven attention and token masks."""
        rng, identity = self.rng, Window()
        _, height, width = x.shape
        shape = (channels, height, width)
        s = self.stream(f"{name}.in", shape, (self.weights(channels, x.shape[0], 3), (x.name,)))
        if rng.random() < 0.5:
            window = Window((3, 3), (2, 2), (1, 1))
            shape = (channels, (height + 1) // 2, (width + 1) // 2)
            s = self.add(Population(f"{name}.pool", shape, Max(), s.max_out), (window, (s.name,)))
        spikes = self.lif(f"{name}.lif", shape, (identity, (s.name,)))
        q, k = (self.conv(f"{name}.{n}_lif", spikes, channels, 1) for n in "qk")
        masked = self.add(Population(f"{name}.kv", shape, And(2), 1), *((identity, (p.name,)) for p in (q, k)))
        whole = Window(shape[1:])
        tokens = self.lif(f"{name}.kv_lif", (channels, 1, 1), (whole, (masked.name,)))
        spread = Window(shape[1:], (1, 1), (shape[1] - 1, shape[2] - 1))
        heads = int(rng.choice([1, 2, 4]))
        ones = np.ones((channels, channels // heads, 1, 1), np.int8)
        summed = self.lif(f"{name}.q_sum", (heads, *shape[1:]), (Conv(ones[:heads], groups=heads), (q.name,)))
        parts = (Conv(ones[:, :1], groups=heads), (summed.name,))
        out = self.add(
            Population(f"{name}.out", shape, And(3), 1), (identity, (k.name,)), (spread, (tokens.name,)), parts
        )
        branch = (self.weights(channels, channels, int(rng.choice([1, 3]))), (out.name,))
        return self.stream(f"{name}.add", shape, (identity, (s.name,)), branch)

    def finish(self, source: Population, classes: int, state_bits: int = 32) -> Network:
        rng = self.rng
        weight = rng.integers(-127, 128, (classes, source.shape[0])).astype(np.int8)
        neuron = Accumulator(rng.integers(-99, 99, classes), np.full(classes, 0.5), bool(rng.random() < 0.25))
        self.add(Population("output", (classes, 1, 1), neuron, 0), (Readout(weight), (source.name,)))
        return self.network(state_bits)

    def said(self, neuron: Neuron) -> Neuron:
        """The same neuron, called exact where it is."""
        if isinstance(neuron, Levels | Lif):
            return replace(neuron, exact=is_exact(neuron, self.time_steps))
        return neuron

    def network(self, state_bits: int = 32) -> Network:
        """The network with the ranges of its worst case, proven where those fit."""
        channels = self.populations[0].shape[0]
        network = Network(
            tuple(self.populations),
            tuple(self.projections),
            self.time_steps,
            state_bits,
            8,
            "observed",
            1.0,
            np.zeros(channels),
            np.ones(channels),
        )
        worst = worst_cases(network)
        populations = tuple(replace(p, bounds=worst[p.name].state, neuron=self.said(p.neuron)) for p in network)
        return replace(network, populations=populations, bounds="static" if is_proven(network) else "observed")


def random_network(
    seed: int,
    time_steps: int = 3,
    kind: str = "programmable",
    blocks: int = 1,
    shortcuts: bool = False,
    state_bits: int = 32,
) -> Network:
    """A small Spikformer-shaped network: stem with OR-pool, residual stem conv, attention blocks, readout.

    shortcuts  it has membrane shortcuts and spike-driven attention instead
    """
    rng = np.random.default_rng(seed)
    b = Builder(rng, time_steps, kind)
    size, channels = int(rng.integers(4, 9)), int(rng.choice([4, 8]))
    per_step = bool(rng.random() < 0.3)
    x = b.source((int(rng.integers(1, 4)), size, size + 1), 3 if per_step else 255, per_step)
    if shortcuts:
        b.soft = True
        s = b.shortcuts("shortcut", x, channels)
        if rng.random() < 0.5:
            whole = (Window(s.shape[1:]), (s.name,))
            return b.finish(b.stream("mean", (channels, 1, 1), whole, drop=int(rng.integers(0, 6))), 3, state_bits)
        return b.finish(b.lif("shortcut.last", s.shape, (Window(), (s.name,))), 3, state_bits)
    return b.finish(_grow(b, x, channels, blocks), int(rng.integers(2, 5)), state_bits)


def graded_network(seed: int, time_steps: int = 2, state_bits: int = 32) -> Network:
    """A small network of integer neurons (Levels) around a stream and an attention of small integers."""
    b = Builder(np.random.default_rng(seed), time_steps, "programmable")
    size, channels = int(b.rng.integers(2, 6)), int(b.rng.choice([4, 8]))
    x = b.source((int(b.rng.integers(1, 4)), size, size + 1), 255, bool(b.rng.random() < 0.3))
    return b.finish(b.graded("graded", x, channels), 3, state_bits)


def graded_networks_in_one(seed: int, count: int, time_steps: int = 2) -> Network:
    """Many of these that read the same frames, as one, of which the last one alone ends in the accumulator."""
    b = Builder(np.random.default_rng(seed), time_steps, "programmable")
    source = b.source((2, 3, 4), 15, True)
    ends = [b.graded(f"{i}", source, int(b.rng.choice([4, 8]))) for i in range(count)]
    return b.finish(ends[-1], 3)


def dual_network(seed: int, time_steps: int = 2, state_bits: int = 32) -> Network:
    """A small network with dual spike self-attention, of spikes or of small integers, some alike in all steps."""
    b = Builder(np.random.default_rng(seed), time_steps, "programmable")
    size, channels = int(b.rng.integers(2, 6)), int(b.rng.choice([4, 8]))
    x = b.source((int(b.rng.integers(1, 4)), size, size + 1), 255, bool(b.rng.random() < 0.3))
    synapse = (b.weights(channels, x.shape[0], 3), (x.name,))
    shape = (channels, *x.shape[1:])
    x = b.levels("levels", shape, 900, synapse) if b.rng.random() < 0.5 else b.lif("lif", shape, synapse)
    x = b.dual("dual", x, int(b.rng.choice([1, 2, 4])), int(b.rng.choice([1, 2])))
    return b.finish(x, 3, state_bits)


def two_from_one(seed: int) -> Network:
    """Two convolutions, of 3x3 and of 1x1, from one population to another, as a branch that is not merged yet."""
    b = Builder(np.random.default_rng(seed), 3, "programmable")
    x = b.conv("first", b.source((2, 5, 4), 255, False), 6, 3)
    wide, narrow = (
        Conv(b.rng.integers(-9, 12, (7, 6, k, k)).astype(np.int8), (1, 1), (k // 2, k // 2)) for k in (3, 1)
    )
    return b.finish(b.lif("both", (7, 5, 4), (wide, (x.name,)), (narrow, (x.name,))), 3)


def attention_on_pixels(seed: int, queries: str) -> Network:
    """q, k or v is an OR of the pixels, the same in all time steps; the others are spikes, or all three are."""
    b = Builder(np.random.default_rng(seed), 4, "programmable")
    source = b.source((4, 3, 5), 255, False)
    fixed = b.window("or", Or(), [source], Window())
    spikes = b.conv("lif", source, 4, 1)
    return b.finish(b.attention("attention", [fixed if name in queries else spikes for name in "qkv"], 2), 3)


def wide_padding(seed: int, padding: int) -> Network:
    """Convolutions that are padded by more than their kernels, so that whole rows see padding alone."""
    b = Builder(np.random.default_rng(seed), 2, "programmable")
    source = b.source((3, 4, 5), 255, False)
    conv = Conv(b.rng.integers(-9, 12, (5, 3, 1, 3)).astype(np.int8), (1, 1), (padding, padding))
    return b.finish(b.lif("lif", (5, 4 + 2 * padding, 3 + 2 * padding), (conv, (source.name,))), 2)


def random_networks_in_one(seed: int, count: int, time_steps: int = 2) -> Network:
    """Many small networks that read the same frames, as one: for executors that are slow to start.

    The last one alone ends in the accumulator; both kinds of LIF, blocks of attention in some.
    """
    rng = np.random.default_rng(seed)
    b = Builder(rng, time_steps, "")
    source = b.source((2, 4, 5), 3, True)
    for i in range(count):
        b.prefix, b.kind = f"{i}.", str(rng.choice(["programmable", "stock"]))
        b.soft = bool(rng.random() < 0.2)
        if b.soft:
            b.shortcuts("shortcut", source, 4)
        x = _grow(b, source, 4, int(rng.random() < 0.3), short=bool(rng.random() < 0.7))
    return b.finish(x, 3)


def _grow(b: Builder, x: Population, channels: int, blocks: int, short: bool = False) -> Population:
    """Stem with OR-pool, residual stem convolution and attention blocks; short: the stem's first half alone."""
    rng = b.rng
    x = b.conv("stem.0.lif", x, channels, 3, int(rng.integers(1, 3)))
    if short:
        return b.conv("stem.1.lif", x, channels, 1)
    x = b.window("stem.0.pool", Or(), [x], Window((3, 3), (2, 2), (1, 1)))
    rpe = b.conv("stem.rpe.lif", x, channels, 3, groups=int(rng.choice([1, 2])))
    x = b.window("stem.add", Sum(), [rpe, x], Window())
    if rng.random() < 0.3:
        x = b.window("stem.avg", Sum(), [x], Window((1, 2), (1, 2))) if x.shape[2] > 1 else x
    if b.rest.random() < 0.3:
        x = b.neighbours("stem.tokens", x)
    for i in range(blocks):
        qkv = [b.conv(f"block.{i}.attn.{name}_lif", x, channels, 1) for name in "qkv"]
        attended = b.attention(f"block.{i}.attn.attn_lif", qkv, int(rng.choice([1, 2, 4])))
        out = b.conv(f"block.{i}.attn.proj_lif", attended, channels, 1)
        x = b.window(f"block.{i}.add", Sum(), [x, out], Window())
    return x


def preprocess_of(network: Network) -> Preprocess:
    """What the images of a network are."""
    (channels, height, width), source = network.input.shape, network.input.neuron
    assert isinstance(source, Source)
    mean, std = tuple(network.mean.tolist()), tuple(network.std.tolist())
    return Preprocess(channels, height, mean, std, source.max_value, width)


def random_images(network: Network, seed: int, count: int = 2) -> np.ndarray:
    """Images (or frames) for `network`, with some zero pixels."""
    rng, source = np.random.default_rng(seed), network.input
    assert isinstance(source.neuron, Source)
    shape = (network.time_steps, *source.shape) if source.neuron.per_step else source.shape
    images = rng.integers(0, source.neuron.max_value + 1, (count, *shape))
    return (images * (rng.random(images.shape) < 0.7)).astype(np.uint8)


def networks() -> st.SearchStrategy[Network]:
    """Random networks of up to two blocks or with membrane shortcuts, both kinds of LIF, T = 1 to 5."""
    return st.builds(
        random_network,
        st.integers(0, 2**32 - 1),
        st.integers(1, 5),
        st.sampled_from(["programmable", "stock"]),
        st.integers(0, 2),
        st.booleans(),
    )
