"""The ways of the attentions that a network may be mapped in, and which cuts are worth placing.

What a cut is expected to cost knows no links, as it is not placed yet.  Between chips the heaviest link may take longer
than all cores; how long is guessed from the messages, better with every cut that was placed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.draws import nominal
from spikformer_deploy.chips.loihi.latencies import latencies
from spikformer_deploy.chips.profile import Profile
from spikformer_deploy.mapping.objective import LADDER, Aim, Choice, Cuts, better, choose, offers, with_link
from spikformer_deploy.mapping.partition import COPIES, SERIALS, CutsKey, cuts_of, sites_of, way_of
from spikformer_deploy.network.heads import heads_of
from spikformer_deploy.network.mapping import Way
from spikformer_deploy.network.network import Network
from spikformer_deploy.network.synapses import Attention

LINK_SHARE = 0.006
"""Of all messages, those over the heaviest link between chips: of cuts that were placed 0.005 to 0.05.

A guess that is too low costs the time to place a cut in vain, one that is too high a better cut.
"""
STEEPNESS = 2
"""Cuts that send more messages send more of them to other chips: the load of that link grows as this power or more."""
MOST_OFFERING = 2
"""Ways of which cuts with slack are looked at, the cheapest ones."""


class Try(NamedTuple):
    """A cut that may be placed: the name of a Way, and the Aim of a cut that was offered, None for the best."""

    way: str
    aim: Aim | None = None


def attention_choices(
    network: Network, profile: Profile, rates: dict[str, float], objective: str = "energy", schedule: str = "spatial"
) -> dict[str, Choice | MappingError]:
    """What the network is expected to cost with its attentions in each Way that is looked at, by name; {} without any.

    Both serials are, and of each more and more copies of the counters while they gain: copies take cores, and share
    sub-steps.  A MappingError says why one of the ways does not fit.
    """
    out: dict[str, Choice | MappingError] = {}
    known: dict[CutsKey, Cuts] = {}
    attentions = [projection for projection in network.projections if isinstance(projection.synapse, Attention)]
    for serial in SERIALS if attentions else ():
        best = out[serial] = expected_choice(network, profile, rates, objective, schedule, Way(serial), known)
        most = max(heads_of(network, projection).most_copies(serial) for projection in attentions)
        # where cores are what counts, or tokens come one by one whatever the counters do, copies have nothing to give
        useful = schedule == "spatial" and objective in ("energy", "latency")
        for copies in COPIES if useful else ():
            if isinstance(best, MappingError) or copies > most:
                break
            way = Way(serial, copies)
            found = out[way.name] = expected_choice(network, profile, rates, objective, schedule, way, known)
            if isinstance(found, MappingError) or not better(found, best, objective):
                break
            best = found
    return out


def expected_choice(
    network: Network,
    profile: Profile,
    rates: dict[str, float],
    objective: str,
    schedule: str,
    way: Way,
    known: dict[CutsKey, Cuts] | None = None,
) -> Choice | MappingError:
    """What the network costs with its attentions in one way, or why it does not fit; known: as in `cuts_of`."""
    try:
        sites = sites_of(network, profile.core, way.serial, schedule, way.copies)
        choices, sub_steps = cuts_of(network, sites, profile, rates, known=known)
        return choose(choices, profile, objective, sub_steps)
    except MappingError as error:
        return error


def cheaper(choices: Mapping[str, Choice | MappingError], objective: str) -> str:
    """The name of the way that is cheapest by the objective, the first of equals; raises where none fits."""
    fitting = {serial: choice for serial, choice in choices.items() if isinstance(choice, Choice)}
    if choices and not fitting:
        raise next(error for error in choices.values() if isinstance(error, MappingError))
    best = next(iter(fitting), SERIALS[0])
    for serial in fitting:
        if better(fitting[serial], fitting[best], objective):
            best = serial
    return best


def tries(
    network: Network,
    profile: Profile,
    rates: dict[str, float],
    objective: str,
    schedule: str,
    ways: dict[str, Choice | MappingError],
) -> dict[Try, Choice]:
    """The cuts that are worth placing, with what they are expected to cost.

    The cheapest of `ways`, and the cheapest without copies: what copies save in sub-steps, links between chips may
    take.  Where the cheapest takes several chips, also what the cheapest ways offer that sends fewer messages.
    """
    single = {name: choice for name, choice in ways.items() if name in SERIALS}
    first = cheaper(ways, objective)
    out = {}
    for name in (first, cheaper(single, objective)) if single else (first,):
        choice = ways[name]
        assert isinstance(choice, Choice)
        out[Try(name)] = choice
    if objective not in ("energy", "latency") or out[Try(first)].chips == 1:
        return out
    fitting = {name: choice for name, choice in ways.items() if isinstance(choice, Choice)}
    for _ in range(min(MOST_OFFERING, len(fitting))):
        name = cheaper(fitting, objective)
        chips = min(int(fitting.pop(name).chips * LADDER), int(profile.board.chips))
        way = way_of(name)
        assert way is not None
        sites = sites_of(network, profile.core, way.serial, schedule, way.copies)
        choices, sub_steps = cuts_of(network, sites, profile, rates)
        offered = offers(choices, profile, sub_steps, chips)
        out |= {Try(name, aim): choice for aim, choice in offered.items()}
    return out


def cheapest_with_links(
    tries: dict[Try, Choice], placed: dict[Try, Choice], profile: Profile, objective: str
) -> tuple[Try, Choice]:
    """The try that is cheapest with the link that is expected of it, and what it is expected to cost with it."""
    guessed = {}
    for key, choice in tries.items():
        seen = [other for tried, other in placed.items() if tried.way == key.way]
        guessed[key] = with_link(choice, _link_ns(choice, seen, profile), profile)
    best = next(iter(guessed))
    for key in guessed:
        if better(guessed[key], guessed[best], objective):
            best = key
    return best, guessed[best]


def _link_ns(choice: Choice, seen: list[Choice], profile: Profile) -> float:
    """How long the heaviest link is expected to take, from messages; seen: cuts of the same way that were placed."""
    if choice.chips == 1:
        return 0.0
    if not seen:
        return LINK_SHARE * choice.messages * float(latencies(profile, nominal).chip_link[0])
    return min(other.link_ns * (choice.messages / other.messages) ** STEEPNESS for other in seen)
