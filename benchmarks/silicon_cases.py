"""The networks of benchmarks/silicon.py whose work can be counted by hand: what each core does in each kind of step.

Every case says in its docstring what was measured, where that is published, and what is assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import attrs
import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.chips.loihi.latencies import Latencies
from spikformer_deploy.chips.loihi.microcode import PROJECTED_GRADIENT, PROPORTIONAL_INTEGRAL
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
    return Case(profile, _arrays(work, (1, cores)), np.ones(1), tiles_of(cores, profile), chips)


def _arrays(work: Work, shape: tuple[int, int]) -> Work:
    """The work with every count as an array (kinds of step, cores)."""
    counts = {name: np.asarray(getattr(work, name), np.float64) for name in work._fields if name != "synapse"}
    return work._replace(**{name: np.broadcast_to(count, shape) for name, count in counts.items()})


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
QUARTZ_NEURONS = 5570
"""With those for synchronisation and biases."""
QUARTZ_WINDOWS = 5
QUARTZ_BETWEEN = 11
"""Steps an image beside the windows of t_max steps."""


@dataclass(frozen=True, slots=True)
class QuartzLayer:
    """A layer of the network, or its pixels.

    fan_in   synapses of a unit
    copies   cores of the next layer that a spike goes to
    window   in which its units fire; a pooling unit passes on its first spike, in the window of the layer before
    eighths  share of the units that fire in each eighth of the window; those of no activation are left: they are all
             made to fire in the last step
    """

    units: int
    cores: int
    fan_in: int
    copies: int
    window: int
    eighths: tuple[float, ...]

    def firing(self, t_max: int, steps: int) -> Floats:
        """(steps,) share of the units that fires in each step of an image."""
        within = np.repeat(self.eighths, t_max // 8) / (t_max // 8)
        within[-1] += 1 - sum(self.eighths)
        shares = np.zeros(steps)
        shares[self.window * t_max : (self.window + 1) * t_max] = within
        return shares


QUARTZ_LAYERS = (
    QuartzLayer(28 * 28, 0, 0, 4, 0, (0.080, 0.015, 0.012, 0.013, 0.011, 0.012, 0.014, 0.021)),
    QuartzLayer(6 * 24 * 24, 4, 25, 1, 1, (0.000, 0.002, 0.007, 0.015, 0.021, 0.031, 0.053, 0.174)),
    QuartzLayer(6 * 12 * 12, 2, 4, 2, 1, (0.000, 0.007, 0.018, 0.031, 0.038, 0.051, 0.078, 0.189)),
    QuartzLayer(12 * 8 * 8, 2, 150, 1, 2, (0.001, 0.002, 0.006, 0.012, 0.021, 0.030, 0.040, 0.054)),
    QuartzLayer(12 * 4 * 4, 1, 4, 1, 2, (0.003, 0.008, 0.017, 0.034, 0.050, 0.061, 0.073, 0.090)),
    QuartzLayer(120, 1, 192, 1, 3, (0.000, 0.001, 0.002, 0.013, 0.042, 0.058, 0.049, 0.068)),
    QuartzLayer(10, 1, 120, 0, 4, (0.107, 0.001, 0.002, 0.001, 0.002, 0.008, 0.009, 0.007)),
)
"""1x28x28, 6x24x24 (kernel 5), 6x12x12 (pool 2), 12x8x8 (5), 12x4x4 (pool 2), 120 (4), 10; cores as published.
A unit of activation a fires after 1 - a of its window: shares are those of the published weights (mnist-convnet.pth)
for 128 MNIST test images."""


def quartz(t_max: int) -> Case:
    """Time-to-first-spike MNIST network on 11 cores of Loihi 1; one image, in which every unit fires once.

    From the published code: layers work one after the other in windows of t_max steps (5 windows and 11 steps are the
    published numbers of steps); units of no activation are made to fire in the last step of their window; a unit's
    current is kept, and a synapse to itself holds it down after its spike, so that it is idle only before its first
    input, until all states are reset at the end of the image.
    Assumed: the inputs of a unit fire independently of each other; layers are cut evenly over their cores, and a spike
    goes to one core of a pooling layer, to both of the second convolution, and, of a pixel, to all four of the first;
    the 160 neurons for synchronisation and biases are idle, and distributed as the units are, and their synapses (8 %)
    are left out.
    """
    steps = QUARTZ_WINDOWS * t_max + QUARTZ_BETWEEN
    crowd = QUARTZ_NEURONS / sum(layer.units for layer in QUARTZ_LAYERS[1:])
    columns: list[Work] = []
    for before, layer in pairwise(QUARTZ_LAYERS):
        columns += [_quartz_core(before, layer, t_max, steps, crowd)] * layer.cores
    counts = (name for name in Work._fields if name != "synapse")
    work = Work(synapse=SPARSE)._replace(
        **{name: np.stack([np.broadcast_to(getattr(c, name), steps) for c in columns], 1) for name in counts}
    )
    profile = load_profile("loihi1")
    return Case(profile, work, np.ones(steps), tiles_of(len(columns), profile))


def _quartz_core(before: QuartzLayer, layer: QuartzLayer, t_max: int, steps: int, crowd: float) -> Work:
    """What one core of a layer does, (steps,) each; crowd: neurons of all kinds a unit."""
    arriving = before.firing(t_max, steps)
    units = layer.units / layer.cores
    updates = units * (1 - (1 - np.minimum(arriving.cumsum(), 1)) ** layer.fan_in)
    spikes = units * layer.firing(t_max, steps)
    return Work(
        updates=updates,
        idle=units * crowd - updates,
        spikes=spikes,
        sent=spikes * layer.copies,
        synops=units * layer.fan_in * arriving,
        messages=before.units * before.copies / layer.cores * arriving,
    )


# --- LSNN ------------------------------------------------------------------------------------------------------------

LSNN_NJ = 26.4
"""1.583 mW, dynamic, of the neuro cores, times 16.649 us a step."""


def lsnn() -> Case:
    """Sequential MNIST by 240 neurons with slow currents on one core of Loihi 1: 140 + 2 x 100 + 10 compartments.

    Source: github.com/intel-nrc-ecosystem/models, nxsdk_modules_ncl/lsnn, sMNIST_Loihi_performance_measurements.ipynb.
    The x86 processors set the time of a step: it is not predicted.
    Counts are means of 840 steps of the first 128 test images (the chip's were 200 others), by the published weights,
    constants and rule of the input, states at rest at the start of an image: 94.5 % of these images came out right, as
    on the chip.  Non-zero weights alone are synapses: 4,263, 10,566 and 846.  18 % of the main compartments and 25 % of
    the slow ones have neither potential nor input.
    """
    idle = 0.182 * 240 + 0.248 * 100
    inputs, spikes, slow = 2.39, 13.03, 5.84
    work = Work(
        updates=140 + 2 * 100 + 10 - idle,
        idle=idle,
        spikes=spikes,
        sent=spikes,
        # of the input, of the neurons, and from each main compartment to its slow one
        synops=129.5 + 637.8 + slow,
        messages=inputs + spikes,
        synapse=SPARSE,
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
        programmed=np.array([[gradient, 0.0], [0.0, integral]]),
        length=np.array([PROJECTED_GRADIENT.share, PROPORTIONAL_INTEGRAL.share]),
        idle=np.array([[0.0, integral], [gradient, 0.0]]),
        spikes=np.array([[gradient, 0.0], [0.0, integral]]),
        sent=np.array([[2.0 * gradient, 0.0], [0.0, integral]]),
        synops=np.array([[of_q, of_a], [of_a, 0.0]]),
        messages=np.array([[gradient, gradient], [integral, 0.0]]),
        synapse=SPARSE,
    )
    profile = load_profile("oheo_gulch")
    return Case(profile, _arrays(work, (2, 2)), np.ones(2), tiles_of(2, profile))


# --- boards ----------------------------------------------------------------------------------------------------------

BOARDS_US = {(4, 64): 14.3, (12, 64): 16.2}
"""By columns and rows of chips: us of a step in which nothing happens.  Source: Frady et al., NICE 2020."""


def boards() -> Iterator[tuple[str, float, Case]]:
    """Columns x rows, measured us and the empty step of boards of Loihi 1, all tiles of all chips in use."""
    profile = load_profile("loihi1")
    tiles = int(profile.chip.tiles_x) * int(profile.chip.tiles_y)
    for (columns, rows), measured in BOARDS_US.items():
        case = Case(profile, _arrays(Work(), (1, 1)), np.ones(1), tiles, columns * rows, columns + rows - 2)
        yield f"{columns}x{rows}", measured, case
