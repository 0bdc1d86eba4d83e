"""Counting around any forward pass: `with count_operations(model) as counts: model(x)`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spikformer_deploy.accounting.operators import energy
from spikformer_deploy.accounting.uncertainty import Energy
from spikformer_deploy.base.arrays import Float
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.counts.operations import OperationCounts
from spikformer_deploy.operators.mode import CountingMode


@dataclass(frozen=True, slots=True, eq=False)
class Counting:
    """What was counted so far; it may be read within the `with` and after it."""

    mode: CountingMode

    @property
    def counts(self) -> OperationCounts:
        """All sums.  Raises InputError where the model has not run."""
        tally = self.mode.tally
        if not tally.passes:
            raise InputError(
                "count_operations",
                "the model has not run: nothing was counted",
                "Call it inside of the 'with' block, as model(x) and not as model.forward(x).",
            )
        return tally.counts(self.mode.model, self.mode.time_steps, self.mode.images)

    def energy(self, convention: str) -> Energy:
        """Energy of an image by a convention of accounting.operators.

        Raises InputError for a name that there is no convention of, and for one that counts and has no prices.
        """
        return energy(self.counts, convention)

    @property
    def not_understood(self) -> tuple[str, ...]:
        """Operators that do arithmetic and have no rule, each with where it ran."""
        return self.counts.not_understood

    def to_records(self) -> list[dict[str, Any]]:
        """One plain dict for each operation and class of operands: rows of a table."""
        return [
            {
                "name": operation.name,
                "kind": operation.kind,
                "module": operation.module,
                "functional": operation.functional,
                "operators": " ".join(operation.operators),
                "first": operation.first,
                **asdict(counted),
            }
            for operation in self.counts.operations
            for counted in operation.counted
        ]

    def firing_rates(self) -> Float:
        """(T, layers) share of neurons that send something in a step, in the order of `counts.neurons`.

        NaN where a layer has fewer steps than others.
        """
        neurons = self.counts.neurons
        rates = np.full((max((len(n.updates) for n in neurons), default=0), len(neurons)), np.nan)
        for layer, record in enumerate(neurons):
            rates[: len(record.updates), layer] = record.spikes / record.updates
        return rates


@contextmanager
def count_operations(model: nn.Module, time_steps: int | None = None, images: int | None = None) -> Iterator[Counting]:
    """Count what the forward passes of `model` cost, in training as well; nothing of the model changes.

    time_steps  of one image.  Without it: the leading dimension of multi-step neurons, or how often single-step neurons
                ran between two resets
    images      that went through the model, all passes together.  Without it: the batch of the neurons where the input
                leads with time, else the leading dimension of the model's first argument
    Warns where batch normalisation is in training mode: then spikes are others than those of the trained model.
    Raises InputError for a model that is compiled or scripted (its operators do not run one by one), for what is no
    module, and for numbers below 1.
    """
    _check(model)
    _warn_of_training(model)
    for name, number in (("time_steps", time_steps), ("images", images)):
        if number is not None and not (type(number) is int and number >= 1):
            raise InputError(
                name, f"{number!r} is no number of them", "Give a whole number of at least 1, or leave it out."
            )
    mode = CountingMode(model, time_steps, images)
    hooks = []
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        for path, module in model.named_modules():
            hooks += _hooks(mode, path, module)
        # attention layers in one fused operator hide what they multiply
        torch.backends.mha.set_fastpath_enabled(False)
        with mode:
            yield Counting(mode)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for hook in hooks:
            hook.remove()
        mode.frames.clear()


def _hooks(mode: CountingMode, path: str, module: nn.Module) -> list[Any]:
    """Tell the mode when `module` runs."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mode.enter(path, module, (args, kwargs))

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        mode.leave(module, output)

    return [
        module.register_forward_pre_hook(enter, with_kwargs=True),
        module.register_forward_hook(leave, always_call=True),
    ]


def _warn_of_training(model: nn.Module) -> None:
    """Warn where the statistics of a batch, and not those that were learnt, decide what fires."""
    learning = [path for path, module in model.named_modules() if isinstance(module, _BatchNorm) and module.training]
    if learning:
        warnings.warn(
            f"{learning[0]} is in training mode and takes the statistics of each batch, so that other neurons fire "
            "than in the trained model: for its figures call model.eval() first",
            # past this function and two context managers that contextlib enters: the line of the user's `with`
            stacklevel=6,
        )


def _check(model: nn.Module) -> None:
    """InputError where operators do not run one by one, or belong to no module."""
    if not isinstance(model, nn.Module):
        raise InputError("model", f"a {type(model).__name__} is no torch module", "Give the nn.Module that is called.")
    for path, module in model.named_modules():
        place = f"module {path}" if path else "the model"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                place, "it is scripted: its operators cannot be seen", "Count the module that was scripted."
            )
        compiled = type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None
        if compiled:
            problem = "it is compiled by torch.compile: its operators do not run one by one"
            raise InputError(place, problem, "Count the module that was compiled, before or beside it.")
