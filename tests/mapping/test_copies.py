"""Copies of attention counters: when they are taken, what they cost in cores, and files that claim others."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.deep import some
from support.networks import Builder, graded_network, random_network

from spikformer_deploy.base.errors import MappingError
from spikformer_deploy.chips.profile import Profile, from_dict, load_profile, to_dict
from spikformer_deploy.mapping.map import attention_choices, cheaper, map_explained, map_network, verify_mapping
from spikformer_deploy.mapping.objective import Choice, with_link
from spikformer_deploy.mapping.partition import COPIES, SERIALS, check_answers, sites_of, way_of
from spikformer_deploy.mapping.place import refined
from spikformer_deploy.mapping.ways import tries
from spikformer_deploy.network.heads import heads_into
from spikformer_deploy.network.mapping import Mapping, Site

KAPOHO_POINT = load_profile("kapoho_point")
NETWORK = random_network(3, blocks=1)
GOOD = map_network(NETWORK, KAPOHO_POINT, {}, "latency")
COUNTERS = [index for index, site in enumerate(GOOD.sites) if site.kind == "attention"]


def with_sites(**changes: object) -> Mapping:
    """The same with something else said of the second copy."""
    sites = list(GOOD.sites)
    sites[COUNTERS[1]] = replace(sites[COUNTERS[1]], **changes)
    return replace(GOOD, sites=tuple(sites))


BROKEN = {
    "another number": with_sites(copy=0),
    "no such copy": with_sites(copy=99),
    "fewer copies": with_sites(copies=1),
    "more copies than turns": with_sites(copies=10**9),
    "no copies": with_sites(copies=0),
    "a negative copy": with_sites(copy=-1),
    "fewer sub-steps": with_sites(sub_steps=1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_copy_that_is_none_is_found(name: str) -> None:
    verify_mapping(GOOD, NETWORK, KAPOHO_POINT)
    with pytest.raises(MappingError, match="its sites are not those of the network in any schedule"):
        verify_mapping(BROKEN[name], NETWORK, KAPOHO_POINT)


def test_copies_are_taken_where_they_gain() -> None:
    """Sub-steps are few with them, a step is shorter; and who asks for the fewest cores gets none."""
    rates = {p.name: 0.1 for p in NETWORK}
    ways = attention_choices(NETWORK, KAPOHO_POINT, rates, "latency")
    fitting = {way_of(name): way for name, way in ways.items() if isinstance(way, Choice)}
    for (serial, copies), way in fitting.items():
        alone = fitting[serial, 1]
        if copies == 2:
            assert way.sub_steps < alone.sub_steps
            assert way.step_ns < alone.step_ns
            assert way.cores >= alone.cores or way.chips == alone.chips
    assert {copies for _, copies in fitting} >= {1, 2}
    for objective in ("cores", "tiles"):
        assert set(attention_choices(NETWORK, KAPOHO_POINT, rates, objective)) == {"tokens", "channels"}
    assert set(attention_choices(NETWORK, KAPOHO_POINT, rates, "latency", "token-serial")) == {"tokens", "channels"}


def slow_links_between_small_chips() -> Profile:
    raw = to_dict(KAPOHO_POINT)
    raw["time"]["chip_link_rate"] |= {"value": 1e-4, "range": None}
    raw["chip"]["tiles_x"] |= {"value": 1.0}
    raw["chip"]["tiles_y"] |= {"value": 1.0}
    raw["chip"]["reserved_cores"] |= {"value": 0.0}
    return from_dict(raw)


@pytest.mark.parametrize(("seed", "copies"), some([(3, True)], long=[(6, False), (9, True)]))
def test_links_between_chips_have_a_say(seed: int, copies: bool) -> None:
    """What looks cheapest is placed, one cut after the other; what its links make cheapest is taken."""
    profile = slow_links_between_small_chips()
    network = random_network(seed, blocks=1)
    before = attention_choices(network, profile, {}, "latency")
    mapping, explained = map_explained(network, profile, {}, "latency")
    ways = explained["attention"]
    chosen = ways["chosen"]
    assert (way_of(chosen).copies > 1) == copies
    assert way_of(cheaper(before, "latency")).copies > 1
    alone = cheaper({name: before[name] for name in SERIALS}, "latency")
    assert ways[chosen]["step_us"] <= ways[alone]["step_us"]
    # cores and links work side by side, and sub-steps after them
    link_ns = mapping.metrics["max_chip_link_load"] / 1e-4
    offered = tries(network, profile, {}, "latency", "spatial", before)
    steps = [with_link(choice, link_ns, profile).step_ns for tried, choice in offered.items() if tried.way == chosen]
    assert any(ways[chosen]["step_us"] == pytest.approx(step / 1e3) for step in steps)


def test_a_network_whose_copies_find_no_room_is_mapped_without() -> None:
    """Cuts are priced before it is known where messages go: what fits then may not fit in the end."""
    tried: list[int] = []

    def crowded(slices: int, *rest: Any) -> np.ndarray:
        tried.append(slices)
        if len(tried) == 1:
            raise MappingError("counters", "there is no room")
        return refined(slices, *rest)

    mapping, explained = map_explained(NETWORK, KAPOHO_POINT, {}, "latency", crowded)
    ways = explained["attention"]
    assert max(site.copies for site in GOOD.sites) > 1
    assert max(site.copies for site in mapping.sites) == 1
    assert ways["chosen"] in SERIALS
    assert [name for name, way in ways.items() if "refused" in way] == ["channels x 4"]
    assert explained["expected"] == ways[ways["chosen"]]
    verify_mapping(mapping, NETWORK, KAPOHO_POINT)

    def full(slices: int, *rest: Any) -> np.ndarray:
        raise MappingError("counters", "there is no room")

    with pytest.raises(MappingError, match="there is no room"):
        map_network(NETWORK, KAPOHO_POINT, {}, "latency", full)


def test_sums_that_leave_no_room_in_an_input_have_no_copies() -> None:
    """Of small integers, operands take most bits of an input: a sum that has none left is refused by name."""
    network = graded_network(0, 1)
    (site,) = (s for s in sites_of(network, KAPOHO_POINT.core, "tokens") if s.kind == "attention")
    check_answers(network, site, KAPOHO_POINT)
    raw = to_dict(KAPOHO_POINT)
    raw["core"]["state_bits"] |= {"value": 12.0, "range": None}
    narrow = from_dict(raw)
    with pytest.raises(MappingError, match=r"copies of its counters take \d+ bits of an input"):
        check_answers(network, replace(site, copies=2), narrow)


@pytest.mark.parametrize("serial", SERIALS)
def test_every_copy_has_a_turn(serial: str) -> None:
    """Of 4 copies that share 9 tokens the last would have none: three take no more sub-steps, and fewer cores."""
    for seed in range(40):
        network = random_network(seed)
        heads = heads_into(network, "block.0.attn.attn_lif")
        for copies in (1, *COPIES):
            sites = [site for site in sites_of(network, KAPOHO_POINT.core, serial, copies=copies) if site.serial]
            shares = np.array([heads.shares(serial, site.copy, site.copies) for site in sites])
            busy = (shares[:, :, 0] < shares[:, :, 1]).any(1)
            assert busy.all(), (seed, copies)
            assert sites[0].sub_steps == heads.sub_steps(serial, min(copies, heads.most_copies(serial)))


def test_more_copies_than_are_tried_are_refused() -> None:
    """However many turns there are, so that the law looks at no more of them."""
    b = Builder(np.random.default_rng(0), 1, "programmable")
    source = b.source((2, 9, 9), 1, True)
    qkv = [b.conv(name, source, 2, 1) for name in "qkv"]
    network = b.finish(b.attention("attention", qkv, 1), 2)
    mapping = map_network(network, KAPOHO_POINT, {})
    sites = sites_of(network, KAPOHO_POINT.core, copies=81)
    assert sum(site.copies == 81 for site in sites) == 81
    boxes = np.array([(index, *(n for extent in site.shape for n in (0, extent))) for index, site in enumerate(sites)])
    rows = range(len(boxes))
    of = np.zeros(len(boxes), np.int64)
    many = replace(mapping, sites=sites, boxes=boxes, cores=np.array(rows), words=mapping.words[of])
    with pytest.raises(MappingError, match="its sites are not those of the network in any schedule"):
        verify_mapping(many, network, KAPOHO_POINT)


def test_ways_have_names() -> None:
    assert way_of("tokens") == ("tokens", 1)
    assert way_of("channels x 4") == ("channels", 4)
    assert way_of("channels x 5") is None


def test_exchanged_messages_by_hand() -> None:
    """Three copies of 2 x 3 x 4 counters: columns 0 and 3 have their home in copy 0, 1 in copy 1 and 2 in copy 2."""
    sites = tuple(Site(f"c{g}", "attention", "a", (2, 3, 4), "tokens", 9, (0, 0), g, 3) for g in range(3))
    boxes = np.array([[0, 0, 2, 0, 3, 0, 4], [1, 0, 2, 0, 3, 0, 4], [2, 0, 1, 0, 3, 0, 2], [2, 0, 1, 0, 3, 2, 4]])
    mapping = Mapping(sites, boxes, np.arange(4), np.zeros((4, 6), np.int64), 1, 4, {})
    # a column at home sends to both others, one away from home to one
    assert mapping.exchanged.tolist() == [6 * (2 * 2 + 2), 6 * (2 + 3), 3 * 2, 3 * (2 + 1)]
