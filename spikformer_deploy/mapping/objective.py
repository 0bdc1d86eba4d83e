"""Which cut every site takes, for all sites together, from the cuts that the caps of a core allow.

    energy   (the default) the number of chips, and the cuts on it, with the least expected energy a step
    latency  the number of chips with the shortest expected step
    cores    the fewest cores that the network fits; then the least work of the busiest, then the fewest messages
    tiles    boxes as Intel's compiler cut PilotNet: all channels and rows, columns in powers of two; where such a tile
             does not fit, rows and then channels are halved.  Its 59 cores of convolutions come out one by one.

On a number of chips three limits are chosen together: on the time of a core that works at once, on that of one that
works in turn, and on the neurons that a core sweeps in a sub-step.  A step is the sum of the first two and of all its
sweeps; of the limits for which the cores suffice those with the shortest step are taken.  Cores that are left over then
go where they save most messages: every site takes the cut with the least messages + price * cores, and one price of a
core for all sites is searched, by bisection, at which the cores just suffice.
Limits on sweeps are tried in steps, so that a cut between two of them may have a shorter step, or less energy.  It is
never one that another objective takes: those are looked at, too.

Between chips messages may take longer than all cores.  What the heaviest link takes is known once a cut is placed;
cores that may work for longer, by a *slack*, send fewer messages.  So cuts of more chips and of more slack are offered
too (`offers`), for map.py to place some.  By chance such a cut sweeps fewer neurons, and then has the shorter step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.draws import nominal
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.loihi.steps import barrier_before_placement, link_ns, pause_ns
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.network.mapping import Mapping

OBJECTIVES = ("energy", "latency", "cores", "tiles")
LADDER = 1.2
"""Numbers of chips that are tried grow by this factor: 37 tries for a board of 1,152 chips."""
MOST_WORSE = 4
"""The search over numbers of chips ends when this many in a row are no better than the best before."""
MEAN_HOPS = 3.0
"""Hops a message, for the energy of a cut that is not placed yet; published sizes take 2 to 4 once placed."""
LOWEST_PRICE = 1e-3
"""Messages a step that a core must save; below this price cores are as good as free."""
PRICE_STEPS = 24
"""Halvings of the interval of prices on a logarithmic scale: prices a factor of 1e10 apart come within 2e-6."""
SWEPT_LADDER = 1.2
"""Limits on the neurons that a core sweeps in a sub-step fall by this factor."""
SHORT_SWEEP = 1 / 8
"""Of barrier and runtime: limits below which a sweep is shorter than that are not tried."""
SLACKS = (1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0)
"""By how much longer than the least cores that work at once may work, in cuts that are offered."""
HALVINGS = 16
"""Sizes of an axis that the objective `tiles` takes: all of it, a half, ..., its 2^15th part."""


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """The grids that a site may be cut into, arrays (n,).

    shape     (C, Y, X) of the site; boxes (n, 3) sizes of a box in channels, rows and columns
    cores     boxes of the grid; neurons of a box, and those that a core visits in a sub-step
    work      expected time in ns of a core in a step; synops: its synaptic operations
    messages  received by all slices in a step
    in_turn   whether the site works in sub-steps, after what all others do at once
    """

    shape: Int
    boxes: Int
    cores: Int
    work: Float
    messages: Float
    synops: Float
    neurons: Int
    swept: Int
    in_turn: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A cut for every site and what they cost; expectations from the firing rates.

    picks     (sites,) which of its Cuts each site takes
    work      ns of the busiest core in a step, its sweeps over idle neurons in sub-steps of an attention included
    synops    synaptic operations of the core with most of them; sub_steps: chip-wide sub-steps of a step
    at_once   ns of the busiest core outside of sub-steps, beside which links work
    step_ns   by the closed form of chips/loihi/steps.py, without links until it is placed
    energy_pj static and running power, messages, and the sweeps of sub-steps: of all energy, only these depend on the
              cut and on the way of the attentions
    placed    whether links are in it; link_ns: what the heaviest takes, then
    """

    picks: Int
    chips: int
    cores: int
    work: float
    messages: float
    synops: float
    sub_steps: int
    at_once: float
    step_ns: float
    energy_pj: float
    placed: bool = False
    link_ns: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    """What is chosen from.

    sites      the cuts of each site
    idle       ns that the visits of a neuron which finds nothing to do take in all sub-steps
    sub_steps  chip-wide sub-steps in a step
    """

    sites: list[Cuts]
    idle: float
    profile: Profile
    sub_steps: int

    @property
    def distinct(self) -> tuple[list[Cuts], list[int]]:
        """The cuts that differ, and how many sites have each: copies of counters share theirs."""
        alike = Counter(map(id, self.sites))
        return list({id(cuts): cuts for cuts in self.sites}.values()), list(alike.values())

    @property
    def works(self) -> list[Float]:
        """For each site (n,): the work of its cuts and their sweeps in all sub-steps, in ns."""
        return [cuts.work + self.idle * cuts.swept for cuts in self.sites]

    @property
    def fewest_cores(self) -> int:
        """Cores that the network takes at least."""
        return sum(int(cuts.cores.min()) for cuts in self.sites)

    def cores(self, picks: Int) -> int:
        """Cores that these picks take."""
        return sum(int(cuts.cores[pick]) for cuts, pick in zip(self.sites, picks, strict=True))


