"""What every executor is asked for and gives back: one signature for all of them.

An executor is prepared for a network once (Request to Executor), and then takes batches of images (to Execution):
logits, spikes where asked for, and the activity from which all events are counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.errors import InputError, OverflowDetected
from spikformer_deploy.base.memory import peak_memory_mib
from spikformer_deploy.base.progress import Progress, silent
from spikformer_deploy.network.mapping import Way
from spikformer_deploy.network.network import Network, Population
from spikformer_deploy.network.neurons import Source, most_current

BATCH = 32
"""Images at once, where memory allows: enough to keep the cores busy, few enough for progress to be seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """A grid over the neurons of a population, as fine as the counting of events needs it.

    channels  (slices + 1,) int64 edges of ranges of channels, [0, ..., C]
    rows      (Y,) int64 the class 0, 1, ... of every row; the rows of a class need not be neighbours
    columns   (X,) int64 likewise
    """

    channels: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Ranges of channels, classes of rows, classes of columns."""
        return len(self.channels) - 1, int(self.rows.max()) + 1, int(self.columns.max()) + 1


def one_cell(shape: tuple[int, int, int]) -> Cells:
    """The coarsest grid of a population (C, Y, X)."""
    return Cells(np.array([0, shape[0]]), np.zeros(shape[1], np.int64), np.zeros(shape[2], np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Activity:
    """What one population sent, summed so that it stays small and all event counts can be had from it exactly.

    messages  (images, T, slices, rows, columns) int32: non-zero outputs in each cell
    cells     what the last three axes are
    active    (C, Y, X) bool: neurons that sent anything in any step of any image; None: not known
    total     (T,) int64: sum of the values sent (equals the messages for binary spikes), over images and neurons
    idle      as messages: idle neurons in each cell, of populations where potentials say which these are
              (network.neurons.may_idle).  None of others: all are updated, or those that send nothing are idle
    values    as messages: the sum of what was sent from each cell, of populations that send numbers of spikes
              (network.network.graded_spikes).  None of others: each message counts once
    """

    messages: NDArray[np.int32]
    cells: Cells
    active: NDArray[np.bool_] | None
    total: NDArray[np.int64]
    idle: NDArray[np.int32] | None
    values: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Execution:
    """What an executor gives back for a batch of images.

    accumulators  (images, classes) int64: the integer result; logits = accumulators * scale of the network's head
    activity      by population name (all but the Accumulator)
    spikes        by population name, those recorded: (images, T, C, Y, X) uint8 or int32
    membranes     by population name, those recorded: (images, T, C, Y, X) int32, after the reset
    coincidences  by target of an attention: (T,) int64 pairs of messages k[n, c], v[n, c'] of one token and head
    peak_state    by population name: largest |state| or |sum| met, for the check of bounds
    kernels       a note on what computed the sums, for the report: "int8, events", "plain", "onnxruntime"
    """

    accumulators: NDArray[np.int64]
    activity: dict[str, Activity]
    spikes: dict[str, NDArray[np.integer]]
    membranes: dict[str, NDArray[np.int32]]
    coincidences: dict[str, NDArray[np.int64]]
    peak_state: dict[str, int]
    kernels: str


class Execute(Protocol):
    """Runs images; `record` names the populations whose spikes and potentials are kept."""

    def __call__(self, images: NDArray[np.integer], record: Sequence[str] = ()) -> Execution: ...


class Executor(NamedTuple):
    """An executor that is ready for one network, and how many images it takes at once."""

    execute: Execute
    batch: int


class Left(NamedTuple):
    """The images of a batch that left after the same time step (network/exits.py).

    steps      after which they left, 1 to T
    places     (n,) int64 where they stand in the batch, ascending
    execution  of them, in the layout of all T steps: the first `steps` of these count, whatever stands in later ones
               and in what is of all steps (accumulators, active, peak_state)
    """

    steps: int
    places: NDArray[np.int64]
    execution: Execution


class Exits(Protocol):
    """Runs images until they leave; `record` as of Execute, with the head always in it."""

    def __call__(self, images: NDArray[np.integer], record: Sequence[str] = ()) -> list[Left]: ...


class Leave(NamedTuple):
    """An executor with early exit that is ready for one network, and how many images it takes at once."""

    execute: Exits
    batch: int


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What an executor is prepared for.

    cells         the grids of Activity.messages, by population; one cell each where nothing is said
    memory_limit  bytes that the process may take
    progress      called with how far a batch is, by executors that take long for one
    ways          how the cores of a mapping take attentions, by target: for executors that do it that way
    """

    network: Network
    cells: Mapping[str, Cells] | None = None
    device: str = "cpu"
    memory_limit: int | None = None
    progress: Progress = silent
    ways: Mapping[str, Way] | None = None

    def images_at_once(self, image_bytes: int, most_bytes: int, fixed_bytes: int = 0) -> int:
        """Images a batch, where each takes `image_bytes` beside the `fixed_bytes` of all.

        At most BATCH, and as many as `most_bytes` hold, but one at least.
        Raises InputError where `memory_limit` does not even hold one, and where the system does not say what is taken.
        """
        batch = min(BATCH, max(1, most_bytes // image_bytes))
        if self.memory_limit is None:
            return batch
        taken = peak_memory_mib()
        if math.isnan(taken):
            raise InputError("--memory-limit", "this system does not say what a process takes", "Leave it out.")
        left = self.memory_limit - int(taken * 2**20) - fixed_bytes
        if left < image_bytes:
            needed = (self.memory_limit - left + image_bytes) / 2**20
            raise InputError(
                "--memory-limit",
                f"{self.memory_limit / 2**20:,.0f} MiB, and one image at a time takes {needed:,.0f} MiB",
                "Give at least that.",
            )
        return min(batch, left // image_bytes)


def frames(network: Network, images: NDArray[np.integer]) -> NDArray[np.integer]:
    """What the Source sends: (N, T, C, Y, X), a read-only view where one image serves all T steps.

    Raises InputError for images of another shape, of a float dtype, or with pixels outside [0, max_value].
    """
    source = network.input
    values = np.asarray(images)
    assert isinstance(source.neuron, Source)
    shape = (network.time_steps, *source.shape) if source.neuron.per_step else source.shape
    expected = "x".join(map(str, shape))
    if values.dtype.kind not in "ui":
        raise InputError("input", f"images are {values.dtype}, and the program takes integer pixels", "Pass uint8.")
    if values.shape[1:] != shape:
        got = "x".join(map(str, values.shape[1:]))
        raise InputError("input", f"images are {got}, and the program takes {expected}", "Resize them, or recompile.")
    if values.size and (values.min() < 0 or values.max() > source.neuron.max_value):
        low, high, limit = values.min(), values.max(), source.neuron.max_value
        raise InputError("input", f"pixels are in [{low}, {high}], and the program takes [0, {limit}]")
    if source.neuron.per_step:
        return values
    return np.broadcast_to(values[:, None], (len(values), *(network.time_steps, *source.shape)))


def check_state(network: Network, population: Population, largest: int) -> None:
    """Raise OverflowDetected where `largest`, a magnitude met in `population`, leaves the state of the network.

    A Stream must not send more than it says either: its readers' sums are exact up to there.
    """
    limit = 2 ** (network.state_bits - 1) - 1
    allowed = most_current(population.neuron, population.max_out)
    if allowed is not None and limit >= largest > allowed:
        raise OverflowDetected(
            population.name,
            f"a current of {largest} in a stream that was proven or observed to stay within {allowed}",
            "Calibrate on images like these.",
        )
    if largest > limit:
        raise OverflowDetected(
            population.name,
            f"a state of {largest} does not fit {network.state_bits} bits (at most {limit})",
            "Calibrate on images like these, or compile with fewer weight bits.",
        )
