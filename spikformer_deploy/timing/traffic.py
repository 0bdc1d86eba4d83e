"""All that turns the spikes of a network into messages: sweeps, routing tables, senders, and what each visit costs.

timing/steps.py makes the messages of every chip-wide step from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.draws import NOMINAL
from spikformer_deploy.chips.loihi.latencies import Latencies, latencies
from spikformer_deploy.chips.loihi.steps import Work, loads_ns
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.counts.slices import Geometry
from spikformer_deploy.network.mapping import OPERANDS, Mapping
from spikformer_deploy.network.network import Network
from spikformer_deploy.timing.layout import SliceLayout, depths, slice_layout
from spikformer_deploy.timing.machine import ticks
from spikformer_deploy.timing.routing import TableBuilder
from spikformer_deploy.timing.senders import Sender, Wiring, senders
from spikformer_deploy.timing.sweep import Sweep, sweep_of
from spikformer_deploy.timing.wave import Routes


@dataclass(frozen=True, slots=True, eq=False)
class Costs:
    """Ticks of a sweep.

    idle    a visit that finds nothing to do
    update  (slices,) one that updates a neuron of the slice
    spike   what a spike adds
    """

    idle: int
    update: Int
    spike: int


@dataclass(frozen=True, slots=True, eq=False)
class TokenSeries:
    """Neurons, one a channel, to which tokens come in series: token n in the sub-step n + 1.

    place   (C,) of each neuron in the sweeps
    level   of their population; tokens: how many
    sums    whether they are partial sums, which have something to do for every token
    """

    population: str
    place: Int
    level: int
    tokens: int
    sums: bool


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """A network on its cores, ready to turn spikes into messages.

    own         by population: (C, Y, X) the places of its neurons in the sweeps
    level       by population: layers on the longest way from the Source
    layout      of each slice: its level, the kind of its synapses, whether it works in sub-steps; of each level those
    series      what works token by token
    message_in  ticks of the axon-in unit for a message
    cores       number of cores in use
    """

    network: Network
    sweep: Sweep
    routes: Routes
    senders: tuple[Sender, ...]
    own: dict[str, Int]
    level: dict[str, int]
    layout: SliceLayout
    series: tuple[TokenSeries, ...]
    costs: Costs
    message_in: int
    cores: int

    @property
    def levels(self) -> int:
        """Layers from the Source to the Accumulator, both counted."""
        return self.layout.depth + 1

    @property
    def sub_steps(self) -> dict[int, int]:
        """By level: the sub-steps that follow its chip-wide step where it alone works."""
        return self.layout.sub_steps_after

    @property
    def sub_steps_pipelined(self) -> int:
        """The sub-steps that follow a chip-wide step of the pipeline: attentions and tokens have theirs together."""
        return max(self.sub_steps.values(), default=0)


def traffic(geometry: Geometry, profile: Profile) -> Traffic:
    """The traffic of `geometry`, which must have a mapping, on `profile`, durations at their nominal values."""
    mapping = geometry.mapping
    assert mapping is not None
    table = latencies(profile)
    layout = slice_layout(geometry.network, mapping, profile.core)
    synop = np.array([ticks(ns) for ns in table.synop[NOMINAL]])[layout.synapse]
    message_in = ticks(table.message_in[NOMINAL])
    tables = TableBuilder(mapping, synop, message_in)
    level = depths(geometry.network, mapping)
    wiring = Wiring(geometry, mapping, sweep_of(mapping), tables, level)
    sending = tuple(senders(wiring))
    return Traffic(
        network=geometry.network,
        sweep=wiring.sweep,
        # after the senders: making them fills the tables
        routes=tables.routes(),
        senders=sending,
        own=_own_places(mapping, wiring.sweep),
        level=level,
        layout=layout,
        series=tuple(_series(mapping, wiring.sweep, level)),
        costs=Costs(
            idle=ticks(table.idle_neuron[NOMINAL]),
            update=_updates(layout, table),
            spike=ticks(table.spike_out[NOMINAL]),
        ),
        message_in=message_in,
        cores=len(np.unique(mapping.cores)),
    )


def _own_places(mapping: Mapping, sweep: Sweep) -> dict[str, Int]:
    """By population: the places of its own neurons, not of its counters or partial sums."""
    sites = zip(mapping.sites, sweep.place, strict=True)
    return {site.population: place for site, place in sites if site.kind == "population"}


def _updates(layout: SliceLayout, table: Latencies) -> Int:
    """(slices,) ticks of a visit to a neuron that has something to do."""
    fixed = layout.program == 0
    visit = Work(updates=fixed.astype(int), programmed=(~fixed).astype(int), length=layout.program)
    return np.array([ticks(ns) for ns in loads_ns(visit, table)["neurons"][NOMINAL]], np.int64)


def _series(mapping: Mapping, sweep: Sweep, level: dict[str, int]) -> Iterator[TokenSeries]:
    """The sites whose tokens come in series."""
    for site, place in zip(mapping.sites, sweep.place, strict=True):
        if site.token_serial:
            # all tokens of a channel have the place of its one neuron
            yield TokenSeries(
                site.population, place[:, 0, 0], level[site.population], site.sub_steps, site.kind == "partial"
            )


def check_timed(mapping: Mapping) -> None:
    """Raise InputError where it is not modelled which message waits for which."""
    product = next((site.name for site in mapping.sites if site.serial == OPERANDS), None)
    if product:
        problem = f"{product} sums products of currents and spikes, which are not timed message by message"
        raise InputError("--timing", problem, "Use --timing estimate.")
