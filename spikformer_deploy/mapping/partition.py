"""Cut every site into a regular grid of (channel, row, column) boxes, one a core.

All grids that fit a core are looked at, with what each costs: cores, the time of its busiest core in a step, and the
messages that its slices receive.  Which of them each site takes is chosen for all sites together (objective.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from spikformer_deploy.base.arrays import Array, Int, Shape
from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.base.words import counted
from spikformer_deploy.chips.draws import nominal
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.memory import BoxSizes, token_wise, words
from spikformer_deploy.chips.loihi.microcode import exchange_bits
from spikformer_deploy.chips.loihi.rules import first_violation, fits
from spikformer_deploy.chips.loihi.sites import program_length, synapse_kind
from spikformer_deploy.chips.loihi.steps import Work, core_ns, loads_ns
from spikformer_deploy.chips.profile import Core, Profile, load_profile, profile_names
from spikformer_deploy.mapping.objective import Aim, Choice, Cuts, choose
from spikformer_deploy.network.heads import Heads, factors_of, heads_into, heads_of, product_into
from spikformer_deploy.network.mapping import OPERANDS, SECTIONS, Site, Way, columns_at_home
from spikformer_deploy.network.network import Network, Projection
from spikformer_deploy.network.reach import Axis, axes_of, most_groups, most_read
from spikformer_deploy.network.synapses import Attention, Conv, DualSpike, Readout, Window

Expected: TypeAlias = tuple[Array, Array]
"""(synaptic operations, messages received) of a core in a step."""
CutsKey: TypeAlias = tuple[Site, int, str]
"""Of cuts: a site, the words of axon memory that are kept free, and how attentions work (SERIALS)."""

SERIALS = ("tokens", "channels")
"""The two ways of an attention: KV first with tokens in series, QK first with channels in series."""
SCHEDULES = ("spatial", "token-serial")
"""Every token has neurons of its own; or tokens stream through the blocks, whose neurons are one a channel."""
COPIES = (2, 4, 8, 16, 32)
"""Copies of attention counters that are tried, ascending, beside none: as many of them as have a turn.

