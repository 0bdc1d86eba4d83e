"""Counts as slots of single spikes, as spikingjelly's SpikeCountToBinary and TemporalBinSum make them: left out.

Between the two a weight layer sees each count as D time steps of spikes, count of them ones: W * count = sum of W *
spikes.  The pair is nothing but another way to work out the same currents, where it does what its classes are for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spikformer_deploy.base.errors import ModelError

LAYERS = ("SpikeCountToBinary", "TemporalBinSum")
"""Classes by name: the one makes slots of counts, the other adds them up."""
_MOVING = {
    *("contiguous", "flatten", "permute", "reshape", "squeeze", "transpose", "unflatten", "unsqueeze", "view"),
    *("detach", "dropout"),
}
"""Functions that neither change nor mix values; dropout is off, as the model is evaluated."""
_WEIGHTED = {"conv1d", "conv2d", "conv3d", "linear"}
_PLAIN = "Between SpikeCountToBinary and TemporalBinSum only a convolution or a linear layer without bias can stand."


class LeftOut(nn.Module):
    """One of the two: it gives what it is given.

    sums  whether it is a TemporalBinSum; slots: D
    """

    def __init__(self, sums: bool, slots: int) -> None:
        super().__init__()
        self.sums = sums
        self.slots = slots

    def forward(self, x: Tensor) -> Tensor:
        """x."""
        return x


class _Mark(NamedTuple):
    """What is known of a tensor: counts from 0 to `most`; or, in one time step, slots that stand for such.

    made  the path of the SpikeCountToBinary that the slots are of; "" of counts
    """

    most: int
    made: str = ""


def check_slots(model: nn.Module, images: Tensor, most_of: Callable[[nn.Module], int | None]) -> None:
    """ModelError where a LeftOut of `model` changes what the model computes, found in one forward pass.

    most_of  of a module of neurons the largest count that it sends; None of other modules
    """
    if not any(isinstance(layer, LeftOut) for layer in model.modules()):
        return
    followed = _Followed(most_of)
    hooks: list[Any] = []
    for path, layer in model.named_modules():
        hooks.append(layer.register_forward_pre_hook(lambda m, x, path=path: followed.enter(path, m, x)))
        hooks.append(layer.register_forward_hook(lambda m, x, out, path=path: followed.leave(path, m, x, out)))
    try:
        with torch.no_grad(), followed:
            out = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    followed.refuse_slots("model", out, "the model returns them")


class _Followed(TorchFunctionMode):
    """Which tensors of a running pass are counts, and which are slots."""

    def __init__(self, most_of: Callable[[nn.Module], int | None]) -> None:
        super().__init__()
        self.most_of = most_of
        self.path = ["model"]
        # the tensors are kept: the id of one that is gone may be another's
        self.marks: dict[int, tuple[Tensor, _Mark]] = {}

    def mark_of(self, value: object) -> _Mark | None:
        return self.marks[id(value)][1] if id(value) in self.marks else None

    def mark(self, tensor: Tensor, mark: _Mark) -> Tensor:
        self.marks[id(tensor)] = tensor, mark
        return tensor

    def refuse_slots(self, place: str, value: object, problem: str) -> None:
        mark = self.mark_of(value)
        if mark is not None and mark.made:
            raise ModelError(place, f"the slots of {mark.made} are not added up again: {problem}", _PLAIN)

    def enter(self, path: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.path.append(path or "model")
        if self.most_of(layer) is not None:
            for value in inputs:
                self.refuse_slots(path, value, "neurons read them")

    def leave(self, path: str, layer: nn.Module, inputs: tuple[Any, ...], out: Any) -> Any:
        self.path.pop()
        most = self.most_of(layer)
        if most is not None:
            self.mark(out, _Mark(most))
        elif isinstance(layer, LeftOut):
            # what it gives is another tensor: other readers of its input see that
            new = torch.Tensor.detach(out)
            return self._summed(path, layer, inputs[0], new) if layer.sums else self._spread(path, layer, out, new)
        return None

    def _spread(self, path: str, layer: LeftOut, counts: Tensor, out: Tensor) -> Tensor:
        """Slots, of counts that they can hold."""
        mark = self.mark_of(counts)
        if mark is None or mark.made:
            problem = "its input is not what neurons send, and only counts are the sum of their slots"
            raise ModelError(path, problem, "Put it right behind an ILIFNode.")
        if mark.most > layer.slots:
            problem = f"its {layer.slots} slots cut off counts of up to {mark.most}"
            raise ModelError(path, problem, f"Use SpikeCountToBinary({mark.most}) and TemporalBinSum({mark.most}).")
        return self.mark(out, _Mark(layer.slots, path))

    def _summed(self, path: str, layer: LeftOut, slots: Tensor, out: Tensor) -> Tensor:
        """Currents, of the slots of as many a step."""
        mark = self.mark_of(slots)
        if mark is None or not mark.made:
            raise ModelError(path, "it adds up what are not the slots of a SpikeCountToBinary", _PLAIN)
        if mark.most != layer.slots:
            problem = f"it adds up {layer.slots} slots, and {mark.made} makes {mark.most}"
            raise ModelError(path, problem, "Give both the same number.")
        self.marks.pop(id(out))
        return out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        read = [mark for value in _flat((*args, *kwargs.values())) if (mark := self.mark_of(value))]
        if not read or not any(isinstance(value, Tensor) for value in _flat((out,))):
            return out
        slots = next((mark for mark in read if mark.made), None)
        if name in _MOVING and isinstance(out, Tensor):
            return self.mark(out, read[0])
        if slots is None:
            # what was counts may have been changed in its place
            self.marks.pop(id(out), None)
            return out
        if name not in _WEIGHTED or len(read) > 1:
            raise ModelError(self.path[-1], f"{name} reads the slots of {slots.made} one by one", _PLAIN)
        self._without_bias(args, kwargs, slots)
        return self.mark(out, slots)

    def _without_bias(self, args: tuple[Any, ...], kwargs: dict[str, Any], slots: _Mark) -> None:
        """ModelError for a bias, which would be added once a slot."""
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if bias is not None:
            raise ModelError(
                self.path[-1],
                f"its bias is added to each of the {slots.most} slots of {slots.made}, and not once a time step",
                "Use bias=False, and add the bias behind TemporalBinSum.",
            )


def _flat(values: tuple[Any, ...]) -> list[Any]:
    """Values, those in lists too."""
    return [part for value in values for part in (value if isinstance(value, (tuple, list)) else (value,))]
