"""Random integer networks of everything that their law allows, with ties and odd sizes made on purpose."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

import numpy as np
from support.networks import Builder

from spikformer_deploy.base.arrays import Pair
from spikformer_deploy.network.law import check_network
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Accumulator, And, Lif, Max, Or, Source, Stream, Sum
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Synapse, Window

CHANNELS = (1, 1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 65)
"""One, odd ones, and one more than the lanes of a vector holds."""
EXTENTS = (1, 1, 2, 3, 4, 5, 7)
DECAYS = (0, 1, 1024, 2048, 2048, 3000, 3072, 4095, 4096)
CURRENTS = (0, 0, 1024, 2048, 4095)
LARGEST_SENT = 2**15
Into = tuple[Synapse, tuple[str, ...]]


class Grower(Builder):
    """Adds whatever fits onto what is there already; names are numbers."""

    def any_of(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def named(self, kind: str) -> str:
        return f"{len(self.populations)}.{kind}"

    def of(self, *names: str) -> list[Population]:
        return [p for p in self.populations if p.name in names]

    # --- synapses ---

    def geometry(self, extent: int) -> tuple[int, int, int, int]:
        """(kernel, stride, padding, size of what comes out) of one axis; strides larger than kernels too."""
        kernel, stride, padding = self.any_of(1, 1, 2, 3, 3, 4), self.any_of(1, 1, 1, 2, 3), self.any_of(0, 0, 1, 2)
        if extent + 2 * padding < kernel:
            kernel = extent + 2 * padding
        return kernel, stride, padding, (extent + 2 * padding - kernel) // stride + 1

    def conv_of(self, source: Population, channels: int, geometry: tuple[Pair, Pair, Pair]) -> Conv:
        """Ternary, small, sparse and extreme weights; groups that both sides allow, depthwise among them."""
        rng, inputs = self.rng, source.shape[0]
        common = gcd(inputs, channels)
        groups = self.any_of(1, 1, *(g for g in range(1, common + 1) if common % g == 0))
        shape = (channels, inputs // groups, *geometry[0])
        match self.any_of(0, 1, 2, 3):
            case 0:
                weight = rng.integers(-1, 2, shape)
            case 1:
                weight = rng.integers(-9, 12, shape)
            case 2:
                weight = rng.integers(-6, 9, shape) * (rng.random(shape) < 0.3)
            case _:
                weight = rng.choice([-128, -127, 0, 1, 127], shape)
        shift = self.any_of(0, 0, 0, 0, 1, 3)
        return Conv(weight.astype(np.int8), geometry[1], geometry[2], groups, shift)

    def layer(self, source: Population) -> tuple[Into, tuple[int, int, int]]:
        """A convolution of one population, and the shape of what it makes."""
        (ky, sy, py, height), (kx, sx, px, width) = (self.geometry(e) for e in source.shape[1:])
        channels = self.any_of(*CHANNELS)
        return self.conv_into(source, channels, ((ky, kx), (sy, sx), (py, px))), (channels, height, width)

    def conv_into(self, source: Population, channels: int, geometry: tuple[Pair, Pair, Pair]) -> Into:
        return self.conv_of(source, channels, geometry), (source.name,)

    def alike(self, source: Population, shape: tuple[int, int, int]) -> Into | None:
        """Any synapses from `source` onto a map of that shape, or None."""
        if source.shape == shape and self.chance(0.4):
            return Window(), (source.name,)
        if source.shape[1:] == shape[1:]:
            kernel = self.any_of(1, 3)
            return self.conv_into(source, shape[0], ((kernel, kernel), (1, 1), (kernel // 2, kernel // 2)))
        return None

    def sums(self) -> tuple[list[Into], tuple[int, int, int]]:
        """One to three projections onto one population, now and then two of them from the same one."""
        first = self.populations[int(self.rng.integers(len(self.populations)))]
        into, shape = self.layer(first)
        found = [into]
        for _ in range(self.any_of(0, 0, 0, 1, 2)):
            source = first if self.chance(0.4) else self.populations[int(self.rng.integers(len(self.populations)))]
            if (other := self.alike(source, shape)) is not None:
                found.append(other)
        return found, shape

    def most(self, incoming: list[Into]) -> int:
        """The largest magnitude of the sum of these synapses."""
        sizes = {p.name: p.max_out for p in self.populations}
        total = 0
        for synapse, (source, *_) in incoming:
            if isinstance(synapse, Conv):
                weights = np.abs(synapse.weight.astype(int)).reshape(len(synapse.weight), -1).sum(1)
                total += int(weights.max()) * sizes[source] << synapse.shift
            elif isinstance(synapse, Window):
                total += sizes[source] * synapse.kernel[0] * synapse.kernel[1]
        return total

    # --- populations ---

    def neurons(self, name: str, shape: tuple[int, int, int], incoming: list[Into]) -> Population:
        """LIFs of any kind; thresholds and biases are whole numbers of the sums, so that ties are common."""
        rng, channels = self.rng, shape[0]
        stock = self.chance(0.4) if self.kind == "mixed" else self.kind == "stock"
        shift = self.any_of(0, 0, 1, 3, 6)
        largest = self.any_of(2, 8, 60, 400)
        threshold = rng.integers(1, largest + 1, channels) << shift
        if stock and self.chance(0.5):
            threshold -= 1
        if self.chance(0.05):
            threshold[:] = 0  # neurons that fire by themselves
        bias = rng.integers(-largest // 2, largest // 2 + 1, shape if self.chance(0.3) else (channels,))
        bias = bias << shift if self.chance(0.6) else bias
        bias = bias * self.any_of(0, 1, 1)
        neuron = Lif(
            "stock" if stock else "programmable",
            self.any_of(*DECAYS),
            shift,
            threshold.astype(np.int64),
            bias.astype(np.int64),
            current=self.any_of(*CURRENTS) if stock else 0,
            soft=not stock and self.chance(0.3),
            strict=not stock and self.chance(0.4),
        )
        return self.add(Population(name, shape, neuron, 1), *incoming)

    def unsigned(self) -> list[Population]:
        return [p for p in self.populations if not p.signed]

    def same_shape(self, found: list[Population]) -> list[Population]:
        """Those of `found` that have the shape of one of them."""
        one = found[int(self.rng.integers(len(found)))]
        return [p for p in found if p.shape == one.shape]

    def grow(self) -> None:
        """One more population."""
        ways = [self.layered, self.layered, self.pooled, self.summed, self.masked, self.attended, self.streamed]
        ways[int(self.rng.integers(len(ways)))]()

    def layered(self) -> None:
        incoming, shape = self.sums()
        self.neurons(self.named("lif"), shape, incoming)

    def window_of(self, source: Population) -> tuple[Window, tuple[int, int, int]]:
        (ky, sy, py, height), (kx, sx, px, width) = (self.geometry(e) for e in source.shape[1:])
        # moved by up to the whole map, so that some windows see nothing of it
        by = (self.any_of(0, 0, 0, 1, -1, height), self.any_of(0, 0, 0, 1, -1, width - 1))
        return Window((ky, kx), (sy, sx), (py, px), by), (source.shape[0], height, width)

    def pooled(self) -> None:
        """Or and Sum over windows; Max, of anything, where the padding is smaller than the window."""
        source = self.populations[int(self.rng.integers(len(self.populations)))]
        window, shape = self.window_of(source)
        taps = window.kernel[0] * window.kernel[1]
        inside = all(p < k for p, k in zip(window.padding, window.kernel, strict=True)) and not any(window.offset)
        into = (window, (source.name,))
        if inside and (source.signed or self.chance(0.2)):
            self.add(Population(self.named("max"), shape, Max(), source.max_out), into)
        elif not source.signed and self.chance(0.5):
            self.add(Population(self.named("or"), shape, Or(), 1), into)
        elif not source.signed and source.max_out * taps <= LARGEST_SENT:
            self.add(Population(self.named("sum"), shape, Sum(), source.max_out * taps), into)

    def summed(self) -> None:
        parts = self.same_shape(self.unsigned())[-self.any_of(2, 3) :]
        if sum(p.max_out for p in parts) <= LARGEST_SENT:
            most = sum(p.max_out for p in parts)
            self.add(
                Population(self.named("sum"), parts[0].shape, Sum(), most), *((Window(), (p.name,)) for p in parts)
            )

    def masked(self) -> None:
        binary = [p for p in self.unsigned() if p.max_out == 1]
        if not binary:
            return
        parts = self.same_shape(binary)[-self.any_of(1, 2, 3) :]
        incoming: list[Into] = [(Window(), (p.name,)) for p in parts]
        self.add(Population(self.named("and"), parts[0].shape, And(self.any_of(1, len(parts))), 1), *incoming)

    def attended(self) -> None:
        """q, k and v of one shape, of one population even; one head, one channel, one token among them."""
        found = self.same_shape([p for p in self.unsigned() if p.max_out <= 4] or self.unsigned())
        q, k, v = (found[int(self.rng.integers(len(found)))] for _ in "qkv")
        channels, height, width = q.shape
        if q.max_out * k.max_out * v.max_out * channels * height * width > LARGEST_SENT:
            return
        heads = self.any_of(*(h for h in range(1, channels + 1) if channels % h == 0))
        into = (Attention(heads, self.any_of(1, 1, 2, 5)), (q.name, k.name, v.name))
        self.neurons(self.named("attention"), q.shape, [into])

    def streamed(self) -> None:
        """A residual stream of currents and a LIF that reads it."""
        incoming, shape = self.sums()
        if self.most(incoming) > LARGEST_SENT:
            return
        bias = self.rng.integers(-20, 21, shape if self.chance(0.3) else (shape[0],))
        drop = self.any_of(0, 0, 1, 4)
        most = (self.most(incoming) + int(np.abs(bias).max()) + (1 << drop >> 1) >> drop) + 1
        made = self.add(Population(self.named("stream"), shape, Stream(bias, drop), most), *incoming)
        self.neurons(self.named("lif"), shape, [(Window(), (made.name,))])

    def head(self) -> Network:
        """Accumulators over one to three populations, the last one among them; or a map of them, by convolutions."""
        if self.rest.random() < 0.25:
            return self.head_of_map()
        rng, classes = self.rng, self.any_of(1, 2, 3, 10)
        chosen = {len(self.populations) - 1, *rng.integers(0, len(self.populations), self.any_of(0, 0, 1, 2)).tolist()}
        incoming = [
            (Readout(rng.integers(-127, 128, (classes, p.shape[0])).astype(np.int8)), (p.name,))
            for p in (self.populations[i] for i in sorted(chosen))
        ]
        neuron = Accumulator(rng.integers(-99, 99, classes), np.full(classes, 0.5), self.chance(0.3))
        self.add(Population("output", (classes, 1, 1), neuron, 0), *incoming)
        return self.network(self.any_of(24, 32, 32))

    def head_of_map(self) -> Network:
        """Accumulators at each position, over the last population and any other that fits."""
        into, shape = self.layer(self.populations[-1])
        other = self.alike(self.populations[int(self.rng.integers(len(self.populations)))], shape)
        incoming = [into, *([other] if other is not None and isinstance(other[0], Conv) else [])]
        neuron = Accumulator(self.rng.integers(-99, 99, shape[0]), np.full(shape[0], 0.5), self.chance(0.3))
        self.add(Population("output", shape, neuron, 0), *incoming)
        return self.network(self.any_of(24, 32, 32))


def integer_network(seed: int) -> Network:
    """A network of 2 to 9 populations between an input and a head, that obeys its law."""
    rng = np.random.default_rng(seed)
    b = Grower(rng, int(rng.integers(1, 6)), str(rng.choice(["programmable", "stock", "mixed"])))
    per_step = b.chance(0.4)
    shape = (b.any_of(1, 1, 2, 3, 5), b.any_of(*EXTENTS), b.any_of(*EXTENTS))
    b.source(shape, b.any_of(1, 3) if per_step else b.any_of(1, 255, 255), per_step)
    b.layered()
    for _ in range(int(rng.integers(2, 10))):
        b.grow()
    network = b.head()
    check_network(network)
    return network


def images_for(network: Network, seed: int) -> np.ndarray:
    """1 to 17 images or recordings: random and sparse ones, saturated ones, nothing, and all at the largest value."""
    rng, source = np.random.default_rng(seed), network.input
    assert isinstance(source.neuron, Source)
    largest = source.neuron.max_value
    count = int(rng.choice([1, 1, 2, 3, 4, 5, 8, 17]))
    steps = (network.time_steps,) if source.neuron.per_step else ()
    images = rng.integers(0, largest + 1, (count, *steps, *source.shape))
    images *= rng.random(images.shape) < 0.7
    for number, kind in enumerate(rng.choice(["random", "random", "none", "all", "saturated"], count)):
        match kind:
            case "none":
                images[number] = 0
            case "all":
                images[number] = largest
            case "saturated":
                images[number] = largest * (rng.random(images[number].shape) < 0.5)
    return images.astype(np.uint8)


def narrower(network: Network, bits: int) -> Network:
    """The same network with another state, in which it may overflow."""
    return replace(network, state_bits=bits)