class _Frontier(NamedTuple):
    """What limits on the work of a core take in cores, of the cuts that sweep no more than `swept` neurons a sub-step.

    at_once, in_turn  (limits ascending, the fewest cores of all sites that work so)
    """

    swept: int
    at_once: tuple[Float, Int]
    in_turn: tuple[Float, Int]


class Aim(NamedTuple):
    """What a cut is made for, where the objective alone does not say it: a number of chips, and one of SLACKS."""

    chips: int
    slack: float


def choose(sites: list[Cuts], profile: Profile, objective: str, sub_steps: int, aim: Aim | None = None) -> Choice:
    """The best choice by `objective`.  The board must hold the fewest cores of every site.

    sites      the cuts of each site
    sub_steps  chip-wide sub-steps in a step: each sweeps the neurons of the fullest core
    aim        of energy and latency: one of the cuts that are offered
    Raises InputError for an objective that is none of OBJECTIVES.
    """
    search = _search(sites, profile, sub_steps)
    match objective:
        case "energy" | "latency" if aim:
            chips = max(aim.chips, _fewest_chips(search))
            return _priced(_balanced(search, _frontiers(search), chips * profile.cores_per_chip, aim.slack), search)
        case "cores":
            return _priced(_fewest_cores(search), search)
        case "tiles":
            return _priced(_tiles(search), search)
        case "energy" | "latency":
            return _best_chips(search, objective)
        case _:
            raise InputError("--objective", f"'{objective}' is none of {', '.join(OBJECTIVES)}")


def offers(sites: list[Cuts], profile: Profile, sub_steps: int, most_chips: int) -> dict[Aim, Choice]:
    """Cuts with slack on up to `most_chips` chips: those that send fewer messages than the same with less of it.

    sites, sub_steps  as in `choose`; the board must hold the fewest cores of every site
    """
    search = _search(sites, profile, sub_steps)
    frontiers = _frontiers(search)
    out = {}
    for chips in _ladder(_fewest_chips(search), most_chips):
        fewest = np.inf
        for slack in SLACKS:
            choice = _priced(_balanced(search, frontiers, chips * profile.cores_per_chip, slack), search)
            if choice.messages < fewest:
                out[Aim(chips, slack)] = choice
                fewest = choice.messages
    return out


def _search(sites: list[Cuts], profile: Profile, sub_steps: int) -> _Search:
    return _Search(sites, float(latencies(profile, nominal).idle_neuron[0]) * sub_steps, profile, sub_steps)


