"""Frame by frame: a program that is given one frame a time step, as cameras give them, and says what it knows so far.

Nothing in a time step depends on a later one: after t frames a stream holds what a run of t steps holds, bit for bit,
in every spike, potential and count.  Nothing ends a stream; who wants the answers of whole runs resets it after T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError, OverflowDetected
from spikformer_deploy.base.options import named
from spikformer_deploy.counts.events import Events, count, geometry
from spikformer_deploy.data import arrays
from spikformer_deploy.data.given import as_array, whole
from spikformer_deploy.data.pixels import as_pixels
from spikformer_deploy.data.request import ImageRequest
from spikformer_deploy.executors.execution import check_state
from spikformer_deploy.executors.fast.stepwise import Stepper
from spikformer_deploy.inference.given import AnyProgram, program_of
from spikformer_deploy.inference.recorded import check_layers, has_potential
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.neurons import Accumulator, Lif
from spikformer_deploy.network.steps import share_of_bias

DONE = "time_steps"
OPERATIONS = "synaptic_ops"
OF_PROGRAM = "program"
STATE = "state."
"""Keys of a saved state; those of layers begin with the last one."""
MOST_STEPS = 2**31
"""Of a state that is restored: a year at sixty frames a second."""


@dataclass(frozen=True, eq=False)
class After:
    """What a stream says after a frame.

    step          frames since the last reset, from 1
    spikes        by layer, (C, Y, X) of this step: of the layers that the head reads, and of those recorded
    potentials    by layer, (C, Y, X) int32 after the reset: of those recorded that keep one
    accumulators  (classes,) int64 what the head of a program of `step` steps holds
    logits        (classes,) float64: the mean over the steps so far; of a head that forgets, of this step
    margin        how far the largest accumulator is ahead of the second largest; None of a single one
    prediction    the class with the largest logit, the first of equals; class_name: as the program calls it, or None
    events        of this step, with T = 1
    synaptic_ops  of all steps since the last reset
    output_spikes  by layer that the head reads, how many of its neurons sent something in this step
    """

    step: int
    spikes: dict[str, NDArray[np.integer]]
    potentials: dict[str, NDArray[np.int32]]
    accumulators: NDArray[np.int64]
    logits: NDArray[np.float64]
    margin: int | None
    prediction: int
    class_name: str | None
    events: Events
    synaptic_ops: int
    output_spikes: dict[str, int]

    def __repr__(self) -> str:
        name = f" ({self.class_name})" if self.class_name else ""
        return f"After(step {self.step}: class {self.prediction}{name}, {self.synaptic_ops:,} synaptic operations)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values: a line of `spikdeploy run --stream --json`."""
        return {
            "step": self.step,
            "prediction": self.prediction,
            "class_name": self.class_name,
            "logits": self.logits.tolist(),
            "accumulators": self.accumulators.tolist(),
            "margin": self.margin,
            "output_spikes": self.output_spikes,
            "synaptic_ops": self.synaptic_ops,
            "synaptic_ops_of_step": int(self.events.synops_by_step[0]),
        }


