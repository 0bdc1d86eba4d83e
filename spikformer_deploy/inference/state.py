"""What a module keeps from call to call, found by looking at it: potentials of neurons of any library.

Attributes and buffers are remembered and put back; parameters, children and hooks are left alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LEFT_ALONE = ("_parameters", "_modules", "training")
"""Attributes that no call changes, or not for good."""


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """A tensor and its values: torch does not count all that is written to it."""

    tensor: Tensor
    values: Tensor

    def is_same(self, value: Any) -> bool:
        return value is self.tensor and torch.equal(self.tensor, self.values)

    def restored(self) -> Tensor:
        if not torch.equal(self.tensor, self.values):
            self.tensor.copy_(self.values)
        return self.tensor


class State:
    """What the layers of a module hold now."""

    def __init__(self, module: nn.Module) -> None:
        self._layers = [
            (path, layer, {name: _kept(value) for name, value in _attributes(layer).items()})
            for path, layer in module.named_modules()
        ]

    def changed(self) -> set[str]:
        """The paths of layers that hold something else."""
        return {path for path, layer, kept in self._layers if not _is_same(kept, _attributes(layer))}

    @torch.no_grad()
    def restore(self) -> None:
        """Let all layers hold what they held."""
        for _, layer, kept in self._layers:
            now = _attributes(layer)
            if _is_same(kept, now):
                continue
            for name in now.keys() - kept.keys():
                del layer.__dict__[name]
            layer.__dict__.update({name: _restored(value) for name, value in kept.items()})


def _attributes(layer: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(layer).items() if name not in LEFT_ALONE and "_hooks" not in name}


def _kept(value: Any) -> Any:
    """A tensor with its values, containers of them, and anything else as it is."""
    if isinstance(value, Tensor):
        return _Values(value, value.detach().clone())
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _kept(part)) for key, part in value.items())
    if type(value) in (list, tuple):
        return type(value)(map(_kept, value))
    return value


def _is_same(kept: Any, value: Any) -> bool:
    if isinstance(kept, _Values):
        return kept.is_same(value)
    if type(kept) is not type(value):
        return False
    if type(kept) in (dict, OrderedDict):
        return kept.keys() == value.keys() and all(_is_same(part, value[key]) for key, part in kept.items())
    if type(kept) in (list, tuple):
        return len(kept) == len(value) and all(map(_is_same, kept, value))
    return kept is value or (isinstance(kept, (int, float, str)) and kept == value)


def _restored(kept: Any) -> Any:
    if isinstance(kept, _Values):
        return kept.restored()
    if type(kept) in (dict, OrderedDict):
        return type(kept)((key, _restored(part)) for key, part in kept.items())
    if type(kept) in (list, tuple):
        return type(kept)(map(_restored, kept))
    return kept
