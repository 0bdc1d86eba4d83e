"""The networks of benchmarks/silicon.py that run: spikes by the engine, times by both models, on the cores of the chip.

NxTF's MNIST network on Loihi 1 is rebuilt from its Keras file.  Source: github.com/intel-nrc-ecosystem/models,
nxsdk_modules_ncl/dnn, tutorial a_image_classification_mnist with its printed output (Nahuku).  From it: 8-bit weights
scaled by the largest weight or bias of a layer, threshold mantissa 512, biases at exponent 6, potentials that do not
leak and currents that keep 1 / 4096, hard reset, an output layer that leaks by 256 / 4096 and never fires, 512 steps an
image, 1 + 4 + 7 + 3 + 1 cores.  NxTF stores excitatory and inhibitory weights apart, with 8 bits and a shared sign
each; here a weight is even, from -256 to 254, which moves the spikes of a layer by half a per cent at most.

PilotNet LIF on Loihi 2 is lava-dl's network.net, its integers as they are, in the boxes that Intel's compiler printed.

On both chips nothing is sent to the input neurons: pixels are their biases.  Here their spikes are worked out first,
and a Source sends them in the place of the neurons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pilotnet import cut_as_intel

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.chips.profile import Profile, load_profile
from spikformer_deploy.counts.events import Events, count, geometry, join
from spikformer_deploy.counts.slices import Geometry
from spikformer_deploy.executors.choose import prepare
from spikformer_deploy.executors.execution import Execution, Request
from spikformer_deploy.mapping.place import Placer
from spikformer_deploy.network.mapping import Mapping, Site
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import DECAY_ONE, Accumulator, Lif, LifKind, Source
from spikformer_deploy.network.synapses import Conv, Readout
from spikformer_deploy.pipeline.stages import compile_model
from spikformer_deploy.timing.estimate import estimate
from spikformer_deploy.timing.messages import time_image, timer
from spikformer_deploy.timing.spread import Spread, spread
from spikformer_deploy.timing.steps import recorded_image
from spikformer_deploy.timing.times import StepTimes, join_times

BATCH = 8
"""Images that the engine runs at once."""


@dataclass(frozen=True)
class Placed:
    """A network on the cores of a chip, and what its images make it do.

    frames  (images, T, C, Y, X) spikes of its input neurons
    """

    network: Network
    mapping: Mapping
    profile: Profile
    frames: NDArray[np.uint8]

    @cached_property
    def geometry(self) -> Geometry:
        """What counting needs."""
        return geometry(self.network, self.mapping)

    def first(self, images: int) -> Placed:
        """The same with its first images only."""
        return replace(self, frames=self.frames[:images])

    def one(self, image: int) -> Placed:
        """The same with one image only."""
        return replace(self, frames=self.frames[image : image + 1])

    @cached_property
    def events(self) -> Events:
        """All events."""
        return join([count(self.geometry, execution) for execution in self.executions()])

    def executions(self, record: Sequence[str] = (), batch: int = BATCH) -> Iterator[Execution]:
        """The images, a batch after the other."""
        execute = prepare("engine", Request(self.network, self.geometry.cells)).execute
        for start in range(0, len(self.frames), batch):
            yield execute(self.frames[start : start + batch], record)

    @cached_property
    def closed(self) -> StepTimes:
        """The closed form."""
        return estimate(self.events, self.network, self.mapping, self.profile)

    @cached_property
    def spread(self) -> Spread:
        """How sure it is."""
        return spread(self.events, self.network, self.mapping, self.profile)

    @cached_property
    def by_message(self) -> StepTimes:
        """Message by message, all constants at their values."""
        machine = timer(self.geometry, self.profile)
        names = [population.name for population in self.network]
        joined = None
        for execution in self.executions(names, batch=1):
            times = time_image(machine, recorded_image(self.network, execution, 0))
            joined = times if joined is None else join_times(joined, times)
        assert joined is not None
        return joined


def boxes_of(sites: Sequence[Site], sizes: dict[str, tuple[int, int, int]]) -> Int:
    """(slices, 7) boxes of the given (channels, rows, columns) a core."""
    boxes: list[tuple[int, ...]] = []
    for index, site in enumerate(sites):
        edges = [
            [(start, min(start + step, extent)) for start in range(0, extent, step)]
            for step, extent in zip(sizes[site.name], site.shape, strict=True)
        ]
        boxes += [(index, *c, *y, *x) for c, y, x in product(*edges)]
    return np.array(boxes)


# --- NxTF ------------------------------------------------------------------------------------------------------------

TIME_STEPS = 512
THRESHOLD = 2**9
NEVER = 2**17 - 1
"""The output layer's threshold mantissa: the largest there is."""
OUTPUT_LEAK = 2**8
KEPT_CURRENT = 1
"""Of 4096: NxTF's decay of 4095."""
LARGEST_WEIGHT = 255
STATE_BITS = 32
"""The chip has 24: a potential that inhibition drives below those stays there, and its neuron silent."""

LAYERS = {"conv2d_1": 2, "conv2d_2": 1, "conv2d_3": 2, "conv2d_4": 1}
"""Stride of each layer; kernels stand in the file, and nothing is padded."""
OUTPUT = "conv2d_4"
SIZES = {
    "input": (1, 28, 28), "conv2d_1": (16, 12, 3), "conv2d_2": (5, 10, 10), "conv2d_3": (22, 4, 4),
    "conv2d_4": (10, 1, 1), "counts": (10, 1, 1),
}  # fmt: skip
"""(channels, rows, columns) a core, as NxTF's compiler printed them.  `counts` is where our networks must end; nothing
ever reaches it."""
CORES = {
    "input": (15,), "conv2d_1": range(11, 15), "conv2d_2": range(4, 11), "conv2d_3": range(1, 4), "conv2d_4": (0,),
    "counts": (0,),
}  # fmt: skip
"""Filled from the output backwards."""
CORES_PER_COLUMN = 16
"""NxSDK numbers cores down a column of four tiles."""