class Stream:
    """A program that takes one frame a time step, from rest.

    program  a Program, or the path of a .spk file; one compiled for any T, in any schedule: the integers are the same
    record   layers whose spikes and potentials every step gives too
    Raises InputError for a layer that there is not, and for a program on windows of time series: the first of its time
    steps needs the whole window.
    """

    @named
    def __init__(self, program: AnyProgram, *, record: str | Sequence[str] = ()) -> None:
        self.program = program_of(program)
        network = self.program.network
        if self.program.preprocess.series is not None:
            problem = "it takes windows of a time series, and each of its time steps sees a whole window"
            raise InputError("program", problem, "Give whole windows to sd.run.")
        self._record = check_layers(network, record)
        self._outputs = _read_by_head(network)
        self._seen = tuple(dict.fromkeys((*self._outputs, *self._record)))
        self._request = ImageRequest(self.program.preprocess, 0, None, "test", None)
        single = _of_one_step(network)
        self._geometry = geometry(single, self.program.mapping)
        self._stepper = Stepper(single, self._geometry.cells)
        self._done = 0
        self._operations = 0

    def __repr__(self) -> str:
        return f"Stream({self._done} time steps of {self.program.network.input.shape} frames)"

    @property
    def time_steps(self) -> int:
        """Frames since the last reset."""
        return self._done

    def reset(self) -> None:
        """Let everything rest, as before the first frame."""
        self._stepper.states = {}
        self._done = self._operations = 0

    def step(self, frame: Any) -> After:
        """The next time step.

        frame  (C, Y, X), (Y, X) of one channel or (Y, X, C): an array, a tensor or an image of Pillow; pixels as the
               program takes them in whole numbers or, where they tell, pixels / 255 or normalised as the model's
        Raises InputError for other frames, OverflowDetected where a state leaves its bits, as it may in the end without
        a reset; the stream then stands where it stood before.
        """
        pixels = self._pixels(frame)
        done = self._done + 1
        before = self._stepper.states
        try:
            execution = self._stepper.step(pixels, self._seen)
            accumulators, logits = self._results(execution.accumulators[0], done)
            events = count(self._geometry, execution)
        except BaseException as error:  # an interruption too
            self._stepper.states = before
            steps = self.program.network.time_steps
            if isinstance(error, OverflowDetected) and done > steps:
                raise OverflowDetected(error.place, error.problem, _reset_after(steps, done)) from None
            raise
        self._done = done
        self._operations += int(events.synops_by_step[0])
        prediction = int(logits.argmax())
        network, names = self.program.network, self.program.labels
        spikes = {name: execution.spikes[name][0, 0] for name in self._seen}
        return After(
            step=done,
            spikes=spikes,
            potentials={n: execution.membranes[n][0, 0] for n in self._record if has_potential(network[n])},
            accumulators=accumulators,
            logits=logits,
            margin=_margin(accumulators),
            prediction=prediction,
            class_name=names[prediction] if names else None,
            events=events,
            synaptic_ops=self._operations,
            output_spikes={name: int(np.count_nonzero(spikes[name])) for name in self._outputs},
        )

    def state(self) -> dict[str, NDArray[Any]]:
        """All that it holds, as plain arrays: numpy.savez(path, **stream.state()) keeps it.

        "state.LAYER" (C, Y, X) int64, or (2, C, Y, X), potential and current, of neurons that have both; "time_steps"
        and "synaptic_ops" since the last reset, and "program": the digest of the network that they are of.
        """
        held = {f"{STATE}{name}": _alone(self, name, values) for name, values in self._stepper.states.items()}
        return {
            OF_PROGRAM: np.array(self.program.network.digest()),
            DONE: np.array(self._done),
            OPERATIONS: np.array(self._operations),
            **held,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, or from the file that numpy.load opened.

        Raises InputError for the state of another program, and for one that is damaged; the stream then stands where it
        stood before.
        """
        network = self.program.network
        if not isinstance(state, Mapping):
            way_out = "Give what `state` gave, or what numpy.load opened."
            raise InputError("state", f"it is a {type(state).__name__}, and no mapping", way_out)
        if str(_entry(state, OF_PROGRAM, "U", ())) != network.digest():
            raise InputError("state", "it is of another program", "Restore it in a stream of that one.")
        done, operations = (int(_entry(state, key, "i", ())) for key in (DONE, OPERATIONS))
        if not 0 <= done < MOST_STEPS or operations < 0:
            raise InputError("state", f"{done} time steps and {operations} operations", "It is damaged.")
        states = {} if not done else {n: _held(network, n, state) for n in self._holding()}
        unknown = set(state) - {OF_PROGRAM, DONE, OPERATIONS, *(f"{STATE}{name}" for name in states)}
        if unknown:
            raise InputError("state", f"it holds {sorted(unknown)[0]!r}, which no stream keeps", "It is damaged.")
        self._stepper.states, self._done, self._operations = states, done, operations

    def _holding(self) -> list[str]:
        """The layers that hold something between two steps."""
        return [p.name for p in self.program.network if has_potential(p)]

    def _pixels(self, frame: Any) -> NDArray[np.uint8]:
        shape = self.program.network.input.shape
        one = f"one frame a step, (C, Y, X) = {shape}"
        array = as_array(frame, "frame", f"Give {one}: an array, a tensor or an image of Pillow.")
        if array.shape not in (shape, (*shape[1:], shape[0])) and (array.shape != shape[1:] or shape[0] > 1):
            raise InputError("frame", f"its shape is {array.shape}, and it is to be {one}", "Give frame after frame.")
        if not self.program.frames:  # frames of recordings hold counts, whatever their type
            # (1, Y, X) of one channel, whose axis may be left out
            array = whole(array[None] if array.ndim == 2 else array, self.program.preprocess)
        pixels: NDArray[np.uint8] = as_pixels(arrays.in_memory("frame", array[None]), self._request)[0]
        return pixels

    def _results(self, states: Int, done: int) -> tuple[Int, NDArray[np.float64]]:
        """(accumulators, logits) of a program of `done` steps, from the states of the head of T steps."""
        network = self.program.network
        head = network.output.neuron
        assert isinstance(head, Accumulator)
        wide = len(states) // len(head.scale)
        if head.last:
            scale: NDArray[np.float64] = np.repeat(head.scale, wide)
            return states, states * scale
        share = share_of_bias(head.bias, done, network.time_steps) - head.bias
        accumulators = states + np.repeat(share, wide)
        check_state(network, network.output, int(np.abs(accumulators).max(initial=0)))
        scale = np.repeat(head.scale * (network.time_steps / done), wide)
        return accumulators, accumulators * scale


def _reset_after(steps: int, done: int) -> str:
    """The way out where a state left its bits in frame `done` after a reset, of a program of fewer `steps`."""
    held = f"the ranges of this program are proven or observed for {steps} frames after a reset"
    return f"Call reset() in time, or give --reset-every {steps}: {held}, and this was frame {done}."


def _margin(accumulators: Int) -> int | None:
    if len(accumulators) < 2:
        return None
    second, first = np.partition(accumulators, -2)[-2:].tolist()
    return first - second


def _of_one_step(network: Network) -> Network:
    """The same integers, all of them, of a single time step; its head keeps the bias of all steps."""
    return replace(network, time_steps=1)


def _read_by_head(network: Network) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for p in network.into(network.output.name) for name in p.sources))


def _alone(stream: Stream, name: str, values: Int) -> Int:
    """The state of a layer without the axis of images; a copy, as the stream goes on."""
    both = _has_current(stream.program.network, name)
    return (values[:, 0] if both else values[0]).copy()


def _has_current(network: Network, name: str) -> bool:
    """Whether its neurons hold a current beside their potential."""
    neuron = network[name].neuron
    return isinstance(neuron, Lif) and bool(neuron.current)


def _held(network: Network, name: str, state: Mapping[str, Any]) -> Int:
    """The state of a layer as network.neurons.step takes it."""
    population = network[name]
    both = _has_current(network, name)
    shape = (2, *population.shape) if both else population.shape
    values = _entry(state, f"{STATE}{name}", "i", shape).astype(np.int64)
    limit = 2 ** (network.state_bits - 1)
    if values.size and (values.min() < -limit or values.max() >= limit):
        raise InputError("state", f"{name} holds more than {network.state_bits} bits", "It is damaged.")
    return values[:, None] if both else values[None]


def _entry(state: Mapping[str, Any], key: str, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of a saved state.  Raises InputError where it is missing, damaged, of another type or another shape."""
    try:
        array = np.asarray(state[key])
    except Exception as error:  # a damaged file makes numpy raise a dozen types, tokenize.TokenError among them
        raise InputError("state", f"'{key}' cannot be read ({type(error).__name__})", "It is damaged.") from None
    if array.dtype.kind != kind or array.shape != shape:
        problem = f"'{key}' is {array.shape} of {array.dtype}, and {shape} is needed"
        raise InputError("state", problem, "It is damaged, or of another program.")
    return array
