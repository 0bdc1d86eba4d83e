"""How a float model of any kind is run on images: what it takes, how often an image, and from rest each time.

Models that the compiler knows take images.  A module of the user's own is tried out on a few random ones.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikformer_deploy.base.errors import InputError, ModelError
from spikformer_deploy.converters.factory import described, theirs
from spikformer_deploy.inference.state import State

TRIED_SCALE = 4.0
"""Of the random images that a module is tried out on: enough for most neurons to fire."""
WAYS = {
    "images": "(N, C, Y, X), once",
    "recordings": "(N, T, C, Y, X), once",
    "sequence": "(T, N, C, Y, X), once",
    "steps": "(N, C, Y, X), T times; outputs averaged",
}
"""What a model is given, and how often."""
OWN_STEPS = "Leave --time-steps out, or give the number to the function that makes the model: --arg."
IF_STEPS_FIRST = "If it takes (T, N, C, Y, X), give --time-steps."
ONLY_LOGITS = "Let the factory return a module whose forward gives the logits alone, (N, classes) or (T, N, classes)."


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """A model and how it is run.

    place       its name, for errors
    takes       one of WAYS
    time_steps  T; None where nothing tells it
    by_step     whether the result has a row for every time step, (T, N, ...), whose mean is meant
    """

    module: nn.Module
    place: str
    takes: str
    time_steps: int | None
    by_step: bool = False

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """What it makes of normalised images (N, C, Y, X), or recordings (N, T, C, Y, X): (N, ...), mean over steps.

        The model rests before and after.  Raises ModelError where it fails, with the line of its code.
        """
        x = _as_input(self.module, torch.from_numpy(images))
        with torch.no_grad(), resting(self.module), theirs(self.place, failing_on(images.shape[1:])):
            results = [self.module(part) for part in self._parts(x)]
        for result in results:
            if not isinstance(result, Tensor):
                raise _no_tensor(self.place, result)
        steps = np.stack([result.float().cpu().numpy() for result in results])
        return (steps[0] if self.by_step else steps).mean(0)

    def _parts(self, x: Tensor) -> list[Tensor]:
        """What each call is given."""
        frames = x.ndim == 5
        if self.takes in ("images", "recordings"):
            return [x]
        assert self.time_steps is not None
        steps = x.transpose(0, 1) if frames else x.unsqueeze(0).expand(self.time_steps, *x.shape)
        # a copy of it: models flatten what they are given, and strides of zero are not what they were trained on
        return [steps.contiguous()] if self.takes == "sequence" else list(steps)


def forward_of(module: nn.Module, place: str, shape: tuple[int, ...], time_steps: int | None) -> Forward:
    """How a module of the user's own is run: tried out on random images.

    shape       (C, Y, X) of an image, or (T, C, Y, X) of a recording
    time_steps  where they are known
    Neurons that keep a potential from call to call and are called once in a forward pass make a model of one time step.
    Raises ModelError where its forward needs more than the images, fails on them, or returns no tensor, InputError
    where it makes one time step and nothing says how many there are.
    """
    _check_signature(module, place)
    if len(shape) == 4:
        return _for_recordings(module, place, shape)
    return _for_images(module, place, shape, time_steps)


def _for_images(module: nn.Module, place: str, shape: tuple[int, ...], time_steps: int | None) -> Forward:
    """Of a module that takes an image, however often."""
    # one image more than time steps: a result that has so many rows is not one of time steps
    count = (time_steps or 2) + 1
    images = _random(count, shape)
    once = _try(module, place, images)
    taken = once.gives(count)
    # before the images: neurons that go through all steps in one call would take images for steps
    if time_steps is not None and (once.multi_step or not taken):
        sequence = images.unsqueeze(0).repeat(time_steps, 1, 1, 1, 1)
        whole = _try(module, place, sequence)
        if whole.gives(count, time_steps):
            return Forward(module, place, "sequence", time_steps, whole.by_step(count))
        if once.multi_step and not taken:
            raise whole.refusal(place, sequence)
    if not taken:
        raise once.refusal(place, images, "" if time_steps else IF_STEPS_FIRST)
    if once.steps not in (None, 1, time_steps or once.steps):
        problem = f"its neurons are called {once.steps} times in a forward pass, and {time_steps} steps are asked for"
        raise InputError(place, problem, OWN_STEPS)
    if not once.single_step:
        if once.multi_step and time_steps is None:
            _check_independent(module, place, images)
        return Forward(module, place, "images", time_steps or once.steps, once.by_step(count))
    if time_steps is None:
        problem = "its neurons make one time step a call, and nothing says how many steps an image has"
        raise InputError(place, problem, "Give --time-steps.")
    return Forward(module, place, "steps", time_steps)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Let a module be in evaluation mode, and each of its layers as it is now afterwards."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


@contextmanager
def resting(module: nn.Module) -> Iterator[None]:
    """Let a module hold afterwards what it holds now."""
    state = State(module)
    try:
        yield
    finally:
        state.restore()


def _for_recordings(module: nn.Module, place: str, shape: tuple[int, ...]) -> Forward:
    """Of a module that takes a frame for every time step."""
    count = shape[0] + 1
    recordings = _random(count, shape)
    one = _try(module, place, recordings[:, 0])
    if one.single_step and one.gives(count):
        return Forward(module, place, "steps", shape[0])
    sequence = recordings.transpose(0, 1).contiguous()
    whole = _try(module, place, sequence)
    if whole.gives(count, shape[0]):
        return Forward(module, place, "sequence", shape[0], whole.by_step(count))
    by_image = _try(module, place, recordings)
    if by_image.gives(count):
        return Forward(module, place, "recordings", shape[0], by_image.by_step(count))
    raise whole.refusal(place, sequence)


@dataclass(frozen=True, slots=True, eq=False)
class _Tried:
    """What came of a forward pass: a result or an error.

    steps       how often each layer that keeps something from call to call was called; None where they differ, where
                there are none, and where they go through all time steps in one call
    multi_step  whether there are neurons that do
    """

    result: Any
    error: ModelError | None
    steps: int | None
    multi_step: bool

    @property
    def single_step(self) -> bool:
        """Whether it makes one time step."""
        return self.steps == 1

    def gives(self, count: int, steps: int | None = None) -> bool:
        """Whether the result is that of `count` images, (N, ...) or (T, N, ...).

        steps  T of an input (T, N, ...): a model that takes (N, T, ...) gives (N, T, ...) of it, and is not meant
        """
        out = self.result
        if not isinstance(out, Tensor):
            return False
        shape = tuple(out.shape)
        if steps is not None and shape[:2] == (count, steps) and len(shape) > 2:
            return False
        return count in (shape[:2] if len(shape) > 2 else shape[:1])

    def by_step(self, count: int) -> bool:
        """Whether such a result is (T, N, ...)."""
        return len(self.result) != count

    def refusal(self, place: str, x: Tensor, way_out: str = "") -> ModelError:
        """Why that is no way to run it."""
        if self.error is not None:
            return ModelError(place, self.error.problem, way_out)
        if not isinstance(self.result, Tensor):
            return _no_tensor(place, self.result)
        shapes = f"{tuple(self.result.shape)} for {tuple(x.shape)}"
        return ModelError(place, f"its result has no row for every image: {shapes}", way_out or ONLY_LOGITS)


def _try(module: nn.Module, place: str, x: Tensor) -> _Tried:
    """A forward pass from rest; what it leaves behind is undone."""
    calls: Counter[str] = Counter()
    hooks = [
        layer.register_forward_pre_hook(lambda *_, path=path: calls.update([path]))
        for path, layer in module.named_modules()
    ]
    state = State(module)
    result = error = None
    try:
        with torch.no_grad(), theirs(place, failing_on(x.shape[1:])):
            result = module(_as_input(module, x))
    except ModelError as raised:
        error = raised
    finally:
        for hook in hooks:
            hook.remove()
        keeping = state.changed()
        state.restore()
    multi_step = any(map(_is_multi_step, module.modules()))
    often = {calls[path] for path in keeping}
    steps = often.pop() if len(often) == 1 and not multi_step else None
    return _Tried(result, error, steps, multi_step)


def _check_independent(module: nn.Module, place: str, images: Tensor) -> None:
    """Raise ModelError where what a model makes of an image depends on the images before it, as on earlier steps."""
    there, back = (_try(module, place, x).result for x in (images, images.flip(0)))
    images_first = len(there) == len(images)
    if not torch.allclose(there, back.flip(0 if images_first else 1), rtol=1e-4, atol=1e-5):
        raise ModelError(place, "what it makes of an image depends on the other images", IF_STEPS_FIRST)


def _is_multi_step(layer: nn.Module) -> bool:
    """Whether a layer of neurons goes through all time steps in one call, as spikingjelly and sinabs say it."""
    kind = type(layer)
    if kind.__module__.startswith("sinabs."):
        return hasattr(layer, "v_mem")
    return hasattr(layer, "v_threshold") and (
        getattr(layer, "step_mode", "s") == "m" or kind.__name__.startswith("MultiStep")
    )


def _check_signature(module: nn.Module, place: str) -> None:
    """Raise ModelError where the forward pass needs more than the images, or takes nothing."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (ValueError, TypeError):
        return
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in positional if p.default is p.empty]
    if len(needed) > 1:
        problem = f"its forward needs {', '.join(needed[1:])} besides the images"
        raise ModelError(place, problem, "Let the factory return a module whose forward takes the images alone.")


def failing_on(shape: tuple[int, ...]) -> str:
    """What is said of a forward pass that raises."""
    return f"on images of {'x'.join(map(str, shape[-3:]))} its forward pass raises"


def _as_input(module: nn.Module, x: Tensor) -> Tensor:
    """Images where the parameters of a module are, and of their type."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return x.to(parameter)
    return x


def _random(count: int, shape: tuple[int, ...]) -> Tensor:
    """The same random images each time."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * TRIED_SCALE


def _no_tensor(place: str, result: Any) -> ModelError:
    """The error of a model that returns something else than logits."""
    problem = f"its forward returns {described(result)}, and no tensor"
    return ModelError(place, problem, ONLY_LOGITS)
