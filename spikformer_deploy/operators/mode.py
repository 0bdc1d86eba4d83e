"""The mode under which a model is counted: it sees every operator that torch runs, and hooks say in which module.

What runs outside of the model's forward pass (losses, optimizers, backward passes) is left alone.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from spikformer_deploy.counts.operations import Counted
from spikformer_deploy.operators.follow import (
    ACTIVE,
    COMPARED,
    INPUT,
    SPIKES,
    Followed,
    key_of,
    operands_of,
    tensors_in,
)
from spikformer_deploy.operators.neurons import OPERATORS, Layout, by_step, holds_state, layout_of, spikes_of, steps_in
from spikformer_deploy.operators.pairs import absolute_over, nonzero_over
from spikformer_deploy.operators.rules import OPERANDS, Call, bias_alone, unknown
from spikformer_deploy.operators.schema import Operator, operator_of
from spikformer_deploy.operators.seen import Seen, observe
from spikformer_deploy.operators.tally import Fired, Place, Population, Tally

ELEMENTWISE = ("addition", "multiplication", "scaling", "reduction", "function")
"""Kinds that are part of a neuron where a module of them makes spikes."""
MERGED = ("addition", "scaling", "reduction", "function")
"""Kinds of which a module has one place for all its lines: neurons that are written by hand are made of them."""
SPIKING = ("binary", "two values", "integers", "levels")
"""What a threshold by hand may give."""
_CALLS = (nn.Module._call_impl.__code__, nn.Module._wrapped_call_impl.__code__)


@dataclass(slots=True)
class Threshold:
    """Spikes of a threshold that is written by hand, or of a module that holds such and nothing but."""

    key: Hashable
    path: str
    shown: str
    neuron: str
    fired: list[Fired]


@dataclass(slots=True)
class Frame:
    """A module whose forward is running.

    layout       of known neurons
    layer        whether it is a layer of torch: then its operator is the module itself
    weighted     whether anything in it has weights, or multiplies activations as matrices
    thresholds   those written by hand in it
    calls        how often each of them ran
    elementwise  what may turn out to be part of a neuron: places, operators, and counts
    """

    path: str
    module: nn.Module
    layout: Layout | None
    layer: bool
    weighted: bool = False
    thresholds: list[Threshold] = field(default_factory=list)
    calls: dict[Hashable, int] = field(default_factory=dict)
    elementwise: list[tuple[Place, str, Counted]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Weighed:
    """The last product with weights: a bias that is added to its result is part of it."""

    storage: int
    place: Place
    seen: Seen


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; those of inference mode do not say."""
    return 0 if tensor.is_inference() else int(tensor._version)


