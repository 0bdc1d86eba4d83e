"""Which cut every site takes, for all sites together, from the cuts that the caps of a core allow.

    energy   (the default) the number of chips, and the cuts on it, with the least expected energy a step
    latency  the number of chips with the shortest expected step
    cores    the fewest cores that the network fits; then the least work of the busiest, then the fewest messages
    tiles    boxes as Intel's compiler cut PilotNet: all channels and rows, columns in powers of two; where such a tile
             does not fit, rows and then channels are halved.  Its 59 cores of convolutions come out one by one.

On a number of chips the limit on a core's time is the smallest for which the cores suffice (bisection); cores that are
left over then go where they save most messages (one price of a core for all sites, by bisection too).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikformer_deploy.base.arrays import Float, Int
from spikformer_deploy.base.errors import InputError
from spikformer_deploy.chips.loihi.steps import barrier_ns
from spikformer_deploy.chips.profile import Profile

OBJECTIVES = ("energy", "latency", "cores", "tiles")
LADDER = 1.2
"""Numbers of chips that are tried grow by this factor."""
MEAN_HOPS = 3.0
"""Hops a message, for the energy of a cut that is not placed yet; published sizes take 2 to 4 once placed."""
PRICE_STEPS = 24
MOST_WORSE = 4
"""So many numbers of chips in a row may be no better than the best before."""


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
    step_ns   by the closed form of timing/estimate.py, without links
    energy_pj static power and messages, which alone depend on the cut
    """

    picks: Int
    chips: int
    cores: int
    work: float
    messages: float
    synops: float
    sub_steps: int
    step_ns: float
    energy_pj: float


