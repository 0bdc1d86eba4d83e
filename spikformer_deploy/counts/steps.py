"""The events of the first time steps of an execution: those of a network of fewer steps (network/steps.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from spikformer_deploy.counts.events import (
    SUMMED_OF_POPULATION,
    SUMMED_OF_PROJECTION,
    Events,
    PopulationEvents,
    ProjectionEvents,
)
from spikformer_deploy.counts.slices import PER_IMAGE, SliceEvents

Counted = TypeVar("Counted", PopulationEvents, ProjectionEvents)


def first_steps(events: Events, steps: int) -> Events:
    """The events of the first `steps` time steps; which neurons are active in them, events of all steps do not say."""
    if steps == events.time_steps:
        return events
    populations = {n: replace(_cut(p, SUMMED_OF_POPULATION, steps), active=None) for n, p in events.populations.items()}
    return Events(
        images=events.images,
        time_steps=steps,
        populations=populations,
        projections=tuple(_cut(p, SUMMED_OF_PROJECTION, steps) for p in events.projections),
        slices=None if events.slices is None else _slices(events.slices, steps),
    )


def _cut(counted: Counted, counts: tuple[str, ...], steps: int) -> Counted:
    return replace(counted, **{field: getattr(counted, field)[:steps] for field in counts})


def _slices(slices: SliceEvents, steps: int) -> SliceEvents:
    return replace(slices, **{field: getattr(slices, field)[:, :steps] for field in PER_IMAGE})
