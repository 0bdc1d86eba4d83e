"""Which tensors depend on the input of a model, and what is known of them: kept by storage, so that views share it.

Storages are held weakly: nothing that the model lets go stays in memory for being counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from spikformer_deploy.operators.seen import Seen, observe

ACTIVE = 1
"""It depends on the input: it is an activation, and not a weight or a constant."""
INPUT = 2
"""It is the input, moved, repeated or scaled at most."""
COMPARED = 4
"""It is what a threshold made of reals."""
SPIKES = 8
"""It is what a threshold or neurons gave, moved at most: comparing it makes no new spikes."""
_PURGED = 4096
"""New storages between two searches for those that are gone."""


@dataclass(slots=True)
class _Known:
    """What is known of one storage: `seen` by the part of it that a tensor shows."""

    reference: StorageWeakRef
    flags: int
    seen: dict[tuple[Any, ...], Seen] = field(default_factory=dict)
    zeros: dict[tuple[Any, ...], bool] = field(default_factory=dict)


@dataclass(slots=True)
class Followed:
    """All storages that are known.

    weights  keys of the model's parameters: they stay weights, whatever is written to them
    """

    known: dict[int, _Known] = field(default_factory=dict)
    weights: set[int] = field(default_factory=set)
    added: int = 0

    def flags(self, value: Any) -> int:
        """Of a tensor; 0 of anything else."""
        if not isinstance(value, Tensor):
            return 0
        known = self.known.get(key_of(value))
        return 0 if known is None else known.flags

    def is_activation(self, value: Any) -> bool:
        """Whether a tensor depends on the input."""
        return bool(self.flags(value) & ACTIVE)

    def is_spikes(self, x: Tensor) -> bool:
        """Whether it is what neurons or a threshold gave, moved at most."""
        return bool(self.flags(x) & SPIKES)

    def mark(self, x: Tensor, flags: int) -> None:
        """Say of x's storage what it is from now on: it was written anew."""
        known = self._entry(x)
        known.flags = 0 if key_of(x) in self.weights else flags
        known.seen.clear()

    def add(self, x: Tensor, flags: int) -> None:
        """Say more of x's storage, whose values are as they were."""
        self._entry(x).flags |= flags

    def forget_values(self, x: Tensor) -> None:
        """x was written to."""
        known = self.known.get(key_of(x))
        if known is not None:
            known.seen.clear()
            known.zeros.clear()

    def forget_all_values(self) -> None:
        """Anything may have been written to."""
        self._purge()
        for known in self.known.values():
            known.seen.clear()
            known.zeros.clear()

    def seen(self, x: Tensor) -> Seen:
        """What the values of x are; looked at once, however the same elements are arranged."""
        entry = self._entry(x)
        part = _part(x)
        if part not in entry.seen:
            entry.seen[part] = observe(x)
        return entry.seen[part]

    def zeros(self, weight: Tensor) -> bool:
        """Whether any element of a weight is 0."""
        entry = self._entry(weight)
        part = _part(weight)
        if part not in entry.zeros:
            entry.zeros[part] = int(weight.count_nonzero()) < weight.numel()
        return entry.zeros[part]

    def _entry(self, x: Tensor) -> _Known:
        """What is known of x's storage, made if nothing is."""
        key = key_of(x)
        known = self.known.get(key)
        if known is None:
            self.added += 1
            if self.added % _PURGED == 0:
                self._purge()
            known = self.known[key] = _Known(StorageWeakRef(x.untyped_storage()), 0)
        return known

    def _purge(self) -> None:
        """Drop the storages that are gone."""
        self.known = {key: known for key, known in self.known.items() if not known.reference.expired()}


def key_of(x: Tensor) -> int:
    """Of x's storage: not used again while it is held weakly."""
    return x.untyped_storage()._cdata


def _part(x: Tensor) -> tuple[Any, ...]:
    """What x shows of its storage: two tensors that show the same elements, in whatever order, are alike."""
    if x.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense(x):
        return x.storage_offset(), x.numel(), x.dtype
    return x.storage_offset(), x.shape, x.stride(), x.dtype


def operands_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """All tensors among the arguments of an operator: alone, or in lists."""
    operands = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            operands.append(value)
        elif isinstance(value, (list, tuple)):
            operands += [item for item in value if isinstance(item, Tensor)]
    return operands


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts, and in the fields of named tuples and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_in(tuple(vars(value).values()))