def nxtf(folder: Path) -> tuple[Placed, NDArray[np.uint8]]:
    """The network of nxtf_mnist_model.h5 with the images of mnist_test_first_128.npz, and their labels."""
    with np.load(folder / "mnist_test_first_128.npz") as images:
        frames, labels = input_spikes(images["images"]), images["labels"]
    network = nxtf_network(folder / "nxtf_mnist_model.h5")
    profile = load_profile("loihi1")
    return Placed(network, nxtf_mapping(network, profile), profile, frames), labels


def nxtf_wrong(placed: Placed, labels: NDArray[np.uint8]) -> int:
    """Images whose largest output potential is not that of their label."""
    potentials = np.concatenate([execution.membranes[OUTPUT][:, -1] for execution in placed.executions([OUTPUT])])
    return int((potentials[:, :, 0, 0].argmax(1) != labels).sum())


def input_spikes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
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


def nxtf_network(model: Path) -> Network:
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
            populations.append(Population(name, (len(weight), rows, rows), nxtf_neuron(bias, name == OUTPUT), 1))
            projections.append(Projection((before.name,), name, Conv(weight, (stride, stride), shift=1)))
    classes = populations[-1].shape[0]
    head = Accumulator(np.zeros(classes, np.int64), np.ones(classes))
    populations.append(Population("counts", (classes, 1, 1), head, 0))
    projections.append(Projection((OUTPUT,), "counts", Readout(np.eye(classes, dtype=np.int8))))
    parts = tuple(populations), tuple(projections)
    return Network(*parts, TIME_STEPS, STATE_BITS, 8, "observed", 1.0, mean=np.zeros(1), std=np.ones(1))


def integers(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> tuple[NDArray[np.int8], Int]:
    """A layer's weights (C_out, C_in, KY, KX) in units of 2, and its biases (C_out,): NxTF's `to_integer`, 8 bits."""
    largest = max(np.abs(kernel).max(), np.abs(bias).max())
    whole = (kernel / largest * LARGEST_WEIGHT).astype(np.int64).transpose(3, 2, 0, 1)
    halved = np.clip(np.rint(whole / 2), -128, 127).astype(np.int8)
    return halved, (bias / largest * LARGEST_WEIGHT).astype(np.int64)


def nxtf_neuron(bias: Int, last: bool) -> Lif:
    """A layer's neurons; the last layer holds its sums."""
    threshold = np.full(len(bias), NEVER if last else THRESHOLD, np.int64)
    decay = DECAY_ONE - OUTPUT_LEAK * last
    return Lif(LifKind.STOCK, decay, 0, threshold, bias, exact=False, current=KEPT_CURRENT)


def nxtf_mapping(network: Network, profile: Profile) -> Mapping:
    """NxTF's boxes on NxTF's cores."""
    sites = tuple(Site(p.name, "population", p.name, p.shape) for p in network)
    boxes = boxes_of(sites, SIZES)
    cores = np.array([place_of(core, profile) for site in sites for core in CORES[site.name]])
    return Mapping(sites, boxes, cores, np.zeros((len(boxes), 5), np.int64), 1, profile.cores_per_chip, {})


def place_of(core: int, profile: Profile) -> int:
    """Our number of NxSDK's core: its tiles go down the columns of the mesh, ours along the rows."""
    column, below = divmod(core, CORES_PER_COLUMN)
    row, within = divmod(below, int(profile.chip.cores_per_tile))
    return (row * int(profile.chip.tiles_x) + column) * int(profile.chip.cores_per_tile) + within


# --- PilotNet --------------------------------------------------------------------------------------------------------

PIXELS = "layer.0"
INPUT_NEURONS = "layer.0.lif"


def pilotnet(folder: Path, placer: Placer) -> Placed:
    """network.net without an input, 16 steps from rest, in Intel's boxes, which the placer puts on cores.

    Intel's run had no input: its notebook writes the frame to an attribute that the input neurons do not read (`bias`,
    where theirs is `bias_mant`), and its plot of activity shows no spike of theirs.  The network runs on its biases.
    """
    nothing = np.zeros((1, 3, 66, 200), np.uint8)
    program = compile_model(folder / "network.net", "oheo_gulch", calibrate_on=nothing).program
    execution = prepare("engine", Request(program.network)).execute(nothing, [INPUT_NEURONS])
    spikes = execution.spikes[INPUT_NEURONS]
    network = from_input_neurons(program.network)
    sites = tuple(site for site in program.mapping.sites if site.name != PIXELS)
    sent = {name: float(a.messages.sum() / a.active.size) / len(spikes[0]) for name, a in execution.activity.items()}
    program = replace(program, network=network, mapping=replace(program.mapping, sites=sites))
    mapping = cut_as_intel(program, placer, sent).mapping
    return Placed(network, mapping, program.profile, spikes.astype(np.uint8))


def from_input_neurons(network: Network) -> Network:
    """The network in which the input neurons are a Source of their spikes."""
    source = replace(network[INPUT_NEURONS], neuron=Source(max_value=1, per_step=True), bounds=(0, 0))
    populations = tuple(source if p.name == INPUT_NEURONS else p for p in network if p.name != PIXELS)
    projections = tuple(p for p in network.projections if p.target != INPUT_NEURONS)
    channels = source.shape[0]
    mean, std = np.zeros(channels), np.ones(channels)
    return replace(network, populations=populations, projections=projections, mean=mean, std=std)