def choose(choices: list[Cuts], profile: Profile, objective: str, sub_steps: int) -> Choice:
    """The best choice by `objective`.  The board must hold the fewest cores of every site.

    sub_steps  chip-wide sub-steps in a step: each sweeps the neurons of the fullest core
    """
    idle = profile.time.neuron_idle.value * sub_steps
    works = [c.work + idle * c.swept for c in choices]
    fewest = sum(int(c.cores.min()) for c in choices)
    match objective:
        case "cores":
            return _priced(_fewest_cores(choices, works), choices, works, profile, sub_steps)
        case "tiles":
            return _priced(np.array([_tile(c) for c in choices]), choices, works, profile, sub_steps)
        case "energy" | "latency":
            first = max(1, -(-fewest // profile.cores_per_chip))
            return _best_chips(choices, works, profile, objective, sub_steps, first)
        case _:
            raise InputError("--objective", f"'{objective}' is none of {', '.join(OBJECTIVES)}")


def _best_chips(
    choices: list[Cuts], works: list[Float], profile: Profile, objective: str, sub_steps: int, first: int
) -> Choice:
    """Over growing numbers of chips, until MOST_WORSE in a row are no better."""
    frontiers = [_frontier(c, work) for c, work in zip(choices, works, strict=True)]
    best, worse = None, 0
    for chips in _ladder(first, int(profile.board.chips)):
        picks = _balanced(choices, works, frontiers, chips * profile.cores_per_chip)
        choice = _priced(picks, choices, works, profile, sub_steps)
        if best is None or _score(choice, objective) < _score(best, objective):
            best, worse = choice, 0
        elif (worse := worse + 1) == MOST_WORSE:
            break
    assert best is not None
    return best


def _score(choice: Choice, objective: str) -> tuple[float, int, float]:
    """Less is better; then fewer cores, then fewer messages."""
    return choice.energy_pj if objective == "energy" else choice.step_ns, choice.cores, choice.messages


def better(one: Choice, other: Choice, objective: str) -> bool:
    """Whether the first choice is the better one: of two ways to serialise an attention."""
    if objective in ("cores", "tiles"):
        return (one.cores, one.step_ns) < (other.cores, other.step_ns)
    return _score(one, objective) < _score(other, objective)


def _ladder(first: int, last: int) -> list[int]:
    chips, out = first, []
    while chips <= last:
        out.append(chips)
        chips = max(chips + 1, int(chips * LADDER))
    return out


def _frontier(cuts: Cuts, work: Float) -> tuple[Int, Float]:
    """(cores ascending, least time of a core with so many cores or fewer), one of each time."""
    order = np.lexsort((work, cuts.cores))
    least, first = np.unique(-np.minimum.accumulate(work[order]), return_index=True)
    return cuts.cores[order][first], -least


def _balanced(choices: list[Cuts], works: list[Float], frontiers: list[tuple[Int, Float]], budget: int) -> Int:
    """The least limit on the time of a core that `budget` cores allow, and below it the fewest messages."""
    limits = np.unique(np.concatenate([least for _, least in frontiers]))

    def needed(limit: float) -> float:
        """Cores where every site takes the fewest whose time stays below the limit."""
        firsts = [int(np.searchsorted(-least, -limit)) for _, least in frontiers]
        return sum(cores[i] if i < len(cores) else np.inf for (cores, _), i in zip(frontiers, firsts, strict=True))

    low, high = 0, len(limits) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if needed(limits[middle]) <= budget else (middle + 1, high)
    return _fewest_messages(choices, [work <= limits[low] for work in works], budget)


def _fewest_messages(choices: list[Cuts], allowed: list[NDArray[np.bool_]], budget: int) -> Int:
    """Picks among the allowed cuts: the lowest price of a core, in messages, at which the budget suffices."""

    def at(price: float) -> Int:
        costs = (np.where(ok, c.messages + price * c.cores, np.inf) for c, ok in zip(choices, allowed, strict=True))
        return np.array([cost.argmin() for cost in costs])

    def total(picks: Int) -> int:
        return sum(int(c.cores[i]) for c, i in zip(choices, picks, strict=True))

    low, high = 1e-3, max(float(c.messages.max()) for c in choices) + 1.0
    # the fewest cores suffice at any price
    best = np.array([np.lexsort((c.messages, c.cores, ~ok))[0] for c, ok in zip(choices, allowed, strict=True)])
    for _ in range(PRICE_STEPS):
        price = float(np.sqrt(low * high))
        picks = at(price)
        if total(picks) <= budget:
            best, high = picks, price
        else:
            low = price
    return best


def _fewest_cores(choices: list[Cuts], works: list[Float]) -> Int:
    fewest = [c.cores == c.cores.min() for c in choices]
    limit = max(float(work[few].min()) for work, few in zip(works, fewest, strict=True))
    allowed = [few & (work <= limit) for few, work in zip(fewest, works, strict=True)]
    return _fewest_messages(choices, allowed, sum(int(c.cores.min()) for c in choices))


def _tile(cuts: Cuts) -> int:
    """The widest box of a power of two columns with all channels and rows; else with fewer rows, else channels."""
    channels, rows, columns = cuts.boxes.T
    halved = [
        np.isin(size, -(-extent // 2 ** np.arange(16)))
        for size, extent in zip((channels, rows), cuts.shape[:2], strict=True)
    ]
    good = halved[0] & halved[1] & (columns & (columns - 1) == 0)
    return int(np.lexsort((-columns, -rows, -channels, ~good))[0])


def _priced(picks: Int, choices: list[Cuts], works: list[Float], profile: Profile, sub_steps: int) -> Choice:
    taken = list(zip(choices, works, picks.tolist(), strict=True))
    cores = sum(int(c.cores[i]) for c, _, i in taken)
    work = max(float(w[i]) for _, w, i in taken)
    messages = sum(float(c.messages[i]) for c, _, i in taken)
    synops = max(float(c.synops[i]) for c, _, i in taken)
    chips = -(-cores // profile.cores_per_chip)
    at_once, in_turn = (
        max((float(c.work[i]) for c, _, i in taken if c.in_turn == t), default=0.0) for t in (False, True)
    )
    sweep = profile.time.neuron_idle.value * max(int(c.swept[i]) for c, _, i in taken)
    barrier = barrier_ns(chips, profile)
    step = at_once + barrier + sub_steps * (sweep + barrier) + in_turn
    static = chips * (profile.power.static_chip.value + profile.power.static_board.value)  # mW * ns = pJ
    energy = profile.energy
    hop = (energy.hop_east_west.value + energy.hop_north_south.value) / 2
    moved = messages * (energy.spike_out.value + MEAN_HOPS * hop)
    return Choice(picks, chips, cores, work, messages, synops, sub_steps, step, static * step + moved)
