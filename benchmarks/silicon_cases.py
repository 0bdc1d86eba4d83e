"""The networks of benchmarks/silicon.py whose work can be counted by hand: what each core does in each kind of step.

Every case says in its docstring what was measured, where that is published, and what is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import attrs
import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.loihi.latencies import Latencies
from spikformer_deploy.chips.loihi.steps import Work
from spikformer_deploy.chips.profile import Profile, load_profile
from spikformer_deploy.chips.quantity import Quantity

Floats = NDArray[np.float64]

DENSE = Latencies.KINDS.index("dense")
SPARSE = Latencies.KINDS.index("sparse")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A network on a chip.

    work      every field (kinds of step, cores)
    repeats   (kinds of step,) how often each comes in what is measured
    tiles     in use on the chip that uses most of them; diameter: hops between the chips that are farthest apart
    """

    profile: Profile
    work: Work
    repeats: Floats
    tiles: int
    chips: int = 1
    diameter: int = 0


def tiles_of(cores: int, profile: Profile) -> int:
    """Tiles that `cores` cores fill."""
    return -(-cores // int(profile.chip.cores_per_tile))


def every_step(profile: Profile, cores: int, work: Work, chips: int = 1) -> Case:
    """A network whose steps are all the same; fields of `work` are (cores,) or numbers."""
    fields = (np.broadcast_to(np.asarray(field, np.float64), (1, cores)) for field in work[:-1])
    return Case(profile, Work(*fields, synapse=work.synapse), np.ones(1), tiles_of(cores, profile), chips)


# --- two neurons -----------------------------------------------------------------------------------------------------

TWO_NEURONS_US = 1.164
TWO_NEURONS_NJ = 34.2
TWO_NEURONS_STATIC_MW = 213.6
"""Means of 18 settings; steps from 1.1632 to 1.1645 us, dynamic energy from 27 to 44 nJ a step (single runs vary by
15 to 22 mW of some 30), static power from 211.8 to 214.8 mW."""


def two_neurons() -> Case:
    """Two LIF neurons and a synapse between them, one core of Oheo Gulch under Lava, 10^7 steps.

    Source: github.com/NECOTIS/TemporalLearningInRSNNs, res.json.
    Assumed: the first neuron fires in every step, which is the most it can do (20 ns of 1,164).
    """
    work = Work(updates=2, spikes=1, sent=1, synops=1, messages=1, synapse=SPARSE)
    return every_step(load_profile("oheo_gulch"), 1, work)


# --- Quartz ----------------------------------------------------------------------------------------------------------

QUARTZ = {8: (873, 33.8), 16: (1096, 45.6), 32: (1553, 85.8), 64: (2599, 139.3), 128: (4807, 290.1)}
"""By t_max: us an image outside the x86 processors; uJ an image, dynamic, of the neuro cores.
Source: github.com/biphasic/Quartz-on-Loihi, CNN/mnist-EDP-plot.ipynb; Loihi 1, nahuku32, NxSDK 0.9.8."""
QUARTZ_PIXELS = 28 * 28
QUARTZ_NEURONS = 5570
"""With those for synchronisation and biases."""
QUARTZ_BETWEEN = 11
"""Steps an image beside the five windows of t_max steps."""


@dataclass(frozen=True, slots=True)
class QuartzLayer:
    """A layer of the network.

    fan_in   synapses of a unit, from units that fire once an image
    sources  units that send to it; reached: cores that each of its own spikes goes to
    window   in which it fires; the pixels fire in window 0.  A pooling unit passes on its first spike, in the window of
             the layer before
    """

    units: int
    cores: int
    fan_in: int
    sources: int
    reached: int
    window: int

    @property
    def waits(self) -> bool:
        """Whether its units fire one window after their inputs."""
        return self.fan_in > 4


QUARTZ_LAYERS = (
    QuartzLayer(units=6 * 24 * 24, cores=4, fan_in=25, sources=QUARTZ_PIXELS, reached=1, window=1),
    QuartzLayer(units=6 * 12 * 12, cores=2, fan_in=4, sources=6 * 24 * 24, reached=2, window=1),
    QuartzLayer(units=12 * 8 * 8, cores=2, fan_in=150, sources=6 * 12 * 12, reached=1, window=2),
    QuartzLayer(units=12 * 4 * 4, cores=1, fan_in=4, sources=12 * 8 * 8, reached=1, window=2),
    QuartzLayer(units=120, cores=1, fan_in=192, sources=12 * 4 * 4, reached=1, window=3),
    QuartzLayer(units=10, cores=1, fan_in=120, sources=120, reached=0, window=4),
)
"""1x28x28, 6x24x24 (kernel 5), 6x12x12 (pool 2), 12x8x8 (5), 12x4x4 (pool 2), 120 (4), 10; cores as published."""


def quartz(t_max: int) -> Case:
    """Time-to-first-spike MNIST network on 11 cores of Loihi 1; one image.

    Assumed, as the distribution of firings is not published: the units of a layer fire evenly over a window of t_max
    steps, one layer after the other (five windows and 11 steps are the published numbers of steps).  A unit ramps from
    its first input, one of fan_in evenly distributed ones, until it fires; it is idle otherwise.  Layers are cut evenly
    over their cores; a spike goes to all cores that hold targets: one of each pooling layer, both of the second
    convolution, and, of a pixel, all four of the first one.  The 160 neurons for synchronisation and biases are idle,
    and are distributed as the units are.
    """
    units = sum(layer.units for layer in QUARTZ_LAYERS)
    windows = 5
    steps = windows * t_max + QUARTZ_BETWEEN
    columns = [_quartz_core(layer, t_max, steps, QUARTZ_NEURONS / units) for layer in QUARTZ_LAYERS]
    per_core = [column for layer, column in zip(QUARTZ_LAYERS, columns, strict=True) for _ in range(layer.cores)]
    fields = (np.stack(field, 1) for field in zip(*(column[:-1] for column in per_core), strict=True))
    profile = load_profile("loihi1")
    cores = len(per_core)
    return Case(profile, Work(*fields, synapse=SPARSE), np.ones(steps), tiles_of(cores, profile))


def _quartz_core(layer: QuartzLayer, t_max: int, steps: int, crowd: float) -> Work:
    """What one core of a layer does, (steps,) each; crowd: neurons of all kinds a unit."""
    window, within = np.divmod(np.arange(steps) + 0.5, t_max)
    share = within / t_max
    own = window == layer.window
    arriving = window == layer.window - layer.waits
    # the first of fan_in inputs has come, and the unit has not fired
    begun = 1 - (1 - share) ** layer.fan_in
    ramping = arriving * begun + own * (1 - share) if layer.waits else own / t_max
    firing = own / t_max
    units = layer.units / layer.cores
    spikes = units * firing
    updates = units * ramping
    copies = 1 if layer.sources == 6 * 24 * 24 or layer.cores == 1 else layer.cores
    none = np.zeros(steps)
    return Work(
        updates=updates,
        programmed=none,
        idle=units * crowd - updates,
        spikes=spikes,
        sent=spikes * layer.reached,
        synops=units * layer.fan_in * arriving / t_max,
        messages=layer.sources * copies / layer.cores * arriving / t_max,
    )


# --- LSNN ------------------------------------------------------------------------------------------------------------

LSNN_NJ = 26.4
"""1.583 mW, dynamic, of the neuro cores, times 16.649 us a step."""
LSNN_INPUT = 2.4
"""Input spikes a step: 39 thresholds crossed upward or downward by 784 pixels one after the other, then 56 steps with
one spike; mean of 128 MNIST test images, by the rule of the published snips/spiking.c."""
LSNN_RATE = Quantity(
    0.02,
    "spikes/step",
    "guess",
    "no datum; at steps of 1 ms the 5 to 50 Hz at which such networks are trained to fire, in the middle 20",
    (0.005, 0.05),
)


def lsnn(rate: float) -> Case:
    """Sequential MNIST by 240 neurons with slow currents on one core of Loihi 1: 140 + 2 x 100 + 10 compartments.

    Source: github.com/intel-nrc-ecosystem/models, nxsdk_modules_ncl/lsnn, sMNIST_Loihi_performance_measurements.ipynb;
    synapses are the non-zero weights of its files.  The x86 processors set the time of a step: it is not predicted.
    Assumed: `rate` spikes a neuron and step; no compartment is ever idle, as potentials leak slowly.
    """
    neurons = 140 + 100
    compartments = 140 + 2 * 100 + 10
    spikes = neurons * rate
    synops = LSNN_INPUT * 4263 / 80 + rate * (10566 + 846)
    work = Work(
        updates=compartments, spikes=spikes, sent=spikes, synops=synops, messages=LSNN_INPUT + spikes, synapse=SPARSE
    )
    return every_step(load_profile("loihi1"), 1, work)


# --- autoencoder -----------------------------------------------------------------------------------------------------

AUTOENCODER_UJ = 40.6
AUTOENCODER_US = 48.3
AUTOENCODER_STATIC_W = 16.05


def autoencoder() -> Case:
    """Autoencoder 256-128-64-32-64-128-256 on 74 cores of a board of 16 Loihi 2 chips; one inference.

    Source: arXiv 2608.18341: 3.0e5 synaptic operations, 1e4 updates and 2e4 spikes an inference.
    Assumed: events are those of one kind of core, fixed-function neurons, a message a spike; hops are left out (less
    than 1 % of the energy).  Steps an inference are not stated: time is not predicted, and power runs for the
    measured 48.3 us.  All 16 chips run steps.
    """
    profile = load_profile("loihi2")
    board = attrs.evolve(
        load_profile("kapoho_point").board, chips=Quantity(16, "chips", "datasheet", "arXiv 2608.18341")
    )
    profile = attrs.evolve(profile, board=board, power=load_profile("kapoho_point").power)
    work = Work(updates=1e4 / 74, spikes=2e4 / 74, sent=2e4 / 74, synops=3e5 / 74, messages=2e4 / 74, synapse=DENSE)
    return every_step(profile, 74, work, chips=16)


# --- QP solver -------------------------------------------------------------------------------------------------------

QP_US = 8.137


def qp() -> Case:
    """Quadratic programs by 264 projected-gradient and 144 proportional-integral neurons on two cores of Loihi 2.

    Source: github.com/lava-nc/lava-optimization, tutorial 01, with the output of Intel's board.  Q (264 x 264) has
    1,154 non-zero weights, A (144 x 264) 762.
    Assumed: a core a layer, each neuron one reference program of microcode; layers work in alternating steps, as the
    algorithm says, and all neurons of the layer at work send one 24-bit message to each core that it serves.
    """
    gradient, integral = 264, 144
    of_q, of_a = 1154, 762
    # rows: the step of the gradient neurons, whose messages go to both cores, and that of the others
    work = Work(
        updates=np.zeros((2, 2)),
        programmed=np.array([[gradient, 0.0], [0.0, integral]]),
        idle=np.array([[0.0, integral], [gradient, 0.0]]),
        spikes=np.array([[gradient, 0.0], [0.0, integral]]),
        sent=np.array([[2.0 * gradient, 0.0], [0.0, integral]]),
        synops=np.array([[of_q, of_a], [of_a, 0.0]]),
        messages=np.array([[gradient, gradient], [integral, 0.0]]),
        synapse=SPARSE,
    )
    return Case(load_profile("oheo_gulch"), work, np.ones(2), tiles_of(2, load_profile("oheo_gulch")))


# --- boards ----------------------------------------------------------------------------------------------------------

BOARDS_US = {(4, 64): 14.3, (12, 64): 16.2}
"""By columns and rows of chips: us of a step in which nothing happens.  Source: Frady et al., NICE 2020."""


def boards() -> Iterator[tuple[str, float, Case]]:
    """Name, measured us and the empty step of boards of Loihi 1, all tiles of all chips in use."""
    profile = load_profile("loihi1")
    tiles = int(profile.chip.tiles_x) * int(profile.chip.tiles_y)
    for (columns, rows), measured in BOARDS_US.items():
        nothing = Work(*np.zeros((7, 1, 1)))
        case = Case(profile, nothing, np.ones(1), tiles, columns * rows, columns + rows - 2)
        yield f"empty board of {columns}x{rows} chips", measured, case
