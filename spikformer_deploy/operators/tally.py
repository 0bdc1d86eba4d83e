"""What was counted so far: sums by place and by what operands were, and the spikes of neurons by time step."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from operator import attrgetter

import numpy as np
import torch
from torch import nn

from spikformer_deploy.counts.operations import (
    CLASSES,
    Counted,
    NeuronRecord,
    Operation,
    OperationCounts,
    ParameterCounts,
)

_SUMMED = tuple(f.name for f in fields(Counted) if f.name not in ("operand", "other"))
_numbers = attrgetter(*_SUMMED)


@dataclass(slots=True)
class Place:
    """One Operation as it grows; sums by (operand, other), in the order of _SUMMED."""

    name: str
    kind: str
    module: str
    functional: bool
    operators: list[str] = field(default_factory=list)
    first: bool = False
    sums: dict[tuple[str, str | None], list[float]] = field(default_factory=dict)

    def add(self, operator: str, counted: Counted) -> None:
        """Add one call."""
        if operator not in self.operators:
            self.operators.append(operator)
        key = counted.operand, counted.other
        numbers = _numbers(counted)
        before = self.sums.get(key)
        self.sums[key] = list(numbers) if before is None else [a + b for a, b in zip(before, numbers, strict=True)]

    def operation(self) -> Operation:
        """What was counted here."""
        counted = tuple(
            Counted(operand=operand, other=other, **dict(zip(_SUMMED, sums, strict=True)))  # type: ignore[arg-type]
            for (operand, other), sums in self.sums.items()
        )
        return Operation(self.name, self.kind, self.module, self.functional, tuple(self.operators), self.first, counted)


@dataclass(frozen=True, slots=True)
class Fired:
    """What neurons sent in one call.

    elements        neurons of one image and step
    images          of the call
    spikes, values  by step of the call
    """

    elements: int
    images: int
    spikes: list[int]
    values: list[float]
    largest: float
    operand: str


@dataclass(slots=True)
class Population:
    """One NeuronRecord as it grows, and how many steps of the present images it has made."""

    name: str
    neuron: str
    told: bool
    elements: int = 0
    updates: list[int] = field(default_factory=list)
    spikes: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    largest: float = 0.0
    operand: str = "binary"
    steps: int = 0

    def add(self, fired: Fired) -> None:
        """Add one call, whose steps follow those that the present images have made."""
        self.elements = fired.elements
        self.largest = max(self.largest, fired.largest)
        self.operand = max(self.operand, fired.operand, key=CLASSES.index)
        for step, (spikes, values) in enumerate(zip(fired.spikes, fired.values, strict=True), self.steps):
            if step == len(self.updates):
                for sums in (self.updates, self.spikes, self.values):
                    sums.append(0)
            self.updates[step] += fired.elements * fired.images
            self.spikes[step] += spikes
            self.values[step] += values
        self.steps += len(fired.spikes)

    def record(self) -> NeuronRecord:
        """What they sent."""
        updates, spikes = (np.array(sums, np.int64) for sums in (self.updates, self.spikes))
        values = np.array(self.values, np.float64)
        return NeuronRecord(self.name, self.neuron, self.elements, updates, spikes, values, self.largest, self.operand)


@dataclass(slots=True)
class Tally:
    """All that was counted."""

    places: dict[Hashable, Place] = field(default_factory=dict)
    populations: dict[Hashable, Population] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    not_understood: dict[str, None] = field(default_factory=dict)
    images: int = 0
    passes: int = 0

    def name(self, path: str, operator: str) -> str:
        """A name that no other place has: "path: operator", the second of them with "#2"."""
        name = f"{path}: {operator}" if path else operator
        self.names[name] = self.names.get(name, 0) + 1
        return name if self.names[name] == 1 else f"{name} #{self.names[name]}"

    def steps(self) -> int:
        """Steps that the present images have made."""
        return max((population.steps for population in self.populations.values()), default=0)

    def begin(self) -> None:
        """Other images come."""
        for population in self.populations.values():
            population.steps = 0

    def counts(self, model: nn.Module, time_steps: int | None, images: int | None) -> OperationCounts:
        """What was counted; time_steps and images win over what was seen."""
        neurons = tuple(population.record() for population in self.populations.values() if population.updates)
        seen = max((len(record.updates) for record in neurons), default=0)
        told = seen > 1 or any(p.told for p in self.populations.values() if p.updates)
        return OperationCounts(
            images=self.images if images is None else images,
            time_steps=time_steps or (seen if told else None),
            passes=self.passes,
            operations=tuple(place.operation() for place in self.places.values() if place.sums),
            neurons=neurons,
            parameters=parameter_counts(model),
            not_understood=tuple(self.not_understood),
        )


def parameter_counts(model: nn.Module) -> ParameterCounts:
    """What `model` holds."""
    parameters = [p for p in model.parameters() if not _shapeless(p)]
    buffers = [b for b in model.buffers() if not _shapeless(b)]
    weights = [weight for module in model.modules() for weight in _weights(module) if not _shapeless(weight)]
    return ParameterCounts(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
        buffer_bytes=sum(b.numel() * b.element_size() for b in buffers),
        weights=sum(w.numel() for w in weights),
        zero_weights=sum(w.numel() - int(w.count_nonzero()) for w in weights),
    )


def _weights(module: nn.Module) -> list[torch.Tensor]:
    """The weights of one layer; those of recurrent layers with their biases."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return list(module.parameters(recurse=False))
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [module.weight] if isinstance(module, layers) else []


def _shapeless(tensor: torch.Tensor) -> bool:
    """Whether a lazy layer has not got it yet."""
    return nn.parameter.is_lazy(tensor)
