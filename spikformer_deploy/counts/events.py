"""Exact event counts of an execution: every one is linear in the spikes, and so comes from the Activity only.

A synaptic operation is one message that reaches one target neuron through one synapse (zero weights included). Messages
of attention counters and partial sums of a split fan-in count like spikes: Events.synops is the sum over all slices.
A message is a non-zero output on its way to one core: a spike that serves several neurons of a core is sent there once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.counts.dense import Described
from spikformer_deploy.counts.slices import PER_IMAGE, Geometry, SliceEvents, by_site, geometry, slice_events
from spikformer_deploy.counts.sums import weighted
from spikformer_deploy.executors.execution import Cells, Execution
from spikformer_deploy.network.heads import Heads, factors_of, heads_of
from spikformer_deploy.network.network import Network, Population, Projection
from spikformer_deploy.network.neurons import Accumulator
from spikformer_deploy.network.synapses import Attention, DualSpike

__all__ = [
    "Events",
    "Geometry",
    "PopulationEvents",
    "ProjectionEvents",
    "SliceEvents",
    "condensed",
    "count",
    "geometry",
    "join",
]


@dataclass(frozen=True, slots=True, eq=False)
class PopulationEvents:
    """Events of one population, summed over the images.

    updates   (T,) visits of its neurons, each once a step, whether they find something to do or not
    idle      (T,) those that do not (network.neurons.idle)
    spikes    (T,) non-zero outputs
    values    (T,) sum of the values sent; equal to `spikes` for binary spikes
    messages  (T,) one for each spike and each core it is sent to; equal to `spikes` where there is no mapping
    gathered  (T,) partial sums of a split fan-in that reach its neurons, and those that copies of its attention's
              counters send each other, an operation each: at most, as zeros stay home; zero where there is no mapping
    active    (C, Y, X) neurons that sent anything in any step of any image; none of the Accumulator.  None where
              executors do not say it: of the first steps of a longer execution
    """

    name: str
    updates: Int
    idle: Int
    spikes: Int
    values: Int
    messages: Int
    gathered: Int
    active: NDArray[np.bool_] | None

    @property
    def silent(self) -> int | None:
        """Neurons that sent nothing in any step of any image; None where that is not known."""
        return None if self.active is None else int((~self.active).sum())

    def __reduce__(self) -> tuple[Any, ...]:
        # pickled with a bit a neuron: masks are most of what a worker sends of a batch
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        mask = values.pop("active")
        return _with_mask, (values, None if mask is None else (np.packbits(mask), mask.shape))


def _with_mask(values: dict[str, Any], mask: tuple[NDArray[np.uint8], tuple[int, ...]] | None) -> PopulationEvents:
    """As it was pickled: bits and shape of `active`, and all other fields."""
    if mask is None:
        return PopulationEvents(**values, active=None)
    bits, shape = mask
    return PopulationEvents(**values, active=np.unpackbits(bits, count=math.prod(shape)).view(bool).reshape(shape))


@dataclass(frozen=True, slots=True, eq=False)
class ProjectionEvents:
    """Events of one projection of the network, summed over the images.

    kind          "conv" | "window" | "readout" | "attention" | "dualspike"; pools whose windows have gaps are "window"s
    graded        some source sends values beyond 1; of a dual spike transformation: its spikes do, as currents are
                  what is added up there
    synops        (T,) synaptic operations; of an attention: those at its counters.  KV first, tokens in series, each
                  spike of q and k costs e, and each of v d; QK first N; d channels of q and k a head, e of v, N tokens
    slots         (T,) `synops` and `delivered`, if a message that is a number of spikes were as many messages, a slot
                  of time each.  Of products of two numbers it has the arrivals alone
    products and slot_products of a dual spike transformation: an addition for each spike and neuron that it reaches, as
    its official code counts; its synops have the currents' messages too.  Else the next four are zero for other kinds
    than attention:
    delivered     (T,) graded values that the counters send on to the target: at most, as counters at zero send none
    coincidences  (T,) pairs of messages k[n, c], v[n, c'] of one token and head: the additions that K^T V needs; where
                  messages are small integers, a multiplication each as well
    products      (T,) min(e * spikes of k, d * spikes of v) + e * spikes of q: the additions of q (K^T V) where zeros
                  of one operand are skipped; the count of the syops tool, here with the exact spikes of each image
    slot_products (T,) the same of the numbers that q, k and v send: an addition for each spike that they stand for
    dense         multiply-accumulates of one image and step where nothing is skipped: see counts/dense.py
    """

    sources: tuple[str, ...]
    target: str
    kind: str
    graded: bool
    synops: Int
    slots: Int
    delivered: Int
    coincidences: Int
    products: Int
    slot_products: Int
    dense: int


SUMMED_OF_POPULATION = ("updates", "idle", "spikes", "values", "messages", "gathered")
SUMMED_OF_PROJECTION = ("synops", "slots", "delivered", "coincidences", "products", "slot_products")
"""The fields that add up over batches."""

Counted = TypeVar("Counted", PopulationEvents, ProjectionEvents)


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """What an execution of `images` images costs in events.

    populations   by name, all of the network
    projections   in the order of the network's
    slices        None where there is no mapping
    """

    images: int
    time_steps: int
    populations: dict[str, PopulationEvents]
    projections: tuple[ProjectionEvents, ...]
    slices: SliceEvents | None

    @property
    def synops(self) -> float:
        """Synaptic operations an image, mean over the images: those of all populations, and of all slices."""
        return int(self.synops_by_step.sum()) / self.images

    @property
    def synops_by_step(self) -> Int:
        """(T,) synaptic operations of all populations, summed over the images."""
        return sum((self.synops_of(name) for name in self.populations), np.zeros(self.time_steps, np.int64))

    def synops_of(self, name: str) -> Int:
        """(T,) synaptic operations that reach the population of that name, summed over the images.

        Those of an attention are counted both at its counters and where the counters' values arrive.
        """
        arriving = [p.synops + p.delivered for p in self.projections if p.target == name]
        return sum(arriving, self.populations[name].gathered)

    @property
    def slot_synops(self) -> float:
        """Synaptic operations an image if each message that is a number of spikes were sent as that many, in slots."""
        arriving = sum((p.slots for p in self.projections), np.zeros(self.time_steps, np.int64))
        gathered = sum(int(p.gathered.sum()) for p in self.populations.values())
        return (int(arriving.sum()) + gathered) / self.images

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of one image where nothing is skipped: all projections, all time steps."""
        return sum(p.dense for p in self.projections) * self.time_steps


def count(geometry: Geometry, execution: Execution) -> Events:
    """All events of `execution`: per population and projection, and per slice of the mapping where there is one.

    Raises InputError where the execution was not asked for the cells of the geometry.
    """
    network = geometry.network
    mapping = geometry.mapping
    _check_cells(geometry, execution)
    tables = (geometry.wholes, geometry.sent, geometry.received)
    sums = {name: execution.activity[name].messages for name in geometry.layout.first}
    totals, (wholes, sent, received) = weighted(tables, sums, geometry.layout)
    images = len(wholes[0])
    by_name = dict(zip(geometry.layout.first, totals, strict=True))
    spikes = dict(zip(geometry.layout.first, totals.sum(1), strict=True))
    slices = None
    messages = spikes
    gathered: dict[str, Int] = {}
    serial: dict[str, str] = {}
    if mapping is not None:
        slices = slice_events(geometry, sent, received, execution.activity)
        messages, gathered = _between_cores(geometry, slices)
        serial = {target: way.serial for target, way in mapping.ways.items()}
    none = np.zeros(network.time_steps, np.int64)
    populations = {
        p.name: _population(p, execution, [of_all.get(p.name, none) for of_all in (spikes, messages, gathered)], images)
        for p in network
    }
    synops = wholes[1].sum(0).T
    numbers, slots = by_name, synops
    if geometry.layout_of_graded.first:
        of_graded, slots = _in_slots(geometry, execution, synops)
        numbers = by_name | of_graded
    projections = tuple(
        _projection(
            network,
            projection,
            geometry.described[i],
            (synops[i], slots[i]),
            execution,
            (by_name, numbers),
            serial.get(projection.target, ""),
        )
        for i, projection in enumerate(network.projections)
    )
    return Events(images, network.time_steps, populations, projections, slices)


def _in_slots(geometry: Geometry, execution: Execution, synops: Int) -> tuple[dict[str, Int], Int]:
    """By population of graded messages the spikes that these stand for (images, T), and operations (projections, T).

    synops  (projections, T) operations of the messages: those of the spikes where a message is one
    """
    graded = geometry.layout_of_graded
    numbers: dict[str, NDArray[np.int32]] = {}
    for name in graded.first:
        values = execution.activity[name].values
        assert values is not None
        numbers[name] = values
    totals, ((_, slots),) = weighted((geometry.wholes_of_graded,), numbers, graded)
    from_graded = np.array([p.sources[0] in graded.first for p in geometry.network.projections])
    return dict(zip(graded.first, totals, strict=True)), np.where(from_graded[:, None], slots.sum(0).T, synops)


def _between_cores(geometry: Geometry, slices: SliceEvents) -> tuple[dict[str, Int], dict[str, Int]]:
    """By population what only a mapping can tell: messages to cores (T,), and gathered partial sums (T,)."""
    mapping = geometry.mapping
    standing = geometry.standing
    assert mapping is not None
    assert standing is not None
    sent = by_site(slices.messages_out.sum(0), mapping).T
    exchanged = len(slices.spikes) * standing.exchanged
    none = np.zeros(sent.shape[1], np.int64)
    messages: dict[str, Int] = {}
    gathered: dict[str, Int] = {}
    for site, of_site, between_copies in zip(mapping.sites, sent, exchanged.tolist(), strict=True):
        if site.kind == "population":
            messages[site.population] = of_site
        elif site.kind == "partial":
            # every slice of partial sums sends each of its values on to one neuron
            gathered[site.population] = gathered.get(site.population, none) + of_site
        elif between_copies:
            gathered[site.population] = gathered.get(site.population, none) + between_copies
    return messages, gathered


def join(parts: Sequence[Events]) -> Events:
    """The events of consecutive batches of one program as one; `parts` must not be empty."""
    first = parts[0]
    return Events(
        images=sum(events.images for events in parts),
        time_steps=first.time_steps,
        populations={name: _joined_population([e.populations[name] for e in parts]) for name in first.populations},
        projections=tuple(
            _summed([e.projections[index] for e in parts], SUMMED_OF_PROJECTION)
            for index in range(len(first.projections))
        ),
        slices=_joined_slices([e.slices for e in parts if e.slices is not None]),
    )


def _joined_population(parts: list[PopulationEvents]) -> PopulationEvents:
    """A neuron is active where it is in any batch."""
    known = [part.active for part in parts if part.active is not None]
    active = np.logical_or.reduce(known) if len(known) == len(parts) else None
    return replace(_summed(parts, SUMMED_OF_POPULATION), active=active)


def _joined_slices(parts: list[SliceEvents]) -> SliceEvents | None:
    """Slices keep their images apart: those of the batches follow one another."""
    if not parts:
        return None
    return replace(parts[0], **{field: np.concatenate([getattr(part, field) for part in parts]) for field in PER_IMAGE})


def _summed(parts: list[Counted], counts: tuple[str, ...]) -> Counted:
    """The first of some events with the sums of these fields of all."""
    return replace(parts[0], **{field: sum(getattr(part, field) for part in parts) for field in counts})


def condensed(events: Events) -> Events:
    """The same events with those of the slices summed over the images: their size no longer grows with the images."""
    if events.slices is None:
        return events
    summed = {f: getattr(events.slices, f).sum(0, keepdims=True) for f in PER_IMAGE}
    return replace(events, slices=replace(events.slices, **summed))


def _check_cells(geometry: Geometry, execution: Execution) -> None:
    """InputError where a population's activity was summed over other cells than those of the geometry."""
    for name, cells in geometry.cells.items():
        summed = execution.activity[name].cells
        # nearly always they are the very same object: arrays are compared only where they are not
        if summed is cells or _equal(summed, cells):
            continue
        raise InputError(
            name,
            f"its activity was summed over {_shape(summed)} cells of channels, rows and columns, "
            f"and the counts need {_shape(cells)} of their own",
            "Run the images with cells=geometry(network, mapping).cells.",
        )


def _equal(cells: Cells, others: Cells) -> bool:
    """Whether two grids cut a population alike."""
    return all(np.array_equal(getattr(cells, f), getattr(others, f)) for f in ("channels", "rows", "columns"))


def _shape(cells: Cells) -> str:
    """A grid's size for a person."""
    return " x ".join(map(str, cells.shape))


def _population(population: Population, execution: Execution, counted: Sequence[Int], images: int) -> PopulationEvents:
    """Its events.

    counted  spikes, messages and gathered of PopulationEvents
    """
    spikes, messages, gathered = counted
    name = population.name
    updates = np.full_like(spikes, population.size * images)
    if isinstance(population.neuron, Accumulator):
        silent = np.zeros(population.shape, bool)
        return PopulationEvents(name, updates, spikes, spikes, spikes, messages, gathered, silent)
    activity = execution.activity[name]
    if population.neuron.idle_if_silent:
        idle = updates - spikes
    elif activity.idle is not None:
        idle = activity.idle.sum((0, 2, 3, 4), dtype=np.int64)
    else:
        idle = np.zeros(len(updates), np.int64)
    return PopulationEvents(name, updates, idle, spikes, activity.total, messages, gathered, activity.active)


def _projection(
    network: Network,
    projection: Projection,
    described: Described,
    operations: tuple[Int, Int],
    execution: Execution,
    sent: tuple[dict[str, Int], dict[str, Int]],
    serial: str,
) -> ProjectionEvents:
    """Its events.

    operations  (T,) those of this projection, unless it is an attention, by messages and by slots
    sent        by population: (images, T) messages, and the spikes that they stand for
    serial      of an attention, as in its Site; "" where there is no mapping
    """
    synops, slots = operations
    none = np.zeros(network.time_steps, np.int64)
    events = ProjectionEvents(
        sources=projection.sources,
        target=projection.target,
        kind=described.kind,
        graded=described.graded,
        synops=synops,
        slots=slots,
        delivered=none,
        coincidences=none,
        products=none,
        slot_products=none,
        dense=described.dense,
    )
    if isinstance(projection.synapse, DualSpike):
        return _of_product(network, projection, events, sent)
    if not isinstance(projection.synapse, Attention):
        return events
    messages, numbers = ([of_all[source] for source in projection.sources] for of_all in sent)
    heads = heads_of(network, projection)
    tokens_in_series = (serial or heads.fewest_counters) == "tokens"
    synops, delivered = _at_counters(heads, tokens_in_series, messages)
    at_counters, answered = _at_counters(heads, tokens_in_series, numbers)
    return replace(
        events,
        synops=synops,
        slots=at_counters + answered,
        delivered=delivered,
        coincidences=execution.coincidences[projection.target],
        products=_products(heads, messages),
        slot_products=_products(heads, numbers),
    )


def _of_product(
    network: Network,
    projection: Projection,
    events: ProjectionEvents,
    sent: tuple[dict[str, Int], dict[str, Int]],
) -> ProjectionEvents:
    """The events of a dual spike transformation; sent: as of _projection."""
    y, spikes = projection.sources
    factors = factors_of(network, projection)
    messages, numbers = (of_all[spikes].sum(0) * factors.reached for of_all in sent)
    currents = sent[0][y].sum(0) * factors.at_s
    return replace(
        events,
        graded=network[spikes].max_out > 1,
        synops=currents + messages,
        slots=currents + numbers,
        products=messages,
        slot_products=numbers,
    )


def _at_counters(heads: Heads, tokens_in_series: bool, sent: list[Int]) -> tuple[Int, Int]:
    """(operations at the counters of an attention, values that these send on at most), of messages of q, k and v.

    sent  (images, T) each; the results (T,)
    """
    q, k, v = (messages.sum(0) for messages in sent)
    if not tokens_in_series:
        return heads.tokens * (q + k + v), heads.tokens * v
    # q and k choose a row of counters, one for each channel of v in the head; v a column
    return heads.width * (q + k) + heads.depth * v, heads.width * q


def _products(heads: Heads, sent: list[Int]) -> Int:
    """(T,) additions of q (K^T V) where zeros are skipped: of k or of v, whichever is cheaper for an image, and of q.

    sent  (images, T) each
    """
    q, k, v = sent
    return (np.minimum(heads.width * k, heads.depth * v) + heads.width * q).sum(0)
