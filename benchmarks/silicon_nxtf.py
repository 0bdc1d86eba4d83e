"""NxTF's MNIST network on Loihi 1, rebuilt from its Keras file: the integers, the cores and the spikes of the chip.

Source: github.com/intel-nrc-ecosystem/models, nxsdk_modules_ncl/dnn, tutorial a_image_classification_mnist with its
printed output (Nahuku, Loihi 1).  From it: 8-bit weights scaled by the largest weight or bias of a layer, threshold
mantissa 512, biases at exponent 6, voltages that do not leak and currents that keep 1 / 4096, hard reset, an output
layer that leaks by 256 / 4096 and never fires, 512 steps an image, 1 + 4 + 7 + 3 + 1 cores.

Two things differ.  NxTF stores excitatory and inhibitory weights apart, with 8 bits and a shared sign each; here a
weight is even, from -256 to 254, which moves it by half of its lowest bit at most.  And the chip's input neurons get
pixels as biases: their spikes are worked out here, and a Source sends them, so that the input core receives nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.profile import Profile, load_profile
from spikformer_deploy.counts.events import Events, count
from spikformer_deploy.counts.slices import Geometry, geometry
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Request
from spikformer_deploy.network.mapping import Mapping, Site
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import DECAY_ONE, Accumulator, Lif, LifKind, Source
from spikformer_deploy.network.synapses import Conv, Readout
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.messages import time_image, timer
from spikformer_deploy.timing.times import StepTimes, join_times

TIME_STEPS = 512
THRESHOLD = 2**9
NEVER = 2**17 - 1
"""The output layer's threshold mantissa: the largest there is."""
OUTPUT_LEAK = 2**8
KEPT_CURRENT = 1
"""Of 4096: NxTF's decay of 4095."""
LARGEST_WEIGHT = 255
STATE_BITS = 32
"""Of a chip that held potentials of 24 bits: what is inhibited in every step goes below those, and stays silent."""
IMAGES_BY_MESSAGE = 8
"""Images whose own times were read off the published plot."""
BATCH = 8

LAYERS = {"conv2d_1": 2, "conv2d_2": 1, "conv2d_3": 2, "conv2d_4": 1}
"""Stride of each layer; kernels stand in the file, and nothing is padded."""
BOXES = {
    "input": ((1, 28, 28), (15,)),
    "conv2d_1": ((16, 12, 3), (11, 12, 13, 14)),
    "conv2d_2": ((5, 10, 10), (4, 5, 6, 7, 8, 9, 10)),
    "conv2d_3": ((22, 4, 4), (1, 2, 3)),
    "conv2d_4": ((10, 1, 1), (0,)),
    "counts": ((10, 1, 1), (0,)),
}
"""(channels, rows, columns) a core and the cores, as NxTF's compiler printed them, filled from the output backwards.
Its layer shapes are (rows, columns, channels).  `counts` is where our networks must end; nothing ever reaches it."""
CORES_PER_COLUMN = 16
"""NxSDK numbers cores down a column of four tiles."""


@dataclass(frozen=True)
class Nxtf:
    """The network on its cores, and what its images make it do.

    pixels  (images, 1, 28, 28) uint8; labels (images,)
    """

    network: Network
    mapping: Mapping
    profile: Profile
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @cached_property
    def geometry(self) -> Geometry:
        """What counting needs."""
        return geometry(self.network, self.mapping)

    def times(self, images: int) -> StepTimes:
        """The closed form of the first images."""
        batches = [self._estimate(first, min(first + BATCH, images)) for first in range(0, images, BATCH)]
        joined = batches[0]
        for batch in batches[1:]:
            joined = join_times(joined, batch)
        return joined

    def times_by_message(self) -> list[StepTimes]:
        """Message by message, the first images."""
        machine = timer(self.geometry, self.profile)
        names = [population.name for population in self.network]
        execute = prepare("engine", Request(self.network, self.geometry.cells)).execute
        out = []
        for image in self.pixels[:IMAGES_BY_MESSAGE]:
            spikes = execute(input_spikes(image[None]), names).spikes
            out.append(time_image(machine, {name: sent[0] for name, sent in spikes.items()}))
        return out

    def wrong(self) -> int:
        """Images whose largest output is not that of their label."""
        execute = prepare("engine", Request(self.network, self.geometry.cells)).execute
        wrong = 0
        for first in range(0, len(self.pixels), BATCH):
            ends = slice(first, first + BATCH)
            potentials = execute(input_spikes(self.pixels[ends]), ["conv2d_4"]).membranes["conv2d_4"]
            wrong += int((potentials[:, -1, :, 0, 0].argmax(1) != self.labels[ends]).sum())
        return wrong

    def _estimate(self, first: int, end: int) -> StepTimes:
        return estimate(self._events(first, end), self.network, self.mapping, self.profile)

    def _events(self, first: int, end: int) -> Events:
        execute = prepare("engine", Request(self.network, self.geometry.cells)).execute
        return count(self.geometry, execute(input_spikes(self.pixels[first:end])))


