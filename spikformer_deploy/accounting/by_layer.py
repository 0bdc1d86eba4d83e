"""Where the target's energy of an image goes, layer by layer: every part of it, shared out by what was counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spikformer_deploy.accounting.target import HOPS, NEURO_CORES, slice_counts
from spikformer_deploy.accounting.uncertainty import Energy
from spikformer_deploy.base.arrays import Array, Float
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.counts.events import Events
from spikformer_deploy.network.mapping import SITE, Mapping


@dataclass(frozen=True, slots=True)
class LayerEnergy:
    """Nominal mJ an image of what stands on cores for one population: neurons, counters and partial sums.

    dynamic  what happens there; a spike and its hops are charged to the layer that sends it, a synaptic operation to
             the one that it reaches, a sweep in a sub-step to the neurons that are visited
    static   its share of the power of the chips in use: every core in use has an equal one, and layers on one core
             share that by the memory that they take there
    """

    name: str
    dynamic: float
    static: float

    @property
    def total(self) -> float:
        """mJ an image."""
        return self.dynamic + self.static


def by_layer(energy: Energy, events: Events, mapping: Mapping) -> tuple[LayerEnergy, ...]:
    """The figure of `energy`, one of accounting.target, by the layers of the mapping, in their order.

    All layers together are the nominal figure: each count adds up to that of its part.  Hops are counted of all
    messages at once, and shared out by the messages that a layer sends.  Raises InputError where the events were
    counted without a mapping.
    """
    if events.slices is None:
        raise InputError("energy", "the events were counted without a mapping", "Pass the mapping to count().")
    counts = slice_counts(events, events.slices, mapping)
    counts |= dict.fromkeys(HOPS, counts["messages sent"])
    names = list(dict.fromkeys(site.population for site in mapping.sites))
    number = np.array([names.index(site.population) for site in mapping.sites])[mapping.boxes[:, SITE]]
    dynamic, static = np.zeros(len(names)), np.zeros(len(names))
    for part in energy.inside:
        of_slices: Array = counts[part.name] if part.boundary == NEURO_CORES else _of_cores(mapping)
        share = np.bincount(number, of_slices, len(names))
        into = dynamic if part.boundary == NEURO_CORES else static
        into += part.energy.nominal * _shares(share)
    return tuple(LayerEnergy(*row) for row in zip(names, dynamic.tolist(), static.tolist(), strict=True))


def _shares(of_layers: Array) -> Float:
    """(layers,) that add up to 1."""
    total = of_layers.sum()
    # hops that were expected, not counted, may be there where nothing was sent
    return of_layers / total if total > 0 else np.full(len(of_layers), 1 / len(of_layers))


def _of_cores(mapping: Mapping) -> Float:
    """(slices,) the share of a core that each slice has, by memory."""
    words = mapping.words.sum(1).astype(float)
    _, core = np.unique(mapping.cores, return_inverse=True)
    full = np.bincount(core, words)[core]
    return np.divide(words, full, out=1 / np.bincount(core)[core], where=full > 0)
