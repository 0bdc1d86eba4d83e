"""Cut every site into a regular grid of (channel, row, column) boxes, one a core.

All grids that fit a core are looked at, with what each costs: cores, the time of its busiest core in a step, and the
messages that its slices receive.  Which of them each site takes is chosen for all sites together (objective.py).
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.loihi.memory import BoxSizes, token_wise, words
from spikformer_deploy.chips.loihi.rules import first_violation, fits
from spikformer_deploy.chips.profile import Core, Profile, load_profile, profile_names
from spikformer_deploy.mapping.objective import Choice, Cuts, choose
from spikformer_deploy.network.mapping import SECTIONS, Site
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.synapses import Attention, Conv, Readout, Window

Real: TypeAlias = NDArray[Any]
Expected: TypeAlias = tuple[Real, Real]
"""(synaptic operations, messages received) of a core in a step."""

SERIALS = ("tokens", "channels")
"""The two ways of an attention: KV first with tokens in series, QK first with channels in series."""
SCHEDULES = ("spatial", "token-serial")
"""Every token has neurons of its own; or tokens stream through the blocks, whose neurons are one a channel."""
SPLIT_SHARE = 3
"""A split fan-in leaves room in the synapse section for at least so many words a list."""


def sites_of(network: Network, core: Core, serial: str = "tokens", schedule: str = "spatial") -> tuple[Site, ...]:
    """What needs cores: every population, and right before it the counters of its attention or its partial sums.

    serial    "tokens": heads * d * d counters, 2 N sub-steps; "channels": heads * N * N counters, 2 d sub-steps
    schedule  one of SCHEDULES
    """
    out, streamed = [], token_wise(network) if schedule == "token-serial" else {}
    for population in network:
        for projection in network.into(population.name):
            if isinstance(projection.synapse, Attention):
                out.append(_counters(population.name, population.shape, projection.synapse.heads, serial))
        *parts, own = fan_in_parts(network, population.name, core)
        tokens = streamed.get(population.name, 0)
        about = population.name, population.shape, serial if tokens else "", tokens
        for number, part in enumerate(parts):
            out.append(Site(f"{population.name}.part{number}", "partial", *about, part))
        out.append(Site(population.name, "population", *about, own))
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


def _counters(name: str, shape: tuple[int, int, int], heads: int, serial: str) -> Site:
    tokens, depth = shape[1] * shape[2], shape[0] // heads
    if serial == "channels":
        return Site(f"{name}.counters", "attention", name, (heads, tokens, tokens), serial, 2 * depth)
    return Site(f"{name}.counters", "attention", name, (shape[0], 1, depth), serial, 2 * tokens)


def partition(
    network: Network,
    sites: tuple[Site, ...],
    profile: Profile,
    rates: dict[str, float],
    reserved: dict[str, int] | None = None,
    objective: str = "energy",
) -> tuple[Int, Choice]:
    """((slices, 7) boxes: site, c0, c1, y0, y1, x0, x1, in the order of the sites; what they are expected to cost).

    rates      messages a neuron and step, by population
    reserved   words of axon memory to keep free in each core of a site, by site
    objective  one of objective.OBJECTIVES
    Raises MappingError where a single neuron does not fit a core, or the board has too few cores.
    """
    serial = next((site.serial for site in sites if site.serial), "tokens")
    choices = [cuts(network, site, profile, rates, (reserved or {}).get(site.name, 0), serial) for site in sites]
    _check_board(sites, [int(c.cores.min()) for c in choices], profile)
    sub_steps = max((site.sub_steps for site in sites), default=0)
    choice = choose(choices, profile, objective, sub_steps)
    grids = [c.boxes[i].tolist() for c, i in zip(choices, choice.picks, strict=True)]
    boxes = [row for i, box in enumerate(grids) for row in _boxes(i, sites[i].shape, box)]
    return np.array(boxes, np.int64), choice


def cuts(
    network: Network,
    site: Site,
    profile: Profile,
    rates: dict[str, float],
    reserved: int = 0,
    serial: str = "tokens",
) -> Cuts:
    """All grids of near-equal boxes of a site that fit a core.

    reserved  words of axon memory that the destinations of a slice take
    """
    channels, rows, columns = (np.array(_sizes(extent), np.int64) for extent in site.shape)
    if site.kind == "attention":  # a box has whole rows of counters: one axis of messages reaches all of them
        columns = columns[-1:]
    if site.token_serial:
        rows, columns = rows[-1:], columns[-1:]
    box = BoxSizes(channels[:, None, None], rows[None, :, None], columns[None, None, :])
    needed = words(network, site, box, profile.core)
    needed[..., SECTIONS.index("axon_mem")] = reserved
    good = fits(needed, profile.core)
    if not good.any():
        problem = first_violation(needed.reshape(-1, len(SECTIONS))[needed.sum(-1).argmin()], profile.core)
        raise MappingError(
            site.name,
            f"even its smallest slice does not fit a core of {profile.name}: {problem}",
            "Reduce the fan-in of the layer (fewer input channels, a smaller kernel), or use fewer weight bits.",
        )
    sizes = np.stack([axis[good] for axis in np.broadcast_arrays(box.channels, box.rows, box.columns)], 1)
    cores = np.prod(-(-np.array(site.shape) // sizes), 1)
    fitting = BoxSizes(*sizes.T)
    work, synops, messages = expected(network, site, fitting, profile, rates, serial)
    swept = fitting.channels if site.token_serial else fitting.neurons
    attends = any(isinstance(p.synapse, Attention) for p in network.into(site.population))
    in_turn = attends or site.sub_steps > 0
    return Cuts(np.array(site.shape), sizes, cores, work, messages * cores, synops, fitting.neurons, swept, in_turn)


def expected(
    network: Network, site: Site, box: BoxSizes, profile: Profile, rates: dict[str, float], serial: str = "tokens"
) -> tuple[Real, Real, Real]:
    """Expected (time in ns, synaptic operations, messages received) a step of a core with a box of these sizes.

    The time is the longest of neurons, synapses and messages.  serial: how attentions work (SERIALS)
    """
    time = profile.time
    if site.kind == "attention":
        synops, messages = _at_counters(network, site, box, rates)
        synapse = time.synapse_dense
    else:
        synops, messages = np.zeros(len(box.neurons)), np.zeros(len(box.neurons))
        incoming = network.into(site.population)
        for projection in incoming:
            more_synops, more_messages = _received(network, site, projection, box, rates, serial)
            synops, messages = synops + more_synops, messages + more_messages
        if site.kind == "population" and site.part[0]:
            gathered = box.neurons * (len(fan_in_parts(network, site.population, profile.core)) - 1)
            synops, messages = synops + gathered, messages + gathered
        kinds = {type(p.synapse) for p in incoming}
        dense = time.synapse_dense if kinds == {Readout} else time.synapse_sparse
        synapse = time.synapse_conv if Conv in kinds else dense
    parts = (box.neurons * time.neuron_update.value, synops * synapse.value, messages * time.axon_in.value)
    return np.maximum.reduce(parts), synops, messages


def _received(
    network: Network, site: Site, projection: Projection, box: BoxSizes, rates: dict[str, float], serial: str
) -> Expected:
    """(synaptic operations, messages) of one projection at boxes of its target."""
    source = network[projection.sources[0]]
    rate = rates.get(source.name, 1.0)
    match projection.synapse:
        case Conv(weight=weight, stride=stride, groups=groups):
            first, end = site.channels(weight.shape[1])
            inside = np.minimum(groups, -(-box.channels // (len(weight) // groups)))
            high = _seen(box.rows, weight.shape[2], stride[0], source.shape[1])
            wide = _seen(box.columns, weight.shape[3], stride[1], source.shape[2])
            taps = (end - first) * weight.shape[2] * weight.shape[3]
            return rate * taps * box.neurons, rate * (end - first) * inside * high * wide
        case Window(kernel=kernel, stride=stride):
            high = _seen(box.rows, kernel[0], stride[0], source.shape[1])
            wide = _seen(box.columns, kernel[1], stride[1], source.shape[2])
            return rate * kernel[0] * kernel[1] * box.neurons, rate * box.channels * high * wide
        case Readout():
            return rate * source.size * box.channels, np.full(len(box.channels), rate * source.size)
        case Attention(heads=heads):
            q, _, v = (rates.get(name, 1.0) for name in projection.sources)
            channels, height, width = source.shape
            tokens = serial == "tokens"
            values = q * (channels // heads) if tokens else v * height * width
            return values * box.neurons, values * box.neurons
        case _:
            assert_never(projection.synapse)


def _at_counters(network: Network, site: Site, box: BoxSizes, rates: dict[str, float]) -> Expected:
    """(synaptic operations, messages) of q, k and v at boxes of counters."""
    projection = next(p for p in network.into(site.population) if isinstance(p.synapse, Attention))
    q, k, v = (rates.get(name, 1.0) for name in projection.sources)
    rounds = site.sub_steps // 2
    synops = (q + k + v) * rounds * box.neurons
    if site.serial == "tokens":
        depth = site.shape[2]
        heads = -(-box.channels // depth)
        return synops, rounds * ((q + k) * box.channels + v * heads * box.columns)
    return synops, rounds * box.channels * (q * box.rows + (k + v) * box.columns)


def _seen(size: Int, kernel: int, stride: int, extent: int) -> Int:
    """Source positions along one axis, of `extent`, that `size` outputs see."""
    return np.minimum((size - 1) * stride + kernel, extent)


def _sizes(extent: int) -> list[int]:
    """The box sizes along an axis that cut it into 1, 2, 3, ... near-equal parts, and the powers of two."""
    powers = {2**i for i in range(extent.bit_length()) if 2**i < extent}
    return sorted({-(-extent // parts) for parts in range(1, extent + 1)} | powers)


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


def _boxes(site: int, shape: tuple[int, int, int], box: list[int]) -> list[tuple[int, ...]]:
    """The grid of boxes of one site: rows first, then columns, channels last, so that neighbours see the same input."""
    edges = [
        [(start, min(start + size, extent)) for start in range(0, extent, size)]
        for extent, size in zip(shape, box, strict=True)
    ]
    return [(site, *c, *y, *x) for y, x, c in product(edges[1], edges[2], edges[0])]
