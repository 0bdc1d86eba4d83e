"""What each objective promises, and that what a cut is expected to cost is what it costs."""

from dataclasses import replace
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.networks import random_network
from support.profiles import smaller

from spikformer_deploy.base.errors import InputError, MappingError
from spikformer_deploy.chips.profile import load_profile
from spikformer_deploy.mapping.map import _best_first, attention_choices, cheaper, map_network
from spikformer_deploy.mapping.objective import OBJECTIVES, Aim, Choice, Cuts, choose, offers, with_link
from spikformer_deploy.mapping.partition import SERIALS, cuts, cuts_of, partition, sites_of
from spikformer_deploy.mapping.route import nets_of
from spikformer_deploy.mapping.ways import Try, cheapest_with_links
from spikformer_deploy.network.network import Network

NETWORKS = st.builds(random_network, st.integers(0, 10**6), blocks=st.integers(0, 2), shortcuts=st.booleans())
MACHINES = st.builds(smaller, st.integers(600, 2000), st.integers(30, 300), st.integers(400, 900))


def some_rates(network: Network, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {p.name: float(rng.random()) for p in network}


@settings(deadline=None, max_examples=25)
@given(NETWORKS, MACHINES, st.integers(0, 99), st.sampled_from(SERIALS), st.sampled_from((1, 3)))
@example(random_network(0, blocks=2, shortcuts=False), smaller(600, 30, 400), 0, "tokens", 1)
def test_every_objective_is_best_in_what_it_is_for(network, profile, seed, serial, copies) -> None:
    sites, rates = sites_of(network, profile.core, serial, copies=copies), some_rates(network, seed)
    best = {name: partition(network, sites, profile, rates, None, name)[1] for name in OBJECTIVES}
    assert best["cores"].cores == min(choice.cores for choice in best.values())
    assert best["cores"].cores == sum(cuts(network, s, profile, rates, 0, serial).cores.min() for s in sites)
    fewest = best["cores"].chips
    for choice in best.values():
        assert choice.chips == -(-choice.cores // profile.cores_per_chip)
        if choice.chips == fewest:
            assert best["latency"].step_ns <= choice.step_ns
            assert best["energy"].energy_pj <= best["latency"].energy_pj


@pytest.mark.long
@settings(deadline=None, max_examples=25)
@given(
    NETWORKS, MACHINES, st.integers(0, 99), st.sampled_from(SERIALS), st.sampled_from(OBJECTIVES),
    st.sampled_from((1, 2, 4)),
)  # fmt: skip
@example(random_network(67191, blocks=1, shortcuts=False), smaller(600, 30, 400), 14, "tokens", "energy", 1)
@example(random_network(67191, blocks=1, shortcuts=False), smaller(600, 30, 400), 14, "channels", "latency", 4)
def test_expected_messages_bound_those_of_the_nets(network, profile, seed, serial, objective, copies) -> None:
    """The largest box of a grid stands for all: borders and smaller boxes receive fewer, and later copies no more."""
    sites, rates = sites_of(network, profile.core, serial, copies=copies), some_rates(network, seed)
    boxes, choice = partition(network, sites, profile, rates, None, objective)
    nets = nets_of(network, sites, boxes, rates)
    assert nets.messages.sum() <= choice.messages * (1 + 1e-9)


def test_expected_work_follows_the_rates() -> None:
    network, profile = random_network(2, blocks=1), smaller(2000, 300, 900)
    site = next(s for s in sites_of(network, profile.core) if s.name.endswith("proj_lif"))
    found = cuts(network, site, profile, {})
    assert (found.work > 0).all()
    quiet = cuts(network, site, profile, {p.name: 0.01 for p in network})
    assert (quiet.work <= found.work).all()
    np.testing.assert_allclose(quiet.messages, 0.01 * found.messages)


@pytest.mark.long
def test_a_narrow_head_takes_its_channels_in_series() -> None:
    """Sub-steps rule the time: 2 d of them where tokens are many and heads narrow, 2 N in the other case."""
    profile = smaller(4000, 1000, 3000)
    for seed in range(20):
        network = random_network(seed, blocks=1)
        rates = {p.name: 0.1 for p in network}
        ways = attention_choices(network, profile, rates, "latency")
        steps = {serial: way.step_ns for serial, way in ways.items() if isinstance(way, Choice)}
        assert steps[cheaper(ways, "latency")] == min(steps.values())
        alone = {serial: ways[serial] for serial in SERIALS}
        fewer = min(alone, key=lambda serial: alone[serial].sub_steps)
        assert cheaper(alone, "latency") == fewer or len({w.sub_steps for w in alone.values()}) == 1


def test_the_way_that_fits_is_taken() -> None:
    error = MappingError("attention", "too big")
    choice = Choice(np.zeros(1, np.int64), 1, 1, 1.0, 1.0, 1.0, 2, 1.0, 1.0, 1.0)
    assert cheaper({"tokens": error, "channels": choice}, "energy") == "channels"
    with pytest.raises(MappingError, match="too big"):
        cheaper({"tokens": error, "channels": error}, "energy")


def test_an_unknown_objective_is_an_error() -> None:
    network, profile = random_network(0), smaller(2000, 300, 900)
    with pytest.raises(InputError, match="'speed' is none of energy, latency, cores, tiles"):
        partition(network, sites_of(network, profile.core), profile, {}, None, "speed")


@pytest.mark.long
@settings(deadline=None, max_examples=15)
@given(NETWORKS, MACHINES, st.integers(0, 99))
@example(random_network(0, blocks=2, shortcuts=False), smaller(600, 64, 400), 52)
def test_offers_send_fewer_messages_and_are_made_as_offered(network, profile, seed) -> None:
    """Each longer than the least that its chips allow, none above their cores; an Aim gives the very same cut.

    One may be shorter after all where it happens to take fewer chips, or fewer neurons of a core: limits on these are
    tried in steps.
    """
    sites, rates = sites_of(network, profile.core), some_rates(network, seed)
    choices, sub_steps = cuts_of(network, sites, profile, rates)
    best = partition(network, sites, profile, rates, None, "latency")[1]
    offered = offers(choices, profile, sub_steps, best.chips)
    for aim, choice in offered.items():
        assert choice.chips <= aim.chips <= best.chips
        least = choose(choices, profile, "latency", sub_steps, Aim(aim.chips, 1.0))
        fewer_swept = fullest(choices, choice) < fullest(choices, least)
        assert choice.step_ns >= least.step_ns or fewer_swept or choice.chips < least.chips
        fewer = [other.messages for other_aim, other in offered.items() if other_aim.chips == aim.chips]
        assert fewer == sorted(set(fewer), reverse=True)
        boxes, again = partition(network, sites, profile, rates, None, "latency", aim)
        assert len(boxes) == choice.cores
        assert again.picks.tolist() == choice.picks.tolist()


def fullest(choices: list[Cuts], choice: Choice) -> int:
    """Neurons that the fullest core sweeps in a sub-step."""
    return max(int(cuts.swept[pick]) for cuts, pick in zip(choices, choice.picks, strict=True))


def a_choice(chips: int, messages: float, at_once: float, step: float) -> Choice:
    return Choice(np.zeros(1, np.int64), chips, 1, 1.0, messages, 1.0, 2, at_once, step, step)


def test_the_next_cut_to_place_is_the_cheapest_with_the_link_that_is_expected() -> None:
    profile = load_profile("kapoho_point")
    fast, slim, one_chip = Try("tokens"), Try("tokens", Aim(4, 2.0)), Try("channels")
    open_tries = {fast: a_choice(4, 1e6, 100.0, 200.0), slim: a_choice(4, 0.5e6, 150.0, 250.0)}
    # of a million messages at 4 ns, 0.6 % pass the heaviest link
    tried, expected = cheapest_with_links(open_tries, {}, profile, "latency")
    assert (tried, expected.step_ns) == (slim, pytest.approx(250.0 + 12_000.0 - 150.0))
    # what was placed says more: half of the messages, a quarter of its time
    placed = {Try("tokens", Aim(4, 1.5)): replace(a_choice(4, 1e6, 100.0, 200.0), link_ns=1600.0, placed=True)}
    tried, expected = cheapest_with_links(open_tries, placed, profile, "latency")
    assert (tried, expected.step_ns) == (slim, pytest.approx(250.0 + 400.0 - 150.0))
    # one chip has no such links
    tried, expected = cheapest_with_links(
        open_tries | {one_chip: a_choice(1, 1e9, 1.0, 240.0)}, placed, profile, "latency"
    )
    assert (tried, expected.step_ns) == (one_chip, 240.0)


def test_cuts_are_placed_best_first_until_no_other_is_expected_to_be_cheaper() -> None:
    """Where a link is worse than guessed, or a cut finds no room, the next is placed; a better link ends it."""
    profile = load_profile("kapoho_point")
    links = {"a": 90_000.0, "b": 20_000.0, "c": 20_000.0}
    choices = {
        Try(name): a_choice(4, 1e6, 100.0, step) for name, step in zip("xabc", (1.0, 2.0, 3.0, 4.0), strict=True)
    }
    order: list[str] = []

    def laid(tried: Try) -> tuple[Any, Choice]:
        order.append(tried.way)
        if tried.way == "x":
            raise MappingError("x", "there is no room")
        choice = with_link(choices[tried], links[tried.way], profile)
        return None, replace(choice, link_ns=links[tried.way], placed=True)

    found, refused = _best_first(dict(choices), laid, profile, "latency")
    # of a million messages 24 us are guessed: with 20 us for b nothing is left that c could be better in
    assert order == ["x", "a", "b"]
    assert list(refused) == [Try("x")]
    assert [tried.way for tried in found] == ["a", "b"]


@pytest.mark.parametrize("value", [0.0, 1e-300])
@pytest.mark.parametrize("every", [False, True])
def test_targets_whose_visits_cost_nothing_are_mapped(value: float, every: bool) -> None:
    profile = load_profile("loihi2")
    free = {
        name: attrs.evolve(number, value=value, range=None)
        for name, number in attrs.asdict(profile.time, recurse=False).items()
        if name == "neuron_idle" or (every and number.unit == "ns")
    }
    profile = attrs.evolve(profile, time=attrs.evolve(profile.time, **free))
    network = random_network(4, blocks=1)
    assert map_network(network, profile, {}).cores_used <= profile.cores