class CountingMode(TorchDispatchMode):
    """Counts what the forward passes of `model` do, into `tally`."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, time_steps: int | None, images: int | None) -> None:
        super().__init__()
        self.model = model
        self.time_steps = time_steps
        self.images = images
        self.tally = Tally()
        self.followed = Followed()
        self.frames: list[Frame] = []
        self.last: tuple[weakref.ref[Tensor], int] | None = None
        self.warned = False
        self.inside_neuron: Frame | None = None
        self.weighed: Weighed | None = None
        self.lead = 0
        self.second = 0
        self.batch: int | None = None
        self.steps_before = 0
        self.layouts = {module: layout_of(module) for module in model.modules()}
        self.held: dict[int, StorageWeakRef] = {}
        self.layers = {module for module in model.modules() if _is_layer(module)}

    # ------------------------------------------------------------------ modules

    def enter(self, path: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """The forward of `module` begins."""
        if module is self.model and not self.frames:
            with self._aside():
                self._begin(inputs)
        elif not self.frames:
            return
        frame = Frame(path, module, self.layouts[module], module in self.layers)
        self.frames.append(frame)
        if frame.layer:
            self._feed(inputs)
        if frame.layout and self.inside_neuron is None:
            self.inside_neuron = frame

    def _feed(self, inputs: tuple[Any, ...]) -> None:
        """What a layer reads is an activation, even if it is a state of zeros that nothing has reached yet."""
        for tensor in tensors_in(inputs):
            if not self.followed.flags(tensor) and key_of(tensor) not in self.held:
                self.followed.mark(tensor, ACTIVE)

    def leave(self, module: nn.Module, output: Any) -> None:
        """The forward of `module` ends; output is None where it raised."""
        if not any(frame.module is module for frame in self.frames):
            return
        frame = self.frames.pop()
        while frame.module is not module:
            frame = self.frames.pop()
        if self.inside_neuron is frame:
            self.inside_neuron = None
            with self._aside():
                self._neurons(frame, output)
        elif self.inside_neuron is None:
            with self._aside():
                self._close(frame, output)
        if not self.frames and output is not None:
            self._end()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Work on tensors that is not the model's."""
        with torch._C._DisableTorchDispatch(), torch.no_grad():
            yield

    def _begin(self, inputs: tuple[Any, ...]) -> None:
        """A pass of the model begins: on new images, unless neurons or arguments hold the state of an earlier pass."""
        self.followed.forget_all_values()
        held = (*self.model.parameters(), *self.model.buffers())
        # held weakly: the key of a buffer that the model replaces (a state) must not become another tensor's
        self.held = {
            key_of(tensor): StorageWeakRef(tensor.untyped_storage()) for tensor in held if _has_storage(tensor)
        }
        self.followed.weights = {key_of(tensor) for tensor in self.model.parameters() if _has_storage(tensor)}
        tensors = list(tensors_in(inputs))
        states = [tensor for tensor in tensors[1:] if self.followed.flags(tensor) & (ACTIVE | INPUT) == ACTIVE]
        if not self._goes_on(bool(states)):
            self._warn_of_steps(tensors)
            self.tally.begin()
        self.last = (weakref.ref(tensors[0]), _version(tensors[0])) if tensors else None
        self.lead = tensors[0].shape[0] if tensors and tensors[0].dim() else 1
        self.second = tensors[0].shape[1] if tensors and tensors[0].dim() > 1 else 0
        self.batch = None
        self.steps_before = self.tally.steps()
        for tensor in tensors:
            if not any(tensor is state for state in states):
                self.followed.mark(tensor, ACTIVE | INPUT)
        self.tally.passes += 1
        self.weighed = None

    def _warn_of_steps(self, tensors: list[Tensor]) -> None:
        """Warn, once, where new images are the very tensor of the pass before: they may be its next time step."""
        if self.last is None or self.time_steps or not tensors or self.warned:
            return
        tensor, version = self.last
        if tensor() is tensors[0] and _version(tensors[0]) == version:
            self.warned = True
            warnings.warn(
                "the model was called again on the same input, which counts as other images: if these are its time "
                "steps, give time_steps",
                stacklevel=2,
            )

    def _goes_on(self, states: bool) -> bool:
        """Whether this pass is another time step of the images of the pass before: states: it is given its states."""
        steps = self.tally.steps()
        if not steps:
            return False
        if self.time_steps:
            return steps < self.time_steps
        return states or any(layout == "step" and holds_state(module) for module, layout in self.layouts.items())

    def _end(self) -> None:
        """A pass of the model has ended: images are told by neurons where the input leads with time."""
        if self.steps_before:
            return
        steps, batch = self.tally.steps(), self.batch or self.lead
        time_first = self.lead == steps and self.second == batch
        self.tally.images += batch if time_first or self.lead == steps * batch else self.lead

    def _neurons(self, frame: Frame, output: Any) -> None:
        """Record what known neurons have sent."""
        for tensor in tensors_in(output):
            self.followed.mark(tensor, ACTIVE)
        spikes = spikes_of(output)
        if spikes is not None:
            self.followed.mark(spikes, ACTIVE | SPIKES)
        if spikes is None or not spikes.numel() or frame.layout is None:
            return
        steps = steps_in(spikes, frame.layout, frame.module)
        fired = self._fired(spikes, frame.layout, steps)
        self._add_fired(frame.module, frame.path, "", type(frame.module).__name__, fired, told=True)

    def _called(self, operator: Operator, spikes: Tensor) -> None:
        """Record what neurons have sent that are an operator, and no module."""
        self.followed.mark(spikes, ACTIVE | SPIKES)
        path = self.frames[-1].path
        fired = self._fired(spikes, "time first", spikes.shape[0])
        self._add_fired((path, self._site()), path, operator.shown, operator.shown, fired, told=True)

    def _add_fired(self, key: Hashable, path: str, shown: str, neuron: str, fired: Fired, told: bool) -> None:
        """Add what a population sent in one call."""
        population = self.tally.populations.get(key)
        if population is None:
            name = self.tally.name(path, shown) if shown else path or neuron
            population = self.tally.populations[key] = Population(name, neuron, told)
        population.told |= told or len(fired.spikes) > 1
        population.add(fired)
        if self.batch is None:
            self.batch = fired.images

    def _fired(self, spikes: Tensor, layout: Layout, steps: int) -> Fired:
        """What `spikes` hold, by step."""
        seen = self.followed.seen(spikes)
        sorted_ = by_step(spikes, layout, steps)
        images = sorted_.shape[1] if sorted_.dim() > 1 else 1
        dims = tuple(range(1, sorted_.dim()))
        if steps == 1 or not dims:
            counts, values = [seen.nonzero], [seen.total]
        else:
            counts = nonzero_over(sorted_, dims, seen.operand == "binary").tolist()
            values = counts if seen.operand == "binary" else absolute_over(sorted_, dims).tolist()
        elements = spikes.numel() // max(1, steps * images)
        return Fired(elements, images, counts, values, seen.largest, seen.operand)

    def _close(self, frame: Frame, output: Any) -> None:
        """Settle what a module did: if it made spikes and nothing in it has weights, it is neurons."""
        spikes = spikes_of(output)
        parent = self.frames[-1] if self.frames else None
        if frame.thresholds and not frame.weighted and spikes is not None and spikes.numel():
            seen = self.followed.seen(spikes)
            if seen.operand in SPIKING:
                # a module of thresholds in a larger one may be a part of it: that is for the larger one to say
                fired = self._fired_by_hand(spikes, max(frame.calls.values(), default=1))
                frame.thresholds = [Threshold(frame.module, frame.path, "", type(frame.module).__name__, [fired])]
                frame.elementwise = []
                self.followed.add(spikes, SPIKES)
        if parent is not None and not frame.weighted:
            parent.thresholds += frame.thresholds
            parent.elementwise += frame.elementwise
            for threshold in frame.thresholds:
                parent.calls[threshold.key] = parent.calls.get(threshold.key, 0) + 1
            return
        for threshold in frame.thresholds:
            for fired in threshold.fired:
                self._add_fired(threshold.key, threshold.path, threshold.shown, threshold.neuron, fired, told=False)
        for place, operator, counted in frame.elementwise:
            place.add(operator, counted)
        if parent is not None:
            parent.weighted = True

    def _fired_by_hand(self, spikes: Tensor, calls: int) -> Fired:
        """What spikes of a threshold by hand hold; time is found by how often it ran in the module that gave them."""
        steps = calls if calls > 1 else self.time_steps or 1
        shape = spikes.shape
        if steps == 1 or not shape:
            return self._fired(spikes, "step", 1)
        if shape[0] == steps and (calls > 1 or shape[0] != self.lead or (len(shape) > 1 and shape[1] == self.second)):
            return self._fired(spikes, "time first", steps)
        if calls > 1 and len(shape) > 1 and shape[1] == steps:
            return self._fired(spikes, "images first", steps)
        # as many as the input leads with are images of one step, unless it is told that they are not
        if shape[0] % steps == 0 and (shape[0] != self.lead or shape[0] == (self.images or 0) * steps):
            return self._fired(spikes.unflatten(0, (steps, -1)), "time first", steps)
        return self._fired(spikes, "step", 1)

    # ---------------------------------------------------------------- operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # a graph task is a backward pass, which runs forwards again where they were checkpointed
        if not self.frames or torch._C._current_graph_task_id() != -1:
            return func(*args, **kwargs)
        operator = operator_of(func)
        if operator.composite:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return self._run(operator, func, args, kwargs)

    def _run(self, operator: Operator, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator, count it, and follow what it gives."""
        operands = operands_of(args, kwargs)
        if any(operand.layout is not torch.strided or operand.is_quantized for operand in operands):
            return self._opaque(operator, func(*args, **kwargs))
        flags = [self.followed.flags(operand) for operand in operands]
        if not any(flags) or operator.fresh:
            result = func(*args, **kwargs)
            if operator.writes:
                self._written(operands)
            elif operator.name == "zeros" and isinstance(self.frames[-1].module, nn.RNNBase):
                # the state before the first step: its products with weights are computed like those of all steps
                self.followed.mark(result, ACTIVE)
            return result
        if operator.early:
            with torch._C._DisableTorchDispatch():
                self._count(operator, args, kwargs, operands, flags, None)
        result = func(*args, **kwargs)
        if operator.view:
            return result
        # another count around this one must not see what this one looks at
        with torch._C._DisableTorchDispatch():
            if operator.shown in OPERATORS and self.inside_neuron is None:
                self._called(operator, result)
                return result
            if operator.writes:
                self._written(operands)
            if not operator.early and not operator.moving:
                self._count(operator, args, kwargs, operands, flags, result)
            self._follow(operator, operands, flags, result)
        return result

    def _opaque(self, operator: Operator, result: Any) -> Any:
        """An operator on sparse or quantized tensors: it is named, and what it gives is an activation."""
        path = self.frames[-1].path
        self.tally.not_understood[f"{path}: {operator.shown}" if path else operator.shown] = None
        for tensor in tensors_in(result):
            if tensor.layout is torch.strided:
                self.followed.mark(tensor, ACTIVE)
        return result

    def _written(self, operands: list[Tensor]) -> None:
        """Values of an operand were written anew: of which one is not asked."""
        for operand in operands:
            self.followed.forget_values(operand)

    def _follow(self, operator: Operator, operands: list[Tensor], flags: list[int], result: Any) -> None:
        """Say of what an operator gave on what it depends; and find thresholds."""
        active = [flag for flag in flags if flag]
        given = ACTIVE
        if operator.moving or (operator.rule is not None and not operator.weighted and not operator.comparison):
            given |= INPUT * all(flag & INPUT for flag in active)
        if operator.moving:
            given |= SPIKES * all(flag & SPIKES for flag in active)
        results = list(tensors_in(result))
        fires = self.inside_neuron is None and self._fires(operator, operands, flags, results)
        kept = operator.keeping and any(flag & COMPARED for flag in active)
        if kept or (operator.comparison and not active[0] & SPIKES):
            given |= COMPARED
        for tensor in results:
            self.followed.mark(tensor, given & ~COMPARED if tensor.is_floating_point() else given)
        if fires:
            self.followed.mark(results[0], ACTIVE | SPIKES)
            self._threshold(results[0])

    def _fires(self, operator: Operator, operands: list[Tensor], flags: list[int], results: list[Tensor]) -> bool:
        """Whether an operator is where a threshold becomes numbers: 0 or 1, or 0 to D, of reals."""
        if not results or not results[0].is_floating_point():
            return False
        if operator.comparison:
            return not flags[0] & SPIKES
        if operator.rounding:
            return not flags[0] & SPIKES and observe(results[0]).operand in ("binary", "integers")
        # truth values become numbers: by a conversion, a copy, or a product with constants
        if operator.name not in ("_to_copy", "copy", "mul", "where"):
            return False
        sources = list(zip(operands, flags, strict=True))[operator.name == "copy" :]
        numbers = any(flag and operand.is_floating_point() for operand, flag in sources)
        return not numbers and any(flag & COMPARED for _, flag in sources)

    def _threshold(self, spikes: Tensor) -> None:
        """Keep what a threshold by hand gave, until its module ends."""
        frame = self.frames[-1]
        site = ("threshold", *self._site())
        key = (frame.path, site)
        frame.calls[key] = frame.calls.get(key, 0) + 1
        fired = self._fired_by_hand(spikes, 1)
        for threshold in frame.thresholds:
            if threshold.key == key:
                threshold.fired.append(fired)
                return
        frame.thresholds.append(Threshold(key, frame.path, "threshold", "threshold", [fired]))

    def _count(
        self, operator: Operator, args: Any, kwargs: Any, operands: list[Tensor], flags: list[int], result: Any
    ) -> None:
        """Count one call of an operator."""
        if operator.truth or (self.inside_neuron is not None and not operator.weighted):
            return
        if operator.rule is None and not _computes(result):
            return
        followed = self.followed
        call = Call(
            operator.name,
            operator.arguments(args, kwargs),
            [operand for operand, flag in zip(operands, flags, strict=True) if flag],
            result,
            followed.is_activation,
            followed.is_spikes,
            followed.seen,
            followed.zeros,
        )
        sides = OPERANDS.get(operator.name)
        first = any(
            flag & INPUT
            for operand, flag in zip(operands, flags, strict=True)
            if sides is None or any(operand is call.arguments[side] for side in sides)
        )
        for kind, counted in (operator.rule or unknown)(call):
            self._add(operator, call, kind, counted, first)

    def _add(self, operator: Operator, call: Call, kind: str, counted: Counted, first: bool) -> None:
        """Add what one call costs to its place."""
        if kind == "scaling" and self._adds_bias(operator, call, counted):
            return
        frame = self.frames[-1]
        place = self._place(frame, operator, kind)
        if kind in ELEMENTWISE:
            frame.elementwise.append((place, operator.name, counted))
            return
        frame.weighted = True
        place.add(operator.name, counted)
        place.first |= first
        if kind == "linear" and isinstance(call.result, Tensor):
            seen = Seen(counted.operand, counted.elements_in, counted.nonzero_in, counted.sum_in, 0.0, 0.0)
            self.weighed = Weighed(key_of(call.result), place, seen)
        if kind == "unknown":
            self.tally.not_understood[f"{frame.path}: {operator.shown}" if frame.path else operator.shown] = None

    def _adds_bias(self, operator: Operator, call: Call, counted: Counted) -> bool:
        """Whether a parameter is added to a product with weights that was computed just now: then it is its bias."""
        weighed, self.weighed = self.weighed, None
        if weighed is None or operator.name != "add" or key_of(call.activations[0]) != weighed.storage:
            return False
        biases = [v for v in call.arguments.values() if isinstance(v, Tensor) and key_of(v) in self.held]
        if not biases:
            return False
        seen = weighed.seen
        bias = bias_alone(seen.operand, seen.mean, counted.elements_out, biases[0].numel())
        weighed.place.add(operator.name, bias)
        return True

    def _place(self, frame: Frame, operator: Operator, kind: str) -> Place:
        """Where a call belongs: to its layer, or to its line in the forward of a larger module."""
        layer = frame.layer
        if layer and kind == "reduction" and "Pool" in type(frame.module).__name__:
            kind = "pooling"
        key: tuple[Hashable, ...] = (frame.path, kind)
        shown = kind
        if not layer and kind not in MERGED:
            key, shown = (*key, operator.name, *self._site()), operator.shown
        place = self.tally.places.get(key)
        if place is None:
            name = frame.path if layer else self.tally.name(frame.path, shown)
            place = Place(name, kind, type(frame.module).__name__, not layer)
            self.tally.places[key] = place
        return place

    def _site(self) -> tuple[Hashable, ...]:
        """The instructions of the forward that is running which led here: loops come back to them, lines do not."""
        frame = sys._getframe(1)
        site: list[Hashable] = []
        while frame is not None and frame.f_code not in _CALLS:
            if frame.f_code.co_filename != __file__:
                site.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back  # type: ignore[assignment]
        return tuple(site)


def _computes(result: Any) -> bool:
    """Whether an operator without a rule gives reals: it may have computed them."""
    return any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors_in(result))


def _has_storage(tensor: Tensor) -> bool:
    """Whether a parameter or buffer is stored as an array: lazy ones are not yet, sparse ones never."""
    return not is_lazy(tensor) and tensor.layout is torch.strided


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers, or made from one: its operator is the module itself."""
    if next(module.children(), None) is not None:
        return False
    return any(
        base.__module__.startswith("torch.nn.modules.") for base in type(module).__mro__ if base is not nn.Module
    )
