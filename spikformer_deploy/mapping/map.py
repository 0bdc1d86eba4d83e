"""Network -> Mapping: partition.py cuts populations into boxes, place.py puts them on cores, route.py says what the
messages cost, and chips/loihi (memory.py, rules.py) what a core holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from spikformer_deploy.base.arrays import Int
from spikformer_deploy.base.errors import InputError, MappingError
from spikformer_deploy.chips.loihi.memory import box_words, token_wise
from spikformer_deploy.chips.loihi.rules import fits
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.mapping.law import check_neurons, verify_mapping
from spikformer_deploy.mapping.objective import OBJECTIVES, Choice, better, placed
from spikformer_deploy.mapping.partition import COPIES, SCHEDULES, SERIALS, Way, partition, sites_of, way_of
from spikformer_deploy.mapping.place import NONE, Constraints, Placer, refined
from spikformer_deploy.mapping.route import Nets, destinations, metrics, nets_of
from spikformer_deploy.network.heads import heads_of
from spikformer_deploy.network.mapping import SECTIONS, SITE, Mapping, Site
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Attention

MOST_CUTS = 8
"""Rounds of cutting with room for destinations; what does not fit then is an error."""

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
    single = {name: way for name, way in ways.items() if name in SERIALS}
    found: dict[str, tuple[Mapping, Choice]] = {}
    # what copies save in sub-steps, links between chips may take, and destinations the room that was thought to be
    # there: cuts know neither, so that the best way without copies is looked at as well
    for name in dict.fromkeys((cheaper(ways, objective), cheaper(single, objective))):
        if any(mapping.chips == 1 for mapping, _ in found.values()):
            break
        try:
            found[name] = _laid(network, profile, rates, objective, placer, constraints, schedule, name)
        except MappingError as error:
            refused = ways[name] = error
    if not found:
        raise refused
    ways |= {name: choice for name, (_, choice) in found.items() if name in ways}
    chosen = cheaper({name: choice for name, (_, choice) in found.items()}, objective)
    mapping, choice = found[chosen]
    explained: dict[str, Any] = {"objective": objective, "schedule": schedule, "expected": _shown(choice)}
    if ways:
        shown = {name: _shown(way) for name, way in ways.items()}
        explained["attention"] = {"chosen": chosen, **shown}
    return mapping, explained


def _laid(
    network: Network,
    profile: Profile,
    rates: dict[str, float],
    objective: str,
    placer: Placer,
    constraints: Constraints,
    schedule: str,
    name: str,
) -> tuple[Mapping, Choice]:
    """The network on cores with its attentions in the Way of that name, and what that costs with its links."""
    way = way_of(name)
    assert way is not None
    sites = sites_of(network, profile.core, way.serial, schedule, way.copies)
    boxes, choice, nets, needed = _cut(network, sites, profile, rates, objective)
    cores = placer(len(boxes), nets, profile, constraints)
    chips = len(np.unique(cores // profile.cores_per_chip))
    mapping = Mapping(sites, boxes, cores, needed, chips, profile.cores_per_chip, metrics(nets, cores, profile))
    verify_mapping(mapping, network, profile)
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


def attention_choices(
    network: Network, profile: Profile, rates: dict[str, float], objective: str = "energy", schedule: str = "spatial"
) -> dict[str, Choice | MappingError]:
    """What the network is expected to cost with its attentions in each Way that is looked at, by name; {} without any.

    Both serials are, and of each more and more copies of the counters while they gain: copies take cores, and share
    sub-steps.  A MappingError says why one of the ways does not fit.
    """
    out: dict[str, Choice | MappingError] = {}
    attentions = [projection for projection in network.projections if isinstance(projection.synapse, Attention)]
    for serial in SERIALS if attentions else ():
        best = out[serial] = _expected(network, profile, rates, objective, schedule, Way(serial))
        most = max(heads_of(network, projection).most_copies(serial) for projection in attentions)
        # where cores are what counts, or tokens come one by one whatever the counters do, copies have nothing to give
        useful = schedule == "spatial" and objective in ("energy", "latency")
        for copies in COPIES if useful else ():
            if isinstance(best, MappingError) or copies > most:
                break
            way = Way(serial, copies)
            found = out[way.name] = _expected(network, profile, rates, objective, schedule, way)
            if isinstance(found, MappingError) or not better(found, best, objective):
                break
            best = found
    return out


def _expected(
    network: Network, profile: Profile, rates: dict[str, float], objective: str, schedule: str, way: Way
) -> Choice | MappingError:
    """What the network costs with its attentions in one way, or why it does not fit."""
    try:
        sites = sites_of(network, profile.core, way.serial, schedule, way.copies)
        return partition(network, sites, profile, rates, None, objective)[1]
    except MappingError as error:
        return error


def cheaper(choices: dict[str, Choice | MappingError], objective: str) -> str:
    """The name of the way that is cheapest by the objective, the first of equals; raises where none fits."""
    fitting = {serial: choice for serial, choice in choices.items() if isinstance(choice, Choice)}
    if choices and not fitting:
        raise next(error for error in choices.values() if isinstance(error, MappingError))
    best = next(iter(fitting), SERIALS[0])
    for serial in fitting:
        if better(fitting[serial], fitting[best], objective):
            best = serial
    return best


def _cut(
    network: Network, sites: tuple[Site, ...], profile: Profile, rates: dict[str, float], objective: str
) -> tuple[Int, Choice, Nets, Int]:
    """(boxes, costs, nets, words).

    The axon memory of a slice is known only when all the sites that it sends to are cut.  Where it exceeds a core, the
    site is cut again with that room kept free.
    """
    axons = SECTIONS.index("axon_mem")
    reserved: dict[str, int] = {}
    for _ in range(MOST_CUTS):
        boxes, choice = partition(network, sites, profile, rates, reserved, objective)
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
    return boxes, choice, nets, needed


def _check_schedule(network: Network, schedule: str) -> None:
    """Raise InputError for a schedule that is none of SCHEDULES, or that the network cannot have."""
    if schedule not in SCHEDULES:
        raise InputError("--schedule", f"'{schedule}' is none of {', '.join(SCHEDULES)}")
    if schedule == "token-serial" and not token_wise(network):
        problem = "the network has no attention of q, k and v, so there are no tokens that could come in series"
        raise InputError("--schedule", problem, "Use --schedule spatial.")