def load(folder: Path) -> Nxtf:
    """The network of nxtf_mnist_model.h5 and the images of mnist_test_first_128.npz."""
    with np.load(folder / "mnist_test_first_128.npz") as images:
        pixels, labels = images["images"], images["labels"]
    network = network_of(folder / "nxtf_mnist_model.h5")
    profile = load_profile("loihi1")
    return Nxtf(network, mapping_of(network, profile), profile, pixels, labels)


def input_spikes(pixels: NDArray[np.uint8]) -> Int:
    """(images, T, 1, 28, 28) spikes of neurons that add their pixel to their potential in every step, hard reset.

    The tutorial divides by 255 and multiplies again before it truncates: some pixels lose one.
    """
    bias = (pixels / 255 * 255).astype(np.int64)
    potential = np.zeros_like(bias)
    spikes = np.zeros((len(pixels), TIME_STEPS, *pixels.shape[1:]), np.uint8)
    for step in range(TIME_STEPS):
        potential += bias
        spikes[:, step] = potential > THRESHOLD
        potential[potential > THRESHOLD] = 0
    return spikes


def network_of(model: Path) -> Network:
    """The spiking network that NxTF makes of a Keras file of four convolutions."""
    import h5py

    populations = [Population("input", (1, 28, 28), Source(max_value=1, per_step=True), 1)]
    projections = []
    with h5py.File(model) as file:
        for name, stride in LAYERS.items():
            layer = file["model_weights"][name][name]
            weight, bias = integers(layer["kernel:0"][()], layer["bias:0"][()])
            before = populations[-1]
            rows = (before.shape[1] - weight.shape[2]) // stride + 1
            shape = (len(weight), rows, rows)
            last = name == list(LAYERS)[-1]
            populations.append(Population(name, shape, neuron(bias, last), 1))
            projections.append(Projection((before.name,), name, Conv(weight, (stride, stride), shift=1)))
    zeros = np.zeros(10, np.int64)
    populations.append(Population("counts", (10, 1, 1), Accumulator(zeros, np.ones(10)), 0))
    projections.append(Projection((populations[-2].name,), "counts", Readout(np.eye(10, dtype=np.int8))))
    channels = np.zeros(1), np.ones(1)
    return Network(tuple(populations), tuple(projections), TIME_STEPS, STATE_BITS, 8, "observed", 1.0, *channels)


def integers(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> tuple[NDArray[np.int8], Int]:
    """A layer's weights (C_out, C_in, KY, KX) in units of 2, and its biases (C_out,): NxTF's `to_integer`, 8 bits."""
    largest = max(np.abs(kernel).max(), np.abs(bias).max())
    whole = (kernel / largest * LARGEST_WEIGHT).astype(np.int64).transpose(3, 2, 0, 1)
    halved = np.clip(np.rint(whole / 2), -128, 127).astype(np.int8)
    return halved, (bias / largest * LARGEST_WEIGHT).astype(np.int64)


def neuron(bias: Int, last: bool) -> Lif:
    """A layer's neurons; the last layer holds its sums."""
    threshold = np.full(len(bias), NEVER if last else THRESHOLD, np.int64)
    decay = DECAY_ONE - OUTPUT_LEAK * last
    return Lif(LifKind.STOCK, decay, 0, threshold, bias, exact=False, current=KEPT_CURRENT)


def mapping_of(network: Network, profile: Profile) -> Mapping:
    """NxTF's boxes on NxTF's cores."""
    sites = tuple(Site(p.name, "population", p.name, p.shape) for p in network)
    boxes, cores = [], []
    for index, site in enumerate(sites):
        size, places = BOXES[site.name]
        edges = [
            [(start, min(start + step, extent)) for start in range(0, extent, step)]
            for step, extent in zip(size, site.shape, strict=True)
        ]
        of_site = [(index, *c, *y, *x) for c, y, x in product(*edges)]
        boxes += of_site
        cores += [place_of(core, profile) for core, _ in zip(places, of_site, strict=True)]
    words = np.zeros((len(boxes), 5), np.int64)
    return Mapping(sites, np.array(boxes), np.array(cores), words, 1, profile.cores_per_chip, {})


def place_of(core: int, profile: Profile) -> int:
    """Our number of NxSDK's core: its tiles go down the columns of the mesh, ours along the rows."""
    column, below = divmod(core, CORES_PER_COLUMN)
    row, within = divmod(below, int(profile.chip.cores_per_tile))
    return (row * int(profile.chip.tiles_x) + column) * int(profile.chip.cores_per_tile) + within
