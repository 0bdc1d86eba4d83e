"""What synapses deliver in the engine: convolutions, attention and windows, from messages to sums.

Sums are the widest values of a run: they are computed piece by piece (plan.SumsPlan.cut), and every piece is read by
the neurons while it is still in a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Array
from spikformer_deploy.executors.fast import kernels, synapses, threads
from spikformer_deploy.executors.fast.batch import Batch, Sent
from spikformer_deploy.executors.fast.plan import Arriving, SumsPlan, is_identity, sum_type, window_of
from spikformer_deploy.network.network import Population, Projection
from spikformer_deploy.network.synapses import Attention, DualSpike


class Place(NamedTuple):
    """Some images of a batch, and of these the rows from `first` to `end`."""

    images: slice
    first: int
    end: int


class Piece(NamedTuple):
    """Sums (n, T or 1, p, C) of some images: of the positions from `first` on."""

    images: slice
    first: int
    sums: Array


def pieces(batch: Batch, population: Population) -> Iterator[Piece]:
    """The synaptic sums of a population, integers, some held exactly in floats."""
    plan = batch.plan.sums[population.name]
    _, height, width = population.shape
    images, rows = plan.cut(torch.get_num_threads())
    for start in range(0, batch.images, images):
        for first in range(0, height, rows):
            place = Place(slice(start, start + images), first, min(first + rows, height))
            if batch.threads > 1:
                numba.set_num_threads(batch.threads)
            values = sums_at(batch, plan, place)
            threads.share_out(batch.threads, values.size)
            yield Piece(place.images, first * width, values)


def sums_at(batch: Batch, plan: SumsPlan, place: Place) -> Array:
    """The sums of all projections, (n, T or 1, p, C)."""
    parts = [_delivered(batch, incoming, place) for incoming in plan.incoming]
    if len(parts) == 1 and not plan.incoming[0].shift:
        return parts[0]
    steps = max(p.shape[1] for p in parts)
    total = np.zeros((len(parts[0]), steps, *parts[0].shape[2:]), np.int64 if plan.wide else np.int32)
    for incoming, sums in zip(plan.incoming, parts, strict=True):
        kernels.add_shifted(total, sums, incoming.shift)
    return total


def _delivered(batch: Batch, incoming: Arriving, place: Place) -> Array:
    """What one projection delivers, before its weights are shifted."""
    projection = incoming.projection
    if incoming.layer is not None:
        return _convolution(batch, projection, incoming.layer.convolve, place)
    if isinstance(projection.synapse, Attention):
        return _attention(batch, incoming, place.images)
    if isinstance(projection.synapse, DualSpike):
        return _dual_spike(batch, incoming, projection.synapse, place.images)
    sent = batch.sent[projection.sources[0]][place.images]
    channels, height, width = batch.network[projection.target].shape
    if is_identity(projection):
        return sent[:, :, place.first * width : place.end * width].astype(np.int32, copy=False)
    out = np.zeros((*sent.shape[:2], height * width, channels), sum_type(incoming.bound))
    add_windows(batch, projection, sent, out)
    return out


def _convolution(
    batch: Batch, projection: Projection, convolve: synapses.Convolve, place: Place
) -> NDArray[np.floating]:
    source = batch.network[projection.sources[0]]
    channels, height, width = source.shape
    sent = batch.sent[source.name][place.images]
    maps = torch.from_numpy(sent).reshape(-1, height, width, channels)
    # the number of messages is known from their counts: it decides whether adding rows of weights is cheaper
    total = int(batch.counts[source.name].total[batch.place][place.images].sum())
    out = convolve(maps, total, place.first, place.end).numpy()
    return out.reshape(*sent.shape[:2], -1, out.shape[3])


def _dual_spike(batch: Batch, incoming: Arriving, dual: DualSpike, images: slice) -> Sent:
    sent = [batch.sent[name][images] for name in incoming.projection.sources]
    steps = max(s.shape[1] for s in sent)
    y, spikes = (s if s.shape[1] == steps else np.repeat(s, steps, 1) for s in sent)
    channels = batch.network[incoming.projection.target].shape[0]
    out = np.empty((*spikes.shape[:3], channels), sum_type(incoming.bound))
    kernels.add_rows_of_spikes(_flat(y), _flat(spikes), dual.heads, dual.over_tokens, _flat(out))
    return out


def _attention(batch: Batch, incoming: Arriving, images: slice) -> Sent:
    projection = incoming.projection
    synapse = projection.synapse
    assert isinstance(synapse, Attention)
    sent = [batch.sent[name][images] for name in projection.sources]
    steps = max(s.shape[1] for s in sent)
    # what no time step changes has one map; the loop takes a map of each source for every step
    q, k, v = (s if s.shape[1] == steps else np.repeat(s, steps, 1) for s in sent)
    out = np.empty(v.shape, sum_type(incoming.bound))
    pairs = np.empty((len(out) * steps, synapse.heads), np.int64)
    kernels.attend(_flat(q), _flat(k), _flat(v), synapse.heads, synapse.weight, _flat(out), pairs)
    none = np.zeros((batch.images, batch.network.time_steps), np.int64)
    met = batch.kept.coincidences.setdefault(projection.target, none)
    met[images] += pairs.reshape(len(out), steps, -1).sum(2)
    return out


def _flat(values: Sent) -> Sent:
    """(n, T, P, C) as (n * T, P, C), the same memory."""
    return values.reshape(-1, *values.shape[2:])


def add_windows(batch: Batch, projection: Projection, sent: Sent, out: Sent) -> None:
    """out += sums of unit synapses over messages of as many images and steps, both (n, T or 1, P, C)."""
    maps = _maps(batch, projection.sources[0], sent)
    kernels.window_sum(maps, window_of(projection), _maps(batch, projection.target, out))


def largest_of_windows(batch: Batch, projection: Projection, out: Sent, peak: Array) -> None:
    """out = the largest message of each window, and peak (N * T,) the largest magnitude of each map."""
    name = projection.sources[0]
    sent = _maps(batch, name, batch.sent[name])
    kernels.window_max(sent, window_of(projection), _maps(batch, projection.target, out), peak)


def _maps(batch: Batch, name: str, values: Sent) -> Sent:
    """(n, T, P, C) of a population as (n * T, Y, X, C), the same memory."""
    channels, height, width = batch.network[name].shape
    return values.reshape(-1, height, width, channels)