More would save little by the model, and load links twice as much, which it does not know (docs/mapping.md).
"""
WORDS_A_LIST = 3
"""A split fan-in leaves room in the synapse section for at least this many words a list."""
EVERY_NEURON_FIRES = 1.0
"""Messages a neuron and step of populations whose rate is not given."""


def way_of(name: str) -> Way | None:
    """The way of that name; None where there is no such way."""
    ways = (Way(serial, copies) for serial in SERIALS for copies in (1, *COPIES))
    return next((way for way in ways if way.name == name), None)


def sites_of(
    network: Network, core: Core, serial: str = "tokens", schedule: str = "spatial", copies: int = 1
) -> tuple[Site, ...]:
    """What needs cores: every population, and right before it the counters of its attention or its partial sums.

    serial    "tokens": heads * d * e counters, 2 N sub-steps; "channels": heads * N * N counters, d + e sub-steps; of d
              channels of q and k in a head, e of v, and N tokens
    schedule  one of SCHEDULES
    copies    of the counters of each attention, which share out its sub-steps: no more than have a turn each
    """
    out: list[Site] = []
    token_serial = token_wise(network) if schedule == "token-serial" else {}
    for population in network:
        name = population.name
        for projection in network.into(name):
            if isinstance(projection.synapse, Attention):
                out += _counters(name, heads_of(network, projection), serial, copies)
        # token n comes in the sub-step n
        sub_steps = token_serial.get(name, 0)
        series = serial if sub_steps else ""
        if product := product_into(network, name):
            series, sub_steps = OPERANDS, factors_of(network, product).addends
        *parts, last = fan_in_parts(network, name, core)
        for number, part in enumerate(parts):
            out.append(Site(f"{name}.part{number}", "partial", name, population.shape, series, sub_steps, part))
        out.append(Site(name, "population", name, population.shape, series, sub_steps, last))
    return tuple(out)


def fan_in_parts(network: Network, name: str, core: Core) -> list[tuple[int, int]]:
    """Ranges of source channels of the convolution into a population: one, (0, 0), where a core holds all its lists."""
    incoming = [p.synapse for p in network.into(name) if isinstance(p.synapse, Conv)]
    if len(incoming) != 1 or incoming[0].groups != 1:
        return [(0, 0)]
    _, channels, rows, columns = incoming[0].weight.shape
    section = int(core.section_words)
    # a list takes a word or more, so more lists than words cannot fit
    lists = channels * rows * columns
    if lists <= section:
        return [(0, 0)]
    parts = -(-lists * WORDS_A_LIST // section)
    edges = np.linspace(0, channels, parts + 1).astype(int).tolist()
    return list(pairwise(edges))


def _counters(name: str, heads: Heads, serial: str, copies: int) -> Iterator[Site]:
    """The counters of the attention into population `name`, copy by copy: rows and columns, head by head.

    Each of two rounds takes the tokens (or the channels of a head) one after the other, a sub-step each: the first
    sums products of two operands (of spikes: counts coincidences), the second reads the sums out with the third.
    """
    copies = heads.useful_copies(serial, copies)
    sub_steps = heads.sub_steps(serial, copies)
    for copy in range(copies):
        number = str(copy) if copies > 1 else ""
        shape = heads.counters(serial)
        yield Site(f"{name}.counters{number}", "attention", name, shape, serial, sub_steps, copy=copy, copies=copies)


def partition(
    network: Network,
    sites: tuple[Site, ...],
    profile: Profile,
    rates: dict[str, float],
    reserved: dict[str, int] | None = None,
    objective: str = "energy",
    aim: Aim | None = None,
) -> tuple[Int, Choice]:
    """((slices, 7) boxes: the columns of BOX, in the order of the sites; what they are expected to cost).

    rates      messages a neuron and step, by population
    reserved   words of axon memory to keep free in each core of a site, by site
    objective  one of objective.OBJECTIVES; aim: as in objective.choose
    Raises MappingError where a single neuron does not fit a core, or the board has too few cores.
    """
    choices, sub_steps = cuts_of(network, sites, profile, rates, reserved)
    choice = choose(choices, profile, objective, sub_steps, aim)
    boxes: list[tuple[int, ...]] = []
    for number, site in enumerate(sites):
        size = choices[number].boxes[choice.picks[number]]
        boxes += _grid(number, site.shape, size.tolist())
    return np.array(boxes, np.int64), choice


def cuts_of(
    network: Network,
    sites: tuple[Site, ...],
    profile: Profile,
    rates: dict[str, float],
    reserved: dict[str, int] | None = None,
    known: dict[CutsKey, Cuts] | None = None,
) -> tuple[list[Cuts], int]:
    """(the cuts of each site, chip-wide sub-steps in a step); arguments and errors as of `partition`.

    known  of calls before with the same network, profile and rates, and filled by this one
    """
    serial = next((site.serial for site in sites if site.serial not in ("", OPERANDS)), "tokens")
    kept_free = reserved or {}
    cuts_by_key = {} if known is None else known
    choices: list[Cuts] = []
    for number, site in enumerate(sites):
        room = kept_free.get(site.name, 0)
        # copies of counters are cut alike, unless one needs more room
        again = site.copy > 0 and room == kept_free.get(sites[number - 1].name, 0)
        key = site, room, serial
        if not again and key not in cuts_by_key:
            cuts_by_key[key] = cuts(network, site, profile, rates, room, serial)
        choices.append(choices[-1] if again else cuts_by_key[key])
    _check_board(sites, [int(choice.cores.min()) for choice in choices], profile)
    return choices, max((site.chip_sub_steps for site in sites), default=0)


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
    serial    how attentions work (SERIALS)
    Raises MappingError where even the smallest box does not fit.
    """
    box = _candidates(network, site)
    needed = words(network, site, box, profile.core)
    needed[..., SECTIONS.index("axon_mem")] = reserved
    good = fits(needed, profile.core)
    if not good.any():
        raise _too_large(site, needed, profile)
    check_answers(network, site, profile)
    sizes = np.stack([axis[good] for axis in np.broadcast_arrays(box.channels, box.rows, box.columns)], 1)
    cores = np.prod(-(-np.array(site.shape) // sizes), 1)
    fitting = BoxSizes(*sizes.T)
    work, synops, messages = expected(network, site, fitting, profile, rates, serial)
    attends = any(isinstance(p.synapse, Attention) for p in network.into(site.population))
    return Cuts(
        shape=np.array(site.shape),
        boxes=sizes,
        cores=cores,
        work=work,
        messages=messages * cores,
        synops=synops,
        neurons=fitting.neurons,
        swept=fitting.channels if site.token_serial else fitting.neurons,
        in_turn=attends or site.sub_steps > 0,
    )


def check_answers(network: Network, site: Site, profile: Profile) -> None:
    """Raise MappingError where attention counters hold more than a message can carry; other sites are fine."""
    if site.kind != "attention":
        return
    heads = heads_into(network, site.population)
    largest = heads.largest_answer(site.serial)
    if largest >= 2**profile.limits.message_bits:
        raise MappingError(
            site.name,
            f"with {site.serial} in series its counters send up to {largest:,}, and target '{profile.name}' sends "
            f"{profile.limits.message_bits} bit",
            "Train with fewer levels, or fewer channels a head or tokens.",
        )
    bits = exchange_bits(max(heads.most), heads.largest_sum(site.serial))
    if site.copies > 1 and bits >= profile.limits.state_bits:
        raise MappingError(
            site.name,
            f"copies of its counters take {bits} bits of an input to exchange sums, and target '{profile.name}' adds "
            f"up in {profile.limits.state_bits}, one of them for the sign",
            "Map it without copies, or train with fewer levels.",
        )


def _too_large(site: Site, needed: Int, profile: Profile) -> MappingError:
    """The error for a site none of whose boxes fits; needed (..., 6): their words."""
    smallest = needed.reshape(-1, len(SECTIONS))[needed.sum(-1).argmin()]
    broken = first_violation(smallest, profile.core)
    return MappingError(
        site.name,
        f"even its smallest slice does not fit a core of target '{profile.name}': {broken}",
        "Reduce the fan-in of the layer (fewer input channels, a smaller kernel), or use fewer weight bits.",
    )


def _candidates(network: Network, site: Site) -> BoxSizes:
    """The sizes of boxes that are looked at, an axis of the arrays for each axis of the site."""
    channels, rows, columns = (np.array(_sizes(extent), np.int64) for extent in site.shape)
    if site.serial == OPERANDS:
        channels = channels[_of_whole_heads(network, site, channels)]
    if site.kind == "attention":
        columns = columns[-1:]  # a box has whole rows of counters: one axis of messages reaches all of them
    if site.token_serial:
        # one neuron serves all tokens of its channel
        rows = rows[-1:]
        columns = columns[-1:]
    return BoxSizes(channels[:, None, None], rows[None, :, None], columns[None, None, :])


def _of_whole_heads(network: Network, site: Site, channels: Int) -> NDArray[np.bool_]:
    """Which sizes of boxes cut heads of a product over channels into equal parts, or hold some as a whole.

    The channels of such a head are positions of y: a box then sees an interval of them, of every head alike.
    """
    product = product_into(network, site.population)
    assert product is not None
    factors = factors_of(network, product)
    if factors.over_tokens:
        return np.ones(len(channels), bool)
    return (channels % factors.at_y == 0) | (factors.at_y % channels == 0)


def _sizes(extent: int) -> list[int]:
    """The box sizes along an axis that cut it into 1, 2, 3, ... near-equal parts, and the powers of two; ascending."""
    equal = {-(-extent // parts) for parts in range(1, extent + 1)}
    powers = {2**i for i in range(extent.bit_length()) if 2**i < extent}
    return sorted(equal | powers)


def expected(
    network: Network, site: Site, box: BoxSizes, profile: Profile, rates: dict[str, float], serial: str = "tokens"
) -> tuple[Array, Array, Array]:
    """Expected (time in ns, synaptic operations, messages received) a step of a core with a box of these sizes.

    The time is that of its neurons, or of its messages with their synapses.  serial: how attentions work (SERIALS)
    """
    if site.kind == "attention":
        synops, messages = _at_counters(network, site, box, rates)
    else:
        synops, messages = _at_neurons(network, site, box, profile.core, rates, serial)
    length = program_length(network, site, profile.core)
    # sending is left out: a neuron fires as often in whatever box it stands
    work = Work(
        updates=box.neurons * (length == 0),
        programmed=box.neurons * (length > 0),
        length=length,
        synops=synops,
        messages=messages,
        synapse=synapse_kind(network, site),
    )
    return core_ns(loads_ns(work, latencies(profile, nominal)))[0], synops, messages


def _at_neurons(
    network: Network, site: Site, box: BoxSizes, core: Core, rates: dict[str, float], serial: str
) -> Expected:
    """(synaptic operations, messages) of all projections at boxes of neurons or of partial sums."""
    synops = np.zeros(len(box.neurons))
    messages = np.zeros(len(box.neurons))
    for projection in network.into(site.population):
        more_synops, more_messages = _received(network, site, projection, box, rates, serial)
        synops = synops + more_synops
        messages = messages + more_messages
    if site.kind == "population" and site.part[0]:
        # the last part of a split fan-in has the neurons: each other part sends it a sum for every one of them
        gathered = box.neurons * (len(fan_in_parts(network, site.population, core)) - 1)
        synops = synops + gathered
        messages = messages + gathered
    return synops, messages


def _received(
    network: Network, site: Site, projection: Projection, box: BoxSizes, rates: dict[str, float], serial: str
) -> Expected:
    """(synaptic operations, messages) of one projection at boxes of its target."""
    source = network[projection.sources[0]]
    rate = rates.get(source.name, EVERY_NEURON_FIRES)
    match projection.synapse:
        case Conv(weight=weight, groups=groups) as conv:
            rows, columns = axes_of(conv, source.shape)
            first, end = site.channels(weight.shape[1])
            taps = (end - first) * rows.kernel * columns.kernel
            met = np.minimum(groups, most_groups(box.channels, len(weight) // groups))
            return rate * taps * box.neurons, _positions(rate * (end - first) * met, box, rows, columns, source.shape)
        case Window() as window:
            rows, columns = axes_of(window, source.shape)
            # where a fan-in is split, a part has the windows of its own channels, however many the box has
            first, end = site.channels(source.shape[0])
            channels = np.minimum(box.channels, end - first)
            synops = rate * rows.kernel * columns.kernel * channels * box.positions
            return synops, _positions(rate * channels, box, rows, columns, source.shape)
        case Readout():
            first, end = site.channels(source.shape[0])
            spikes = rate * (end - first) * source.shape[1] * source.shape[2]
            return spikes * box.channels, np.full(len(box.channels), spikes)
        case Attention():
            return _answers(projection, heads_of(network, projection), box, rates, serial)
        case DualSpike():
            return _products(network, projection, box, rates)
        case _:
            assert_never(projection.synapse)


def _positions(messages: Array, box: BoxSizes, rows: Axis, columns: Axis, source: Shape) -> Array:
    """`messages` from one position of the source, times the positions that a box reads at most."""
    return messages * most_read(box.rows, rows, source[1]) * most_read(box.columns, columns, source[2])


def _answers(projection: Projection, heads: Heads, box: BoxSizes, rates: dict[str, float], serial: str) -> Expected:
    """(synaptic operations, messages) of what attention counters send on to boxes of the target.

    Each is a message of its own.  For every neuron they are, with tokens in series, one for each spike of q among the
    channels of its head; with channels in series, one for each spike of v among the tokens of its channel.
    """
    q, _, v = (rates.get(name, EVERY_NEURON_FIRES) for name in projection.sources)
    values = q * heads.depth if serial == "tokens" else v * heads.tokens
    return values * box.neurons, values * box.neurons


def _products(network: Network, projection: Projection, box: BoxSizes, rates: dict[str, float]) -> Expected:
    """(synaptic operations, messages) of both factors of a dual spike transformation at boxes of its target."""
    factors = factors_of(network, projection)
    y, spikes = (rates.get(name, EVERY_NEURON_FIRES) for name in projection.sources)
    of_spikes = spikes * factors.addends * most_groups(box.channels, factors.reached) * box.positions
    return (y + spikes) * factors.addends * box.neurons, y * factors.addends * box.channels + of_spikes


def _at_counters(network: Network, site: Site, box: BoxSizes, rates: dict[str, float]) -> Expected:
    """(synaptic operations, messages) of q, k, v and other copies at boxes of counters: of a copy with a full share."""
    projection = next(p for p in network.into(site.population) if isinstance(p.synapse, Attention))
    heads = heads_of(network, projection)
    rates_of = (rates.get(name, EVERY_NEURON_FIRES) for name in projection.sources)
    counting, answering = heads.turns(site.serial, site.copies)
    exchanged = _exchanged(site, box)
    if site.serial == "tokens":
        q, k, v = (rate * turns for rate, turns in zip(rates_of, (answering, counting, counting), strict=True))
        messages = (q + k) * box.channels + v * most_groups(box.channels, heads.depth) * box.columns
    else:
        q, k, v = (rate * turns for rate, turns in zip(rates_of, (counting, counting, answering), strict=True))
        messages = box.channels * (q * box.rows + (k + v) * box.columns)
    return (q + k + v) * box.neurons + exchanged, messages + exchanged


def _exchanged(site: Site, box: BoxSizes) -> Int:
    """Messages that a box of counters receives from other copies, where it has the most columns at home that it may."""
    if site.copies == 1:
        return box.each(0)
    # the copy 0 has its home in the first column
    at_home = columns_at_home(box.columns, 0, site.copies)
    return box.channels * box.rows * (at_home * (site.copies - 1) + box.columns - at_home)


def _check_board(sites: tuple[Site, ...], fewest: list[int], profile: Profile) -> None:
    """Raise MappingError, naming the largest site, where the board has fewer cores than all sites need."""
    needed = sum(fewest)
    if needed <= profile.cores:
        return
    worst = int(np.argmax(fewest))
    chips = -(-needed // profile.cores_per_chip)
    boards = [load_profile(name) for name in profile_names()]
    enough = [board for board in boards if board.core == profile.core and board.cores >= needed]
    larger = min(enough, key=lambda board: board.cores, default=None)
    way_out = "No known board is large enough."
    if larger:
        way_out = f"Use --target {larger.name}, which has {larger.cores:,} cores."
    raise MappingError(
        sites[worst].name,
        f"the network needs {needed:,} cores on {counted(chips, 'chip')}, and target '{profile.name}' has "
        f"{profile.cores:,} on {counted(int(profile.board.chips), 'chip')}; this layer alone needs {fewest[worst]:,}",
        way_out,
    )


def _grid(site: int, shape: Shape, size: list[int]) -> list[tuple[int, ...]]:
    """The boxes of one site: rows first, then columns, channels last, so that neighbours see the same input.

    Placers keep the order: boxes that hear the same messages come onto neighbouring cores.
    """
    channels, rows, columns = (
        [(start, min(start + step, extent)) for start in range(0, extent, step)]
        for extent, step in zip(shape, size, strict=True)
    )
    return [(site, *c, *y, *x) for y, x, c in product(rows, columns, channels)]
