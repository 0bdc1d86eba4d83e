"""Cut every site into a regular grid of (channel, row, column) boxes, one a core, so that the busiest has least work.

All sites share the cores of the fewest chips that hold the network at all; within them the largest expected work of a
core is made as small as possible: a bisection over that work, each site taking the fewest cores that stay below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.errors import MappingError
from spikformer_deploy.hardware import Core, Profile, load_profile, profile_names
from spikformer_deploy.mapping.mapping import SECTIONS, Site
from spikformer_deploy.mapping.memory import BoxSizes, words
from spikformer_deploy.mapping.rules import first_violation, fits
from spikformer_deploy.quantize.network import Attention, Conv, Network, Readout, Window

Int: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """One way to cut a site: box sizes, the cores it takes and the expected work of its busiest core in ns a step."""

    box: tuple[int, int, int]
    cores: int
    work: float


SPLIT_SHARE = 3
"""A split fan-in leaves room in the synapse section for at least so many words a list."""


def sites_of(network: Network, core: Core) -> tuple[Site, ...]:
    """What needs cores: every population, and right before it the counters of its attention or its partial sums.

    KV first with tokens in series keeps heads * d * d counters and 2 N sub-steps; QK first with channels in series
    heads * N * N and 2 d.  The one with the fewer sub-steps is also the one with fewer messages: QK first where N < d.
    """
    out = []
    for population in network:
        for projection in network.into(population.name):
            if isinstance(projection.synapse, Attention):
                out.append(_counters(population.name, population.shape, projection.synapse.heads))
        *parts, own = fan_in_parts(network, population.name, core)
        for number, part in enumerate(parts):
            out.append(Site(f"{population.name}.part{number}", "partial", population.name, population.shape, part=part))
        out.append(Site(population.name, "population", population.name, population.shape, part=own))
    return tuple(out)


def fan_in_parts(network: Network, name: str, core: Core) -> list[tuple[int, int]]:
    """Ranges of source channels of the convolution into a population: one, (0, 0), where a core holds all its lists."""
    incoming = [p.synapse for p in network.into(name) if isinstance(p.synapse, Conv)]
    if len(incoming) != 1 or incoming[0].groups != 1:
        return [(0, 0)]
    channels, taps = incoming[0].weight.shape[1], incoming[0].weight.shape[2] * incoming[0].weight.shape[3]
    if channels * taps <= int(core.section_words):
        return [(0, 0)]
    count = -(-channels * taps * SPLIT_SHARE // int(core.section_words))
    edges = np.linspace(0, channels, count + 1).astype(int).tolist()
    return list(pairwise(edges))


def _counters(name: str, shape: tuple[int, int, int], heads: int) -> Site:
    tokens, depth = shape[1] * shape[2], shape[0] // heads
    if tokens < depth:
        return Site(f"{name}.counters", "attention", name, (heads, tokens, tokens), "channels", 2 * depth)
    return Site(f"{name}.counters", "attention", name, (shape[0], 1, depth), "tokens", 2 * tokens)


def partition(
    network: Network,
    sites: tuple[Site, ...],
    profile: Profile,
    rates: dict[str, float],
    reserved: dict[str, int] | None = None,
) -> Int:
    """(slices, 7) boxes: site, c0, c1, y0, y1, x0, x1, in the order of the sites.

    rates     messages a neuron and step, by population
    reserved  words of axon memory to keep free in each core of a site, by site
    Raises MappingError where a single neuron does not fit a core, or the board has too few cores.
    """
    choices = [cuts(network, site, profile, rates, (reserved or {}).get(site.name, 0)) for site in sites]
    fewest = [min(cut.cores for cut in options) for options in choices]
    _check_board(sites, fewest, profile)
    budget = -(-sum(fewest) // profile.cores_per_chip) * profile.cores_per_chip
    chosen = _balanced(choices, budget)
    return np.array([row for i, cut in enumerate(chosen) for row in _boxes(i, sites[i].shape, cut.box)], np.int64)


def cuts(network: Network, site: Site, profile: Profile, rates: dict[str, float], reserved: int = 0) -> list[Cut]:
    """The cuts of a site that fit, none of which another beats in both cores and work; fewest cores first.

    reserved  words of axon memory that the destinations of a slice take
    """
    channels, rows, columns = (np.array(_sizes(extent), np.int64) for extent in site.shape)
    if site.kind == "attention":
        rows, columns = rows[-1:], columns[-1:]
    box = BoxSizes(channels[:, None, None], rows[None, :, None], columns[None, None, :])
    needed = words(network, site, box, profile.core)
    needed[..., SECTIONS.index("axon_mem")] = reserved
    good = fits(needed, profile.core)
    if not good.any():
        problem = first_violation(needed.reshape(-1, 5)[needed.sum(-1).argmin()], profile.core)
        raise MappingError(
            site.name,
            f"even its smallest slice does not fit a core of {profile.name}: {problem}",
            "Reduce the fan-in of the layer (fewer input channels, a smaller kernel), or use fewer weight bits.",
        )
    count = np.ones(good.shape, np.int64)
    for extent, size in zip(site.shape, (box.channels, box.rows, box.columns), strict=True):
        count = count * -(-extent // size)
    work = np.broadcast_to(expected_work(network, site, box, profile, rates), good.shape)
    order = np.lexsort((work[good], count[good]))
    options: list[Cut] = []
    for i in order:
        c, y, x = (int(axis[good][i]) for axis in np.broadcast_arrays(box.channels, box.rows, box.columns))
        cost = float(work[good][i])
        if not options or cost < options[-1].work:
            options.append(Cut((c, y, x), int(count[good][i]), cost))
    return options


def expected_work(
    network: Network, site: Site, box: BoxSizes, profile: Profile, rates: dict[str, float]
) -> NDArray[np.float64]:
    """Expected time in ns a step of a core with a box of these sizes: the longest of neurons, synapses and messages."""
    time = profile.time
    neurons = box.neurons * time.neuron_update.value
    if site.kind == "attention":
        q, k, v = (rates.get(s, 1.0) for s in _attention_sources(network, site))
        rounds = site.sub_steps / 2
        return np.maximum(neurons, (q + k + v) * rounds * box.neurons * time.synapse_dense.value)
    synops, messages = np.zeros(np.shape(neurons)), np.zeros(np.shape(neurons))
    for projection in network.into(site.population):
        source = network[projection.sources[0]]
        rate = rates.get(source.name, 1.0)
        match projection.synapse:
            case Conv(weight=weight, stride=stride, groups=groups):
                first, end = site.channels(weight.shape[1])
                taps = (end - first) * weight.shape[2] * weight.shape[3]
                seen = _seen(box.rows, weight.shape[2], stride[0]) * _seen(box.columns, weight.shape[3], stride[1])
                synops = synops + rate * taps * box.neurons
                messages = messages + rate * (end - first) * groups * seen
            case Window(kernel=kernel, stride=stride):
                seen = _seen(box.rows, kernel[0], stride[0]) * _seen(box.columns, kernel[1], stride[1])
                synops = synops + rate * kernel[0] * kernel[1] * box.neurons
                messages = messages + rate * box.channels * seen
            case Readout():
                synops = synops + rate * source.size * box.channels
                messages = messages + rate * source.size
            case Attention():
                synops = synops + box.neurons
                messages = messages + box.neurons
    if site.kind == "population" and site.part[0]:
        gathered = box.neurons * (len(fan_in_parts(network, site.population, profile.core)) - 1)
        synops, messages = synops + gathered, messages + gathered
    return np.maximum.reduce([neurons, synops * time.synapse_conv.value, messages * time.axon_in.value])


def _attention_sources(network: Network, site: Site) -> tuple[str, ...]:
    return next(p.sources for p in network.into(site.population) if isinstance(p.synapse, Attention))


def _seen(size: Int, kernel: int, stride: int) -> Int:
    """Source positions along one axis that `size` outputs see."""
    return (size - 1) * stride + kernel


def _sizes(extent: int) -> list[int]:
    """The box sizes along an axis that cut it into 1, 2, 3, ... near-equal parts."""
    return sorted({-(-extent // parts) for parts in range(1, extent + 1)})


def _balanced(choices: list[list[Cut]], budget: int) -> list[Cut]:
    """For each site the fewest cores whose work stays below the smallest limit that the budget allows."""

    def within(limit: float) -> list[Cut]:
        return [next((cut for cut in options if cut.work <= limit), options[0]) for options in choices]

    limits = sorted({cut.work for options in choices for cut in options})
    low, high = 0, len(limits) - 1
    best = [options[0] for options in choices]
    while low <= high:
        middle = (low + high) // 2
        chosen = within(limits[middle])
        reached = all(c.work <= limits[middle] for c in chosen)
        if reached and sum(c.cores for c in chosen) <= budget:
            best, high = chosen, middle - 1
        else:
            low = middle + 1
    return best


def _check_board(sites: tuple[Site, ...], fewest: list[int], profile: Profile) -> None:
    needed = sum(fewest)
    if needed <= profile.cores:
        return
    worst = int(np.argmax(fewest))
    chips = -(-needed // profile.cores_per_chip)
    boards = [load_profile(name) for name in profile_names()]
    same = [b for b in boards if b.core == profile.core and b.cores >= needed]
    board = min(same, key=lambda b: b.cores, default=None)
    raise MappingError(
        sites[worst].name,
        f"the network needs {needed:,} cores on {chips:,} chips, and {profile.name} has {profile.cores:,} on "
        f"{int(profile.board.chips):,}; this layer alone needs {fewest[worst]:,}",
        f"Use --target {board.name}, which has {board.cores:,} cores." if board else "No known board is large enough.",
    )


def _boxes(site: int, shape: tuple[int, int, int], box: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """The grid of boxes of one site: rows first, then columns, channels last, so that neighbours see the same input."""
    edges = [
        [(start, min(start + size, extent)) for start in range(0, extent, size)]
        for extent, size in zip(shape, box, strict=True)
    ]
    return [(site, *c, *y, *x) for y, x, c in product(edges[1], edges[2], edges[0])]