def _fewest_chips(search: _Search) -> int:
    return max(1, -(-search.fewest_cores // search.profile.cores_per_chip))


def better(one: Choice, other: Choice, objective: str) -> bool:
    """Whether the first choice is the better one: of two ways to serialise an attention."""
    if objective in ("cores", "tiles"):
        return (one.cores, one.step_ns) < (other.cores, other.step_ns)
    return _score(one, objective) < _score(other, objective)


def _score(choice: Choice, objective: str) -> tuple[float, int, float]:
    """Less is better; then fewer cores, then fewer messages."""
    first = choice.energy_pj if objective == "energy" else choice.step_ns
    return first, choice.cores, choice.messages


def placed(choice: Choice, mapping: Mapping, profile: Profile) -> Choice:
    """What a choice costs once it is placed."""
    link = float(link_ns(latencies(profile, nominal), mapping)[0])
    return replace(with_link(choice, link, profile), link_ns=link, placed=True)


def with_link(choice: Choice, link: float, profile: Profile) -> Choice:
    """What a choice costs where the heaviest link takes `link` ns: it may work for longer than the cores."""
    longer = max(0.0, link - choice.at_once)
    energy = choice.energy_pj + _constant_mw(choice.chips, profile) * longer
    return replace(choice, step_ns=choice.step_ns + longer, energy_pj=energy)


def _best_chips(search: _Search, objective: str) -> Choice:
    """Over growing numbers of chips, until MOST_WORSE in a row are no better.

    More chips shorten a step, and draw more static power.  What they cost jumps with the cuts, so that one number of
    chips that is no better does not end the search.  What the other objectives take is looked at last.
    """
    frontiers = _frontiers(search)
    first = _fewest_chips(search)
    best = None
    worse = 0
    for chips in _ladder(first, int(search.profile.board.chips)):
        picks = _balanced(search, frontiers, chips * search.profile.cores_per_chip)
        choice = _priced(picks, search)
        if best is None or _score(choice, objective) < _score(best, objective):
            best = choice
            worse = 0
        else:
            worse += 1
        if worse == MOST_WORSE:
            break
    assert best is not None
    others = [_priced(picks, search) for picks in (_fewest_cores(search), _tiles(search))]
    on_board = [choice for choice in others if choice.cores <= search.profile.cores]
    return min(best, *on_board, key=lambda choice: _score(choice, objective))


def _ladder(first: int, last: int) -> list[int]:
    """Numbers of chips to try: each one while they are few, then by the factor LADDER."""
    out = []
    chips = first
    while chips <= last:
        out.append(chips)
        chips = max(chips + 1, int(chips * LADDER))
    return out


def _frontiers(search: _Search) -> list[_Frontier]:
    """A frontier for each limit on the neurons that a core sweeps in a sub-step; one for all where there are none."""
    most = max(int(cuts.swept.max()) for cuts in search.sites)
    table = latencies(search.profile, nominal)
    end = barrier_before_placement(table, search.profile, 1) + table.runtime
    # where a visit costs nothing, or as good as nothing, no sweep is long
    brief, visit = SHORT_SWEEP * float(end[0]), float(table.idle_neuron[0])
    short = int(brief / visit) if visit * most > brief else most
    # below it some site has no cut at all
    least = max(short, *(int(cuts.swept.min()) for cuts in search.sites))
    limits = {most}
    while search.sub_steps and most > least:
        most = max(int(most / SWEPT_LADDER), least)
        limits.add(most)
    distinct, alike = search.distinct
    ascending = sorted(limits)
    tables = [_least_works(cuts, ascending) for cuts in distinct]
    out = []
    for number, limit in enumerate(ascending):
        steps: tuple[list[tuple[Float, Int]], list[tuple[Float, Int]]] = [], []
        for cuts, table_of_cuts, count in zip(distinct, tables, alike, strict=True):
            work, changes = table_of_cuts[number]
            steps[cuts.in_turn].append((work, changes * count))
        out.append(_Frontier(limit, _together(steps[False]), _together(steps[True])))
    return out


def _least_works(cuts: Cuts, limits: list[int]) -> list[tuple[Float, Int]]:
    """For each limit on the neurons that are swept what `_least_work` says; limits ascending."""
    order = np.lexsort((cuts.work, cuts.cores))
    swept = cuts.swept[order]
    # most sites are small, and many limits leave them the same cuts
    allowed = np.searchsorted(np.sort(swept), limits, side="right").tolist()
    by_count: dict[int, tuple[Float, Int]] = {}
    for limit, count in zip(limits, allowed, strict=True):
        if count not in by_count:
            by_count[count] = _least_work(cuts, order[swept <= limit])
    return [by_count[count] for count in allowed]


def _least_work(cuts: Cuts, order: Int) -> tuple[Float, Int]:
    """(work ascending, by how many cores the fewest that keep to it change there); order: by cores, then work."""
    work = cuts.work[order]
    least = np.minimum.accumulate(work)
    # where more cores first allow less work; of equals the first has the fewest cores
    first = np.flatnonzero(np.concatenate([least[:1] < np.inf, least[1:] < least[:-1]]))[::-1]
    return work[first], np.diff(cuts.cores[order[first]], prepend=0)


def _together(steps: list[tuple[Float, Int]]) -> tuple[Float, Int]:
    """(limits on the work of a core ascending, the fewest cores of all sites that keep to each)."""
    if not steps:
        return np.zeros(1), np.zeros(1, np.int64)
    work = np.concatenate([times for times, _ in steps])
    order = np.argsort(work, kind="stable")
    limits = work[order]
    cores = np.cumsum(np.concatenate([changes for _, changes in steps])[order])
    # from where every site has a cut; of equal limits the last has all changes
    lawful = (limits >= max(times[0] for times, _ in steps)) & (np.diff(limits, append=np.inf) > 0)
    return limits[lawful], cores[lawful]


def _balanced(search: _Search, frontiers: list[_Frontier], budget: int, slack: float = 1.0) -> Int:
    """The limits with the shortest step that `budget` cores allow, and within them the fewest messages.

    slack  by which cores that work at once may then exceed their limit
    """
    best = np.inf, 0.0, 0.0, 0
    for swept, (at_once, first), (in_turn, second) in frontiers:
        # for each limit on what works in turn, the least on what works at once that leaves cores enough
        least = np.searchsorted(-first, second - budget)
        fits = np.flatnonzero(least < len(first))
        if fits.size:
            work = at_once[least[fits]] + in_turn[fits]
            pick = int(work.argmin())
            limits = float(at_once[least[fits[pick]]]), float(in_turn[fits[pick]])
            best = min(best, (work[pick] + swept * search.idle, *limits, swept))
    _, at_once_limit, in_turn_limit, swept = best
    allowed = [
        (cuts.work <= (in_turn_limit if cuts.in_turn else slack * at_once_limit)) & (cuts.swept <= swept)
        for cuts in search.distinct[0]
    ]
    return _fewest_messages(search, allowed, budget)


def _fewest_messages(search: _Search, allowed: list[NDArray[np.bool_]], budget: int) -> Int:
    """Picks among the allowed cuts: the lowest price of a core, in messages, at which the budget suffices.

    allowed  for each of the distinct cuts (n,): which may be taken; the fewest cores of these must be within the budget
    """
    distinct, alike = search.distinct
    choosable = list(zip(distinct, allowed, strict=True))
    # the fewest cores suffice at any price
    best = [int(np.lexsort((cuts.messages, cuts.cores, ~may))[0]) for cuts, may in choosable]
    messages = [np.where(may, cuts.messages, np.inf) for cuts, may in choosable]
    low = LOWEST_PRICE
    high = max(float(cuts.messages.max()) for cuts in search.sites) + 1.0  # no core saves as many messages
    for _ in range(PRICE_STEPS):
        price = float(np.sqrt(low * high))
        picks = [int((sent + price * cuts.cores).argmin()) for sent, cuts in zip(messages, distinct, strict=True)]
        taken = zip(distinct, picks, alike, strict=True)
        if sum(int(cuts.cores[pick]) * count for cuts, pick, count in taken) <= budget:
            best = picks
            high = price
        else:
            low = price
    pick_of = {id(cuts): pick for cuts, pick in zip(distinct, best, strict=True)}
    return np.array([pick_of[id(cuts)] for cuts in search.sites])


def _fewest_cores(search: _Search) -> Int:
    """The fewest cores of every site; of such cuts the least work of the busiest core, then the fewest messages."""
    distinct, _ = search.distinct
    fewest = [cuts.cores == cuts.cores.min() for cuts in distinct]
    works = [cuts.work + search.idle * cuts.swept for cuts in distinct]
    limit = max(float(work[few].min()) for work, few in zip(works, fewest, strict=True))
    allowed = [few & (work <= limit) for few, work in zip(fewest, works, strict=True)]
    return _fewest_messages(search, allowed, search.fewest_cores)


def _tiles(search: _Search) -> Int:
    """The tile of every site."""
    return np.array([_tile(cuts) for cuts in search.sites])


def _tile(cuts: Cuts) -> int:
    """The widest box of a power of two columns with all channels and rows; else with fewer rows, else channels."""
    channels, rows, columns = cuts.boxes.T
    power_of_two = columns & (columns - 1) == 0
    good = _halved(channels, cuts.shape[0]) & _halved(rows, cuts.shape[1]) & power_of_two
    # the last key of lexsort comes first: good ones, then most channels, then most rows, then most columns
    return int(np.lexsort((-columns, -rows, -channels, ~good))[0])


def _halved(sizes: Int, extent: int) -> NDArray[np.bool_]:
    """Whether each size is `extent` halved some times, rounded up."""
    return np.isin(sizes, -(-extent // 2 ** np.arange(HALVINGS)))


def _priced(picks: Int, search: _Search) -> Choice:
    """What these picks are expected to cost."""
    profile = search.profile
    taken = list(zip(search.sites, picks.tolist(), strict=True))
    cores = search.cores(picks)
    chips = -(-cores // profile.cores_per_chip)
    messages = sum(float(cuts.messages[pick]) for cuts, pick in taken)
    step = _step_ns(taken, chips, search)
    return Choice(
        picks=picks,
        chips=chips,
        cores=cores,
        work=max(float(work[pick]) for work, pick in zip(search.works, picks.tolist(), strict=True)),
        messages=messages,
        synops=max(float(cuts.synops[pick]) for cuts, pick in taken),
        sub_steps=search.sub_steps,
        at_once=_at_once(taken),
        step_ns=step,
        energy_pj=_constant_mw(chips, profile) * step + messages * _message_pj(profile) + _sweeps_pj(taken, search),
    )


def _constant_mw(chips: int, profile: Profile) -> float:
    """Power of a board that is as large as the network needs; mW * ns = pJ."""
    power = profile.power
    return float(chips * (power.static_chip.value + power.static_board.value + power.running_chip.value))


def _at_once(taken: list[tuple[Cuts, int]]) -> float:
    return max((float(cuts.work[pick]) for cuts, pick in taken if not cuts.in_turn), default=0.0)


def _step_ns(taken: list[tuple[Cuts, int]], chips: int, search: _Search) -> float:
    """The closed form of a step, before the cuts are placed: no links, and all tiles of all chips in use."""
    in_turn = max((float(cuts.work[pick]) for cuts, pick in taken if cuts.in_turn), default=0.0)
    table = latencies(search.profile, nominal)
    end = barrier_before_placement(table, search.profile, chips) + table.runtime
    fullest = max(int(cuts.swept[pick]) for cuts, pick in taken)
    return _at_once(taken) + float(end[0] + search.sub_steps * pause_ns(fullest, end, table)[0]) + in_turn


def _sweeps_pj(taken: list[tuple[Cuts, int]], search: _Search) -> float:
    """Energy of the visits of sub-steps, in which all cores sweep their neurons."""
    swept = sum(int(cuts.swept[pick]) * int(cuts.cores[pick]) for cuts, pick in taken)
    return search.sub_steps * swept * search.profile.energy.neuron_idle.value


def _message_pj(profile: Profile) -> float:
    """Energy of a message: it is sent and goes MEAN_HOPS, as many of them along rows as along columns."""
    energy = profile.energy
    hop = (energy.hop_east_west.value + energy.hop_north_south.value) / 2
    return energy.axon_out.value + MEAN_HOPS * hop
