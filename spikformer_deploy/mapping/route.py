"""Traffic between slices, and what it costs on the mesh: X first, then Y; chips side by side in one large mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.hardware import Profile
from spikformer_deploy.mapping.mapping import Site
from spikformer_deploy.quantize.network import Attention, Conv, Network, Projection, Window

Int: TypeAlias = NDArray[np.int64]
Float: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Nets:
    """Expected messages a step from slice `source` to slice `target`; arrays (nets,)."""

    source: Int
    target: Int
    messages: Float


def nets_of(network: Network, sites: tuple[Site, ...], boxes: Int, rates: dict[str, float]) -> Nets:
    """All pairs of slices that talk, with the messages that the firing rates let expect."""
    place = {(site.kind, site.population): i for i, site in enumerate(sites) if site.kind != "partial"}
    parts: list[tuple[Int, Int, Float]] = []
    for projection in network.projections:
        target = place["population", projection.target]
        if isinstance(projection.synapse, Attention):
            counters = place["attention", projection.target]
            for name in projection.sources:
                parts.append(_all_pairs(boxes, place["population", name], counters, rates.get(name, 1.0), heads=True))
            parts.append(_all_pairs(boxes, counters, target, 1.0, heads=True))
        else:
            source, rate = place["population", projection.sources[0]], rates.get(projection.sources[0], 1.0)
            parts.append(_pairs(boxes, projection, source, target, rate, sites[target].part))
            for index, site in enumerate(sites):
                if site.kind == "partial" and site.population == projection.target:
                    parts.append(_pairs(boxes, projection, source, index, rate, site.part))
                    parts.append(_pairs(boxes, ONE_TO_ONE, index, target, 1.0))
    return Nets(
        np.concatenate([source for source, _, _ in parts]),
        np.concatenate([target for _, target, _ in parts]),
        np.concatenate([messages for _, _, messages in parts]),
    )


ONE_TO_ONE = Projection((), "", Window())
"""From partial sums to the neurons that they belong to."""


def _pairs(
    boxes: Int, projection: Projection, source: int, target: int, rate: float, part: tuple[int, int] = (0, 0)
) -> tuple[Int, Int, Float]:
    """Slices of site `source` that reach slices of site `target`; `part`: only from this range of source channels."""
    match projection.synapse:
        case Conv(weight=weight, stride=stride, padding=padding, groups=groups):
            kernel, channels = (weight.shape[2], weight.shape[3]), (len(weight) // groups, weight.shape[1])
        case Window(kernel=kernel, stride=stride, padding=padding):
            channels = (1, 1)
        case _:
            return _all_pairs(boxes, source, target, rate)
    senders, receivers = np.flatnonzero(boxes[:, 0] == source), np.flatnonzero(boxes[:, 0] == target)
    sent, got = boxes[senders], boxes[receivers]
    # what each receiver sees, as intervals of the sender's channels, rows and columns
    low = [got[:, 1] // channels[0] * channels[1]]
    high = [((got[:, 2] - 1) // channels[0] + 1) * channels[1]]
    if part != (0, 0):
        low, high = [np.maximum(low[0], part[0])], [np.minimum(high[0], part[1])]
    for axis in (0, 1):
        low.append(got[:, 3 + 2 * axis] * stride[axis] - padding[axis])
        high.append((got[:, 4 + 2 * axis] - 1) * stride[axis] - padding[axis] + kernel[axis])
    shared = np.ones((len(receivers), len(senders)), np.int64)
    for axis in range(3):
        first, end = sent[:, 1 + 2 * axis], sent[:, 2 + 2 * axis]
        shared *= np.clip(np.minimum(high[axis][:, None], end) - np.maximum(low[axis][:, None], first), 0, None)
    to, origin = np.nonzero(shared)
    messages: Float = rate * shared[to, origin].astype(np.float64)
    return senders[origin].astype(np.int64), receivers[to].astype(np.int64), messages


def _all_pairs(boxes: Int, source: int, target: int, rate: float, heads: bool = False) -> tuple[Int, Int, Float]:
    """Every sender to every receiver; with `heads`, a receiver hears its share of the channels alone."""
    senders, receivers = np.flatnonzero(boxes[:, 0] == source), np.flatnonzero(boxes[:, 0] == target)
    edges = boxes[senders][:, 1:].reshape(-1, 3, 2)
    sizes = np.prod(edges[:, :, 1] - edges[:, :, 0], 1)
    share = 1 / len(receivers) if heads else 1.0
    origin, to = np.meshgrid(senders, receivers, indexing="ij")
    return origin.ravel(), to.ravel(), np.repeat(rate * sizes * share, len(receivers)).astype(np.float64)


def destinations(nets: Nets, slices: int) -> Int:
    """(slices,) destination slices of each slice: its words of axon memory."""
    return np.bincount(nets.source, minlength=slices)


def coordinates(profile: Profile, cores: Int) -> tuple[Int, Int]:
    """(x, y) of the tiles of global core numbers, in the mesh of all chips."""
    tiles_x, tiles_y = int(profile.chip.tiles_x), int(profile.chip.tiles_y)
    chip, core = np.divmod(cores, profile.cores_per_chip)
    tile = core // int(profile.chip.cores_per_tile)
    row, column = np.divmod(chip, int(profile.board.columns))
    return column * tiles_x + tile % tiles_x, row * tiles_y + tile // tiles_x


def metrics(nets: Nets, cores: Int, profile: Profile) -> dict[str, float]:
    """What a placement costs: hops a message, messages * hops, mean and maximal load of a link, in messages a step."""
    x, y = coordinates(profile, cores)
    across = np.abs(x[nets.source] - x[nets.target])
    along = np.abs(y[nets.source] - y[nets.target])
    loads = link_loads(nets, x, y)
    used = loads[loads > 0]
    messages = float(nets.messages.sum())
    packet_hops = float((nets.messages * (across + along)).sum())
    return {
        "messages": messages,
        "packet_hops": packet_hops,
        "packet_hops_east_west": float((nets.messages * across).sum()),
        "packet_hops_north_south": float((nets.messages * along).sum()),
        "mean_hops": packet_hops / messages if messages else 0.0,
        "mean_link_load": float(used.mean()) if used.size else 0.0,
        "max_link_load": float(used.max()) if used.size else 0.0,
    }


def link_loads(nets: Nets, x: Int, y: Int) -> Float:
    """Messages a step on every directed link, east, west, north and south of every tile, as one flat array.

    A message goes along its source's row to the target's column, then along that column.
    """
    width, height = int(x.max()) + 1, int(y.max()) + 1
    x0, y0, x1, y1 = x[nets.source], y[nets.source], x[nets.target], y[nets.target]
    loads = []
    for start, end, line, size, lines in ((x0, x1, y0, width, height), (y0, y1, x1, height, width)):
        for forward in (True, False):
            chosen = (end > start) if forward else (end < start)
            low, high = np.minimum(start, end)[chosen], np.maximum(start, end)[chosen]
            change = np.zeros((lines, size + 1))
            np.add.at(change, (line[chosen], low), nets.messages[chosen])
            np.subtract.at(change, (line[chosen], high), nets.messages[chosen])
            loads.append(change.cumsum(1)[:, :-1].ravel())
    return np.concatenate(loads)
