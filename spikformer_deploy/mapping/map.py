"""Network -> Mapping: partition.py cuts populations into boxes, place.py puts them on cores, route.py says what the
messages cost, and chips/loihi (memory.py, rules.py) what a core holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError, MappingError
from spikformer_deploy.chips.loihi.memory import box_words, token_wise
from spikformer_deploy.chips.loihi.rules import first_violation, fits
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.mapping.law import check_neurons, verify_mapping
from spikformer_deploy.mapping.objective import OBJECTIVES, Aim, Choice, better, placed
from spikformer_deploy.mapping.partition import SCHEDULES, SERIALS, partition, sites_of, way_of
from spikformer_deploy.mapping.place import NONE, Constraints, Placer, refined
from spikformer_deploy.mapping.route import Nets, destinations, metrics, nets_of
from spikformer_deploy.mapping.ways import Try, attention_choices, cheaper, cheapest_with_links, expected_choice, tries
from spikformer_deploy.network.mapping import SECTIONS, SITE, Mapping, Site, Way
from spikformer_deploy.network.network import Network

MOST_CUTS = 8
"""Rounds of cutting with room for destinations; what does not fit then is an error."""
MOST_PLACED = 3
"""Cuts that are placed at most, before one is taken: of 9,000 slices some 5 s each."""
Laid: TypeAlias = tuple[Mapping, Choice]

__all__ = [
    "OBJECTIVES",
    "SCHEDULES",
    "Mapping",
    "attention_choices",
    "cheaper",
    "map_explained",
    "map_network",
    "verify_mapping",
]


def map_network(
    network: Network,
    profile: Profile,
    rates: dict[str, float],
    objective: str = "energy",
    placer: Placer = refined,
    constraints: Constraints = NONE,
    schedule: str = "spatial",
) -> Mapping:
    """Lay `network` onto the cores of `profile`.

    rates      messages a neuron and step of each population, from calibration
    objective  what the cut is best in: one of OBJECTIVES
    schedule   one of SCHEDULES
    Raises MappingError, naming the layer and the limit, where it does not fit.
    """
    return map_explained(network, profile, rates, objective, placer, constraints, schedule)[0]


def map_explained(
    network: Network,
    profile: Profile,
    rates: dict[str, float],
    objective: str = "energy",
    placer: Placer = refined,
    constraints: Constraints = NONE,
    schedule: str = "spatial",
) -> tuple[Mapping, dict[str, Any]]:
    """As map_network, and why it is as it is, as plain values: objective, the ways to serialise attentions."""
    check_neurons(network, profile)
    _check_schedule(network, schedule)
    # all attentions of a network work alike: their sub-steps are steps of the whole chip
    ways = attention_choices(network, profile, rates, objective, schedule)
    if ways and all(isinstance(way, MappingError) for way in ways.values()):
        raise _why_none_fits(network, profile, rates, schedule, ways)
    expected = dict(ways)
    if not ways:
        expected[SERIALS[0]] = expected_choice(network, profile, rates, objective, schedule, Way(SERIALS[0]))
    open_tries = tries(network, profile, rates, objective, schedule, expected)

    def laid(tried: Try) -> tuple[Mapping, Choice]:
        return _laid(network, profile, rates, objective, placer, constraints, schedule, tried)

    found, refused = _best_first(open_tries, laid, profile, objective)
    if not found:
        raise next(iter(refused.values()))
    best = next(iter(found))
    for tried, (_, choice) in found.items():
        if better(choice, found[best][1], objective):
            best = tried
    mapping, choice = found[best]
    verify_mapping(mapping, network, profile)
    ways |= {tried.way: error for tried, error in refused.items() if tried.way in ways}
    for tried, (_, one) in found.items():
        before = ways.get(tried.way)
        if isinstance(before, Choice) and not (before.placed and better(before, one, objective)):
            ways[tried.way] = one
    explained: dict[str, Any] = {"objective": objective, "schedule": schedule, "expected": _shown(choice)}
    if ways:
        shown = {name: _shown(way) for name, way in ways.items()}
        explained["attention"] = {"chosen": best.way, **shown}
    return mapping, explained


def _why_none_fits(
    network: Network, profile: Profile, rates: dict[str, float], schedule: str, ways: dict[str, Choice | MappingError]
) -> MappingError:
    """Why no way fits, and whether tokens in series would, which need fewer cores."""
    error = next(way for way in ways.values() if isinstance(way, MappingError))
    if schedule == "spatial" and token_wise(network):
        in_series = attention_choices(network, profile, rates, "cores", "token-serial")
        cores = [choice.cores for choice in in_series.values() if isinstance(choice, Choice)]
        if cores:
            way_out = f"With --schedule token-serial some {min(cores):,} cores would do, in a longer step."
            return MappingError(error.place, error.problem, f"{error.way_out} {way_out}".strip())
    return error


def _best_first(
    open_tries: dict[Try, Choice], laid: Callable[[Try], Laid], profile: Profile, objective: str
) -> tuple[dict[Try, Laid], dict[Try, MappingError]]:
    """(tries on cores, those that find no room): until none of the others is expected to be cheaper, or MOST_PLACED."""
    found: dict[Try, Laid] = {}
    refused: dict[Try, MappingError] = {}
    while open_tries and len(found) < MOST_PLACED:
        choices = {tried: choice for tried, (_, choice) in found.items()}
        tried, expected = cheapest_with_links(open_tries, choices, profile, objective)
        if any(choice.chips == 1 or not better(expected, choice, objective) for choice in choices.values()):
            break
        del open_tries[tried]
        try:
            found[tried] = laid(tried)
        except MappingError as error:
            # destinations took the room that was thought to be there: cuts do not know them
            refused[tried] = error
            open_tries = {other: choice for other, choice in open_tries.items() if other.way != tried.way}
    return found, refused


def _laid(
    network: Network,
    profile: Profile,
    rates: dict[str, float],
    objective: str,
    placer: Placer,
    constraints: Constraints,
    schedule: str,
    tried: Try,
) -> Laid:
    """The network on cores with its attentions in a Way, and what that costs with its links."""
    way = way_of(tried.way)
    assert way is not None
    sites = sites_of(network, profile.core, way.serial, schedule, way.copies)
    boxes, choice, nets, needed = _cut(network, sites, profile, rates, objective, tried.aim)
    cores = placer(len(boxes), nets, profile, constraints)
    chips = len(np.unique(cores // profile.cores_per_chip))
    mapping = Mapping(sites, boxes, cores, needed, chips, profile.cores_per_chip, metrics(nets, cores, profile))
    return mapping, placed(choice, mapping, profile)


def _shown(way: Choice | MappingError) -> dict[str, Any]:
    """What a choice is expected to cost, or why there is none, as plain values for `inspect` and for programs."""
    if isinstance(way, MappingError):
        return {"refused": str(way)}
    return {
        "cores": way.cores,
        "chips": way.chips,
        "messages_per_step": round(way.messages),
        "busiest_core_synaptic_ops": round(way.synops),
        "busiest_core_us": way.work / 1e3,
        "sub_steps": way.sub_steps,
        "step_us": float(way.step_ns) / 1e3,
        "energy_uj": float(way.energy_pj) / 1e6,
        **({"placed": 1} if way.placed else {}),
    }


def _cut(
    network: Network,
    sites: tuple[Site, ...],
    profile: Profile,
    rates: dict[str, float],
    objective: str,
    aim: Aim | None = None,
) -> tuple[Int, Choice, Nets, Int]:
    """(boxes, costs, nets, words).

    The axon memory of a slice is known only when all the sites that it sends to are cut.  Where it exceeds a core, the
    site is cut again with that room kept free.
    """
    axons = SECTIONS.index("axon_mem")
    reserved: dict[str, int] = {}
    for _ in range(MOST_CUTS):
        boxes, choice = partition(network, sites, profile, rates, reserved, objective, aim)
        nets = nets_of(network, sites, boxes, rates)
        needed = box_words(network, sites, boxes, profile.core)
        needed[:, axons] = destinations(nets, len(boxes))
        over = np.flatnonzero(~fits(needed, profile.core))
        if not over.size:
            break
        # room only grows, so that the rounds do not go to and fro between two cuts
        for slice_ in over:
            name = sites[boxes[slice_, SITE]].name
            reserved[name] = max(reserved.get(name, 0), int(needed[slice_, axons]))
    else:
        fullest = needed[over[0]]
        name = sites[boxes[over[0], SITE]].name
        raise MappingError(name, f"a slice breaks a limit of the core: {first_violation(fullest, profile.core)}")
    return boxes, choice, nets, needed


def _check_schedule(network: Network, schedule: str) -> None:
    """Raise InputError for a schedule that is none of SCHEDULES, or that the network cannot have."""
    if schedule not in SCHEDULES:
        raise InputError("--schedule", f"'{schedule}' is none of {', '.join(SCHEDULES)}")
    if schedule == "token-serial" and not token_wise(network):
        problem = "the network has no attention of q, k and v, so there are no tokens that could come in series"
        raise InputError("--schedule", problem, "Use --schedule spatial.")
